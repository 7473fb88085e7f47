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

import contextlib
import functools
import time

import tensorflow as tf
from tensorflow import keras
from tqdm import tqdm

from .checks import check_number, check_whole, is_number
from .interruption import Interruption
from .memory import enough_memory
from .messages import duration, one_line
from .precision import sees_directml
from .runs import weights_by_name
from .schedules import HALVING
from .steps import compiled_step, compiled_steps
from .storage import RunError, assign
from .tensorboard_log import TensorBoardLog

FIGURES = ("learning_rate", "loss", "accuracy", "val_loss", "val_accuracy")      # of an epoch, whatever the task
READ_EVERY = 20         # steps between looks at the device: each look waits for it, none lets its memory grow


class TrainingFailed(RuntimeError):
    """The loss or its gradient stopped being a finite number."""


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seeds the first weights; with `deterministic`, runs are also bit-equal on one machine and stack."""
    check_whole("SEED", seed, 0, 2 ** 31 - 1)
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
        save_minutes: minutes after which it is saved even so; 0: never for that.
        sam_rho: radius of sharpness-aware minimization, at twice the cost of a step; 0: none.
        steps_per_execution: steps made in one call of the compiled function, fewer where a save, a look at the device
            or the end of an epoch comes first.
        xla: the step is compiled by XLA.

    Raises:
        ValueError: a number below what makes sense, or XLA on a DirectML device.
    """

    def __init__(self, task, optimizer, *, steps_per_epoch: int, epochs: int, patience: int,
                 minimum_learning_rate: float, early_stopping: int, save_every: int, save_minutes: float = 0.0,
                 sam_rho: float = 0.0, steps_per_execution: int = 1, xla: bool = False):
        for name, value, least in (("EPOCHS", epochs, 1), ("PATIENCE", patience, 1), ("SAVE_EVERY", save_every, 1),
                                   ("EARLY_STOPPING", early_stopping, 0),
                                   ("STEPS_PER_EXECUTION", steps_per_execution, 1)):
            check_whole(name, value, least)             # however large: what would come then never does
        check_number("SAVE_MINUTES", save_minutes, 0, 10_000, ", where 0 is never")
        check_number("SAM_RHO", sam_rho, 0, 100, ", where 0 is none")
        check_number("MINIMUM_LEARNING_RATE", minimum_learning_rate, 0, 1000)
        if optimizer.accumulation_steps > epochs * steps_per_epoch:
            raise ValueError(f"ACCUMULATION_STEPS {optimizer.accumulation_steps} makes no update in EPOCHS {epochs} of "
                             f"{steps_per_epoch} batches; choose at most {epochs * steps_per_epoch}, or more epochs.")
        if xla and sees_directml():
            raise ValueError("XLA is true, but there is no XLA compiler for DirectML; set XLA to false.")
        self.task, self.optimizer = task, optimizer
        self.steps_per_epoch, self.epochs, self.patience = steps_per_epoch, epochs, patience
        self.minimum_learning_rate, self.early_stopping = minimum_learning_rate, early_stopping
        self.save_every, self.save_minutes, self.sam_rho = save_every, save_minutes, sam_rho
        self.steps_per_execution, self.xla = steps_per_execution, xla
        self.halves = optimizer.schedule.name == HALVING
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
            assign(run.path / "state.safetensors", tensors, self._tensors())
            try:
                self._go_on_from(state)
            except (AttributeError, ArithmeticError, KeyError, TypeError, ValueError) as error:
                raise RunError(f"{run.path / 'state.safetensors'} holds no state of this training: "
                               f"{one_line(error)[:300]}; begin a new run.") from error
            self._find_best()
            if self.state["history"]:
                run.write_history(self.state["history"])

    def _go_on_from(self, state: dict) -> None:
        """Takes in what was saved beside the tensors."""
        self.step, steps_per_epoch = int(state["step"]), int(state["steps_per_epoch"])
        self.state = {name: type(value)(state[name]) for name, value in self.state.items()}
        for row in self.state["history"]:
            if not all(is_number(row[name]) for name in ("epoch", "step", "seconds", *FIGURES)):
                raise ValueError("its history has a row without figures")
        if self.step < 0 or not 0 <= self.state["best_epoch"] <= len(self.state["history"]):
            raise ValueError(f"its step is {self.step}, its best epoch {self.state['best_epoch']}")
        if steps_per_epoch != self.steps_per_epoch:     # another batch size: go on at the same share of the epoch
            epochs, before = divmod(self.step, steps_per_epoch)
            done = before * self.steps_per_epoch // steps_per_epoch
            self.step = epochs * self.steps_per_epoch + done
            self.optimizer.rescale_counts(done / max(before, 1))
            self.totals.assign(self.totals * (done / max(before, 1)))
        self.optimizer.learning_rate.assign(self.learning_rate)

    def _find_best(self) -> None:
        """Holds what the state says of the best weights against those that are there."""
        state, done = self.state, len(self.state["history"])
        try:
            epoch, accuracy = self.run.best()
        except RunError as error:
            print(f"note: {error}", flush=True)
            epoch, accuracy = 0, -1.0
        if done < epoch <= self.epochs:     # killed just after weights were saved, before it was saved that they were
            state["best_epoch"], state["best_accuracy"] = epoch, accuracy
        elif not epoch and state["best_epoch"]:
            print("note: the best weights so far are lost; the best of the epochs to come will be kept", flush=True)
            state["best_epoch"], state["best_accuracy"] = done, -1.0

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
            KeyboardInterrupt: after Ctrl-C or SIGTERM, once the step is finished and saved; a second one doesn't wait.
            CannotWrite: no room or no permission for a save; the one before stays.
            MemoryError: a batch doesn't fit into the device's memory.
        """
        batch_size, resume = batches.element_spec[1].shape[0], self.run.resume_command
        self._clock = time.monotonic() - self.state["seconds"], time.process_time() - self.state["cpu_seconds"]
        self._saved_at = time.monotonic()
        log = TensorBoardLog(self.run.path / "tensorboard", self.state["history"])
        with tqdm(total=self.epochs * self.steps_per_epoch, initial=self.step, unit="step", leave=False,
                  dynamic_ncols=True, disable=None) as bar, contextlib.closing(log), \
                enough_memory(f"a step with BATCH_SIZE {batch_size}", "BATCH_SIZE, or the model's sizes"), \
                Interruption(f"stopped at once; to go on from the last save: {resume}") as interruption:
            for steps, make_them in self._executions(batches):      # bar's None: on a terminal only
                if self._waited_enough():
                    print(f"no better validation accuracy for {self.early_stopping} epochs: training ends early")
                    break
                make_them()
                self.step += steps
                bar.update(steps)
                self._after_step(bar, validation, log)
                if interruption.asked:
                    self._read((self.step - 1) % self.steps_per_epoch + 1)      # is all well with what is saved now?
                    self._save()
                    raise KeyboardInterrupt(f"stopped after step {self.step}; to go on: {resume}")

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

    def _after_step(self, bar, validation, log) -> None:
        """Looks at the device where it is time to, saves where it is time to, ends the epoch where it ends."""
        done = (self.step - 1) % self.steps_per_epoch + 1       # of this epoch
        ended, saves = done == self.steps_per_epoch, self.step % self.save_every == 0 or self._saved_long_ago()
        if ended or saves or done % READ_EVERY == 0:
            trained = self._read(done)
            bar.set_postfix({name: f"{value:.4f}" for name, value in trained.items()})
        if ended:
            row = self._end_epoch(trained, validation, log)
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
        rate = self.learning_rate * float(self.optimizer.schedule(failed))
        lower = f"--learning-rate {self.base_learning_rate / 2:g}"
        norm = self.optimizer.gradient_norm.numpy()
        before = f"the norm of the gradient before it was {norm:.4g}" if norm >= 0 else "no step was made before it"
        resume = f"from the last save: {self.run.resume_command} {lower}; if that fails too, "
        raise TrainingFailed(
            f"at step {failed} (epoch {failed // self.steps_per_epoch + 1}, learning rate {rate:.4g}) the loss or its "
            f"gradient was no longer a finite number; {before}. The best weights so far are kept. To go on, "
            f"{resume if self.run.has_state() else ''}begin again with a lower learning rate: {lower}, or with shorter "
            "gradients: --clip-norm 1")

    def _end_epoch(self, trained: dict, validation, log) -> dict:
        """Validates, keeps the best weights, halves the learning rate where nothing gets better; gives the row."""
        state, epoch = self.state, self.step // self.steps_per_epoch
        with self.optimizer.averaged():
            validated = self.task.evaluate(validation)
            better = validated["accuracy"] > state["best_accuracy"]
            if better:
                self.run.save_weights(self.task.model, epoch, validated["accuracy"])
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
            halved = max(state["learning_rate_scale"] / 2, self.minimum_learning_rate / self.base_learning_rate)
            state["learning_rate_scale"] = min(halved, state["learning_rate_scale"])    # a resume may raise the minimum
            self.optimizer.learning_rate.assign(self.learning_rate)
        self.totals.assign(tf.zeros_like(self.totals))
        if self.optimizer.loss_scale:
            self.optimizer.loss_scale.skipped.assign(0.0)
        self._save()
        self.run.write_history(state["history"])
        log.add(row)
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

    def _saved_long_ago(self) -> bool:
        return 0 < 60 * self.save_minutes <= time.monotonic() - self._saved_at

    def _save(self) -> None:
        self._look_at_clock()
        self.run.save_state({name: v.numpy() for name, v in self._tensors().items()},
                            {**self.state, "step": self.step, "steps_per_epoch": self.steps_per_epoch})
        self._saved_at = time.monotonic()
