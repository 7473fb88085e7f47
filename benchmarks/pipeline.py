"""How many augmented pictures a second of CPU makes, here and elsewhere: prints one table.

    python benchmarks/pipeline.py                                   # ours, the sample's way, and Keras's layers
    python benchmarks/pipeline.py --torch-python OTHER/bin/python   # torch's libraries as well; OTHER is made by
        python -m venv OTHER && OTHER/bin/pip install torch torchvision albumentations kornia

Pictures of CIFAR's size become batches. Every transform of a list is applied to every picture, except in the sample's
own way. This project's rows and the sample's are whole pipelines: from bytes in memory through shuffling to batches. Of
the others only the transforms are measured, and what a library lacks stands in the last column; both flatter it.

The rows take turns. Seconds are those of all threads of a process, so other work on the machine does little harm; ops
have one thread, as with more, part of a CPU second is threads waiting for each other. The sample's way works ahead, as
it is written, also while others have their turns: it has a process to itself, all of whose seconds count.
"""
from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from child import Child

BATCH, SIDE = 512, 32
TURNS, SECONDS = 5, 0.7         # of each row; CPU seconds of a turn, or as long as two batches take

CROP = {"flip_horizontal": 0.5, "translation": 0.125}
COLOURS = {"contrast": 0.2, "brightness": 0.1, "saturation": 0.2}
MOVES = {"flip_vertical": 0.5, "zoom": 0.2, "rotation": 15, "shear": 10}
LISTS = {                       # the constants of scripts
    "flip, crop": CROP,
    "the scripts' default": {**CROP, **COLOURS},
    "all": {**CROP, **MOVES, **COLOURS, "hue": 0.08, "erasing": 1.0},
    "TrivialAugment": {"policy": "trivial"},
    "RandAugment": {"policy": "rand", "policy_operations": 2, "policy_strength": 9},
    "flip, crop, mixup": {**CROP, "mixup": 0.2},
    "flip, crop, cutmix": {**CROP, "cutmix": 1.0},
    "alternating flip, crop": {"alternating_flip": True, "translation": 0.125},
    "its own, each on 1 of 7 pictures": {},
}
PLAIN, MIXED = ["flip, crop", "the scripts' default", "all"], ["flip, crop, mixup", "flip, crop, cutmix"]
POLICIES = ["TrivialAugment", "RandAugment"]
SAMPLE, AS_IT_IS = "the sample's way", "its own, each on 1 of 7 pictures"
OURS_ALONE, RESAMPLING = "this project's transforms alone", "one bilinear resampling by TensorFlow's op alone"
WAYS = {                        # a name: the package, the file here and the function that do it, its lists
    "this project": ("tensorflow", "pipeline_tensorflow", "ours",
                     [*PLAIN, *POLICIES, *MIXED, "alternating flip, crop"]),
    OURS_ALONE: ("tensorflow", "pipeline_tensorflow", "our_transforms", PLAIN),
    RESAMPLING: ("tensorflow", "pipeline_tensorflow", "resampling", ["all"]),
    SAMPLE: ("tensorflow", "pipeline_sample", "sample", [AS_IT_IS]),
    "Keras's layers": ("keras", "pipeline_tensorflow", "keras_layers", [*PLAIN, "RandAugment", *MIXED]),
    "albumentations": ("albumentations", "pipeline_torch", "albumentations", PLAIN),
    "torchvision v1": ("torchvision", "pipeline_torch", "torchvision_v1", [*PLAIN, *POLICIES]),
    "torchvision v2, a batch alike": ("torchvision", "pipeline_torch", "torchvision_v2",
                                      [*PLAIN, *POLICIES, *MIXED]),
    "kornia": ("kornia", "pipeline_torch", "kornia", [*PLAIN, *MIXED]),
}


# ------------------------------------------------------------------------------------------ one file's process
def serve(file: str) -> None:
    """Prepares a file's rows and says what they are; then measures a row each time its number is read."""
    answers, sys.stdout = sys.stdout, sys.stderr                # libraries print, too
    images = np.random.default_rng(0).integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)    # no figure depends on them
    rows, prepared, versions = [], {}, {}
    for way, (package, home, function, lists) in WAYS.items():
        if home != file:
            continue
        if not importlib.util.find_spec(package):
            rows.append([way, "", f"not installed here: pip install {package}"])
            continue
        versions[package] = importlib.import_module(package).__version__
        for name in lists:
            batches, lacks = getattr(importlib.import_module(home), function)(images, dict(LISTS[name]))
            if batches:
                next(batches)                                   # traces, compiles
                prepared[len(rows)] = batches
            rows.append([way, name, ", ".join(sorted(lacks))])
    print(json.dumps([versions, rows, list(prepared)]), file=answers, flush=True)
    ended = time.process_time()
    for line in sys.stdin:
        began = ended if len(prepared) == 1 else time.process_time()        # the only one works ahead between its turns
        pictures = take(prepared[int(line)])
        ended = time.process_time()
        print(pictures / (ended - began), file=answers, flush=True)


def take(batches) -> int:
    """Takes batches from an iterator, for about SECONDS of CPU; gives the number of pictures."""
    began, taken, pictures = time.process_time(), 0, 0
    while taken < 2 or time.process_time() - began < SECONDS:
        taken, pictures = taken + 1, pictures + len(next(batches))
    return pictures


class File:
    """A file's process, run by a Python that has its libraries."""

    def __init__(self, file: str, python: str):
        self.child = Child(python, __file__, file)
        if self.child.facts is None:
            raise RuntimeError(f"{file} does not run here; {python} {__file__} --serve {file} shows why")
        self.versions, self.rows, self.prepared = self.child.facts
        self.rates = {number: [] for number in self.prepared}

    def turn(self, number: int) -> None:
        """Has it measure a row once."""
        self.rates[number].append(self.child.ask(number))


# ------------------------------------------------------------------------------------------ the table
def compare(pythons: dict) -> None:
    """Measures the rows of files by turns, each file by its Python, and prints the table."""
    from vision_transformer.installation import cpu_name

    children = [File(file, python) for file, python in pythons.items()]
    for _ in range(TURNS):
        for child in children:
            for number in child.prepared:
                child.turn(number)
    versions = "; ".join({f"{name} {version}": 0 for child in children for name, version in child.versions.items()})
    print(f"{cpu_name()}, {platform.system()}, Python {platform.python_version()}; {versions}.\nBatches of {BATCH} "
          f"pictures {SIDE} x {SIDE} x 3; median (lowest to highest) of {TURNS} turns.\n")
    rates = {tuple(row[:2]): sorted(child.rates.get(number, [])) for child in children
             for number, row in enumerate(child.rows)}
    medians = {row: statistics.median(turns) for row, turns in rates.items() if turns}
    print(f"| way | transforms | pictures per CPU second | against {SAMPLE} | lacks |\n|---|---|---|---|---|")
    for child in children:
        for way, name, remark in child.rows:
            row, turns = (way, name), rates[way, name]
            figures = [f"{medians[row]:,.0f} ({turns[0]:,.0f} to {turns[-1]:,.0f})",
                       f"{medians[row] / medians[SAMPLE, AS_IT_IS]:.3g}"] if turns else ["", ""]
            print("| " + " | ".join([way, name, *figures, remark]) + " |")
        child.child.end()
    print("\nAll of this project's transforms reach "
          f"{medians[OURS_ALONE, 'all'] / medians[RESAMPLING, 'all']:.0%} of the rate of {RESAMPLING}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch-python", metavar="PATH", default=sys.executable,
                        help="the Python that has torchvision, albumentations and kornia")
    parser.add_argument("--serve", metavar="FILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
    else:
        compare({"pipeline_sample": sys.executable, "pipeline_tensorflow": sys.executable,
                 "pipeline_torch": arguments.torch_python})
