"""How many pictures a second of CPU trains, here and elsewhere, at the sizes of the default model: prints one table.

    python benchmarks/train_step.py                                     # ours and Keras's
    python benchmarks/train_step.py --torch-python OTHER/bin/python     # PyTorch's as well; OTHER is made by
        python -m venv OTHER && OTHER/bin/pip install torch timm vit-pytorch
    python benchmarks/train_step.py --rows sample                       # only rows of such names, beside the first

A step is all that training does with a batch in memory: forward, backward, update, figures. Pictures are 32 x 32 x 3,
in 64 patches; 8 blocks, 64 wide, 8 heads, MLP of 256; dropout is on (the recipe hybrid has sizes of its own). Each row
takes turns with ours, in a process of its own with one thread: with more, part of a CPU second is threads waiting for
each other, in PyTorch most.

FLOPs are those of the step's matrix products (see training_flops.py; in PyTorch its own counter's), and the limit that
they are a share of is a product of two 1,024 x 1,024 float32 matrices in TensorFlow, measured in turn like the rows.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

# TensorFlow and PyTorch are imported by who needs them: each is missing in the other's environment.

TURNS, SECONDS = 5, 2.0         # of each row; CPU seconds of a turn, or as long as a step takes
DROPOUT, LEARNING_RATE = 0.1, 0.001
BASE = "ours"                   # the row that others are compared with
LIMIT = "1,024 x 1,024 matrices"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")


def pictures(batch: int) -> tuple:
    """Makes random pictures, 0..255, and labels: no figure depends on what they show."""
    images = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3))
    return images.astype(np.float32), np.arange(batch) % 10


# ------------------------------------------------------------------------------------------ rows
# Each gives a function that makes one step, and the multiply-adds of that step.


def matrices(batch):
    """The limit: nothing but a matrix product."""
    import tensorflow as tf

    matrix = tf.random.normal((1024, 1024))
    return tf.function(lambda: tf.matmul(matrix, matrix)), 1024 ** 3


def ours(batch, *flags):
    """A step of train_cifar10.py with these flags, by the project's own loop."""
    import tensorflow as tf
    from training_flops import multiply_adds

    from vision_transformer import AdamW, Classification, Trainer
    from vision_transformer.architectures import build_model
    from vision_transformer.precision import set_precision
    from vision_transformer.recipes import with_recipe
    from vision_transformer.settings import read_settings

    c = with_recipe(read_settings(ROOT / "train_cifar10.py", flags))
    set_precision(c.PRECISION)
    model = build_model(image_shape=(32, 32, 3), num_classes=10, **c.below("model"))
    optimizer = AdamW(model.trainable_variables, c.LEARNING_RATE, statistics=model.non_trainable_variables,
                      **c.below("optimizer"))
    trainer = Trainer(Classification(model, batch_size=batch, **c.below("task")), optimizer, steps_per_epoch=1,
                      patience=c.PATIENCE, minimum_learning_rate=c.MINIMUM_LEARNING_RATE, **c.below("training"))
    data = tf.data.Dataset.from_tensors((np.int32(0), *pictures(batch)))
    step, tensors = trainer.train_step(data), next(iter(data))
    return lambda: step(*tensors), multiply_adds(step.get_concrete_function())


def sample(batch, keras_attention=""):
    """What the Microsoft sample computes, by Keras's fit and Adam."""
    import tensorflow as tf
    from training_flops import multiply_adds

    from vision_transformer.dry_run import until_training

    model, data = sample_model(keras_attention), tf.data.Dataset.from_tensors(pictures(batch)).repeat()
    training = until_training(lambda: model.fit(data, steps_per_epoch=10 ** 6, verbose=0, shuffle=False))
    return lambda: training.fit_step(training.batches), multiply_adds(training.functions()["train step"])


def sample_model(keras_attention=""):
    """The sample's model, compiled: a class token, dropout at 27 places, GELU behind all of an MLP's layers."""
    import tensorflow as tf
    from tensorflow import keras

    from vision_transformer.embedding import LearnedTokens, PositionEmbedding, extract_patches

    layers = keras.layers

    class Attention(layers.Layer):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value, self.projection = (layers.Dense(64) for _ in range(4))

        def call(self, x):
            query, key, value = (tf.transpose(tf.reshape(dense(x), (-1, 65, 8, 8)), (0, 2, 1, 3))
                                 for dense in (self.query, self.key, self.value))
            shares = tf.nn.softmax(tf.matmul(query, key, transpose_b=True) / 8 ** 0.5)
            return self.projection(tf.reshape(tf.transpose(tf.matmul(shares, value), (0, 2, 1, 3)), (-1, 65, 64)))

    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
            self.attention = layers.MultiHeadAttention(8, 8) if keras_attention else Attention()
            self.expand, self.contract = layers.Dense(256, tf.nn.gelu), layers.Dense(64, tf.nn.gelu)
            self.dropouts = [layers.Dropout(0.2) for _ in range(3)]

        def call(self, x, training=None):
            y = self.norms[0](x)
            y = self.attention(y, y) if keras_attention else self.attention(y)
            x = x + self.dropouts[0](y, training=training)
            y = self.dropouts[1](self.expand(self.norms[1](x)), training=training)
            return x + self.dropouts[2](self.contract(y), training=training)

    class Sample(keras.Model):
        def __init__(self):
            super().__init__()
            self.projection, self.token = layers.Dense(64), LearnedTokens()
            self.positions = PositionEmbedding(8, 8, 1, 64)
            self.blocks, self.norm = [Block() for _ in range(8)], layers.LayerNormalization(epsilon=1e-6)
            self.classifier = keras.Sequential([
                layers.Dense(512, tf.nn.gelu), layers.Dropout(0.2), layers.Dense(256, tf.nn.gelu), layers.Dropout(0.2),
                layers.Dense(10), layers.Dropout(0.25)])

        def call(self, images, training=None):
            x = self.positions(self.token(self.projection(extract_patches(images / 255, 4, 4))))
            for block in self.blocks:
                x = block(x, training=training)
            return self.classifier(self.norm(x)[:, 0], training=training)

    model = Sample()
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(), keras.metrics.SparseTopKCategoricalAccuracy(3)])
    return model


def timm(batch, compiled=""):
    """PyTorch: timm's VisionTransformer."""
    from timm.models import vision_transformer

    return torch_step(batch, compiled, vision_transformer.VisionTransformer(
        img_size=32, patch_size=4, num_classes=10, embed_dim=64, depth=8, num_heads=8, mlp_ratio=4, drop_rate=DROPOUT,
        proj_drop_rate=DROPOUT))


def vit_pytorch(batch, compiled=""):
    """PyTorch: vit-pytorch's ViT."""
    from vit_pytorch import ViT

    return torch_step(batch, compiled, ViT(image_size=32, patch_size=4, num_classes=10, dim=64, depth=8, heads=8,
                                           dim_head=8, mlp_dim=256, dropout=DROPOUT, emb_dropout=DROPOUT))


def torch_step(batch, compiled, model):
    """A PyTorch model's step, with AdamW."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    images, labels = map(torch.from_numpy, pictures(batch))
    images = images.permute(0, 3, 1, 2).contiguous() / 255
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)

    def step_of(model):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step_of(model)
    run = torch.compile(model) if compiled else model
    return lambda: step_of(run), counter.get_total_flops() // 2


LEARNED_2 = ("--token-learner", "v1.1", "--learned-tokens", "2", "--token-learner-after", "1")
NO_DROPOUT = ("--dropout", "0", "--classifier-dropout", "0")
ROWS = {                # what makes the step, its batch size, its options
    BASE: (ours, 512, ()),
    "ours, batch 128": (ours, 128, ()),
    "ours, XLA": (ours, 512, ("--xla",)),
    "ours, bfloat16": (ours, 512, ("--precision", "mixed_bfloat16")),
    "ours, no dropout": (ours, 512, NO_DROPOUT),
    "ours, no dropout, XLA": (ours, 512, (*NO_DROPOUT, "--xla")),
    "ours, mean pool": (ours, 512, ("--pool", "mean")),
    "ours, mean pool, 2 learned tokens": (ours, 512, ("--pool", "mean", *LEARNED_2)),
    "recipe hybrid": (ours, 256, ("--recipe", "hybrid")),
    "recipe hybrid, XLA": (ours, 256, ("--recipe", "hybrid", "--xla")),
    "recipe hybrid, bfloat16": (ours, 256, ("--recipe", "hybrid", "--precision", "mixed_bfloat16")),
    "sample, Keras's fit": (sample, 128, ()),
    "sample, Keras's fit, batch 512": (sample, 512, ()),
    "sample, Keras's attention": (sample, 128, ("Keras's attention",)),
    "timm": (timm, 128, ()),
    "timm, torch.compile": (timm, 128, ("compiled",)),
    "vit-pytorch": (vit_pytorch, 128, ()),
    LIMIT: (matrices, 1, ()),
}
TORCH = (timm, vit_pytorch)


# ------------------------------------------------------------------------------------------ one row's process
def serve(row: str) -> None:
    """Makes a row's step, says {"multiply_adds" per picture, "versions"}; then, at each line read, takes a turn."""
    make, batch, options = ROWS[row]
    with contextlib.redirect_stdout(sys.stderr):            # a recipe says what it replaces
        step, cost = make(batch, *options)
    for _ in range(2):
        step()
    say({"multiply_adds": cost / batch, "versions": versions()})
    for _ in sys.stdin:
        steps, began = 0, time.process_time()
        while time.process_time() - began < SECONDS:
            step()
            steps += 1
        say(batch * steps / (time.process_time() - began))


def say(something) -> None:
    """Tells the parent something."""
    print(json.dumps(something), flush=True)


def versions() -> str:
    """What this process has loaded of the libraries that are compared."""
    loaded = ((name, sys.modules.get(name)) for name in ("tensorflow", "keras", "torch", "timm"))
    return ", ".join(f"{name} {module.__version__}" for name, module in loaded if module)


class Child:
    """A row's process; its `facts` are None where it does not run here."""

    def __init__(self, row: str, python: str):
        self.process = subprocess.Popen(
            [python, __file__, "--serve", row], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
            stderr=subprocess.DEVNULL, env={**os.environ, **ONE_THREAD})
        self.facts = self.read()

    def end(self) -> None:
        """Ends the process; its memory is free for the next."""
        self.process.kill()
        self.process.communicate()

    def read(self):
        """Gives the next thing that the process says; None if it has ended."""
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def turn(self) -> float:
        """Has it measure once: pictures, or for the limit products, per CPU second."""
        print(file=self.process.stdin, flush=True)
        return self.read()


# ------------------------------------------------------------------------------------------ the table
def compare(rows, pythons) -> None:
    """Measures rows, each by turns with ours and the limit, and prints the table.

    No more than three processes at a time: each holds a gigabyte or three.
    """
    base, limit = Child(BASE, pythons[BASE]), Child(LIMIT, pythons[LIMIT])
    print("\n| one training step | batch | pictures per CPU second | against ours | GFLOPS | of the limit |\n"
          "|---|---|---|---|---|---|", flush=True)
    base_rates, limits, loaded = [], [], [base.facts["versions"]]
    for row in rows:
        child = Child(row, pythons[row])
        if child.facts is None:
            print(f"| {row} | does not run here: {pythons[row]} {__file__} --serve {row!r} shows why | | | | |")
            continue
        turns = [(child.turn(), base.turn(), limit.turn()) for _ in range(TURNS)]
        child.end()
        base_rates += [turn[1] for turn in turns]
        limits += [turn[2] for turn in turns]
        loaded.append(child.facts["versions"])
        print(line(row, ROWS[row][1], child.facts, turns, limit.facts), flush=True)
    print(line(BASE, ROWS[BASE][1], base.facts, list(zip(base_rates, base_rates, limits)), limit.facts))
    print(f"| {LIMIT} | | | | {gflops(limits, limit.facts):.0f} | |\n\n{'; '.join(dict.fromkeys(loaded))}")
    base.end()
    limit.end()


def gflops(rates: list, facts: dict) -> float:
    """Gives 10^9 floating-point operations per CPU second, of pictures or products per CPU second."""
    return 2e-9 * facts["multiply_adds"] * statistics.median(rates)


def line(row: str, batch: int, facts: dict, turns: list, limit_facts: dict) -> str:
    """Writes a row of the table; turns: (its rate, ours, the limit's), each taken one after the other."""
    rates, _, limits = zip(*turns)
    against = statistics.median(rate / ours for rate, ours, _ in turns)
    reached = gflops(rates, facts)
    return (f"| {row} | {batch} | {statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | "
            f"{against:.2f} | {reached:.0f} | {reached / gflops(limits, limit_facts):.0%} |")


def main() -> None:
    """Reads the command line; measures what can be measured here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", metavar="PATH", help="the Python that has torch, timm and vit-pytorch")
    parser.add_argument("--rows", metavar="TEXT", default="", help="measure only rows whose names contain this")
    parser.add_argument("--serve", metavar="ROW", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    from vision_transformer.installation import cpu_name

    pythons = {row: arguments.torch_python if make in TORCH else sys.executable for row, (make, *_) in ROWS.items()}
    rows = [row for row in ROWS if pythons[row] and arguments.rows in row and row not in (BASE, LIMIT)]
    print(f"{cpu_name()}, one thread; {platform.system()}, Python {platform.python_version()}; median (lowest to "
          f"highest) of {TURNS} turns.", flush=True)
    if not arguments.torch_python:
        print("Without PyTorch: --help says how to have it in.", flush=True)
    compare(rows, pythons)


if __name__ == "__main__":
    main()
