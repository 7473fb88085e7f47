"""Running out of memory, said in words that help."""
from __future__ import annotations

import contextlib

import tensorflow as tf

from .messages import OutOfMemory


@contextlib.contextmanager
def enough_memory(needed_by: str, lower: str):
    """While entered, running out of the device's or the computer's memory is an OutOfMemory that says what to do.

    needed_by, lower: what asks for the memory, and what to lower.
    """
    try:
        yield
    except OutOfMemory:
        raise                                           # said already, by who knows better
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        raise OutOfMemory(f"out of memory: {needed_by} doesn't fit. Lower {lower}.") from error
