"""A training script up to its first step: everything made, nothing trained, no run folder left behind."""
from __future__ import annotations

import contextlib
import io
import re
import runpy
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import tensorflow as tf
from tensorflow import keras

from .compat import uses_xla
from .runs import Run
from .settings import flag_of
from .training import Trainer


class Training(NamedTuple):
    """What a script was about to train: the owner of the loop and what its `train` or `fit` was given."""

    owner: Trainer | keras.Model
    batches: tf.data.Dataset
    validation: object = None
    constants: dict | None = None       # what the run folder's config.json would say; None where there is none

    def functions(self) -> dict:
        """Gives the compiled functions, by name, that a training and its predictions would run again and again."""
        if isinstance(self.owner, Trainer):
            train, predict = self.owner.train_step(self.batches), self.owner.task.predict_step
            return {"train step": train.get_concrete_function(), "evaluate, predict": predict.get_concrete_function()}
        model, spec = self.owner, self.batches.element_spec
        train = tf.function(lambda batch: model.train_step(batch), jit_compile=uses_xla(model))
        predict = tf.function(lambda images: model(images, training=False), jit_compile=uses_xla(model))
        return {"train step": train.get_concrete_function(spec),
                "evaluate, predict": predict.get_concrete_function(spec[0])}


class _Reached(BaseException):
    """Carries a Training out of a script; no `except Exception` on the way stops it."""


def dry_run(script, arguments=()) -> Training:
    """Runs a training script with these flags until it would train by Trainer.train or keras.Model.fit.

    script: a Python file, or a run folder, which means the script and the constants it was made with.

    Raises:
        ValueError: there is no such script, or it ended without training, or a flag would write into a run.
        SystemExit: the script refused a flag or a setting.
    """
    path, flags = _of_run(script) if Path(script).is_dir() else (Path(script), [])
    if not path.is_file():
        raise ValueError(f"there is no training script {str(path)!r} here; name a script such as train_cifar10.py, or "
                         "be in its folder.")
    named = re.findall(r"^(RUN_FOLDER|RESUME)\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    if "RESUME" in named and any(word.split("=")[0] == "--resume" for word in arguments):
        raise ValueError("--resume would write into that run; name its folder in place of the script.")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        elsewhere = {"RUN_FOLDER": ["--run-folder", folder], "RESUME": ["--resume", ""]}
        flags = [*flags, *arguments, *(word for name in named for word in elsewhere[name])]
        stack.enter_context(mock.patch.object(sys, "argv", [str(path), *flags]))
        stack.enter_context(mock.patch.object(sys, "path", [str(path.resolve().parent), *sys.path]))
        stack.enter_context(mock.patch.object(Trainer, "train", _stop_at_train))
        stack.enter_context(mock.patch.object(keras.Model, "fit", _stop_at_fit))
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                runpy.run_path(str(path), run_name="__main__")
        except _Reached as reached:
            return reached.args[0]
        except SystemExit:
            print(said.getvalue(), end="")      # what --help wrote
            raise
    raise ValueError(f"{path} ended without training: it called neither Trainer.train nor keras.Model.fit.")


def _of_run(folder) -> tuple[Path, list[str]]:
    """Gives the script that a run was made by, looked for in this folder, and its constants as flags."""
    run = Run(folder)
    constants = {name: value for name, value in run.read("constants").items() if name not in ("RESUME", "RUN_FOLDER")}
    flags = [word for name, value in constants.items() for word in (flag_of(name), str(value))]
    return Path(re.match(r".*?\.py\b|\S*", run.read("command"))[0]), flags


def _stop_at_train(trainer, batches, validation):
    raise _Reached(Training(trainer, batches, validation, trainer.run.config.get("constants", {})))


def _stop_at_fit(model, x=None, y=None, batch_size=None, *_, **__):
    if not isinstance(x, tf.data.Dataset):      # Keras makes such batches of arrays: the last may be smaller
        x = tf.data.Dataset.from_tensor_slices(x if y is None else (x, y)).batch(batch_size or 32)
    raise _Reached(Training(model, x))
