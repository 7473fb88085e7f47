"""Who takes up a finished run: THEN, name -> function of the run, its test pictures, their logits, what is printed."""
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.special import softmax

import train_cifar10
from vision_transformer.__main__ import main as command
from vision_transformer.dry_run import dry_run
from vision_transformer.model import VisionTransformer

STEPS = 5                       # of an epoch of theirs; the last update of two batches waits for the next epoch


def evaluate_and_predict(run, test, logits, said):
    assert command(["evaluate", str(run.path)]) == 0
    assert f"test accuracy {(logits.argmax(axis=1) == test.labels).mean():.2%}, " in said()
    path = run.path / "picture.png"
    Image.fromarray(test.images[7]).save(path)
    assert command(["predict", str(run.path), str(path)]) == 0
    assert f"picture.png: class {logits[7].argmax()} " in said()


def explain(run, test, logits, said):
    """Draws all that there is to draw of the model; the tables are what the model's forward pass says."""
    assert command(["explain", str(run.path)]) == 0
    folder, model = run.path / "explain", run.load_model()
    assert "are in" in said().splitlines()[-1] and (folder / "filters.csv").is_file()
    with (folder / "mistakes.csv").open(encoding="utf-8") as file:
        assert len(list(file)) - 1 == (logits.argmax(axis=1) != test.labels).sum()
    if isinstance(model, VisionTransformer):
        numbers = [np.flatnonzero(test.labels == label)[0] for label in range(4)]
        attention = [looks.numpy()[0].mean(axis=0) for looks in model.forward(test.images[numbers[:1]])["attention"]]
        shares = np.genfromtxt(folder / f"test-{numbers[0]}-heads.csv", delimiter=",", names=True)["share"]
        by_block = shares.reshape(len(attention), 2, -1).sum(axis=2).mean(axis=1)
        if not model.extra_tokens:
            np.testing.assert_allclose(by_block, 1, rtol=1e-4)
        elif model.config["pool"] == "cls":
            np.testing.assert_allclose(by_block, [looks[0, model.extra_tokens:].sum() for looks in attention],
                                       rtol=1e-4, atol=1e-6)
        shares = [np.genfromtxt(folder / f"test-{number}-rollout.csv", delimiter=",", names=True)["share"].sum()
                  for number in numbers]
        np.testing.assert_allclose(shares, 1, rtol=1e-5)


def export(run, test, logits, said):
    assert command(["export", str(run.path), "--to", "savedmodel"]) == 0
    assert "with the model on 30 test pictures of cifar10:\n" in said()
    serve = tf.saved_model.load(str(run.path / "export" / "savedmodel")).signatures["serving_default"]
    assert serve(images=tf.constant(test.images))["probabilities"].numpy() == pytest.approx(softmax(logits, axis=1),
                                                                                            abs=1e-5)


def rehearse(run, test, logits, said):
    """What `doctor --ops RUN` and `benchmark RUN` begin with: the run's constants become flags again."""
    rehearsed = dry_run(run.path)
    assert {**rehearsed.constants, "RUN_FOLDER": ""} == {**run.read("constants"), "RUN_FOLDER": ""}
    assert json.loads(json.dumps(rehearsed.owner.task.model.get_config())) == run.read("model")


def resume(run, test, logits, said):
    [row] = run.load_state()[1]["history"]
    train_cifar10.main(["--resume", str(run.path), "--epochs", "2"])
    state = run.load_state()[1]
    assert f"goes on after step {STEPS}\n" in said()
    assert [state["step"], state["history"][0], len(state["history"])] == [2 * STEPS, row, 2]
    assert all(np.isfinite(value) for value in state["history"][1].values())


THEN = {function.__name__: function for function in (evaluate_and_predict, explain, export, rehearse, resume)}
