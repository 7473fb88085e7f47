"""Images per second of the input pipeline, the train step and inference, and which of them is slow.

A script is run up to where it would train; then each part works alone, warm, and the first two together, as they train.
"""
from __future__ import annotations

import argparse
import math
import statistics
import time
from typing import NamedTuple

import tensorflow as tf

from .. import devices
from ..batches import evaluation_batches
from ..dry_run import Training, dry_run
from ..settings import flag_of
from ..training import READ_EVERY, Trainer

STRETCHES = 5           # of time, each with its own rate, so that the spread is seen
MARGIN = 0.1            # a part limits if it is slower than the other by more than this share
OVERLAP = 0.8           # of the slower part's rate: a GPU's training below it loses time between the two parts
AUGMENTATIONS = ("FLIP_HORIZONTAL", "FLIP_VERTICAL", "ROTATION", "SHEAR", "ZOOM", "TRANSLATION", "CONTRAST",
                 "BRIGHTNESS", "SATURATION", "HUE", "ERASING", "POLICY", "MIXUP", "CUTMIX")


def add_arguments(parser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="time for each part (default 4)")
    parser.add_argument("script", metavar="RUN-or-SCRIPT", help="a run folder, or a script such as train_cifar10.py")
    parser.add_argument("flags", metavar="FLAG", nargs=argparse.REMAINDER,
                        help="the script's own flags, such as --batch-size 128; they come last")


def run(arguments) -> int:
    """Measures, prints a table and what it means."""
    if not 0 < arguments.seconds < math.inf:
        raise ValueError(f"--seconds {arguments.seconds:g} is no time to measure for; choose a number above 0.")
    training = dry_run(arguments.script, arguments.flags)
    if not isinstance(training.owner, Trainer):
        raise ValueError(f"{arguments.script} trains by keras.Model.fit, which benchmark can't take apart; it measures "
                         "scripts that train by vision_transformer.Trainer, as train_cifar10.py does.")
    print(header(training), flush=True)
    starts, speeds = measure_parts(training, arguments.seconds)
    print(f"\n\n{table(speeds)}\n\nstart-up: " + ", ".join(f"first {part} {figure(s)} s" for part, s in starts.items()))
    print(epoch_line(training, speeds) + "\n")
    print("\n".join(verdict(speeds, training.constants, bool(tf.config.get_visible_devices("GPU")), arguments.script)))
    return 0


def header(training: Training) -> str:
    """Says what runs the measurement, and on what."""
    versions = devices.versions()
    size, height, width, channels = training.batches.element_spec[1].shape
    device = devices.describe_device().replace("\n", "\n" + " " * 10)
    return (f"device    {device}\n"
            f"versions  Python {versions['python']}, TensorFlow {versions['tensorflow']}, Keras {versions['keras']}\n"
            f"batch     {size} pictures of {height}x{width}x{channels}")


# ------------------------------------------------------------------------------------------ measuring
class Speed(NamedTuple):
    """How fast one part is, in images."""

    stretches: list             # per second of the clock, one for each stretch of time
    per_cpu_second: float       # per second of one CPU core, all threads counted

    @property
    def median(self) -> float:
        """The middle of the stretches."""
        return statistics.median(self.stretches)


def measure(one_batch, wait, batch_size: int, seconds: float) -> Speed:
    """Measures `one_batch`, a function that works on batch_size images, for so many seconds after a warm-up.

    wait: a function that returns once the device has done all. A GPU goes on while Python is already at the next batch,
    so a stretch ends with it, and between two calls lie no more than READ_EVERY batches, as in a training.
    """
    warm = [_stretch(one_batch, wait, seconds / STRETCHES) for _ in range(1 + STRETCHES)][1:]
    cpu_seconds = max(sum(cpu for _, _, cpu in warm), 0.001)            # Windows counts in ticks of 16 ms: maybe none
    return Speed([batches * batch_size / clock for batches, clock, _ in warm],
                 sum(batches for batches, _, _ in warm) * batch_size / cpu_seconds)


def _stretch(one_batch, wait, seconds):
    """Gives the whole batches done, one at least, and the seconds they took: the clock's and the CPU's."""
    batches, clock, cpu = 0, time.perf_counter(), time.process_time()
    while not batches or time.perf_counter() - clock < seconds:
        one_batch()
        batches += 1
        if batches % READ_EVERY == 0:
            wait()
    wait()
    return batches, time.perf_counter() - clock, time.process_time() - cpu


def measure_parts(training: Training, seconds: float) -> tuple:
    """Gives {part: seconds its first batch took} and {part: Speed}; prints each part's name as it begins."""
    trainer, batches = training.owner, training.batches
    task, step, wait = trainer.task, trainer.train_step(batches), trainer.totals.numpy
    pictures, _ = next(iter(evaluation_batches(training.validation.images, task.batch_size)))
    print("measuring start-up", end="", flush=True)
    batch, first_batch = _timed(lambda: next(iter(batches)))
    _, first_step = _timed(lambda: (step(*batch), wait()))
    _, first_inference = _timed(lambda: task.predict_step(pictures).numpy())
    parts = {
        "pipeline": lambda stream: next(stream),
        "train step": lambda stream: step(*batch),
        "together": lambda stream: step(*next(stream)),
        "inference": lambda stream: task.predict_step(pictures).numpy(),
    }
    speeds = {}
    for name, part in parts.items():
        print(f", {name}", end="", flush=True)
        stream = iter(batches.repeat())     # each part its own: none makes pictures while another is measured
        speeds[name] = measure(lambda part=part, stream=stream: part(stream), wait, task.batch_size, seconds)
    return {"batch": first_batch, "train step": first_step, "inference": first_inference}, speeds


def _timed(function) -> tuple:
    begin = time.perf_counter()
    return function(), time.perf_counter() - begin


# ------------------------------------------------------------------------------------------ what it means
def table(speeds) -> str:
    """Lays out {part: Speed}, a line each."""
    lines = [f"{'images per second':17} {'median':>9} {'lowest':>9} {'highest':>9} {'per CPU second':>15}"]
    for part, speed in speeds.items():
        lines.append(f"{part:17} {figure(speed.median):>9} {figure(min(speed.stretches)):>9} "
                     f"{figure(max(speed.stretches)):>9} {figure(speed.per_cpu_second):>15}")
    return "\n".join(lines)


def figure(value: float) -> str:
    """Writes a rate or a time with at least two digits that count: '24,310', '3.2', '0.021'."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def epoch_line(training: Training, speeds) -> str:
    """Says how long an epoch takes at these speeds."""
    trained = training.owner.steps_per_epoch * training.owner.task.batch_size
    validated = len(training.validation)
    return (f"an epoch: about {figure(trained / speeds['together'].median)} s for {trained:,} training pictures, "
            f"{figure(validated / speeds['inference'].median)} s for {validated:,} validation pictures")


def verdict(speeds, constants, on_gpu: bool, script: str) -> list:
    """Gives lines: which part limits a training, and what to change.

    The slower one alone limits: without the other, a training could be no faster than it. On a GPU they hardly disturb
    each other; on a CPU the faster one takes time from the slower.
    """
    pipeline, step, together = (speeds[part].median for part in ("pipeline", "train step", "together"))
    lines, slower = [], min(pipeline, step)
    if not on_gpu:
        costs = [1 / speeds[part].per_cpu_second for part in ("pipeline", "train step")]
        lines.append(f"pipeline and train step share the CPU: {costs[0] / sum(costs):.0%} of its time goes to pictures")
    if pipeline < (1 - MARGIN) * step:
        lines += ["the input pipeline limits" + on_gpu * f": the GPU could train {step / together:.1f} times as fast",
                  *_pipeline_advice(constants, on_gpu)]
    elif step < (1 - MARGIN) * pipeline:
        lines += ["the train step limits", *_step_advice(constants, on_gpu, script)]
    else:
        lines += [f"neither limits: pipeline and train step are within {MARGIN:.0%} of each other",
                  *_pipeline_advice(constants, on_gpu), *_step_advice(constants, on_gpu, script)]
    if on_gpu and together < OVERLAP * slower:
        lines += [f"together they reach only {together / slower:.0%} of the slower one alone: a step needs the CPU too",
                  "  to start kernels, and for ops that leave the GPU; more CPU cores help"]
    return lines


def _pipeline_advice(constants, on_gpu) -> list:
    on = {name: constants[name] for name in AUGMENTATIONS if constants.get(name)}
    if not on:
        return ["  no augmentation is on: what is left is shuffling, batching and converting"]
    shown = {name: value if isinstance(value, str) else f"{value:g}" for name, value in on.items()}
    first = next(iter(on))
    off = "=" if isinstance(on[first], str) else " 0"          # not '': cmd.exe would pass the two quotes
    lines = [f"  augmentations on: {', '.join(f'{name} {value}' for name, value in shown.items())}",
             f"  what one costs: this command again without it, e.g. with {flag_of(first)}{off}"]
    return [*lines, "  more CPU cores make more pictures"] if on_gpu else lines


def _step_advice(constants, on_gpu, script) -> list:
    lines = ["  a smaller model is faster: NUMBER_OF_LAYERS, EMBEDDING_DIM, MLP_HIDDEN_DIM",
             "  so are fewer tokens: a larger PATCH_STRIDE"]
    dropout = [name for name in ("DROPOUT", "CLASSIFIER_DROPOUT") if constants.get(name)]
    if dropout:
        flags = " ".join(f"{flag_of(name)} 0" for name in dropout)
        lines.append(f"  dropout is on: what it costs, this command tells with {flags}")
    if on_gpu:
        lines += ["  a larger BATCH_SIZE keeps a GPU busier, as far as its memory goes",
                  f"  ops that leave a DirectML GPU: python -m vision_transformer doctor --ops {script}"]
    return lines
