"""How a model learns: a task that gives the loss, and the one loop that takes its gradient.

The loop knows no task from another: a task is any object with

    figures                      the names of what `loss` counts, the loss first
    loss(batch, step)            one training batch -> (loss to minimize, vector of the figures' means over the batch)
    evaluate(split)              held-out pictures -> {figure: value}; "accuracy" decides which weights are the best
    model                        whose trainable variables learn

Why a loop of our own and not `fit`: exact resume in the middle of an epoch needs everything random to be a function of
the step, and `fit` reads the device back at every batch, which makes a DirectML GPU wait.
"""
from __future__ import annotations

import functools
import math
import signal
import threading
import time

import tensorflow as tf
from tensorflow import keras
from tqdm import tqdm

from .precision import sees_directml
from .runs import weights_by_name
from .steps import compiled_step, compiled_steps

READ_EVERY = 20         # steps between looks at the device: each look waits for it, none lets its memory grow


class TrainingFailed(RuntimeError):
    """The loss or its gradient stopped being a finite number."""


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seeds the first weights; with `deterministic`, runs are also bit-equal on one machine and stack."""
    if not 0 <= seed < 2 ** 31:
        raise ValueError(f"SEED {seed} is not from 0 to {2 ** 31 - 1}; choose a number there.")
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


class Trainer:
    """The loop: gradients of the task's loss to the optimizer; each epoch validates, logs, saves.

    Args:
        task: see the file's docstring.
        optimizer: an AdamW; with an average, that is what is validated and kept as the best weights.
        steps_per_epoch, epochs: the length of the training.
        patience: epochs without a better validation accuracy after which the learning rate is halved, if the
            optimizer's schedule is "plateau".
        minimum_learning_rate: halving ends here.
        early_stopping: epochs without a better validation accuracy after which training ends; 0: never.
        save_every: steps between saves of all that a resume needs; the end of each epoch saves too.
        sam_rho: radius of sharpness-aware minimization, at twice the cost of a step; 0: none.
        steps_per_execution: steps made in one call of the compiled function, fewer where a save, a look at the device
            or the end of an epoch comes first.
        xla: the step is compiled by XLA.

    Raises:
        ValueError: a number below what makes sense, or XLA on a DirectML device.
    """

    def __init__(self, task, optimizer, *, steps_per_epoch: int, epochs: int, patience: int,
                 minimum_learning_rate: float, early_stopping: int, save_every: int, sam_rho: float = 0.0,
                 steps_per_execution: int = 1, xla: bool = False):
        for name, value, least in (("EPOCHS", epochs, 1), ("PATIENCE", patience, 1), ("SAVE_EVERY", save_every, 1),
                                   ("EARLY_STOPPING", early_stopping, 0), ("SAM_RHO", sam_rho, 0),
                                   ("STEPS_PER_EXECUTION", steps_per_execution, 1),
                                   ("MINIMUM_LEARNING_RATE", minimum_learning_rate, 0)):
            if not least <= value < math.inf:
                raise ValueError(f"{name} is {value}; it must be at least {least}.")
        if xla and sees_directml():
            raise ValueError("XLA is true, but there is no XLA compiler for DirectML; set XLA to false.")
        self.task, self.optimizer = task, optimizer
        self.steps_per_epoch, self.epochs, self.patience = steps_per_epoch, epochs, patience
        self.minimum_learning_rate, self.early_stopping = minimum_learning_rate, early_stopping
        self.save_every, self.sam_rho = save_every, sam_rho
        self.steps_per_execution, self.xla = steps_per_execution, xla
        self.halves = optimizer.schedule.name == "plateau"
        self.base_learning_rate = float(f"{optimizer.learning_rate.numpy():.7g}")       # of float32, as typed
        if self.halves and minimum_learning_rate > self.base_learning_rate:
            raise ValueError(f"MINIMUM_LEARNING_RATE {minimum_learning_rate:g} is above LEARNING_RATE "
                             f"{self.base_learning_rate:g}; lower it.")
        self.totals = tf.Variable(tf.zeros(len(task.figures)), name="totals")   # figures summed over the epoch so far
        self.step = 0                                                           # the next one
        self.state = {"learning_rate_scale": 1.0, "best_accuracy": -1.0, "best_epoch": 0, "halved_epoch": 0,
                      "seconds": 0.0, "cpu_seconds": 0.0, "history": []}

    def save_to(self, run) -> None:
        """Saves to a run folder from now on; goes on from its last save, if there is one."""
        self.run = run
        if run.has_state():
            tensors, state = run.load_state()
            for name, variable in self._tensors().items():
                variable.assign(tensors[name])
            self.step = state.pop("step")
            self.state = state
            if state["history"]:
                run.write_history(state["history"])
            self.optimizer.learning_rate.assign(self.learning_rate)

    @property
    def learning_rate(self) -> float:
        """The learning rate as halved so far."""
        return self.base_learning_rate * self.state["learning_rate_scale"]

    def train_step(self, batches):
        """Gives the tf.function of one step on batches such as these."""
        return compiled_step(self.task, self.optimizer, self.totals, batches, sam_rho=self.sam_rho, xla=self.xla)

    def train(self, batches, validation) -> None:
        """Trains on batches of (step, images, labels) that start at `self.step`; validates on a whole split.

        Raises:
            TrainingFailed: at a step whose gradient is not finite; the last save and the best weights stay.
            KeyboardInterrupt: after Ctrl-C, once the step is finished and saved; a second Ctrl-C doesn't wait.
        """
        writer = tf.summary.create_file_writer(str(self.run.path / "tensorboard"))
        self._clock = time.monotonic() - self.state["seconds"], time.process_time() - self.state["cpu_seconds"]
        with tqdm(total=self.epochs * self.steps_per_epoch, initial=self.step, unit="step", leave=False,
                  dynamic_ncols=True, disable=None) as bar, _CtrlC() as ctrl_c:     # None: a bar on a terminal only
            for steps, make_them in self._executions(batches):
                if self._waited_enough():
                    print(f"no better validation accuracy for {self.early_stopping} epochs: training ends early")
                    break
                make_them()
                self.step += steps
                bar.update(steps)
                self._after_step(bar, validation, writer)
                if ctrl_c.pressed:
                    self._read((self.step - 1) % self.steps_per_epoch + 1)      # is all well with what is saved now?
                    self._save()
                    raise KeyboardInterrupt(f"stopped after step {self.step}; to go on: {self.run.resume_command}")

    def _executions(self, batches):
        """Yields how many steps come next, and a function that makes them in one call of a compiled one."""
        train_step = self.train_step(batches)
        if self.steps_per_execution == 1:
            for batch in batches:
                yield 1, functools.partial(train_step, *batch)
            return
        train_steps, stream = compiled_steps(train_step, batches), iter(batches)
        while self.step < self.epochs * self.steps_per_epoch:
            done = self.step % self.steps_per_epoch
            steps = min(self.steps_per_execution, self.steps_per_epoch - done, READ_EVERY - done % READ_EVERY,
                        self.save_every - self.step % self.save_every)
            yield steps, functools.partial(train_steps, stream, tf.constant(steps))

    def _after_step(self, bar, validation, writer) -> None:
        """Looks at the device where it is time to, saves where it is time to, ends the epoch where it ends."""
        done = (self.step - 1) % self.steps_per_epoch + 1       # of this epoch
        ended, saves = done == self.steps_per_epoch, self.step % self.save_every == 0
        if ended or saves or done % READ_EVERY == 0:
            trained = self._read(done)
            bar.set_postfix({name: f"{value:.4f}" for name, value in trained.items()})
        if ended:
            row = self._end_epoch(trained, validation, writer)
            with tqdm.external_write_mode():
                print(self._line(row), flush=True)
        elif saves:
            self._save()

    def _read(self, done: int) -> dict:
        """Reads the means of the epoch so far from the device; raises TrainingFailed if a step went wrong."""
        failed = int(self.optimizer.failed_step.numpy())
        if failed < 0:
            scale = self.optimizer.loss_scale
            counted = done - scale.skipped.numpy() if scale else done
            return dict(zip(self.task.figures, (self.totals.numpy() / max(counted, 1)).tolist()))
        # No new save here: from the very step before, the same step would only fail again.
        if not self.run.has_weights():
            with self.optimizer.averaged():
                self.run.save_weights(self.task.model)      # as they were before that step
        lower = f"--learning-rate {self.base_learning_rate / 2:g}"
        begin = f"begin again with a lower learning rate: {lower}"
        raise TrainingFailed(
            f"at step {failed} (epoch {failed // self.steps_per_epoch + 1}, learning rate {self.learning_rate:g}) the "
            f"loss or its gradient was no longer a finite number. The best weights so far are kept. To go on, "
            + (f"from the last save: {self.run.resume_command} {lower}; if that fails too, " if self.run.has_state()
               else "") + begin)

    def _end_epoch(self, trained: dict, validation, writer) -> dict:
        """Validates, keeps the best weights, halves the learning rate where nothing gets better; gives the row."""
        state, epoch = self.state, self.step // self.steps_per_epoch
        with self.optimizer.averaged():
            validated = self.task.evaluate(validation)
            better = validated["accuracy"] > state["best_accuracy"]
            if better:
                self.run.save_weights(self.task.model)
        self._look_at_clock()
        row = {"epoch": epoch, "step": self.step,
               "learning_rate": self.learning_rate * float(self.optimizer.schedule(self.step - 1)),
               **trained, **{f"val_{name}": value for name, value in validated.items()},
               "seconds": round(state["seconds"], 1), "cpu_seconds": round(state["cpu_seconds"], 1)}
        state["history"].append(row)
        if better:
            state["best_accuracy"], state["best_epoch"] = row["val_accuracy"], epoch
        elif self.halves and epoch - max(state["best_epoch"], state["halved_epoch"]) >= self.patience:
            state["halved_epoch"] = epoch
            state["learning_rate_scale"] = max(state["learning_rate_scale"] / 2,
                                               self.minimum_learning_rate / self.base_learning_rate)
            self.optimizer.learning_rate.assign(self.learning_rate)
        self.totals.assign(tf.zeros_like(self.totals))
        if self.optimizer.loss_scale:
            self.optimizer.loss_scale.skipped.assign(0.0)
        with writer.as_default(step=epoch):
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    tf.summary.scalar(name, value)
        writer.flush()
        self._save()
        self.run.write_history(state["history"])
        return row

    def _line(self, row: dict) -> str:
        """Says how an epoch went."""
        best = "  best" if self.state["best_epoch"] == row["epoch"] else ""
        left = row["seconds"] / row["epoch"] * (self.epochs - row["epoch"])
        return (f"epoch {row['epoch']:{len(str(self.epochs))}}/{self.epochs}  loss {row['loss']:.4f}  "
                f"accuracy {row['accuracy']:6.2%}  val_loss {row['val_loss']:.4f}  "
                f"val_accuracy {row['val_accuracy']:6.2%}  learning rate {row['learning_rate']:.2g}  "
                f"{duration(row['seconds'])}, {duration(left)} left{best}")

    def _waited_enough(self) -> bool:
        history = self.state["history"]
        return bool(0 < self.early_stopping <= len(history) - self.state["best_epoch"])

    def _look_at_clock(self) -> None:
        self.state["seconds"] = time.monotonic() - self._clock[0]
        self.state["cpu_seconds"] = time.process_time() - self._clock[1]

    def _tensors(self) -> dict:
        """Names every tensor that a resume needs."""
        return {**{f"weights/{name}": v for name, v in weights_by_name(self.task.model).items()},
                **{f"optimizer/{name}": v for name, v in self.optimizer.state.items()}, "totals": self.totals}

    def _save(self) -> None:
        self._look_at_clock()
        self.run.save_state({name: v.numpy() for name, v in self._tensors().items()},
                            {**self.state, "step": self.step})


class _CtrlC:
    """While entered, the first Ctrl-C is only noted in `pressed`; the second acts as ever."""

    def __enter__(self):
        self.pressed, self._main = False, threading.current_thread() is threading.main_thread()
        if self._main:                                  # Python tells no other thread of signals
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, *_):
        self.pressed = True
        signal.signal(signal.SIGINT, self._before)

    def __exit__(self, *_):
        if self._main:
            signal.signal(signal.SIGINT, self._before)


def duration(seconds: float) -> str:
    """Writes seconds as people say them: '42 s', '3 min 20 s', '5 h 20 min'."""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
