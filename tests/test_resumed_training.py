"""The loop, resumed: where it was stopped, bit-equal, and with what may change on the way."""
from unittest import mock

import numpy as np
import pytest
from trainings import Stop, die, scripted, small, train

from vision_transformer.storage import read_tensors
from vision_transformer.training import Trainer


@pytest.mark.parametrize("stop_at", [1, 5, 7, 8, 14])
def test_a_killed_run_goes_on_bit_equal(data, one_block, new_run, stop_at):
    undisturbed, killed = new_run(), new_run()
    train(data, one_block, undisturbed, patience=1)
    with pytest.raises(Stop):
        train(data, one_block, killed, patience=1, stop_at=stop_at)
    train(data, one_block, killed, patience=1)
    expected, state = undisturbed.load_state()
    ours, our_state = killed.load_state()
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    for one in (state, our_state):
        for row in (one, *one["history"]):
            row.pop("seconds"), row.pop("cpu_seconds")
    assert our_state == state
    assert ((undisturbed.path / "model.safetensors").read_bytes() == (killed.path / "model.safetensors").read_bytes())


def test_a_halving_never_raises_the_learning_rate(data, new_run):
    run, bad = new_run(), scripted([0.5, 0.1, 0.1, 0.1])
    train(data, small, run, epochs=3, patience=1, evaluate=bad)
    assert run.load_state()[1]["learning_rate_scale"] == 0.25
    history = train(data, small, run, epochs=4, patience=1, evaluate=bad, minimum_learning_rate=0.008).state["history"]
    assert [row["learning_rate"] for row in history] == pytest.approx([0.01, 0.01, 0.005, 0.0025])
    assert run.load_state()[1]["learning_rate_scale"] == 0.25


@pytest.mark.parametrize("damage, says", [
    (lambda path: path.unlink(), ""), (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged")])
def test_best_weights_that_are_lost_are_named_and_found_anew(data, new_run, capsys, damage, says):
    run = new_run()
    train(data, small, run, epochs=2, evaluate=scripted([0.5, 0.6]), early_stopping=2)
    damage(run.path / "model.safetensors")
    trainer = train(data, small, run, epochs=3, evaluate=scripted([0.4]), early_stopping=2)
    said = capsys.readouterr().out
    assert says in said and "note: the best weights so far are lost; the best of the epochs to come" in said
    assert (trainer.state["best_epoch"], trainer.state["best_accuracy"]) == run.best() == (3, 0.4)


def test_weights_of_an_epoch_that_was_not_saved_any_more_are_the_best(data, new_run):
    """Killed between the two saves of an epoch's end; what then comes out is no better."""
    run, undisturbed = new_run(), new_run()
    train(data, small, run, epochs=1, evaluate=scripted([0.5]))
    with mock.patch.object(Trainer, "_save", die), pytest.raises(Stop):
        train(data, small, run, epochs=2, evaluate=scripted([0.7]), save_every=1000)
    assert run.load_state()[1]["best_epoch"] == 1 and run.best() == (2, 0.7)
    train(data, small, run, epochs=2, evaluate=scripted([0.6]))
    assert (run.load_state()[1]["best_epoch"], run.load_state()[1]["best_accuracy"]) == run.best() == (2, 0.7)
    train(data, small, undisturbed, epochs=2, evaluate=scripted([0.5, 0.7]))
    for name, array in read_tensors(undisturbed.path / "model.safetensors")[0].items():
        np.testing.assert_array_equal(read_tensors(run.path / "model.safetensors")[0][name], array)


@pytest.mark.parametrize("batch_size, step, share", [(8, 16, 2.0), (83, 1, 0.0), (16, 8, 1.0), (10, 12, 4 / 3)])
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_another_batch_size_goes_on_at_the_same_share_of_the_epoch(data, new_run, batch_size, step, share, precision):
    """Stopped after 3 of 5 batches of the second epoch; the means of its figures stay what they were."""
    run, options = new_run(), {"precision": precision, "optimizer": {"accumulation_steps": 2}}
    with pytest.raises(Stop):
        train(data, small, run, stop_at=8, save_every=1, **options)
    before, kept = run.load_state()[0], []
    with mock.patch.object(Trainer, "train", lambda trainer, *_: kept.append(trainer)):
        train(data, small, run, batch_size=batch_size, **options)
    [after] = kept
    assert after.step == step
    np.testing.assert_allclose(after.totals.numpy(), share * before["totals"], rtol=1e-6)
    gradients = before["optimizer/gradient_sum"] * (batch_size == 16)
    np.testing.assert_array_equal(after.optimizer.gradient_sum.numpy(), gradients)
    resumed = train(data, small, run, batch_size=batch_size, **options)
    history = resumed.state["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3] and history[-1]["step"] == 3 * (83 // batch_size)
    assert all(0 < row["loss"] < 3 and 0 <= row["accuracy"] <= 1 for row in history)


def test_a_finished_run_can_be_made_longer(data, new_run):
    short, long = new_run(), new_run()
    train(data, small, short, epochs=2)
    train(data, small, short, epochs=4)
    train(data, small, long, epochs=4)
    for name, array in long.load_state()[0].items():
        np.testing.assert_array_equal(short.load_state()[0][name], array, err_msg=name)
