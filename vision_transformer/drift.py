"""The same few train steps on the GPU and on the CPU: how far they drift apart, and whether rounding explains it.

A GPU adds in another order than a CPU, so the two never agree to the last bit. How much of that is normal is measured,
not guessed: the CPU trains twice, the second time with each first weight moved by its last bit.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from .batches import training_batches
from .classification import Classification
from .compat import raw
from .datasets import Split
from .model import VisionTransformer
from .optimizer import AdamW
from .training import Trainer

STEPS, BATCH_SIZE, CLASSES = 10, 64, 10
LAST_BIT = 2.0 ** -23                   # of a float32
# The CPUs of TensorFlow 2.10 and 2.21, whose kernels differ, are no farther apart than rounding's drift; an error of
# 0.001 in every first weight, about what TF32 and float16 make, drifts 0.04 in weights and 0.001 in losses.
ROUNDING = 30                           # times rounding's drift: another order of sums, another exp
HALF_PRECISION = {"weights": 0.1, "losses": 0.01}


class Drift(NamedTuple):
    """How far two trainings came apart: losses per step, and weights at the end."""

    losses: list        # |difference| / loss
    weights: float      # |difference| / how far the first one's weights moved, both as Euclidean lengths


class Steps(NamedTuple):
    """What a few train steps made."""

    losses: np.ndarray      # one per step
    before: np.ndarray      # all weights as one vector, before and after
    after: np.ndarray

    def drift(self, other: Steps) -> Drift:
        """Measures how far another training came apart from this one."""
        moved = np.linalg.norm(self.after - self.before)
        return Drift((np.abs(self.losses - other.losses) / self.losses).tolist(),
                     float(np.linalg.norm(self.after - other.after) / moved))


def judge(drift: Drift, rounding: Drift) -> tuple[bool, str]:
    """Tells whether the GPU's drift is normal, and what to make of it."""
    if not np.isfinite([*drift.losses, drift.weights]).all():
        return False, "WRONG: the GPU made a number that is not finite where the CPU didn't."
    pairs = {"weights": (drift.weights, rounding.weights), "losses": (max(drift.losses), max(rounding.losses))}
    what, (apart, by_rounding) = max(pairs.items(), key=lambda pair: pair[1][0] / pair[1][1])
    times = f"the GPU's {what} drift {apart / by_rounding:.1f} times what rounding alone does"
    if apart <= ROUNDING * by_rounding:
        return True, f"normal: {times}."
    if all(pairs[name][0] <= limit for name, limit in HALF_PRECISION.items()):
        return False, (f"NOT EXACT: {times}, as with half precision. With CUDA that is TF32, and harmless; DirectML "
                       "computes in float32, so there something is wrong.")
    return False, f"WRONG: {times}. Don't trust a training on it."


def report() -> bool:
    """Trains on the first GPU and on the CPU, prints how far they drift apart; tells whether it is normal.

    Raises:
        RuntimeError: TensorFlow sees no GPU.
    """
    if not tf.config.get_visible_devices("GPU"):
        raise RuntimeError("there is no GPU to compare with the CPU: TensorFlow sees none; see what the command doctor "
                           "says without --compare.")
    print(f"{STEPS} steps on the CPU ...", flush=True)
    cpu = train_on("/CPU:0")
    print("the same, each first weight moved by its last bit ...", flush=True)
    rounding = cpu.drift(train_on("/CPU:0", moved_by_last_bit(cpu.before)))
    print("the same on the GPU ...", flush=True)
    gpu = train_on("/GPU:0", cpu.before)
    drift = cpu.drift(gpu)
    print(f"\n{'step':>4}  {'loss on CPU':>11}  {'loss on GPU':>11}  {'apart':>7}  {'rounding alone':>14}")
    for step, row in enumerate(zip(cpu.losses, gpu.losses, drift.losses, rounding.losses), 1):
        print("{:>4}  {:>11.6f}  {:>11.6f}  {:>7.0e}  {:>14.0e}".format(step, *row))
    normal, verdict = judge(drift, rounding)
    print(f"weights, apart as a share of how far they moved: {drift.weights:.0e}, "
          f"by rounding alone {rounding.weights:.0e}\n\n{verdict}")
    return normal


def train_on(device: str, first_weights=None) -> Steps:
    """Trains the default model, dropout included, on seeded pictures on a device such as "/CPU:0"."""
    rng = np.random.default_rng(0)
    labels = np.arange(STEPS * BATCH_SIZE) % CLASSES
    pixels = rng.integers(0, 256 - 8 * CLASSES, (len(labels), 32, 32, 3)) + 8 * labels[:, None, None, None]
    batches = training_batches(Split(pixels.astype(np.uint8), labels), batch_size=BATCH_SIZE, epochs=1, seed=0)
    with tf.device(device):
        keras.utils.set_random_seed(0)
        model = VisionTransformer(image_shape=(32, 32, 3), num_classes=CLASSES, dropout=0.1, classifier_dropout=0.1)
        variables = [raw(v) for v in model.trainable_variables]
        if first_weights is not None:
            sizes = np.cumsum([v.shape.num_elements() for v in variables])
            for variable, values in zip(variables, np.split(first_weights, sizes)):
                variable.assign(values.reshape(variable.shape))
        before = _flat(variables)
        trainer = Trainer(Classification(model, 3, BATCH_SIZE), AdamW(variables, 0.001), steps_per_epoch=STEPS,
                          epochs=1, patience=1, minimum_learning_rate=0.0, early_stopping=0, save_every=STEPS)
        step, losses = trainer.train_step(batches), []
        for batch in batches:
            trainer.totals.assign(tf.zeros_like(trainer.totals))
            step(*batch)
            losses.append(trainer.totals.numpy()[0])
    return Steps(np.array(losses), before, _flat(variables))


def moved_by_last_bit(weights: np.ndarray) -> np.ndarray:
    """Moves each weight by its last bit, up or down."""
    return weights * (1 + LAST_BIT * np.random.default_rng(1).choice(np.float32([-1, 1]), weights.shape))


def _flat(variables) -> np.ndarray:
    return np.concatenate([v.numpy().ravel() for v in variables])
