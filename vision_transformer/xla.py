"""XLA for kernels of many small operations: they become a few loops over the pictures or maps."""
from __future__ import annotations

import functools
from typing import Callable

import tensorflow as tf


@functools.lru_cache(maxsize=None)
def compiled(kernel: Callable) -> Callable:
    """Gives the kernel compiled by XLA: for each shape of its tensors, and each value of what else it takes."""
    return tf.function(kernel, jit_compile=True, autograph=False)


@functools.lru_cache(maxsize=None)
def linear(kernel: Callable) -> Callable:
    """Gives a kernel that is linear in its tensors, of known shapes, compiled by XLA together with its gradient.

    The gradient needs none of the tensors; TensorFlow's own of a compiled function keeps them, which takes longer.
    """
    def gradient(shapes, upstream):
        anywhere = [tf.zeros(shape, upstream[0].dtype) for shape in shapes]
        with tf.GradientTape() as tape:
            tape.watch(anywhere)
            outputs = kernel(*anywhere)
        return tape.gradient(outputs, anywhere, upstream)

    @tf.custom_gradient
    def function(*inputs):
        shapes = tuple(tuple(x.shape) for x in inputs)
        return compiled(kernel)(*inputs), lambda *upstream: compiled(gradient)(shapes, upstream)

    return function


def pays(images: tf.Tensor) -> bool:
    """Whether to compile what works on these pictures (B, H, W, C).

    Not where B is unknown and may be another one each time, not for a single call from Python, and not in a TensorFlow
    that was built without XLA.
    """
    return bool(images.shape[0]) and not tf.executing_eagerly() and tf.test.is_built_with_xla()
