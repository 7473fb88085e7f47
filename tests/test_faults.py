"""What goes wrong around a training, done for real: a full disk, a read-only one, signals, lost data, two at once."""
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from cifar_files import write_folder
from processes import start_training

import train_cifar10
import train_digits
from vision_transformer.__main__ import main as command
from vision_transformer.cifar import DataError
from vision_transformer.runs import Run
from vision_transformer.storage import CannotWrite
from vision_transformer.tensorboard_log import TensorBoardLog

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_process")]         # a training or two each
ROOT = Path(__file__).parents[1]
FLAGS = ["--epochs", "3", "--save-every", "7", "--number-of-layers", "1", "--deterministic"]


def weights_of(run):
    return run.load_state()[0], (run.path / "model.safetensors").read_bytes()


def assert_alike(run, other):
    (tensors, best), (expected, expected_best) = weights_of(run), weights_of(other)
    assert best == expected_best and tensors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name], array, err_msg=name)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train_digits.main([*FLAGS, "--run-folder", str(folder)])
    return Run(folder / "digits-001")


# ------------------------------------------------------------------------------------------ disks
@pytest.fixture
def disk(tmp_path):
    """A disk of 8 MB of its own, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)],
                                                 capture_output=True).returncode:
        pytest.skip("needs the right to mount a disk: run as root on Linux")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (2 ** 16, 2 ** 12, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError as error:
                assert error.errno == 28
    assert shutil.disk_usage(folder).free == 0


def before_writing(name, number, act):
    """Patches Path.open to call `act` before the number-th time that a file of this name is written."""
    original, times = Path.open, []

    def changed(path, mode="r", *arguments, **options):
        if path.name == f"{name}.part" and "w" in mode:
            times.append(1)
            if len(times) == number:
                act()
        return original(path, mode, *arguments, **options)
    return mock.patch.object(Path, "open", changed)


def make_read_only(folder):
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def make_writable(folder):
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    (folder / "filler").unlink(missing_ok=True)


@pytest.mark.parametrize("name, number", [
    ("samples.png", 1), ("state.safetensors", 1), ("state.safetensors", 4), ("model.safetensors", 1),
    ("history.csv", 2), ("curves.png", 1), ("confusion.png", 1), ("results.json", 1)])
def test_a_disk_that_becomes_full_loses_nothing(disk, undisturbed, name, number):
    says = rf"{name} can't be written: No space left on device.*--resume .*digits-001"
    with before_writing(name, number, lambda: fill(disk)), pytest.raises(CannotWrite, match=says):
        train_digits.main([*FLAGS, "--run-folder", str(disk)])
    make_writable(disk)
    assert not list(disk.rglob("*.part"))
    train_digits.main(["--resume", str(disk / "digits-001")])
    assert_alike(Run(disk / "digits-001"), undisturbed)
    assert {p.name for p in (disk / "digits-001").iterdir()} >= {p.name for p in undisturbed.path.iterdir()} - {
        "samples.png"}


def test_a_disk_that_is_full_when_the_log_is_written(disk, undisturbed):
    add, rows = TensorBoardLog.add, []

    def filling(log, row):
        rows.append(row)
        if len(rows) == 2:
            fill(disk)
        add(log, {**row, **{f"more {i}": 0.0 for i in range(200)}})     # more than one page, or there is room

    with mock.patch.object(TensorBoardLog, "add", filling), \
            pytest.raises(CannotWrite, match=r"tensorboard can't be written: .*[Nn]o space left on device"):
        train_digits.main([*FLAGS, "--run-folder", str(disk)])
    make_writable(disk)
    train_digits.main(["--resume", str(disk / "digits-001")])
    assert_alike(Run(disk / "digits-001"), undisturbed)
    assert logged_epochs(Run(disk / "digits-001")) == [1, 2, 3]


@pytest.mark.parametrize("fault, says", [(fill, "No space left on device"), (make_read_only, "Read-only file system")])
def test_where_no_run_folder_can_be_made_nothing_is(disk, fault, says):
    fault(disk)
    with pytest.raises(CannotWrite, match=f"^no run folder can be made in {disk / 'runs'}: {says}.*--run-folder"):
        train_digits.main([*FLAGS, "--run-folder", str(disk / "runs")])
    make_writable(disk)
    assert [path for path in disk.rglob("*") if path.name != "runs"] == []


def test_a_read_only_run_can_be_used_but_not_resumed(disk, capsys):
    train_digits.main([*FLAGS, "--run-folder", str(disk)])
    make_read_only(disk)
    with pytest.raises(CannotWrite, match=r"\.lock can't be written: Read-only"):
        train_digits.main(["--resume", str(disk / "digits-001"), "--epochs", "4"])
    assert Run(disk / "digits-001").load_model().config["num_classes"] == 10
    with pytest.raises(CannotWrite, match=r"confusion\.png can't be written: Read-only"):
        command(["evaluate", str(disk / "digits-001")])
    assert "test accuracy" in capsys.readouterr().out, "the figures come before the picture"


# ------------------------------------------------------------------------------------------ time
def logged_epochs(run):
    """The steps of TensorBoard's val_accuracy, over all log files."""
    return [event.step for file in sorted((run.path / "tensorboard").iterdir())
            for event in tf.compat.v1.train.summary_iterator(str(file)) for value in event.summary.value
            if value.tag == "val_accuracy"]


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, undisturbed):
    hours = iter(range(10 ** 9, 0, -1))
    with mock.patch.object(time, "time", lambda: 3600.0 * next(hours)):
        train_digits.main([*FLAGS, "--save-minutes", "0.01", "--run-folder", str(tmp_path)])
    run = Run(tmp_path / "digits-001")
    seconds = [row["seconds"] for row in run.load_state()[1]["history"]]
    assert 0 < seconds[0] < seconds[1] < seconds[2] < 600
    assert_alike(run, undisturbed)


def test_saves_by_time(tmp_path):
    """Every 0.001 minutes is after each step or two; every 0 minutes is at the ends of the epochs only."""
    saved = {}
    for minutes in ("0.001", "0"):
        kept = saved[minutes] = []
        save = Run.save_state
        with mock.patch.object(Run, "save_state", lambda run, tensors, state, save=save, kept=kept:
                               (kept.append(state["step"]), save(run, tensors, state))):
            train_digits.main(["--epochs", "2", "--save-every", "1000", "--save-minutes", minutes, "--run-folder",
                               str(tmp_path), "--number-of-layers", "1"])
    assert saved["0"] == [19, 38]
    assert len(saved["0.001"]) > 4 and {19, 38} < set(saved["0.001"])


# ------------------------------------------------------------------------------------------ data
def test_data_that_disappear_between_epochs_are_not_missed_until_they_are_read_again(tmp_path, capsys):
    data, hidden, runs = tmp_path / "data", tmp_path / "hidden", tmp_path / "runs"
    write_folder(data, "cifar10")
    flags = ["--data-dir", str(data), "--run-folder", str(runs), "--batch-size", "4", "--validation-share", "0.4",
             "--number-of-layers", "1", "--deterministic"]
    with mock.patch("train_cifar10.split_validation", lambda split, *_: (split, split)):
        with before_writing("history.csv", 1, lambda: data.rename(hidden)):
            train_cifar10.main([*flags, "--epochs", "2"])
        run = str(runs / "cifar10-001")
        assert "epoch 2/2" in capsys.readouterr().out
        for again in (lambda: command(["evaluate", run]),
                      lambda: train_cifar10.main(["--resume", run, "--epochs", "3"])):
            with pytest.raises(DataError, match=re.escape(f"cannot be read from {data}")):
                again()
        assert command(["evaluate", run, "--data-dir", str(hidden)]) == 0
        train_cifar10.main(["--resume", run, "--epochs", "3", "--data-dir", str(hidden)])
        assert "epoch 3/3" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ processes
def until(process, beginning):
    for line in process.stdout:
        if line.startswith(beginning):
            return
    pytest.fail(process.stderr.read())


@pytest.mark.skipif(os.name != "posix", reason="Windows has other signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_save_and_say_how_to_go_on(tmp_path, undisturbed, number):
    process = start_training(tmp_path, *FLAGS)
    until(process, "epoch 1/3")
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "stopping: this step is finished and saved first" in errors
    said = errors.strip().splitlines()[-1]
    assert said.startswith("train_digits.py: stopped after step ")
    step = int(said.split("after step ")[1].split(";")[0])
    assert Run(tmp_path / "runs" / "digits-001").load_state()[1]["step"] == step >= 19
    done = subprocess.run(said.split("to go on: ")[1], shell=True, cwd=tmp_path, capture_output=True,
                          encoding="utf-8", env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and f"goes on after step {step}" in done.stdout
    assert_alike(Run(tmp_path / "runs" / "digits-001"), undisturbed)


@pytest.mark.skipif(os.name != "posix", reason="Windows has other signals")
def test_twice_is_out_at_once_and_two_trainings_do_not_share_a_folder(tmp_path, undisturbed):
    process = start_training(tmp_path, *FLAGS, "--epochs", "1000", "--save-every", "1000000")
    until(process, "epoch    2/1000")
    second = start_training(tmp_path, "--resume", "runs/digits-001")
    _, errors = second.communicate()
    assert second.returncode == 2
    assert errors.strip().splitlines()[-1].startswith(
        f"train_digits.py: another training is using {Path('runs') / 'digits-001'} right now: wait for its end")
    process.send_signal(signal.SIGINT)
    while "stopping:" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    run = Run(tmp_path / "runs" / "digits-001")
    step = run.load_state()[1]["step"]
    if "stopped at once" in errors:                     # or the step had been finished before the second came
        assert "to go on from the last save: " in errors and step % 19 == 0
    assert step >= 2 * 19


def test_a_batch_that_does_not_fit_into_memory_says_so(tmp_path):
    """Attention of 1,200 pictures among 1,016 tokens, 48 heads: 238 GB."""
    process = start_training(tmp_path, "--batch-size", "1200", "--register-tokens", "1000", "--num-heads", "48",
                    "--number-of-layers", "1")
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    assert errors.strip().splitlines()[-1] == (
        "train_digits.py: out of memory: a step with BATCH_SIZE 1200 doesn't fit. Lower BATCH_SIZE, or the model's "
        "sizes. (--debug shows where)")


@pytest.mark.parametrize("package", ["tensorflow", "filelock", "sklearn", "tensorboard"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, package):
    code = f"import sys, runpy; sys.modules['{package}'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / "train_digits.py")], cwd=tmp_path,
                          capture_output=True, encoding="utf-8", env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f"ModuleNotFoundError: the package '{package}' is not installed in this Python: python -m pip install -r "
        "requirements.txt; or python -m vision_transformer doctor tells what is wrong")
    assert list(tmp_path.iterdir()) == []
