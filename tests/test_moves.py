"""Moves against scipy, Pillow and numpy, each way of resampling."""
import numpy as np
import pytest
import tensorflow as tf
from augmented import BATCH, HEIGHT, NUMPY_FILL, WIDTH, pictures, uniform
from PIL import Image
from scipy import ndimage

from vision_transformer.moves import (
    FILL_MODES,
    rotation_matrices,
    scale_matrices,
    shear_matrices,
    transform,
    transform_aligned,
    transform_compiled,
    translation_matrices,
)

SCIPY_FILL = {
    "reflect": {"mode": "reflect"},
    "nearest": {"mode": "nearest"},
    "constant": {"mode": "grid-constant", "cval": 127.5},
}


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


WAYS = (transform, transform_compiled, transform_aligned)       # the last: where rows stay rows
ZEROS = tf.zeros(BATCH)
BUILDERS = {
    "rotation": (rotation_matrices, 180),
    "shear_x": (lambda degrees: shear_matrices(degrees, ZEROS), 45),
    "shear_y": (lambda degrees: shear_matrices(ZEROS, degrees), 45),
    "right": (lambda pixels: translation_matrices(ZEROS, pixels), 6),
    "down": (lambda pixels: translation_matrices(pixels, ZEROS), 5),
}


@pytest.mark.parametrize("fill_mode", FILL_MODES)
@pytest.mark.parametrize("name", BUILDERS)
def test_each_move_agrees_with_scipy_to_the_edge(name, fill_mode):
    build, most = BUILDERS[name]
    images, amounts = pictures(), uniform(-most, most)
    moves = [reference_move(name, amount) for amount in amounts]
    expected = [scipy_transform(image, move, fill_mode) for image, move in zip(images, moves)]
    for way in WAYS if name in ("right", "down") else WAYS[:2]:
        np.testing.assert_allclose(way(images, build(tf.constant(amounts)), fill_mode), expected, atol=0.05)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fill_mode", FILL_MODES)
def test_scale_agrees_with_scipy_on_each_axis(fill_mode, way):
    images, vertical, horizontal = pictures(), uniform(0.5, 2, 1), uniform(0.5, 2, 2)
    matrices = scale_matrices(tf.constant(vertical), tf.constant(horizontal))
    moves = [np.diag([x, y, 1]) for x, y in zip(horizontal, vertical)]
    expected = [scipy_transform(image, move, fill_mode) for image, move in zip(images, moves)]
    np.testing.assert_allclose(way(images, matrices, fill_mode), expected, atol=0.05)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fill_mode", FILL_MODES)
def test_all_ways_give_the_same_however_far(fill_mode, channels):
    images = pictures(channels=channels)
    matrices = (
        scale_matrices(tf.constant(uniform(-2, -0.4, 1)), tf.constant(uniform(0.4, 2, 2)))
        @ translation_matrices(tf.constant(uniform(-40, 40, 3)), tf.constant(uniform(-40, 40, 4)))
    )
    by_op, *others = (way(images, matrices, fill_mode) for way in WAYS)
    for other in others:
        np.testing.assert_allclose(other, by_op, atol=0.05)


@pytest.mark.parametrize("fill_mode", FILL_MODES)
def test_a_product_of_matrices_is_the_moves_from_left_to_right(fill_mode):
    images = pictures()
    degrees, factors, pixels = uniform(-90, 90, 1), uniform(0.6, 1.6, 2), uniform(-4, 4, 3)
    matrices = (
        scale_matrices(tf.constant(factors), tf.constant(factors))
        @ shear_matrices(tf.constant(degrees / 4), tf.constant(-degrees / 3))
        @ rotation_matrices(tf.constant(degrees))
        @ translation_matrices(ZEROS, tf.constant(pixels))
    )
    expected = []
    for image, angle, factor, pixel in zip(images, degrees, factors, pixels):
        shears = [("shear_x", angle / 4), ("shear_y", -angle / 3)]
        move = np.eye(3)
        for name, amount in [("zoom", factor), *shears, ("rotation", angle), ("right", pixel)]:
            move = reference_move(name, amount) @ move
        expected.append(scipy_transform(image, move, fill_mode))
    for way in WAYS[:2]:
        np.testing.assert_allclose(way(images, matrices, fill_mode), expected, atol=0.05)


def test_rotation_turns_as_pillow_does():
    images, degrees = pictures(channels=1), uniform(-40, 40)
    expected = [
        np.asarray(Image.fromarray(image[..., 0]).rotate(float(angle), Image.BILINEAR))
        for image, angle in zip(images, degrees)
    ]
    ours = transform(images, rotation_matrices(tf.constant(degrees)))[..., 0]
    inner = (slice(None), slice(3, -3), slice(4, -4))
    np.testing.assert_allclose(ours[inner], np.stack(expected)[inner], atol=0.05)


def test_a_quarter_turn_is_counter_clockwise():
    images = pictures(height=HEIGHT, width=HEIGHT)
    ours = transform(images, rotation_matrices(tf.fill([BATCH], 90.0)))
    np.testing.assert_allclose(ours, np.rot90(images, axes=(1, 2)), atol=0.01)


def moved_dot(matrices, row, column):
    """Where a dot of a picture of 11 x 13, whose centre is (5, 6), ends."""
    image = np.zeros((1, HEIGHT, WIDTH, 1), "float32")
    image[0, row, column] = 255
    moved = transform(image, matrices, "constant")[0, ..., 0].numpy()
    return np.unravel_index(np.argmax(moved), moved.shape)


@pytest.mark.parametrize(
    ("matrices", "start", "end"),
    [
        (shear_matrices(tf.constant([45.0]), tf.constant([0.0])), (3, 6), (3, 8)),  # 2 up: 2 to the right
        (shear_matrices(tf.constant([0.0]), tf.constant([45.0])), (5, 9), (2, 9)),  # 3 to the right: 3 up
        (scale_matrices(tf.constant([2.0]), tf.constant([3.0])), (4, 7), (3, 9)),  # 1 up: 2; 1 right: 3
        (translation_matrices(tf.constant([1.0]), tf.constant([-2.0])), (4, 7), (5, 5)),
        (rotation_matrices(tf.constant([90.0])), (5, 8), (3, 6)),  # from the right to the top
    ],
)
def test_the_directions_of_the_moves_by_hand(matrices, start, end):
    assert moved_dot(matrices, *start) == end


@pytest.mark.parametrize("size", [(11, 13), (12, 14)])
@pytest.mark.parametrize("way", WAYS)
def test_a_flip_gives_back_the_very_pixels(size, way):
    images = pictures(BATCH, *size) / 3  # fractions, so that any mixing would show
    chosen = np.arange(BATCH) % 3 == 0
    signs = tf.constant(np.where(chosen, -1.0, 1.0), tf.float32)
    left_right = way(images, scale_matrices(1.0, signs))
    up_down = way(images, scale_matrices(signs, 1.0))
    chosen = chosen[:, None, None, None]
    np.testing.assert_array_equal(left_right, np.where(chosen, tf.image.flip_left_right(images), images))
    np.testing.assert_array_equal(up_down, np.where(chosen, tf.image.flip_up_down(images), images))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fill_mode", FILL_MODES)
def test_moves_by_whole_pixels_are_slices_of_the_padded_picture(fill_mode, way):
    images = pictures() / 3
    down, right = np.array([0, 1, -1, 4, -4, 3, 0]), np.array([0, -2, 5, 0, 5, -5, 1])
    padded = np.pad(images, [(0, 0), (5, 5), (5, 5), (0, 0)], **NUMPY_FILL[fill_mode])
    expected = [padded[i, 5 - down[i] :, 5 - right[i] :][:HEIGHT, :WIDTH] for i in range(BATCH)]
    matrices = translation_matrices(tf.constant(down, tf.float32), tf.constant(right, tf.float32))
    np.testing.assert_array_equal(way(images, matrices, fill_mode), expected)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_refuses_unknown_modes(way):
    with pytest.raises(ValueError, match=r"^FILL_MODE 'wrap' is unknown; choose one of reflect, nearest, constant\.$"):
        way(pictures(), rotation_matrices(ZEROS), "wrap")
