"""The only file that knows Keras 2.10 and Keras 3 apart."""
from __future__ import annotations

import tensorflow as tf


def raw(variable) -> tf.Variable:
    """Gives the tf.Variable of a weight: Keras 3 wraps it, Keras 2.10 doesn't."""
    return variable.value if hasattr(variable, "value") and not callable(variable.value) else variable


def weight_path(variable) -> str:
    """Gives a weight's name below its model, the same on both Kerases: 'block_0/mlp/expand/kernel'."""
    path = getattr(variable, "path", variable.name).split(":")[0]
    return path.split("/", 1)[1]


def uses_xla(model) -> bool:
    """Tells whether a compiled model trains by XLA: Keras 2.10 keeps what it was told, Keras 3 what it decided."""
    return getattr(model, "jit_compile", getattr(model, "_jit_compile", False)) is True
