"""A training script up to its first step: everything made, nothing trained, no run folder left behind."""
from __future__ import annotations

import contextlib
import io
import re
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Callable, NamedTuple
from unittest import mock

import tensorflow as tf
from tensorflow import keras

from . import recipes
from .compat import fit_step
from .runs import Run
from .settings import flag_of
from .training import Trainer


class Training(NamedTuple):
    """What a script was about to train: the owner of the loop, and what its `train` or `fit` was given."""

    owner: Trainer | keras.Model
    batches: object                     # has element_spec: a tf.data.Dataset; of `fit` the iterator that Keras made
    validation: object = None
    constants: dict | None = None       # what the run folder's config.json would say; None where there is none
    fit_step: Callable | None = None    # Keras's train function: takes the iterator, does one step

    def functions(self) -> dict:
        """Gives the compiled functions, by name, that a training and its predictions would run again and again."""
        if isinstance(self.owner, Trainer):
            train, predict = self.owner.train_step(self.batches), self.owner.task.predict_step
            return {"train step": train.get_concrete_function(), "evaluate, predict": predict.get_concrete_function()}
        images, *_ = keras.utils.unpack_x_y_sample_weight(self.batches.element_spec)
        train = tf.function(lambda: self.fit_step(self.batches))
        predict = tf.function(lambda images: self.owner(images, training=False))
        return {"train step": train.get_concrete_function(), "predict": predict.get_concrete_function(images)}


class _Reached(BaseException):
    """Carries a Training out of a script; no `except Exception` on the way stops it."""


def until_training(run: Callable) -> Training | None:
    """Calls `run` until it would train by Trainer.train or keras.Model.fit; None where it ended without."""
    make_step = keras.Model.make_train_function

    def stop_at_train(trainer, batches, validation):
        trainer.run.release()
        raise _Reached(Training(trainer, batches, validation, trainer.run.config.get("constants", {})))

    def stop_at_first_step(model, force=False):         # what Keras calls once `fit` has made batches of its arguments
        step = fit_step(model, make_step(model, force))

        def stop(iterator):
            raise _Reached(Training(model, iterator, fit_step=step))

        model.train_function = stop
        return stop

    with mock.patch.object(Trainer, "train", stop_at_train), \
            mock.patch.object(keras.Model, "make_train_function", stop_at_first_step):
        try:
            run()
        except _Reached as reached:
            return reached.args[0]
    return None


def dry_run(script, arguments=()) -> Training:
    """Runs a training script with these flags until it would train by Trainer.train or keras.Model.fit.

    script: a Python file, or a run folder, which means the script and the constants it was made with.

    Raises:
        ValueError: there is no such script, or it ended without training, or a flag would write into a run.
        SystemExit: the script refused a flag or a setting.
    """
    path, flags = _of_run(script) if Path(script).is_dir() else (Path(script), [])
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is neither a training script nor a run folder here; name one such as "
                         "train_cifar10.py or runs/cifar10-001.")
    named = re.findall(r"^(RUN_FOLDER|RESUME)\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    if "RESUME" in named and any(word.split("=")[0] == "--resume" for word in arguments):
        raise ValueError("--resume would write into that run; name its folder in place of the script.")
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = {"RUN_FOLDER": ["--run-folder", folder], "RESUME": ["--resume", ""]}
        argv = [str(path), *flags, *arguments, *(word for name in named for word in elsewhere[name])]
        try:
            with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(said), \
                    mock.patch.object(sys, "path", [str(path.resolve().parent), *sys.path]), \
                    typed_by_nobody() if flags else contextlib.nullcontext():
                training = until_training(lambda: runpy.run_path(str(path), run_name="__main__"))
        except SystemExit:
            print(said.getvalue(), end="")      # what --help wrote
            raise
    if training is None:
        raise ValueError(f"{path} ended without training: it called neither Trainer.train nor keras.Model.fit.")
    return training


def typed_by_nobody():
    """While entered, no flag is refused for having no effect: a run's constants, handed back as flags, may have none.

    Nobody typed them: a recipe or the script as it was then set them.
    """
    return mock.patch.object(recipes, "refuse_idle_flags", lambda settings: None)


def _of_run(folder) -> tuple[Path, list[str]]:
    """Gives the script that a run was made by, looked for in this folder and examples/, and its constants as flags."""
    run = Run(folder)
    constants = {name: value for name, value in run.read("constants").items() if name not in ("RESUME", "RUN_FOLDER")}
    flags = [word for name, value in constants.items() for word in (flag_of(name), str(value))]
    script = Path(Path(re.match(r".*?\.py\b|\S*", run.read("command", kind=str))[0]).name)
    example = Path("examples") / script                 # never one that came with a stranger's folder
    return example if example.is_file() and not script.is_file() else script, flags
