"""The run folder: all that a training leaves behind, and all that later commands need.

    runs/cifar10-001/
        config.json                 every constant, the model's sizes, class names, data fingerprint, versions, command
        model.safetensors           the weights with the best validation accuracy, by name: either Keras reads them
        history.csv                 one row per epoch
        results.json                the test figures, read once at the end
        state.safetensors           all that --resume needs
        state-before.safetensors    the same from the save before, should the newest be damaged
        tensorboard/                logs for TensorBoard
        samples.png  curves.png  confusion.png
        .lock                       locked by the training that uses the folder

Every file but TensorBoard's is whole or not there. Nothing in the folder is code: loading a stranger's run runs nothing
of theirs.
"""
from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

from tensorflow import keras

from .architectures import build_model
from .checks import shown
from .compat import raw, weight_path
from .installation import from_here
from .memory import enough_memory
from .messages import one_line
from .picture_classifier import PictureClassifier
from .storage import (
    CannotWrite,
    Damaged,
    RunError,
    assign,
    cannot_write,
    lock,
    read_tensors,
    reason,
    rename,
    write,
    write_table,
    write_tensors,
)

FORMAT = 2              # of the folder; a higher number is from a newer version of this package
LARGEST_CONFIG = 2 ** 24        # bytes


class Run:
    """A run folder that exists."""

    def __init__(self, path):
        self.path, self._lock = Path(path), None
        if not (self.path / "config.json").is_file():
            raise RunError(f"{self.path} is no run folder (it has no config.json); a run folder looks like "
                           "runs/cifar10-001.")

    @classmethod
    def create(cls, folder, name: str, config: dict) -> Run:
        """Makes the next free numbered folder, e.g. runs/cifar10-001, with its config.json in it.

        Raises:
            CannotWrite: there is no room or no permission.
        """
        folder = Path(folder)
        unnamed = folder / f".{name}-{os.getpid()}"
        try:
            unnamed.mkdir(parents=True, exist_ok=True)
            write(unnamed / "config.json", as_json({"format": FORMAT, **config}))
            number = 1 + max([run_number(path, name) for path in folder.glob(f"{name}-*")], default=0)
            while True:
                path = folder / f"{name}-{number:03d}"
                try:
                    if not path.exists():
                        rename(unnamed, path)           # which has all that makes a run folder from its first moment
                        return cls(path)
                except OSError:
                    if not path.exists():               # or else another training was faster
                        raise
                number += 1
        except (OSError, CannotWrite) as error:
            raise CannotWrite(f"no run folder can be made in {folder}: {reason(error)}. Make room, give permission, or "
                              "choose another --run-folder.") from error
        finally:
            shutil.rmtree(unnamed, ignore_errors=True)

    def hold(self) -> None:
        """Keeps other trainings out of the folder, until release() or this process's end.

        Raises:
            RunError: another training uses it.
            CannotWrite: no lock can be made in it.
        """
        self._lock = lock(self.path)

    def release(self) -> None:
        """Lets other trainings use the folder again."""
        if self._lock:
            self._lock.release(force=True)

    def write_config(self, config: dict) -> None:
        """Replaces config.json."""
        write(self.path / "config.json", as_json(config))

    @property
    def config(self) -> dict:
        """What config.json says; raises RunError if it is damaged or from a newer version."""
        path = self.path / "config.json"
        try:
            if path.stat().st_size > LARGEST_CONFIG:
                raise ValueError(f"it has {path.stat().st_size} bytes, more than any run's")
            config = json.loads(path.read_text(encoding="utf-8"))
            newer, older = config["format"] > FORMAT, config["format"] < FORMAT
        except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
            raise RunError(f"{path} is damaged: {one_line(error)}.") from error
        if newer:
            raise RunError(f"{self.path} was made by a newer version of this program (format {config['format']}, "
                           f"known up to {FORMAT}); update the program.")
        if older:
            raise RunError(f"{self.path} was made by an older version of this program (format {config['format']}, now "
                           f"{FORMAT}), whose weights and saves are kept otherwise; use that one, or train anew.")
        return config

    def read(self, *names: str, kind=dict):
        """Gives what config.json says under these names, one in the other; raises RunError unless it is of that kind.

        kind: dict, list, str, int, float or bool.
        """
        value, where = self.config, f"{self.path / 'config.json'}"
        for name in names:
            if not isinstance(value, dict) or name not in value:
                raise RunError(f"{where} doesn't say {' '.join(names)!r}: this is no run of a training script.")
            value = value[name]
        if type(value) is not kind:
            raise RunError(f"{where} says that {' '.join(names)!r} is {shown(value)}, which is no "
                           f"{kind.__name__}; it is damaged, or no run of a training script.")
        return value

    @property
    def class_names(self) -> list:
        """The names of the classes, as many as the model tells apart; raises RunError where they are none."""
        names, classes = self.read("class_names", kind=list), self.read("model", "num_classes", kind=int)
        if len(names) != classes or not all(isinstance(name, str) and name.isprintable() for name in names):
            raise RunError(f"{self.path / 'config.json'}: its class_names are no list of {classes} names.")
        return names

    @property
    def resume_command(self) -> str:
        """The command line that goes on with this run."""
        return command(sys.argv[0], "--resume", self.path)

    def has_weights(self) -> bool:
        """Tells whether best weights have been saved."""
        return self._weights.is_file()

    def save_weights(self, model, epoch: int = 0, accuracy: float = -1.0) -> None:
        """Saves the model's weights, by name, as the run's best: those after `epoch` (0: none)."""
        write_tensors(self._weights, {name: v.numpy() for name, v in weights_by_name(model).items()},
                      {"epoch": epoch, "val_accuracy": accuracy})

    def load_weights(self, model) -> None:
        """Puts the run's best weights into a model of the same sizes; raises RunError where they don't fit."""
        assign(self._weights, read_tensors(self._weights)[0], weights_by_name(model))

    def best(self) -> tuple:
        """Gives the epoch and the validation accuracy of the saved weights; (0, -1) where there are none."""
        if not self.has_weights():
            return 0, -1.0
        _, values = read_tensors(self._weights)
        return values["epoch"], values["val_accuracy"]

    def load_model(self) -> PictureClassifier:
        """Makes the run's model, with its best weights; raises RunError where either is not what a training left."""
        tensors, config = read_tensors(self._weights)[0], self.read("model")
        try:
            with _weights_at_most(2 ** 22 + 16 * sum(tensor.size for tensor in tensors.values())), \
                    enough_memory("a model of its sizes", "them"):
                model = build_model(**config)
        except (TypeError, ValueError, ArithmeticError, MemoryError) as error:
            raise RunError(f"{self.path / 'config.json'} describes no model that can be built: "
                           f"{one_line(error)[:500]}") from error
        assign(self._weights, tensors, weights_by_name(model))
        return model

    def has_state(self) -> bool:
        """Tells whether there is something to resume from."""
        return self._state.is_file() or self._state_before.is_file()

    def save_state(self, tensors: dict, state: dict) -> None:
        """Saves what a resume needs, arrays by name and plain values; the save before is kept beside it."""
        write_tensors(self._state, tensors, state, before=self._state_before)

    def load_state(self) -> tuple:
        """Gives the arrays by name and the plain values that save_state got last.

        Where that save is damaged or gone, it is named, and from now on the one before it is the last.
        """
        try:
            return read_tensors(self._state)
        except RunError as error:
            if not self._state_before.is_file() or (self._state.is_file() and not isinstance(error, Damaged)):
                raise
            try:
                loaded = read_tensors(self._state_before)
            except Damaged as second:
                raise RunError(f"{error} And {second} The run can't go on: begin a new one; `predict` and `evaluate` "
                               "still know its best weights.") from second
            print(f"note: {error} Going on from the save before it.", flush=True)
            try:
                if self._state.is_file():
                    rename(self._state, self.path / "state-damaged.safetensors")
                rename(self._state_before, self._state)
            except OSError as error:
                raise cannot_write(self._state, error) from error
            return loaded

    @property
    def _weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def _state(self) -> Path:
        return self.path / "state.safetensors"

    @property
    def _state_before(self) -> Path:
        return self.path / "state-before.safetensors"

    def write_history(self, rows: list) -> None:
        """Writes history.csv: one row per epoch."""
        write_table(self.path / "history.csv", rows[0], [[row[name] for name in rows[0]] for row in rows])

    def write_results(self, results: dict) -> None:
        """Writes results.json; results["epochs"]: how many had been trained."""
        write(self.path / "results.json", as_json(results))

    def epochs(self) -> int:
        """Gives how many epochs the last save has seen."""
        history = self.load_state()[1].get("history")
        if not isinstance(history, list):
            raise RunError(f"{self._state} holds no state of a training; begin a new run.")
        return len(history)


@contextlib.contextmanager
def _weights_at_most(numbers: int):
    """While entered, no model of more numbers than that can be made: a stranger's config.json may ask for terabytes."""
    add_weight, left = keras.layers.Layer.add_weight, numbers

    def counted(layer, *arguments, **options):
        nonlocal left
        left -= math.prod(options.get("shape") or ())
        if left < 0:
            raise ValueError("it is many times larger than its weights' file.")
        return add_weight(layer, *arguments, **options)

    with mock.patch.object(keras.layers.Layer, "add_weight", counted):
        yield


def run_number(path: Path, name: str) -> int:
    """runs/cifar10-007, cifar10 -> 7; 0 for what is no numbered folder of that name."""
    number = path.name[len(name) + 1:]
    return int(number) if number.isdecimal() and path.name.startswith(name) else 0


def command(*words) -> str:
    """Writes the command line that runs this Python with `words`, quoted for the shell, to be pasted as it is."""
    words = [from_here(sys.executable), *map(str, words)]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def weights_by_name(model) -> dict:
    """Gives the weights by name; the step counter is no weight: training sets it."""
    return {weight_path(v): raw(v) for v in model.weights if raw(v).dtype.is_floating}


def as_json(values) -> str:
    """Writes plain values as JSON that people can read."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
