"""The one data order: nothing lost, nothing frozen, and resumable at any step."""
import numpy as np
import pytest
import tensorflow as tf

from data_augmentations import augmentation
from vision_transformer.batches import evaluation_batches, steps_per_epoch, training_batches
from vision_transformer.datasets import Split
from vision_transformer.mixing import make_mixing

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
    with pytest.raises(ValueError, match=f"BATCH_SIZE is {size}; choose a whole number from 1 to 23, which is all"):
        training_batches(SPLIT, batch_size=size, epochs=1, seed=0)
    assert steps_per_epoch(23, 23) == 1


@pytest.mark.parametrize("size", [1, 5, 23, 31])
def test_evaluation_keeps_every_picture_in_order_and_one_shape(size):
    batches = list(evaluation_batches(SPLIT.images, size))
    assert all(images.shape == (size, 2, 3, 1) and images.dtype == tf.uint8 for images, _ in batches)
    np.testing.assert_array_equal(np.concatenate([images[:int(n)] for images, n in batches]), SPLIT.images)
    assert evaluation_batches(SPLIT.images, size).element_spec[0].shape == (size, 2, 3, 1)


def mirrored(batches):
    """Tells of each picture, by epoch, whether it came mirrored; -1: it did not come."""
    flips = np.full((3, PICTURES), -1)
    for step, images, labels in batches:
        for image, label in zip(images, labels):
            same, other = ((image == side).all() for side in (SPLIT.images[label], SPLIT.images[label][:, ::-1]))
            assert same != other
            flips[step // 4, label] = other
    return flips


@pytest.mark.parametrize("seed", [0, 7])
def test_alternating_flip_shows_each_picture_s_sides_by_turns(seed):
    flips = mirrored(collect(alternating_flip=True, seed=seed))
    came = flips >= 0
    assert came.sum() == 60
    for one, other, turns in ((0, 1, 1), (1, 2, 1), (0, 2, 0)):
        both = came[one] & came[other]
        assert both.sum() > 10 and (flips[one] ^ flips[other] == turns)[both].all()
    assert 5 < flips[0][came[0]].sum() < 15             # of 20


def test_alternating_flip_s_coins_are_fair_and_depend_on_the_seed():
    many = Split(np.tile(np.array([[[0], [1]]], np.uint8), (3000, 1, 1, 1)), np.arange(3000))

    def coins(seed):
        (_, images, labels), = training_batches(many, batch_size=3000, epochs=1, seed=seed, alternating_flip=True)
        return images.numpy()[np.argsort(labels), 0, 0, 0]

    first, second = coins(0), coins(1)
    assert abs(first.mean() - 0.5) < 0.05 and abs(np.corrcoef(first, second)[0, 1]) < 0.1
    np.testing.assert_array_equal(first, coins(0))


def test_alternating_flip_leaves_order_and_augmentation_as_they_are():
    plain, alternating = collect(augment=noise), collect(augment=noise, alternating_flip=True)
    for (_, images, labels), (_, others, same_labels) in zip(plain, alternating):
        np.testing.assert_array_equal(labels, same_labels)
        changes = [batch - SPLIT.images[labels] for batch in (images, others)]
        flipped = changes[1] + SPLIT.images[labels] - SPLIT.images[labels][:, :, ::-1]
        same = np.isclose(changes[1], changes[0], atol=1e-4) | np.isclose(flipped, changes[0], atol=1e-4)
        assert same.all()


def test_pictures_are_mixed_after_augmentation_by_seed_and_step():
    mix = make_mixing(PICTURES, mixup=0.5, cutmix=1.0)
    for (step, images, labels), (_, mixed, soft) in zip(collect(augment=noise), collect(augment=noise, mix=mix)):
        assert soft.shape == (5, PICTURES) and soft.dtype == mixed.dtype == np.float32
        for ours, expected in zip((mixed, soft), mix(images, labels, (1, step))):
            np.testing.assert_allclose(ours, expected, atol=1e-4)
    spec = training_batches(SPLIT, batch_size=5, epochs=1, seed=1, mix=mix).element_spec
    assert spec[1].shape == (5, 2, 3, 1) and spec[2].shape == (5, PICTURES)


@pytest.mark.parametrize("options", [
    {"alternating_flip": True, "mix": make_mixing(PICTURES, mixup=0.5, cutmix=1.0),
     "augment": augmentation(policy="trivial")},
    {"augment": augmentation(policy="rand", policy_operations=1, rotation=15, hue=0.1, erasing=0.5)}])
def test_with_all_options_too_the_rest_is_the_same_when_started_later(options):
    assert_equal(collect(first_step=6, **options), collect(**options)[6:])


@pytest.mark.emulator
def test_beside_a_directml_device_too_batches_are_made_on_the_cpu_with_xla():
    assert tf.config.list_physical_devices("GPU")
    augment = augmentation(rotation=15, erasing=0.5)
    batches = training_batches(SPLIT, batch_size=5, epochs=1, seed=1, augment=augment, alternating_flip=True)
    step, images, labels = next(iter(batches))
    assert images.device.endswith("CPU:0")
    with tf.device("/CPU:0"):
        sides = [augment(SPLIT.images[labels][..., ::way, :], (1, step)) for way in (1, -1)]
    assert np.isclose(sides, images, atol=0.01).all(axis=(2, 3, 4)).any(axis=0).all()
