"""Schedules: the share of LEARNING_RATE that each training step uses.

    plateau     all of it; the Trainer halves the learning rate where validation gets no better
    constant    all of it, to the end
    cosine      down half a cosine wave (Loshchilov and Hutter, arXiv 1608.03983, without restarts)
    one-cycle   a straight line up, a longer one down (Smith and Topin, arXiv 1708.07120, with constant momentum)
    step        a tenth of it after 60 % of the way, a hundredth after 85 %

Before each goes a warm-up: a straight line up from near 0; the way begins behind it. One-cycle's own line up is that
warm-up.
"""
from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from .checks import check_whole, is_number, shown

ONE_CYCLE_RISE = 0.25               # share of training, where no warm-up is given
DROPS = (0.6, 0.85)                 # shares of the way; a tenth is left at each
HALVING = "plateau"                 # the one that goes by the validation accuracy
MOST_STEPS = 2 ** 31 - 1            # the step counter is an int32


class Schedule(NamedTuple):
    """Gives the factor of a step when called; see make_schedule."""

    name: str
    total_steps: int
    warmup_steps: int

    def __call__(self, step):
        """Gives the factor, a float32 scalar, for step 0, 1, 2, ... (an int32 scalar).

        On the host, where the step counter lives: made on a GPU, it would have to be fetched.
        """
        with tf.device("/CPU:0"), tf.name_scope("on_host"):
            step = tf.cast(step, tf.float32)
            factor = SCHEDULES[self.name](self, step)
            if self.warmup_steps:
                factor = tf.where(step < self.warmup_steps, (step + 1) / self.warmup_steps, factor)
            return factor

    def progress(self, step):
        """Gives the share done of what comes after the warm-up: 0 at its first step, 1 only when all is over."""
        return tf.clip_by_value((step - self.warmup_steps) / (self.total_steps - self.warmup_steps), 0.0, 1.0)


def _constant(schedule, step):
    return tf.ones_like(step)


def _cosine(schedule, step):
    return 0.5 * (1 + tf.cos(math.pi * schedule.progress(step)))


def _line_down(schedule, step):
    return 1 - schedule.progress(step)


def _drops(schedule, step):
    dropped = [tf.cast(schedule.progress(step) >= share, tf.float32) for share in DROPS]
    return tf.pow(0.1, tf.add_n(dropped))


SCHEDULES = {HALVING: _constant, "constant": _constant, "cosine": _cosine, "one-cycle": _line_down, "step": _drops}


def make_schedule(name: str, steps_per_epoch: int, epochs: int, warmup_epochs: float = 0.0) -> Schedule:
    """Makes the function step -> factor of the learning rate for a training of so many batches.

    warmup_epochs: how long the line up takes; for "one-cycle", 0 means a quarter of training. "cosine" and "one-cycle"
    end near 0.

    Raises:
        ValueError: an unknown name, or numbers that can't be.
    """
    if name not in SCHEDULES:
        raise ValueError(f"SCHEDULE {name!r} is not known; choose one of {', '.join(SCHEDULES)}.")
    check_whole("EPOCHS", epochs, 1, MOST_STEPS // steps_per_epoch)
    if not is_number(warmup_epochs) or not 0 <= warmup_epochs < epochs:
        raise ValueError(f"WARMUP_EPOCHS {shown(warmup_epochs)} doesn't fit EPOCHS {epochs}; choose from 0 to below "
                         f"{epochs}.")
    total_steps = steps_per_epoch * epochs
    if name == "one-cycle" and not warmup_epochs:
        warmup_epochs = ONE_CYCLE_RISE * epochs
    return Schedule(name, total_steps, min(int(warmup_epochs * steps_per_epoch), total_steps - 1))
