"""Formulas written out in numpy, which the tests hold the layers against."""
import numpy as np
import scipy.special
import tensorflow as tf

from vision_transformer.compat import raw, weight_path


def weights_of(layer):
    """A layer's weights by the last two parts of their names, as numpy arrays."""
    return {"/".join(weight_path(v).split("/")[-2:]): raw(v).numpy() for v in layer.weights}


def gelu(x):
    return x * scipy.special.ndtr(x)


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def windows(x, size, stride=1):
    """(B, H, W, C) -> (B, rows, columns, size, size, C), what a kernel of that size looks at."""
    views = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return np.moveaxis(views, 3, -1)


def convolve(x, kernel, stride=1):
    """A convolution of (B, H, W, C) with (size, size, C, D), no padding."""
    return np.tensordot(windows(x, len(kernel), stride), kernel, axes=3)


def pad(x, before, after, value=0.0):
    """Adds rows and columns of `value`."""
    return np.pad(x, [(0, 0), (before, after), (before, after), (0, 0)], constant_values=value)


def convolve_same(x, kernel):
    """A 3x3 convolution that keeps height and width."""
    return convolve(pad(x, 1, 1), kernel)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_survives_its_config(layer, *inputs):
    """A copy made of a layer's config has that config, and with its weights the same outputs."""
    before = tf.nest.flatten(layer(*inputs))
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    copy(*inputs)
    copy.set_weights(layer.get_weights())
    for one, other in zip(before, tf.nest.flatten(copy(*inputs))):
        np.testing.assert_array_equal(one, other)


def randomize(layer, seed=1):
    """Gives each weight of a built layer another value, none of them 0 or 1; variances stay above 0."""
    rng = np.random.default_rng(seed)
    for v in layer.weights:
        v = raw(v)
        if v.dtype.is_floating:
            v.assign(rng.uniform(0.5, 1.5, v.shape) * np.where(rng.random(v.shape) < 0.5, -1, 1)
                     if "variance" not in v.name else rng.uniform(0.5, 1.5, v.shape))
