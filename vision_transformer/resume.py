"""Going on with a run: which constants may change on the way, and which folder a training goes to."""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from . import devices
from .contradictions import refuse_idle_flags
from .records import reported_epochs
from .runs import Run, run_number
from .storage import CannotWrite, RunError, lock

# Constant -> what another value does from the last save on. Any other constant stays as the run was begun.
MAY_CHANGE = {
    "EPOCHS": "trains longer or ends sooner; a schedule and PLAIN_SHARE stretch over the new number",
    "EARLY_STOPPING": "counts all epochs since the best one",
    "BATCH_SIZE": "goes on at the same share of the epoch; a few pictures may be seen twice or not in it",
    "LEARNING_RATE": "takes the place of the old one; what it was halved stays",
    "PATIENCE": "counts all epochs since the best one or the last halving",
    "MINIMUM_LEARNING_RATE": "bounds the next halvings",
    "WEIGHT_DECAY": "acts from here on",
    "CLIP_NORM": "acts from here on",
    "XLA": "changes the speed, and how numbers round",
    "STEPS_PER_EXECUTION": "changes the speed only",
    "SAVE_EVERY": "saves more or less often",
    "SAVE_MINUTES": "saves more or less often",
    "TEST_FLIP": "changes the last report only",
    "DATA_DIR": "reads the same data elsewhere",
    "DEBUG": "shows tracebacks",
}
# Constant, or heading of a script's constants -> why those that are not above can't change.
STAYS = {
    "RUN_FOLDER": "it stays in its folder",
    "TOP_K": "its figures so far count by that",
    "choices": "it stands for many others",
    "data": "it has learnt from some pictures, and is judged by others",
    "validation": "it has learnt from some pictures, and is judged by others",
    "model": "its saved weights are of another model",
    "batches": "it has not seen each picture equally often",
    "optimizer": "what the optimizer has gathered goes with the old value",
    "learning rate": "the learning rate would jump",
    "run": "nothing could repeat it",
}


def resumed(settings):
    """Gives the settings of the run to resume, with the flags given now; without RESUME, settings as they are.

    Raises:
        RunError: no such run, or a flag that can't change in the middle of a training.
    """
    if not settings.RESUME:
        return settings
    try:
        begun = Run(settings.RESUME).read("constants")
    except RunError as error:
        raise RunError(f"RESUME: {error}") from error
    for name in sorted(settings.given - MAY_CHANGE.keys() - {"RESUME"}):
        if getattr(settings, name) != begun.get(name):
            why = STAYS.get(name) or STAYS.get(settings.headings[name], "what it learns from would change")
            raise RunError(f"{settings.RESUME} was begun with {name} {begun.get(name)!r}, which can't become "
                           f"{getattr(settings, name)!r} on the way: {why}. Leave the flag out, or begin a new run.")
    kept = {name: begun.get(name, value) for name, value in settings.as_dict().items()
            if name not in settings.given and name != "RESUME"}
    for name, value in kept.items():
        if type(value) is not type(getattr(settings, name)):
            raise RunError(f"{settings.RESUME} says that {name} is {value!r}, which is no "
                           f"{type(getattr(settings, name)).__name__}: its config.json is damaged.")
    others = [f"{name} {value!r} ({getattr(settings, name)!r})" for name, value in kept.items()
              if value != getattr(settings, name)]
    if others:
        print(f"note: the run goes on with its own constants, not the script's (in brackets): {', '.join(others)}")
    vars(settings).update(kept)
    refuse_idle_flags(settings)
    if begun.get("EPOCHS") != settings.EPOCHS:
        _announce_other_epochs(settings)
    return settings


def _announce_other_epochs(settings) -> None:
    """Prints what jumps, as another number of epochs moves it."""
    schedule, policy, share = (vars(settings).get(name) for name in ("SCHEDULE", "POLICY", "PLAIN_SHARE"))
    if schedule in ("cosine", "one-cycle", "step"):
        print(f"note: SCHEDULE {schedule} now stretches over {settings.EPOCHS} epochs; the learning rate goes "
              "on from where it would then be, which is a jump")
    if policy and share:
        print(f"note: PLAIN_SHARE {share} now leaves the last {share * settings.EPOCHS:g} of {settings.EPOCHS} epochs "
              f"without POLICY {policy}, which is on until then")


def open_run(settings, data, model) -> Run:
    """Opens the run to resume, or makes the next free folder in RUN_FOLDER and writes its config.json; locks it.

    Prints how to go on instead, where a run of the same constants and data was not finished.

    Raises:
        RunError: there is nothing to resume, or another training uses it.
        CannotWrite: there is no room or no permission.
    """
    constants, fingerprint = {**settings.as_dict(), "RESUME": ""}, data.fingerprint
    if settings.RESUME:
        run = Run(settings.RESUME)
        if run.read("data", "fingerprint", kind=str) != fingerprint:
            raise RunError(f"{run.path} was begun on other data than {data.name} as it is now; point --data-dir to the "
                           "files it was begun on, or begin a new run.")
        run.hold()
        _check_unfinished(run, settings.EPOCHS)
        run.write_config({**run.config, "constants": constants})        # the next resume begins with these
        return run
    _point_to_unfinished(settings.RUN_FOLDER, data.name, constants, fingerprint)
    counts = np.bincount(data.train.labels, minlength=data.num_classes)
    per_class = dict(zip(data.class_names, counts.tolist()))            # training and validation
    run = Run.create(settings.RUN_FOLDER, data.name, {
        "constants": constants, "model": model.get_config(), "class_names": list(data.class_names),
        "data": {"name": data.name, "fingerprint": fingerprint, "pictures_per_class": per_class},
        "versions": devices.versions(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])})
    run.hold()
    return run


def _check_unfinished(run: Run, epochs: int) -> None:
    """Raises RunError if there is nothing to resume: the state is gone, or all epochs are done and reported."""
    if not run.has_state():
        if (run.path / "history.csv").is_file():
            raise RunError(f"{run.path / 'state.safetensors'} is gone, so the run can't go on; begin a new one.")
        return
    done = run.epochs()
    if done > epochs or (done == epochs and reported_epochs(run) == done):
        raise RunError(f"{run.path} already has {done} epochs; to train on, give it more: --epochs {2 * done}.")


def _rows(run: Run) -> int:
    """Gives how many epochs history.csv has, without reading a save for it."""
    return (run.path / "history.csv").read_text(encoding="utf-8").count("\n") - 1


def _point_to_unfinished(folder: str, name: str, constants: dict, fingerprint: str) -> None:
    """Prints how to go on with the newest run of these constants and data that was stopped, if there is one."""
    for path in sorted(Path(folder).glob(f"{name}-*"), key=lambda path: run_number(path, name), reverse=True):
        try:
            run = Run(path)
            alike = (run.read("constants") == constants
                     and run.read("data", "fingerprint", kind=str) == fingerprint)
            if alike and run.has_state() and (not reported_epochs(run) or reported_epochs(run) < _rows(run)):
                lock(path).release()
                print(f"note: {path} was begun with the same constants and data, and stopped before its end; to go on "
                      f"with it instead: {run.resume_command}", flush=True)
                return
        except (RunError, CannotWrite, OSError):        # no run, damaged, in use now, read-only
            continue
