"""TensorFlow's rows of train_step.py: this project, the sample, the limit.

Each takes pictures (B, 32, 32, 3), 0..255, their labels (B,) and the row's options, and gives a function that makes one
step, and the multiply-adds of that step.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow import keras
from training_flops import multiply_adds

from vision_transformer import AdamW, Classification, Trainer
from vision_transformer.architectures import build_model
from vision_transformer.dry_run import until_training
from vision_transformer.embedding import LearnedTokens, PositionEmbedding, extract_patches
from vision_transformer.precision import set_precision
from vision_transformer.recipes import with_recipe
from vision_transformer.settings import read_settings
from vision_transformer.xla import as_on_directml

SCRIPT = Path(__file__).resolve().parents[1] / "train_cifar10.py"


def matrices(*_):
    """The limit: nothing but a matrix product."""
    matrix = tf.random.normal((1024, 1024))
    return tf.function(lambda: tf.matmul(matrix, matrix)), 1024 ** 3


def ours(images, labels, *flags):
    """A step of train_cifar10.py with these flags, by the project's own loop."""
    c = with_recipe(read_settings(SCRIPT, flags))
    set_precision(c.PRECISION)
    model = build_model(image_shape=(32, 32, 3), num_classes=10, **c.below("model"))
    optimizer = AdamW(model.trainable_variables, c.LEARNING_RATE, statistics=model.non_trainable_variables,
                      **c.below("optimizer"))
    trainer = Trainer(Classification(model, batch_size=len(images), **c.below("task")), optimizer, steps_per_epoch=1,
                      patience=c.PATIENCE, minimum_learning_rate=c.MINIMUM_LEARNING_RATE, **c.below("training"))
    data = tf.data.Dataset.from_tensors((np.int32(0), images, labels))
    step, tensors = trainer.train_step(data), next(iter(data))
    return lambda: step(*tensors), multiply_adds(step.get_concrete_function())


def ours_as_on_directml(images, labels, *flags):
    """The same, as it is traced for DirectML: the twins of mirrored filters lie in the convolution's kernel."""
    with as_on_directml():
        return ours(images, labels, *flags)


def sample(images, labels, keras_attention=""):
    """What the Microsoft sample computes, by Keras's fit and Adam."""
    model, data = sample_model(keras_attention), tf.data.Dataset.from_tensors((images, labels)).repeat()
    training = until_training(lambda: model.fit(data, steps_per_epoch=10 ** 6, verbose=0, shuffle=False))
    return lambda: training.fit_step(training.batches), multiply_adds(training.functions()["train step"])


def sample_model(keras_attention=""):
    """The sample's model, compiled: a class token, dropout at 27 places, GELU behind all of an MLP's layers."""
    layers = keras.layers

    class Attention(layers.Layer):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value, self.projection = (layers.Dense(64) for _ in range(4))

        def call(self, x):
            query, key, value = (tf.transpose(tf.reshape(dense(x), (-1, 65, 8, 8)), (0, 2, 1, 3))
                                 for dense in (self.query, self.key, self.value))
            shares = tf.nn.softmax(tf.matmul(query, key, transpose_b=True) / 8 ** 0.5)
            return self.projection(tf.reshape(tf.transpose(tf.matmul(shares, value), (0, 2, 1, 3)), (-1, 65, 64)))

    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
            self.attention = layers.MultiHeadAttention(8, 8) if keras_attention else Attention()
            self.expand, self.contract = layers.Dense(256, tf.nn.gelu), layers.Dense(64, tf.nn.gelu)
            self.dropouts = [layers.Dropout(0.2) for _ in range(3)]

        def call(self, x, training=None):
            y = self.norms[0](x)
            y = self.attention(y, y) if keras_attention else self.attention(y)
            x = x + self.dropouts[0](y, training=training)
            y = self.dropouts[1](self.expand(self.norms[1](x)), training=training)
            return x + self.dropouts[2](self.contract(y), training=training)

    class Sample(keras.Model):
        def __init__(self):
            super().__init__()
            self.projection, self.token = layers.Dense(64), LearnedTokens()
            self.positions = PositionEmbedding(8, 8, 1, 64)
            self.blocks, self.norm = [Block() for _ in range(8)], layers.LayerNormalization(epsilon=1e-6)
            self.classifier = keras.Sequential([
                layers.Dense(512, tf.nn.gelu), layers.Dropout(0.2), layers.Dense(256, tf.nn.gelu), layers.Dropout(0.2),
                layers.Dense(10), layers.Dropout(0.25)])

        def call(self, images, training=None):
            x = self.positions(self.token(self.projection(extract_patches(images / 255, 4, 4))))
            for block in self.blocks:
                x = block(x, training=training)
            return self.classifier(self.norm(x)[:, 0], training=training)

    model = Sample()
    model.compile(
        optimizer=keras.optimizers.Adam(0.001),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(), keras.metrics.SparseTopKCategoricalAccuracy(3)])
    return model
