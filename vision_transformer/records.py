"""What a run has recorded of its training, read back for people: its epochs, its results, what sets it apart."""
from __future__ import annotations

import csv
import json

from .messages import one_line
from .runs import Run
from .storage import RunError

FIGURES = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "cpu_seconds")      # that each epoch has
WHERE_ONLY = {"RUN_FOLDER", "RESUME", "DEBUG", "SAVE_EVERY", "SAVE_MINUTES"}            # of no effect on what is learnt


def read_history(run: Run) -> list:
    """Gives a row {figure: number} for each epoch in a run's history.csv; raises RunError where there is none."""
    path = run.path / "history.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        if not rows or any(name not in row for row in rows for name in FIGURES):
            raise ValueError(f"each epoch needs {', '.join(FIGURES)}")
    except FileNotFoundError as error:
        raise RunError(f"{run.path} has no history.csv: not one epoch of it is finished.") from error
    except (OSError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise RunError(f"{path} is damaged: {one_line(error)[:300]}.") from error
    return rows


def read_results(run: Run) -> dict:
    """Gives what results.json says, {} before the training's end; raises RunError where it is damaged."""
    path = run.path / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(results, dict):
            raise ValueError("it is no object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {one_line(error)[:300]}.") from error
    return results


def reported_epochs(run: Run) -> int:
    """Gives how many epochs had been trained when results.json was written; 0 if it was not, or is damaged."""
    try:
        return read_results(run).get("epochs", 0)
    except RunError:
        return 0


def differences(runs: list) -> dict:
    """Gives {constant: its value in each run} of those that differ; None where a run's script lacks it."""
    constants = [run.read("constants") for run in runs]
    names = dict.fromkeys(name for each in constants for name in each if name not in WHERE_ONLY)
    values = {name: [each.get(name) for each in constants] for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}
