"""TensorBoard's log of a run: each epoch once, however often the run was resumed."""
from __future__ import annotations

import contextlib
import time
from pathlib import Path

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from .storage import cannot_write

NOT_FIGURES = ("epoch", "step")


class TensorBoardLog:
    """Writes rows of a history, each under its epoch's number, as scalars.

    Args:
        folder: where the log files are. What a stopped training wrote there after its last save goes: the log begins
            anew with the rows that were saved.
        history: those rows.
    """

    def __init__(self, folder: Path, history: list):
        for old in folder.glob("events.out.tfevents.*"):
            with contextlib.suppress(PermissionError):      # Windows, where TensorBoard has it open: it stays
                old.unlink()
        self.folder = folder
        # As if trained without a break: TensorBoard's "relative" axis shows the seconds of training.
        self.begun = time.time() - (history[-1]["seconds"] if history else 0)
        with self._named():
            self.writer = EventFileWriter(str(folder))
        for row in history:
            self.add(row)

    def add(self, row: dict) -> None:
        """Writes a row; raises CannotWrite where there is no room."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name not in NOT_FIGURES]
        with self._named():
            self.writer.add_event(Event(wall_time=self.begun + row["seconds"], step=row["epoch"],
                                        summary=Summary(value=values)))
            self.writer.flush()

    def close(self) -> None:
        """Ends the log."""
        with self._named():
            self.writer.close()

    @contextlib.contextmanager
    def _named(self):
        try:
            yield
        except (OSError, tf.errors.OpError) as error:       # a full disk is TensorFlow's ResourceExhaustedError
            raise cannot_write(self.folder, error) from error
