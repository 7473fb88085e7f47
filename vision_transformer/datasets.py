"""Datasets: raw files -> uint8 pictures, int64 labels and class names, and the seeded validation split."""
from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from .checks import is_number, shown
from .cifar import CIFAR10, CIFAR100, read_cifar, refusing

DIGITS_TEST_SEED = 0           # not the run's seed: every run must meet the same test pictures


@dataclass(frozen=True, eq=False)      # arrays have no single truth value to compare by
class Split:
    """Pictures, uint8 (n, H, W, C) from 0 to 255, and their labels, int64 (n,)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Returns the number of pictures, n."""
        return len(self.labels)

    def pixel_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns each channel's mean and standard deviation over all pixels, on the scale 0..255."""
        def mean(pictures):         # over pictures first: numpy is slow along rows of C numbers
            return pictures.mean(axis=0).mean(axis=(0, 1))

        # Squares fit into 16 bits: no copy of all pictures in floats.
        return mean(self.images), np.sqrt(mean(np.square(self.images, dtype=np.uint16)) - mean(self.images) ** 2)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named training and test split; label k means `class_names[k]`."""

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Returns the number of classes, K."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Returns one picture's height and width in pixels and its number of channels."""
        return self.train.images.shape[1:]

    @property
    def fingerprint(self) -> str:
        """Returns 16 hex digits that change with any name, shape, pixel or label: what data a run saw."""
        arrays = [array for split in (self.train, self.test) for array in (split.images, split.labels)]
        digest = hashlib.sha256(json.dumps([self.name, self.class_names, [a.shape for a in arrays]]).encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()[:16]


def split_validation(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Splits n pictures into n - v for training and v = ceil(share * n) for validation, stratified by label.

    Raises ValueError unless every class is sure of a picture in both.
    """
    if not is_number(share) or not 0 < share < 1:
        raise ValueError(f"VALIDATION_SHARE {shown(share)} is not between 0 and 1: choose one such as 0.1.")
    size = math.ceil(share * len(split))
    rarest = min(np.unique(split.labels, return_counts=True)[1], default=0)
    if rarest * min(size, len(split) - size) < max(len(split), 1):
        raise ValueError(f"VALIDATION_SHARE {share} of {len(split)} pictures may leave a part without "
                         f"the rarest class ({rarest} pictures): choose one nearer to 0.5 or add pictures.")
    parts = train_test_split(np.arange(len(split)), test_size=size, stratify=split.labels, random_state=seed)
    return tuple(Split(split.images[part], split.labels[part]) for part in parts)


def _split(*batches):
    """Joins (images, labels) pairs, labels of shape (n,) or (n, 1), into a Split."""
    images, labels = zip(*batches)
    labels = np.concatenate(labels).astype(np.int64).reshape(-1)
    return Split(np.ascontiguousarray(np.concatenate(images)), labels)


def _load_cifar(layout, data_dir):
    with refusing(layout, data_dir or "Keras's download to ~/.keras/datasets"):
        if data_dir:
            train, test, class_names = read_cifar(layout, data_dir)
            return Dataset(layout.name, _split(*train), _split(test), class_names)
        from tensorflow import keras  # here, so that local files can be read without TensorFlow
        train, test = getattr(keras.datasets, layout.name).load_data()
        return Dataset(layout.name, _split(train), _split(test), layout.class_names)


def _load_digits(data_dir):
    if data_dir:
        raise ValueError(f"the digits come with scikit-learn, not from {data_dir}: leave DATA_DIR empty.")
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    train, test = split_validation(_split((images, digits.target)), share=0.2, seed=DIGITS_TEST_SEED)
    return Dataset("digits", train, test, tuple("0123456789"))


DATASETS = {"cifar10": partial(_load_cifar, CIFAR10), "cifar100": partial(_load_cifar, CIFAR100),
            "digits": _load_digits}


def load_dataset(name: str, data_dir: str = "") -> Dataset:
    """Returns the dataset "cifar10" or "cifar100" (pictures 32 x 32 x 3), or "digits" (8 x 8 x 1).

    CIFAR is read from data_dir: the official folder or tar.gz, or a folder that holds one (the folder wins);
    with data_dir "" Keras downloads it to ~/.keras. The digits take no data_dir and have a fixed test fifth.
    Raises ValueError for an unknown name, DataError for missing, damaged or forged files, a failed download.
    Source: https://www.cs.toronto.edu/~kriz/cifar.html
    """
    if name not in DATASETS:
        raise ValueError(f"DATASET {name!r} is not known; choose one of {', '.join(DATASETS)}.")
    return DATASETS[name](data_dir)
