"""A stranger's run folder, whatever is in its files: it is read or refused with a RunError, and runs nothing."""
import json

import numpy as np
import pytest
from conftest import SIZES
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz import damaged

from vision_transformer.classification import Classification
from vision_transformer.model import VisionTransformer
from vision_transformer.optimizer import AdamW
from vision_transformer.runs import Run, as_json
from vision_transformer.storage import RunError, write_tensors
from vision_transformer.training import FIGURES, Trainer


@pytest.fixture(scope="module")
def trainer():
    task = Classification(VisionTransformer(**{**SIZES, "number_of_layers": 1}), 2, 4)
    return Trainer(task, AdamW(task.model.trainable_variables, 0.01), steps_per_epoch=5, epochs=3, patience=1,
                   minimum_learning_rate=0, early_stopping=0, save_every=5)


@pytest.fixture(scope="module")
def run(trainer, tmp_path_factory):
    """A run folder such as a training leaves behind after its first epoch."""
    run = Run.create(tmp_path_factory.mktemp("runs"), "mine", {
        "constants": {"EPOCHS": 3, "TOP_K": 2, "BATCH_SIZE": 4, "DATASET": "digits", "DATA_DIR": ""},
        "class_names": list("abcde"), "data": {"name": "mine", "fingerprint": "0"},
        "model": trainer.task.model.get_config(), "command": "train_digits.py --epochs 3"})
    run.save_weights(trainer.task.model, 1, 0.25)
    trainer.save_to(run)
    trainer.step, trainer._clock = 5, (0, 0)
    trainer.state["history"].append({"epoch": 1, "step": 5, **dict.fromkeys(FIGURES, 0.25), "seconds": 1.0})
    trainer._save()
    trainer._save()
    (run.path / "state-before.safetensors").unlink()
    return run


def read_all(run):
    """What the commands read of a run folder."""
    for name, kind in (("DATASET", str), ("DATA_DIR", str), ("TOP_K", int), ("BATCH_SIZE", int)):
        assert type(run.read("constants", name, kind=kind)) is kind
    assert all(name.isprintable() for name in run.class_names)
    assert run.load_model()(np.zeros((1, *SIZES["image_shape"]), np.uint8)).shape[0] == 1


def resealed(path, content, tensors):
    """Writes any values beside the arrays of a state, with a checksum that is right."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RunError("no JSON") from error
    if not isinstance(values, dict) or "sha256" in values:
        raise RunError("no object")
    write_tensors(path, tensors, values)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "state.safetensors", "values of the state"])
@given(data=st.data())
def test_a_damaged_run_folder_is_read_or_refused(run, trainer, name, data):
    path = run.path / ("state.safetensors" if name.startswith("values") else name)
    whole = path.read_bytes()
    tensors, values = run.load_state()
    seeds = [json.dumps(values).encode()] if name.startswith("values") else [whole]
    content = data.draw(damaged(seeds))
    kept = dict(trainer.state)
    try:
        if name.startswith("values"):
            resealed(path, content, tensors)
        else:
            path.write_bytes(content)
        if name in ("config.json", "model.safetensors"):
            read_all(run)
        else:
            run.epochs()                                # what `--resume` asks first
            trainer.save_to(run)
            assert isinstance(trainer.step, int) and trainer.step >= 0
    except RunError as refusal:
        assert str(refusal).isprintable() and len(str(refusal)) < 2000
    finally:
        path.write_bytes(whole)
        trainer.step, trainer.state = 5, kept


@pytest.mark.parametrize("values", [
    {}, {"step": -1}, {"step": "x"}, {"step": None}, {"step": 1e400}, {"steps_per_epoch": 0}, {"history": 3},
    {"history": [3]}, {"history": "abc"}, {"history": {"a": 1}}, {"history": [{"epoch": 1}]},
    {"best_epoch": 99}, {"best_epoch": -1}, {"seconds": "much"}, {"best_accuracy": []}])
def test_values_that_no_training_saves_are_refused(run, trainer, values):
    whole = (run.path / "state.safetensors").read_bytes()
    tensors, state = run.load_state()
    write_tensors(run.path / "state.safetensors", tensors, {**state, **values} if values else {})
    try:
        with pytest.raises(RunError, match=r"state\.safetensors holds no state of (a|this) training"):
            run.epochs()
            trainer.save_to(run)
    finally:
        (run.path / "state.safetensors").write_bytes(whole)


def test_an_undamaged_run_is_read(run, trainer):
    read_all(run)
    trainer.save_to(run)
    assert (trainer.step, trainer.state["best_epoch"]) == (5, 0) and as_json({}) == "{}\n"
