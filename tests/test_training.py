"""The loop: it learns, stops on bad numbers, keeps the best, and goes on exactly where it was stopped."""
import csv
import io
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from trainings import Stop, jitter, scripted, small, train

from vision_transformer import training
from vision_transformer.batches import training_batches
from vision_transformer.classification import Classification, classification_figures
from vision_transformer.optimizer import AdamW
from vision_transformer.runs import Run, weights_by_name
from vision_transformer.storage import read_tensors
from vision_transformer.training import Trainer, TrainingFailed, seed_everything

STEPS = 5               # 83 pictures in batches of 16


def rows_of(run):
    return list(csv.DictReader(io.StringIO((run.path / "history.csv").read_text(encoding="utf-8"))))


def test_it_learns_and_logs(data, make_model, new_run, capsys):
    run = new_run()
    trainer = train(data, make_model, run, epochs=12)
    history = trainer.state["history"]
    assert history[-1]["val_accuracy"] > 0.8 > 0.5 > history[0]["val_accuracy"]
    assert [int(row["epoch"]) for row in rows_of(run)] == list(range(1, 13))
    assert list(rows_of(run)[0]) == ["epoch", "step", "learning_rate", "loss", "accuracy", "top_2_accuracy", "val_loss",
                                     "val_accuracy", "val_top_2_accuracy", "seconds", "cpu_seconds"]
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 12 and "epoch 12/12  loss " in output.out
    assert "\b" not in output.out + output.err and "\r" not in output.out + output.err
    logged = {value.tag for file in (run.path / "tensorboard").iterdir()
              for event in tf.compat.v1.train.summary_iterator(str(file)) for value in event.summary.value}
    assert {"loss", "val_accuracy", "learning_rate"} <= logged


def test_the_figures_are_the_epochs_means(data, make_model, new_run):
    """With a learning rate of 0 and no dropout the training figures can be worked out from the model."""
    trainer = train(data, lambda **_: make_model(), new_run(), epochs=1, augment=None, rate=1e-12,
                    minimum_learning_rate=0)
    seen = np.concatenate([labels for _, _, labels in training_batches(data.train, batch_size=16, epochs=1, seed=3)])
    pictures = np.concatenate([x for _, x, _ in training_batches(data.train, batch_size=16, epochs=1, seed=3)])
    expected = classification_figures(trainer.task.model(pictures).numpy(), seen, 2)
    [row] = trainer.state["history"]
    assert [row["loss"], row["accuracy"], row["top_2_accuracy"]] == pytest.approx(expected, abs=1e-5)


# ------------------------------------------------------------------------------------------ what callbacks do elsewhere
def test_best_weights_are_kept(data, new_run):
    run, kept = new_run(), []
    save = run.save_weights
    run.save_weights = lambda model, epoch, accuracy: (save(model, epoch, accuracy), kept.append(
        {name: v.numpy() for name, v in weights_by_name(model).items()}))
    trainer = train(data, small, run, epochs=5, evaluate=scripted([0.1, 0.4, 0.3, 0.4, 0.2]))
    assert (trainer.state["best_epoch"], trainer.state["best_accuracy"]) == (2, 0.4)
    assert len(kept) == 2 and run.best() == (2, 0.4)
    saved, _ = read_tensors(run.path / "model.safetensors")
    last = weights_by_name(trainer.task.model)
    assert saved.keys() == kept[1].keys() == last.keys()
    for name in saved:
        np.testing.assert_array_equal(saved[name], kept[1][name])
    assert any((saved[name] != last[name].numpy()).any() for name in saved)


def test_learning_rate_is_halved_after_patience_epochs_down_to_its_minimum(data, new_run):
    trainer = train(data, small, new_run(), epochs=9, patience=2, minimum_learning_rate=0.003,
                    evaluate=scripted([0.1, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2]))
    rates = [row["learning_rate"] for row in trainer.state["history"]]
    assert rates == pytest.approx([0.01] * 3 + [0.005] * 4 + [0.003] * 2)


def test_early_stopping(data, new_run, capsys):
    trainer = train(data, small, new_run(), epochs=9, early_stopping=3,
                    evaluate=scripted([0.1, 0.5, 0.4, 0.5, 0.3, 0.9]))
    assert len(trainer.state["history"]) == 5
    assert capsys.readouterr().out.endswith("no better validation accuracy for 3 epochs: training ends early\n")


def test_bad_numbers_stop_it_and_keep_what_was_good(data, new_run):
    def planted(images, seed):
        return tf.where(seed[1] == 8, np.nan, jitter(images, seed))

    run, clean = new_run(), new_run()
    says = (r"at step 8 \(epoch 2, learning rate 0.01\) the loss or its gradient was no longer a finite number; the "
            r"norm of the gradient before it was \d.*--resume .*rate 0.005; if .*--clip-norm 1$")
    with pytest.raises(TrainingFailed, match=says):
        train(data, small, run, augment=planted)
    with pytest.raises(Stop):
        train(data, small, clean, stop_at=8, save_every=1)
    ours, state = run.load_state()
    expected, _ = clean.load_state()
    assert state["step"] == 8
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    resumed = train(data, small, run, rate=0.005)
    assert len(resumed.state["history"]) == 3 and np.isfinite(resumed.state["history"][-1]["loss"])


def test_bad_numbers_in_the_first_epoch_leave_weights_that_load(data, new_run):
    run = new_run()
    with pytest.raises(TrainingFailed, match=r"at step 0 .* To go on, begin again with .*--learning-rate 0.005, or "):
        train(data, small, run, augment=lambda images, seed: images * np.inf)
    assert not run.has_state()
    assert all(np.isfinite(t).all() for t in read_tensors(run.path / "model.safetensors")[0].values())


@pytest.mark.parametrize("options, says", [
    ({"epochs": 0}, "EPOCHS is 0; choose a whole number"), ({"patience": 0}, "PATIENCE is 0"),
    ({"save_every": 0}, "SAVE_EVERY is 0"), ({"early_stopping": -1}, "EARLY_STOPPING is -1; choose a whole"),
    ({"minimum_learning_rate": -0.1}, "MINIMUM_LEARNING_RATE is -0.1"), ({"rate": 0}, "LEARNING_RATE is 0"),
    ({"rate": float("nan")}, "LEARNING_RATE is nan"), ({"sam_rho": -0.1}, "SAM_RHO is -0.1; choose a number"),
    ({"sam_rho": float("nan")}, "SAM_RHO is nan"), ({"steps_per_execution": 0}, "STEPS_PER_EXECUTION is 0"),
    ({"rate": 0.001, "minimum_learning_rate": 0.002}, "MINIMUM_LEARNING_RATE 0.002 is above LEARNING_RATE 0.001"),
])
def test_senseless_numbers_are_refused(data, options, says):
    with pytest.raises(ValueError, match=says):
        train(data, small, None, **options)


@pytest.mark.parametrize("seed", [-1, 2 ** 31])
def test_senseless_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=f"SEED is {seed}; choose a whole number from 0 to 2,147,483,647"):
        seed_everything(seed, False)


def test_a_learning_rate_that_was_too_high_can_be_lowered_on_the_way(data, new_run):
    run = new_run()
    train(data, small, run, epochs=1)
    with pytest.raises(TrainingFailed, match=r"learning rate 1000"):
        train(data, small, run, rate=1000, save_every=1000, augment=lambda images, seed: images * np.inf)
    history = train(data, small, run).state["history"]
    assert len(history) == 3 and all(np.isfinite(row["val_loss"]) for row in history)


@pytest.fixture
def ctrl_c_acts():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)       # a shell's background jobs ignore it
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_finishes_the_step_and_saves(data, new_run, ctrl_c_acts):
    before, (run, undisturbed) = signal.getsignal(signal.SIGINT), (new_run(), new_run())
    with pytest.raises(KeyboardInterrupt, match=r"stopped after step 8; to go on: .*--resume .*bright-001"):
        train(data, small, run, stop_at=7, stop=lambda: signal.raise_signal(signal.SIGINT), save_every=1000)
    assert signal.getsignal(signal.SIGINT) is before
    assert run.load_state()[1]["step"] == 8
    train(data, small, run)
    train(data, small, undisturbed)
    for name, array in undisturbed.load_state()[0].items():
        np.testing.assert_array_equal(run.load_state()[0][name], array, err_msg=name)


def test_a_ctrl_c_that_is_ignored_stays_so(data, new_run, ctrl_c_acts):
    """As in a shell's background jobs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run = new_run()
    train(data, small, run, epochs=1, stop_at=2, stop=lambda: signal.raise_signal(signal.SIGINT))
    assert run.load_state()[1]["step"] == STEPS and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_second_ctrl_c_does_not_wait(data, new_run, ctrl_c_acts):
    def pressed_twice(split):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.1)
        pytest.fail("it went on")

    with pytest.raises(KeyboardInterrupt):
        train(data, small, new_run(), evaluate=pressed_twice)


def test_seed_makes_the_initial_weights(make_model):
    models = []
    for seed in (1, 1, 2):
        seed_everything(seed, False)
        models.append(make_model().get_weights())
    assert all((a == b).all() for a, b in zip(models[0], models[1]))
    assert any((a != b).any() for a, b in zip(models[0], models[2]))


@pytest.mark.emulator
def test_the_loop_stops_the_gpu_only_every_so_many_steps(tmp_path, monkeypatch, make_model, data):
    """Two variables, after each of 41 steps or after 20, 40 and 41; all else is read at the epoch's end."""
    from emulator.counters import count

    def stops(read_every):
        monkeypatch.setattr(training, "READ_EVERY", read_every)
        task = Classification(make_model(), top_k=2, batch_size=2)
        trainer = Trainer(task, AdamW(task.model.trainable_variables, 0.01), steps_per_epoch=41, epochs=1,
                          patience=1, minimum_learning_rate=0, early_stopping=0, save_every=1000)
        trainer.save_to(Run.create(tmp_path, "read", {}))
        batches = training_batches(data.train, batch_size=2, epochs=1, seed=3)
        return count(lambda: trainer.train(batches, data.test), warm_up=0, times=1).device_to_host

    stops(1)                # what only a first training does
    saved = stops(1) - stops(20)
    assert abs(saved - 2 * (41 - 3)) < 10, "give or take some constants that TensorFlow keeps"
