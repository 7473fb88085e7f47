"""CIFAR's official files -> uint8 pictures, labels and class names.

They may come from strangers: a pickle runs nothing (`plain_pickle`), and an archive is read in memory, member by
member, never extracted (`_archive_files`). What a file says of its size is checked before anything of that size is
made.
"""
from __future__ import annotations

import gzip
import os
import reprlib
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .messages import one_line
from .plain_pickle import FROM_BUFFER, Recipe, unpickle

CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
LARGEST_FILE = 256 * 2**20     # bytes; the largest genuine ones: an archive of 170 million, CIFAR-100's train of 155
LARGEST_ARCHIVE = 2 * LARGEST_FILE          # bytes, unpacked; the genuine ones have 186 million
TAR_BLOCK = 512                # bytes: a tar is made of such blocks
LONGEST_NAME = 100             # letters of a class's name


class DataError(ValueError):
    """A problem with data files; the message names the file, what is wrong with it, and what to do."""


class Layout(NamedTuple):
    """What a dataset's files are called, and its classes in label order."""

    name: str
    folder: str
    archive: str
    files: tuple[str, ...]             # the training files, the test file, the file of class names
    labels: str
    label_names: str
    class_names: tuple[str, ...]


CIFAR10 = Layout(
    "cifar10", "cifar-10-batches-py", "cifar-10-python.tar.gz",
    (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"), "labels", "label_names",
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"))

CIFAR100 = Layout(
    "cifar100", "cifar-100-python", "cifar-100-python.tar.gz", ("train", "test", "meta"),
    "fine_labels", "fine_label_names", tuple("""
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
    can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
    dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
    lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter
    palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road
    rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower
    sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
    willow_tree wolf woman worm""".split()))  # noqa: SIM905


@contextmanager
def refusing(layout, where):
    """Turns whatever goes wrong inside into a DataError that names `where` and says what to do."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:         # a damaged or forged file can raise nearly anything
        raise DataError(f"{layout.name} cannot be read from {where}: {one_line(error)[:300]}; "
                        f"put {layout.archive} from {CIFAR_PAGE} into a folder D and give --data-dir D "
                        "(DATA_DIR), or run `python train_digits.py`, which needs no download.") from error


def _find_source(layout, data_dir):
    """Returns the path of the folder, or else of the archive, that data_dir holds or is."""
    place = Path(data_dir).expanduser()
    for folder in (place / layout.folder, place):
        if folder.is_dir() and (folder.name == layout.folder or (folder / layout.files[-1]).is_file()):
            return folder
    archive = place / layout.archive if place.is_dir() else place
    if not archive.exists():
        raise ValueError(f"neither the folder {layout.folder} nor the file {layout.archive} is there")
    _check_file(archive)
    return archive


def _folder_files(layout, folder):
    """Yields the name and content of each of the layout's files in a folder."""
    for name in layout.files:
        if (folder / name).exists():
            _check_file(folder / name)
            yield name, (folder / name).read_bytes()


def _archive_files(layout, archive):
    """Yields the name and content of each of the layout's files in a tar.gz.

    tarfile is not for strangers' archives: a header of 200 kB keeps it busy for minutes, a chain of them overflows its
    stack, and it stops before the checksum. Of a header only what every tar has is read; what newer kinds add (long
    names, sparse files) is passed over, as no genuine file needs it.
    """
    wanted = {f"{prefix}{layout.folder}/{name}": name for prefix in ("", "./") for name in layout.files}
    with gzip.open(archive) as tar:
        while len(header := tar.read(TAR_BLOCK)) == TAR_BLOCK and any(header):
            name, kind, size = _tar_member(header)
            padded = -(-size // TAR_BLOCK) * TAR_BLOCK
            if tar.tell() + padded > LARGEST_ARCHIVE:
                raise ValueError(f"it unpacks to more than {LARGEST_ARCHIVE} bytes, which CIFAR never does")
            if name not in wanted:
                tar.seek(padded, os.SEEK_CUR)
                continue
            if kind not in b"0\0":
                raise ValueError(f"its {name} is not a regular file")
            content = tar.read(padded)[:size]
            if len(content) < size:
                raise ValueError(f"it ends in the middle of {name}")
            yield wanted[name], content
        while tar.read(2**20):          # to the end, where gzip keeps the checksum
            if tar.tell() > LARGEST_ARCHIVE:
                raise ValueError(f"it unpacks to more than {LARGEST_ARCHIVE} bytes, which CIFAR never does")


def _tar_member(header):
    """A tar header -> the member's name, kind (b"0" or b"\\0": a file) and size (POSIX.1-2017, pax, "ustar format")."""
    if _tar_number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise ValueError("it is damaged: a member's checksum is wrong, or it is no tar")
    name, prefix = (part.split(b"\0")[0].decode("utf-8", "replace") for part in (header[:100], header[345:500]))
    if prefix and header[257:263] == b"ustar\0":
        name = f"{prefix}/{name}"
    size = _tar_number(header[124:136])
    _check_size(size, name)
    return name.rstrip("/"), header[156:157], size


def _tar_number(field):
    if field[0] & 0x80:                 # GNU's way of writing more than octal digits can
        return int.from_bytes(field[1:], "big", signed=field[0] == 0xff)
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise ValueError("it is damaged: a member's header has no number where one must be")
    return int(digits or b"0", 8)


def _check_file(path):
    if not path.is_file():              # another kind, such as a pipe, could be waited for in vain
        raise ValueError(f"its {path.name} is not a regular file")
    _check_size(path.stat().st_size, path.name)


def _check_size(size, name):
    if not 0 <= size <= LARGEST_FILE:
        raise ValueError(f"{name} declares {size} bytes, but a CIFAR file has at most {LARGEST_FILE}")


def _unpickle(content):
    if not content:
        raise ValueError("it is empty")
    entries = unpickle(content)
    if not isinstance(entries, dict):
        raise ValueError("it is not a pickled dict")
    return {_text(key): value for key, value in entries.items()}


def _text(value):
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _uint8_array(recipe):
    if not isinstance(recipe, Recipe):
        raise ValueError("its data are not an array")
    try:
        if recipe.name == FROM_BUFFER:
            content, dtype, shape, order = recipe.arguments
        else:
            _version, shape, dtype, by_columns, content = recipe.state
            order = "F" if by_columns else "C"
        kind = _text(dtype.arguments[0])
    except (AttributeError, LookupError, TypeError, ValueError):
        raise ValueError("its data are not an array as numpy writes them") from None
    if kind != "u1":
        raise ValueError(f"its data are of type {reprlib.repr(kind)}, not uint8")
    return np.frombuffer(content, np.uint8).reshape(shape, order=order)


def _read_batch(content, layout):
    """Returns uint8 pictures (n, 32, 32, 3) and a list of their n labels."""
    entries = _unpickle(content)
    rows, labels = _uint8_array(entries.get("data")), entries.get(layout.labels)
    if rows.ndim != 2 or rows.shape[1] != 3072 or len(rows) == 0:
        raise ValueError(f"its data have the shape {rows.shape}, not (n, 3072) with n of 1 or more")
    if not isinstance(labels, list) or len(labels) != len(rows):
        raise ValueError(f"its {layout.labels} are not a list of {len(rows)} labels, one for each picture")
    for label in labels:
        if type(label) is not int or not 0 <= label < len(layout.class_names):
            raise ValueError(f"its label {reprlib.repr(label)} is not in 0..{len(layout.class_names) - 1}")
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels   # a row is all red, green, then blue


def _read_class_names(content, layout):
    names = _unpickle(content).get(layout.label_names)
    names = tuple(_text(name) for name in names) if isinstance(names, list) else ()
    if len(names) != len(layout.class_names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"its {layout.label_names} are not a list of {len(layout.class_names)} names")
    for name in names:
        if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or names.count(name) > 1:
            raise ValueError(f"its {layout.label_names} have the name {reprlib.repr(name)}, which is there twice, or "
                             f"not of 1 to {LONGEST_NAME} letters that can be printed")
    return names


def read_cifar(layout: Layout, data_dir: str):
    """Gives the training batches and the test batch, each (images (n, 32, 32, 3), labels), and the class names.

    Raises DataError for missing, damaged or forged files.
    """
    with refusing(layout, data_dir):
        source = _find_source(layout, data_dir)
    parts = {}
    with refusing(layout, source):
        for name, content in (_folder_files if source.is_dir() else _archive_files)(layout, source):
            if name in parts:
                raise ValueError(f"it has the file {name} twice")
            read = _read_class_names if name == layout.files[-1] else _read_batch
            with refusing(layout, f"{name} in {source}"):
                parts[name] = read(content, layout)
        for name in layout.files:
            if name not in parts:
                raise ValueError(f"it has no file {name}")
    *train, test, class_names = (parts[name] for name in layout.files)
    return train, test, class_names
