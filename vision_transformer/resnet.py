"""A small ResNet for 32x32 pictures: the convolutional baseline that the Vision Transformer is compared with.

    B pictures in a batch   H, W, C height, width, channels   K classes

Source: He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385, section 4.2 (CIFAR-10): three stages
of n blocks of two 3x3 convolutions, each stage half the sides and twice the channels of the one before.
"""
from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from .batch_norm import BatchNorm
from .checks import check_whole
from .picture_classifier import MOST_WIDTH, PictureClassifier, check_total, with_pixels

STAGES = 3
MOST_BLOCKS_PER_STAGE = 200     # 1,202 layers: the deepest that the paper tried


def _convolution(channels: int, name: str, stride: int = 1):
    """A 3x3 convolution without a bias, which batch norm would take away again; its centres are every stride-th pixel.

    First weights: He et al., arXiv 1502.01852.
    """
    return keras.layers.Conv2D(channels, 3, stride, padding="same" if stride == 1 else "valid", use_bias=False,
                               name=name, kernel_initializer="he_normal")


@keras.utils.register_keras_serializable("vision_transformer")
class ResidualBlock(keras.layers.Layer):
    """Two convolutions on maps (B, H, W, C), each with batch norm, added back to what they were made of, and ReLU.

    With stride 2 the sides are halved. Where shape changes, what is added back is every stride-th pixel, with zeros for
    the channels that are new: the paper's option A, which it takes throughout section 4.2.
    """

    def __init__(self, channels: int, stride: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.stride = channels, stride
        self.convolution_1 = _convolution(channels, "convolution_1", stride)
        self.norm_1 = BatchNorm(name="norm_1")
        self.convolution_2 = _convolution(channels, "convolution_2")
        self.norm_2 = BatchNorm(name="norm_2")

    def call(self, x, training=None):
        """Gives maps (B, H / stride, W / stride, channels)."""
        padded = tf.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]) if self.stride > 1 else x
        y = tf.nn.relu(self.norm_1(self.convolution_1(padded), training=training))
        y = self.norm_2(self.convolution_2(y), training=training)
        if self.stride > 1:
            x = x[:, ::self.stride, ::self.stride]
        new = self.channels - x.shape[3]
        x = tf.pad(x, [(0, 0), (0, 0), (0, 0), (0, new)]) if new else x
        return tf.nn.relu(x + y)

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "channels": self.channels, "stride": self.stride}


@keras.utils.register_keras_serializable("vision_transformer")
class ResNet(PictureClassifier):
    """A picture classifier: pictures (B, H, W, C) with pixels 0..255, uint8 or float, to logits (B, K).

    The model is built when constructed. It is an ordinary keras.Model: `compile` and `fit` work on it.

    Args:
        image_shape: (H, W, C) of the pictures.
        num_classes: K.
        blocks_per_stage: n; the network is 6 n + 2 layers deep, so 3 is ResNet-20.
        first_width: channels of the first stage; the others have twice and four times as many.
        pixel_mean, pixel_deviation: per channel, of the training set; pixels are scaled by them inside.

    Raises:
        ValueError: a number that makes no sense; nothing is built then.
    """

    def __init__(self, *, image_shape, num_classes: int, blocks_per_stage: int = 3, first_width: int = 16,
                 pixel_mean=None, pixel_deviation=None, name: str = "resnet", **kwargs):
        config = with_pixels({"image_shape": image_shape, "num_classes": num_classes,
                              "blocks_per_stage": blocks_per_stage, "first_width": first_width,
                              "pixel_mean": pixel_mean, "pixel_deviation": pixel_deviation})
        check_whole("BLOCKS_PER_STAGE", blocks_per_stage, 1, MOST_BLOCKS_PER_STAGE)
        check_whole("FIRST_WIDTH", first_width, 1, MOST_WIDTH)
        height, width, _ = config["image_shape"]
        check_total("weights", 2 * 9 * 21 * blocks_per_stage * first_width ** 2, "BLOCKS_PER_STAGE or FIRST_WIDTH")
        check_total("numbers in a feature map", height * width * first_width, "FIRST_WIDTH or image_shape")
        super().__init__(config, name=name, **kwargs)
        self.convolution = _convolution(first_width, "convolution")
        self.norm = BatchNorm(name="norm")
        self.blocks = [ResidualBlock(first_width * 2 ** stage, 1 + (stage > 0 and block == 0),
                                     name=f"block_{stage * blocks_per_stage + block}")
                       for stage in range(STAGES) for block in range(blocks_per_stage)]
        # Logits stay float32 under mixed precision: half precision would round small losses away.
        self.classifier = keras.layers.Dense(num_classes, name="classifier", dtype="float32")
        self.build_now()

    def forward(self, images, training=None) -> dict:
        """Gives all that is made of images (B, H, W, C) on the way to the logits, by name.

        "maps": (B, H/4, W/4, 4 first_width), those of the last block; "features": (B, 4 first_width), their means;
        "logits": (B, K).
        """
        x = self.convolution(self.scaled(images))                                          # (B, H, W, first_width)
        x = tf.nn.relu(self.norm(x, training=training))
        for block in self.blocks:
            x = block(x, training=training)
        features = tf.reduce_mean(x, axis=(1, 2))                                          # (B, 4 first_width)
        return {"maps": x, "features": features, "logits": self.classifier(features)}

    def describe(self) -> str:
        """Says in a few words what the model is made of."""
        blocks, width = self.config["blocks_per_stage"], self.config["first_width"]
        return (f"ResNet of {2 * STAGES * blocks + 2} layers, {blocks} blocks of each width "
                + ", ".join(f"{width * 2 ** stage}" for stage in range(STAGES)))

    def get_config(self):
        """Gives the architecture's name and the constructor's arguments."""
        return {"architecture": "resnet", **super().get_config()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes a model of the same sizes, with new weights."""
        return cls(**{name: value for name, value in config.items() if name != "architecture"})
