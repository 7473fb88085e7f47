"""Colours against tf.image, Pillow and numpy."""
import itertools

import numpy as np
import pytest
import tensorflow as tf
from augmented import BATCH, pictures, uniform
from PIL import Image, ImageEnhance

from vision_transformer.colours import adjust_colours, adjust_compiled, adjust_hue


def per_picture(function, images, amounts):
    return np.stack([function(image, amount) for image, amount in zip(images, amounts)])


@pytest.mark.parametrize("way", [adjust_hue, adjust_compiled])
@pytest.mark.parametrize("images", [pictures(), pictures() // 128 * 100])           # in the latter, many are alike
def test_adjust_hue_agrees_with_tf_image(images, way):
    deltas = uniform(-0.5, 0.5)
    expected = per_picture(tf.image.adjust_hue, images / 255, deltas) * 255
    np.testing.assert_allclose(way(tf.constant(images), tf.constant(deltas)), expected, atol=0.02)


def test_adjust_hue_by_a_third_turns_red_to_green_and_back_to_blue():
    red = tf.constant([255.0, 0.0, 0.0]) * tf.ones((2, 3, 5, 1))
    turned = adjust_hue(red, tf.constant([1 / 3, -1 / 3]))
    np.testing.assert_allclose(turned[0, 0, 0], [0, 255, 0], atol=1e-3)
    np.testing.assert_allclose(turned[1, 0, 0], [0, 0, 255], atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_agrees_with_tf_image(channels):
    images, factors = pictures(channels=channels), uniform(0, 2)
    expected = per_picture(tf.image.adjust_contrast, images, factors)
    np.testing.assert_allclose(adjust_colours(images, contrast=tf.constant(factors)), expected, atol=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_agrees_with_tf_image(channels):
    images, deltas = pictures(channels=channels), uniform(-1, 1)
    expected = per_picture(tf.image.adjust_brightness, images, 255 * deltas)
    np.testing.assert_allclose(adjust_colours(images, brightness=tf.constant(deltas)), expected, atol=0.01)


def pillow_saturation(image, factor):
    return np.asarray(ImageEnhance.Color(Image.fromarray(image.astype("uint8"))).enhance(factor), "float32")


def test_saturation_agrees_with_pillow():
    images, factors = pictures(), uniform(0, 2)
    expected = per_picture(pillow_saturation, images, factors)
    ours = np.clip(adjust_colours(images, saturation=tf.constant(factors)), 0, 255)
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
    ours = adjust_colours(images, **{name: tf.constant(amounts[name]) for name in order})
    np.testing.assert_allclose(ours, expected, atol=0.01)


def test_hue_and_saturation_leave_one_channel_alone():
    images = pictures(channels=1)
    np.testing.assert_array_equal(adjust_hue(images, tf.constant(uniform(-0.5, 0.5))), images)
    np.testing.assert_array_equal(adjust_colours(images, saturation=tf.constant(uniform(0, 2))), images)


LIMITS = {"contrast": (0, 2), "saturation": (0, 2), "brightness": (-1, 1)}


@pytest.mark.parametrize("names", [*([name] for name in LIMITS), [*LIMITS]])
def test_compiled_colours_are_the_plain_ones(names):
    images, deltas = tf.constant(pictures()), tf.constant(uniform(-0.5, 0.5, 4))
    amounts = {name: tf.constant(uniform(*LIMITS[name], seed)) for seed, name in enumerate(names)}
    expected = adjust_colours(adjust_hue(images, deltas), **amounts)
    np.testing.assert_allclose(adjust_compiled(images, deltas, **amounts), expected, atol=0.01)
