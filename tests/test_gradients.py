"""The gradients that are written out, against differences of the function itself and against TensorFlow's own."""
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from reference import random
from tensorflow import keras

from vision_transformer import blocks
from vision_transformer.compat import raw
from vision_transformer.gradients import attend, gelu, normalize

MASK = np.where(np.eye(5), -1e4, 0.0)


def plain_attention(query, key, value, mask=None):
    scores = tf.matmul(query, key, transpose_b=True)
    return tf.matmul(tf.nn.softmax(scores if mask is None else scores + mask), value)


# What is written out; the same as TensorFlow derives it; the shapes of what goes in.
FUNCTIONS = {
    "gelu": (gelu, lambda x: 0.5 * x * (1 + tf.math.erf(x / np.sqrt(2))), [(3, 7)]),
    "norm of rows": (lambda x, gain, bias: normalize(x, gain, bias, 1e-6),
                     lambda x, gain, bias: (x - tf.reduce_mean(x, -1, keepdims=True))
                     / tf.sqrt(tf.math.reduce_variance(x, -1, keepdims=True) + 1e-6) * gain + bias,
                     [(3, 5), (5,), (5,)]),
    "attention": (lambda *x: attend(*x)[0], plain_attention, [(2, 3, 5, 4)] * 3),
    "masked attention": (lambda *x: attend(*x, MASK)[0], lambda *x: plain_attention(*x, MASK), [(1, 2, 5, 3)] * 3),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient_is_the_functions_slope(name):
    function, plain, shapes = FUNCTIONS[name]
    inputs = [tf.constant(random(*shape, seed=seed), tf.float64) for seed, shape in enumerate(shapes)]
    written, differences = tf.test.compute_gradient(function, inputs, delta=1e-5)
    derived, _ = tf.test.compute_gradient(plain, inputs)
    for one, difference, other in zip(written, differences, derived):
        np.testing.assert_allclose(one, difference, atol=1e-7)
        np.testing.assert_allclose(one, other, atol=1e-7)
    np.testing.assert_allclose(function(*inputs), plain(*inputs), atol=1e-7)


def test_gelu_of_single_numbers():
    x = tf.constant([-3.0, -1.0, 0.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = gelu(x)
    np.testing.assert_allclose(y, x * scipy.special.ndtr(x), atol=1e-6)
    expected = scipy.special.ndtr(x) + x * np.exp(-x ** 2 / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(tape.gradient(y, x), expected, atol=1e-6)


def test_no_gradient_flows_through_the_shares():
    query, key, value = (tf.constant(random(1, 2, 3, 4, seed=seed)) for seed in range(3))
    with tf.GradientTape() as tape:
        tape.watch([query, key])
        shares = attend(query, key, value)[1]
    assert tape.gradient(shares, [query, key]) == [None, None]
    np.testing.assert_allclose(tf.reduce_sum(shares, -1), np.ones((1, 2, 3)), atol=1e-6)


@pytest.fixture
def policy():
    yield keras.mixed_precision.set_global_policy
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_norm_is_computed_in_float32_whatever_comes_in(dtype, policy):
    policy(f"mixed_{dtype}")
    layer, x = blocks.LayerNorm(), tf.cast(300 * random(2, 3, 64), dtype)   # squares: 90,000; float16 ends at 65,504
    layer(x)
    gain = np.linspace(1, 2, 64)
    raw(layer.gamma).assign(gain)
    exact = tf.cast(x, tf.float64).numpy()
    expected = gain * (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    y = layer(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(tf.cast(y, tf.float64), expected, atol=1e-6,
                               rtol={"bfloat16": 1 / 256, "float16": 1 / 2048}[dtype])
