"""XLA in the input pipeline: kernels of many small operations become a few loops over the pictures, on the CPU."""
from __future__ import annotations

import functools
from typing import Callable

import tensorflow as tf


@functools.lru_cache(maxsize=None)
def compiled(kernel: Callable) -> Callable:
    """Gives the kernel compiled by XLA: for each shape of its tensors, and each value of what else it takes."""
    return tf.function(kernel, jit_compile=True, autograph=False)


def pays(images: tf.Tensor) -> bool:
    """Whether to compile what works on these pictures (B, H, W, C).

    Not where B is unknown and may be another one each time, not for a single call from Python, and not in a TensorFlow
    that was built without XLA.
    """
    return bool(images.shape[0]) and not tf.executing_eagerly() and tf.test.is_built_with_xla()
