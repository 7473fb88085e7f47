"""What is printed: text that strangers wrote, in files and file names, made harmless; times as people say them."""
from __future__ import annotations

import math

OUT_OF_MEMORY = "out of memory; lower BATCH_SIZE or the model's sizes"


class OutOfMemory(MemoryError):
    """A MemoryError whose message says what doesn't fit, and what to do."""


def harmless(text) -> str:
    r"""Text -> the same on one line, with what would break it, or steer a terminal, written as \n, \x1b, \u202e."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
                   for letter in str(text))


def one_line(error: BaseException) -> str:
    """An exception -> its message on one harmless line; where it has none, what kind of exception it is."""
    text = harmless(" ".join(str(error).split()))
    if isinstance(error, MemoryError):
        return text if isinstance(error, OutOfMemory) else OUT_OF_MEMORY
    return text or type(error).__name__


def duration(seconds: float) -> str:
    """Writes seconds as people say them: '42 s', '3 min 20 s', '5 h 20 min'."""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
