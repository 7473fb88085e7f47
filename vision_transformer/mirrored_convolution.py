"""Convolutions whose filters come with their mirror images: with half of the weights, and of the multiply-adds.

    B pictures in a batch   H, W height, width   C channels, of which the second half are the twins'
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

    A filter is s + d, its twin s - d. Exchanging the halves of the channels and mirroring leaves s as it is, and turns
    the sign of d. So each needs half of the multiply-adds only: s is the same for left and right neighbours in the sum
    of the maps' halves, so that they are added before, and opposite in the difference, where they are subtracted; d the
    other way round. XLA does that in one pass: then, on a CPU, all takes about as long as with the twins written out,
    for wide layers less. Without XLA they are written out.
    Source: Cohen and Welling, Group Equivariant Convolutional Networks, arXiv 1602.07576, for the group of a mirror;
    half of the products: Bökman et al., Flopping for FLOPs, arXiv 2502.05169, equation 2 (for layers of one token).

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
        if self.of_halves:
            twins = tf.roll(twins, filters.shape[2] // 2, axis=2)
            if pays_in_model(x):
                for_s, for_d = linear(_neighbours_together)(x)
                return linear(_filters_and_twins)(_convolve(for_s, _column((filters + twins) / 2)),
                                                  _convolve(for_d, _column((filters - twins) / 2)))
        return _convolve(x, tf.concat([filters, twins], axis=3))

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "width": self.width, "of_halves": self.of_halves}


def _convolve(maps, kernel):
    return tf.nn.conv2d(maps, tf.cast(kernel, maps.dtype), 1, "SAME")


def _neighbours_together(maps):
    """Gives of maps (B, H, W, C) what s looks at, and what d does: (B, H, W, 3C/2) each, in the order of `_column`.

    In float32 between: XLA on CPUs rounds after each step in bfloat16, which takes longer.
    """
    one, other = tf.split(tf.cast(maps, tf.float32), 2, axis=3)
    sums, differences = one + other, one - other
    sums_added, sums_subtracted = _left_and_right(sums)
    differences_added, differences_subtracted = _left_and_right(differences)
    return (tf.cast(tf.concat([sums, sums_added, differences_subtracted], axis=3), maps.dtype),
            tf.cast(tf.concat([differences, differences_added, sums_subtracted], axis=3), maps.dtype))


def _left_and_right(maps):
    """Gives each place's left and right neighbours, added; and the left one less the right one."""
    wider = tf.pad(maps, [(0, 0), (0, 0), (1, 1), (0, 0)])
    left, right = wider[:, :, :-2], wider[:, :, 2:]
    return left + right, left - right


def _column(kernel):
    """Gives s or d, (3, 3, C, filters), as one column (3, 1, 3C/2, filters): for the middle, for added, for subtracted.

    The second half of the channels says nothing new: it is the first half's mirror image, for d with the other sign.
    """
    left, middle, right = tf.split(kernel[:, :, :kernel.shape[2] // 2], 3, axis=1)
    return tf.concat([middle, (left + right) / 2, (left - right) / 2], axis=2)


def _filters_and_twins(by_s, by_d):
    """Gives the maps by the filters, then by their twins, (B, H, W, width), of those by s and d."""
    one, other = tf.cast(by_s, tf.float32), tf.cast(by_d, tf.float32)
    return tf.cast(tf.concat([one + other, one - other], axis=3), by_s.dtype)
