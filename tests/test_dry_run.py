"""The dry run: what a script was about to train, whichever way it is named, and no trace of it afterwards."""
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

import train_digits
from vision_transformer.dry_run import dry_run
from vision_transformer.training import Trainer

ROOT = Path(__file__).parents[1]
FLAGS = ["--batch-size", "13", "--number-of-layers", "1", "--embedding-dim", "15", "--num-heads", "5", "--epochs", "2",
         "--mlp-hidden-dim", "7", "--learning-rate", "0.002", "--zoom", "0", "--rotation", "0", "--translation", "0.25"]
FIT = """
import sys
import numpy as np
from tensorflow import keras
import tensorflow as tf
x, y = np.arange(11 * 6, dtype="float32").reshape(11, 2, 3), np.arange(11)
model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(11)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
"""


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of train_digits.py, really trained."""
    folder = tmp_path_factory.mktemp("trained") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(ROOT / "train_digits.py"), *FLAGS])
        train_digits.main([*FLAGS, "--run-folder", str(folder)])
    return folder / "digits-001"


@pytest.fixture
def script(tmp_path):
    """Writes a script of so many lines; gives its path."""
    def write(text):
        (tmp_path / "mine.py").write_text(text, encoding="utf-8")
        return tmp_path / "mine.py"
    return write


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------ what it gives
def test_a_script_and_its_run_folder_give_the_same_training(run_folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    named, of_run = dry_run("train_digits.py", FLAGS), dry_run(run_folder)
    for training in (named, of_run):
        trainer, config = training.owner, training.owner.task.model.config
        assert isinstance(trainer, Trainer) and (trainer.epochs, trainer.steps_per_epoch) == (2, 1221 // 13)
        assert trainer.base_learning_rate == 0.002 and len(training.validation) == 216
        assert [config[name] for name in ("number_of_layers", "embedding_dim", "num_heads", "mlp_hidden_dim")] == [
            1, 15, 5, 7]
        assert [tuple(s.shape) for s in training.batches.element_spec] == [(), (13, 8, 8, 1), (13,)]
        assert [s.dtype for s in training.batches.element_spec] == [tf.int32, tf.float32, tf.int64]
        assert (training.constants["TRANSLATION"], training.constants["ZOOM"]) == (0.25, 0)
    assert named.owner.task.model.config == of_run.owner.task.model.config
    for one, other in zip(next(iter(named.batches)), next(iter(of_run.batches))):
        np.testing.assert_array_equal(one, other)


def test_flags_after_a_run_folder_change_its_constants_for_once(run_folder, monkeypatch):
    before = contents(run_folder.parent)
    monkeypatch.chdir(ROOT)
    training = dry_run(run_folder, ["--batch-size", "17"])
    assert training.owner.task.batch_size == 17 and training.owner.task.model.config["embedding_dim"] == 15
    assert contents(run_folder.parent) == before and len(before) > 5


@pytest.mark.parametrize("call, shape, pictures", [
    ("model.fit(x, y, shuffle=False)", (None, 2, 3), 11),
    ("model.fit(x, y, 4, 2, 0, shuffle=False)", (None, 2, 3), 4),
    ("model.fit(x=x[:8], y=y[:8], batch_size=4, shuffle=False)", (4, 2, 3), 4),
    ("model.fit(x, y, batch_size=4, shuffle=False, sample_weight=x[:, 0, 0])", (None, 2, 3), 4),
    ("model.fit(((x[:3], y[:3]) for _ in range(9)), steps_per_epoch=2)", None, 3),
    ("model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(4), epochs=2, shuffle=False)", (None, 2, 3), 4),
    ("model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(4, True), shuffle=False)", (4, 2, 3), 4),
])
def test_a_keras_fit_gives_the_model_and_batches_as_keras_makes_them(script, call, shape, pictures):
    training = dry_run(script(FIT + call))
    assert isinstance(training.owner, keras.Model) and training.validation is None and training.constants is None
    images = training.batches.element_spec[0]
    assert shape is None or tuple(images.shape) == shape
    images = next(training.batches)[0].numpy()
    assert len(images) == pictures and (images.ravel() == np.arange(images.size)).all()
    assert list(training.functions()) == ["train step", "predict"]


def test_a_step_of_a_keras_fit_can_be_run(script):
    training = dry_run(script(FIT + "model.fit(x, y, 4)"))
    for steps in (1, 2):
        training.fit_step(training.batches)
        assert int(training.owner.optimizer.iterations.numpy()) == steps


def test_a_script_finds_its_flags_and_the_modules_beside_it(script, tmp_path):
    (tmp_path / "beside_the_script.py").write_text("SIZE = 4", encoding="utf-8")
    training = dry_run(script(FIT + "from beside_the_script import SIZE\nassert sys.argv[1:] == ['--rate', '2']\n"
                              "try:\n    model.fit(x, y, SIZE)\nexcept Exception:\n    pass"), ["--rate", "2"])
    assert len(next(training.batches)[0]) == 4
    del sys.modules["beside_the_script"]


# ------------------------------------------------------------------------------------------ what it leaves
def test_a_script_leaves_no_word_and_no_folder_but_can_be_trained_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    training = dry_run(ROOT / "train_digits.py", [*FLAGS, "--run-folder", "mine"])
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""
    train_step = training.owner.train_step(training.batches)
    for batch in training.batches.take(3):
        train_step(*batch)
    assert 1 < training.owner.totals.numpy()[0] / 3 < 5, "the loss, about log 10 at first"


def test_a_flag_that_resumes_is_refused(run_folder):
    before = contents(run_folder)
    with pytest.raises(ValueError, match="--resume would write into that run; name its folder"):
        dry_run(ROOT / "train_digits.py", ["--resume", str(run_folder), "--epochs", "5"])
    assert contents(run_folder) == before


def test_a_script_that_resumes_by_its_constant_leaves_that_run_alone(run_folder, tmp_path):
    text = (ROOT / "train_digits.py").read_text(encoding="utf-8")
    resuming = tmp_path / "resuming.py"
    resuming.write_text(text.replace('RESUME = ""  ', f"RESUME = {str(run_folder)!r}  "), encoding="utf-8")
    assert resuming.read_text(encoding="utf-8") != text
    before = contents(run_folder)
    assert dry_run(resuming, FLAGS).owner.step == 0 and contents(run_folder) == before


@pytest.mark.parametrize("text, error", [
    (FIT + "model.fit(x, y)", None),
    ("print('nothing to train')", ValueError),
    ("raise RuntimeError('broken')", RuntimeError),
    ("raise KeyboardInterrupt", KeyboardInterrupt),
    ("import sys\nsys.exit(3)", SystemExit),
])
def test_python_is_as_before_however_the_script_ends(script, text, error):
    def state():
        return [sys.argv, sys.path, sys.stdout, sys.modules["__main__"], Trainer.train, keras.Model.fit,
                "fit" in vars(keras.Model)]

    path, before, lists = script("import sys\nsys.path.insert(0, 'x')\nsys.argv.append('y')\n" + text), state(), (
        list(sys.argv), list(sys.path))
    if error is None:
        dry_run(path, ["--flag"])
    else:
        with pytest.raises(error):
            dry_run(path, ["--flag"])
    assert all(now is then for now, then in zip(state(), before)) and lists == (sys.argv, sys.path)


# ------------------------------------------------------------------------------------------ what it refuses
def test_a_bad_flag_ends_as_it_does_for_the_script(capsys):
    with pytest.raises(SystemExit) as stop:
        dry_run(ROOT / "train_digits.py", ["--epoch", "3"])
    assert stop.value.code == 2 and "train_digits.py: unknown flag --epoch" in capsys.readouterr().err


def test_the_scripts_help_is_shown(capsys):
    with pytest.raises(SystemExit) as stop:
        dry_run(ROOT / "train_digits.py", ["--help"])
    assert not stop.value.code and "--patch-size" in capsys.readouterr().out


@pytest.mark.parametrize("text, says", [
    ("print('nothing to train')", r"mine\.py ended without training"),
    (FIT + "model.predict_on_batch(x)", r"called neither Trainer\.train nor keras\.Model\.fit"),
])
def test_a_script_that_does_not_train_is_refused(script, text, says):
    with pytest.raises(ValueError, match=says):
        dry_run(script(text))


@pytest.mark.parametrize("named, says", [("missing.py", "'missing.py' is neither a training script nor a run folder"),
                                         ("", "is no run folder"), ("runs", "runs is no run folder")])
def test_what_is_neither_script_nor_run_is_refused(tmp_path, monkeypatch, named, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match=says):
        dry_run(named)


def test_a_run_whose_script_is_elsewhere_is_refused(run_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"'train_digits\.py' is neither a training script nor a run folder here"):
        dry_run(run_folder)
