"""Muon: an update in which all directions of a matrix have about the same length, by matrix products alone.

A gradient, and Adam's update too, is mostly a few directions; the rest of a matrix hardly learns. Muon replaces the
momentum U S V^T of a hidden layer's matrix by about U V^T. It needs no decomposition, which DirectML would not have.
Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
"""
from __future__ import annotations

import collections

import numpy as np
import tensorflow as tf
from tensorflow import keras

MOMENTUM = 0.95                 # how much of the gradients' mean a step keeps, in place of BETA_1
STEPS = 5                       # of the iteration; each is two products of the matrix's smaller side, and one more
ODD_POLYNOMIAL = 3.4445, -4.7750, 2.0315        # a x + b x^3 + c x^5 brings lengths from 0.001 on to about 0.7 .. 1.2


def is_hidden_matrix(path: str, shape) -> bool:
    """Tells whether Muon updates a weight, by its path: kernels, but for patches' projection and those of the heads.

    A convolution's kernel counts as a matrix (height * width * channels in, channels out).
    """
    outside = ("patches/projection", "sequence_pooling", "classifier")
    return path.endswith("kernel") and len(shape) > 1 and not path.startswith(outside)


def orthogonalize(matrices):
    """Gives matrices (..., n, m) with the same directions, each of length about 1: U S V^T becomes about U V^T.

    Five steps of Newton and Schulz's iteration, of odd polynomials of degree 5; in bfloat16 where layers compute in it.
    """
    kind = "bfloat16" if keras.mixed_precision.global_policy().compute_dtype == "bfloat16" else "float32"
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = tf.linalg.matrix_transpose(matrices) if tall else matrices
    x = tf.cast(x / (tf.norm(x, axis=(-2, -1), keepdims=True) + 1e-7), kind)
    a, b, c = (tf.constant(number, kind) for number in ODD_POLYNOMIAL)
    for _ in range(STEPS):
        square = tf.matmul(x, x, transpose_b=True)
        x = a * x + tf.matmul(b * square + c * tf.matmul(square, square), x)
    x = tf.cast(x, tf.float32)
    return tf.linalg.matrix_transpose(x) if tall else x


class Muon:
    """Muon's part of an optimizer whose weights lie in one flat vector.

    Args:
        paths, shapes: of all weights, in the vector's order.
    """

    def __init__(self, paths, shapes):
        self.hidden = [is_hidden_matrix(path, shape) for path, shape in zip(paths, shapes)]
        self.shapes = [tuple(shape) for shape in shapes]
        self.sizes = [int(np.prod(shape)) for shape in self.shapes]

    def momentum(self, otherwise: float) -> np.ndarray:
        """Gives how much of its mean gradient each number of the vector keeps: `otherwise` for other optimizers'."""
        return np.repeat(np.float32([MOMENTUM if hidden else otherwise for hidden in self.hidden]), self.sizes)

    def replaced(self, update, mean, gradient, rate):
        """Gives `update`, a vector, with Muon's for the hidden matrices: of their mean gradient, a step ahead."""
        ahead = tf.split(MOMENTUM * mean + (1 - MOMENTUM) * gradient, self.sizes)
        parts = tf.split(update, self.sizes)
        alike = collections.defaultdict(list)           # matrices of one shape go through the products together
        for number, shape in enumerate(self.shapes):
            if self.hidden[number]:
                alike[int(np.prod(shape[:-1])), shape[-1]].append(number)
        for shape, numbers in alike.items():
            matrices = orthogonalize(tf.stack([tf.reshape(ahead[number], shape) for number in numbers]))
            matrices *= rate * max(1, shape[0] / shape[1]) ** 0.5       # a number of it: about 1 / sqrt(outputs)
            for number, matrix in zip(numbers, tf.unstack(matrices)):
                parts[number] = tf.reshape(matrix, [-1])
        return tf.concat(parts, axis=0)
