"""How many pictures a second of CPU trains, here and elsewhere, at the sizes of the default model: prints one table.

    python benchmarks/train_step.py                                     # ours and Keras's
    python benchmarks/train_step.py --torch-python OTHER/bin/python     # PyTorch's as well; OTHER is made by
        python -m venv OTHER && OTHER/bin/pip install torch timm vit-pytorch
    python benchmarks/train_step.py --rows sample                       # only rows of such names, beside the first

A step is all that training does with a batch in memory: forward, backward, update, figures. Pictures are 32 x 32 x 3,
in 64 patches; 8 blocks, 64 wide, 8 heads, MLP of 256; dropout is on (the recipe hybrid has sizes of its own). Each row
takes turns with ours, in a process of its own with one thread: with more, part of a CPU second is threads waiting for
each other, in PyTorch most.

FLOPs are those of the step's matrix products (see training_flops.py; in PyTorch its own counter's), and the limit that
they are a share of is a product of two 1,024 x 1,024 float32 matrices in TensorFlow, measured in turn like the rows.
"""
from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from child import Child

TURNS, SECONDS = 5, 2.0         # of each row; CPU seconds of a turn, or as long as a step takes

OURS, SAMPLE = ("train_step_tensorflow", "ours"), ("train_step_tensorflow", "sample")
WRITTEN_OUT = "train_step_tensorflow", "ours_as_on_directml"
TIMM, VIT_PYTORCH = ("train_step_torch", "timm"), ("train_step_torch", "vit_pytorch")
LEARNED_2 = ("--token-learner", "v1.1", "--learned-tokens", "2", "--token-learner-after", "1")
NO_DROPOUT = ("--dropout", "0", "--classifier-dropout", "0")
BASE, LIMIT = "ours", "1,024 x 1,024 matrices"          # the row that others are compared with; what no row passes
ROWS = {                # a name: the file here and the function that make the step, the batch size, its options
    BASE: (OURS, 512, ()),
    "ours, batch 128": (OURS, 128, ()),
    "ours, XLA": (OURS, 512, ("--xla",)),
    "ours, bfloat16": (OURS, 512, ("--precision", "mixed_bfloat16")),
    "ours, no dropout": (OURS, 512, NO_DROPOUT),
    "ours, no dropout, XLA": (OURS, 512, (*NO_DROPOUT, "--xla")),
    "ours, mean pool": (OURS, 512, ("--pool", "mean")),
    "ours, mean pool, 2 learned tokens": (OURS, 512, ("--pool", "mean", *LEARNED_2)),
    "recipe hybrid": (OURS, 256, ("--recipe", "hybrid")),
    "recipe hybrid, XLA": (OURS, 256, ("--recipe", "hybrid", "--xla")),
    "recipe hybrid, bfloat16": (OURS, 256, ("--recipe", "hybrid", "--precision", "mixed_bfloat16")),
    "recipe hybrid, twins written out": (WRITTEN_OUT, 256, ("--recipe", "hybrid")),
    "recipe hybrid, bfloat16, twins written out": (
        WRITTEN_OUT, 256, ("--recipe", "hybrid", "--precision", "mixed_bfloat16")),
    "sample, Keras's fit": (SAMPLE, 128, ()),
    "sample, Keras's fit, batch 512": (SAMPLE, 512, ()),
    "sample, Keras's attention": (SAMPLE, 128, ("Keras's attention",)),
    "timm": (TIMM, 128, ()),
    "timm, torch.compile": (TIMM, 128, ("compiled",)),
    "vit-pytorch": (VIT_PYTORCH, 128, ()),
    LIMIT: (("train_step_tensorflow", "matrices"), 1, ()),
}


# ------------------------------------------------------------------------------------------ one row's process
def serve(row: str) -> None:
    """Makes a row's step, says {"multiply_adds" per picture, "versions"}; then, at each line read, takes a turn."""
    (home, function), batch, options = ROWS[row]
    with contextlib.redirect_stdout(sys.stderr):            # a recipe says what it replaces
        step, cost = getattr(importlib.import_module(home), function)(*pictures(batch), *options)
    for _ in range(2):
        step()
    say({"multiply_adds": cost / batch, "versions": versions()})
    for _ in sys.stdin:
        steps, began = 0, time.process_time()
        while time.process_time() - began < SECONDS:
            step()
            steps += 1
        say(batch * steps / (time.process_time() - began))


def pictures(batch: int) -> tuple:
    """Makes random pictures, 0..255, and labels: no figure depends on what they show."""
    images = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3))
    return images.astype(np.float32), np.arange(batch) % 10


def say(something) -> None:
    """Tells the parent something."""
    print(json.dumps(something), flush=True)


def versions() -> str:
    """What this process has loaded of the libraries that are compared."""
    loaded = ((name, sys.modules.get(name)) for name in ("tensorflow", "keras", "torch", "timm"))
    return ", ".join(f"{name} {module.__version__}" for name, module in loaded if module)


# ------------------------------------------------------------------------------------------ the table
def compare(rows, pythons) -> None:
    """Measures rows, each by turns with ours and the limit, and prints the table.

    No more than three processes at a time: each holds a gigabyte or three.
    """
    def start(row):
        return Child(pythons[row], __file__, row, TF_NUM_INTEROP_THREADS="1")

    base, limit = start(BASE), start(LIMIT)
    print("\n| one training step | batch | pictures per CPU second | against ours | GFLOPS | of the limit |\n"
          "|---|---|---|---|---|---|", flush=True)
    base_rates, limits, loaded = [], [], [base.facts["versions"]]
    for row in rows:
        child = start(row)
        if child.facts is None:
            print(f"| {row} | does not run here: {pythons[row]} {__file__} --serve {row!r} shows why | | | | |")
            child.end()
            continue
        turns = [(child.ask(), base.ask(), limit.ask()) for _ in range(TURNS)]
        child.end()
        base_rates += [turn[1] for turn in turns]
        limits += [turn[2] for turn in turns]
        loaded.append(child.facts["versions"])
        print(line(row, ROWS[row][1], child.facts, turns, limit.facts), flush=True)
    print(line(BASE, ROWS[BASE][1], base.facts, list(zip(base_rates, base_rates, limits)), limit.facts))
    print(f"| {LIMIT} | | | | {gflops(limits, limit.facts):.0f} | |\n\n{'; '.join(dict.fromkeys(loaded))}")
    base.end()
    limit.end()


def gflops(rates: list, facts: dict) -> float:
    """Gives 10^9 floating-point operations per CPU second, of pictures or products per CPU second."""
    return 2e-9 * facts["multiply_adds"] * statistics.median(rates)


def line(row: str, batch: int, facts: dict, turns: list, limit_facts: dict) -> str:
    """Writes a row of the table; turns: (its rate, ours, the limit's), each taken one after the other."""
    rates, _, limits = zip(*turns)
    against = statistics.median(rate / ours for rate, ours, _ in turns)
    reached = gflops(rates, facts)
    return (f"| {row} | {batch} | {statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | "
            f"{against:.2f} | {reached:.0f} | {reached / gflops(limits, limit_facts):.0%} |")


def main() -> None:
    """Reads the command line; measures what can be measured here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", metavar="PATH", help="the Python that has torch, timm and vit-pytorch")
    parser.add_argument("--rows", metavar="TEXT", default="", help="measure only rows whose names contain this")
    parser.add_argument("--serve", metavar="ROW", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    from vision_transformer.installation import cpu_name

    pythons = {row: arguments.torch_python if home == "train_step_torch" else sys.executable
               for row, ((home, _), *_) in ROWS.items()}
    rows = [row for row in ROWS if pythons[row] and arguments.rows in row and row not in (BASE, LIMIT)]
    print(f"{cpu_name()}, one thread; {platform.system()}, Python {platform.python_version()}; median (lowest to "
          f"highest) of {TURNS} turns.", flush=True)
    if not arguments.torch_python:
        print("Without PyTorch: --help says how to have it in.", flush=True)
    compare(rows, pythons)


if __name__ == "__main__":
    main()
