"""Picture files of every kind are read as the same picture; damaged and hostile ones give one line and no warning."""
import logging
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from peak_memory import child_environment
from PIL import Image, ImageOps
from strange_files import STRANGE_FILES, forbidden, open_folder

from vision_transformer.picture_files import LARGEST_FILE, PictureError, read_picture

GRADIENT = np.linspace(0, 255, 32 * 24 * 3).reshape(24, 32, 3).astype(np.uint8)
BLUE, RED = (20, 30, 200), (220, 40, 10)


def refusal(path):
    """Returns the message of the PictureError: one line that begins with the file's name."""
    with pytest.raises(PictureError) as caught:
        read_picture(path, (7, 5, 3))
    message = str(caught.value)
    assert message.startswith(f"{path}: can't be read as a picture: ") and message.isprintable() and len(message) < 600
    return message


# --- kinds of pictures ---

def saved(path, mode):
    """Saves the grey of GRADIENT in some mode."""
    grey = Image.fromarray(GRADIENT).convert("L")
    if mode in ("I;16", "I"):
        grey = Image.fromarray(np.asarray(grey).astype(np.uint16 if mode == "I;16" else np.int32) * 257)
    elif mode == "P":
        grey = grey.quantize(64)
    elif mode == "F":
        grey = grey.convert("F")
    elif mode != "L":
        grey = grey.convert("RGB").convert(mode) if mode != "LA" else grey.convert("LA")
    grey.save(path)
    return path


@pytest.mark.parametrize("mode, suffix", [
    ("RGB", "png"), ("RGB", "bmp"), ("RGB", "webp"), ("RGB", "tif"), ("RGB", "ppm"), ("RGB", "jp2"), ("L", "png"),
    ("L", "jpg"), ("P", "png"), ("P", "gif"), ("P", "tif"), ("RGBA", "png"), ("RGBA", "webp"), ("LA", "png"),
    ("CMYK", "jpg"), ("CMYK", "tif"), ("I;16", "png"), ("I;16", "tif"), ("I", "tif"), ("F", "tif")])
@pytest.mark.parametrize("channels", [3, 1])
def test_every_mode_gives_about_the_same_picture(tmp_path, mode, suffix, channels):
    read = read_picture(saved(tmp_path / f"x.{suffix}", mode), (24, 32, channels))
    grey = np.asarray(Image.fromarray(GRADIENT).convert("L")).astype(float)
    assert read.shape == (24, 32, channels) and read.dtype == np.uint8
    assert np.abs(read.mean(axis=-1) - grey).mean() < 4


@pytest.mark.parametrize("mode, clear, suffix", [("RGBA", (*RED, 0), "png"), ("RGBA", (*RED, 0), "webp"),
                                                 ("LA", (9, 0), "png"), ("P", 0, "gif"), ("P", 0, "png")])
def test_transparent_parts_become_white(tmp_path, mode, clear, suffix):
    picture = Image.new(mode, (9, 9), clear)
    if mode == "P":
        picture.putpalette([*RED, 0, 0, 0])
    picture.putpixel((4, 4), {"RGBA": (0, 0, 0, 255), "LA": (0, 255), "P": 1}[mode])
    picture.save(path := tmp_path / f"x.{suffix}", lossless=True, **({"transparency": 0} if mode == "P" else {}))
    read = read_picture(path, (9, 9, 3))
    assert (read[0, 0] == 255).all() and read[4, 4].tolist() == [0, 0, 0]


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_camera_rotation_is_undone(tmp_path, orientation, suffix):
    """0 is what some cameras write that don't know."""
    picture = Image.fromarray(GRADIENT).resize((40, 30))
    picture.paste(RED, (0, 0, 20, 10))                  # so that no two of the eight look the same
    tags = picture.getexif()
    tags[0x0112] = orientation
    picture.save(path := tmp_path / f"x.{suffix}", exif=tags, quality=95)
    upright = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    assert upright.size == ((30, 40) if orientation > 4 else (40, 30))
    read = read_picture(path, (upright.height, upright.width, 3))
    assert np.abs(read.astype(int) - np.asarray(upright)).max() <= 1


def test_a_damaged_remark_about_the_camera_is_passed_over(tmp_path):
    Image.fromarray(GRADIENT).save(path := tmp_path / "x.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(read_picture(path, (24, 32, 3)), GRADIENT)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_an_animation_the_first_picture_counts(tmp_path, suffix):
    frames = [Image.new("RGB", (12, 10), colour) for colour in (BLUE, RED, RED)]
    frames[0].save(path := tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    with Image.open(path) as image:
        assert image.n_frames > 1
    assert np.abs(read_picture(path, (5, 6, 3)).astype(int) - BLUE).max() <= 2


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif", "bmp"])
def test_one_pixel_fills_the_picture(tmp_path, suffix):
    Image.new("RGB", (1, 1), BLUE).save(path := tmp_path / f"x.{suffix}", lossless=True)
    read = read_picture(path, (7, 5, 3))
    assert read.shape == (7, 5, 3) and np.abs(read.astype(int) - BLUE).max() <= 4


# --- shrinking ---

def test_only_the_centre_of_a_wide_picture_is_looked_at(tmp_path):
    wide = np.zeros((10, 50, 3), np.uint8)
    wide[:, 17:33] = 200                                # the middle 10 of 50 columns, and what a filter reaches
    Image.fromarray(wide).save(tmp_path / "x.png")
    assert (read_picture(tmp_path / "x.png", (5, 5, 3)) == 200).all()


@pytest.mark.parametrize("size", [(31, 17), (100, 100), (641, 479), (1001, 3001), (4000, 61)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_shrinking_in_strips_and_steps_is_as_in_one(tmp_path, monkeypatch, size, suffix):
    monkeypatch.setattr("vision_transformer.picture_files.STRIP", 10_000)
    waves = np.add.outer(np.sin(np.arange(size[1]) / size[1] * 9), np.cos(np.arange(size[0]) / size[0] * 7))
    waves = np.stack([128 + 60 * waves, 255 - 50 * waves, 99 + 9 * waves], axis=-1).clip(0, 255).astype(np.uint8)
    Image.fromarray(waves).save(path := tmp_path / f"x.{suffix}", quality=95, subsampling=0)
    expected = np.asarray(ImageOps.fit(Image.open(path), (13, 11), Image.BICUBIC)).astype(int)
    assert np.abs(read_picture(path, (11, 13, 3)) - expected).max() <= 4


def png(width, height, rows):
    """A PNG of some bits of grey: what it says of its size, and the rows that it has."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


READ_AND_TELL = """
import sys, warnings
warnings.simplefilter("always")
from peak_memory import peak_memory
from vision_transformer.picture_files import read_picture
before = peak_memory()
print(*read_picture(sys.argv[1], (16, 16, 3)).mean(axis=(0, 1)).round(), peak_memory() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name, mode, size, megabytes", [
    ("strip.png", "RGB", (20_000, 20), 30), ("photo.jpg", "RGB", (20_000, 8_900), 60),
    ("palette.gif", "P", (20_000, 8_900), 240), ("large.png", "RGB", (20_000, 8_900), 800),
    ("clear.png", "RGBA", (20_000, 8_900), 800)])
def test_20000_pixels_wide_are_read_without_a_word_in_their_own_memory(tmp_path, name, mode, size, megabytes):
    """Pillow keeps 4 bytes a pixel, 1 of a palette's, and warns of all but the first. Once they took 1 to 3.4 GB."""
    Image.new(mode, size, 1 if mode == "P" else BLUE).save(path := tmp_path / name)
    done = subprocess.run([sys.executable, "-c", READ_AND_TELL, str(path)], env=child_environment(),
                          capture_output=True, text=True, check=True)
    *colour, used = map(float, done.stdout.split())
    assert done.stderr == "" and used < megabytes
    assert np.abs(np.subtract(colour, (1, 1, 1) if mode == "P" else BLUE)).max() <= 2


# --- damaged and hostile pictures ---

def jpeg_of_many_scans(path):
    """A progressive JPEG whose last scan is there a thousand times: each goes over all pixels again."""
    Image.fromarray(GRADIENT).save(path, progressive=True)
    whole = path.read_bytes()
    last = whole[whole.rindex(b"\xff\xda"):-2]
    path.write_bytes(whole[:-2] + last * 1000 + whole[-2:])


def cut(suffix):
    def make(path):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)).save(path.with_suffix(suffix))
        whole = path.with_suffix(suffix).read_bytes()
        path.write_bytes(whole[:len(whole) // 2])
    return make


HOSTILE = {
    "a bomb": (lambda path: path.write_bytes(png(50_000, 50_000, b"")), "could be decompression bomb"),
    "nearly a bomb": (lambda path: path.write_bytes(png(20_000, 8_947, b"")), "truncated"),
    "no pixels": (lambda path: path.write_bytes(png(0, 7, b"")), "is damaged, or of no kind"),
    "a text": (lambda path: path.write_text("no picture", encoding="utf-8"), "of no kind that is read here ("),
    "zero bytes": (lambda path: path.touch(), f"it has 0 bytes; a picture has 1 to {LARGEST_FILE:,}"),
    "only a signature": (lambda path: path.write_bytes(png(1, 1, b"")[:8]), "is damaged, or of no kind"),
    "PostScript": (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
                   "of no kind that is read here"),
    "many scans": (jpeg_of_many_scans, "progressive JPEG of 1,0"),
    **{f"half a {kind}": (cut(f".{kind}"), "") for kind in ("jpg", "png", "gif", "webp", "tif", "bmp", "jp2")},
    **{kind: (make, says) for kind, (make, says, _) in STRANGE_FILES.items()},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_picture_is_one_line_and_no_warning(tmp_path, kind, recwarn, caplog, capfd):
    make, says = HOSTILE[kind]
    make(path := tmp_path / "x.jpg")
    with caplog.at_level(logging.DEBUG, "root"):
        assert says in refusal(path)
    assert not recwarn.list and not caplog.messages and capfd.readouterr() == ("", "")


def test_what_may_not_be_read_is_said():
    with open_folder() as folder:
        Image.new("L", (3, 3)).save(folder / "x.png")
        with forbidden(folder / "x.png"):
            assert refusal(folder / "x.png").endswith(": Permission denied")
        assert read_picture(folder / "x.png", (3, 3, 1)).shape == (3, 3, 1)


@pytest.mark.parametrize("name, shown", [
    ("a\nb\r", r"a\nb\r"), ("\x1b[2J\x07", r"\x1b[2J\x07"), ("\u202egpj", r"\u202egpj"), ("\x9b31m", r"\x9b31m"),
    ("\udcff", r"\udcff"), ("ä 日本", "ä 日本")])
def test_a_name_can_neither_break_the_line_nor_steer_the_terminal(tmp_path, name, shown):
    with pytest.raises(PictureError) as caught:
        read_picture(tmp_path / name, (7, 5, 3))
    assert str(caught.value).startswith(f"{tmp_path / shown}: can't be read as a picture: ")
    assert str(caught.value).isprintable()
