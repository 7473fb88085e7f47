"""CIFAR files of every layout, the digits, the fingerprint, the validation split, the download."""
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cifar_files import (
    ARCHIVES,
    FOLDERS,
    LABELS,
    NAMES,
    ROWS,
    TRAIN,
    entries,
    python2_file,
    refusal,
    write_archive,
    write_folder,
)
from sklearn.datasets import load_digits

from vision_transformer import cifar
from vision_transformer.datasets import Dataset, Split, load_dataset, split_validation

LAYOUTS = {
    "D holds the folder": lambda place, name: write_folder(place, name),
    "D is the folder": lambda place, name: write_folder(place, name) / FOLDERS[name],
    "D is the renamed folder":
        lambda place, name: (write_folder(place, name) / FOLDERS[name]).rename(place / "elsewhere"),
    "D holds the archive": lambda place, name: write_archive(place, name),
    "D holds an archive of ./ names": lambda place, name: write_archive(place, name, prefix="./"),
    "D is the archive": lambda place, name: write_archive(place, name) / ARCHIVES[name],
}


# --- both datasets, every layout ---

@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_files_in_order(tmp_path, name, layout):
    dataset = load_dataset(name, str(LAYOUTS[layout](tmp_path, name)))
    parts = [entries(name, i) for i in range(len(TRAIN[name]))]
    rows = np.concatenate([part["data"] for part in parts])
    assert isinstance(dataset, Dataset) and dataset.name == name
    assert dataset.train.images.shape == (len(rows), 32, 32, 3) and len(dataset.train) == len(rows)
    assert dataset.test.images.shape == (ROWS, 32, 32, 3) and len(dataset.test) == ROWS
    images = np.concatenate([dataset.train.images, dataset.test.images])
    for row, image in zip([*rows, *entries(name, 7)["data"]], images.reshape(-1, 1024, 3)):
        assert np.array_equal(image, np.stack([row[:1024], row[1024:2048], row[2048:]], axis=1))
    assert dataset.train.labels.tolist() == [label for part in parts for label in part[LABELS[name]]]
    assert dataset.test.labels.tolist() == [7, 2, 4]
    assert list(dataset.class_names) == NAMES[name] and dataset.num_classes == len(NAMES[name])
    assert dataset.image_shape == (32, 32, 3)
    for split in (dataset.train, dataset.test):
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int64
        assert split.images.flags.c_contiguous


def test_a_row_is_red_then_green_then_blue_line_by_line(tmp_path):
    row = np.zeros(3072, np.uint8)
    row[2 * 32 + 5] = 11                               # red of line 2, column 5
    row[1024 + 3 * 32 + 7] = 13                        # green of line 3, column 7
    row[2048 + 31 * 32] = 17                           # blue of line 31, column 0
    content = python2_file({"data": row[np.newaxis], "labels": [6]})
    [image] = load_dataset("cifar10", str(write_folder(tmp_path, "cifar10", test_batch=content))).test.images
    assert {tuple(place): image[tuple(place)] for place in np.argwhere(image)} == {
        (2, 5, 0): 11, (3, 7, 1): 13, (31, 0, 2): 17}


def test_the_folder_wins_over_the_archive(tmp_path):
    write_archive(tmp_path, "cifar10", test_batch=b"damaged")
    assert load_dataset("cifar10", str(write_folder(tmp_path, "cifar10"))).test.labels.tolist() == [7, 2, 4]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("key", [str, str.encode])
@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_pickles_made_again_by_python_3(tmp_path, protocol, order, key, core):
    data = entries("cifar10", 7)["data"]
    content = pickle.dumps({key("data"): np.asarray(data, order=order), key("labels"): [3, 0, 9]}, protocol)
    if protocol >= 4:
        content = content[:2] + content[11:]           # without the frame, whose length would change
    for written in (b"numpy.core", b"numpy._core"):    # whichever this numpy writes, both must be read
        for module in (b".multiarray", b".numeric"):
            content = replace_name(content, written + module, core + module)
    meta = pickle.dumps({key("label_names"): [key(name) for name in NAMES["cifar10"]]}, protocol)
    place = write_folder(tmp_path, "cifar10", test_batch=content, **{"batches.meta": meta})
    dataset = load_dataset("cifar10", str(place))
    assert np.array_equal(dataset.test.images.transpose(0, 3, 1, 2).reshape(ROWS, 3072), data)
    assert dataset.test.labels.tolist() == [3, 0, 9] and list(dataset.class_names) == NAMES["cifar10"]


def replace_name(content, old, new):
    """Renames a module in a pickle: a line in protocols 2 and 3, a string after its length in 4 and 5."""
    content = content.replace(b"c" + old + b"\n", b"c" + new + b"\n")
    return content.replace(bytes([0x8c, len(old)]) + old, bytes([0x8c, len(new)]) + new)


def test_local_files_and_digits_need_no_tensorflow(tmp_path):
    place = write_folder(tmp_path, "cifar10")
    code = ("import sys, warnings; warnings.simplefilter('error'); sys.modules['tensorflow'] = None\n"
            "from vision_transformer.datasets import load_dataset\n"
            "print(load_dataset('cifar10', sys.argv[1]).fingerprint, len(load_dataset('digits').train))")
    shown = subprocess.run([sys.executable, "-c", code, str(place)], cwd=Path(__file__).parent.parent,
                           check=True, stdout=subprocess.PIPE, text=True).stdout
    assert shown.split() == [load_dataset("cifar10", str(place)).fingerprint, "1437"]


# --- the digits ---

def test_digits_are_scikit_learns():
    dataset, source = load_dataset("digits"), load_digits()
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert dataset.image_shape == (8, 8, 1) and dataset.train.images.dtype == np.uint8
    assert dataset.num_classes == 10 and "".join(dataset.class_names) == "0123456789"
    scale = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]   # by hand
    expected = [(bytes(scale[int(value)] for value in image), label)
                for image, label in zip(source.data, source.target)]
    images = np.concatenate([dataset.train.images, dataset.test.images])
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    assert sorted((image.tobytes(), label) for image, label in zip(images, labels)) == sorted(expected)


def test_the_digits_test_fifth_is_fixed_and_stratified():
    first, second = load_dataset("digits"), load_dataset("digits")
    assert first.fingerprint == second.fingerprint == "6bec28cd4908dedf"        # the same on both stacks
    share = np.bincount(load_digits().target) / 5
    assert np.all(np.abs(np.bincount(first.test.labels) - share) < 1)


def test_digits_take_no_folder():
    with pytest.raises(ValueError, match="not from somewhere: leave DATA_DIR empty"):
        load_dataset("digits", "somewhere")


@pytest.mark.parametrize("name", ["mnist", "", "CIFAR10"])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=f"DATASET '{name}' is not known; choose one of cifar10, cifar100, digits"):
        load_dataset(name)


# --- the fingerprint ---

def tiny_dataset(**changes):
    rng = np.random.default_rng(0)
    train, test = (Split(rng.integers(0, 256, (n, 3, 5, 2), np.uint8), np.arange(n) % 2) for n in (11, 7))
    return Dataset(**{"name": "tiny", "train": train, "test": test, "class_names": ("a", "b"), **changes})


def changed(split, field):
    arrays = {"images": split.images.copy(), "labels": split.labels.copy()}
    arrays[field].flat[-1] ^= 1
    return Split(**arrays)


TINY = tiny_dataset()


@pytest.mark.parametrize("changes", [
    {"name": "other"}, {"class_names": ("a", "c")}, {"class_names": ("a", "b", "c")},
    {"train": changed(TINY.train, "images")}, {"train": changed(TINY.train, "labels")},
    {"test": changed(TINY.test, "images")}, {"test": changed(TINY.test, "labels")},
    {"train": TINY.test, "test": TINY.train},
    {"train": Split(TINY.train.images.reshape(11, 5, 3, 2), TINY.train.labels)},
])
def test_every_change_shows_in_the_fingerprint(changes):
    assert len(TINY.fingerprint) == 16 and int(TINY.fingerprint, 16) > 0
    assert tiny_dataset().fingerprint == TINY.fingerprint != tiny_dataset(**changes).fingerprint


def test_the_fingerprint_does_not_depend_on_memory_order():
    strided = Split(np.asfortranarray(TINY.train.images), TINY.train.labels)
    assert tiny_dataset(train=strided).fingerprint == TINY.fingerprint


# --- the validation split ---

def uneven_split():
    labels = np.repeat(np.arange(4), [7, 11, 29, 53])
    return Split(np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1), labels)


@pytest.mark.parametrize("share", [0.2, 0.25, 0.5, 0.83])
def test_the_split_is_stratified_and_whole(share):
    whole = uneven_split()
    train, validation = split_validation(whole, share, seed=3)
    assert len(validation) == np.ceil(share * 100) and len(train) + len(validation) == 100
    assert sorted([*train.images.ravel(), *validation.images.ravel()]) == list(range(100))
    for part, expected in ((validation, share), (train, 1 - share)):
        assert np.array_equal(part.labels, whole.labels[part.images.ravel()])
        counts = np.bincount(part.labels)
        assert np.all(np.abs(counts - expected * np.array([7, 11, 29, 53])) <= 1) and min(counts) > 0


def test_the_split_follows_the_seed():
    first, again, other = (split_validation(uneven_split(), 0.3, seed)[1].images.ravel()
                           for seed in (1, 1, 2))
    assert np.array_equal(first, again) and sorted(first) != sorted(other)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(ValueError, match=f"VALIDATION_SHARE {share} is not between 0 and 1"):
        split_validation(uneven_split(), share, 0)


@pytest.mark.parametrize("counts, share", [([7, 93], 0.1), ([7, 93], 0.9), ([1, 99], 0.5), ([5, 5], 0.05),
                                           ([0, 0], 0.5)])
def test_a_part_that_could_lack_a_class_is_refused(counts, share):
    labels = np.repeat([0, 1], counts)
    message = rf"VALIDATION_SHARE {share} of {sum(counts)} pictures .* the rarest class \({min(counts)} pictures\)"
    with pytest.raises(ValueError, match=message):
        split_validation(Split(np.zeros((len(labels), 1, 1, 1), np.uint8), labels), share, 0)


def test_pixel_statistics_are_each_channels_mean_and_deviation():
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 3, 2)).astype(np.uint8)
    mean, deviation = Split(images, np.zeros(7, np.int64)).pixel_statistics()
    np.testing.assert_allclose(mean, images.astype(float).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(deviation, images.astype(float).std(axis=(0, 1, 2)))


# --- the download ---

@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("error", [
    Exception("URL fetch failure on https://x: None -- [Errno -2] Name or service not known"),
    OSError("disk full"), ValueError("Incomplete or corrupted file detected.")])
def test_a_failed_download_says_what_to_do(monkeypatch, name, error):
    from tensorflow import keras

    def fail():
        raise error
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", fail)
    message = refusal(name, "")
    assert str(error) in message and "download" in message
    assert f"put {ARCHIVES[name]} from" in message and "--data-dir D" in message and "DATA_DIR" in message


@pytest.mark.parametrize("name, classes", [("cifar10", 10), ("cifar100", 100)])
def test_a_download_becomes_a_dataset(monkeypatch, name, classes):
    from tensorflow import keras
    rng = np.random.default_rng(0)
    splits = [(rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 10, (n, 1), np.uint8))
              for n in (5, 3)]
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", lambda: splits)
    dataset = load_dataset(name)
    for split, (images, labels) in zip((dataset.train, dataset.test), splits):
        assert np.array_equal(split.images, images)
        assert split.labels.dtype == np.int64 and np.array_equal(split.labels, labels[:, 0])
    assert dataset.name == name and len(set(dataset.class_names)) == dataset.num_classes == classes


def test_the_class_names_are_in_label_order():
    cifar10, cifar100 = list(cifar.CIFAR10.class_names), list(cifar.CIFAR100.class_names)
    assert [cifar10[i] for i in (0, 1, 6, 9)] == ["airplane", "automobile", "frog", "truck"]
    assert [cifar100[i] for i in (0, 1, 23, 52, 71, 99)] == [
        "apple", "aquarium_fish", "cloud", "oak_tree", "sea", "worm"]
    assert cifar10 == sorted(cifar10) and cifar100 == sorted(cifar100)          # as in the real files
