"""Transforms together, their seeds, in pipelines, and bad input."""
import numpy as np
import pytest
import tensorflow as tf
from augmented import (
    ALL_COLOURS,
    ALL_FLIPS,
    ALL_MOVES,
    BATCH,
    EVERYTHING,
    HEIGHT,
    NUMPY_FILL,
    SEED,
    WIDTH,
    measured_matrices,
    pictures,
)

import data_augmentations as da
from vision_transformer.moves import FILL_MODES


def test_erase_fills_the_pixels_whose_centres_are_in_the_box():
    images, fill = pictures(3), -pictures(3) - 1
    boxes = tf.constant([[2.0, 3.0, 5.0, 10.0], [0.4, 0.6, 2.6, 12.4], [0.0, 0.0, 0.0, 0.0]])
    expected = images.copy()
    expected[0, 2:5, 3:10] = fill[0, 2:5, 3:10]
    expected[1, 0:3, 1:12] = fill[1, 0:3, 1:12]
    np.testing.assert_array_equal(da.erase(images, boxes, fill), expected)


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


def traced(batch, **amounts):
    images = tf.TensorSpec((batch, HEIGHT, WIDTH, 3))
    seed = tf.TensorSpec((2,), tf.int32)
    return tf.function(da.augmentation(**amounts)).get_concrete_function(images, seed).graph


def operations(**amounts):
    """Of batches of an unknown size, in which XLA hides none."""
    return [operation.type for operation in traced(None, **amounts).get_operations()]


def compiled_functions(**amounts):
    return sum(f.attr["_XlaMustCompile"].b for f in traced(BATCH, **amounts).as_graph_def().library.function)


def test_all_moves_resample_once():
    assert operations(**EVERYTHING).count("ImageProjectiveTransformV3") == 1
    aligned = operations(**ALL_FLIPS, zoom=0.3, translation=0.2)
    assert aligned.count("BatchMatMulV2") == 3 + 2  # four matrices make one; rows and columns are read


COMPILED = {**dict.fromkeys(EVERYTHING, 0), "rotation": 2, "shear": 2, "hue": 2, "erasing": 1}


def test_xla_compiles_where_that_pays(monkeypatch):
    assert {name: compiled_functions(**{name: EVERYTHING[name]}) for name in EVERYTHING} == COMPILED
    assert compiled_functions(**EVERYTHING) == 2 + 2 + 1 and compiled_functions(policy="trivial") == 0
    monkeypatch.setattr(tf.test, "is_built_with_xla", lambda: False)
    assert compiled_functions(**EVERYTHING) == 0


DRAWS = {**dict.fromkeys(EVERYTHING, 1), "shear": 2, "translation": 2, "erasing": 6}
KERNELS = {
    "DivNoNan": {"hue"},
    "Mean": {"contrast"},
    "ImageProjectiveTransformV3": {"rotation", "shear"},
    "SelectV2": {*ALL_FLIPS, "hue", "erasing"},
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


@pytest.mark.parametrize("fill_mode", FILL_MODES)
def test_flips_and_translations_are_slices_of_the_padded_picture_bit_for_bit(fill_mode):
    images, by = pictures() / 3, -measured_matrices(BATCH, translation=0.25)[:, :, 2].astype(int)
    signs = measured_matrices(BATCH, **ALL_FLIPS)[:, [1, 0], [1, 0]].astype(int)
    assert len(np.unique(signs, axis=0)) > 2 and len(np.unique(by, axis=0)) > 4
    expected = []
    for image, (right, down), (up_down, left_right) in zip(images, by, signs):
        padded = np.pad(image[::up_down, ::left_right], [(3, 3), (3, 3), (0, 0)], **NUMPY_FILL[fill_mode])
        expected.append(padded[3 - down:, 3 - right:][:HEIGHT, :WIDTH])
    changed = da.augmentation(**ALL_FLIPS, translation=0.25, fill_mode=fill_mode)(images, SEED)
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
        [36.0, 54.0, 61.0], [144.1, 190.0, 193.3],
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
    with pytest.raises(ValueError, match=rf"^{name.upper()} .* is not a number from 0 \(off\) to {limit};"):
        da.augmentation(**{name: value})


@pytest.mark.parametrize(("name", "value"), TOO_LARGE.items())
def test_amounts_that_are_too_large_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name.upper()} {value} is not a number"):
        da.augmentation(**{name: value})


@pytest.mark.parametrize("name", EVERYTHING)
def test_the_largest_amounts_are_taken(name):
    changed = da.augmentation(**{name: da.LIMITS[name]})(pictures(), SEED).numpy()
    assert np.isfinite(changed).all() and not np.array_equal(changed, pictures())


@pytest.mark.parametrize("value", ["wrap", "REFLECT", None])
def test_an_unknown_fill_mode_is_refused(value):
    with pytest.raises(ValueError, match=rf"^FILL_MODE {value!r} is unknown; choose one of reflect, nearest,"):
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
    with pytest.raises(ValueError, match=r"TRANSLATION 0\.03 is under half a pixel of 11x13 pictures"):
        da.augmentation(translation=0.03)(pictures(), SEED)
