"""XLA for kernels of many small operations: they become a few loops over the pictures or maps."""
from __future__ import annotations

import contextlib
import contextvars
import functools
from typing import Callable

import tensorflow as tf

_as_on_directml = contextvars.ContextVar("as_on_directml", default=False)


@functools.lru_cache(maxsize=None)
def compiled(kernel: Callable) -> Callable:
    """Gives the kernel compiled by XLA: for each shape of its tensors, and each value of what else it takes."""
    return tf.function(kernel, jit_compile=True, autograph=False)


@functools.lru_cache(maxsize=None)
def linear(kernel: Callable) -> Callable:
    """Gives a kernel compiled by XLA together with its gradient, which is the same everywhere: taken at zeros.

    kernel: linear in its tensors, which have known shapes; nobody checks that. TensorFlow's own gradient of a compiled
    function keeps the tensors, which takes longer.
    """
    def gradient(specs, upstream):
        zeros = [tf.zeros(shape, dtype) for shape, dtype in specs]
        with tf.GradientTape() as tape:
            tape.watch(zeros)
            outputs = kernel(*zeros)
        return tape.gradient(outputs, zeros, upstream)

    @tf.custom_gradient
    def function(*inputs):
        specs = tuple((tuple(x.shape), x.dtype) for x in inputs)
        return compiled(kernel)(*inputs), lambda *upstream: compiled(gradient)(specs, upstream)

    return function


def pays(images: tf.Tensor) -> bool:
    """Whether to compile what works on these pictures (B, H, W, C).

    Not where B is unknown and may be another one each time, not for a single call from Python, and not in a TensorFlow
    that was built without XLA.
    """
    return bool(images.shape[0]) and not tf.executing_eagerly() and tf.test.is_built_with_xla()


def pays_in_model(maps: tf.Tensor) -> bool:
    """Whether to compile what works on these maps (B, H, W, C) inside a model: where no GPU is visible.

    DirectML has no XLA; what pays on CUDA was not measured.
    """
    return pays(maps) and not tf.config.get_visible_devices("GPU") and not _as_on_directml.get()


@contextlib.contextmanager
def as_on_directml():
    """While entered, functions of models are traced as for a DirectML device, whether there is one or not."""
    token = _as_on_directml.set(True)
    try:
        yield
    finally:
        _as_on_directml.reset(token)
