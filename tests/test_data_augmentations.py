"""data_augmentations against tf.image, Pillow, scipy and numpy, and what its random amounts really are."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance
from scipy import ndimage

import data_augmentations as da

BATCH, HEIGHT, WIDTH = 7, 11, 13
SEED = (5, 3)
MANY = 3000
ALL_COLOURS = {"contrast": 0.3, "brightness": 0.2, "saturation": 0.4, "hue": 0.1}
ALL_FLIPS = {"flip_horizontal": 0.5, "flip_vertical": 0.5}
ALL_MOVES = {**ALL_FLIPS, "rotation": 20, "shear": 10, "zoom": 0.3, "translation": 0.2}
EVERYTHING = {**ALL_COLOURS, **ALL_MOVES, "erasing": 0.5}
SCIPY_FILL = {
    "reflect": {"mode": "reflect"},
    "nearest": {"mode": "nearest"},
    "constant": {"mode": "grid-constant", "cval": 127.5},
}
NUMPY_FILL = {
    "reflect": {"mode": "symmetric"},
    "nearest": {"mode": "edge"},
    "constant": {"mode": "constant", "constant_values": 127.5},
}


def pictures(batch=BATCH, height=HEIGHT, width=WIDTH, channels=3):
    shape = (batch, height, width, channels)
    return np.random.RandomState(0).randint(0, 256, shape).astype("float32")


def uniform(low, high, seed=1):
    return np.random.RandomState(seed).uniform(low, high, BATCH).astype("float32")


def per_picture(function, images, amounts):
    return np.stack([function(image, amount) for image, amount in zip(images, amounts)])


# --- colours ---


def test_adjust_hue_agrees_with_tf_image():
    images, deltas = pictures(), uniform(-0.5, 0.5)
    expected = per_picture(tf.image.adjust_hue, images / 255, deltas) * 255
    np.testing.assert_allclose(da.adjust_hue(images, tf.constant(deltas)), expected, atol=0.02)


def test_adjust_hue_by_a_third_turns_red_to_green_and_back_to_blue():
    red = tf.constant([255.0, 0.0, 0.0]) * tf.ones((2, 3, 5, 1))
    turned = da.adjust_hue(red, tf.constant([1 / 3, -1 / 3]))
    np.testing.assert_allclose(turned[0, 0, 0], [0, 255, 0], atol=1e-3)
    np.testing.assert_allclose(turned[1, 0, 0], [0, 0, 255], atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_agrees_with_tf_image(channels):
    images, factors = pictures(channels=channels), uniform(0, 2)
    expected = per_picture(tf.image.adjust_contrast, images, factors)
    np.testing.assert_allclose(da.adjust_colours(images, contrast=tf.constant(factors)), expected, atol=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_agrees_with_tf_image(channels):
    images, deltas = pictures(channels=channels), uniform(-1, 1)
    expected = per_picture(tf.image.adjust_brightness, images, 255 * deltas)
    np.testing.assert_allclose(da.adjust_colours(images, brightness=tf.constant(deltas)), expected, atol=0.01)


def pillow_saturation(image, factor):
    return np.asarray(ImageEnhance.Color(Image.fromarray(image.astype("uint8"))).enhance(factor), "float32")


def test_saturation_agrees_with_pillow():
    images, factors = pictures(), uniform(0, 2)
    expected = per_picture(pillow_saturation, images, factors)
    ours = np.clip(da.adjust_colours(images, saturation=tf.constant(factors)), 0, 255)
    assert np.abs(ours - expected).max() < 2  # Pillow rounds its grey down or up, and the sum down
    assert np.abs(ours - expected).mean() < 0.6


def numpy_colours(image, order, contrast, saturation, brightness):
    for name in order:
        if name == "contrast":
            mean = image.mean(axis=(0, 1))
            image = mean + contrast * (image - mean)
        elif name == "saturation":
            grey = (image @ np.array([0.299, 0.587, 0.114]))[..., None]
            image = grey + saturation * (image - grey)
        else:
            image = image + 255 * brightness
    return image


@pytest.mark.parametrize("order", itertools.permutations(["contrast", "saturation", "brightness"]))
def test_colours_together_are_each_in_turn_in_any_order(order):
    images = pictures()
    amounts = {"contrast": uniform(0, 2, 1), "saturation": uniform(0, 2, 2), "brightness": uniform(-1, 1, 3)}
    expected = [
        numpy_colours(images[i].astype("float64"), order, **{name: amounts[name][i] for name in order})
        for i in range(BATCH)
    ]
    ours = da.adjust_colours(images, **{name: tf.constant(amounts[name]) for name in order})
    np.testing.assert_allclose(ours, expected, atol=0.01)


def test_hue_and_saturation_leave_one_channel_alone():
    images = pictures(channels=1)
    np.testing.assert_array_equal(da.adjust_hue(images, tf.constant(uniform(-0.5, 0.5))), images)
    np.testing.assert_array_equal(da.adjust_colours(images, saturation=tf.constant(uniform(0, 2))), images)


# --- moves ---


def reference_move(name, amount):
    """Where a move takes the point (x, y, 1), x right and y down: the inverse of what the op wants."""
    turn, lean = np.radians(amount), np.tan(np.radians(amount))
    return np.array(
        {
            "rotation": [[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]],
            "shear_x": [[1, -lean, 0], [0, 1, 0], [0, 0, 1]],
            "shear_y": [[1, 0, 0], [-lean, 1, 0], [0, 0, 1]],
            "zoom": [[amount, 0, 0], [0, amount, 0], [0, 0, 1]],
            "right": [[1, 0, amount], [0, 1, 0], [0, 0, 1]],
            "down": [[1, 0, 0], [0, 1, amount], [0, 0, 1]],
        }[name],
        "float64",
    )


def scipy_transform(image, move, fill_mode):
    height, width, _ = image.shape
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])  # scipy counts (row, column)
    read = swap @ np.linalg.inv(move) @ swap
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    offset = centre + read[:2, 2] - read[:2, :2] @ centre
    channels = [
        ndimage.affine_transform(channel, read[:2, :2], offset, order=1, **SCIPY_FILL[fill_mode])
        for channel in np.moveaxis(image.astype("float64"), -1, 0)
    ]
    return np.stack(channels, axis=-1)


ZEROS = tf.zeros(BATCH)
BUILDERS = {
    "rotation": (da.rotation_matrices, 180),
    "shear_x": (lambda degrees: da.shear_matrices(degrees, ZEROS), 45),
    "shear_y": (lambda degrees: da.shear_matrices(ZEROS, degrees), 45),
    "right": (lambda pixels: da.translation_matrices(ZEROS, pixels), 6),
    "down": (lambda pixels: da.translation_matrices(pixels, ZEROS), 5),
}


@pytest.mark.parametrize("fill_mode", da.FILL_MODES)
@pytest.mark.parametrize("name", BUILDERS)
def test_each_move_agrees_with_scipy_to_the_edge(name, fill_mode):
    build, most = BUILDERS[name]
    images, amounts = pictures(), uniform(-most, most)
    moves = [reference_move(name, amount) for amount in amounts]
    expected = [scipy_transform(image, move, fill_mode) for image, move in zip(images, moves)]
    ours = da.transform(images, build(tf.constant(amounts)), fill_mode)
    np.testing.assert_allclose(ours, expected, atol=0.05)


@pytest.mark.parametrize("fill_mode", da.FILL_MODES)
def test_scale_agrees_with_scipy_on_each_axis(fill_mode):
    images, vertical, horizontal = pictures(), uniform(0.5, 2, 1), uniform(0.5, 2, 2)
    matrices = da.scale_matrices(tf.constant(vertical), tf.constant(horizontal))
    moves = [np.diag([x, y, 1]) for x, y in zip(horizontal, vertical)]
    expected = [scipy_transform(image, move, fill_mode) for image, move in zip(images, moves)]
    np.testing.assert_allclose(da.transform(images, matrices, fill_mode), expected, atol=0.05)


@pytest.mark.parametrize("fill_mode", da.FILL_MODES)
def test_a_product_of_matrices_is_the_moves_from_left_to_right(fill_mode):
    images = pictures()
    degrees, factors, pixels = uniform(-90, 90, 1), uniform(0.6, 1.6, 2), uniform(-4, 4, 3)
    matrices = (
        da.scale_matrices(tf.constant(factors), tf.constant(factors))
        @ da.shear_matrices(tf.constant(degrees / 4), tf.constant(-degrees / 3))
        @ da.rotation_matrices(tf.constant(degrees))
        @ da.translation_matrices(ZEROS, tf.constant(pixels))
    )
    expected = []
    for image, angle, factor, pixel in zip(images, degrees, factors, pixels):
        shears = [("shear_x", angle / 4), ("shear_y", -angle / 3)]
        move = np.eye(3)
        for name, amount in [("zoom", factor), *shears, ("rotation", angle), ("right", pixel)]:
            move = reference_move(name, amount) @ move
        expected.append(scipy_transform(image, move, fill_mode))
    np.testing.assert_allclose(da.transform(images, matrices, fill_mode), expected, atol=0.05)


def test_rotation_turns_as_pillow_does():
    images, degrees = pictures(channels=1), uniform(-40, 40)
    expected = [
        np.asarray(Image.fromarray(image[..., 0]).rotate(float(angle), Image.BILINEAR))
        for image, angle in zip(images, degrees)
    ]
    ours = da.transform(images, da.rotation_matrices(tf.constant(degrees)))[..., 0]
    inner = (slice(None), slice(3, -3), slice(4, -4))
    np.testing.assert_allclose(ours[inner], np.stack(expected)[inner], atol=0.05)


def test_a_quarter_turn_is_counter_clockwise():
    images = pictures(height=HEIGHT, width=HEIGHT)
    ours = da.transform(images, da.rotation_matrices(tf.fill([BATCH], 90.0)))
    np.testing.assert_allclose(ours, np.rot90(images, axes=(1, 2)), atol=0.01)


def moved_dot(matrices, row, column):
    """Where a dot of a picture of 11 x 13, whose centre is (5, 6), ends."""
    image = np.zeros((1, HEIGHT, WIDTH, 1), "float32")
    image[0, row, column] = 255
    moved = da.transform(image, matrices, "constant")[0, ..., 0].numpy()
    return np.unravel_index(np.argmax(moved), moved.shape)


@pytest.mark.parametrize(
    ("matrices", "start", "end"),
    [
        (da.shear_matrices(tf.constant([45.0]), tf.constant([0.0])), (3, 6), (3, 8)),  # 2 up: 2 to the right
        (da.shear_matrices(tf.constant([0.0]), tf.constant([45.0])), (5, 9), (2, 9)),  # 3 to the right: 3 up
        (da.scale_matrices(tf.constant([2.0]), tf.constant([3.0])), (4, 7), (3, 9)),  # 1 up: 2; 1 right: 3
        (da.translation_matrices(tf.constant([1.0]), tf.constant([-2.0])), (4, 7), (5, 5)),
        (da.rotation_matrices(tf.constant([90.0])), (5, 8), (3, 6)),  # from the right to the top
    ],
)
def test_the_directions_of_the_moves_by_hand(matrices, start, end):
    assert moved_dot(matrices, *start) == end


@pytest.mark.parametrize("size", [(11, 13), (12, 14)])
@pytest.mark.parametrize("interpolation", da.INTERPOLATIONS)
def test_a_flip_gives_back_the_very_pixels(size, interpolation):
    images = pictures(BATCH, *size) / 3  # fractions, so that any mixing would show
    chosen = np.arange(BATCH) % 3 == 0
    signs = tf.constant(np.where(chosen, -1.0, 1.0), tf.float32)
    left_right = da.transform(images, da.scale_matrices(1.0, signs), interpolation=interpolation)
    up_down = da.transform(images, da.scale_matrices(signs, 1.0), interpolation=interpolation)
    chosen = chosen[:, None, None, None]
    np.testing.assert_array_equal(left_right, np.where(chosen, tf.image.flip_left_right(images), images))
    np.testing.assert_array_equal(up_down, np.where(chosen, tf.image.flip_up_down(images), images))


@pytest.mark.parametrize("interpolation", da.INTERPOLATIONS)
@pytest.mark.parametrize("fill_mode", da.FILL_MODES)
def test_moves_by_whole_pixels_are_slices_of_the_padded_picture(fill_mode, interpolation):
    images = pictures() / 3
    down, right = np.array([0, 1, -1, 4, -4, 3, 0]), np.array([0, -2, 5, 0, 5, -5, 1])
    padded = np.pad(images, [(0, 0), (5, 5), (5, 5), (0, 0)], **NUMPY_FILL[fill_mode])
    expected = [padded[i, 5 - down[i] :, 5 - right[i] :][:HEIGHT, :WIDTH] for i in range(BATCH)]
    matrices = da.translation_matrices(tf.constant(down, tf.float32), tf.constant(right, tf.float32))
    np.testing.assert_array_equal(da.transform(images, matrices, fill_mode, interpolation), expected)


@pytest.mark.parametrize("bad", [{"fill_mode": "wrap"}, {"interpolation": "cubic"}])
def test_transform_refuses_unknown_modes(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"{name}='{value}' is unknown; choose one of .*nearest"):
        da.transform(pictures(), da.rotation_matrices(ZEROS), **bad)


# --- erasing ---


def test_erase_fills_the_pixels_whose_centres_are_in_the_box():
    images, fill = pictures(3), -pictures(3) - 1
    boxes = tf.constant([[2.0, 3.0, 5.0, 10.0], [0.4, 0.6, 2.6, 12.4], [0.0, 0.0, 0.0, 0.0]])
    expected = images.copy()
    expected[0, 2:5, 3:10] = fill[0, 2:5, 3:10]
    expected[1, 0:3, 1:12] = fill[1, 0:3, 1:12]
    np.testing.assert_array_equal(da.erase(images, boxes, fill), expected)


# --- chance: what the random amounts are ---
# Two channels that rise with x and with y tell, in the middle of the result, by which matrix the picture was
# moved: bilinear interpolation keeps straight slopes.

SLOPE = 8.0


def slopes(batch):
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype("float32")
    image = 127.5 + SLOPE * np.stack([x - 6, y - 5, np.zeros_like(x)], axis=-1)
    return np.repeat(image[None], batch, axis=0)


def measured_matrices(batch=MANY, seed=SEED, **moves):
    moved = (da.augmentation(**moves)(slopes(batch), seed).numpy().astype("float64") - 127.5) / SLOPE
    along_x = (moved[:, 5, 7] - moved[:, 5, 5]) / 2
    along_y = (moved[:, 6, 6] - moved[:, 4, 6]) / 2
    return np.stack([along_x, along_y, moved[:, 5, 6]], axis=-1)[:, :2]


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
    np.testing.assert_allclose(changed @ np.array(da.LUMA), 150 * 0.299 + 120 * 0.587 + 90 * 0.114, atol=1e-3)


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


# --- chance: composition, seeds, pipelines ---


def test_moves_together_are_the_single_moves_drawn_alike():
    single = {name: measured_matrices(50, **{name: amount}) for name, amount in ALL_MOVES.items()}
    third_row = np.broadcast_to([[0.0, 0.0, 1.0]], (50, 1, 3))
    product = np.eye(3)
    for name in ("flip_horizontal", "flip_vertical", "zoom", "shear", "rotation", "translation"):
        product = product @ np.concatenate([single[name], third_row], axis=1)
    np.testing.assert_allclose(measured_matrices(50, **ALL_MOVES), product[:, :2], atol=2e-3)


def test_colours_together_are_the_single_colours_drawn_alike():
    images = 100 + pictures() / 5  # far from 0 and 255: nothing is clipped
    gentle = {"hue": 0.3, "contrast": 0.5, "saturation": 0.5, "brightness": 0.1}
    one_by_one = images
    for name, amount in gentle.items():
        one_by_one = da.augmentation(**{name: amount})(one_by_one, SEED)
    np.testing.assert_allclose(da.augmentation(**gentle)(images, SEED), one_by_one, atol=0.01)


def test_colours_change_before_the_moves_and_erasing_comes_last():
    images = 60 + pictures() / 2
    colours, erasing = {"contrast": 0.2, "brightness": 0.1}, {"erasing": 0.9}
    one_by_one = images
    for part in (colours, ALL_MOVES, erasing):
        one_by_one = da.augmentation(fill_mode="constant", **part)(one_by_one, SEED)
    together = da.augmentation(fill_mode="constant", **colours, **ALL_MOVES, **erasing)(images, SEED)
    np.testing.assert_allclose(together, one_by_one, atol=0.01)


def test_the_streams_are_independent():
    draws = np.stack([da._draw(SEED, (MANY,), stream) for stream in da.STREAMS])
    correlations = np.corrcoef(np.concatenate([draws, np.stack([da._draw((5, 4), (MANY,), "rotation")])]))
    assert np.abs(correlations - np.eye(len(correlations))).max() < 0.1


def operations(**amounts):
    images = tf.TensorSpec((BATCH, HEIGHT, WIDTH, 3))
    seed = tf.TensorSpec((2,), tf.int32)
    graph = tf.function(da.augmentation(**amounts)).get_concrete_function(images, seed).graph
    return [operation.type for operation in graph.get_operations()]


def test_all_moves_resample_once():
    assert operations(**EVERYTHING).count("ImageProjectiveTransformV3") == 1


DRAWS = {**dict.fromkeys(EVERYTHING, 1), "shear": 2, "translation": 2, "erasing": 6}
KERNELS = {
    "RGBToHSV": {"hue"},
    "Mean": {"contrast"},
    "ImageProjectiveTransformV3": set(ALL_MOVES),
    "SelectV2": {*ALL_FLIPS, "erasing"},
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_is_off_is_not_in_the_graph(name):
    present = operations(**{name: EVERYTHING[name]})
    assert present.count("StatelessRandomGetKeyCounter") == 2 * DRAWS[name]  # one for the stream, one for the draw
    for kernel, users in KERNELS.items():
        assert (kernel in present) == (name in users)


def test_all_off_draws_nothing():
    assert set(operations()) == {"Placeholder", "Const", "Minimum", "Maximum", "Identity"}


def test_flips_and_translation_alone_mix_no_pixels():
    images = np.arange(HEIGHT * WIDTH, dtype="float32").reshape(1, HEIGHT, WIDTH, 1).repeat(100, axis=0) + 0.5
    changed = da.augmentation(flip_horizontal=0.5, flip_vertical=0.5, translation=0.3)(images, SEED).numpy()
    assert set(np.unique(changed)) == set(np.unique(images))
    assert len(np.unique(changed, axis=0)) > 80


@pytest.mark.parametrize("fill_mode", da.FILL_MODES)
def test_moved_pictures_show_the_chosen_fill(fill_mode):
    images, by = pictures(), -measured_matrices(BATCH, translation=0.25)[:, :, 2].astype(int)
    padded = np.pad(images, [(0, 0), (3, 3), (3, 3), (0, 0)], **NUMPY_FILL[fill_mode])
    expected = [padded[i, 3 - by[i, 1] :, 3 - by[i, 0] :][:HEIGHT, :WIDTH] for i in range(BATCH)]
    changed = da.augmentation(translation=0.25, fill_mode=fill_mode)(images, SEED)
    np.testing.assert_array_equal(changed, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_all_off_leaves_the_pictures_bit_for_bit(channels):
    images = pictures(channels=channels) / 3
    np.testing.assert_array_equal(da.augmentation()(images, SEED), images)


@pytest.mark.parametrize("name", ["rotation", "shear", "zoom", *ALL_COLOURS, "erasing"])
def test_each_picture_of_a_batch_and_each_step_has_its_own_amount(name):
    images = np.repeat(pictures(1), 20, axis=0)
    augment = da.augmentation(**{name: 0.4})
    changed = [augment(images, seed).numpy() for seed in ((5, 3), (5, 4), (6, 3))]
    if name == "erasing":  # only some are erased at all
        assert all(3 < len(np.unique(each, axis=0)) < 18 for each in changed)
        assert len(np.unique(np.concatenate(changed), axis=0)) > 10
    else:
        assert len(np.unique(np.concatenate(changed), axis=0)) == 60


def test_one_channel_takes_every_change():
    images = pictures(channels=1)
    changed = da.augmentation(**EVERYTHING)(images, SEED)
    without_colour = {**EVERYTHING, "hue": 0, "saturation": 0}
    assert changed.shape == images.shape
    np.testing.assert_array_equal(changed, da.augmentation(**without_colour)(images, SEED))


def test_values_are_clipped():
    augment = da.augmentation(contrast=1, brightness=1, saturation=1, hue=0.5, rotation=30)
    changed = augment(pictures(), SEED).numpy()
    assert changed.min() == 0 and changed.max() == 255


@pytest.mark.parametrize("drop_remainder", [True, False])
@pytest.mark.parametrize("amounts", [*({name: EVERYTHING[name]} for name in EVERYTHING), EVERYTHING])
def test_a_pipeline_gives_what_an_eager_call_gives(amounts, drop_remainder):
    images = pictures(2 * BATCH)
    augment = da.augmentation(**amounts)
    batches = tf.data.Dataset.from_tensor_slices(images).batch(BATCH, drop_remainder)
    batches = batches.enumerate().map(lambda step, batch: augment(batch, [5, step]), tf.data.AUTOTUNE)
    assert batches.element_spec.shape.as_list() == [BATCH if drop_remainder else None, HEIGHT, WIDTH, 3]
    for step, batch in enumerate(batches):
        eager = augment(images[step * BATCH : (step + 1) * BATCH], tf.constant([5, step]))
        np.testing.assert_allclose(batch, eager, atol=0.01)
        np.testing.assert_array_equal(eager, augment(images[step * BATCH : (step + 1) * BATCH], [5, step]))


def test_a_seed_gives_these_very_pictures_on_every_stack():
    changed = da.augmentation(**EVERYTHING)(pictures(), SEED).numpy()
    expected = [
        [0.8, 83.0, 43.4], [150.9, 96.2, 22.9], [86.1, 105.7, 143.0], [10.7, 213.0, 8.0], [5.9, 59.8, 93.2],
        [216.0, 77.0, 222.0], [144.1, 190.0, 193.3],
    ]
    np.testing.assert_allclose(changed[:, 4, 9], expected, atol=0.25)


def test_bytes_are_cast():
    images = pictures()
    changed = da.augmentation(**EVERYTHING)(images.astype("uint8"), SEED)
    assert changed.dtype == tf.float32
    np.testing.assert_array_equal(changed, da.augmentation(**EVERYTHING)(images, SEED))


def test_numpy_numbers_are_numbers():
    plain = da.augmentation(**EVERYTHING)
    numpy = da.augmentation(**{name: np.float64(amount) for name, amount in EVERYTHING.items()})
    np.testing.assert_allclose(tf.function(numpy)(pictures(), SEED), plain(pictures(), SEED), atol=0.01)


# --- bad input ---

TOO_LARGE = {**dict.fromkeys(EVERYTHING, 1.01), "rotation": 181, "shear": 46, "hue": 0.51}


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), True, False, "0.1", None, (0.1, 0.2)])
def test_what_is_no_amount_is_refused(name, value):
    limit = f"{da.LIMITS[name]:g}"
    with pytest.raises(ValueError, match=rf"^{name}=.* is not a number from 0 \(off\) to {limit};"):
        da.augmentation(**{name: value})


@pytest.mark.parametrize(("name", "value"), TOO_LARGE.items())
def test_amounts_that_are_too_large_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name}={value} is not a number"):
        da.augmentation(**{name: value})


@pytest.mark.parametrize("name", EVERYTHING)
def test_the_largest_amounts_are_taken(name):
    changed = da.augmentation(**{name: da.LIMITS[name]})(pictures(), SEED).numpy()
    assert np.isfinite(changed).all() and not np.array_equal(changed, pictures())


@pytest.mark.parametrize("value", ["wrap", "REFLECT", None])
def test_an_unknown_fill_mode_is_refused(value):
    with pytest.raises(ValueError, match=r"fill_mode=.* is unknown; choose one of reflect, nearest,"):
        da.augmentation(fill_mode=value)


@pytest.mark.parametrize("shape", [(11, 13, 3), (7, 11, 13, 2), (7, 11, 13, 4), (1, 7, 11, 13, 3)])
def test_pictures_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"images of shape .* are not \(B, H, W, C\)"):
        da.augmentation()(np.zeros(shape, "float32"), SEED)


@pytest.mark.parametrize("shape", [None, (None, None, 13, 3), (None, 11, 13, None)])
def test_pictures_of_unknown_size_are_refused(shape):
    augment = tf.function(da.augmentation())
    with pytest.raises(ValueError, match=r"images of shape .* are not \(B, H, W, C\)"):
        augment.get_concrete_function(tf.TensorSpec(shape), tf.TensorSpec((2,), tf.int32))


def test_a_translation_that_would_do_nothing_is_refused():
    with pytest.raises(ValueError, match=r"translation=0\.03 is under half a pixel of 11x13 pictures"):
        da.augmentation(translation=0.03)(pictures(), SEED)
