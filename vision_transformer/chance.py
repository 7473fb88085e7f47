"""Random numbers that are functions of (seed, step): every random amount of a picture has a stream of its own.

So a step draws the same amounts whenever it is run, and switching one off leaves the others as they were.
"""
from __future__ import annotations

import tensorflow as tf

# A stream's number is its place here: append new ones at the end, or old seeds give other pictures.
STREAMS = (
    "flip_horizontal", "flip_vertical", "rotation", "shear_x", "shear_y", "zoom",
    "translation_down", "translation_right", "contrast", "brightness", "saturation", "hue",
    "erasing", "erased_area", "erased_aspect", "erased_top", "erased_left", "erased_bytes",
    "alternating_flip", "policy_operation", "policy_strength", "policy_sign",
    "mix_choice", "mix_gamma", "mix_power", "cutmix_row", "cutmix_column",
)


def draw(seed, shape, stream: str, low=0.0, high=1.0, dtype=tf.float32) -> tf.Tensor:
    """Seed (2,) and a stream's name -> uniform numbers of `shape` in [low, high); None twice: all of an integer's."""
    return tf.random.stateless_uniform(shape, seed_of(seed, stream), low, high, dtype)


def seed_of(seed, stream: str) -> tf.Tensor:
    """Seed (2,) and a stream's name -> that stream's own seed (2,)."""
    return tf.random.experimental.stateless_fold_in(seed, STREAMS.index(stream))
