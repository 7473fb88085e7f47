"""GELU, layer normalization and attention with their gradients written out: what a block spends its time on.

What TensorFlow derives itself takes more passes over large tensors, and keeps more of them for the way back. Letters: B
pictures in a batch, h attention heads, N tokens, d numbers per head. `dx` is the loss's gradient with respect to x.
"""
from __future__ import annotations

import math

import tensorflow as tf


@tf.custom_gradient
def gelu(x):
    """Multiplies x by the normal distribution's share below x (Hendrycks and Gimpel, arXiv 1606.08415).

    By Erf, because Keras 3's own becomes an Erfc op, which the ONNX converter cannot write.
    """
    twice_the_share = 1.0 + tf.math.erf(x * tf.cast(0.5 ** 0.5, x.dtype))

    def gradient(dy):
        density = tf.exp(-0.5 * tf.square(x)) * tf.cast((2 * math.pi) ** -0.5, x.dtype)
        return dy * (0.5 * twice_the_share + x * density)

    return 0.5 * x * twice_the_share, gradient          # in these ops TensorFlow Lite knows its own GELU again


@tf.custom_gradient
def normalize(x, gain, bias, epsilon):
    """Gives (x - mean) / sqrt(variance + epsilon) * gain + bias; of x (..., D) over its D numbers, gain and bias (D,).

    Source: Ba et al., Layer Normalization, arXiv 1607.06450, equation 4.
    """
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    scale = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + epsilon)
    normal = centred * scale

    def gradient(dy):
        dnormal = dy * gain
        along = tf.reduce_mean(dnormal * normal, axis=-1, keepdims=True)
        dx = scale * (dnormal - tf.reduce_mean(dnormal, axis=-1, keepdims=True) - normal * along)
        batch = list(range(len(x.shape) - 1))
        return dx, tf.reduce_sum(dy * normal, batch), tf.reduce_sum(dy, batch), None

    return normal * gain + bias, gradient


def attend(query, key, value, mask=None):
    """Gives the values seen (B, h, N, d) and the shares that each token gives the others (B, h, N, N), rows of sum 1.

    query (scaled), key, value: (B, h, N, d); mask: added to the scores, (N, N). No gradient flows through the shares.
    Source: Vaswani et al., arXiv 1706.03762, equation 1; its gradient: Dao et al., FlashAttention, arXiv 2205.14135,
    appendix B.2, whose sum over d in place of N is what makes it short.
    """
    @tf.custom_gradient
    def attention(query, key, value):
        scores = tf.matmul(query, key, transpose_b=True)
        shares = tf.nn.softmax(scores if mask is None else scores + mask)
        seen = tf.matmul(shares, value)

        def gradient(dseen, _):
            along = tf.reduce_sum(dseen * seen, axis=-1, keepdims=True)
            dscores = shares * (tf.matmul(dseen, value, transpose_b=True) - along)
            # The small matrix is turned, before and after: to turn the large one takes twice the time on a CPU.
            dkey = tf.linalg.matrix_transpose(tf.matmul(query, dscores, transpose_a=True))
            dvalue = tf.linalg.matrix_transpose(tf.matmul(dseen, shares, transpose_a=True))
            return tf.matmul(dscores, key), dkey, dvalue

        return (seen, shares), gradient

    seen, shares = attention(query, key, value)
    return seen, tf.stop_gradient(shares)
