"""benchmarks/train_step.py: what a row's step computes, how it measures, and the table it prints."""
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import train_step
import train_step_tensorflow as rows
from child import Child

BLOCK = 64 * (64 + 128 + 64 + 2 * 256)              # multiply-adds of a token in a block, without attention's own
FORWARD = {                                         # by hand: patches, 8 blocks, classifier
    "ours": 64 * 48 * 64 + 8 * (64 * BLOCK + 2 * 64 * 64 * 64) + 4096 * 256 + 256 * 10,
    "sample": 64 * 48 * 64 + 8 * (65 * BLOCK + 2 * 65 * 65 * 64) + 64 * 512 + 512 * 256 + 256 * 10,
}


@pytest.mark.slow
@pytest.mark.parametrize("row, options", [("ours", ()), ("sample", ()), ("sample", ("Keras's attention",))])
def test_a_step_costs_what_its_sizes_say_and_trains(row, options):
    step, cost = getattr(rows, row)(*train_step.pictures(4), *options)
    assert cost == 4 * (3 * FORWARD[row] - 64 * 48 * 64)            # pixels need no gradient
    step()


# Of the recipe hybrid: channels in and out, side; nothing is learned before the first, so its input needs no gradient.
STEM = [(24, 48, 31), (48, 48, 15), (48, 192, 15), (192, 192, 7), (192, 192, 7), (192, 192, 3), (192, 192, 3)]


@pytest.mark.slow
def test_with_the_twins_written_out_the_convolutions_cost_twice_as_much():
    costs = [make(*train_step.pictures(4), "--recipe", "hybrid")[1] for make in (rows.ours_as_on_directml, rows.ours)]
    first, *others = (4 * 9 * before * after * side * side for before, after, side in STEM)
    assert costs[0] - costs[1] == (2 * first + 3 * sum(others)) / 2


def test_matrices_multiply():
    step, cost = rows.matrices()
    assert step().shape == (1024, 1024) and cost == 1024 ** 3


def test_every_row_is_of_the_default_sizes_and_ours_is_among_them():
    assert {batch for (_, make), batch, _ in train_step.ROWS.values() if make != "matrices"} == {128, 256, 512}
    assert {train_step.BASE, train_step.LIMIT} < set(train_step.ROWS)


def test_a_rows_process_tells_its_cost_and_its_rate_at_each_line(monkeypatch, capsys):
    clock = SimpleNamespace(now=0.0, steps=0)

    def make(images, labels, slow):
        assert (images.shape, labels.shape, slow) == ((8, 32, 32, 3), (8,), True)
        print("what it replaced")

        def step():
            clock.steps, clock.now = clock.steps + 1, clock.now + 0.75
        return step, 800

    monkeypatch.setattr(train_step, "time", SimpleNamespace(process_time=lambda: clock.now))
    monkeypatch.setattr(train_step, "ROWS", {"mine": (("train_step_tensorflow", "mine"), 8, (True,))})
    monkeypatch.setattr(rows, "mine", make, raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    train_step.serve("mine")
    facts, *rates = map(json.loads, capsys.readouterr().out.splitlines())
    assert facts == {"multiply_adds": 100, "versions": train_step.versions()} and tf.__version__ in facts["versions"]
    assert rates == [8 / 0.75] * 2 and clock.steps == 2 + 2 * 3                         # 2 warm, 3 make 2 seconds


RATES = {"ours": 100.0, "theirs": 50.0, train_step.LIMIT: 1000.0}


class FakeChild:
    """In place of a row's process."""

    def __init__(self, python, script, row, **environment):
        assert (python, script) == ("this python", train_step.__file__)
        assert environment == {"TF_NUM_INTEROP_THREADS": "1"}
        self.facts = {"multiply_adds": 10 ** 8, "versions": "this and that"} if row in RATES else None
        self.rates = iter([RATES.get(row, 0) + k for k in (0, 10, -10, 20, 30, 5, 5, 5, 5, 5)])

    def ask(self):
        return next(self.rates)

    def end(self):
        pass


def test_the_table_has_medians_spread_ratios_and_shares(monkeypatch, capsys):
    table = {"ours": (None, 512, ()), "theirs": (None, 128, ()), "none": (None, 8, ()), train_step.LIMIT: (None, 1, ())}
    monkeypatch.setattr(train_step, "ROWS", table)
    monkeypatch.setattr(train_step, "Child", FakeChild)
    train_step.compare(["theirs", "none"], dict.fromkeys(table, "this python"))
    printed = capsys.readouterr().out
    assert printed.endswith("\n\nthis and that\n")
    printed = [line for line in printed.splitlines() if line.startswith("| ")][1:]
    assert printed[1].startswith("| none | does not run here: this python ") and printed.pop(1).count("|") == 7
    assert printed == [
        "| theirs | 128 | 60 (40 to 80) | 0.55 | 12 | 6% |",        # 60/110; 2 x 1e8 x 60; 12 of 202
        "| ours | 512 | 110 (90 to 130) | 1.00 | 22 | 11% |",
        f"| {train_step.LIMIT} | | | | 202 | |"]


def test_a_row_that_does_not_run_has_no_facts():
    child = Child(sys.executable, train_step.__file__, "no such row")
    assert child.facts is None
    child.end()


def test_help_says_how_to_have_torch():
    said = subprocess.run([sys.executable, train_step.__file__, "--help"], capture_output=True, text=True, check=True)
    assert "pip install torch timm vit-pytorch" in said.stdout
