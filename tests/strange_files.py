"""Paths at which no ordinary file is: folders, pipes, devices, what may not be read, what is larger than a disk."""
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path


def huge(path):
    """Makes a file that says it has a terabyte; the disk keeps none of it."""
    path.touch()
    os.truncate(path, 2**40)


# What to make in place of a file, and what is to be said of it by each reader: (make, of a picture, of CIFAR's file).
STRANGE_FILES = {"a folder": (Path.mkdir, "it is a folder; name the files in it", "is not a regular file"),
                 "missing": (lambda path: None, "No such file", "no file")}
if os.name == "posix":              # Windows has none of these among its files
    STRANGE_FILES.update({
        "a pipe that nobody writes to": (os.mkfifo, "only regular files are read", "is not a regular file"),
        "an endless device": (lambda path: path.symlink_to("/dev/zero"), "only regular files", "is not a regular file"),
        "a dangling link": (lambda path: path.symlink_to("nowhere"), "No such file", "no file"),
        "a link to itself": (lambda path: path.symlink_to(path), "symbolic link", "no file"),
        "a terabyte": (huge, "it has 1,099,511,627,776 bytes", "declares 1099511627776 bytes"),
    })


@contextmanager
def forbidden(path):
    """Nobody may read `path`, not even root, who reads as another user meanwhile (where there are users at all)."""
    rights = path.stat().st_mode
    path.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(rights)


@contextmanager
def open_folder():
    """Gives a temporary folder that every user may look into, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
