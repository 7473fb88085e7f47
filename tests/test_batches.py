"""The one data order: nothing lost, nothing frozen, and resumable at any step."""
import numpy as np
import pytest
import tensorflow as tf

from vision_transformer.batches import evaluation_batches, steps_per_epoch, training_batches
from vision_transformer.datasets import Split

PICTURES = 23
SPLIT = Split(np.arange(PICTURES * 2 * 3, dtype=np.uint8).reshape(PICTURES, 2, 3, 1), np.arange(PICTURES))


def noise(images, seed):
    return images + tf.random.stateless_uniform(tf.shape(images), seed)


def collect(epochs=3, batch_size=5, seed=1, **arguments):
    return [tuple(part.numpy() for part in batch) for batch in
            training_batches(SPLIT, batch_size=batch_size, epochs=epochs, seed=seed, **arguments)]


def assert_equal(ones, others):
    assert len(ones) == len(others)
    for one, other in zip(ones, others):
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b)


def test_each_epoch_has_whole_batches_of_different_pictures():
    batches = collect()
    assert [int(step) for step, _, _ in batches] == list(range(12))
    assert all(images.shape == (5, 2, 3, 1) and images.dtype == np.float32 for _, images, _ in batches)
    for epoch in range(3):
        seen = np.concatenate([labels for _, _, labels in batches[4 * epoch:4 * epoch + 4]])
        assert len(set(seen)) == 20
    for _, images, labels in batches:
        np.testing.assert_array_equal(images, SPLIT.images[labels])


def test_epochs_differ_in_order_and_pictures():
    batches = collect(augment=noise, batch_size=23)
    orders = [labels.tolist() for _, _, labels in batches]
    assert orders[0] != orders[1] != orders[2] != list(range(PICTURES))
    by_label = [images[np.argsort(labels)] for _, images, labels in batches]
    assert (by_label[0] != by_label[1]).all(), "a cache behind the augmentation would freeze it"


@pytest.mark.parametrize("seed", [0, 7])
def test_one_seed_gives_the_same_and_another_gives_other_batches(seed):
    tf.random.set_seed(99)                              # of no matter
    first = collect(augment=noise, seed=seed)
    tf.random.set_seed(98)
    assert_equal(first, collect(augment=noise, seed=seed))
    assert any((one[2] != other[2]).any() for one, other in zip(first, collect(seed=seed + 1)))


@pytest.mark.parametrize("first_step", [1, 4, 7, 11, 12])
def test_started_later_the_rest_is_the_same(first_step):
    assert_equal(collect(augment=noise, first_step=first_step), collect(augment=noise)[first_step:])


def test_pictures_are_read_once_and_cached(monkeypatch):
    read = []
    original = tf.data.Dataset.from_tensor_slices

    def counted(arrays):
        return original(arrays).map(lambda *a: (tf.py_function(lambda: read.append(1) or 0, [], tf.int32), a)[1])

    monkeypatch.setattr(tf.data.Dataset, "from_tensor_slices", staticmethod(counted))
    collect(epochs=4)
    assert len(read) == PICTURES


@pytest.mark.parametrize("size", [0, -1, 24])
def test_a_batch_that_cannot_be_filled_is_refused_by_name(size):
    with pytest.raises(ValueError, match=f"BATCH_SIZE {size} doesn't fit 23 training pictures"):
        training_batches(SPLIT, batch_size=size, epochs=1, seed=0)
    assert steps_per_epoch(23, 23) == 1


@pytest.mark.parametrize("size", [1, 5, 23, 31])
def test_evaluation_keeps_every_picture_in_order_and_one_shape(size):
    batches = list(evaluation_batches(SPLIT.images, size))
    assert all(images.shape == (size, 2, 3, 1) and images.dtype == tf.uint8 for images, _ in batches)
    np.testing.assert_array_equal(np.concatenate([images[:int(n)] for images, n in batches]), SPLIT.images)
    assert evaluation_batches(SPLIT.images, size).element_spec[0].shape == (size, 2, 3, 1)
