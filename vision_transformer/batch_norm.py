"""Batch normalization that costs DirectML nothing: Keras's compiles a kernel for each of its updates at every step."""
from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from .compat import raw

MOMENTUM = 0.9                  # share of the moving statistics that a step keeps
EPSILON = 1e-5                  # added to the variance


@keras.utils.register_keras_serializable("vision_transformer")
class BatchNorm(keras.layers.Layer):
    """Normalizes each channel of maps (B, H, W, C) over the batch, then scales and shifts it by learned numbers.

    Training uses the batch's mean and variance and moves the kept ones towards them, `new = 0.9 old + 0.1 batch`;
    anything else uses the kept ones. These are weights like others, saved and loaded, but not trained. The variance
    that is kept is the unbiased one (divided by n - 1), as TensorFlow's own op gives it on every device.

    All of it in one op and two `assign`s; statistics, scale and shift are float32 whatever the policy. The project's
    loop puts the statistics back after a step that failed.
    Source: Ioffe and Szegedy, arXiv 1502.03167, algorithms 1 and 2.
    """

    def __init__(self, **kwargs):
        # Not cast by Keras under mixed precision: the op takes half-precision maps and float32 statistics.
        super().__init__(**{**kwargs, "dtype": "float32", "autocast": False})

    def build(self, input_shape):
        """Creates the scale and shift, and the statistics: mean 0, variance 1."""
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros")
        self.moving_mean = self.add_weight(name="moving_mean", shape=shape, initializer="zeros", trainable=False)
        self.moving_variance = self.add_weight(name="moving_variance", shape=shape, initializer="ones",
                                               trainable=False)
        super().build(input_shape)

    def call(self, x, training=None):
        """Normalizes maps (B, H, W, C); a training call also moves the kept statistics."""
        kept = raw(self.moving_mean), raw(self.moving_variance)
        mean, variance = (tf.zeros(0), tf.zeros(0)) if training else kept          # the op wants none in training
        x, *batch = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=raw(self.gamma), offset=raw(self.beta), mean=mean, variance=variance, epsilon=EPSILON,
            is_training=bool(training))[:3]
        if training:
            for old, new in zip(kept, batch):
                old.assign(MOMENTUM * old + (1 - MOMENTUM) * new)
        return x
