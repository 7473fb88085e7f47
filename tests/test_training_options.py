"""The loop with each option of training: what it validates, keeps and logs, and that it goes on bit-equal."""
import numpy as np
import pytest
import tensorflow as tf
from test_steps import SmallNet
from test_training import STEPS, rows_of
from trainings import Stop, die, scripted, small, train

from vision_transformer import training
from vision_transformer.runs import Run, weights_by_name
from vision_transformer.schedules import make_schedule
from vision_transformer.storage import read_tensors

pytestmark = pytest.mark.usefixtures("own_process")


@pytest.fixture
def new_run(tmp_path):
    return lambda: Run.create(tmp_path, "bright", {})


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_other_schedules_are_followed_and_never_halved(data, new_run, steps_per_execution):
    schedule = make_schedule("one-cycle", 1, 5 * STEPS, 7)
    trainer = train(data, small, new_run(), epochs=5, patience=1, evaluate=scripted([0.1] * 5),
                    optimizer={"schedule": schedule}, steps_per_execution=steps_per_execution)
    rates = [row["learning_rate"] for row in trainer.state["history"]]
    assert rates == pytest.approx([0.01 * 5 / 7, *(0.01 * (1 - (step - 7) / 18) for step in (9, 14, 19, 24))])


def test_the_average_is_validated_and_kept_but_not_trained_on(data, new_run):
    """Batch normalization's statistics included."""
    validated = []

    def evaluate(split):
        validated.append(np.concatenate([v.numpy().ravel() for v in weights_by_name(trainer_of_run[0]).values()]))
        return {"loss": 1.0, "accuracy": [0.1, 0.7, 0.3][len(validated) - 1], "top_2_accuracy": 1.0}

    def remembered(**_):
        trainer_of_run.append(SmallNet())
        return trainer_of_run[0]

    trainer_of_run, run, plain = [], new_run(), new_run()
    trainer = train(data, remembered, run, evaluate=evaluate, optimizer={"average": 0.9})
    saved, _ = read_tensors(run.path / "model.safetensors")
    np.testing.assert_array_equal(np.concatenate([saved[n].ravel() for n in weights_by_name(trainer.task.model)]),
                                  validated[1])
    averages = run.load_state()[0]["optimizer/average"]
    np.testing.assert_array_equal(np.sort(validated[2]), np.sort(averages))
    train(data, small, plain, evaluate=scripted([0.1, 0.7, 0.3]))
    for name, array in plain.load_state()[0].items():
        np.testing.assert_array_equal(run.load_state()[0][name], array, err_msg=name)
    own = np.concatenate([v.numpy().ravel() for v in weights_by_name(trainer.task.model).values()])
    assert np.abs(own - validated[2]).max() > 1e-3


def test_several_steps_in_one_call_end_where_something_is_due(data, new_run, monkeypatch):
    monkeypatch.setattr(training, "READ_EVERY", 4)
    calls, seen = [], training.compiled_steps

    def compiled_steps(*arguments):
        function = seen(*arguments)
        return lambda stream, count: (calls.append(int(count)), function(stream, count))

    monkeypatch.setattr(training, "compiled_steps", compiled_steps)
    run, one_by_one = new_run(), new_run()
    train(data, small, run, steps_per_execution=3, save_every=7)
    assert calls == [3, 1, 1, 2, 2, 1, 3, 1, 1]     # looks after 4 steps of 5, a save after 7 of all, and 14
    train(data, small, one_by_one, save_every=7)
    for name, array in one_by_one.load_state()[0].items():
        np.testing.assert_array_equal(run.load_state()[0][name], array, err_msg=name)


def test_figures_leave_out_the_steps_that_overflowed(data, new_run):
    """Of the 5 steps of each epoch the first of the second overflows in float16."""
    def blinding(images, seed):
        return tf.where(seed[1] == STEPS, 1e30, images)

    plain, blinded = new_run(), new_run()
    train(data, small, plain, precision="mixed_float16", augment=None, rate=1e-12, minimum_learning_rate=0)
    trainer = train(data, small, blinded, precision="mixed_float16", augment=blinding, rate=1e-12,
                    minimum_learning_rate=0)
    (_, ours, after), (_, theirs, expected) = ([float(row["loss"]) for row in rows_of(run)] for run in (blinded, plain))
    assert ours == pytest.approx(theirs, rel=0.15) and ours != theirs
    assert after == pytest.approx(expected, rel=1e-5)
    assert trainer.optimizer.loss_scale.scale.numpy() == 2.0 ** 14


def test_xla_is_refused_on_directml(data, monkeypatch):
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind=None: [gpu])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"device_name": "DML"})
    with pytest.raises(ValueError, match="XLA is true, but there is no XLA compiler for DirectML; set XLA to false"):
        train(data, small, None, xla=True)


# ------------------------------------------------------------------------------------------ resume
OPTIONS = {
    "decay and clip": {"optimizer": {"weight_decay": 0.1, "clip_norm": 0.5}},
    "schedule": {"optimizer": {"schedule": make_schedule("cosine", 1, 3 * STEPS, 4)}},
    "accumulation": {"optimizer": {"accumulation_steps": 4}},
    "average": {"optimizer": {"average": 0.9}},
    "sam": {"sam_rho": 0.05},
    "steps per execution": {"steps_per_execution": 2},
    "xla": {"xla": True},
    "float16": {"precision": "mixed_float16"},
    "bfloat16": {"precision": "mixed_bfloat16"},
}
OPTIONS["all"] = {
    "optimizer": {name: value for options in OPTIONS.values() for name, value in options.get("optimizer", {}).items()},
    "sam_rho": 0.05, "steps_per_execution": 3, "label_smoothing": 0.1, "precision": "mixed_float16"}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_with_each_option_a_killed_run_goes_on_bit_equal(data, new_run, monkeypatch, options):
    """Killed right after the save at step 6, in the middle of an epoch and of an accumulation."""
    undisturbed, killed = new_run(), new_run()
    train(data, small, undisturbed, **options)
    save = killed.save_state

    def save_and_die(tensors, state):
        save(tensors, state)
        if state["step"] == 6:
            die()

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(killed, "save_state", save_and_die)
        train(data, small, killed, **options)
    train(data, small, Run(killed.path), **options)
    expected, ours = undisturbed.load_state()[0], killed.load_state()[0]
    assert ours.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    if "precision" in options and "float16" in options["precision"].split("_"):
        assert ours["optimizer/good_steps"] == 3 * STEPS
    assert ((undisturbed.path / "model.safetensors").read_bytes() == (killed.path / "model.safetensors").read_bytes())
