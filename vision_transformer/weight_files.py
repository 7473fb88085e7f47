"""Files of weights, strangers' too: which arrays are in there, of what shapes, before any of them is read.

    .safetensors    as Hugging Face publishes them
    .npz            NumPy's, as Google publishes them

Nothing in either is run, and no more memory is taken than the file has bytes for. Whatever floating type an array has,
it is read as float32.
"""
from __future__ import annotations

import contextlib
import json
import math
import zipfile
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import safetensors
from numpy.lib import format as npy

from .checks import shown
from .messages import harmless, one_line
from .storage import reason

LARGEST_HEADER = 2 ** 24            # bytes of JSON; a real one has 100 for each array
BFLOAT16 = np.dtype("V2")           # numpy has no such type: two bytes
TYPES = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": BFLOAT16}


class PretrainedError(ValueError):
    """Published weights that are missing, damaged or of a model that can't be made here; the message says which."""


class Weights(NamedTuple):
    """A file's arrays: name -> shape, and a function that gives the float32 array of a name."""

    path: Path
    shapes: dict
    read: Callable


def open_weights(path) -> Weights:
    """Opens a .safetensors or .npz file.

    Raises:
        PretrainedError: it is missing, damaged or neither.
    """
    path = Path(path)
    kinds = {".safetensors": _safetensors, ".npz": _npz}
    if path.suffix not in kinds:
        raise PretrainedError(f"{harmless(path)} is no file of weights that is read here; give a .safetensors or .npz "
                              "file.")
    with _refusing(path):
        shapes, read = kinds[path.suffix](path)

    def guarded(name):
        with _refusing(path):
            return read(name)

    return Weights(path, shapes, guarded)


def read_json(path: Path) -> dict:
    """Gives what a JSON file says; raises PretrainedError where it is missing, too large or holds no names."""
    with _refusing(path):
        if path.stat().st_size > LARGEST_HEADER:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no names and values")
    return values


@contextlib.contextmanager
def _refusing(path: Path):
    """Turns whatever a damaged file leads to into one PretrainedError that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError, SyntaxError,
            NotImplementedError, OverflowError, safetensors.SafetensorError, zipfile.BadZipFile) as error:
        why = reason(error) if isinstance(error, OSError) else one_line(error)[:300]
        raise PretrainedError(f"{harmless(path)} can't be read: {why}.") from error


def _safetensors(path: Path) -> tuple:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LARGEST_HEADER:
            raise ValueError(f"its header has {length:,} bytes")
        with safetensors.safe_open(path, framework="np"):       # refuses one whose parts don't cover the file exactly
            header = json.loads(file.read(length))
    header.pop("__metadata__", None)

    def read(name):
        begin, end = header[name]["data_offsets"]
        kind = TYPES.get(header[name]["dtype"])
        if kind is None:
            raise _no_number(name, header[name]["dtype"])
        content = np.fromfile(path, np.uint8, end - begin, offset=8 + length + begin)
        return _float32(content.view(kind)).reshape(header[name]["shape"])

    return {name: tuple(entry["shape"]) for name, entry in header.items()}, read


def _npz(path: Path) -> tuple:
    entries = {}                                        # name -> shape, whether column by column, type, zip's entry
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:        # a few bytes could become gigabytes
                raise ValueError("it is compressed; write it again by numpy.savez")
            with archive.open(info) as file:
                if npy.read_magic(file) != (1, 0):      # others are for headers of more than 64 KB
                    raise ValueError(f"{info.filename} is no plain array")
                shape, by_columns, kind = npy.read_array_header_1_0(file)
                if kind.hasobject or math.prod(shape) * kind.itemsize + file.tell() != info.file_size:
                    raise ValueError(f"{info.filename} is no array of the size it claims")
            entries[info.filename[:-len(".npy")]] = shape, by_columns, kind, info

    def read(name):
        shape, by_columns, kind, info = entries[name]
        if kind.kind != "f" and kind != BFLOAT16:
            raise _no_number(name, kind)
        with zipfile.ZipFile(path) as archive, archive.open(info) as file:
            npy.read_magic(file), npy.read_array_header_1_0(file)
            content = np.frombuffer(file.read(), kind)
        return _float32(content).reshape(shape, order="F" if by_columns else "C")

    return {name: entry[0] for name, entry in entries.items()}, read


def _no_number(name: str, kind) -> ValueError:
    return ValueError(f"{name} is of type {shown(str(kind))}; weights are of type {', '.join(TYPES)}")


def _float32(array):
    if array.dtype == BFLOAT16:                         # the upper half of a float32
        return (array.view("<u2").astype("<u4") << 16).view("<f4")
    return array.astype(np.float32)
