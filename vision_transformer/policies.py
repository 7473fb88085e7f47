"""Augmentation policies: which operations a picture gets and how strong each is, drawn anew for every picture.

    rand     RandAugment: n operations one after the other, all of one strength. Cubuk et al., arXiv 1909.13719
    trivial  TrivialAugment: one operation, of any strength. Müller and Hutter, arXiv 2103.10158, its wide ranges

Both choose evenly among the same 14, and the pictures are dealt out to the operations, so that each works on its own
ones only. Letters: B batch, H height, W width, C channels, n operations.
"""
from __future__ import annotations

import math
import numbers
from typing import Callable, NamedTuple

import tensorflow as tf

from .chance import draw
from .colours import autocontrast, blend, equalize, greys, posterize, smooth, solarize
from .moves import rotation_matrices, shear_matrices, transform, transform_aligned, translation_matrices

STRENGTHS = 30                  # a strength is a whole number from 0 (hardly any change) to this
MOST_OPERATIONS = 14            # of RandAugment; its paper tried up to 3

OPERATIONS = ("identity", "autocontrast", "equalize", "rotate", "solarize", "color", "posterize", "contrast",
              "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y")


class Ranges(NamedTuple):
    """How far each operation goes at the full strength; solarize always inverts everything then."""

    rotation: float                             # degrees
    shear: float                                # tangent of the angle
    translation: Callable[[int], float]         # side of the picture, pixels -> pixels
    enhancement: float                          # color's, contrast's, brightness's, sharpness's factor is 1 +- this
    posterization: int                          # bits taken from 8


POLICIES = {
    "rand": Ranges(30.0, 0.3, lambda side: side * 150 / 331, 0.9, 4),
    "trivial": Ranges(135.0, 0.99, lambda side: min(32, side), 0.99, 6),
}


def check_policy(policy: str, operations: int, strength: int) -> None:
    """Raises ValueError for a policy that doesn't exist, or numbers that RandAugment can't have."""
    if policy not in ("", *POLICIES):
        raise ValueError(f'POLICY {policy!r} is unknown; choose {", ".join(POLICIES)} or "" for none.')
    for name, number, least, most in (("POLICY_OPERATIONS", operations, 1, MOST_OPERATIONS),
                                      ("POLICY_STRENGTH", strength, 0, STRENGTHS)):
        whole = isinstance(number, numbers.Integral) and not isinstance(number, bool)
        if not whole or not least <= number <= most:
            raise ValueError(f"{name} {number!r} is not a whole number from {least} to {most}; choose one.")


def random_policy(
    images: tf.Tensor, seed: tf.Tensor, policy: str, operations: int, strength: int, fill_mode: str,
    first_plain_step: int | None = None
) -> tf.Tensor:
    """Pictures (B, H, W, C) in 0..255 and seed (2,) -> the same, each changed its own way by the policy.

    first_plain_step: from this step of seeds (run seed, step) on, the policy is left out; None: it never is.
    """
    kernels = make_kernels(policy, *images.shape[1:3], fill_mode)
    for chosen, strengths in draw_policy(seed, tf.shape(images)[0], policy, operations, strength):
        if first_plain_step is not None:
            chosen = tf.where(seed[1] < first_plain_step, chosen, OPERATIONS.index("identity"))
        images = deal(images, chosen, strengths, [kernels[name] for name in OPERATIONS])
    return images


def draw_policy(seed, pictures, policy: str, operations: int, strength: int) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Seed (2,) and a number of pictures B -> n numbers of operations, int32 (B,), with strengths in -1..1, (B,).

    A strength's sign is its direction, each as likely; operations that have only one leave it out of account.
    """
    shape = (1 if policy == "trivial" else operations, pictures)
    chosen = draw(seed, shape, "policy_operation", 0, len(OPERATIONS), tf.int32)
    if policy == "trivial":
        strength = tf.cast(draw(seed, shape, "policy_strength", 0, STRENGTHS + 1, tf.int32), tf.float32)
    strengths = tf.where(draw(seed, shape, "policy_sign") < 0.5, -1.0, 1.0) * strength / STRENGTHS
    return list(zip(tf.unstack(chosen), tf.unstack(strengths)))


def deal(images: tf.Tensor, chosen: tf.Tensor, strengths: tf.Tensor, operations: list) -> tf.Tensor:
    """Pictures (B, H, W, C) -> the same, each changed by the operation of its number (B,), in its strength (B,)."""
    parts = [tf.dynamic_partition(each, chosen, len(operations))
             for each in (images, strengths, tf.range(tf.shape(images)[0]))]
    changed = [operation(*part) for operation, *part in zip(operations, *parts[:2])]
    return tf.ensure_shape(tf.dynamic_stitch(parts[2], changed), images.shape)


def make_kernels(policy: str, height: int, width: int, fill_mode: str) -> dict[str, Callable]:
    """Names of operations -> functions of (pictures (B, H, W, C), strengths (B,) in -1..1)."""
    ranges = POLICIES[policy]

    def enhance(others):
        return lambda images, s: blend(images, others(images), 1 + ranges.enhancement * s)

    def move(matrices, way=transform):          # not transform_compiled: how many pictures come differs each time
        return lambda images, s: way(images, matrices(s), fill_mode)

    def lean(s):
        return tf.atan(ranges.shear * s) * (180 / math.pi)

    def pixels(s, side):
        return tf.floor(ranges.translation(side) * tf.abs(s)) * tf.sign(s)

    return {
        "identity": lambda images, s: images,
        "autocontrast": lambda images, s: autocontrast(images),
        "equalize": lambda images, s: equalize(images),
        "rotate": move(lambda s: rotation_matrices(ranges.rotation * s)),
        "solarize": lambda images, s: solarize(images, 256 * (1 - tf.abs(s))),
        "color": enhance(greys),
        "posterize": lambda images, s: posterize(images, 8 - tf.round(ranges.posterization * tf.abs(s))),
        "contrast": enhance(lambda images: tf.reduce_mean(greys(images), axis=(1, 2), keepdims=True)),
        "brightness": enhance(lambda images: 0.0),
        "sharpness": enhance(smooth),
        "shear_x": move(lambda s: shear_matrices(lean(s), 0.0 * s)),
        "shear_y": move(lambda s: shear_matrices(0.0 * s, lean(s))),
        "translate_x": move(lambda s: translation_matrices(0.0, pixels(s, width)), transform_aligned),
        "translate_y": move(lambda s: translation_matrices(pixels(s, height), 0.0), transform_aligned),
    }
