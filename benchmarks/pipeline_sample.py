"""The sample's row of pipeline.py: how microsoft/DirectML's TensorFlow/TF2/VisionTransformer (MIT) makes its batches.

A description of that code, not a copy. Every transform is a map of its own over single pictures: a coin that falls on
one of seven, then the transform or nothing. A zoom makes twenty crops and keeps one. What comes out is cached, so the
sample's later epochs repeat the first; here the first never ends.
"""
from __future__ import annotations

import numpy as np
import tensorflow as tf

SHARE, SCALES = 0.14, np.arange(0.8, 1.0, 0.01)


def sample(images, _):
    """Uint8 pictures (B, H, W, C) -> an iterator of the sample's batches, and that it lacks nothing."""
    return (batch for batch, _ in sample_batches(images, np.arange(len(images)) % 10)), set()


def sample_batches(images, labels):
    """Uint8 pictures (B, H, W, C) and labels (B,) -> the sample's tf.data.Dataset of batches of both, without end."""
    pictures = tf.data.Dataset.from_tensor_slices((images, labels))
    pictures = pictures.map(to_floats).repeat().shuffle(10_000)
    for transform in (hue_and_saturation, zoom, contrast_and_brightness, tf.image.random_flip_left_right,
                      tf.image.random_flip_left_right, tf.image.random_flip_up_down):
        pictures = pictures.map(now_and_then(transform), tf.data.AUTOTUNE)
    return pictures.cache().batch(128).prefetch(tf.data.AUTOTUNE)


def to_floats(image, label):
    """Casts both."""
    return tf.cast(image, tf.float32), tf.cast(label, tf.float32)


def now_and_then(transform):
    """A transform of pictures -> one that changes a SHARE of them."""
    def change(image, label):
        return tf.cond(tf.random.uniform(()) < SHARE, lambda: transform(image), lambda: image), label
    return change


def hue_and_saturation(image):
    """Its colours."""
    return tf.image.random_saturation(tf.image.random_hue(image, 0.08), 2, 5)


def contrast_and_brightness(image):
    """Its light."""
    return tf.image.random_brightness(tf.image.random_contrast(image, 0.25, 0.8), 0.4)


def zoom(image):
    """Its crop, resized."""
    low, high = 0.5 - SCALES / 2, 0.5 + SCALES / 2
    boxes, of_this = np.stack([low, low, high, high], axis=1), np.zeros(len(SCALES))
    crops = tf.image.crop_and_resize(image[None], boxes, of_this, image.shape[:2])
    return crops[tf.random.uniform((), 0, len(SCALES), tf.int32)]
