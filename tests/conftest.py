"""Small models and data that many tests use. Sizes all differ, so that no two axes can be swapped unseen."""
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest

from vision_transformer.datasets import Dataset, Split
from vision_transformer.model import VisionTransformer

SIZES = {"image_shape": (6, 10, 3), "num_classes": 5, "patch_size": 2, "patch_stride": 2, "number_of_layers": 2,
         "embedding_dim": 14, "num_heads": 7, "mlp_hidden_dim": 11}             # 3 x 5 = 15 tokens, heads of 2


@pytest.fixture
def make_model():
    """Makes a small model; any of its arguments can be another."""
    return lambda **changes: VisionTransformer(**{**SIZES, **changes})


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 6, 10, 3)).astype(np.uint8)


@pytest.fixture
def data():
    """Five classes of pictures that differ in brightness: something to learn."""
    rng = np.random.default_rng(0)

    def split(pictures):
        labels = np.arange(pictures) % 5
        pixels = 40 * labels[:, None, None, None] + rng.integers(0, 60, (pictures, 6, 10, 3))
        return Split(pixels.astype(np.uint8), labels.astype(np.int64))

    return Dataset("bright", split(83), split(37), ("coal", "slate", "ash", "chalk", "snow"))
