"""The tables in docs/directml.md are what the emulated device counts: no change makes a step dearer unseen."""
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vision_transformer import directml
from vision_transformer.dry_run import dry_run
from vision_transformer.model import CHOICES
from vision_transformer.precision import set_precision
from vision_transformer.recipes import RECIPES
from vision_transformer.schedules import SCHEDULES
from vision_transformer.settings import read_constants
from vision_transformer.xla import as_on_directml

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "directml.md").read_text(encoding="utf-8")


def tables(text):
    """{title: rows of cells}, from the first title on to the first line that is neither title nor table."""
    lines = text[text.index("### Model options"):].splitlines()
    found = {}
    for line in itertools.takewhile(lambda line: not line or line.startswith(("### ", "| ", "|--")), lines):
        if line.startswith("### "):
            title = line[4:]
        elif line:
            found.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def rows(*titles):
    """{first cell: the others} of the documented tables of these titles."""
    return {name: cells for title in titles for name, *cells in tables(DOCUMENT)[title][2:]}


@pytest.mark.emulator
def test_the_documented_counts_are_counted_again():
    done = subprocess.run([sys.executable, "benchmarks/directml_step.py"], cwd=ROOT, capture_output=True,
                          encoding="utf-8", check=True)
    assert tables(done.stdout) == tables(DOCUMENT)


def test_the_documented_counts_keep_the_promise():
    """Of each training: no compilation, no stop, no op on the CPU; the default at most 1,130 kernels."""
    ours, compared = rows("Model options", "Training options"), rows("For comparison")
    assert len(ours) >= 40 and int(ours["none"][0].replace(",", "")) <= 1130
    assert {tuple(cells[1:]) for cells in ours.values()} == {("0", "0", "0")}
    assert compared["the default model, evaluate or predict"][1:] == ["0", "1", "0"]         # the result is read


def test_every_option_of_a_step_has_its_row():
    """Each choice but the default; each amount that is 0, off or empty by default."""
    constants = {c.name: c for c in read_constants(ROOT / "train_cifar10.py")[1]}
    choices = {**{name.upper(): values for name, values in CHOICES.items()}, "RECIPE": RECIPES,
               "SCHEDULE": set(SCHEDULES) - {"constant"}}                                   # which is plateau's, too
    wanted = {f"{constants[name].flag} {value}" for name, values in choices.items()
              for value in values if value != constants[name].default}
    groups = ("model", "mixing", "optimizer", "task", "training")
    wanted |= {c.flag for c in constants.values() if c.group in groups and not c.default
               } - {"--early-stopping", "--xla"}                        # no part of a step; not for DirectML
    shown = " ".join(rows("Model options", "Training options")).replace("`", " ") + " "
    assert {flag for flag in wanted if not re.search(rf"{re.escape(flag)} ", shown)} == set()
    assert len(wanted) > 30


# What the tests of each option alone don't see: options together, as the recipes have them.
@pytest.mark.parametrize("flags", [
    "--recipe compact", "--recipe hybrid --stem-widths 32", "--architecture resnet --average 0.9",
    "--recipe hybrid --stem-widths 6 --precision mixed_float16 --sam-rho 0.05 --mixup 0.2 --token-learner v1 "
    "--learned-tokens 2"])
def test_options_together_stay_on_a_directml_device(flags):
    small = "--blocks-per-stage 1" if "resnet" in flags else "--number-of-layers 1 --embedding-dim 6 --num-heads 2"
    try:
        with as_on_directml():
            functions = dry_run(ROOT / "train_digits.py", f"{small} --batch-size 8 {flags}".split()).functions()
    finally:
        set_precision("float32")
    assert [directml.check(function) for function in functions.values()] == [[], []]
