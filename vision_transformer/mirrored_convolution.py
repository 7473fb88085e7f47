"""Convolutions whose filters come with their mirror images: with half of the weights, and of the multiply-adds.

    B pictures in a batch   H, W, C height, width, channels   C/2 channels of each half, the second of the twins
"""
from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from .compat import raw
from .xla import linear, pays_in_model


@keras.utils.register_keras_serializable("vision_transformer")
class MirroredConvolution(keras.layers.Layer):
    """A 3x3 convolution of maps (B, H, W, C) to (B, H, W, width) whose filters are followed by their mirror images.

    Mirrored maps give mirrored outputs, the two halves of the channels exchanged.

    Of maps that have such halves themselves, what filter and twin give together, and how they differ, takes half of the
    multiply-adds: each needs the sum of the maps' halves by what a filter's left and right column have in common, and
    their difference by what these differ in, or the other way round. That is written for XLA, as it takes more passes
    over the maps than TensorFlow's own operations could make fast; elsewhere the twins are written out.
    Source: Cohen and Welling, Group Equivariant Convolutional Networks, arXiv 1602.07576, for the group of a mirror;
    half of the products: Bökman et al., Flopping for FLOPs, arXiv 2502.05169, equation 2 (for layers without places).

    Args:
        width: channels; even.
        of_halves: the maps are such themselves: their mirror image has its halves exchanged. Pictures have none.
    """

    def __init__(self, width: int, of_halves: bool, **kwargs):
        super().__init__(**kwargs)
        self.width, self.of_halves = width, of_halves
        self.initializer = keras.initializers.GlorotUniform()

    def build(self, input_shape):
        """Creates the first half's filters."""
        shape = (3, 3, input_shape[-1], self.width // 2)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.initializer)
        super().build(input_shape)

    def call(self, x):
        """Makes maps (B, H, W, width) of maps (B, H, W, C)."""
        filters = raw(self.kernel)
        twins = tf.reverse(filters, [1])
        if not self.of_halves:
            return _convolve(x, tf.concat([filters, twins], axis=3))
        twins = tf.roll(twins, filters.shape[2] // 2, axis=2)
        if not pays_in_model(x):
            return _convolve(x, tf.concat([filters, twins], axis=3))
        of_sums, of_differences = linear(_sums_and_differences)(x)
        return linear(_halves)(_convolve(of_sums, _columns((filters + twins) / 2)),
                               _convolve(of_differences, _columns((filters - twins) / 2)))

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "width": self.width, "of_halves": self.of_halves}


def _convolve(maps, kernel):
    return tf.nn.conv2d(maps, tf.cast(kernel, maps.dtype), 1, "SAME")


def _sums_and_differences(maps):
    """Gives what the sums (B, H, W, 3C/2) and the differences of filters and twins look at, in the order of _columns.

    In float32 between: XLA on CPUs rounds after each step in bfloat16, which takes longer.
    """
    one, other = tf.split(tf.cast(maps, tf.float32), 2, axis=3)
    sums, differences = one + other, one - other
    sums_pairs, sums_slopes = _neighbours(sums)
    differences_pairs, differences_slopes = _neighbours(differences)
    return (tf.cast(tf.concat([sums, sums_pairs, differences_slopes], axis=3), maps.dtype),
            tf.cast(tf.concat([differences, differences_pairs, sums_slopes], axis=3), maps.dtype))


def _neighbours(maps):
    """Gives of each position the sum of its neighbours to the left and right, and by how much the left one is more."""
    wider = tf.pad(maps, [(0, 0), (0, 0), (1, 1), (0, 0)])
    left, right = wider[:, :, :-2], wider[:, :, 2:]
    return left + right, left - right


def _columns(kernel):
    """Gives of a kernel (3, 3, C, n) that goes with the mirror, or against it, its one column (3, 1, 3C/2, n).

    The middle, what left and right have in common, and by how much the left is more.
    """
    own = kernel[:, :, :kernel.shape[2] // 2]           # the other half is the same, mirrored, with or without a sign
    left, middle, right = tf.split(own, 3, axis=1)
    return tf.concat([middle, (left + right) / 2, (left - right) / 2], axis=2)


def _halves(sums, differences):
    """Gives of the sums and differences of filters and twins, (B, H, W, n) each, what they are of: (B, H, W, 2n)."""
    one, other = tf.cast(sums, tf.float32), tf.cast(differences, tf.float32)
    return tf.cast(tf.concat([one + other, one - other], axis=3), sums.dtype)
