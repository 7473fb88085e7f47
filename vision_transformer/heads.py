"""From tokens to logits: pooling tokens into features, classifying features.

    B pictures in a batch     N tokens    D embedding width     F features     K classes
"""
from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from .blocks import MLP, Dropout

POOLS = ("flatten", "cls", "mean", "sequence")
CLASSIFIERS = ("mlp", "linear")


def pool_tokens(tokens, pool: str):
    """Makes features (B, F) of tokens (B, N, D): F is N*D for "flatten", D for "cls" and "mean"."""
    if pool == "flatten":
        return tf.reshape(tokens, (-1, tokens.shape[1] * tokens.shape[2]))
    return tokens[:, 0] if pool == "cls" else tf.reduce_mean(tokens, axis=1)


@keras.utils.register_keras_serializable("vision_transformer")
class SequencePooling(keras.layers.Layer):
    """Makes features (B, D) of tokens (B, N, D): their mean, weighted by the softmax of a learned linear score.

    Source: Hassani et al., Escaping the Big Data Paradigm with Compact Transformers, arXiv 2104.05704, section 3
    (SeqPool).
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.score = keras.layers.Dense(1, name="score")

    def call(self, tokens):
        """Pools tokens (B, N, D)."""
        return tf.squeeze(tf.matmul(self.weights_of(tokens), tokens, transpose_a=True), axis=1)

    def weights_of(self, tokens):
        """Gives the weights (B, N, 1), summing to 1, with which tokens (B, N, D) are read."""
        return tf.nn.softmax(self.score(tokens), axis=1)


@keras.utils.register_keras_serializable("vision_transformer")
class LinearClassifier(keras.layers.Layer):
    """One Dense layer behind dropout: features (B, F) to logits (B, K), as in published ViTs."""

    def __init__(self, num_classes: int, dropout: float = 0.0, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.dropout = Dropout(dropout, seed, name="dropout", dtype=self.dtype_policy)
        self.projection = keras.layers.Dense(num_classes, name="projection", dtype=self.dtype_policy)

    def call(self, features, step=None):
        """Gives the logits of features (B, F); drops out only in a training step."""
        return self.projection(self.dropout(features, step=step))

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "num_classes": self.num_classes, "dropout": self.dropout.rate,
                "seed": self.dropout.seed}


def make_classifier(config: dict, seed: int):
    """Makes the classifier of a VisionTransformer's config; `seed` is its dropout's."""
    # Logits stay float32 under mixed precision: half precision would round small losses away.
    common = {"dropout": config["classifier_dropout"], "seed": seed, "name": "classifier", "dtype": "float32"}
    if config["classifier"] == "linear":
        return LinearClassifier(config["num_classes"], **common)
    return MLP(config["mlp_hidden_dim"], config["num_classes"], **common)
