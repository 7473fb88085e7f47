"""Mixing pictures and their labels: mixup and cutmix of whole batches, functions of (images, labels, seed).

    mix = make_mixing(10, mixup=0.2, cutmix=1.0)
    images, soft_labels = mix(images, labels, (SEED, step))

A picture's partner is the next one of its batch, the last one's is the first: batches are shuffled, so the next is as
random as any. Unlike a permutation that costs no draw and nobody is his own partner, and unlike the reversed batch no
two pictures are each other's partners. Letters: B batch, H height, W width, C channels, K classes.
"""
from __future__ import annotations

import functools
import numbers
from typing import Callable

import tensorflow as tf

from .chance import draw, seed_of


def mixup(images: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """Float pictures (B, H, W, C) -> each seen through its partner; shares (B,) are its own part of the light."""
    partners = tf.roll(images, -1, axis=0)
    return partners + shares[:, None, None, None] * (images - partners)


def cutmix(images: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Pictures (B, H, W, C) -> each with a box of its partner; boxes (B, 4) are top, left, bottom, right, integers.

    Pixels from top and left up to but without bottom and right; what lies outside the picture is left out.
    """
    height, width, channels = images.shape[1:]
    top, left, bottom, right = tf.unstack(boxes[:, None], axis=-1)
    y, x = tf.range(height), tf.repeat(tf.range(width), channels)
    inside = ((top <= y) & (y < bottom))[:, :, None] & ((left <= x) & (x < right))[:, None, :]
    rows = tf.reshape(images, (-1, height, width * channels))   # tf.where is slow where it must broadcast over C
    return tf.reshape(tf.where(inside, tf.roll(rows, -1, axis=0), rows), tf.shape(images))


def soft_labels(labels: tf.Tensor, shares: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Labels (B,) and their own shares (B,) -> (B, K): the share at a picture's class, the rest at its partner's."""
    own = tf.one_hot(labels, num_classes)
    partners = tf.roll(own, -1, axis=0)
    return partners + shares[:, None] * (own - partners)


def make_mixing(num_classes: int, *, mixup: float = 0.0, cutmix: float = 0.0) -> Callable | None:
    """A function (images (B, H, W, C), labels (B,) integers, seed (2,)) -> images, float32 soft labels (B, K).

    None where both are 0. Each picture keeps its own share of itself; its label keeps as much. The same seed, say (run
    seed, step), mixes alike. Where both are on, each batch is mixed by one of them, each as likely.

    mixup: a of Beta(a, a), of which the share is drawn: 0 is off, 0.2 mostly leaves one of the two, 1 is uniform.
        Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412.
    cutmix: the same; the share is then the part of the pixels that is not the partner's box. The box has the picture's
        aspect, its centre is anywhere in the picture; what lies outside falls away, and the label counts the pixels
        that are left. Yun et al., "CutMix", arXiv 1905.04899.

    Raises:
        ValueError: a is not a number from 0 to 100, beyond which there are halves only.
    """
    for name, value in (("MIXUP", mixup), ("CUTMIX", cutmix)):
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value <= 100:
            raise ValueError(f"{name} {value!r} is not a number from 0 (off) to 100; 0.2 is mild, 1 is usual.")
    ways = [functools.partial(way, alpha=alpha)
            for way, alpha in ((_random_mixup, mixup), (_random_cutmix, cutmix)) if alpha]
    if not ways:
        return None

    @tf.autograph.experimental.do_not_convert
    def mix(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.cast(images, tf.float32)
        one, other = (functools.partial(way, images, seed) for way in (ways[0], ways[-1]))
        mixed, shares = one() if len(ways) == 1 else tf.cond(draw(seed, (), "mix_choice") < 0.5, one, other)
        return mixed, soft_labels(labels, shares, num_classes)

    return mix


def _random_mixup(images, seed, alpha):
    shares = draw_beta(seed, tf.shape(images)[:1], alpha)
    return mixup(images, shares), shares


def _random_cutmix(images, seed, alpha):
    pictures, (height, width) = tf.shape(images)[:1], images.shape[1:3]
    side = tf.sqrt(1 - draw_beta(seed, pictures, alpha))            # of the box, as a share of the picture's
    top, bottom = _random_edges(seed, pictures, "cutmix_row", side, height)
    left, right = _random_edges(seed, pictures, "cutmix_column", side, width)
    cut = tf.cast((bottom - top) * (right - left), tf.float32) / (height * width)
    return cutmix(images, tf.stack([top, left, bottom, right], axis=-1)), 1 - cut


def _random_edges(seed, pictures, stream, side, size):
    """Where a box begins and ends on an axis of `size` pixels; its centre is any of them."""
    length = tf.cast(side * size, tf.int32)
    start = draw(seed, pictures, stream, 0, size, tf.int32) - length // 2
    return tf.maximum(start, 0), tf.minimum(start + length, size)


def draw_beta(seed: tf.Tensor, pictures, alpha: float) -> tf.Tensor:
    """Seed (2,) and a number of pictures, a shape (1,) -> numbers of Beta(alpha, alpha), (B,).

    Of two gamma numbers g and h, g / (g + h) is such a number; by their logarithms, since for a small alpha both are
    often too small for a float32. Marsaglia and Tsang (2000): Gamma(a) is Gamma(a + 1) times uniform ** (1 / a).
    """
    shape = tf.concat([[2], pictures], axis=0)
    gammas = tf.math.log(tf.random.stateless_gamma(shape, seed_of(seed, "mix_gamma"), alpha + 1))
    powers = tf.math.log(1 - draw(seed, shape, "mix_power"))        # of numbers that are never 0
    return tf.sigmoid(gammas[0] - gammas[1] + (powers[0] - powers[1]) / alpha)
