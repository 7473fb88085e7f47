"""TensorFlow's rows of pipeline.py: this project, its heaviest op alone, Keras's layers.

Each takes uint8 pictures (B, H, W, C) and a list's amounts by name, and gives an iterator of batches, without end, and
the names of what it lacks; no iterator where it lacks all.
"""
from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import tensorflow as tf
from tensorflow import keras

import data_augmentations
from vision_transformer import moves
from vision_transformer.batches import training_batches
from vision_transformer.datasets import Split
from vision_transformer.mixing import make_mixing

CLASSES = 10


def ours(images, amounts):
    """The pipeline of a training, one batch at a time."""
    images = np.tile(images, (20, 1, 1, 1))
    mix = make_mixing(CLASSES, **{name: amounts.pop(name) for name in ("mixup", "cutmix") if name in amounts})
    no_prefetch = mock.patch.object(tf.data.Dataset, "prefetch", lambda dataset, _: dataset)
    with mock.patch.object(tf.data, "AUTOTUNE", None), no_prefetch:     # nothing is made ahead, in another row's turn
        batches = training_batches(
            Split(images, np.arange(len(images)) % CLASSES), batch_size=len(images) // 20, epochs=10 ** 6, seed=0,
            mix=mix, alternating_flip=amounts.pop("alternating_flip", False),
            augment=data_augmentations.augmentation(**amounts))
    return (batch for _, batch, _ in batches), set()


def our_transforms(images, amounts):
    """The same without the rest of the pipeline."""
    augment = data_augmentations.augmentation(**amounts)
    steps = tf.data.Dataset.from_tensors(images).repeat().enumerate()
    return iter(steps.map(lambda step, batch: augment(batch, (0, tf.cast(step, tf.int32))))), set()


def resampling(images, amounts):
    """TensorFlow's op for turns, from floats to floats."""
    images = tf.constant(images, tf.float32)
    degrees = tf.linspace(-1.0, 1.0, len(images)) * amounts["rotation"]
    turn = tf.function(lambda: moves.transform(images, moves.rotation_matrices(degrees)))
    return (turn() for _ in itertools.count()), set()


def keras_layers(images, amounts):
    """Keras's preprocessing layers, on whole batches."""
    values = {"value_range": (0, 255)}
    table = {
        "flip_horizontal": ("RandomFlip", lambda _: {"mode": "horizontal"}),
        "flip_vertical": ("RandomFlip", lambda _: {"mode": "vertical"}),
        "zoom": ("RandomZoom", lambda a: {"height_factor": a}),
        "rotation": ("RandomRotation", lambda a: {"factor": a / 360}),
        "shear": ("RandomShear", lambda a: {"x_factor": np.tan(np.radians(a)), "y_factor": np.tan(np.radians(a))}),
        "translation": ("RandomTranslation", lambda a: {"height_factor": a, "width_factor": a}),
        "contrast": ("RandomContrast", lambda a: {"factor": a}),
        "brightness": ("RandomBrightness", lambda a: {"factor": a, **values}),
        "saturation": ("RandomSaturation", lambda a: {"factor": (0.5 - a / 2, 0.5 + a / 2), **values}),
        "hue": ("RandomHue", lambda a: {"factor": a, **values}),
        "erasing": ("RandomErasing", lambda a: {"factor": a, "scale": data_augmentations.ERASED_AREA, **values}),
        "policy": ("RandAugment", lambda _: {"num_ops": amounts["policy_operations"],
                                             "factor": amounts["policy_strength"] / 30, **values}),
        "mixup": ("MixUp", lambda a: {"alpha": a}),
        "cutmix": ("CutMix", lambda a: {"factor": a}),
    }
    has = {name: table[name] for name in amounts if name in table and hasattr(keras.layers, table[name][0])}
    layers = [getattr(keras.layers, layer)(**arguments(amounts[name])) for name, (layer, arguments) in has.items()]
    labels = tf.one_hot(np.arange(len(images)) % CLASSES, CLASSES)

    def augment(batch):
        batch = tf.cast(batch, tf.float32)
        for layer in layers:
            if type(layer).__name__ in ("MixUp", "CutMix"):
                batch = layer({"images": batch, "labels": labels}, training=True)["images"]
            else:
                batch = layer(batch, training=True)
        return batch

    batches = iter(tf.data.Dataset.from_tensors(images).repeat().map(augment)) if layers else None
    return batches, (table.keys() & amounts.keys()) - has.keys()
