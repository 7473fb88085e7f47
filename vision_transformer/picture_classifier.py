"""What every model here has in common, and what the loop, the run folder and the commands rely on."""
from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from .checks import check_number, check_whole, shown
from .compat import raw

# Limits that no real model meets: beyond them, a config.json from elsewhere could take all memory before it fails.
LARGEST_SIDE, MOST_CHANNELS, LARGEST_PICTURE = 2 ** 14, 2 ** 10, 2 ** 26        # the last in numbers, H * W * C
MOST_CLASSES = MOST_WIDTH = 2 ** 16
MOST_NUMBERS = 2 ** 31                          # weights, or numbers of one layer's output for one picture; 8 GB


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
    """Gives config with image_shape and pixel statistics in plain numbers; statistics are 127.5 where there are none.

    Raises ValueError for an image_shape that isn't (H, W, C), for statistics that can't scale such pictures, and for a
    num_classes that can't be.
    """
    image_shape = _listed("image_shape", config["image_shape"], 3, "height, width and channels")
    for name, size, most in zip(("height", "width", "channels"), image_shape, (LARGEST_SIDE, LARGEST_SIDE,
                                                                               MOST_CHANNELS)):
        check_whole(f"image_shape's {name}", size, 1, most)
    height, width, channels = image_shape = tuple(map(int, image_shape))
    if height * width * channels > LARGEST_PICTURE:
        raise ValueError(f"image_shape {image_shape} is {height * width * channels:,} numbers; choose at most "
                         f"{LARGEST_PICTURE:,}.")
    check_whole("NUM_CLASSES", config["num_classes"], 1, MOST_CLASSES)
    pixels = {}
    for name in ("pixel_mean", "pixel_deviation"):
        values = [127.5] * channels if config[name] is None else _listed(
            name, config[name], channels, f"one for each of {channels} channels")
        for value in values:
            check_number(f"{name}'s entry", value, -1e6, 1e6)
        pixels[name] = [float(value) for value in values]
    if min(pixels["pixel_deviation"]) < 1e-6:
        raise ValueError(f"pixel_deviation is {shown(pixels['pixel_deviation'])}; each must be above 0: a channel that "
                         "never changes can't be scaled.")
    return {**config, "image_shape": image_shape, **pixels}


def _listed(name: str, values, count: int, which: str) -> list:
    """Gives the entries of an argument that must have so many; raises ValueError otherwise."""
    listed = list(values) if hasattr(values, "__iter__") and not isinstance(values, (str, bytes, dict)) else []
    if len(listed) != count:
        raise ValueError(f"{name} is {shown(values)}; give {count} numbers: {which}.")
    return listed


def check_total(what: str, numbers: int, choose: str) -> None:
    """Raises ValueError where a model would have more numbers than can be."""
    if numbers > MOST_NUMBERS:
        raise ValueError(f"the model would have {numbers:,} {what}, above the limit of {MOST_NUMBERS:,}; choose a "
                         f"smaller {choose}.")
