"""TokenLearner: a few tokens, learned for each picture, in place of many; the blocks behind it cost that much less.

    B pictures in a batch   N tokens   D embedding width   S learned tokens

Source: Ryoo et al., TokenLearner: What Can 8 Learned Tokens Do for Images and Videos?, arXiv 2106.11297.
"""
from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from .blocks import MLP, LayerNorm
from .embedding import as_tokens
from .gradients import gelu

TOKEN_LEARNERS = ("", "v1", "v1.1")
BOTTLENECK = 64                 # hidden width of version 1.1's MLP, as in the authors' code


@keras.utils.register_keras_serializable("vision_transformer")
class TokenLearner(keras.layers.Layer):
    """Makes S tokens of a grid of rows * columns; `extra` tokens in front of the grid are passed on as they are.

    Each learned token is a sum of the grid's tokens, weighted by a map that is made of them all:

        v1    four 3x3 convolutions on the normalized grid, GELU between them, a sigmoid; the mean over the grid of
              map times token (section 2.1: spatial attention, then spatial global average pooling)
        v1.1  an MLP on each normalized token, then a softmax over the grid, so that a map's weights sum to 1 (the
              authors' code, google-research/scenic: "works better in general")

    The authors' code sums in version 1 where the paper takes the mean; the mean keeps tokens as large as they were.
    """

    def __init__(self, version: str, learned_tokens: int, rows: int, columns: int, extra: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.version, self.learned_tokens, self.extra = version, learned_tokens, extra
        self.rows, self.columns = rows, columns
        self.norm = LayerNorm(name="norm")
        if version == "v1":
            self.convolutions = [keras.layers.Conv2D(learned_tokens, 3, padding="same", use_bias=False,
                                                     name=f"convolution_{i}") for i in range(4)]
        else:
            self.mlp = MLP(BOTTLENECK, learned_tokens, name="mlp")

    def call(self, x):
        """Gives tokens (B, extra + S, D) of x (B, extra + N, D), and the weights (B, S, N) that made the S of the N."""
        front, grid = x[:, :self.extra], x[:, self.extra:]
        weights = tf.transpose(self._weights(self.norm(grid)), (0, 2, 1))                  # (B, S, N)
        learned = tf.matmul(weights, grid)                                                 # (B, S, D)
        return tf.concat([front, learned], axis=1) if self.extra else learned, weights

    def _weights(self, grid):
        """Gives the weights (B, N, S) of the normalized tokens (B, N, D)."""
        if self.version == "v1.1":
            return tf.nn.softmax(self.mlp(grid), axis=1)
        maps = tf.reshape(grid, (-1, self.rows, self.columns, grid.shape[2]))
        *first, last = self.convolutions
        for convolution in first:
            maps = gelu(convolution(maps))
        return as_tokens(tf.sigmoid(last(maps))) / (self.rows * self.columns)

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "version": self.version, "learned_tokens": self.learned_tokens,
                "rows": self.rows, "columns": self.columns, "extra": self.extra}
