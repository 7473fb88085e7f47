"""CIFAR's official files -> uint8 pictures, labels and class names.

They are pickles and may come from strangers: nothing that they name is ever run (`_Unpickler`), and an archive is read
in memory, member by member, never extracted (`_archive_files`).
"""
from __future__ import annotations

import gzip
import io
import pickle
import reprlib
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
LARGEST_FILE = 256 * 2**20     # bytes; the largest genuine file, CIFAR-100's train, has 155 million


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
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{layout.name} cannot be read from {where}: {reason}; "
                        f"put {layout.archive} from {CIFAR_PAGE} into a folder D and give --data-dir D "
                        "(DATA_DIR), or run `python train_digits.py`, which needs no download.") from error


def _find_source(layout, data_dir):
    """Returns the path of the folder, or else of the archive, that data_dir holds or is."""
    place = Path(data_dir).expanduser()
    for folder in (place / layout.folder, place):
        if folder.is_dir() and (folder.name == layout.folder or (folder / layout.files[-1]).is_file()):
            return folder
    archive = place if place.is_file() else place / layout.archive
    if not archive.is_file():
        raise ValueError(f"neither the folder {layout.folder} nor the file {layout.archive} is there")
    return archive


def _archive_files(layout, archive):
    """Yields the name and content of each of the layout's files in a tar.gz."""
    wanted = {f"{prefix}{layout.folder}/{name}": name for prefix in ("", "./") for name in layout.files}
    with _Gunzip(archive) as unzipped, tarfile.open(fileobj=unzipped, mode="r:") as tar:
        for member in tar:
            _check_size(member.size, member.name)      # a negative one would send tarfile in circles
            if member.name in wanted:
                if not member.isfile():
                    raise ValueError(f"its {member.name} is not a regular file")
                yield wanted[member.name], tar.extractfile(member).read()


class _Gunzip(gzip.GzipFile):
    def read(self, size=-1):
        _check_size(size, "a tar header")      # tarfile would read one of any length whole
        return super().read(size)


def _check_size(size, name):
    if not 0 <= size <= LARGEST_FILE:
        raise ValueError(f"{name} declares {size} bytes, but a CIFAR file has at most {LARGEST_FILE}")


class _Recipe:
    """Stands in for what a pickle calls to build an array: keeps what it is given, does nothing with it."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __setstate__(self, state):
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Reads a pickle of Python 2 or 3 and runs nothing: the few names in a CIFAR file get stand-ins.

    numpy's own would not do: a forged numpy.dtype makes numpy 1.26 and 2.4 take integers for objects.
    """

    def find_class(self, module, name):
        path = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if path in ("numpy.core.multiarray._reconstruct", "numpy.core.numeric._frombuffer",
                    "numpy.ndarray", "numpy.dtype"):
            return _Recipe
        if path == "_codecs.encode":   # how Python 3 writes bytes in protocol 2
            return lambda text, latin1: text.encode("latin1")
        raise ValueError(f"the file wants to run {module}.{name}, which a CIFAR file never does")


def _unpickle(content):
    entries = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    if not isinstance(entries, dict):
        raise ValueError("it is not a pickled dict")
    return {_text(key): value for key, value in entries.items()}


def _text(value):
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _uint8_array(recipe):
    if not isinstance(recipe, _Recipe):
        raise ValueError("its data are not an array")
    if len(recipe.arguments) == 4:     # _frombuffer, pickle protocol 5
        content, dtype, shape, order = recipe.arguments
    else:
        _version, shape, dtype, by_columns, content = recipe.state
        order = "F" if by_columns else "C"
    if _text(dtype.arguments[0]) != "u1":
        raise ValueError(f"its data are of type {reprlib.repr(dtype.arguments[0])}, not uint8")
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
    return names


def read_cifar(layout: Layout, data_dir: str):
    """Gives the training batches and the test batch, each (images (n, 32, 32, 3), labels), and the class names.

    Raises DataError for missing, damaged or forged files.
    """
    source = _find_source(layout, data_dir)
    if source.is_dir():
        files = ((name, (source / name).read_bytes()) for name in layout.files if (source / name).is_file())
    else:
        files = _archive_files(layout, source)
    parts = {}
    with refusing(layout, source):
        for name, content in files:
            read = _read_class_names if name == layout.files[-1] else _read_batch
            with refusing(layout, f"{name} in {source}"):
                parts[name] = read(content, layout)
        for name in layout.files:
            if name not in parts:
                raise ValueError(f"it has no file {name}")
    *train, test, class_names = (parts[name] for name in layout.files)
    return train, test, class_names
