"""The run folder: all that a training leaves behind, and all that later commands need.

    runs/cifar10-001/
        config.json             every constant, the model's sizes, class names, data fingerprint, versions, command
        model.safetensors       the weights with the best validation accuracy, by name: either Keras reads them
        history.csv             one row per epoch
        results.json            the test figures, read once at the end
        state.safetensors       all that --resume needs
        tensorboard/            logs for TensorBoard
        samples.png  curves.png  confusion.png

Every file but TensorBoard's is written beside its place and then moved there: a reader never sees half of one. Nothing
in the folder is code: loading a stranger's run runs nothing of theirs.
"""
from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save as safetensors_bytes

from . import devices
from .architectures import build_model
from .compat import raw, weight_path
from .installation import from_here
from .picture_classifier import PictureClassifier

FORMAT = 1              # of config.json; a higher number is from a newer version of this package
# What a resumed run may do otherwise than it began; anything else would make it another run.
MAY_CHANGE = {"RESUME", "EPOCHS", "LEARNING_RATE", "PATIENCE", "MINIMUM_LEARNING_RATE", "EARLY_STOPPING", "SAVE_EVERY",
              "TEST_FLIP", "DATA_DIR", "DEBUG"}


class RunError(ValueError):
    """A run folder that is missing, damaged or doesn't fit."""


class Run:
    """A run folder that exists."""

    def __init__(self, path):
        self.path = Path(path)
        if not (self.path / "config.json").is_file():
            raise RunError(f"{self.path} is no run folder (it has no config.json); a run folder looks like "
                           "runs/cifar10-001.")

    @classmethod
    def create(cls, folder, name: str, config: dict) -> Run:
        """Makes the next free numbered folder, e.g. runs/cifar10-001, and writes its config.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max([int(p.name[len(name) + 1:]) for p in folder.glob(f"{name}-*")
                          if p.name[len(name) + 1:].isdigit()], default=0)
        while True:
            path = folder / f"{name}-{number:03d}"
            try:
                path.mkdir()
                break
            except FileExistsError:                     # another training was faster
                number += 1
        write(path / "config.json", as_json({"format": FORMAT, **config}))
        return cls(path)

    def write_config(self, config: dict) -> None:
        """Replaces config.json."""
        write(self.path / "config.json", as_json(config))

    @property
    def config(self) -> dict:
        """What config.json says; raises RunError if it is damaged or from a newer version."""
        try:
            config = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
            newer = config["format"] > FORMAT
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.path / 'config.json'} is damaged: {error}.") from error
        if newer:
            raise RunError(f"{self.path} was made by a newer version of this program (format {config['format']}, "
                           f"known up to {FORMAT}); update the program.")
        return config

    def read(self, name: str):
        """Gives one entry of config.json; raises RunError where there is none."""
        config = self.config
        if name not in config:
            raise RunError(f"{self.path / 'config.json'} doesn't say {name!r}: this is no run of a training script.")
        return config[name]

    @property
    def resume_command(self) -> str:
        """The command line that goes on with this run."""
        return command(sys.argv[0], "--resume", self.path)

    def has_weights(self) -> bool:
        """Tells whether best weights have been saved."""
        return (self.path / "model.safetensors").is_file()

    def save_weights(self, model) -> None:
        """Saves the model's weights, by name, as the run's best."""
        write_tensors(self.path / "model.safetensors", {name: v.numpy() for name, v in weights_by_name(model).items()})

    def load_weights(self, model) -> None:
        """Puts the run's best weights into a model of the same sizes; raises RunError where they don't fit."""
        tensors, _ = read_tensors(self.path / "model.safetensors")
        weights = weights_by_name(model)
        missing, unknown = sorted(weights.keys() - tensors.keys()), sorted(tensors.keys() - weights.keys())
        if missing or unknown:
            raise RunError(f"{self.path / 'model.safetensors'} doesn't fit the model: missing "
                           f"{', '.join(missing) or 'nothing'}; unknown {', '.join(unknown) or 'nothing'}.")
        for name, variable in weights.items():
            if tensors[name].shape != tuple(variable.shape):
                raise RunError(f"{self.path / 'model.safetensors'}: {name} has shape {tensors[name].shape}, "
                               f"the model needs {tuple(variable.shape)}.")
        for name, variable in weights.items():
            variable.assign(tensors[name])

    def load_model(self) -> PictureClassifier:
        """Makes the run's model, with its best weights."""
        try:
            model = build_model(**self.read("model"))
        except (TypeError, ValueError) as error:
            raise RunError(f"{self.path / 'config.json'} describes no model that can be built: {error}") from error
        self.load_weights(model)
        return model

    def has_state(self) -> bool:
        """Tells whether there is something to resume from."""
        return (self.path / "state.safetensors").is_file()

    def save_state(self, tensors: dict, state: dict) -> None:
        """Saves what a resume needs: arrays by name, and plain values."""
        write_tensors(self.path / "state.safetensors", tensors, {"state": json.dumps(state)})

    def load_state(self) -> tuple:
        """Gives the arrays by name and the plain values that save_state got."""
        tensors, metadata = read_tensors(self.path / "state.safetensors")
        return tensors, json.loads(metadata["state"])

    def write_history(self, rows: list) -> None:
        """Writes history.csv: one row per epoch."""
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write(self.path / "history.csv", text.getvalue())

    def write_results(self, results: dict) -> None:
        """Writes results.json."""
        write(self.path / "results.json", as_json(results))


def resumed(settings):
    """Gives the settings of the run to resume, with the flags given now; without RESUME, settings as they are.

    Raises:
        RunError: no such run, or a flag that can't change in the middle of a training.
    """
    if not settings.RESUME:
        return settings
    constants = Run(settings.RESUME).read("constants")
    changed = sorted(name for name in settings.given - MAY_CHANGE if getattr(settings, name) != constants.get(name))
    if changed:
        raise RunError(f"{settings.RESUME} was begun with {changed[0]} {constants.get(changed[0])!r}, which can't "
                       f"become {getattr(settings, changed[0])!r} on the way; leave the flag out, or begin a new run.")
    kept = {name: constants.get(name, value) for name, value in settings.as_dict().items()
            if name not in settings.given and name != "RESUME"}
    others = [f"{name} {value!r} ({getattr(settings, name)!r})" for name, value in kept.items()
              if value != getattr(settings, name)]
    if others:
        print(f"note: the run goes on with its own constants, not the script's (in brackets): {', '.join(others)}")
    vars(settings).update(kept)
    schedule = vars(settings).get("SCHEDULE")
    if schedule in ("cosine", "one-cycle", "step") and constants["EPOCHS"] != settings.EPOCHS:
        print(f"note: SCHEDULE {schedule} now stretches over {settings.EPOCHS} epochs; the learning rate goes "
              "on from where it would then be, which is a jump")
    return settings


def open_run(settings, data, model) -> Run:
    """Opens the run to resume, or makes the next free folder in RUN_FOLDER and writes its config.json."""
    constants = {**settings.as_dict(), "RESUME": ""}
    if settings.RESUME:
        run = Run(settings.RESUME)
        if run.read("data")["fingerprint"] != data.fingerprint:
            raise RunError(f"{run.path} was begun on other data than {data.name} as it is now; point --data-dir to the "
                           "files it was begun on, or begin a new run.")
        _check_unfinished(run, settings.EPOCHS)
        run.write_config({**run.config, "constants": constants})        # the next resume begins with these
        return run
    return Run.create(settings.RUN_FOLDER, data.name, {
        "constants": constants, "model": model.get_config(), "class_names": list(data.class_names),
        "data": {"name": data.name, "fingerprint": data.fingerprint}, "versions": devices.versions(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])})


def _check_unfinished(run: Run, epochs: int) -> None:
    """Raises RunError if there is nothing to resume: the state is gone, or all epochs are done and reported."""
    if not run.has_state():
        if (run.path / "history.csv").is_file():
            raise RunError(f"{run.path / 'state.safetensors'} is gone, so the run can't go on; begin a new one.")
        return
    done = len(run.load_state()[1]["history"])
    if done > epochs or (done == epochs and (run.path / "results.json").is_file()):
        raise RunError(f"{run.path} already has {done} epochs; to train on, give it more: --epochs {2 * done}.")


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


def write(path: Path, content) -> None:
    """Writes text or bytes to a file all at once: beside it first, flushed, then renamed."""
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    for patience in range(20, -1, -1):
        try:
            beside.replace(path)
            break
        except PermissionError:         # Windows, while a viewer or a virus scanner has the old file open
            if not patience:
                raise
            time.sleep(0.25)


def write_tensors(path: Path, tensors: dict, metadata=None) -> None:
    """Writes arrays by name, with a checksum in the header: the format itself doesn't see a flipped bit."""
    # safetensors 0.8.0 writes wrong data, silently, for an array that is not contiguous.
    tensors = {name: np.asarray(t, order="C") for name, t in tensors.items()}
    write(path, safetensors_bytes(tensors, {**(metadata or {}), "sha256": _checksum(tensors)}))


def read_tensors(path: Path) -> tuple:
    """Gives the arrays by name and the metadata; raises RunError for a missing or damaged file."""
    if not path.is_file():
        raise RunError(f"{path} is missing; the training has not come so far, or the file was removed.")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged: {error}.") from error
    if metadata.get("sha256") != _checksum(tensors):
        raise RunError(f"{path} is damaged: its checksum is not that of its contents.")
    return tensors, metadata


def _checksum(tensors: dict) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()
