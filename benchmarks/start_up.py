"""From the command to the end of the first training step, here and in Microsoft's sample: prints one table.

    python benchmarks/start_up.py

Both read CIFAR-10's files (random pixels, in its official layout), make their batches and their model, and train one
step, each with its own constants. Here that includes the run folder and the picture of samples. Each run has a process
of its own; they take turns. Times are those that the parent sees, from the start of Python on.
"""
from __future__ import annotations

import argparse
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

TURNS = 5
BATCHES = {**{f"data_batch_{i}": 10_000 for i in range(1, 6)}, "test_batch": 10_000}        # a file: its pictures


def ours(folder: str, *flags: str) -> None:
    """python train_cifar10.py with these flags, up to the end of its first step."""
    from vision_transformer.dry_run import dry_run

    training = dry_run(ROOT / "train_cifar10.py", ["--data-dir", folder, *flags])
    training.owner.train_step(training.batches)(*next(iter(training.batches)))
    training.owner.totals.numpy()


def sample(folder: str) -> None:
    """What the sample computes until then."""
    from pipeline_sample import sample_batches
    from train_step_tensorflow import sample_model

    from vision_transformer.datasets import load_dataset

    training = load_dataset("cifar10", folder).train
    batches = sample_batches(training.images, training.labels)
    sample_model().fit(batches, steps_per_epoch=1, verbose=0, shuffle=False)


WAYS = {
    "this project": ours,
    "this project, batch 128": lambda folder: ours(folder, "--batch-size", "128"),      # as the sample's
    "the sample": sample,
}


def write_pictures(folder: Path) -> None:
    """Writes CIFAR-10's files, of random pixels."""
    chance, folder = np.random.default_rng(0), folder / "cifar-10-batches-py"
    folder.mkdir()
    for name, pictures in BATCHES.items():
        content = {"data": chance.integers(0, 256, (pictures, 3072), np.uint8),
                   "labels": [k % 10 for k in range(pictures)]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = [f"class {k}" for k in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))


def measure(way: str, folder: str) -> tuple[float, float]:
    """Gives the seconds of one run: the clock's and the CPU's."""
    begin = time.perf_counter()
    command = [sys.executable, __file__, "--serve", way, folder]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return time.perf_counter() - begin, float(said.split()[-1])


def line(way: str, runs: list, base: list) -> str:
    """Writes a row of the table; runs, base: (clock, CPU seconds) of each turn, this way's and the sample's."""
    cells = [f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})" for seconds in zip(*runs)]
    ratios = [statistics.median(one[k] / other[k] for one, other in zip(runs, base)) for k in (0, 1)]
    return f"| {way} | {cells[0]} | {ratios[0]:.2f} | {cells[1]} | {ratios[1]:.2f} |"


def main() -> None:
    """Reads the command line; measures by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        way, folder = arguments.serve
        WAYS[way](folder)
        print(time.process_time())
        return
    from vision_transformer.installation import cpu_name, version_of

    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder))
        runs = {way: [] for way in WAYS}
        for _ in range(TURNS):
            for way, measured in runs.items():
                measured.append(measure(way, folder))
    tensorflow = version_of("tensorflow") or version_of("tensorflow-cpu")
    print(f"{cpu_name()}, {os.cpu_count()} cores; {platform.system()}, Python {platform.python_version()}, TensorFlow "
          f"{tensorflow}. Median (lowest to highest) of {TURNS} turns.\n\n"
          "| until the first step is done | seconds | against the sample | CPU seconds | against the sample |\n"
          "|---|---|---|---|---|")
    for way, measured in runs.items():
        print(line(way, measured, runs["the sample"]))


if __name__ == "__main__":
    main()
