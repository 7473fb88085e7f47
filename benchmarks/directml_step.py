"""What a step costs on a DirectML device, for each option: prints the table that docs/directml.md shows.

    bash emulator/build.sh && .venv-emulator/bin/python benchmarks/directml_step.py

Counts, not times: the emulated device runs TensorFlow's own placement over the real plugin's kernels, in host memory.
Each row is counted once warm, over steps with new data.
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

from vision_transformer import datasets
from vision_transformer import model as models
from vision_transformer.dry_run import Training, dry_run, until_training

BATCH = 128
OURS = (            # flags of train_cifar10.py
    "", "--pool cls", "--pool mean", "--patch-stride 2", "--dropout 0 --classifier-dropout 0",
    "--number-of-layers 4 --embedding-dim 96 --num-heads 6")
KERAS = {           # what tutorials do, at the sizes of the default model
    "VisionTransformer, Keras's fit and Adam": lambda: fit(ours(), "adam", BATCH),
    "VisionTransformer, Keras's fit and Adam, unknown batch": lambda: fit(ours(), "adam", None),
    "VisionTransformer, Keras's fit and Adam with a schedule": lambda: fit(ours(), scheduled_adam(), BATCH),
    "Keras's layers, fit and Adam": lambda: fit(keras_layers(BATCH), "adam", BATCH),
    "Keras's layers, fit and Adam, unknown batch": lambda: fit(keras_layers(None), "adam", None),
}
PREDICT = "evaluate, predict"
FUSED = "`train_cifar10.py`, LayerNormalization's fused kernel"
HEAD = ("| step of 128 pictures | kernels | compilations | GPU stops | ops on the CPU |\n|---|---|---|---|---|")


def rows():
    """Gives the name of each row."""
    # Last what changes TensorFlow for good.
    return [*map(row_name, OURS), FUSED, PREDICT, *KERAS, row_name("--deterministic")]


def row_name(flags: str) -> str:
    """Names the row of a training with these flags."""
    return f"`train_cifar10.py{' ' * bool(flags)}{flags}`"


def measure(name: str) -> str:
    """Counts one row and writes it as a line of the table."""
    if name in KERAS:
        training = KERAS[name]()
        return line(name, lambda: training.fit_step(training.batches))
    flags = "" if name in (PREDICT, FUSED) else name.strip("`").partition(" ")[2]
    epsilon = 1.01e-5 if name == FUSED else models.LAYER_NORM_EPSILON       # from here on Keras 2.10 fuses
    with mock.patch.object(datasets, "load_dataset", lambda *_: pictures()), \
            mock.patch.object(models, "LAYER_NORM_EPSILON", epsilon):
        training = dry_run(ROOT / "train_cifar10.py", ["--batch-size", str(BATCH), *flags.split()])
    if name == PREDICT:
        images = pictures().test.images[:BATCH]
        return line(name, lambda: training.owner.task.predict_step(images).numpy())
    step, batches = training.owner.train_step(training.batches), iter(training.batches)
    return line(name, lambda: step(*next(batches)))


def line(name, function) -> str:
    """Counts a function and writes it as a line of the table."""
    on_cpu = counters.cpu_ops(function)                 # first: the function must not have run before
    counts = counters.count(function, warm_up=3, times=4)
    left = ", ".join(f"{n} {op}" for op, n in on_cpu.most_common(3)) + ", ..." * (len(on_cpu) > 3)
    cpu = left or "0"
    return f"| {name} | {counts.kernels:,} | {counts.compilations:g} | {counts.device_to_host:g} | {cpu} |"


# ------------------------------------------------------------------------------------------ what is counted
def pictures() -> datasets.Dataset:
    """Makes random pictures in CIFAR-10's shape: no count depends on what they show."""
    rng = np.random.default_rng(0)

    def split(number):
        return datasets.Split(rng.integers(0, 256, (number, 32, 32, 3)).astype(np.uint8), np.arange(number) % 10)

    return datasets.Dataset("random", split(20 * BATCH), split(BATCH), tuple(map(str, range(10))))


def ours():
    """The default model."""
    return models.VisionTransformer(image_shape=(32, 32, 3), num_classes=10, dropout=0.1, classifier_dropout=0.1)


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
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}\n\n{HEAD}")
    for row in rows():
        print(measure(row), flush=True)
