"""Pictures in a file, more than fit into memory perhaps: used like an array, read only where they are asked for."""
from __future__ import annotations

from typing import Iterator

import numpy as np

PIECE = 2 ** 24         # bytes that are worked on at a time


class StoredPictures:
    """Pictures (n, H, W, C), uint8, of an array that lies in a file, such as a numpy.memmap.

    A slice, an array of numbers or a mask gives other StoredPictures and reads nothing; a number reads that picture,
    numpy.asarray all of them.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, stored: np.ndarray, places: np.ndarray | None = None):
        self.stored = stored
        self.places = np.arange(len(stored)) if places is None else places

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Returns (n, H, W, C)."""
        return (len(self.places), *self.stored.shape[1:])

    def __len__(self) -> int:
        """Returns the number of pictures, n."""
        return len(self.places)

    def __getitem__(self, key):
        """Returns the pictures of these numbers, or the one."""
        places = self.places[key]
        return StoredPictures(self.stored, places) if np.ndim(places) else np.array(self.stored[places])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """Reads all pictures."""
        return np.asarray(self.stored[self.places], dtype)


def in_pieces(array) -> Iterator[np.ndarray]:
    """Array or StoredPictures (n, ...) -> one after the other all of its rows, as arrays of about PIECE bytes."""
    rows = max(1, PIECE // max(1, int(np.prod(array.shape[1:])) * array.dtype.itemsize))
    for first in range(0, len(array), rows):
        yield np.ascontiguousarray(array[first:first + rows])
