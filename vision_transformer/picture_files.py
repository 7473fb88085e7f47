"""Picture files, of any size, damaged and hostile ones too -> uint8 pictures of a model's size, or one clear error."""
from __future__ import annotations

import logging
import os
import stat
import threading
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .messages import harmless, one_line

Image.init()
# Not all that Pillow knows: for some it starts other programs (EPS: Ghostscript), others have no sign to be known by.
KINDS = [kind for kind in ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
         if kind in Image.OPEN]                 # older Pillows lack AVIF
LARGEST_FILE = 2**30        # bytes: 6 for each of the 179 million pixels at which Pillow speaks of a bomb
SPARE = 3                   # how many times larger than needed a picture may be for the last, smooth step of shrinking
STRIP = 2**20               # pixels that are converted at a time: a copy of a whole picture may be a gigabyte

MOST_SCANS = 500            # of a progressive JPEG; genuine ones have about 10

ORIENTATION = 0x0112        # EXIF's tag: how the camera was held, 1 is upright (EXIF 2.32, section 4.6.4)
UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
           5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
           8: Image.Transpose.ROTATE_90}
SIDEWAYS = (5, 6, 7, 8)

STANDARD_ERROR = threading.Lock()       # there is one for all threads
logging.getLogger("PIL").setLevel(logging.CRITICAL)     # what it says of a file is in the exception, too


class PictureError(ValueError):
    """A picture that can't be read; the message is one line, begins with the file's name, and ends with the reason."""

    def __init__(self, path, reason: str):
        super().__init__(f"{harmless(path)}: can't be read as a picture: {reason}")
        self.reason = reason


def read_picture(path, image_shape) -> np.ndarray:
    """Reads a picture file as uint8 (H, W, C): upright, cut to the model's proportions about its centre, resized.

    Transparent parts become white; 16-bit greys are brought to 8; of an animation the first picture counts.
    Raises PictureError for whatever can't be read, and for all that is not a regular file: a pipe could wait for ever.
    """
    try:
        _check(Path(path))
        with Path(path).open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=KINDS) as image:
                _check_scans(image, file)
                with _standard_error_shut() if image.format == "TIFF" else nullcontext():
                    return _fitted(image, *image_shape)
    except Exception as error:          # Pillow's readers raise nearly anything for a broken file
        raise PictureError(path, _reason(error)) from error


def _check(path):
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ValueError(f"it is a folder; name the files in it, such as {path / '*.jpg'}")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a pipe, socket or device, and only regular files are read; save it to a file first")
    if not 0 < status.st_size <= LARGEST_FILE:
        raise ValueError(f"it has {status.st_size:,} bytes; a picture has 1 to {LARGEST_FILE:,}")


@contextmanager
def _standard_error_shut():
    """Keeps libtiff quiet, which writes about damaged files on its own, past Python."""
    with STANDARD_ERROR, Path(os.devnull).open("wb") as nothing:
        kept = os.dup(2)
        try:
            os.dup2(nothing.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _check_scans(image, file):
    """Refuses a bomb in time rather than in size: a scan of a few bytes that goes over all pixels again, many times."""
    if image.info.get("progressive"):
        place = file.tell()
        file.seek(0)
        scans = sum(piece.count(b"\xff\xda") for piece in iter(lambda: file.read(2**20), b""))
        file.seek(place)
        if scans > MOST_SCANS:
            raise ValueError(f"it is a progressive JPEG of {scans:,} scans; at most {MOST_SCANS} are read")


def _reason(error):
    if isinstance(error, UnidentifiedImageError):
        return f"it is damaged, or of no kind that is read here ({', '.join(KINDS)})"
    return (isinstance(error, OSError) and error.strerror) or one_line(error)[:300]


def _fitted(image, height, width, channels):
    """An open picture -> uint8 (height, width, channels)."""
    shape = height, width, channels
    image.draft(None, [SPARE * max(height, width)] * 2)         # JPEG alone: decodes at 1/2, 1/4 or 1/8 of the size
    image.load()
    held = _orientation(image)                          # after load(), which turns TIFF's, and them alone, upright
    if held in SIDEWAYS:
        height, width = width, height
    factor = max(1, min(image.width // (SPARE * width), image.height // (SPARE * height)))
    picture = _shrunk(image, factor, "RGB" if channels == 3 else "L")
    wide, high = min(image.width, image.height * width / height), min(image.height, image.width * height / width)
    left, top = (image.width - wide) / 2, (image.height - high) / 2
    box = [edge / factor for edge in (left, top, left + wide, top + high)]
    picture = picture.resize((width, height), Image.BICUBIC, box=box)
    if held in UPRIGHT:
        picture = picture.transpose(UPRIGHT[held])
    return np.asarray(picture).reshape(shape)


def _orientation(image):
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:           # a damaged remark about the camera says nothing against the pixels
        return 1


def _shrunk(image, factor, mode):
    """A loaded picture -> means over squares of factor x factor pixels, in mode "RGB" or "L", strip by strip."""
    small = Image.new(mode, (-(-image.width // factor), -(-image.height // factor)))
    rows = factor * max(1, STRIP // (image.width * factor))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        small.paste(_plain(strip, mode).reduce(factor), (0, top // factor))
    return small


def _plain(image, mode):
    """A picture -> 8 bits in mode "RGB" or "L", transparent parts on white."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
