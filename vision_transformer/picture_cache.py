"""Picture files, decoded once, into one file that this training and later ones read from.

It is kept where Keras keeps its downloads: ~/.keras/datasets, or $KERAS_HOME/datasets. Files of another name, size or
time of change, or another size of the pictures, make it anew.

    picture-folders/photos-1f3a9c22-64px-0123456789abcdef.pixels        the pictures, side by side, nothing else
    picture-folders/photos-1f3a9c22-64px-0123456789abcdef.json          what is in it; written last
    picture-folders/photos-1f3a9c22-64px-0123456789abcdef.unread.txt    the files that can't be read, and why
"""
from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import re
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator, NamedTuple

import filelock
import numpy as np
from tqdm import tqdm

from .messages import harmless
from .picture_files import PictureError, read_picture
from .picture_folder import PictureFile
from .storage import CannotWrite, reason, write
from .stored_pictures import PIECE, StoredPictures

FORMAT = 1              # of the cache; another one is made anew
NAMED = 10              # files that can't be read which are named on the screen; all are in a text file


class Decoded(NamedTuple):
    """The pictures of those files that can be read, in their order, and why the others can't."""

    pictures: StoredPictures
    readable: np.ndarray        # which of the files, (n,)
    problems: dict              # a file's number -> why it can't be read


def decoded(data_dir: str, files: list[PictureFile], image_size: int) -> Decoded:
    """Gives the pictures of all files below data_dir, as square as image_size says, without decoding any twice.

    Prints where they are kept and which files can't be read.

    Raises:
        CannotWrite: there is no room or permission for them.
    """
    cache = _Cache(data_dir, files, image_size)
    found = cache.read()
    if found is None:
        with cache.locked():
            found = cache.read()                        # another training may have made it meanwhile
            found = cache.make() if found is None else found
    size = found.pictures.stored.nbytes
    print(f"{len(found.readable):,} pictures of {harmless(data_dir)}, {image_size}x{image_size} pixels each, are kept "
          f"for next time in {harmless(cache.pixels)} ({size / 1e6:,.0f} MB)")
    if found.problems:
        print(f"note: {len(found.problems):,} files are left out, since they can't be read as pictures:")
        for number in list(found.problems)[:NAMED]:
            print(cache.line(number, found.problems))
        print(f"all of them are listed in {harmless(cache.unread)}" if len(found.problems) > NAMED
              else f"they are listed in {harmless(cache.unread)}", flush=True)
    return found


class _Cache:
    def __init__(self, data_dir: str, files: list[PictureFile], image_size: int):
        self.root, self.files, self.shape = Path(data_dir).expanduser(), files, (image_size, image_size, 3)
        # One folder has one cache of a size: with other files in it, the old one goes. Relative or not is all the same.
        true = self.root.resolve()
        place = hashlib.sha256(os.fsencode(true)).hexdigest()[:8]
        self.prefix = f"{re.sub('[^A-Za-z0-9]+', '-', true.name)[:40]}-{place}-{image_size}px"
        known = [(f.name, f.size, f.changed, f.problem) for f in files]         # the class doesn't matter here
        self.key = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]
        home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
        self.folder = home.expanduser() / "datasets" / "picture-folders"
        self.pixels, self.about, self.unread = (
            self.folder / f"{self.prefix}-{self.key}.{ending}" for ending in ("pixels", "json", "unread.txt"))

    def line(self, number: int, problems: dict) -> str:
        """Says in a line why a file can't be read."""
        return harmless(f"  {self.files[number].name}: {problems[number]}")

    def read(self) -> Decoded | None:
        """Opens the cache; None where there is none, or it isn't as it was written."""
        try:
            about = json.loads(self.about.read_text(encoding="utf-8"))
            problems = {int(number): str(why) for number, why in about["problems"].items()}
            readable = np.array([i for i in range(len(self.files)) if i not in problems], np.int64)
            shape, digest = (len(readable), *self.shape), hashlib.sha256()
            if about["format"] != FORMAT or self.pixels.stat().st_size != np.prod(shape, dtype=np.int64):
                return None
            with self.pixels.open("rb") as file:
                for piece in iter(lambda: file.read(PIECE), b""):
                    digest.update(piece)
            if about["sha256"] != digest.hexdigest():
                return None
            stored = np.memmap(self.pixels, np.uint8, "r", shape=shape) if len(readable) else np.zeros(shape, np.uint8)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return Decoded(StoredPictures(np.asarray(stored)), readable, problems)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other trainings from making a cache meanwhile; waits where one does."""
        lock = filelock.FileLock(self.folder / ".lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except filelock.Timeout:
                print("waiting for another training, which is decoding pictures now ...", flush=True)
                lock.acquire()
        except OSError as error:
            raise self.cannot_keep(error) from error
        try:
            yield
        finally:
            lock.release()

    def make(self) -> Decoded:
        """Decodes all files, and keeps the pictures."""
        for old in [*self.folder.glob("*.part"), *self.folder.glob(f"{self.prefix}-*")]:
            with contextlib.suppress(OSError):          # Windows, where a training still uses it
                old.unlink()
        needed, free = len(self.files) * int(np.prod(self.shape)), shutil.disk_usage(self.folder).free
        if needed > free:
            raise self.cannot_keep(OSError(f"they may take {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free"))
        problems, digest = {}, hashlib.sha256()
        print(f"decoding {len(self.files):,} files of {harmless(self.root)}, this once ...", flush=True)
        try:
            write(self.pixels, self._pictures(problems, digest))
            if problems:
                write(self.unread, "".join(self.line(number, problems).strip() + "\n" for number in problems))
            write(self.about, json.dumps({"format": FORMAT, "folder": harmless(self.root.resolve()),
                                          "problems": problems, "sha256": digest.hexdigest()}))
        except CannotWrite as error:
            raise self.cannot_keep(error) from error
        made = self.read()
        if made is None:
            raise self.cannot_keep(OSError("what was written there can't be read back"))
        return made

    def _pictures(self, problems: dict, digest) -> Iterator[bytes]:
        """Yields the bytes of each picture; fills problems and digest."""
        ahead = 4 * (os.cpu_count() or 1)               # no more: pictures that wait to be written take memory
        with ThreadPoolExecutor() as threads, warnings.catch_warnings(), \
                tqdm(total=len(self.files), unit="file", leave=False, dynamic_ncols=True, disable=None) as bar:
            warnings.simplefilter("ignore")             # here: what a thread sets and resets is that of all threads
            coming = collections.deque()
            for number in range(len(self.files) + ahead):
                if number < len(self.files):
                    coming.append(threads.submit(self._picture, number))
                if number >= ahead and coming:
                    picture, problem = coming.popleft().result()
                    if problem:
                        problems[number - ahead] = problem
                    digest.update(picture)
                    bar.update()
                    yield picture

    def _picture(self, number: int) -> tuple[bytes, str]:
        file = self.files[number]
        if file.problem:
            return b"", file.problem
        try:
            return read_picture(self.root / file.name, self.shape).tobytes(), ""
        except PictureError as error:
            return b"", error.reason

    def cannot_keep(self, error: Exception) -> CannotWrite:
        """Gives the error that says why the decoded pictures can't be kept, and what to do."""
        return CannotWrite(f"the decoded pictures can't be kept in {harmless(self.folder)}: {reason(error)}. Make room "
                           "or give permission, choose a smaller IMAGE_SIZE, or let KERAS_HOME be a folder elsewhere.")
