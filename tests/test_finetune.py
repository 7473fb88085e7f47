"""examples/finetune_pretrained.py: published weights to a run that needs them no more."""
import ast
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision_transformer.__main__ import main as command
from vision_transformer.pretrained import load_pretrained, resample_positions
from vision_transformer.runs import Run, weights_by_name
from vision_transformer.settings import read_constants, read_settings

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "finetune_pretrained.py"
PUBLISHED = Path(__file__).parent / "stored" / "published"
FILE = "vit-no-bias"                    # 6x6 pixels in patches of 2; two blocks of width 14, seven heads
FLAGS = {"IMAGE_SIZE": 10, "BATCH_SIZE": 8, "EPOCHS": 2, "WARMUP_EPOCHS": 0, "DROPOUT": 0.1, "STOCHASTIC_DEPTH": 0.2,
         "LEARNING_RATE": 0.01}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("finetune_pretrained", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of pictures of two classes, that differ in brightness."""
    folder, chance = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, light in (("coal", 20), ("snow", 200)):
        (folder / name).mkdir()
        for number in range(20):
            pixels = (light + chance.integers(0, 50, (13, 11, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def train(script, photos, tmp_path, monkeypatch, own_process):
    """Runs the script as its flags say; the decoded pictures are kept in a folder of the test."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))

    def run(published="", **flags):
        flags = {**FLAGS, "PRETRAINED": published, "DATA_DIR": photos, "RUN_FOLDER": tmp_path / "runs", **flags}
        script.main([f"--{name.lower().replace('_', '-')}={value}" for name, value in flags.items()])
        return Run(max((tmp_path / "runs").glob("folder-*")))

    return run


def statements(path):
    """What main does, one text each."""
    text = path.read_text(encoding="utf-8")
    [main] = [s for s in ast.parse(text).body if isinstance(s, ast.FunctionDef)]
    return [ast.get_source_segment(text, statement) for statement in main.body]


def test_its_main_is_that_of_the_other_scripts_but_for_the_model():
    here, there = statements(SCRIPT), statements(ROOT / "examples" / "train_image_folder.py")
    assert [line for line in there if line not in here and not line.startswith("model = build_model(")] == [
        "pixel_mean, pixel_deviation = training.pixel_statistics()"]
    assert [line for line in here if line not in there] == ["model = starting_model(c, data, training)"]


def test_every_constant_is_used_and_explained():
    text = SCRIPT.read_text(encoding="utf-8")
    elsewhere = ("RECIPE", "SIZE", "RESUME", "RUN_FOLDER", "DEBUG", "PRETRAINED")
    for constant in read_constants(SCRIPT)[1]:
        used = f"c.{constant.name}" in text or f'**c.below("{constant.group}")' in text
        assert used or constant.name in elsewhere or constant.group == "model", constant.name     # starting_model's
        assert len(constant.meaning) > 3


def test_the_constants_are_of_the_model_that_is_named():
    """So that without PRETRAINED the same model is trained from scratch: DeiT-Ti, arXiv 2012.12877, table 1."""
    c = read_settings(SCRIPT, [])
    assert c.PRETRAINED == "facebook/deit-tiny-patch16-224"
    assert (c.NUMBER_OF_LAYERS, c.EMBEDDING_DIM, c.NUM_HEADS, c.MLP_HIDDEN_DIM) == (12, 192, 3, 768)
    assert (c.PATCH_SIZE, c.PATCH_STRIDE, c.IMAGE_SIZE, c.POOL, c.CLASSIFIER) == (16, 16, 224, "cls", "linear")


def test_a_run_describes_its_model_so_that_the_file_is_needed_no_more(train, tmp_path, monkeypatch, script):
    published, models = Path(shutil.copytree(PUBLISHED / FILE, tmp_path / "published")), []

    class Stop(Exception):
        pass

    def stop(trainer, *_):
        models.append(trainer.task.model)
        trainer.run.release()
        raise Stop

    monkeypatch.setattr(script, "announce", stop)
    with pytest.raises(Stop):
        train(published)
    shutil.rmtree(published)
    with pytest.raises(Stop):
        train(published, RESUME=tmp_path / "runs" / "folder-001")
    first, second = models
    assert first.get_config() == second.get_config() and first.config["norm_epsilon"] == 1e-3
    assert first.config["image_shape"] == (10, 10, 3) and first.config["stochastic_depth"] == 0.2


@pytest.mark.slow
def test_the_whole_way(train, tmp_path, capsys, photos):
    published = Path(shutil.copytree(PUBLISHED / FILE, tmp_path / "published"))
    run = train(published)
    said = capsys.readouterr().out
    assert f"pretrained {published}: --patch-size 2 (was 16), --patch-stride 2 (was 16), --number-of-layers 2" in said
    assert "positions resampled from 3x3 to 5x5 patches" in said and "new classifier of 2 classes (the file's" in said
    constants, model = run.config["constants"], run.config["model"]
    assert (constants["PATCH_SIZE"], constants["EMBEDDING_DIM"], constants["DROPOUT"]) == (2, 14, 0.1)
    assert (model["norm_epsilon"], model["dropout"], model["stochastic_depth"]) == (1e-3, 0.1, 0.2)
    np.testing.assert_allclose(model["pixel_mean"], [102, 127.5, 153])
    shutil.rmtree(published)
    again = train(RESUME=run.path, PRETRAINED=published, EPOCHS=3)
    assert again.path == run.path and again.epochs() == 3
    assert command(["evaluate", str(run.path)]) == 0
    assert command(["predict", str(run.path), str(photos / "snow" / "1.png")]) == 0
    assert json.loads((run.path / "results.json").read_text(encoding="utf-8"))["test_accuracy"] > 0.8


def test_it_begins_with_the_weights_of_the_file(train, monkeypatch, script):
    """What the optimizer is given, before the first step."""
    class Stop(Exception):
        pass

    def stop(settings, data, model):
        raise Stop(weights_by_name(model))

    monkeypatch.setattr(script, "open_run", stop)
    with pytest.raises(Stop) as stopped:
        train(PUBLISHED / FILE)
    [now], before = stopped.value.args, weights_by_name(load_pretrained(PUBLISHED / FILE).model)
    for name in before.keys() - {"classifier/projection/kernel", "classifier/projection/bias"}:
        expected = before[name].numpy()
        if name.startswith("positions/"):
            expected = resample_positions(expected, (3, 3), (5, 5))
        np.testing.assert_array_equal(now[name], expected)


@pytest.mark.slow
def test_from_scratch_it_is_a_script_as_any(train, capsys):
    run = train("", PATCH_SIZE=5, PATCH_STRIDE=5, NUMBER_OF_LAYERS=1, EMBEDDING_DIM=6, MLP_HIDDEN_DIM=7, EPOCHS=1)
    assert "pretrained" not in capsys.readouterr().out
    assert run.config["model"]["norm_epsilon"] == 1e-6 and run.config["model"]["pixel_mean"] != [127.5] * 3


@pytest.mark.parametrize("flags, says", [
    ({"PATCH_SIZE": 5}, "PATCH_SIZE 5 contradicts PRETRAINED .* of a model with 2; leave the flag out"),
    ({"ARCHITECTURE": "resnet", "DROPOUT": 0.0, "STOCHASTIC_DEPTH": 0.1}, "ARCHITECTURE 'resnet' contradicts"),
    ({"SIZE": "tiny"}, "SIZE 'tiny' has no effect with PRETRAINED"), ({"IMAGE_SIZE": 9}, "drop the last 1 of 9 pixels"),
    ({"PRETRAINED": "nowhere"}, "nowhere is not here"), ({"LAYER_DECAY": 0}, "LAYER_DECAY is 0"),
])
def test_what_contradicts_the_file_is_refused_and_nothing_is_made(train, tmp_path, flags, says):
    with pytest.raises(ValueError, match=says):
        train(PUBLISHED / FILE, **flags)
    assert not (tmp_path / "runs").exists()
