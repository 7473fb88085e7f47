"""Whatever a file holds, it is read or refused with the one error of its reader: damaged files by the thousand.

`python -m pytest tests/test_fuzz.py --hypothesis-profile=long` tries 20,000 of each kind (see conftest.py). What
that finds is kept below, in FOUND.
"""
import _thread
import gzip
import io
import pickle
import struct
import tempfile
import threading
import warnings
import zlib
from pathlib import Path
from typing import Callable, NamedTuple, Type

import numpy as np
import pytest
from cifar_files import ARCHIVES, FOLDERS, contents, entries, write_archive, write_folder
from hypothesis import given
from hypothesis import strategies as st
from peak_memory import peak_memory
from PIL import Image, features

from vision_transformer.cifar import CIFAR10, CIFAR100, DataError, read_cifar
from vision_transformer.picture_files import PictureError, read_picture

SLOWEST = 60            # seconds after which one file counts as a hang; most take a thousandth
MOST_MEMORY = 1000      # MB more than before: pictures of up to 179 million pixels are no error


# --- what is read, and what must come of it ---

def check_cifar(layout, data_dir):
    train, test, names = read_cifar(layout, str(data_dir))
    for images, labels in [*train, test]:
        assert images.dtype == np.uint8 and images.shape == (len(labels), 32, 32, 3) and len(labels) > 0
        assert all(type(label) is int and 0 <= label < len(layout.class_names) for label in labels)
    assert len(train) == len(layout.files) - 2 and len(set(names)) == len(layout.class_names)
    assert all(isinstance(name, str) and name.isprintable() for name in names)


def cifar_file(layout, name):
    """Gives the reader of one file in an otherwise whole folder."""
    def read(content, folder):
        if not (folder / FOLDERS[layout.name]).exists():
            write_folder(folder, layout.name)
        (folder / FOLDERS[layout.name] / name).write_bytes(content)
        check_cifar(layout, folder)
    return read


def cifar_archive(content, folder):
    (folder / ARCHIVES["cifar100"]).write_bytes(content)
    check_cifar(CIFAR100, folder / ARCHIVES["cifar100"])            # the folder itself would win


def cifar_tar(content, folder):
    """Reads an archive whose checksum is right: what is inside is damaged."""
    cifar_archive(gzip.compress(content, 1), folder)


def picture(content, folder):
    (folder / "picture").write_bytes(content)
    for shape in ((7, 5, 3), (5, 7, 1)):
        read = read_picture(folder / "picture", shape)
        assert read.dtype == np.uint8 and read.shape == shape


def mended_png(content, folder):
    """Reads a PNG whose checksums are right again, as far as its chunks go."""
    mended, place = bytearray(content), 8
    while place + 12 <= len(content):
        end = place + 8 + struct.unpack_from(">I", content, place)[0]
        if end + 4 > len(content):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(content[place + 4:end]))
        place = end + 4
    picture(bytes(mended), folder)


# --- files to begin with ---

def saved(kind, mode="RGB", frames=1, **options):
    """Gives the bytes of a small picture file; of its frames each is brighter."""
    pixels = np.random.default_rng(0).integers(0, 120, (13, 19), np.uint8)
    pictures = [Image.fromarray(np.add(pixels, np.uint8(40 * i))).convert("RGB") for i in range(frames)]
    if mode == "I;16":
        pictures = [Image.fromarray(pixels.astype(np.uint16) * 257)]
    elif mode != "RGB":
        pictures = [frame.convert(mode) for frame in pictures]
    if frames > 1:
        options.update(save_all=True, append_images=pictures[1:])
    file = io.BytesIO()
    pictures[0].save(file, kind, **options)
    return file.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def archive():
    with tempfile.TemporaryDirectory() as place:
        return (write_archive(Path(place), "cifar100") / ARCHIVES["cifar100"]).read_bytes()


class Target(NamedTuple):
    """Files to begin with, what reads one (its bytes, a folder to write to), and the one error that it may raise."""

    seeds: list
    read: Callable
    error: Type[Exception]


PNGS = [saved("PNG"), saved("PNG", "P", transparency=3), saved("PNG", "I;16"), saved("PNG", "1"), saved("PNG", "LA"),
        saved("PNG", frames=3), saved("PNG", exif=exif(6))]
PICTURES = {
    "PNG": PNGS,
    "JPEG": [saved("JPEG"), saved("JPEG", progressive=True), saved("JPEG", "CMYK"), saved("JPEG", "L", exif=exif(5))],
    "GIF": [saved("GIF", "P"), saved("GIF", "P", transparency=3), saved("GIF", "P", frames=3)],
    "WebP": [saved("WEBP"), saved("WEBP", "RGBA", lossless=True), saved("WEBP", frames=3), saved("WEBP", exif=exif(8))],
    "TIFF": [saved("TIFF"), saved("TIFF", "CMYK"), saved("TIFF", "1", compression="group4"), saved("TIFF", frames=2),
             *(saved("TIFF", compression=f"tiff_{c}") for c in ("lzw", "adobe_deflate", "jpeg")), saved("TIFF", "I;16"),
             saved("TIFF", "F"), saved("TIFF", "LAB"), saved("TIFF", exif=exif(7))],
    "BMP": [saved("BMP"), saved("BMP", "P"), saved("BMP", "1"), saved("BMP", "RGBA")],
    "PPM": [saved("PPM"), saved("PPM", "1"), saved("PPM", "I;16"), b"P3\n2 2\n9\n" + b"1 2 3 " * 4,
            b"P2 2 2 300 1 2 3 4", b"Pf\n2 2\n-1.0\n" + bytes(16)],
    "JPEG 2000": [saved("JPEG2000"), saved("JPEG2000", "LA"), saved("JPEG2000", irreversible=True)],
    "AVIF": [saved("AVIF")] if features.check("avif") else PNGS,
}
PYTHON3 = {name: value for name, value in entries("cifar10", 7).items() if name in ("data", "labels")}
BATCHES = [contents("cifar10")["test_batch"], *(pickle.dumps(PYTHON3, protocol) for protocol in range(6))]
ARCHIVE = archive()

TARGETS = {
    "CIFAR batch": Target(BATCHES, cifar_file(CIFAR10, "test_batch"), DataError),
    "CIFAR names": Target([contents("cifar100")["meta"]], cifar_file(CIFAR100, "meta"), DataError),
    "CIFAR tar": Target([gzip.decompress(ARCHIVE)], cifar_tar, DataError),
    "CIFAR archive": Target([ARCHIVE, gzip.compress(gzip.decompress(ARCHIVE), 0)], cifar_archive, DataError),
    **{kind: Target(files, picture, PictureError) for kind, files in PICTURES.items()},
    "PNG of right checksums": Target(PNGS, mended_png, PictureError),
    # The files of a run folder go here: config.json, model.safetensors, state.safetensors.
}
FOUND = [               # (target, content): what hung, took gigabytes or said more than one line
    ("CIFAR batch", b"\x80\x02}K\x01" + b"q\x00h\x00\x86" * 64 + b"Ns."),              # a key that hashes for ever
    ("CIFAR batch", b"\x80\x02r\xff\xff\xff\x7f."),                                 # a memo of 2^31 places
    ("JPEG", saved("JPEG", progressive=True)[:-2] + b"\xff\xda" * 501),               # scans without end
    ("CIFAR tar", bytes(512)), ("CIFAR archive", ARCHIVE[:-8] + bytes(8)),      # the checksum was not looked at
    ("CIFAR batch", b"\x80\x02S'\\q'\n."),           # Python warned of the backslash
    ("TIFF", saved("TIFF", compression="tiff_lzw").replace(     # libtiff wrote to standard error on its own
        struct.pack("<HHII", 273, 4, 1, 8), struct.pack("<HHII", 273, 4, 1, 2**32 - 1))),
]


# --- damage ---

@st.composite
def damaged(draw, seeds):
    """Gives one of the files after some changes."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, 80) | st.integers(0, max(len(content), 1)))
        CHANGES[draw(st.sampled_from(sorted(CHANGES)))](draw, content, min(start, len(content)))
    return bytes(content)


def flip_a_bit(draw, content, start):
    if start < len(content):
        content[start] ^= 1 << draw(st.integers(0, 7))


def cut(draw, content, start):
    del content[start:]


def remove(draw, content, start):
    del content[start:start + draw(st.integers(1, 1000))]


def insert(draw, content, start):
    content[start:start] = draw(st.binary(min_size=1, max_size=12))


def repeat(draw, content, start):
    piece = content[start:start + draw(st.integers(1, 600))]
    content[start:start] = piece * draw(st.sampled_from([1, 2, 100]))


def move(draw, content, start):
    piece = content[start:start + draw(st.integers(1, 600))]
    del content[start:start + len(piece)]
    place = draw(st.integers(0, len(content)))
    content[place:place] = piece


def set_a_number(draw, content, start):
    size = draw(st.sampled_from([1, 2, 4, 8]))
    values = 2 ** (8 * size)
    value = draw(st.sampled_from([0, 1, values // 2 - 1, values // 2, values - 1, 20_000 % values]))
    content[start:start + size] = value.to_bytes(size, draw(st.sampled_from(["little", "big"])))


CHANGES = {change.__name__: change for change in (flip_a_bit, cut, remove, insert, repeat, move, set_a_number)}


# --- the one property ---

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all, as a new one for each file would take longer than the reading."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture
def little_memory():
    before = peak_memory()
    yield
    assert peak_memory() - before < MOST_MEMORY


def check(name, content, folder, capfd):
    """Reads it: right, or the one error in one line, and not a word or a warning besides."""
    _, read, error = TARGETS[name]
    watch = threading.Timer(SLOWEST, _thread.interrupt_main)
    watch.start()
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            read(content, folder)
    except error as refusal:
        assert str(refusal).isprintable() and len(str(refusal)) < 1000
    finally:
        watch.cancel()
    assert not warned and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(name, data, folder, capfd, little_memory):
    check(name, data.draw(damaged(TARGETS[name].seeds)), folder, capfd)


@pytest.mark.parametrize("name", TARGETS)
def test_an_undamaged_file_is_read(name, folder):
    """A reader raises if it refuses a seed, and asserts itself what it made of it."""
    for content in TARGETS[name].seeds:
        TARGETS[name].read(content, folder)


@pytest.mark.parametrize("name, content", FOUND)
def test_what_was_found_is_refused(name, content, folder, capfd, little_memory):
    with pytest.raises(TARGETS[name].error):
        TARGETS[name].read(content, folder)
    check(name, content, folder, capfd)
