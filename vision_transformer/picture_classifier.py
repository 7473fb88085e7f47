"""What every model here has in common, and what the loop, the run folder and the commands rely on."""
from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from .compat import raw


class PictureClassifier(keras.Model):
    """Pictures (B, H, W, C) with pixels 0..255, uint8 or float, to logits (B, K).

    An ordinary keras.Model: `compile` and `fit` work on it. A model of this kind defines `forward` and `describe`,
    makes its layers after calling this constructor, and is then built by `build_now`.

    `config` holds its constructor's arguments by name: image_shape, num_classes, pixel_mean and pixel_deviation (per
    channel, of the training set; pixels are scaled by them inside) and its own.
    `step` is the int32 counter that random masks are drawn from.
    """

    def __init__(self, config: dict, **kwargs):
        super().__init__(**kwargs)
        self.config = config

    def build_now(self) -> None:
        """Makes the step counter and all weights."""
        # On the host even with a GPU (int32), so that drawing a mask never waits for the device.
        self.step = self.add_weight(name="step", shape=(), dtype="int32", initializer="zeros", trainable=False)
        self(tf.zeros((1, *self.config["image_shape"])))

    def call(self, images, training=None):
        """Gives the logits (B, K) of images (B, H, W, C)."""
        return self.forward(images, training=training)["logits"]

    def forward(self, images, training=None) -> dict:
        """Gives all that is made of images (B, H, W, C), by name; at least "features" (B, F) and "logits" (B, K)."""
        raise NotImplementedError

    def describe(self) -> str:
        """Says in a few words what the model is made of."""
        raise NotImplementedError

    def whiten(self, images) -> None:
        """Fits what is measured on training pictures (n, H, W, C), uint8, before training begins; here nothing."""

    def scaled(self, images):
        """Gives images with pixels 0..255 in the compute dtype, scaled to mean 0 and deviation 1."""
        x = tf.cast(images, self.compute_dtype)                                            # (B, H, W, C)
        return (x - tf.constant(self.config["pixel_mean"], x.dtype)) / tf.constant(
            self.config["pixel_deviation"], x.dtype)

    def next_step(self):
        """Reads the counter that the dropout masks are drawn from, and moves it on.

        A training loop may set `model.step` before each call to make the masks a function of its own step.
        """
        step = tf.identity(raw(self.step))
        self.step.assign_add(1)
        return step

    def get_config(self):
        """Gives the constructor's arguments."""
        return {"name": self.name, **self.config}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes a model of the same sizes, with new weights."""
        return cls(**config)


def with_pixels(config: dict) -> dict:
    """Gives config with image_shape as whole numbers, and with pixel statistics: 127.5 each where there are none.

    Raises ValueError for an image_shape that isn't (H, W, C).
    """
    _, _, channels = image_shape = tuple(int(side) for side in config["image_shape"])
    pixels = {name: [127.5] * channels if config[name] is None else [float(value) for value in config[name]]
              for name in ("pixel_mean", "pixel_deviation")}
    return {**config, "image_shape": image_shape, **pixels}


def check_at_least(least: int, config: dict, *names: str) -> None:
    """Raises ValueError where an argument is below `least`."""
    for name in names:
        if config[name] < least:
            raise ValueError(f"{name.upper()} is {config[name]}; it must be at least {least}.")


def check_pixels(config: dict) -> None:
    """Raises ValueError for pixel statistics that can't scale the pictures."""
    channels = config["image_shape"][2]
    for name in ("pixel_mean", "pixel_deviation"):
        if len(config[name]) != channels:
            raise ValueError(f"{name} has {len(config[name])} values for pictures of {channels} channels; give one per "
                             "channel.")
    if min(config["pixel_deviation"]) <= 0:
        raise ValueError(f"pixel_deviation is {config['pixel_deviation']}; each must be above 0: a channel that "
                         "never changes can't be scaled.")
