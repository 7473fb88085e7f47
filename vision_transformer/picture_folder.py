"""A folder of pictures, one sub-folder per class -> which file shows what; nothing is opened yet.

    photos/cat/1.jpg                    or      photos/train/cat/1.jpg
    photos/cat/holidays/2.png                   photos/train/dog/3.jpg
    photos/dog/3.jpg                            photos/test/cat/4.jpg ...
"""
from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator, NamedTuple

from .cifar import DataError
from .messages import harmless
from .storage import reason

TRAIN, TESTS = "train", ("test", "val", "valid", "validation")
NO_PICTURES = ("thumbs.db", "desktop.ini", "__macosx")          # what systems leave in folders; hidden files, too
LAYOUT = ("A folder of pictures has one folder per class, such as photos/cat/1.jpg and photos/dog/2.png, or train/ and "
          "test/ with such folders in each; its path is DATA_DIR (--data-dir photos).")


class PictureFile(NamedTuple):
    """A file below a class's folder."""

    name: str           # its path below DATA_DIR, with / between
    label: int          # of its class
    tests: bool         # is it a test picture?
    size: int           # bytes; with `changed`, what tells whether it is still the same
    changed: int        # when, in nanoseconds
    problem: str        # why there is no use in reading it; "": none is known


def find_pictures(data_dir: str) -> tuple[list[PictureFile], tuple[str, ...], bool]:
    """Gives the files below data_dir's class folders in a fixed order, the class names, and whether tests are apart.

    Classes are sorted by name. Of train/ and test/ (or val/, valid/, validation/) each holds the same classes; there a
    folder train/ without folders in it is a class. Hidden files and folders, and what systems leave behind, don't
    count. Links are followed to files and class folders, not to folders further down: they could lead round in circles.

    Raises:
        DataError: it is no such folder.
    """
    root = Path(data_dir).expanduser()
    if not data_dir or not root.is_dir():
        raise DataError(f"{f'DATA_DIR {data_dir!r} is no folder here' if data_dir else 'DATA_DIR is empty'}. {LAYOUT}")
    where = harmless(data_dir)
    parts = {part: _class_folders(root / part) for part in _parts(root, where)}
    (first, classes), *rest = parts.items()
    for part, others in rest:
        apart = [f"only {name}/ has {_listed(own)}" for name, own in
                 ((first, classes.keys() - others.keys()), (part, others.keys() - classes.keys())) if own]
        if apart:
            raise DataError(f"{where}: {first}/ and {part}/ must have the same classes, but {' and '.join(apart)}; "
                            "make or move folders.")
    if len(classes) < 2:
        has = f"one class only, {_listed(classes)}" if classes else "no folders in it"
        raise DataError(f"{where} has {has}; at least two classes are needed. {LAYOUT}")
    loose = [path.name for part in parts for path in (root / part).iterdir() if _counts(path.name) and path.is_file()]
    if loose:
        print(f"note: outside the class folders of {where} lie {_listed(loose)}; they are left out", flush=True)
    files = [PictureFile(name, label, part.lower() in TESTS, *about)
             for part, folders in parts.items() for label, folder in enumerate(folders.values())
             for name, *about in _files_below(root, folder)]
    return sorted(files), tuple(classes), bool(rest)


def _parts(root: Path, where: str) -> list[str]:
    """Names the folders that hold class folders: train and the tests', or "" for the root itself."""
    names = {folder.name.lower(): folder.name for folder in _folders(root)}
    if TRAIN not in names or not _folders(root / names[TRAIN]):
        return [""]
    tests, others = [names[name] for name in TESTS if name in names], names.keys() - {TRAIN, *TESTS}
    if others:
        raise DataError(f"{where} has {_listed(names[name] for name in others)} beside {names[TRAIN]}/ with its class "
                        "folders, where only test/ makes sense; move it elsewhere, or, if that is a class of its own, "
                        "call it otherwise.")
    if len(tests) > 1:
        raise DataError(f"{where} has {_listed(tests)} beside {names[TRAIN]}/; keep one, the test pictures: those to "
                        "validate by are taken from the training pictures (VALIDATION_SHARE).")
    return [names[TRAIN], *tests]


def _folders(folder: Path) -> list[Path]:
    """Lists the folders in a folder that are neither hidden nor a system's, by name."""
    try:
        return sorted(path for path in folder.iterdir() if _counts(path.name) and path.is_dir())
    except OSError as error:
        raise DataError(f"{harmless(folder)} can't be listed: {reason(error)}.") from error


def _class_folders(folder: Path) -> dict[str, Path]:
    """Gives {class name: its folder}, sorted."""
    folders = _folders(folder)
    named = {harmless(path.name): path for path in folders}
    if len(named) < len(folders):
        raise DataError(f"{harmless(folder)} has two folders whose names look the same on the screen; rename one.")
    return dict(sorted(named.items()))


def _counts(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in NO_PICTURES


def _files_below(root: Path, folder: Path) -> Iterator[tuple]:
    """Yields name, size, time of change and problem of every file that counts, in any depth."""
    unseen = [folder]
    while unseen:
        here = unseen.pop()
        try:
            entries = [entry for entry in os.scandir(here) if _counts(entry.name)]
        except OSError as error:
            yield here.relative_to(root).as_posix(), 0, 0, f"this folder can't be listed: {reason(error)}"
            continue
        true_here = here.resolve()
        for entry in entries:
            path, size, changed, problem = Path(entry.path), 0, 0, ""
            try:
                if entry.is_dir():
                    if path.resolve() == true_here / entry.name:        # not so of links, nor of Windows' junctions
                        unseen.append(path)
                        continue
                    problem = "it is a link to a folder, and those are not followed here; put the folder in its place"
                else:
                    status = entry.stat()
                    size, changed = status.st_size, status.st_mtime_ns
                    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
                        problem = "Permission denied"
            except OSError as error:                    # such as a link that leads nowhere
                problem = reason(error)
            yield path.relative_to(root).as_posix(), size, changed, problem


def _listed(names, most: int = 5) -> str:
    names = sorted(map(repr, names))
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if names[most:] else "")
