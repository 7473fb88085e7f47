"""Small models and data that many tests use. Sizes all differ, so that no two axes can be swapped unseen."""
import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image
from tensorflow.python.framework.config import disable_op_determinism  # has no public name

from vision_transformer.datasets import Dataset, Split, load_dataset
from vision_transformer.model import VisionTransformer
from vision_transformer.precision import set_precision
from vision_transformer.runs import Run

pytest.register_assert_rewrite("consumers")             # it asserts, and should say as much as a test when it fails

# test_fuzz.py's files: always the same ones, or with --hypothesis-profile=long (minutes) new ones each time.
ANY_TIME = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("short", max_examples=120, derandomize=True, **ANY_TIME)
settings.register_profile("long", max_examples=2_000, derandomize=False, **ANY_TIME)
settings.load_profile("short")

SIZES = {"image_shape": (6, 10, 3), "num_classes": 5, "patch_size": 2, "patch_stride": 2, "number_of_layers": 2,
         "embedding_dim": 14, "num_heads": 7, "mlp_hidden_dim": 11}             # 3 x 5 = 15 tokens, heads of 2


@pytest.fixture
def own_process():
    """As if the test had a process of its own: what it sets for a whole process goes back."""
    yield
    set_precision("float32")
    disable_op_determinism()


@pytest.fixture
def make_model():
    """Makes a small model; any of its arguments can be another."""
    return lambda **changes: VisionTransformer(**{**SIZES, **changes})


@pytest.fixture
def one_block(make_model):
    """Makes a small model of one block."""
    return functools.partial(make_model, number_of_layers=1)


@pytest.fixture
def new_run(tmp_path):
    """Makes a new run folder, as if of a training on `data`."""
    return lambda: Run.create(tmp_path, "bright", {})


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 6, 10, 3)).astype(np.uint8)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A short training on the digits."""
    import train_digits  # here: this file is read before TensorFlow's environment is set

    folder = tmp_path_factory.mktemp("digits") / "runs"
    train_digits.main(["--epochs", "6", "--run-folder", str(folder)])
    return folder / "digits-001"


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory):
    """The first 20 test digits as picture files, by true class."""
    folder, test = tmp_path_factory.mktemp("pictures"), load_dataset("digits").test
    files = []
    for i in range(20):
        path = folder / f"{i}_is_{test.labels[i]}.png"
        Image.fromarray(test.images[i, ..., 0]).resize((50, 50), Image.BICUBIC).save(path)
        files.append((str(path), int(test.labels[i])))
    return files


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """The folder of CIFAR-10 files of 30 random pictures each: 120 to train on, 30 to validate, 30 to test."""
    from cifar_files import python2_file  # here: this file is read before the tests are collected

    folder = tmp_path_factory.mktemp("data")
    files, chance = folder / "cifar-10-batches-py", np.random.default_rng(0)
    files.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        pixels = chance.integers(0, 256, (30, 3072), np.uint8)
        (files / name).write_bytes(python2_file({"data": pixels, "labels": [k % 10 for k in range(30)]}))
    (files / "batches.meta").write_bytes(python2_file({"label_names": [f"class {k}".encode() for k in range(10)]}))
    return folder


@pytest.fixture
def data():
    """Five classes of pictures that differ in brightness: something to learn."""
    rng = np.random.default_rng(0)

    def split(pictures):
        labels = np.arange(pictures) % 5
        pixels = 40 * labels[:, None, None, None] + rng.integers(0, 60, (pictures, 6, 10, 3))
        return Split(pixels.astype(np.uint8), labels.astype(np.int64))

    return Dataset("bright", split(83), split(37), ("coal", "slate", "ash", "chalk", "snow"))


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=10, help="how often tests/test_kills.py kills a training")
