"""Moves of pictures, whole batches at once: matrices, and three ways to resample by them.

A matrix says where a pixel of the result is read: (x, y, 1) there = matrix @ (x, y, 1) here, in pixels from the centre,
x to the right and y down. So first @ second moves by `first`, then by `second`, and any number of moves is one matrix.
Letters: B batch, H height, W width, C channels. Pictures are float32 (B, H, W, C), and every amount is (B,).
"""
from __future__ import annotations

import math

import tensorflow as tf

from .xla import compiled

MID_GREY = 127.5                        # neither dark nor light, and zero to a model that scales its input to -1..1
FILL_MODES = ("reflect", "nearest", "constant")


def rotation_matrices(degrees: tf.Tensor) -> tf.Tensor:
    """Matrices (B, 3, 3) that turn pictures by `degrees` (B,), counter-clockwise when positive."""
    angles = degrees * (math.pi / 180)
    return _matrices(tf.cos(angles), -tf.sin(angles), 0.0, tf.sin(angles), tf.cos(angles), 0.0)


def shear_matrices(x_degrees: tf.Tensor, y_degrees: tf.Tensor) -> tf.Tensor:
    """Matrices (B, 3, 3) that lean the top to the right, then the right side up, by degrees (B,) each.

    One after the other, which keeps the area: both at once, at 45 degrees, would crush a picture to a line.
    """
    x, y = tf.tan(x_degrees * (math.pi / 180)), tf.tan(y_degrees * (math.pi / 180))
    return _matrices(1 + x * y, x, 0.0, y, 1.0, 0.0)


def scale_matrices(vertical: tf.Tensor | float, horizontal: tf.Tensor | float) -> tf.Tensor:
    """Matrices (B, 3, 3) that magnify by factors, at least one of them (B,): below 1 shrinks, -1 flips."""
    return _matrices(1 / horizontal, 0.0, 0.0, 0.0, 1 / vertical, 0.0)


def translation_matrices(down: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Matrices (B, 3, 3) that move pictures by `down` and `right` (B,) pixels."""
    return _matrices(1.0, 0.0, -right, 0.0, 1.0, -down)


def _matrices(*first_two_rows):
    zeros = tf.zeros_like(sum(first_two_rows))
    entries = [zeros + entry for entry in (*first_two_rows, 0.0, 0.0, 1.0)]
    return tf.reshape(tf.stack(entries, axis=-1), (-1, 3, 3))


# ------------------------------------------------------------------------------------------ resampling
def check_fill_mode(fill_mode: str) -> None:
    """Raises ValueError for an unknown mode; TensorFlow's op itself would only log it, and go on."""
    if fill_mode not in FILL_MODES:
        raise ValueError(f"FILL_MODE {fill_mode!r} is unknown; choose one of {', '.join(FILL_MODES)}.")


def transform(images: tf.Tensor, matrices: tf.Tensor, fill_mode: str = "reflect") -> tf.Tensor:
    """Pictures (B, H, W, C) moved about their centres by `matrices` (B, 3, 3), in one bilinear resampling.

    Beyond its edge a picture goes on as its mirror image ("reflect"), as its last pixels ("nearest") or in mid-grey
    ("constant"). Flips and moves by whole pixels return the very pixels. Raises ValueError for an unknown mode.
    """
    check_fill_mode(fill_mode)
    height, width = images.shape[1:3]
    down, right = tf.constant([(height - 1) / 2]), tf.constant([(width - 1) / 2])
    # The op counts from the top left pixel: from there to the centre, move, and back.
    matrices = translation_matrices(-down, -right) @ matrices @ translation_matrices(down, right)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images, transforms=tf.reshape(matrices, (-1, 9))[:, :8], output_shape=(height, width),
        interpolation="BILINEAR", fill_mode=fill_mode.upper(), fill_value=MID_GREY)


def transform_compiled(images: tf.Tensor, matrices: tf.Tensor, fill_mode: str = "reflect") -> tf.Tensor:
    """As `transform`, by XLA, which compiles for each shape: in 1/4 of the time on TensorFlow 2.21, 2/3 on 2.10."""
    check_fill_mode(fill_mode)
    # In two parts, or XLA on 2.10 computes each place again for all that is read there.
    places = compiled(_read_at)(matrices, *images.shape[1:3], fill_mode)
    return compiled(_read)(_with_border(images, fill_mode), *places)


def _read_at(matrices, height, width, fill_mode):
    """Matrices (B, 3, 3) -> column and row that each pixel is read at, both (B, H, W), in pictures _with_border."""
    y, x = _from_middle(height)[:, None], _from_middle(width)
    of_x, of_y = (matrices[:, row, :, None, None] for row in (0, 1))
    across, down = (of[:, 0] * x + of[:, 1] * y + of[:, 2] for of in (of_x, of_y))
    return _to_pixels(across, width, fill_mode), _to_pixels(down, height, fill_mode)


def _read(images, across, down):
    """Pictures (B, height, width, C) -> what they show, between four pixels, at columns and rows (B, H, W)."""
    height, width, channels = images.shape[1:]
    left, top = tf.floor(across), tf.floor(down)

    def pixels(row, column):
        places = tf.minimum(row, height - 1.0) * width + tf.minimum(column, width - 1.0)
        return tf.gather(tf.reshape(images, (-1, height * width, channels)), tf.cast(places, tf.int32), batch_dims=1)

    def between(one, other, share):
        return one + share[..., None] * (other - one)

    upper, lower = (between(pixels(row, left), pixels(row, left + 1), across - left) for row in (top, top + 1))
    return between(upper, lower, down - top)


def transform_aligned(images: tf.Tensor, matrices: tf.Tensor, fill_mode: str = "reflect") -> tf.Tensor:
    """As `transform`, in a quarter of the time, for flips, scales and translations: rows stay rows. Two matmuls."""
    check_fill_mode(fill_mode)
    height, width = images.shape[1:3]
    images = _with_border(images, fill_mode)
    turned = tf.transpose(_read_rows(images, matrices[:, 1, 1:], height, fill_mode), (0, 2, 1, 3))
    return tf.transpose(_read_rows(turned, matrices[:, 0, ::2], width, fill_mode), (0, 2, 1, 3))


def _read_rows(images, lines, size, fill_mode):
    """Pictures of any height -> of height `size`, whose row y is read at a * y + b, of `lines` (B, 2)."""
    rows, width, channels = images.shape[1:]
    places = _to_pixels(lines[:, :1] * _from_middle(size) + lines[:, 1:], size, fill_mode)
    weights = tf.nn.relu(1 - tf.abs(places[:, :, None] - tf.range(rows, dtype=tf.float32)))
    return tf.reshape(weights @ tf.reshape(images, (-1, rows, width * channels)), (-1, size, width, channels))


def _from_middle(size):
    """Where the pixels of an axis are, from its middle."""
    return tf.range(size, dtype=tf.float32) - (size - 1) / 2


def _to_pixels(places, size, fill_mode):
    """Places on an axis of `size` pixels, from its middle -> which pixels of pictures _with_border are to be read."""
    places = places + (size - 1) / 2
    if fill_mode == "constant":
        return tf.clip_by_value(places + 1, 0.0, size + 1.0)
    if fill_mode == "reflect":          # the mirror image of the mirror image is the picture again
        places = tf.abs(places + 0.5 - 2 * size * tf.round((places + 0.5) / (2 * size))) - 0.5
    return tf.clip_by_value(places, 0.0, size - 1.0)


def _with_border(images, fill_mode):
    """Pictures with a pixel of grey all around, where the fill is that; what lies further beyond is read there too."""
    padding = [[0, 0], [1, 1], [1, 1], [0, 0]]
    return tf.pad(images, padding, constant_values=MID_GREY) if fill_mode == "constant" else images
