"""Policies and their operations, against Pillow, and who gets which operation how strong."""
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

import data_augmentations as da
from vision_transformer.colours import posterize, smooth, solarize
from vision_transformer.policies import OPERATIONS, deal, draw_policy, make_kernels

BATCH, HEIGHT, WIDTH = 7, 29, 41
SEED = (5, 3)
MANY = 3000


def pictures(channels=3, batch=BATCH, height=HEIGHT, width=WIDTH):
    """Skewed colours, so that there is something to stretch; a flat picture, one of two values, a mostly white one."""
    rng = np.random.RandomState(0)
    images = (rng.beta(2, 5, (batch, height, width, channels)) * 200 + 20).astype("uint8")
    images[1] = 37
    images[2] = np.where(rng.rand(height, width, channels) < 0.3, 11, 240)
    images[3][rng.rand(height, width) < 0.9] = 255
    return images


def pillow(change, images, *amounts):
    def one(image, *amount):
        picture = Image.fromarray(image if image.shape[2] == 3 else image[..., 0])
        return np.asarray(change(picture, *amount), "float32").reshape(image.shape)

    return np.stack([one(image, *amount) for image, *amount in zip(images, *amounts)])


def kernels(policy="trivial", fill_mode="reflect"):
    return make_kernels(policy, HEIGHT, WIDTH, fill_mode)


def changed(name, images, strengths, policy="trivial", **others):
    return kernels(policy, **others)[name](tf.constant(images, tf.float32), tf.constant(strengths, tf.float32)).numpy()


STRENGTHS = np.linspace(-1, 1, BATCH).astype("float32")


# --- each operation alone ---


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("policy", "range_"), [("trivial", 0.99), ("rand", 0.9)])
@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness"])
def test_enhancements_agree_with_pillow(name, policy, range_, channels):
    images = pictures(channels)
    enhancer = getattr(ImageEnhance, name.capitalize())
    factors = [float(1 + range_ * strength) for strength in STRENGTHS]
    expected = pillow(lambda image, factor: enhancer(image).enhance(factor), images, factors)
    ours = changed(name, images, STRENGTHS, policy)
    assert np.abs(ours - expected).max() < 2  # Pillow rounds its grey, mean or smooth picture, and then the sum down
    assert np.abs(ours - expected).mean() < 0.6
    assert np.allclose(ours, images, atol=5) == (name == "color" and channels == 1)


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (2, 5), (5, 2), (3, 3)])
def test_smooth_is_pillows(size):
    images = np.random.RandomState(1).randint(0, 256, (BATCH, *size, 3)).astype("uint8")
    expected = pillow(lambda image: image.filter(ImageFilter.SMOOTH), images)
    np.testing.assert_allclose(smooth(tf.constant(images, tf.float32)), expected, atol=0.501)


@pytest.mark.parametrize("channels", [1, 3])
def test_solarize_is_pillows(channels):
    images = pictures(channels)
    expected = pillow(ImageOps.solarize, images, [0, 1, 37, 38, 100, 255, 256])
    thresholds = tf.constant([0.0, 1, 37, 38, 100, 255, 256])
    np.testing.assert_array_equal(solarize(tf.constant(images, tf.float32), thresholds), expected)
    by_strength = pillow(ImageOps.solarize, images, [0, 85.4, 170.7, 256, 170.7, 85.4, 0])
    np.testing.assert_array_equal(changed("solarize", images, STRENGTHS), by_strength)


@pytest.mark.parametrize("channels", [1, 3])
def test_posterize_is_pillows(channels):
    images = pictures(channels)
    bits = [1, 2, 3, 4, 6, 7, 8]
    expected = pillow(ImageOps.posterize, images, bits)
    ours = posterize(tf.constant(images, tf.float32), tf.constant(bits, tf.float32))
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(("policy", "bits"), [("trivial", [2, 4, 6, 8]), ("rand", [4, 5, 7, 8])])
def test_posterize_takes_as_many_bits_as_the_policy_says(policy, bits):
    ramp = np.arange(256, dtype="float32").reshape(1, 16, 16, 1).repeat(4, axis=0)
    ours = changed("posterize", ramp, [-1, 20 / 30, -10 / 30, 0], policy)
    assert [len(np.unique(image)) for image in ours] == [2 ** b for b in bits]


@pytest.mark.parametrize("channels", [1, 3])
def test_autocontrast_is_pillows(channels):
    images = pictures(channels)
    ours = changed("autocontrast", images, STRENGTHS)
    expected = pillow(ImageOps.autocontrast, images)
    assert np.abs(ours - expected - 0.5).max() < 0.501  # Pillow rounds down
    np.testing.assert_array_equal(ours[1], images[1])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (11, 13)])
def test_equalize_is_pillows(size, channels):
    images = pictures(channels, height=size[0], width=size[1])
    ours = changed("equalize", images, STRENGTHS)
    np.testing.assert_array_equal(ours, pillow(ImageOps.equalize, images))
    np.testing.assert_array_equal(ours[1], images[1])
    np.testing.assert_array_equal(changed("equalize", images + 0.4, STRENGTHS), ours)  # to whole values first


MATRICES = {  # of strength s: where x and y of the result are read, from the centre
    "rotate": lambda s, turn, _: [[np.cos(s * turn), -np.sin(s * turn)], [np.sin(s * turn), np.cos(s * turn)]],
    "shear_x": lambda s, _, lean: [[1, s * lean], [0, 1]],
    "shear_y": lambda s, _, lean: [[1, 0], [s * lean, 1]],
}


@pytest.mark.parametrize(("policy", "degrees", "lean"), [("trivial", 135, 0.99), ("rand", 30, 0.3)])
@pytest.mark.parametrize("name", MATRICES)
def test_turns_and_leans_go_as_far_as_the_policy_says(name, policy, degrees, lean):
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype("float32")
    slopes = np.stack([x - 20, y - 14], axis=-1)[None].repeat(BATCH, axis=0)
    moved = changed(name, np.pad(slopes, [(0, 0)] * 3 + [(0, 1)]), STRENGTHS, policy)[..., :2].astype("float64")
    measured = np.stack([(moved[:, 14, 22] - moved[:, 14, 18]) / 4, (moved[:, 16, 20] - moved[:, 12, 20]) / 4], axis=-1)
    expected = [MATRICES[name](s, np.radians(degrees), lean) for s in STRENGTHS]
    np.testing.assert_allclose(measured, expected, atol=1e-3)


@pytest.mark.parametrize(("policy", "most"), [("trivial", {1: 29, 2: 32}), ("rand", {1: 13, 2: 18})])
@pytest.mark.parametrize(("name", "axis"), [("translate_x", 2), ("translate_y", 1)])
def test_translations_go_whole_pixels_as_far_as_the_policy_says(name, axis, policy, most):
    images = pictures()
    expected = []
    for image, strength in zip(images, STRENGTHS):
        by = int(strength * (HEIGHT * 150 / 331, WIDTH * 150 / 331)[axis - 1]) if policy == "rand" else int(
            strength * most[axis])
        padded = np.pad(image, [(40, 40), (40, 40), (0, 0)], mode="symmetric")
        down, right = (by, 0) if axis == 1 else (0, by)
        expected.append(padded[40 - down:, 40 - right:][:HEIGHT, :WIDTH])
        assert abs(by) <= most[axis]
    np.testing.assert_array_equal(changed(name, images, STRENGTHS, policy), expected)


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_a_moved_picture_shows_the_chosen_fill(name):
    images = np.zeros((BATCH, HEIGHT, WIDTH, 1))
    assert set(np.unique(changed(name, images, STRENGTHS, fill_mode="reflect"))) == {0}
    assert changed(name, images, STRENGTHS, fill_mode="constant")[0].max() == 127.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_strength_changes_nothing_but_what_has_none(name, channels):
    images = pictures(channels)
    ours = changed(name, images, np.zeros(BATCH))
    if name in ("autocontrast", "equalize"):
        assert np.abs(ours - images).max() > 20
    else:
        np.testing.assert_allclose(ours, images, atol=1e-4)


@pytest.mark.parametrize("name", OPERATIONS)
def test_values_stay_in_their_range_and_no_pictures_are_welcome(name):
    ours = changed(name, pictures(), STRENGTHS)
    assert ours.min() >= 0 and ours.max() <= 255.001
    assert changed(name, pictures()[:0], STRENGTHS[:0]).shape == (0, HEIGHT, WIDTH, 3)


# --- who gets what ---


def test_rand_draws_operations_evenly_with_one_strength():
    chosen, strengths = (np.stack(part) for part in zip(*draw_policy(SEED, MANY, "rand", 3, 12)))
    assert chosen.shape == strengths.shape == (3, MANY)
    counts = np.stack([np.bincount(row, minlength=14) for row in chosen])
    np.testing.assert_allclose(counts, MANY / 14, atol=5 * np.sqrt(MANY / 14))
    np.testing.assert_allclose(np.abs(strengths), 0.4, rtol=1e-6)
    assert abs((strengths > 0).mean() - 0.5) < 0.03
    assert np.abs(np.corrcoef(np.concatenate([chosen, strengths])) - np.eye(6)).max() < 0.1


def test_trivial_draws_one_operation_of_any_strength():
    ((chosen, strengths),) = draw_policy(SEED, MANY, "trivial", 3, 12)
    assert chosen.shape == strengths.shape == (MANY,)
    np.testing.assert_allclose(np.bincount(chosen, minlength=14), MANY / 14, atol=5 * np.sqrt(MANY / 14))
    levels, counts = np.unique(np.round(np.abs(strengths) * 30), return_counts=True)
    np.testing.assert_array_equal(levels, np.arange(31))
    np.testing.assert_allclose(np.abs(strengths) * 30, np.round(np.abs(strengths) * 30), atol=1e-5)
    np.testing.assert_allclose(counts, MANY / 31, atol=5 * np.sqrt(MANY / 31))
    signs = np.sign(strengths)
    assert abs(signs[signs != 0].mean()) < 0.1
    assert np.abs(np.corrcoef([chosen, np.abs(strengths), signs]) - np.eye(3)).max() < 0.1


def test_each_picture_is_dealt_to_its_own_operation_and_comes_back_to_its_place():
    images = tf.constant(pictures(), tf.float32)
    table = [kernels()[name] for name in OPERATIONS]
    for chosen in ([12, 3, 3, 0, 9, 5, 12], [4] * 7):
        ours = deal(images, tf.constant(chosen), tf.constant(STRENGTHS), table)
        for i, number in enumerate(chosen):
            alone = table[number](images[i:i + 1], tf.constant(STRENGTHS[i:i + 1]))[0]
            np.testing.assert_allclose(ours[i], alone, atol=0.01)


@pytest.mark.parametrize(("policy", "operations"), [("rand", 1), ("rand", 3), ("trivial", 2)])
def test_a_policy_is_its_operations_one_after_the_other(policy, operations):
    images = pictures().astype("float32")
    expected = images
    for chosen, strengths in draw_policy(SEED, BATCH, policy, operations, 7):
        expected = np.concatenate([kernels(policy)[OPERATIONS[number]](expected[i:i + 1], strengths[i:i + 1])
                                   for i, number in enumerate(chosen)])
    ours = da.augmentation(policy=policy, policy_operations=operations, policy_strength=7)(images, SEED)
    np.testing.assert_allclose(ours, expected, atol=0.02)


def test_the_policy_comes_first():
    others = {"contrast": 0.2, "flip_horizontal": 0.5, "translation": 0.2, "erasing": 0.9}
    images = 60 + pictures() / 4
    one_by_one = da.augmentation(**others)(da.augmentation(policy="trivial")(images, SEED), SEED)
    np.testing.assert_allclose(da.augmentation(**others, policy="trivial")(images, SEED), one_by_one, atol=0.01)


def test_without_a_policy_its_numbers_change_nothing():
    images, augment = pictures().astype("float32"), da.augmentation(policy="", policy_operations=3, policy_strength=30)
    np.testing.assert_array_equal(augment(images, SEED), images)


@pytest.mark.parametrize(("policy", "channels"), [("trivial", 1), ("rand", 3)])
def test_a_pipeline_gives_what_an_eager_call_gives_and_a_seed_the_same(policy, channels):
    images = np.concatenate([pictures(channels), pictures(channels)[:4]])
    augment = da.augmentation(policy=policy, flip_horizontal=0.5)
    batches = tf.data.Dataset.from_tensor_slices(images).batch(BATCH).enumerate()
    batches = batches.map(lambda step, batch: augment(batch, [5, step]), tf.data.AUTOTUNE)
    assert batches.element_spec.shape.as_list() == [None, HEIGHT, WIDTH, channels]
    first, rest = batches
    np.testing.assert_allclose(first, augment(images[:BATCH], (5, 0)), atol=0.01)
    np.testing.assert_allclose(rest, augment(images[BATCH:], (5, 1)), atol=0.01)
    assert not np.allclose(first, augment(images[:BATCH], (6, 0)), atol=1)


def test_a_seed_gives_these_very_pictures_on_every_stack():
    for policy, expected in (("trivial", [121, 37, 181.34, 255, 198.63, 89, 75.54]),
                             ("rand", [131.26, 37, 100.82, 255, 255, 89, 79.21])):
        ours = da.augmentation(policy=policy)(pictures(), SEED).numpy()
        np.testing.assert_allclose(ours[:, 4, 9, 1], expected, atol=0.25)


@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_a_plain_share_of_the_steps_at_the_end_has_no_policy_and_all_else(policy):
    images, others = pictures(), {"contrast": 0.2, "flip_horizontal": 0.5, "erasing": 0.9}
    ending = da.augmentation(**others, policy=policy, plain_share=0.25, total_steps=10)            # 7.5 rounds to 8
    always, never = da.augmentation(**others, policy=policy), da.augmentation(**others)
    for step in range(10):
        same, other = (always, never) if step < 8 else (never, always)
        np.testing.assert_array_equal(ending(images, (5, step)), same(images, (5, step)))
        assert np.abs(ending(images, (5, step)) - other(images, (5, step))).max() > 1


@pytest.mark.parametrize("share", [-0.1, 1, float("nan"), "0.1", True, None])
def test_a_senseless_plain_share_is_refused(share):
    with pytest.raises(ValueError, match=r"^PLAIN_SHARE is .*; it is a share: choose a number from 0 to below 1\.$"):
        da.augmentation(policy="trivial", plain_share=share, total_steps=10)


@pytest.mark.parametrize("steps", [None, 0, -3, 2.5, "12"])
def test_a_plain_share_needs_the_number_of_steps(steps):
    with pytest.raises(ValueError, match=r"^total_steps is .*; choose a whole number of at least 1, as PLAIN_SHARE is"):
        da.augmentation(policy="trivial", plain_share=0.2, total_steps=steps)


@pytest.mark.parametrize("policy", ["auto", "Trivial", None, 3])
def test_an_unknown_policy_is_refused(policy):
    with pytest.raises(ValueError, match=rf'^POLICY {policy!r} is unknown; choose rand, trivial or "" for none'):
        da.augmentation(policy=policy)


@pytest.mark.parametrize(("name", "most", "bad"), [
    *(("policy_operations", "1 to 14", bad) for bad in (0, 15, -1, 1.5, 2.0, True, "2", None)),
    *(("policy_strength", "0 to 30", bad) for bad in (-1, 31, 9.5, False, 9.0, "9", float("nan")))])
def test_bad_numbers_are_refused(name, most, bad):
    with pytest.raises(ValueError, match=rf"^{name.upper()} {bad!r} is not a whole number from {most}; choose one"):
        da.augmentation(policy="rand", **{name: bad})
