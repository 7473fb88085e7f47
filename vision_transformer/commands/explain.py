"""Draws where a run's model looks in pictures, and what it learned, with the numbers beside each picture as CSV."""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ..attention_maps import look
from ..classification import Classification
from ..explanations import explain_heads, explain_learned_tokens, explain_patches, explain_rollout, title_of
from ..messages import harmless, one_line
from ..model import VisionTransformer
from ..picture_files import PictureError, read_picture
from ..pictures import save_figure
from ..run_explanations import (
    DISTANCE_PICTURES,
    explain_distance,
    explain_filters,
    explain_mistakes,
    explain_positions,
)
from ..runs import Run
from ..storage import make_folder, write_table
from .evaluate import data_of
from .predict import PICTURES_AT_A_TIME, expand

TEST_PICTURES = 4               # that are explained where none is named: of the first classes the first test picture
LONGEST_NAME = 80               # letters of a picture's name that go into its files' names


def add_arguments(parser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/cifar10-001")
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="picture files (default: some test pictures)")
    parser.add_argument("--output", metavar="FOLDER", help="where the pictures go (default: RUN/explain)")
    parser.add_argument("--data-dir", help="where the data lies now (default: where it lay in training)")


def run(arguments) -> int:
    """Writes the pictures and tables; gives 2 if any picture could not be read."""
    run = Run(arguments.run)
    names, model = run.class_names, run.load_model()
    attends = isinstance(model, VisionTransformer)
    if arguments.images and not attends:
        raise ValueError(f"{run.path} is a {type(model).__name__}'s, which has no attention: there is nothing to draw "
                         "of where it looks; leave out the pictures, and get its filters and mistakes.")
    folder = Path(arguments.output or run.path / "explain")
    make_folder(folder)
    try:
        data = data_of(run, model, arguments.data_dir)
    except (ValueError, OSError) as error:
        data = None
        print(f"note: without the test pictures there are no mistakes and no distances: {one_line(error)}")
    if not attends:
        print(f"note: a {type(model).__name__} has no attention: there are no heads, rollout, distances or positions")

    failed = False
    if attends:
        failed = _explain_pictures(model, names, _chosen_pictures(arguments.images, model, data, names), folder)
        if data:
            save(folder / "distance", explain_distance(model, data.test.images[:DISTANCE_PICTURES]))
        if model.config["positions"] == "none":
            print("note: POSITIONS is 'none': there are none to compare")
        else:
            save(folder / "positions", explain_positions(model))
    save(folder / "filters", explain_filters(model))
    if data:
        logits = Classification(model, len(names), PICTURES_AT_A_TIME).predict(data.test.images)
        mistakes = explain_mistakes(model, data.test.images, data.test.labels, logits, names)
        if mistakes:
            save(folder / "mistakes", mistakes)
        else:
            print(f"note: there are no mistakes to show: all {len(logits):,} test pictures are right")
    if failed:
        print("note: pictures that can't be read are not explained; they are named above")
    print(f"the pictures, and their numbers as CSV, are in {harmless(folder)}; docs/explain.md tells how to read them")
    return 2 if failed else 0


def save(path: Path, explanation) -> None:
    """Writes an explanation as path.png and path.csv."""
    save_figure(explanation.figure, path.with_name(path.name + ".png"))
    write_table(path.with_name(path.name + ".csv"), explanation.header, [
        [f"{value:.8g}" if isinstance(value, (float, np.floating)) else value for value in row]
        for row in explanation.rows])


def _chosen_pictures(words, model, data, class_names):
    """Gives (file name, name, picture or PictureError) of the pictures to explain, one at a time."""
    if words:
        for path in (path for word in words for path in expand(word)):
            try:
                picture = read_picture(path, model.config["image_shape"])
            except PictureError as error:
                picture = error
            yield Path(path).stem, Path(path).name, picture
    elif data:
        for label in np.unique(data.test.labels)[:TEST_PICTURES]:
            number = int(np.flatnonzero(data.test.labels == label)[0])
            yield f"test-{number}", f"test picture {number} ({class_names[label]})", data.test.images[number]


def _explain_pictures(model, class_names, pictures, folder) -> bool:
    """Explains pictures, says what each was taken for, and tells whether any could not be read."""
    failed, used = False, set()
    for file, name, picture in pictures:
        if isinstance(picture, PictureError):
            failed = True
            print(picture, file=sys.stderr, flush=True)
            continue
        looks, prefix = look(model, picture[None]), folder / _unused(file, used)
        title = title_of(name, looks.logits[0], class_names)
        save(prefix.with_name(f"{prefix.name}-patches"), explain_patches(picture, looks.field, title))
        save(prefix.with_name(f"{prefix.name}-heads"), explain_heads(picture, looks, title))
        save(prefix.with_name(f"{prefix.name}-rollout"), explain_rollout(picture, looks, title))
        if looks.learner is not None:
            save(prefix.with_name(f"{prefix.name}-tokens"), explain_learned_tokens(picture, looks, title))
        print(harmless(title), flush=True)
    return failed


def _unused(name: str, used: set) -> str:
    """Gives a name that any system takes for a file, and that no other picture of this call has."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)[:LONGEST_NAME]
    number, free = 1, name
    while free.lower() in used:
        number += 1
        free = f"{name}-{number}"
    used.add(free.lower())
    return free
