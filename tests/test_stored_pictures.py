"""Pictures in a file: they index as an array does, read only what is asked for, and train as the same array would."""
import os
import subprocess
import sys

import numpy as np
import pytest
from peak_memory import child_environment, measured

from data_augmentations import augmentation
from vision_transformer import stored_pictures
from vision_transformer.batches import evaluation_batches, training_batches
from vision_transformer.classification import Classification
from vision_transformer.datasets import Dataset, Split, split_validation
from vision_transformer.mixing import make_mixing
from vision_transformer.stored_pictures import StoredPictures, in_pieces

PIXELS = np.random.default_rng(0).integers(0, 256, (23, 6, 10, 3)).astype(np.uint8)
LABELS = np.arange(23) % 5


@pytest.fixture
def stored(tmp_path):
    """The same pictures in a file."""
    PIXELS.tofile(tmp_path / "pixels")
    return StoredPictures(np.memmap(tmp_path / "pixels", np.uint8, "r", shape=PIXELS.shape))


# ------------------------------------------------------------------------------------------ as an array
def test_it_has_the_shape_of_an_array(stored):
    assert (stored.shape, stored.dtype, len(stored)) == ((23, 6, 10, 3), np.uint8, 23)
    assert stored[3:7].shape == (4, 6, 10, 3) and stored[22:99].shape[0] == 1 and stored[30:].shape[0] == 0


@pytest.mark.parametrize("key", [
    slice(None), slice(3, 17, 5), slice(None, None, -1), np.array([5, 1, 1, 22]), np.array([], np.int64), [4, 2],
    LABELS == 3, -1, np.int64(7)], ids=str)
def test_each_way_to_index_gives_what_an_array_gives(stored, key):
    part = stored[key]
    np.testing.assert_array_equal(np.asarray(part), PIXELS[key])
    assert isinstance(part, np.ndarray if np.ndim(PIXELS[key]) == 3 else StoredPictures)
    part = stored[4:21][::-2]                           # a part of a part
    np.testing.assert_array_equal(np.asarray(part[np.array([2, 0])]), PIXELS[4:21][::-2][[2, 0]])


def test_what_an_array_refuses_is_refused(stored):
    for key in (23, (slice(None), slice(None)), np.array([23])):
        with pytest.raises(IndexError):
            stored[key]


def test_indexing_reads_nothing():
    class Unread(np.ndarray):
        def __getitem__(self, key):
            pytest.fail("read")

    stored = StoredPictures(PIXELS.view(Unread))
    assert len(stored[LABELS == 1][1:]) == 4
    training, validation = split_validation(Split(stored, np.arange(23) % 2), 0.3, seed=0)
    assert (len(training), len(validation), training.images.shape[1:]) == (16, 7, (6, 10, 3))


@pytest.mark.parametrize("piece, count", [(1, 23), (180 * 4, 6), (10 ** 9, 1)])
def test_pieces_are_all_rows_in_order(stored, monkeypatch, piece, count):
    monkeypatch.setattr(stored_pictures, "PIECE", piece)
    for array, whole in ((stored, PIXELS), (PIXELS, PIXELS), (np.asfortranarray(PIXELS), PIXELS)):
        pieces = list(in_pieces(array))
        assert len(pieces) == count and all(part.flags.c_contiguous for part in pieces)
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert sum(map(len, in_pieces(LABELS))) == 23 and list(in_pieces(PIXELS[:0])) == []


# ------------------------------------------------------------------------------------------ as data
def test_statistics_and_fingerprint_are_those_of_the_array(stored, monkeypatch):
    monkeypatch.setattr(stored_pictures, "PIECE", 1000)
    whole, other = (Split(images, LABELS) for images in (PIXELS, stored))
    for ours, expected in zip(other.pixel_statistics(), (PIXELS.mean(axis=(0, 1, 2)), PIXELS.std(axis=(0, 1, 2)))):
        np.testing.assert_allclose(ours, expected)
    for ours, expected in zip(other.pixel_statistics(), whole.pixel_statistics()):
        np.testing.assert_array_equal(ours, expected)
    assert Dataset("x", other, other, ("a",)).fingerprint == Dataset("x", whole, whole, ("a",)).fingerprint
    for one, same in zip(split_validation(whole, 0.4, 3), split_validation(other, 0.4, 3)):
        np.testing.assert_array_equal(np.asarray(same.images), one.images)


def batches(images, **options):
    return [[part.numpy() for part in batch] for batch in
            training_batches(Split(images, LABELS), batch_size=5, epochs=3, seed=7, **options)]


@pytest.mark.parametrize("options", [
    {}, {"first_step": 6, "alternating_flip": True},
    {"augment": augmentation(image_shape=(6, 10, 3), rotation=15, hue=0.1),
     "mix": make_mixing(5, mixup=0.5, cutmix=1.0)}])
def test_batches_are_bit_for_bit_those_of_the_array(stored, options):
    ours, expected = batches(stored, **options), batches(PIXELS, **options)
    assert len(ours) == len(expected) == 12 - options.get("first_step", 0)
    for one, other in zip(ours, expected):
        for part, same in zip(one, other):
            np.testing.assert_array_equal(part, same)


def test_shapes_are_known_as_directml_needs_them(stored):
    for spec in (training_batches(Split(stored, LABELS), batch_size=5, epochs=1, seed=0).element_spec[1],
                 evaluation_batches(stored, 5).element_spec[0]):
        assert spec.shape == (5, 6, 10, 3)


@pytest.mark.parametrize("mirrored", [False, True])
def test_evaluation_is_that_of_the_array(stored, make_model, mirrored):
    task = Classification(make_model(), 2, batch_size=5)
    sides = PIXELS[:, :, ::-1] if mirrored else PIXELS
    for images in (stored, PIXELS):
        np.testing.assert_allclose(task.predict(images, mirrored), task.model(sides), atol=1e-5)
    assert task.evaluate(Split(stored, LABELS)) == task.evaluate(Split(PIXELS, LABELS))


def test_whitening_is_fitted_as_to_the_array(stored, make_model):
    models = [make_model(embedding="hybrid", stem_widths="5", whitening=True) for _ in range(2)]
    for model, images in zip(models, (stored, PIXELS)):
        model.whiten(images)
    np.testing.assert_array_equal(*(model.patches.whitening.kernel.numpy() for model in models))


# ------------------------------------------------------------------------------------------ in little memory
def test_a_large_file_is_never_held(tmp_path, make_model):
    """40 MB of pictures; what Python holds stays under 3."""
    shape = (20_000, 20, 34, 3)
    with (tmp_path / "pixels").open("wb") as file:
        file.truncate(int(np.prod(shape)))              # of zeros, which take no room
    images = StoredPictures(np.memmap(tmp_path / "pixels", np.uint8, "r", shape=shape))
    data = Dataset("large", *[Split(images[part::2], np.arange(10_000) % 5) for part in (0, 1)], tuple("abcde"))
    task = Classification(make_model(image_shape=shape[1:]), 2, batch_size=100)

    def used():
        training, validation = split_validation(data.train, 0.2, 0)
        training.pixel_statistics()
        for _, pictures, _ in training_batches(training, batch_size=100, epochs=2, seed=0):
            assert pictures.shape == (100, 20, 34, 3)
        return data.fingerprint, task.evaluate(validation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_pictures, "PIECE", 2 ** 18)
        _, peak = measured(used)
    assert peak < 3e6


LIMITED = """
import resource, sys
import numpy as np, tensorflow as tf
from vision_transformer.batches import training_batches
from vision_transformer.classification import Classification
from vision_transformer.datasets import Split, split_validation
from vision_transformer.model import VisionTransformer
from vision_transformer.stored_pictures import StoredPictures

shape, way, room = (40_000, 32, 32, 3), sys.argv[2], int(sys.argv[3])
images = StoredPictures(np.memmap(sys.argv[1], np.uint8, "r", shape=shape))
model = VisionTransformer(image_shape=shape[1:], num_classes=5, patch_size=16, patch_stride=16, number_of_layers=1)
task = Classification(model, 2, batch_size=64)
train = tf.function(lambda step, images, labels: task.loss((images, labels), step)[0])
warm = training_batches(Split(images[:128], np.arange(128) % 5), batch_size=64, epochs=1, seed=0)
task.predict(images[:64]), [train(*batch) for batch in warm]
limit = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize() + room
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))                # of memory that no file backs
if way == "array":
    images = np.asarray(images)
training, validation = split_validation(Split(images, np.arange(len(images)) % 5), 0.2, 0)
training.pixel_statistics()
losses = [train(*batch) for batch in training_batches(training, batch_size=64, epochs=1, seed=0)]
print(len(losses), np.isfinite(losses).all(), len(task.predict(validation.images)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["file", "array"])
def test_a_training_has_room_in_less_memory_than_the_pictures_take(tmp_path, way):
    """123 MB of pictures, 80 MB of room: from a file they train, as an array they can't. Linux counts such memory."""
    with (tmp_path / "pixels").open("wb") as file:
        file.truncate(40_000 * 32 * 32 * 3)
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path / "pixels"), way, str(80 * 10 ** 6)],
                          env={**os.environ, **child_environment()}, capture_output=True, encoding="utf-8")
    if way == "file":
        assert done.stdout == "500 True 8000\n", done.stderr[-2000:]
    else:
        assert done.returncode and "MemoryError" in done.stderr
