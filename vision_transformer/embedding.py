"""From pictures to tokens: patches and their projection, learned tokens beside them, positions.

    B pictures in a batch   H, W, C height, width, channels   P patch size   N tokens   D embedding width

The embeddings that make tokens of a small CNN's feature map are in stems.py.
"""
from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import keras

from .blocks import LayerNorm
from .checks import check_whole
from .compat import raw

POSITIONS = ("learned", "sincos", "none")


def patch_grid(image_shape, patch_size: int, patch_stride: int) -> tuple[int, int]:
    """Gives (rows, columns) of patches of an (H, W, C) picture; raises ValueError for sizes that don't fit."""
    height, width = image_shape[:2]
    check_whole("PATCH_SIZE", patch_size, 1, min(height, width), f", as pictures have {height}x{width} pixels")
    check_whole("PATCH_STRIDE", patch_stride, 1, patch_size,
                ", which is PATCH_SIZE: pixels between patches would never be seen")
    for side in (height, width):
        if (side - patch_size) % patch_stride:
            raise ValueError(f"patches of {patch_size} pixels every {patch_stride} pixels would drop the last "
                             f"{(side - patch_size) % patch_stride} of {side} pixels; choose PATCH_SIZE and "
                             f"PATCH_STRIDE so that {side} - PATCH_SIZE is a multiple of PATCH_STRIDE.")
    return (height - patch_size) // patch_stride + 1, (width - patch_size) // patch_stride + 1


def extract_patches(images, patch_size: int, patch_stride: int):
    """Cuts images (B, H, W, C) into patches (B, N, P*P*C), row by row; a patch's pixels lie row, column, channel.

    A stride below the patch size makes patches overlap: their shared rows and columns are first repeated.
    """
    rows, columns = patch_grid(images.shape[1:], patch_size, patch_stride)
    if patch_stride < patch_size:
        images = tf.gather(images, _covered(rows, patch_size, patch_stride), axis=1)
        images = tf.gather(images, _covered(columns, patch_size, patch_stride), axis=2)
    channels = images.shape[3]
    # Rank 5, not 6: what TFLite 2.10 can transpose.
    x = tf.reshape(images, (-1, rows, patch_size, columns, patch_size * channels))
    x = tf.transpose(x, (0, 1, 3, 2, 4))                                    # (B, rows, columns, P, P*C)
    return tf.reshape(x, (-1, rows * columns, patch_size * patch_size * channels))


def _covered(patches: int, patch_size: int, patch_stride: int) -> np.ndarray:
    """Lists the pixels that each patch along one side covers: 3 patches of 2 every 1 -> 0 1 1 2 2 3."""
    return (patch_stride * np.arange(patches)[:, None] + np.arange(patch_size)).ravel()


@keras.utils.register_keras_serializable("vision_transformer")
class PatchEmbedding(keras.layers.Layer):
    """Pictures (B, H, W, C) to tokens (B, N, D): each patch's pixels through one Dense layer.

    Source: Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv 2010.11929, section 3.1.
    """

    def __init__(self, patch_size: int, patch_stride: int, embedding_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.patch_size, self.patch_stride, self.embedding_dim = patch_size, patch_stride, embedding_dim
        self.projection = self._projection()

    def _projection(self):
        return keras.layers.Dense(self.embedding_dim, name="projection")

    def call(self, images, training=None):
        """Projects the patches of images (B, H, W, C) to tokens (B, N, D); training makes no difference."""
        return self.projection(extract_patches(images, self.patch_size, self.patch_stride))

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "patch_size": self.patch_size, "patch_stride": self.patch_stride,
                "embedding_dim": self.embedding_dim}


@keras.utils.register_keras_serializable("vision_transformer")
class ConvolutionEmbedding(PatchEmbedding):
    """The same by a convolution, the form in which ViTs are published: its kernel (P, P, C, D) is Dense's, reshaped.

    The first weights have a variance of 1 / (P * P * C), as in the authors' code: Keras's own for a convolution would
    count D * P * P outputs and come out small.
    """

    def _projection(self):
        return keras.layers.Conv2D(self.embedding_dim, self.patch_size, self.patch_stride, name="projection",
                                   kernel_initializer="lecun_normal")

    def call(self, images, training=None):
        """Projects the patches of images (B, H, W, C) to tokens (B, N, D); training makes no difference."""
        return as_tokens(self.projection(images))


@keras.utils.register_keras_serializable("vision_transformer")
class ShiftedPatchEmbedding(PatchEmbedding):
    """Patches that see beyond their edges: of the picture and of the picture moved half a patch to each corner.

    The five lie side by side in a patch's channels (5 C), are normalized, and go through one Dense layer. What a move
    leaves empty is 0, which is the mean of scaled pixels.
    Source: Lee et al., Vision Transformer for Small-Size Datasets, arXiv 2112.13492, section 3.2 (SPT).
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm = LayerNorm(name="norm")

    def call(self, images, training=None):
        """Projects the patches of images (B, H, W, C) to tokens (B, N, D); training makes no difference."""
        height, width, half = images.shape[1], images.shape[2], self.patch_size // 2
        padded = tf.pad(images, [(0, 0), (half, half), (half, half), (0, 0)])
        moved = [padded[:, top:top + height, left:left + width] for top in (0, 2 * half) for left in (0, 2 * half)]
        images = tf.concat([images, *moved], axis=3)                                       # (B, H, W, 5C)
        return self.projection(self.norm(extract_patches(images, self.patch_size, self.patch_stride)))


def as_tokens(maps):
    """Gives maps (B, rows, columns, D) as tokens (B, N, D), row by row."""
    _, rows, columns, width = maps.shape
    return tf.reshape(maps, (-1, rows * columns, width))


@keras.utils.register_keras_serializable("vision_transformer")
class LearnedTokens(keras.layers.Layer):
    """Puts `count` learned tokens among tokens (B, N, D), behind the first `after` of them: (B, count + N, D).

    Sources: class token: arXiv 2010.11929, section 3.1; registers: Darcet et al., arXiv 2309.16588, section 2.2.
    """

    def __init__(self, count: int = 1, after: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.count, self.after = count, after
        self.initializer = keras.initializers.TruncatedNormal(stddev=0.02)

    def build(self, input_shape):
        """Creates the tokens."""
        self.token = self.add_weight(name="token", shape=(1, self.count, input_shape[-1]),
                                     initializer=self.initializer)
        super().build(input_shape)

    def call(self, tokens):
        """Adds the same tokens to each picture's."""
        token = tf.tile(tf.cast(raw(self.token), tokens.dtype), (tf.shape(tokens)[0], 1, 1))
        front = [tokens[:, :self.after], token, tokens[:, self.after:]] if self.after else [token, tokens]
        return tf.concat(front, axis=1)

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "count": self.count, "after": self.after}


@keras.utils.register_keras_serializable("vision_transformer")
class PositionEmbedding(keras.layers.Layer):
    """Adds a learned vector per position to tokens (B, N, D): `extra` ones, then row by row of the patch grid.

    The table starts as sines and cosines of row and column (extra tokens: zero), so that near patches look alike from
    the first step. It is a Keras Embedding, added whole: positions are always 0..N-1, and a look-up would cost
    DirectML a kernel compilation each step and run its gradient on the CPU.
    Source: arXiv 2010.11929, equation 1 (learned positions); arXiv 1706.03762, section 3.5 (sines).
    """

    def __init__(self, rows: int, columns: int, extra: int, embedding_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.rows, self.columns, self.extra, self.embedding_dim = rows, columns, extra, embedding_dim
        self.positions = extra + rows * columns
        start = np.concatenate([np.zeros((extra, embedding_dim)), sine_positions(rows, columns, embedding_dim)])
        self.table = keras.layers.Embedding(self.positions, embedding_dim, name="table",
                                            embeddings_initializer=keras.initializers.Constant(start))

    def build(self, input_shape):
        """Creates the table, which no call does as it is never looked up."""
        with tf.name_scope(self.table.name):            # Keras 2.10 names weights by scope, Keras 3 by layer
            self.table.build(None)
        super().build(input_shape)

    def call(self, tokens):
        """Adds the positions to tokens (B, N, D)."""
        return tokens + tf.cast(self.table.embeddings, tokens.dtype)

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "rows": self.rows, "columns": self.columns, "extra": self.extra,
                "embedding_dim": self.embedding_dim}


@keras.utils.register_keras_serializable("vision_transformer")
class SinePositions(keras.layers.Layer):
    """Adds to tokens (B, N, D) what PositionEmbedding begins with, and never learns. Source: the same."""

    def __init__(self, rows: int, columns: int, extra: int, embedding_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.rows, self.columns, self.extra, self.embedding_dim = rows, columns, extra, embedding_dim

    def call(self, tokens):
        """Adds the positions to tokens (B, N, D); none to the extra ones in front."""
        table = sine_positions(self.rows, self.columns, self.embedding_dim)
        return tokens + tf.constant(np.pad(table, [(self.extra, 0), (0, 0)]), tokens.dtype)

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "rows": self.rows, "columns": self.columns, "extra": self.extra,
                "embedding_dim": self.embedding_dim}


def sine_positions(rows: int, columns: int, embedding_dim: int) -> np.ndarray:
    """Makes a (rows * columns, D) table: a quarter of D each for sines and cosines of the row, then of the column.

    The wave lengths grow from 2 pi to 2 pi 10,000 patches; what D has beyond a multiple of 4 stays zero.
    """
    quarter = embedding_dim // 4
    frequencies = 10_000.0 ** (-np.arange(quarter) / max(quarter, 1))
    row, column = (axis.reshape(-1, 1) * frequencies for axis in np.mgrid[:rows, :columns])
    table = np.concatenate([np.sin(row), np.cos(row), np.sin(column), np.cos(column)], axis=1)
    return np.pad(table, [(0, 0), (0, embedding_dim - 4 * quarter)])
