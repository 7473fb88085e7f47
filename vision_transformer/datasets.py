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

from .checks import check_whole, is_number, shown
from .cifar import CIFAR10, CIFAR100, DataError, read_cifar, refusing
from .messages import harmless
from .picture_cache import decoded
from .picture_folder import find_pictures
from .stored_pictures import StoredPictures, in_pieces

# Of data without test pictures of their own. The seed is not the run's: every run must meet the same test pictures.
TEST_SHARE, TEST_SEED = 0.2, 0
IMAGE_SIZES = 8, 512           # pixels: the least and the most that IMAGE_SIZE may be


@dataclass(frozen=True, eq=False)      # arrays have no single truth value to compare by
class Split:
    """Pictures, uint8 (n, H, W, C) from 0 to 255, in memory or in a file, and their labels, int64 (n,)."""

    images: np.ndarray | StoredPictures
    labels: np.ndarray

    def __len__(self) -> int:
        """Returns the number of pictures, n."""
        return len(self.labels)

    def pixel_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns each channel's mean and standard deviation over all pixels, on the scale 0..255."""
        # By pieces, whose squares fit into 16 bits: no copy of all pictures. Over pictures first: numpy is slow along
        # rows of C numbers. Sums of whole numbers are exact, however many pieces they are made of.
        total = squares = np.zeros(self.images.shape[1:])
        for pictures in in_pieces(self.images):
            total = total + pictures.sum(axis=0, dtype=np.float64)
            squares = squares + np.square(pictures, dtype=np.uint16).sum(axis=0, dtype=np.float64)
        mean, mean_square = ((sums / len(self)).mean(axis=(0, 1)) for sums in (total, squares))
        return mean, np.sqrt(mean_square - mean ** 2)


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
            for piece in in_pieces(array):
                digest.update(piece)
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
    return _stratified(split, size, seed)


def _stratified(split, size, seed):
    parts = train_test_split(np.arange(len(split)), test_size=size, stratify=split.labels, random_state=seed)
    return tuple(Split(split.images[part], split.labels[part]) for part in parts)


def _split(*batches):
    """Joins (images, labels) pairs, labels of shape (n,) or (n, 1), into a Split."""
    images, labels = zip(*batches)
    labels = np.concatenate(labels).astype(np.int64).reshape(-1)
    return Split(np.ascontiguousarray(np.concatenate(images)), labels)


def _load_cifar(layout, data_dir, image_size):
    with refusing(layout, data_dir or "Keras's download to ~/.keras/datasets"):
        if data_dir:
            train, test, class_names = read_cifar(layout, data_dir)
            return Dataset(layout.name, _split(*train), _split(test), class_names)
        from tensorflow import keras  # here, so that local files can be read without TensorFlow
        train, test = getattr(keras.datasets, layout.name).load_data()
        return Dataset(layout.name, _split(train), _split(test), layout.class_names)


def _load_digits(data_dir, image_size):
    if data_dir:
        raise ValueError(f"the digits come with scikit-learn, not from {data_dir}: leave DATA_DIR empty.")
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    train, test = _stratified(_split((images, digits.target)), TEST_SHARE, TEST_SEED)
    return Dataset("digits", train, test, tuple("0123456789"))


def _load_folder(data_dir, image_size):
    if image_size is None:
        raise ValueError("DATASET 'folder' needs an IMAGE_SIZE: use examples/train_image_folder.py, which has one.")
    check_whole("IMAGE_SIZE", image_size, *IMAGE_SIZES, " pixels")
    files, class_names, has_test = find_pictures(data_dir)
    found = decoded(data_dir, files, image_size)
    labels = np.array([file.label for file in files], np.int64)[found.readable]
    tests = np.array([file.tests for file in files], bool)[found.readable]
    whole = Split(found.pictures, labels)
    # The rarest class needs a picture in the test part; of the others, one to learn from and one to validate by.
    needed = [("training", ~tests, 2), ("test", tests, 1)] if has_test else [
        ("readable", ~tests, math.ceil(1 / TEST_SHARE))]
    for what, part, least in needed:
        counts = np.bincount(labels[part], minlength=len(class_names))
        if counts.min() < least:
            raise DataError(f"{harmless(data_dir)} has {counts.min()} {what} pictures of the class "
                            f"{class_names[counts.argmin()]!r}; at least {least} are needed"
                            f"{'' if has_test else ', as it has no test/ and every fifth becomes a test picture'}: add "
                            "some, or take the class's folder away.")
    if has_test:
        return Dataset("folder", *(Split(whole.images[part], labels[part]) for part in (~tests, tests)), class_names)
    return Dataset("folder", *_stratified(whole, TEST_SHARE, TEST_SEED), class_names)


DATASETS = {"cifar10": partial(_load_cifar, CIFAR10), "cifar100": partial(_load_cifar, CIFAR100),
            "digits": _load_digits, "folder": _load_folder}


def load_dataset(dataset: str, data_dir: str = "", image_size: int | None = None) -> Dataset:
    """Returns "cifar10" or "cifar100" (pictures 32 x 32 x 3), "digits" (8 x 8 x 1), or "folder" (your own pictures).

    CIFAR is read from data_dir: the official folder or tar.gz, or a folder that holds one (the folder wins);
    with data_dir "" Keras downloads it to ~/.keras. The digits take no data_dir and have a fixed test fifth.
    "folder" is data_dir with a folder per class (picture_folder.py), image_size x image_size x 3, decoded once into a
    file (picture_cache.py); where it has no test/, a fifth becomes the test pictures, always the same ones. The others
    have their own size and pass over image_size.
    Raises ValueError for an unknown name, DataError for missing, damaged or forged files, a failed download.
    Source: https://www.cs.toronto.edu/~kriz/cifar.html
    """
    if dataset not in DATASETS:
        raise ValueError(f"DATASET {dataset!r} is not known; choose one of {', '.join(DATASETS)}.")
    return DATASETS[dataset](data_dir, image_size)
