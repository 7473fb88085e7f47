"""Names the likeliest classes of pictures, of any size and kind that Pillow reads, by a run or by published weights."""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ..classification import Classification, probabilities
from ..messages import harmless
from ..picture_files import PictureError, read_picture
from ..pretrained import is_published, load_pretrained
from ..runs import Run

PICTURES_AT_A_TIME = 64                 # so that ten thousand files need no more memory than these


def add_arguments(parser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/cifar10-001; or a folder or file of "
                                                "published weights (docs/pretrained.md)")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="picture files")
    parser.add_argument("--top", type=int, metavar="N", help="classes to name for each (default 3, or all of 2)")


def run(arguments) -> int:
    """Prints a line per picture; gives 2 if any could not be read."""
    failed, (names, model) = False, named_model(arguments.run)
    top = min(3, len(names)) if arguments.top is None else arguments.top
    if not 1 <= top <= len(names):
        raise ValueError(f"--top {top} makes no sense for {len(names)} classes; "
                         f"choose from 1 to {len(names)}.")
    task = Classification(model, len(names), PICTURES_AT_A_TIME)
    paths = [path for word in arguments.images for path in expand(word)]
    for start in range(0, len(paths), PICTURES_AT_A_TIME):
        pictures = []
        for path in paths[start:start + PICTURES_AT_A_TIME]:
            try:
                pictures.append((path, read_picture(path, model.config["image_shape"])))
            except PictureError as error:
                failed = True
                print(error, file=sys.stderr, flush=True)
        if pictures:
            for (path, _), logits in zip(pictures, task.predict(np.stack([picture for _, picture in pictures]))):
                shares = probabilities(logits)
                likeliest = np.argsort(-shares)[:top]
                answer = ", ".join(f"{names[k]} {shares[k]:.1%}" for k in likeliest)
                print(harmless(f"{path}: {answer}"), flush=True)
    return 2 if failed else 0


def named_model(path: str) -> tuple:
    """Gives the classes' names and the model of a run folder or of published weights."""
    if is_published(path):
        loaded = load_pretrained(path)
        return loaded.class_names, loaded.model
    run = Run(path)
    return run.class_names, run.load_model()


def expand(word: str) -> list:
    """Lists the files that a word such as photos/*.jpg means, where the shell has not done so (Windows).

    Where it means none, the word itself: reading that says so.
    """
    path = Path(word)
    try:
        found = sorted(path.parent.glob(path.name)) if set("*?") & set(path.name) and not path.exists() else []
    except (OSError, ValueError):       # too long a name, or one such as **.jpg
        found = []
    return list(map(str, found)) or [word]
