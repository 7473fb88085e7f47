"""Batch normalization against the formula and against Keras's own: values, gradients, kept statistics, also by XLA."""
import numpy as np
import pytest
import reference
import tensorflow as tf
from reference import random
from tensorflow import keras

from vision_transformer.batch_norm import BatchNorm
from vision_transformer.compat import raw

X = 3 * random(2, 3, 5, 7) + np.arange(7, dtype=np.float32)
GAMMA, BETA = random(7, seed=1), random(7, seed=2)


def made(layer):
    """A built layer with gamma and beta of their own."""
    layer(X)
    raw(layer.gamma).assign(GAMMA)
    raw(layer.beta).assign(BETA)
    return layer


def train(layer, steps=1, jit_compile=False):
    """Calls a layer in training; gives the output and the gradients by x, gamma and beta of a loss of it."""
    targets = tf.constant(random(*X.shape, seed=3))

    @tf.function(jit_compile=jit_compile)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum((y - targets) ** 2)
        return y, tape.gradient(loss, [x, raw(layer.gamma), raw(layer.beta)])

    for _ in range(steps):
        y, gradients = step(tf.constant(X))
    return [y.numpy(), *(gradient.numpy() for gradient in gradients)]


@pytest.mark.parametrize("jit_compile", [False, True], ids=["plain", "xla"])
def test_training_equals_kerass_and_the_formula(jit_compile):
    ours, theirs = made(BatchNorm()), made(keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5))
    results = train(ours, steps=2, jit_compile=jit_compile)
    for one, other in zip(results, train(theirs, steps=2)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)
    normal = (X - X.mean((0, 1, 2))) / np.sqrt(X.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(results[0], GAMMA * normal + BETA, atol=1e-5)

    def kept(batch, start):
        return 0.81 * start + 0.19 * batch

    np.testing.assert_allclose(raw(ours.moving_mean), kept(X.mean((0, 1, 2)), 0), rtol=1e-5)
    np.testing.assert_allclose(raw(ours.moving_variance), kept(X.var((0, 1, 2), ddof=1), 1), rtol=1e-5)
    np.testing.assert_allclose(raw(ours.moving_mean), raw(theirs.moving_mean), rtol=1e-5)
    unbiased = int(keras.__version__[0] == "2")         # as ours; Keras 3 divides by n
    np.testing.assert_allclose(raw(theirs.moving_variance), kept(X.var((0, 1, 2), ddof=unbiased), 1), rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["plain", "xla"])
def test_inference_uses_the_kept_statistics_and_leaves_them(jit_compile):
    ours, theirs = made(BatchNorm()), made(keras.layers.BatchNormalization(epsilon=1e-5))
    for layer in (ours, theirs):
        raw(layer.moving_mean).assign(np.arange(7, dtype=np.float32))
        raw(layer.moving_variance).assign(np.arange(1, 8, dtype=np.float32))
    y = tf.function(ours, jit_compile=jit_compile)(X)
    np.testing.assert_allclose(y, theirs(X), atol=1e-5)
    np.testing.assert_allclose(y, GAMMA * (X - np.arange(7)) / np.sqrt(np.arange(1, 8) + 1e-5) + BETA, atol=1e-5)
    np.testing.assert_allclose(y, ours(X, training=False), atol=1e-5)
    assert raw(ours.moving_mean).numpy().tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_statistics_are_weights_but_not_trained():
    layer = made(BatchNorm())
    assert [tuple(v.shape) for v in layer.trainable_variables] == [(7,)] * 2
    assert [tuple(v.shape) for v in layer.non_trainable_variables] == [(7,)] * 2
    train(layer)
    reference.assert_survives_its_config(layer, X)


@pytest.mark.parametrize("policy, dtype", [("mixed_bfloat16", tf.bfloat16), ("mixed_float16", tf.float16)])
def test_half_precision_maps_have_float32_statistics(policy, dtype):
    keras.mixed_precision.set_global_policy(policy)
    try:
        layer = BatchNorm()
        y = layer(tf.cast(X, dtype), training=True)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert y.dtype == dtype and {raw(v).dtype for v in layer.weights} == {tf.float32}
    np.testing.assert_allclose(tf.cast(y, tf.float32), (X - X.mean((0, 1, 2))) / X.std((0, 1, 2)), atol=0.05)
    np.testing.assert_allclose(raw(layer.moving_mean), 0.1 * X.mean((0, 1, 2)), atol=2e-3)
