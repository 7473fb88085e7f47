"""kill -9 at random moments of a training, again and again: nothing is lost beyond the last save.

Ten kills by default; the figures of docs/reliability.md are of a hundred: `-m slow --kills 100`.
"""
import os
import random
import threading
import time

import numpy as np
import pytest
from processes import start_training

from vision_transformer.records import reported_epochs
from vision_transformer.runs import Run

STEPS = 19                                              # of an epoch
# Saves all the time, so that many kills fall into one; bit-equal, so that the end can be compared.
FLAGS = ["--epochs", "20", "--dropout", "0.1", "--save-every", "2", "--deterministic", "--number-of-layers", "1"]


def lines_until_killed(process, seconds, waits_for=""):
    """Kills a process some seconds after it printed a line that begins so (""; after it started); gives its lines."""
    lines, timer = [], threading.Timer(seconds, process.kill)
    if not waits_for:
        timer.start()
    for line in process.stdout:
        lines.append(line)
        if waits_for and line.startswith(waits_for):
            timer.start()
    process.wait()
    timer.cancel()
    return lines


def last_step(run_folder):
    """The step of the newest save; 0 where nothing was saved yet."""
    run = Run(run_folder)
    return run.load_state()[1]["step"] if run.has_state() else 0


def without_seconds(history):
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in history]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Windows knows no kill -9")
def test_killed_at_random_moments_a_training_ends_as_if_undisturbed(tmp_path, request, capsys):
    """Three of four kills come while it trains, validates, draws and reports, one while it starts."""
    kills, chance = request.config.getoption("--kills"), random.Random(time.time_ns())
    undisturbed, begun = start_training(tmp_path, *FLAGS, "--run-folder", "undisturbed"), time.monotonic()
    starting = next(time.monotonic() - begun for line in undisturbed.stdout if line.startswith("run "))
    assert undisturbed.communicate() and undisturbed.returncode == 0
    training = time.monotonic() - begun - starting
    expected = Run(tmp_path / "undisturbed" / "digits-001")
    (tensors, state), killed, trainings, early = expected.load_state(), 0, 0, 0
    while killed < kills:
        trainings += 1
        flags, step = ["--run-folder", f"killed-{trainings}", *FLAGS], 0
        folder = tmp_path / f"killed-{trainings}" / "digits-001"
        while not (folder.exists() and reported_epochs(Run(folder))):
            process = start_training(tmp_path, *flags)
            if killed == kills:                         # the last training goes to its end
                assert process.communicate() and process.returncode == 0
                continue
            moment = (starting, "") if chance.random() < 0.25 else (training / 3, "run ")
            lines = lines_until_killed(process, chance.uniform(0, moment[0]), moment[1])
            assert process.returncode in (-9, 0), process.stderr.read()
            killed += process.returncode == -9
            if not folder.exists():                     # or else it is a whole run folder, as what follows shows
                early += 1
                continue
            assert last_step(folder) >= step, "a save was lost"
            step = last_step(folder)
            shown = [int(line.split("/")[0][len("epoch "):]) for line in lines if line.startswith("epoch ")]
            assert step >= STEPS * max(shown, default=0), "an epoch that was reported was not saved"
            flags = ["--resume", str(folder)]
        run = Run(folder)
        for name, array in tensors.items():
            np.testing.assert_array_equal(run.load_state()[0][name], array, err_msg=name)
        assert (run.path / "model.safetensors").read_bytes() == (expected.path / "model.safetensors").read_bytes()
        assert without_seconds(run.load_state()[1]["history"]) == without_seconds(state["history"])
        assert {p.name for p in run.path.iterdir()} == {p.name for p in expected.path.iterdir()}, "nothing left over"
    with capsys.disabled():
        print(f"\n{killed} kills in {trainings} trainings, {early} of them before there was a run folder; "
              "all trainings ended bit-equal")
