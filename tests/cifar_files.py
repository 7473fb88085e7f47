"""Small CIFAR files as the official ones are, whole or with changes, and the check that one is refused."""
import io
import struct
import tarfile

import numpy as np
import pytest

from vision_transformer.cifar import DataError
from vision_transformer.datasets import load_dataset

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
TRAIN = {"cifar10": [f"data_batch_{i}" for i in range(1, 6)], "cifar100": ["train"]}
TEST = {"cifar10": "test_batch", "cifar100": "test"}
META = {"cifar10": "batches.meta", "cifar100": "meta"}
LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}
NAMES = {"cifar10": [f"c{i}" for i in range(10)], "cifar100": [f"f{i}" for i in range(100)]}
ROWS = 3                                               # pictures in each file


def python2(value):
    """Pickles bytes, ints, lists, dicts and uint8 matrices with the opcodes that Python 2 wrote."""
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(python2(key) + python2(item) for key, item in value.items()) + b"u"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"".join(map(python2, value.shape)) + b"\x86"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + python2(value.tobytes()) + b"tb"


def python2_file(entries):
    return b"\x80\x02" + python2({key.encode(): value for key, value in entries.items()}) + b"."


def entries(name, number):
    """What the file of this number holds: random pixels, labels that no other file begins with."""
    data = np.random.default_rng(number).integers(0, 256, (ROWS, 3072), np.uint8)
    return {"batch_label": b"tiny", "data": data, LABELS[name]: [number, 9 - number, 4],
            "filenames": [b"a.png", b"", b"c.png"]}


def contents(name):
    """Returns {file name: bytes} of a dataset: the training files are numbers 0, 1, ..., the test file 7."""
    files = {file: python2_file(entries(name, i)) for i, file in enumerate(TRAIN[name])}
    files[TEST[name]] = python2_file(entries(name, 7))
    label_names = LABELS[name].replace("labels", "label_names")
    files[META[name]] = python2_file({label_names: [n.encode() for n in NAMES[name]], "num_vis": 3072})
    return files


def write_folder(place, name, **changes):
    """Writes the official folder under `place` and returns `place`; a file changed to None is left out."""
    folder = place / FOLDERS[name]
    folder.mkdir(parents=True)
    for file, content in {**contents(name), **changes}.items():
        if content is not None:
            (folder / file).write_bytes(content)
    return place


def write_archive(place, name, prefix="", extra=(), **changes):
    """Writes the official tar.gz, strange members first; a change may be bytes, a TarInfo or None."""
    with tarfile.open(place / ARCHIVES[name], "w:gz") as tar:
        for info, content in extra:
            tar.addfile(info, io.BytesIO(content))
        for file, content in {**contents(name), **changes}.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo()
            info.name = f"{prefix}{FOLDERS[name]}/{file}"
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            elif content is not None:
                tar.addfile(info)
    return place


def refusal(name, place):
    """Returns the message of the DataError, which must be one line that says what to do."""
    with pytest.raises(DataError) as caught:
        load_dataset(name, str(place))
    message = str(caught.value)
    assert "\n" not in message and message.count("cannot be read") == 1
    assert "https://www.cs.toronto.edu/~kriz/cifar.html" in message and "train_digits.py" in message
    return message
