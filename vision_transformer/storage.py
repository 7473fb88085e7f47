"""Files that are whole or not there: each is written beside its place and then moved, so a kill leaves none half done.

Arrays are kept as safetensors, which holds no code, with a checksum.
"""
from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import time
from pathlib import Path

import filelock
import numpy as np
import safetensors
from safetensors.numpy import save as safetensors_bytes

from .checks import shown
from .messages import harmless, one_line


class RunError(ValueError):
    """A run folder that is missing, damaged or in use, or doesn't fit."""


class Damaged(RunError):
    """A file that is not as it was written."""


class CannotWrite(RuntimeError):
    """A file that can't be written: a full disk, a folder without permission. What was there before still is."""


def make_folder(path: Path) -> None:
    """Makes a folder, and those it is in, where they are not there yet; raises CannotWrite where that can't be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_table(path: Path, header, rows) -> None:
    """Writes a table as CSV: the names of its columns, then its rows; raises what write does."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write(path, text.getvalue())


def write(path: Path, content, before=None) -> None:
    """Writes text, bytes, or what gives pieces of bytes to a file all at once: beside it first, flushed, then renamed.

    before: where the file that was there goes.

    Raises:
        CannotWrite: the old file, if there was one, is as it was, here or where `before` says.
    """
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("wb") as file:
            content = content.encode("utf-8") if isinstance(content, str) else content
            for piece in [content] if isinstance(content, bytes) else content:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if before is not None and path.is_file():
            rename(path, before)
        rename(beside, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def cannot_write(path: Path, error: Exception) -> CannotWrite:
    """Gives the error that says which file can't be written, why, and how to go on."""
    return CannotWrite(f"{path} can't be written: {reason(error)}. All that was saved before is whole. Make room or "
                       f"give permission; then run this again, or go on with a training by --resume {path.parent}")


def reason(error: Exception) -> str:
    """Gives what the operating system has against it, in a few words."""
    error = error.__cause__ if isinstance(error, CannotWrite) else error
    return getattr(error, "strerror", None) or one_line(error)


def rename(path: Path, to: Path) -> None:
    """Moves a file or folder, with patience."""
    for patience in range(20, -1, -1):
        try:
            path.replace(to)
            return
        except PermissionError:         # Windows, while a viewer or a virus scanner has the old file open
            if not patience:
                raise
            time.sleep(0.25)


def _flush_folder(folder: Path) -> None:
    """Makes sure that a renamed file keeps its new name through a power cut."""
    if os.name == "posix":              # Windows flushes no folders
        with contextlib.suppress(OSError):              # nor do some network drives
            folder = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def lock(folder: Path) -> filelock.BaseFileLock:
    """Keeps other processes out of a run folder until released; the system does so when this process ends, however.

    Raises:
        RunError: another process has it.
        CannotWrite: the folder can't be written to.
    """
    held = filelock.FileLock(folder / ".lock", is_singleton=True)       # so that this process may take it again
    try:
        held.acquire(blocking=False)
    except filelock.Timeout as error:
        raise RunError(f"another training is using {folder} right now: wait for its end or stop it; without --resume a "
                       "training gets a folder of its own.") from error
    except OSError as error:
        raise cannot_write(folder / ".lock", error) from error
    return held


def write_tensors(path: Path, tensors: dict, values: dict, before=None) -> None:
    """Writes arrays by name and plain values by name, with a checksum of all: the format itself sees no flipped bit."""
    # safetensors 0.8.0 writes wrong data, silently, for an array that is not contiguous.
    tensors = {name: np.asarray(t, order="C") for name, t in tensors.items()}
    about = json.dumps({**values, "sha256": _checksum(tensors, values)})
    write(path, safetensors_bytes(tensors, {"about": about}), before)      # of two entries the order would be random


def read_tensors(path: Path) -> tuple:
    """Gives the arrays and the values by name.

    Raises:
        Damaged: the file is not as write_tensors left it.
        RunError: it is missing or can't be opened.
    """
    if not path.is_file():
        raise RunError(f"{path} is missing; the training has not come so far, or the file was removed.")
    try:
        path.open("rb").close()
    except OSError as error:            # no permission, or another program has it to itself: not damaged
        raise RunError(f"{path} can't be read: {reason(error)}; make it readable, and try again.") from error
    try:
        with safetensors.safe_open(path, framework="np") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        values = json.loads(metadata["about"])
        checksum = values.pop("sha256")
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError,
            RecursionError) as error:                   # what the file lacks, or numpy has no type for
        raise Damaged(f"{path} is damaged: {one_line(error)[:300]}.") from error
    if checksum != _checksum(tensors, values):
        raise Damaged(f"{path} is damaged: its checksum is not that of its contents.")
    return tensors, values


def assign(path: Path, tensors: dict, variables: dict) -> None:
    """Puts the arrays that were read from path into the variables of the same names; all of them, or none.

    Raises:
        RunError: other names (both lists are given), shapes or types.
    """
    missing, unknown = sorted(variables.keys() - tensors.keys()), sorted(tensors.keys() - variables.keys())
    if missing or unknown:
        raise RunError(f"{path} doesn't fit the model: missing {_listed(missing)}; unknown {_listed(unknown)}.")
    for name, variable in variables.items():
        here, there = (tensors[name].shape, tensors[name].dtype), (tuple(variable.shape), variable.dtype.as_numpy_dtype)
        if here != there:
            raise RunError(f"{path}: {name} is of shape {here[0]} and type {here[1]}, the model needs {there[0]} and "
                           f"{np.dtype(there[1])}.")
    for name, variable in variables.items():
        variable.assign(tensors[name])


def _listed(names: list, most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(harmless(shown(name)[1:-1]) for name in names[:most]) + more or "nothing"


def _checksum(tensors: dict, values: dict) -> str:
    digest = hashlib.sha256(json.dumps(values).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()
