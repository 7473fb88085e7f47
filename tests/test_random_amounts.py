"""What the random amounts of each transform really are."""
import numpy as np
import pytest
import tensorflow as tf
from augmented import MANY, SEED, measured_matrices

import data_augmentations as da
from vision_transformer.colours import LUMA


def assert_uniform(draws, low, high):
    """All of [low, high], never left, and as much in each tenth."""
    slack = 1e-4 * (high - low)
    assert draws.min() >= low - slack and draws.max() <= high + slack
    counts, _ = np.histogram(draws, bins=10, range=(low - slack, high + slack))
    np.testing.assert_allclose(counts, len(draws) / 10, atol=5 * np.sqrt(len(draws) * 0.09))
    assert np.ptp(draws) > 0.99 * (high - low)


def test_rotation_is_uniform_in_degrees():
    matrices = measured_matrices(rotation=25)
    np.testing.assert_allclose(matrices[:, 0, 0], matrices[:, 1, 1], atol=1e-4)
    np.testing.assert_allclose(matrices[:, 0, 1], -matrices[:, 1, 0], atol=1e-4)
    np.testing.assert_allclose(np.linalg.det(matrices[:, :, :2]), 1, atol=1e-4)
    np.testing.assert_allclose(matrices[:, :, 2], 0, atol=1e-4)
    assert_uniform(np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])), -25, 25)


def test_shear_is_uniform_in_degrees_on_both_axes_and_keeps_the_area():
    matrices = measured_matrices(shear=30)
    np.testing.assert_allclose(np.linalg.det(matrices[:, :, :2]), 1, atol=1e-4)
    np.testing.assert_allclose(matrices[:, 1, 1], 1, atol=1e-4)
    x, y = np.degrees(np.arctan(matrices[:, 0, 1])), np.degrees(np.arctan(matrices[:, 1, 0]))
    assert_uniform(x, -30, 30)
    assert_uniform(y, -30, 30)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.1


def test_zoom_is_uniform_in_its_logarithm_and_shrinks_half():
    matrices = measured_matrices(zoom=0.5)
    np.testing.assert_allclose(matrices[:, 0, 0], matrices[:, 1, 1], atol=1e-4)
    np.testing.assert_allclose(matrices[:, [0, 1], [1, 0]], 0, atol=1e-4)
    assert_uniform(-np.log(matrices[:, 0, 0]), -np.log(1.5), np.log(1.5))


def test_translation_is_every_whole_pixel_as_often():
    matrices = measured_matrices(translation=0.25)  # of 11 and 13: 2.75 and 3.25, so 3 and 3
    right, down = -matrices[:, 0, 2], -matrices[:, 1, 2]
    for pixels in (right, down):
        values, counts = np.unique(pixels, return_counts=True)
        np.testing.assert_array_equal(values, np.arange(-3, 4))
        np.testing.assert_allclose(counts, MANY / 7, atol=5 * np.sqrt(MANY / 7))
    assert abs(np.corrcoef(right, down)[0, 1]) < 0.1


@pytest.mark.parametrize(("name", "axis"), [("flip_horizontal", 0), ("flip_vertical", 1)])
@pytest.mark.parametrize("probability", [0.2, 0.5, 1])
def test_share_of_flipped_pictures(name, axis, probability):
    matrices = measured_matrices(**{name: probability})
    flipped = matrices[:, axis, axis] == -1
    assert (matrices[~flipped] == np.eye(2, 3)).all()
    np.testing.assert_array_equal(matrices[:, 1 - axis, 1 - axis], 1)
    assert abs(flipped.mean() - probability) <= 5 * np.sqrt(probability * (1 - probability) / MANY)


def test_brightness_is_uniform_in_shares_of_255():
    images = np.full((MANY, 2, 3, 3), 127.5, "float32")
    changed = da.augmentation(brightness=0.3)(images, SEED).numpy()
    assert_uniform((changed[:, 0, 0, 0] - 127.5) / 255, -0.3, 0.3)
    np.testing.assert_array_equal(np.ptp(changed.reshape(MANY, -1), axis=1), 0)


@pytest.mark.parametrize("amount", [0.4, 1])
def test_contrast_is_uniform_about_one(amount):
    images = np.full((MANY, 1, 2, 3), 120, "float32")
    images[:, :, 1] = 135  # 7.5 either side of the mean
    changed = da.augmentation(contrast=amount)(images, SEED).numpy()
    assert_uniform((changed[:, 0, 1, 0] - changed[:, 0, 0, 0]) / 15, 1 - amount, 1 + amount)
    np.testing.assert_allclose(changed.mean(axis=(1, 2)), 127.5, atol=1e-3)


@pytest.mark.parametrize("amount", [0.4, 1])
def test_saturation_is_uniform_about_one(amount):
    images = np.broadcast_to(np.array([150, 120, 90], "float32"), (MANY, 2, 3, 3))
    changed = da.augmentation(saturation=amount)(images, SEED).numpy()[:, 0, 0]
    assert_uniform((changed[:, 0] - changed[:, 2]) / 60, 1 - amount, 1 + amount)
    np.testing.assert_allclose(changed @ np.array(LUMA), 150 * 0.299 + 120 * 0.587 + 90 * 0.114, atol=1e-3)


@pytest.mark.parametrize("amount", [0.15, 0.5])
def test_hue_is_uniform_in_turns(amount):
    images = np.broadcast_to(np.array([60, 200, 200], "float32"), (MANY, 2, 3, 3))  # hue 0.5
    changed = da.augmentation(hue=amount)(images, SEED)
    assert_uniform(tf.image.rgb_to_hsv(changed)[:, 0, 0, 0].numpy() - 0.5, -amount, amount)


def erased_boxes(probability, channels=3, height=29, width=41):
    """(top, left, bottom, right) of what was erased, and the pictures; a value of 99.5 is no byte."""
    images = np.full((MANY, height, width, channels), 99.5, "float32")
    changed = da.augmentation(erasing=probability)(images, SEED).numpy()
    erased = (changed != 99.5).all(axis=-1)
    np.testing.assert_array_equal(erased, (changed != 99.5).any(axis=-1))
    rows, columns = erased.any(axis=2), erased.any(axis=1)
    np.testing.assert_array_equal(erased, rows[:, :, None] & columns[:, None])  # full boxes
    edges = []
    for lines in (rows, columns):
        first, last = lines.argmax(axis=1), lines.shape[1] - lines[:, ::-1].argmax(axis=1)
        no_gaps = np.where(lines.any(axis=1), last - first, 0)
        np.testing.assert_array_equal(lines.sum(axis=1), no_gaps)
        edges += [first, last]
    top, bottom, left, right = edges
    return np.stack([top, left, bottom, right], axis=-1)[erased.any(axis=(1, 2))], changed, erased


@pytest.mark.parametrize("channels", [1, 3])
def test_erased_boxes_keep_to_the_area_and_aspect_of_the_paper(channels):
    boxes, changed, erased = erased_boxes(1, channels)
    assert len(boxes) == MANY
    top, left, bottom, right = boxes.T
    box_height, box_width = bottom - top, right - left
    share = box_height * box_width / (29 * 41)
    assert ((box_height - 1) * (box_width - 1) <= 0.33 * 29 * 41).all()  # a pixel of rounding on each axis
    assert ((box_height + 1) * (box_width + 1) >= 0.02 * 29 * 41).all()
    assert share.min() < 0.025 and share.max() > 0.31 and abs(share.mean() - 0.175) < 0.01
    assert ((box_height - 1) / 29 <= (box_width + 1) / 41 / 0.3).all()
    assert ((box_width - 1) / 41 <= (box_height + 1) / 29 / 0.3).all()
    aspect = (box_height / 29) / (box_width / 41)
    assert aspect.min() < 0.34 and aspect.max() > 2.9 and abs(np.log(aspect).mean()) < 0.06
    assert (top.min(), left.min(), bottom.max(), right.max()) == (0, 0, 29, 41)
    assert abs((top + bottom).mean() - 29) < 1 and abs((left + right).mean() - 41) < 1.5  # nowhere more often
    values = changed[erased]
    np.testing.assert_array_equal(np.unique(values), np.arange(256))
    assert abs(values.mean() - 127.5) < 0.5 and abs(values.std() - np.sqrt((256**2 - 1) / 12)) < 0.5
    if channels == 3:
        assert abs(np.corrcoef(values[:, 0], values[:, 1])[0, 1]) < 0.02


def test_drawn_boxes_fit_into_the_picture_and_keep_their_area(monkeypatch):
    drawn = []
    monkeypatch.setattr(da, "erase", lambda images, boxes, fill: drawn.append(boxes.numpy()) or images)
    da.augmentation(erasing=1)(np.zeros((MANY, 29, 41, 1), "float32"), SEED)
    top, left, bottom, right = drawn[0].T
    assert top.min() > -0.001 and left.min() > -0.001
    assert bottom.max() < 29.001 and right.max() < 41.001
    assert_uniform((bottom - top) * (right - left) / (29 * 41), 0.02, 0.33)


def test_share_of_erased_pictures():
    boxes, changed, erased = erased_boxes(0.25)
    assert abs(len(boxes) / MANY - 0.25) < 5 * np.sqrt(0.25 * 0.75 / MANY)
    assert (changed[~erased] == 99.5).all()
