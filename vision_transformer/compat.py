"""The only file that knows the two stacks apart: TensorFlow 2.10 with Keras 2.10, and a current one with Keras 3."""
from __future__ import annotations

import tensorflow as tf


def raw(variable) -> tf.Variable:
    """Gives the tf.Variable of a weight: Keras 3 wraps it, Keras 2.10 doesn't."""
    return variable.value if hasattr(variable, "value") and not callable(variable.value) else variable


def weight_path(variable) -> str:
    """Gives a weight's name below its model, the same on both Kerases: 'block_0/mlp/expand/kernel'."""
    path = getattr(variable, "path", variable.name).split(":")[0]
    return path.split("/", 1)[1]


def fit_step(model, made):
    """Gives a step of Keras's fit: iterator -> logs. made: what make_train_function gave.

    Keras 2.10 gives just that. Keras 3 gives nothing, and keeps a loop in Python around its step, which is made here.
    """
    if made is not None:
        return made
    step = tf.function(model.train_step, jit_compile=bool(model.jit_compile))
    return lambda iterator: step(next(iterator))
