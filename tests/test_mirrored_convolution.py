"""Mirrored convolutions, by XLA in half of the products and with the twins written out, against one another."""
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import tensorflow as tf
from reference import random

from vision_transformer.compat import raw
from vision_transformer.mirrored_convolution import MirroredConvolution
from vision_transformer.xla import as_on_directml, linear

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from training_flops import multiply_adds

X, WEIGH = random(2, 5, 7, 6), random(2, 5, 7, 10, seed=1)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """With one the twins are written out."""
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind=None: [])


def make(of_halves=True, width=10, dtype="float32"):
    layer = MirroredConvolution(width, of_halves=of_halves, dtype=dtype)
    layer(X)
    raw(layer.kernel).assign(0.3 * random(*layer.kernel.shape, seed=2))
    return layer


def written_out(layer):
    """The kernel (3, 3, C, width) of a free convolution that does the same."""
    filters = raw(layer.kernel).numpy()
    return np.concatenate([filters, np.roll(filters[:, ::-1], filters.shape[2] // 2 if layer.of_halves else 0, axis=2)],
                          axis=3)


def traced(layer, x):
    """The compiled function that gives maps of x, the gradients by x and by the filters."""
    kernel, weigh = raw(layer.kernel), WEIGH[:, :, :x.shape[2]]

    @tf.function(input_signature=[tf.TensorSpec(x.shape, x.dtype)])
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) * weigh)
        return [y, *tape.gradient(loss, [x, kernel])]

    return step.get_concrete_function()


def is_compiled(function):
    return any(f.attr["_XlaMustCompile"].b for f in function.graph.as_graph_def().library.function)


@pytest.mark.parametrize("of_halves", [False, True])
def test_filters_are_followed_by_their_twins(of_halves):
    layer = make(of_halves)
    np.testing.assert_allclose(layer(X), reference.convolve_same(X, written_out(layer)), rtol=1e-4, atol=1e-4)


def test_twins_share_what_they_learn():
    """The gradient by a filter is that of a free convolution by the filter and by its twin, together."""
    layer = make()
    free = tf.Variable(written_out(layer))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(WEIGH * layer(X))
    found = tape.gradient(loss, raw(layer.kernel))
    with tf.GradientTape() as tape:
        other = tf.reduce_sum(WEIGH * tf.nn.conv2d(X, free, 1, "SAME"))
    np.testing.assert_allclose(loss, other, rtol=1e-4)
    own, twins = np.split(tape.gradient(other, free).numpy(), 2, axis=3)
    np.testing.assert_allclose(found, own + np.roll(twins, -3, axis=2)[:, ::-1], rtol=1e-3, atol=1e-3)


# ------------------------------------------------------------------------------------------ by XLA
@pytest.mark.parametrize("columns", [1, 2, 7])
def test_compiled_it_gives_the_same_maps_and_gradients(columns):
    layer, x = make(), tf.constant(X[:, :, :columns])
    function = traced(layer, x)
    with as_on_directml():
        other = traced(layer, x)
    assert is_compiled(function) and not is_compiled(other)
    for found, expected in zip(function(x), other(x)):
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_in_half_precision_it_is_as_near(kind):
    exact, x = make(), tf.constant(X)
    layer, half = make(dtype=f"mixed_{kind}"), tf.cast(x, kind)
    layer.set_weights(exact.get_weights())
    with as_on_directml():
        right, plain = traced(exact, x)(x), traced(layer, half)(half)
    function = traced(layer, half)
    assert is_compiled(function)
    found = function(half)
    assert [value.dtype for value in found] == [kind, kind, tf.float32]
    for value, other, expected in zip(found, plain, right):
        wrong, otherwise = (np.abs(tf.cast(each, tf.float32) - expected).max() for each in (value, other))
        assert 0 < wrong < 4 * otherwise < 0.06 * np.abs(expected).max()


def test_it_takes_half_of_the_multiply_adds():
    """3 of 9 places, 3 maps of C/2 each in place of C, twice (sums, differences): 18 of 36 C/2 x width/2."""
    layer, x = make(), tf.constant(X)
    directly = 2 * 5 * 7 * 9 * 6 * 10
    assert multiply_adds(traced(layer, x)) == 3 * directly // 2
    with as_on_directml():
        assert multiply_adds(traced(layer, x)) == 3 * directly
    pictures = make(of_halves=False)
    assert multiply_adds(traced(pictures, x)) == 3 * directly


def test_it_is_compiled_where_that_pays_only(monkeypatch):
    layer, x = make(), tf.constant(X)
    assert is_compiled(traced(layer, x)) and not is_compiled(traced(make(of_halves=False), x))
    unknown = tf.function(layer).get_concrete_function(tf.TensorSpec((None, 5, 7, 6)))
    assert not is_compiled(unknown), "another number of pictures would compile it again"
    with monkeypatch.context() as patch:
        patch.setattr(tf.config, "get_visible_devices", lambda kind=None: ["a GPU"])
        assert not is_compiled(traced(layer, x))
    monkeypatch.setattr(tf.test, "is_built_with_xla", lambda: False)
    assert not is_compiled(traced(layer, x))


def test_a_linear_kernel_has_the_gradient_that_tensorflow_derives():
    def kernel(a, b):
        return 2 * a - tf.reverse(b, [0]), tf.cast(a[:2], tf.float64)

    def step(function):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            first, second = function(a, b)
            loss = tf.reduce_sum(first * [1.0, 2.0, 4.0]) + tf.cast(tf.reduce_sum(second), tf.float32)
        return [first, second, *tape.gradient(loss, [a, b])]

    a, b = tf.constant([1.0, 2.0, 3.0]), tf.constant([5.0, 7.0, 9.0])
    for found, expected in zip(tf.function(lambda: step(linear(kernel)), autograph=False)(), step(kernel)):
        np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(found, [-4, -2, -1])


@pytest.mark.parametrize("of_halves", [False, True])
def test_layer_survives_its_config(of_halves):
    reference.assert_survives_its_config(make(of_halves), X)
