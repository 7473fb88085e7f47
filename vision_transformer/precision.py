"""The numbers a step is computed in: half precision where it is faster, and the scale that float16 needs.

Weights stay float32 in either; layers cast them to what they compute in (Micikevicius et al., arXiv 1710.03740).
"""
from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
FIRST_SCALE, LARGEST_SCALE = 2.0 ** 15, 2.0 ** 24
GROWS_AFTER = 2000          # steps in a row without overflow


def sees_directml() -> bool:
    """Tells whether a visible GPU is DirectML's."""
    return any(tf.config.experimental.get_device_details(gpu).get("device_name") == "DML"
               for gpu in tf.config.get_visible_devices("GPU"))


def set_precision(precision: str) -> None:
    """Sets what layers made from now on compute in; the model comes after.

    Raises:
        ValueError: a precision that is not known, or has no kernels on the device.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"PRECISION {precision!r} is not known; choose one of {', '.join(PRECISIONS)}.")
    if precision == "mixed_bfloat16" and sees_directml():
        raise ValueError("PRECISION 'mixed_bfloat16' has no DirectML kernels; choose float32 or mixed_float16.")
    keras.mixed_precision.set_global_policy(precision)


class LossScale:
    """The factor that keeps float16's small gradients above 0: the loss times it, the gradients divided by it.

    It grows while all goes well, and halves at an overflow, down to 1. That step is skipped: `skipped` counts them, and
    is set to 0 by who reads it.
    """

    def __init__(self):
        self.scale = tf.Variable(FIRST_SCALE, name="loss_scale")
        self.good_steps = tf.Variable(0.0, name="good_steps")           # in a row; float: an int32 lives on the host
        self.skipped = tf.Variable(0.0, name="skipped")
        self.state = {"loss_scale": self.scale, "good_steps": self.good_steps, "skipped": self.skipped}

    def update(self, finite):
        """Learns whether a step's gradient was finite; gives whether its scale was still above 1."""
        above = self.scale > 1
        good_steps = tf.where(finite, self.good_steps + 1, 0.0)
        grows = good_steps >= GROWS_AFTER
        self.skipped.assign(tf.where(finite, self.skipped, self.skipped + 1))
        self.good_steps.assign(tf.where(grows, 0.0, good_steps))
        self.scale.assign(tf.where(finite, tf.where(grows, tf.minimum(2 * self.scale, LARGEST_SCALE), self.scale),
                                   tf.maximum(self.scale / 2, 1.0)))
        return above


def loss_scale_for_policy() -> LossScale | None:
    """Gives a LossScale where layers now compute in float16, else None."""
    return LossScale() if keras.mixed_precision.global_policy().compute_dtype == "float16" else None
