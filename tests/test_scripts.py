"""The training scripts: one body, documented constants, and the whole way from command to run folder."""
import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from cifar_files import python2_file
from PIL import Image
from tensorflow import keras

import train_cifar10
import train_digits
from vision_transformer.datasets import load_dataset
from vision_transformer.runs import Run
from vision_transformer.settings import read_constants, read_settings

ROOT = Path(__file__).parents[1]
SCRIPTS = ("train_cifar10.py", "train_cifar100.py", "train_digits.py", "examples/train_image_folder.py")
FOLDERS_OWN = ("IMAGE_SIZE", "CLASS_WEIGHTS")           # what only the last of them has


def run_script(*arguments, folder=ROOT, **environment):
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, encoding="utf-8",
                          env={**os.environ, "PYTHONPATH": str(ROOT), **environment})


def body_of(script):
    """All statements but the docstring, the constants' values, and how an example finds the project."""
    tree = ast.parse((ROOT / script).read_text(encoding="utf-8"))
    finds_project = ast.parse("import sys\nfrom pathlib import Path\n"
                              "sys.path.insert(0, str(Path(__file__).resolve().parents[1]))").body
    left_out = [ast.dump(statement) for statement in finds_project] if script.startswith("examples/") else []
    assert not left_out or [ast.dump(statement) for statement in tree.body[2:5]] == left_out
    body = [ast.dump(s) if not isinstance(s, ast.Assign) else [t.id for t in s.targets] for s in tree.body[1:]]
    return [statement for statement in body if statement not in (*left_out, *([name] for name in FOLDERS_OWN))]


def test_the_scripts_differ_in_constants_only():
    first, *others = map(body_of, SCRIPTS)
    assert all(other == first for other in others) and len(first) > 40


def test_main_fits_a_screen():
    [main] = [s for s in ast.parse((ROOT / SCRIPTS[0]).read_text(encoding="utf-8")).body
              if isinstance(s, ast.FunctionDef)]
    assert main.end_lineno - main.lineno < 42


@pytest.mark.parametrize("script", SCRIPTS[:2])
def test_the_promised_constants(script):
    c = read_settings(ROOT / script, [])
    promised = {"PATCH_SIZE": 4, "PATCH_STRIDE": 4, "NUMBER_OF_LAYERS": 8, "EMBEDDING_DIM": 64, "NUM_HEADS": 8,
                "MLP_HIDDEN_DIM": 256, "LEARNING_RATE": 0.001, "BATCH_SIZE": 512, "EPOCHS": 100, "PATIENCE": 10}
    assert {name: getattr(c, name) for name in promised} == promised
    assert {SCRIPTS[0]: ("cifar10", 3), SCRIPTS[1]: ("cifar100", 5)}[script] == (c.DATASET, c.TOP_K)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_constant_of_a_script_is_used_and_explained(script):
    text = (ROOT / script).read_text(encoding="utf-8")
    elsewhere = ("RECIPE", "SIZE", "RESUME", "RUN_FOLDER", "DEBUG")      # with_recipe, resumed, open_run, run_script
    for constant in read_constants(ROOT / script)[1]:
        used = f"c.{constant.name}" in text or f'**c.below("{constant.group}")' in text
        assert used or constant.name in elsewhere, constant.name
        assert len(constant.meaning) > 3


@pytest.mark.parametrize("given, seen", [(None, "0"), ("1", "1")])
def test_the_gpu_is_chosen_before_tensorflow_loads_only_where_the_user_did_not(given, seen):
    code = "import train_digits, os; print(repr(os.environ['DML_VISIBLE_DEVICES']))"
    environment = {} if given is None else {"DML_VISIBLE_DEVICES": given}
    kept = {k: v for k, v in os.environ.items() if k != "DML_VISIBLE_DEVICES"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8",
                          env={**kept, **environment})
    assert done.stdout.strip() == repr(seen)
    lines = (ROOT / "train_digits.py").read_text(encoding="utf-8").splitlines()
    first_import = next(i for i, line in enumerate(lines) if "vision_transformer import" in line or "data_aug" in line)
    assert any("DML_VISIBLE_DEVICES" in line for line in lines[:first_import])


# ------------------------------------------------------------------------------------------ the whole way
@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run of train_digits.py as a user would start it."""
    folder = tmp_path_factory.mktemp("user")
    done = run_script(str(ROOT / "train_digits.py"), "--epochs", "3", "--dropout", "0.1", "--test-flip", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_prints_what_it_does_and_how_to_go_on(finished):
    _, done = finished
    for start in ("device ", "versions ", "data ", "model ", "run ", "epoch 1/3 ", "epoch 3/3 ", "test accuracy ",
                  "best epoch "):
        assert any(line.startswith(start) for line in done.stdout.splitlines()), start
    assert "\b" not in done.stdout + done.stderr and "\r" not in done.stdout + done.stderr


def test_a_run_leaves_all_its_files(finished):
    folder, _ = finished
    run = folder / "runs" / "digits-001"
    assert {p.name for p in run.iterdir()} == {
        "config.json", "model.safetensors", "state.safetensors", "state-before.safetensors", "history.csv",
        "results.json", "tensorboard", "samples.png", "curves.png", "confusion.png", "report.html", ".lock"}
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    constants = read_settings(ROOT / "train_digits.py", ["--epochs", "3", "--dropout", "0.1", "--test-flip"]).as_dict()
    assert config["constants"] == constants
    assert config["versions"]["keras"] == keras.__version__
    assert config["data"]["fingerprint"] == load_dataset("digits").fingerprint
    assert config["command"] == "train_digits.py --epochs 3 --dropout 0.1 --test-flip"
    assert config["model"]["dropout"] == 0.1
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert 0 < results["test_flip_accuracy"] < results["test_accuracy"] < 1, "mirrored digits are hard to read"


def test_the_printed_commands_work(finished):
    folder, done = finished
    evaluate, predict, resume, tensorboard = (
        line.strip() for line in done.stdout.partition("To go on:\n")[2].splitlines())
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def paste(line):
        return subprocess.run(line, cwd=folder, shell=True, capture_output=True, encoding="utf-8", env=environment)

    assert paste(evaluate).returncode == 0
    picture = folder / "picture.png"
    Image.new("L", (9, 9)).save(picture)
    assert "%" in paste(predict.replace("IMAGE...", "picture.png")).stdout
    assert paste(tensorboard.partition(" --logdir")[0] + " --version").returncode == 0
    longer = paste(resume)
    assert longer.returncode == 0 and "epoch 4/6" in longer.stdout and "epoch 3/6" not in longer.stdout
    assert Run(folder / "runs" / "digits-001").load_state()[1]["step"] == 6 * 19
    assert "--epochs 12" in paste(resume).stderr, "all six epochs are done"


@pytest.mark.parametrize("arguments, says", [
    (["--epoch", "3"], "unknown flag --epoch; did you mean --epochs?"),
    (["--epochs", "many"], "--epochs takes a whole number, not 'many' (default 40)"),
    (["--num-heads", "5"], "EMBEDDING_DIM 48 can't be divided among NUM_HEADS 5"),
    (["--batch-size", "5000"], "BATCH_SIZE is 5000; choose a whole number from 1 to 1,221"),
    (["--rotation", "-3"], "ROTATION -3.0 is not a number from 0"),
    (["--dataset", "cifar11"], "DATASET 'cifar11' is not known"),
    (["--top-k", "11"], "TOP_K is 11; choose a whole number from 2 to 10"),
    (["--validation-share", "2"], "VALIDATION_SHARE 2.0 is not between 0 and 1"),
    (["--resume", "nowhere"], "nowhere is no run folder"),
    (["--patience", "5", "--schedule", "cosine"], "PATIENCE 5 has no effect with SCHEDULE 'cosine'"),
    (["--dataset", "cifar10", "--data-dir", "nowhere"], "python train_digits.py"),
])
def test_bad_flags_are_refused_in_one_line_and_nothing_is_made(tmp_path, arguments, says):
    done = run_script(str(ROOT / "train_digits.py"), *arguments, folder=tmp_path)
    assert done.returncode == 2
    # TensorFlow 2.21 writes some lines of its own while it loads, whatever its log level.
    lines = [line for line in done.stderr.splitlines() if not re.match(r"WARNING: All log messages|I\d{4} ", line)]
    assert len(lines) == 1 and says in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where(tmp_path):
    done = run_script(str(ROOT / "train_digits.py"), "--num-heads", "5", "--debug", folder=tmp_path)
    assert done.returncode != 0 and "Traceback" in done.stderr and "_check" in done.stderr


def test_help_shows_every_constant(tmp_path):
    done = run_script(str(ROOT / "train_cifar10.py"), "--help", folder=tmp_path)
    assert done.returncode == 0
    for constant in read_constants(ROOT / "train_cifar10.py")[1]:
        assert f"--{constant.name.lower().replace('_', '-')}" in done.stdout


@pytest.mark.emulator
@pytest.mark.parametrize("flags", [
    ["--dropout", "0.1"], ["--recipe", "hybrid", "--stem-widths", "32", "--average", "0.9"]])
def test_the_whole_way_on_the_emulated_directml_device(tmp_path, flags):
    done = run_script(str(ROOT / "train_digits.py"), "--epochs", "3", *flags, folder=tmp_path,
                      DMLEMU_DEVICES="NVIDIA TITAN V")
    assert done.returncode == 0, done.stderr
    assert "device    DirectML GPU 0: NVIDIA TITAN V (DML_VISIBLE_DEVICES=0)" in done.stdout
    rows = (tmp_path / "runs" / "digits-001" / "history.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 4
    Image.new("L", (9, 9)).save(tmp_path / "picture.png")
    for command in (["evaluate", "runs/digits-001"], ["predict", "runs/digits-001", "picture.png"]):
        done = run_script("-m", "vision_transformer", *command, folder=tmp_path)
        assert done.returncode == 0 and "%" in done.stdout, done.stderr


# ------------------------------------------------------------------------------------------ figures
def first_losses():
    """Losses of the first 50 steps of train_digits.py with dropout, seed 0."""
    losses = []

    class Recorded(train_digits.Classification):
        def loss(self, batch, step):
            loss, figures = super().loss(batch, step)
            tf.py_function(lambda x: losses.append(float(x)), [loss], [])
            return loss, figures

    return losses, Recorded


def test_the_first_50_losses_are_the_same_on_both_stacks_as_stored(tmp_path, monkeypatch):
    losses, recorded = first_losses()
    monkeypatch.setattr(train_digits, "Classification", recorded)
    train_digits.main(["--epochs", "3", "--dropout", "0.1", "--run-folder", str(tmp_path)])
    # The mean of both stacks, which lay up to 4e-6 apart.
    stored = json.loads((Path(__file__).parent / "stored" / "digits_losses.json").read_text(encoding="utf-8"))
    assert len(stored) == 50
    np.testing.assert_allclose(losses[:50], stored, atol=1e-5)


@pytest.mark.slow
def test_accuracy_on_digits_over_five_seeds(tmp_path):
    accuracies = []
    for seed in range(5):
        train_digits.main(["--seed", str(seed), "--run-folder", str(tmp_path)])
        results = json.loads((tmp_path / f"digits-{seed + 1:03d}" / "results.json").read_text(encoding="utf-8"))
        accuracies.append(results["test_accuracy"])
    print(f"digits: {np.mean(accuracies):.4f} +- {np.std(accuracies, ddof=1):.4f} over 5 seeds {accuracies}")
    assert np.mean(accuracies) > 0.97


def test_train_cifar10_works_on_official_files(tmp_path):
    """A tiny training on random pictures through the CIFAR script itself."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 3072), np.uint8)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(python2_file({"data": pixels, "labels": [k % 10 for k in range(30)]}))
    (folder / "batches.meta").write_bytes(python2_file({"label_names": [f"class {k}".encode() for k in range(10)]}))
    train_cifar10.main(["--data-dir", str(tmp_path / "data"), "--epochs", "1", "--batch-size", "8",
                        "--number-of-layers", "1", "--run-folder", str(tmp_path / "runs")])
    assert Run(tmp_path / "runs" / "cifar10-001").load_model().config["num_classes"] == 10


def test_a_plain_share_is_one_of_the_whole_training_also_of_a_longer_one(tmp_path, monkeypatch, own_process):
    asked = mock.Mock(side_effect=InterruptedError)             # as far as augmentation(...) is what counts
    monkeypatch.setattr(train_digits, "augmentation", asked)
    flags = ["--policy", "trivial", "--plain-share", "0.5", "--batch-size", "100", "--epochs"]
    constants = {**read_settings(ROOT / "train_digits.py", [*flags, "3"]).as_dict()}
    run = Run.create(tmp_path, "digits", {"constants": constants})
    for arguments, epochs in (([*flags, "3"], 3), (["--resume", str(run.path), "--epochs", "5"], 5)):
        with pytest.raises(InterruptedError):
            train_digits.main(arguments)
        given = asked.call_args.kwargs
        assert (given["plain_share"], given["total_steps"]) == (0.5, 12 * epochs)          # of 1,221 pictures
