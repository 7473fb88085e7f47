"""What a step costs on a DirectML device, for each option: prints the tables that docs/directml.md shows.

    bash emulator/build.sh && .venv-emulator/bin/python benchmarks/directml_step.py

Counts, not times: the emulated device runs TensorFlow's own placement over the real plugin's kernels, in host memory.
Each row is counted once warm, over steps with new data. A small batch does: how many pictures there are in it changes
the work of a kernel, not their number.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "emulator")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import counters
import numpy as np
import tensorflow as tf
from tensorflow import keras
from tensorflow.python.framework.config import disable_op_determinism  # has no public name

from vision_transformer import datasets, report
from vision_transformer.dry_run import Training, dry_run, until_training
from vision_transformer.model import VisionTransformer
from vision_transformer.precision import set_precision
from vision_transformer.steps import compiled_steps

BATCH = 8
OURS = {            # flags of train_cifar10.py
    "Model options": (
        "", "--embedding convolution", "--patch-stride 2", "--embedding shifted", "--embedding hybrid",
        "--embedding hybrid --stem-depth 2", "--embedding hybrid --whitening",
        "--embedding hybrid --mirrored-filters", "--embedding compact", "--positions sincos", "--positions none",
        "--register-tokens 4", "--attention locality", "--norm post", "--layer-scale 0.0001",
        "--stochastic-depth 0.1", "--dropout 0 --classifier-dropout 0", "--token-learner v1", "--token-learner v1.1",
        "--token-learner v1.1 --learned-tokens 2 --token-learner-after 1", "--pool cls",
        "--pool mean", "--pool sequence", "--classifier linear", "--architecture resnet",
        "--number-of-layers 4 --embedding-dim 96 --num-heads 6", "--size tiny", "--recipe compact",
        "--recipe hybrid", "--recipe hybrid-large"),
    "Training options": (
        "--schedule cosine --warmup-epochs 5", "--schedule one-cycle", "--schedule step", "--muon",
        "--weight-decay 0.05", "--label-smoothing 0.1", "--mixup 0.2 --cutmix 1", "--average 0.999", "--clip-norm 1",
        "--accumulation-steps 2", "--sam-rho 0.05", "--steps-per-execution 2", "--precision mixed_float16",
        "--deterministic"),
}
PREDICT = "the default model, evaluate or predict"
KERAS = {           # what tutorials do, at the sizes of the default model
    "VisionTransformer, Keras's fit and Adam": lambda: fit(ours(), "adam", BATCH),
    "VisionTransformer, Keras's fit and Adam, unknown batch": lambda: fit(ours(), "adam", None),
    "VisionTransformer, Keras's fit and Adam with a schedule": lambda: fit(ours(), scheduled_adam(), BATCH),
    "Keras's layers, fit and Adam": lambda: fit(keras_layers(BATCH), "adam", BATCH),
    "Keras's layers, fit and Adam, unknown batch": lambda: fit(keras_layers(None), "adam", None),
}
TABLES = {**OURS, "For comparison": (PREDICT, *KERAS)}
HEAD = "kernels | compilations | GPU stops | ops on the CPU |\n|---|---|---|---|---|"
LOOP = ("Enter", "Exit", "LoopCond", "Merge", "NextIteration", "Switch")        # carry a loop's counter, on the CPU


def measure(name: str) -> str:
    """Counts one row, named as in TABLES, and writes it as a line of its table."""
    if name in KERAS:
        set_precision("float32")                        # whatever the row before left
        training = KERAS[name]()
        return line(name, lambda: training.fit_step(training.batches))
    flags = "" if name == PREDICT else name
    with mock.patch.object(datasets, "load_dataset", lambda **_: pictures()), mock.patch.object(report, "announce"):
        training = dry_run(ROOT / "train_cifar10.py", ["--batch-size", str(BATCH), *flags.split()])
    trainer, batches = training.owner, iter(training.batches)
    if name == PREDICT:
        images = pictures().test.images[:BATCH]
        return line(name, lambda: trainer.task.predict_step(images).numpy())
    step, at_once = trainer.train_step(training.batches), trainer.steps_per_execution
    shown = f"`{flags}`" if flags else name or "none"
    if at_once > 1:
        steps = compiled_steps(step, training.batches)
        row = line(shown, lambda: steps(batches, tf.constant(at_once)), at_once)
    else:
        row = line(shown, lambda: step(*next(batches)))
    disable_op_determinism()
    return row


def line(shown, function, steps: int = 1) -> str:
    """Counts a function that makes so many steps, and writes the counts of one as a line of the table."""
    on_cpu = counters.cpu_ops(function)                 # first: the function must not have run before
    counts = counters.count(function, warm_up=1, times=2)
    left = [f"{n} {op}" for op, n in on_cpu.most_common() if steps == 1 or op not in LOOP]
    cpu = ", ".join(left[:3]) + ", ..." * (len(left) > 3) or "0"
    return (f"| {shown} | {counts.kernels / steps:,g} | {counts.compilations / steps:g} | "
            f"{counts.device_to_host / steps:g} | {cpu} |")


# ------------------------------------------------------------------------------------------ what is counted
def pictures() -> datasets.Dataset:
    """Makes random pictures in CIFAR-10's shape: no count depends on what they show."""
    rng = np.random.default_rng(0)

    def split(number):
        return datasets.Split(rng.integers(0, 256, (number, 32, 32, 3)).astype(np.uint8), np.arange(number) % 10)

    return datasets.Dataset("random", split(400), split(BATCH), tuple(map(str, range(10))))


def ours():
    """The default model."""
    return VisionTransformer(image_shape=(32, 32, 3), num_classes=10, dropout=0.1, classifier_dropout=0.1)


def keras_layers(batch):
    """The same sizes in Keras's own layers: MultiHeadAttention, Dropout, an Embedding that is looked up."""
    layers = keras.layers
    images = keras.Input((32, 32, 3), batch_size=batch)
    x = layers.Reshape((64, 48))(layers.Permute((1, 3, 2, 4, 5))(layers.Reshape((8, 4, 8, 4, 3))(images)))
    x = layers.Dense(64)(x) + layers.Embedding(64, 64)(tf.range(64))
    for _ in range(8):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = x + layers.Dropout(0.1)(layers.MultiHeadAttention(8, 8)(y, y))
        y = layers.Dense(256, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(x))
        x = x + layers.Dropout(0.1)(layers.Dense(64)(y))
    x = layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(x))
    x = layers.Dropout(0.1)(layers.Dense(256, activation="gelu")(x))
    return keras.Model(images, layers.Dense(10)(x))


def scheduled_adam():
    """Keras's Adam with another learning rate at each step."""
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.001, 1000))


def fit(model, optimizer, batch) -> Training:
    """What keras.Model.fit would run; a batch of None is one whose size Keras doesn't know."""
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    train = pictures().train
    batches = tf.data.Dataset.from_tensor_slices((train.images.astype(np.float32), train.labels))
    batches = batches.batch(BATCH, drop_remainder=batch is not None).repeat()
    return until_training(lambda: model.fit(batches, steps_per_epoch=1000, verbose=0))


if __name__ == "__main__":
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}")
    for title, rows in TABLES.items():
        print(f"\n### {title}\n\n| {'flags of `train_cifar10.py`' * (title in OURS)} | {HEAD}")
        for row in rows:
            print(measure(row), flush=True)
