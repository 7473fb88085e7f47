"""Own pictures, the whole way: folder, training, commands, resume, and what is said when the folder changes."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import train_image_folder
from picture_folders import COLOURS, make_folder, picture

from vision_transformer.__main__ import main as command
from vision_transformer.cifar import DataError
from vision_transformer.datasets import load_dataset
from vision_transformer.dry_run import dry_run
from vision_transformer.picture_files import read_picture
from vision_transformer.report import classes_line
from vision_transformer.runs import Run
from vision_transformer.storage import RunError

ROOT = Path(__file__).parents[1]
SMALL = ["--image-size", "16", "--stem-widths", "4-5", "--number-of-layers", "1", "--embedding-dim", "8", "--num-heads",
         "2", "--mlp-hidden-dim", "6", "--policy=", "--batch-size", "8", "--epochs", "2", "--validation-share", "0.3"]
COUNTS = {"coal": 9, "fire": 13, "grass": 30, "sea": 9}


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch, own_process):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.getbasetemp() / "keras"))


@pytest.fixture
def photos(tmp_path):
    folder = make_folder(tmp_path / "photos", COUNTS)
    (folder / "sea" / "broken.jpg").write_bytes(b"\xff\xd8")
    return folder


# ------------------------------------------------------------------------------------------ the dataset
def test_a_folder_becomes_a_dataset(photos):
    data = load_dataset("folder", str(photos), 16)
    assert (data.name, data.class_names, data.image_shape) == ("folder", tuple(COUNTS), (16, 16, 3))
    assert (len(data.train), len(data.test)) == (48, 13)
    for split, counts in ((data.train, (7, 10, 24, 7)), (data.test, (2, 3, 6, 2))):
        np.testing.assert_array_equal(np.bincount(split.labels), counts)
        for image, label in zip(np.asarray(split.images), split.labels):        # pictures and labels belong together
            means = np.array(list(COLOURS.values())) - image.mean(axis=(0, 1))
            assert list(COLOURS)[np.abs(means).sum(axis=1).argmin()] == data.class_names[label]
    again = load_dataset("folder", str(photos), 16)
    assert again.fingerprint == data.fingerprint != load_dataset("folder", str(photos), 17).fingerprint


def test_of_train_and_test_each_picture_stays_where_it_is(tmp_path):
    make_folder(tmp_path / "train", {"coal": 3, "sea": 4})
    make_folder(tmp_path / "val", {"coal": 2, "sea": 1}, first=20)
    (tmp_path / "train" / "coal" / "00.png").write_bytes(b"?")
    data = load_dataset("folder", str(tmp_path), 16)
    expected = [read_picture(tmp_path / "val" / name, (16, 16, 3))
                for name in ("coal/20.png", "coal/21.png", "sea/20.png")]
    np.testing.assert_array_equal(np.asarray(data.test.images), expected)
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1, 1] and data.test.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("train, test, says", [
    ({"coal": 9, "sea": 4}, {}, "4 readable pictures of the class 'sea'; at least 5 are needed, as it has no test/"),
    ({"coal": 9, "sea": 0}, {}, "0 readable pictures of the class 'sea'"),
    ({"coal": 1, "sea": 4}, {"coal": 1, "sea": 1}, "1 training pictures of the class 'coal'; at least 2"),
    ({"coal": 9, "sea": 4}, {"coal": 1, "sea": 0}, "0 test pictures of the class 'sea'; at least 1 are needed: add"),
])
def test_too_few_pictures_of_a_class_are_refused_by_its_name(tmp_path, train, test, says):
    make_folder(tmp_path / "train", train)
    make_folder(tmp_path / "test", test) if test else None
    with pytest.raises(DataError, match=says):
        load_dataset("folder", str(tmp_path), 16)


@pytest.mark.parametrize("size, says", [
    (7, "IMAGE_SIZE is 7; choose a whole number from 8 to 512 pixels"), (513, "IMAGE_SIZE is 513"),
    (16.0, "IMAGE_SIZE is 16.0"), (None, "DATASET 'folder' needs an IMAGE_SIZE: use examples/train_image_folder.py")])
def test_a_size_that_makes_no_sense_is_refused(photos, size, says):
    with pytest.raises(ValueError, match=says):
        load_dataset("folder", str(photos), size)


# ------------------------------------------------------------------------------------------ what is said of classes
def test_uneven_classes_are_reported():
    names = ("heron", "gull", "tern")
    uneven, even = (np.repeat([0, 1, 2], counts) for counts in ([12, 340, 99], [50, 99, 60]))
    assert classes_line(uneven, names) == ("classes   from 12 (heron) to 340 (gull) training pictures; --class-weights "
                                           "true lets all classes count alike\n")
    assert classes_line(even, names) == ""
    assert classes_line(even, names, np.array([1.4, 0.7, 1.2])) == (
        "classes   from 50 (heron) to 99 (gull) training pictures; in the training loss one weighs 1.4 to 0.7\n")


# ------------------------------------------------------------------------------------------ the whole way
def train(photos, tmp_path, *flags):
    train_image_folder.main([*SMALL, "--data-dir", str(photos), "--run-folder", str(tmp_path / "runs"), *flags])
    return Run(max((tmp_path / "runs").glob("folder-*")))


def test_a_training_and_all_that_takes_up_its_run(photos, tmp_path, capsys, monkeypatch):
    with mock.patch.object(sys, "argv", [str(ROOT / "examples" / "train_image_folder.py"), *SMALL]):
        run = train(photos, tmp_path, "--class-weights", "--label-smoothing", "0.1", "--mixup", "0.2", "--test-flip")
    said = capsys.readouterr().out
    assert "  sea/broken.jpg: it is damaged" in said
    assert "from 5 (coal) to 16 (grass) training pictures; in the training loss one weighs 1.65 to 0.516\n" in said
    assert "data      folder: 33 training, 15 validation, 13 test pictures of 16x16x3, 4 classes" in said
    assert "on all 13 test pictures" in said and "averaged with the mirrored pictures" in said
    assert run.read("data", "pictures_per_class") == {"coal": 7, "fire": 10, "grass": 24, "sea": 7}
    assert run.read("constants", "CLASS_WEIGHTS", kind=bool) is True and run.class_names == list(COUNTS)

    results = json.loads((run.path / "results.json").read_text(encoding="utf-8"))
    assert command(["evaluate", str(run.path)]) == 0
    assert f"test accuracy {results['test_accuracy']:.2%}" in (said := capsys.readouterr().out)
    assert "note: these" not in said
    assert command(["predict", str(run.path), str(photos / "sea" / "00.png")]) == 0 and "sea" in capsys.readouterr().out
    monkeypatch.chdir(ROOT)                             # where a run's script is looked for
    rehearsed = dry_run(run.path)
    assert {**rehearsed.constants, "RUN_FOLDER": ""} == {**run.read("constants"), "RUN_FOLDER": ""}
    assert rehearsed.owner.task.class_weights is not None

    moved = photos.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"DATA_DIR '.*photos' is no folder here\. A folder of pictures has one folder"):
        command(["evaluate", str(run.path)])
    assert command(["evaluate", str(run.path), "--data-dir", str(moved)]) == 0
    assert "note: these" not in capsys.readouterr().out
    picture(COLOURS["sea"], 99).save(moved / "sea" / "new.png")
    assert command(["evaluate", str(run.path), "--data-dir", str(moved)]) == 0
    assert "note: these are not the pictures of the training" in capsys.readouterr().out
    with pytest.raises(RunError, match="was begun on other data than folder as it is now; point --data-dir"):
        train_image_folder.main(["--resume", str(run.path), "--epochs", "3", "--data-dir", str(moved)])


class Stop(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("flags", [
    [], ["--class-weights", "--alternating-flip", "--flip-horizontal", "0", "--steps-per-execution", "3"],
    ["--class-weights", "--cutmix", "1", "--sam-rho", "0.05", "--accumulation-steps", "3", "--precision",
     "mixed_float16"]])
def test_a_training_killed_in_mid_epoch_goes_on_bit_equal(photos, tmp_path, flags):
    flags = [*flags, "--deterministic", "--save-every", "3"]
    undisturbed = train(photos, tmp_path, *flags)
    save = Run.save_state

    def save_and_die(run, tensors, state):
        save(run, tensors, state)
        if state["step"] == 6:
            run.release()
            raise Stop

    with mock.patch.object(Run, "save_state", save_and_die), pytest.raises(Stop):
        train(photos, tmp_path, *flags)
    killed = Run(tmp_path / "runs" / "folder-002")
    train_image_folder.main(["--resume", str(killed.path)])
    tensors, expected = killed.load_state()[0], undisturbed.load_state()[0]
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name], array, err_msg=name)
    assert (killed.path / "model.safetensors").read_bytes() == (undisturbed.path / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_as_typed_from_a_copy_of_the_project(photos, tmp_path):
    """Without an installed package; then every command that it prints, and the others that take a run."""
    project = tmp_path / "project"
    for name in ("vision_transformer", "examples"):
        shutil.copytree(ROOT / name, project / name)
    shutil.copy(ROOT / "data_augmentations.py", project)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def typed(words):
        done = subprocess.run(words, cwd=project, capture_output=True, encoding="utf-8", env=environment,
                              shell=isinstance(words, str))
        assert done.returncode == 0, done.stderr
        return done.stdout

    photos.rename(project / "photos")
    said = typed([sys.executable, "examples/train_image_folder.py", *SMALL, "--data-dir", "photos"])
    evaluate, predict, resume, _ = (line.strip() for line in said.partition("To go on:\n")[2].splitlines())
    assert "examples/train_image_folder.py --resume" in resume.replace(os.sep, "/")
    assert "test accuracy" in typed(evaluate)
    assert "%" in typed(predict.replace("IMAGE...", "photos/sea/00.png"))
    assert "epoch 4/4" in typed(resume)
    module = [sys.executable, "-m", "vision_transformer"]
    assert "train step" in typed([*module, "doctor", "--ops", "runs/folder-001"])
    assert "an epoch: about" in typed([*module, "benchmark", "--seconds", "0.2", "runs/folder-001"])


def test_another_embedding_needs_whitening_off_and_says_so(photos, tmp_path):
    """Which the script has on."""
    flags = ["--data-dir", str(photos), "--run-folder", str(tmp_path / "runs"), "--embedding=linear", "--batch-size=8"]
    with pytest.raises(ValueError, match=r"WHITENING is true with EMBEDDING 'linear'; .*choose that, or false"):
        train_image_folder.main(flags)
    with mock.patch.object(train_image_folder, "open_run", side_effect=Stop), pytest.raises(Stop):
        train_image_folder.main([*flags, "--whitening", "false", "--number-of-layers", "1"])
