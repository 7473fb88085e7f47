"""Random changes to whole batches of training pictures: pure functions of (images, seed) for `Dataset.map`.

    augment = augmentation(flip_horizontal=0.5, rotation=15, translation=0.125, contrast=0.2)
    batches = batches.enumerate().map(lambda step, images: augment(images, [SEED, step]))

Letters: B batch, H height, W width, C channels (1 or 3). Pictures are float32 (B, H, W, C) in 0..255, and
every amount is (B,): each picture has its own. First the kernels, which do what they are told, then
`augmentation`, which draws the amounts.

Two ideas make it fast and sharp. Each move of a picture is a matrix, so all moves together are one matrix and
the picture is resampled once. Contrast, saturation and brightness are linear, so all three are one matmul.
"""

from __future__ import annotations

import functools
import math
import numbers
from typing import Callable

import tensorflow as tf

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the grey of Pillow and torchvision
MID_GREY = 127.5  # neither dark nor light, and zero to a model that scales its input to -1..1
FILL_MODES = ("reflect", "nearest", "constant")
INTERPOLATIONS = ("bilinear", "nearest")
ERASED_AREA = (0.02, 0.33)  # share of the picture; this and the next are Zhong et al.'s
LARGEST_ERASED_ASPECT = 1 / 0.3

LIMITS = {
    "flip_horizontal": 1.0, "flip_vertical": 1.0, "erasing": 1.0,  # probabilities
    "rotation": 180.0, "shear": 45.0,  # degrees
    "zoom": 1.0,  # growth; its inverse shrinks, and below 1/2 bilinear resampling would skip pixels
    "translation": 1.0, "contrast": 1.0, "saturation": 1.0, "brightness": 1.0,  # shares
    "hue": 0.5,  # turns of the colour circle
}

# Each random amount has a stream of its own, so switching one off leaves the others as they were.
# A stream's number is its place here: append new ones at the end, or old seeds give other pictures.
STREAMS = (
    "flip_horizontal", "flip_vertical", "rotation", "shear_x", "shear_y", "zoom",
    "translation_down", "translation_right", "contrast", "brightness", "saturation", "hue",
    "erasing", "erased_area", "erased_aspect", "erased_top", "erased_left", "erased_bytes",
)


# --- colours ---


def adjust_hue(images: tf.Tensor, deltas: tf.Tensor) -> tf.Tensor:
    """Pictures (B, H, W, C) with hues moved by `deltas` (B,) turns, as tf.image.adjust_hue; C = 1 stays."""
    if images.shape[3] == 1:
        return images
    hsv = tf.image.rgb_to_hsv(images)
    hue = hsv[..., :1] + deltas[:, None, None, None]
    return tf.image.hsv_to_rgb(tf.concat([hue - tf.floor(hue), hsv[..., 1:]], axis=-1))


def adjust_colours(
    images: tf.Tensor, *, contrast: tf.Tensor | None = None, saturation: tf.Tensor | None = None,
    brightness: tf.Tensor | None = None,
) -> tf.Tensor:
    """Pictures (B, H, W, C), not clipped, of other colours: factors and shares of 255 to add, each (B,).

    Contrast scales each channel about its mean over the picture, as tf.image.adjust_contrast. Saturation
    scales each pixel about its own grey, as Pillow's ImageEnhance.Color, and leaves C = 1 alone. Brightness
    is added. The three commute, so there is no order to choose.
    """
    height, width, channels = images.shape[1:]
    pixels = tf.reshape(images, (-1, height * width, channels))
    matrices, offsets = tf.eye(channels)[None], 0.0  # a pixel is a row: pixel @ matrix + offset
    if contrast is not None:
        factors = contrast[:, None, None]
        matrices, offsets = factors * matrices, (1 - factors) * tf.reduce_mean(pixels, axis=1, keepdims=True)
    if saturation is not None and channels == 3:
        factors = saturation[:, None, None]
        blends = factors * tf.eye(3) + (1 - factors) * tf.repeat(tf.constant(LUMA)[:, None], 3, axis=1)
        matrices, offsets = matrices @ blends, 0.0 if contrast is None else offsets @ blends
    if brightness is not None:
        offsets += 255 * brightness[:, None, None]
    return tf.reshape(pixels @ matrices + offsets, tf.shape(images))


# --- moves ---
# A matrix says where a pixel of the result is read: (x, y, 1) there = matrix @ (x, y, 1) here,
# pixels from the centre, x to the right and y down. So first @ second moves by `first`, then by `second`.


def rotation_matrices(degrees: tf.Tensor) -> tf.Tensor:
    """Matrices (B, 3, 3) that turn pictures by `degrees` (B,), counter-clockwise when positive."""
    angles = degrees * (math.pi / 180)
    return _matrices(tf.cos(angles), -tf.sin(angles), 0.0, tf.sin(angles), tf.cos(angles), 0.0)


def shear_matrices(x_degrees: tf.Tensor, y_degrees: tf.Tensor) -> tf.Tensor:
    """Matrices (B, 3, 3) that lean the top to the right, then the right side up, by degrees (B,) each.

    One after the other, which keeps the area: both at once, at 45 degrees, would crush a picture to a line.
    """
    x, y = tf.tan(x_degrees * (math.pi / 180)), tf.tan(y_degrees * (math.pi / 180))
    return _matrices(1 + x * y, x, 0.0, y, 1.0, 0.0)


def scale_matrices(vertical: tf.Tensor | float, horizontal: tf.Tensor | float) -> tf.Tensor:
    """Matrices (B, 3, 3) that magnify by factors, at least one of them (B,): below 1 shrinks, -1 flips."""
    return _matrices(1 / horizontal, 0.0, 0.0, 0.0, 1 / vertical, 0.0)


def translation_matrices(down: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Matrices (B, 3, 3) that move pictures by `down` and `right` (B,) pixels."""
    return _matrices(1.0, 0.0, -right, 0.0, 1.0, -down)


def _matrices(*first_two_rows):
    zeros = tf.zeros_like(sum(first_two_rows))
    entries = [zeros + entry for entry in (*first_two_rows, 0.0, 0.0, 1.0)]
    return tf.reshape(tf.stack(entries, axis=-1), (-1, 3, 3))


def transform(
    images: tf.Tensor, matrices: tf.Tensor, fill_mode: str = "reflect", interpolation: str = "bilinear"
) -> tf.Tensor:
    """Pictures (B, H, W, C) moved about their centres by `matrices` (B, 3, 3), in one resampling.

    Beyond its edge a picture goes on as its mirror image ("reflect"), as its last pixels ("nearest") or in
    mid-grey ("constant"). Flips and moves by whole pixels return the very pixels; then interpolation may be
    "nearest", which is faster. Raises ValueError for an unknown mode.
    """
    _require("fill_mode", fill_mode, FILL_MODES)  # the op itself only logs an unknown mode, and goes on
    _require("interpolation", interpolation, INTERPOLATIONS)
    height, width = images.shape[1:3]
    down, right = tf.constant([(height - 1) / 2]), tf.constant([(width - 1) / 2])
    # The op counts from the top left pixel: from there to the centre, move, and back.
    matrices = translation_matrices(-down, -right) @ matrices @ translation_matrices(down, right)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images, transforms=tf.reshape(matrices, (-1, 9))[:, :8], output_shape=(height, width),
        interpolation=interpolation.upper(), fill_mode=fill_mode.upper(), fill_value=MID_GREY,
    )


def _require(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(allowed)}.")


# --- erasing ---


def erase(images: tf.Tensor, boxes: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """Pictures (B, H, W, C) that show `fill` (B, H, W, C) at each pixel whose centre lies in their box.

    `boxes` (B, 4) are top, left, bottom, right in pixels from the top left corner; all zeros erase nothing.
    """
    height, width, channels = images.shape[1:]
    top, left, bottom, right = tf.unstack(boxes[:, None], axis=-1)
    y = tf.range(height, dtype=tf.float32) + 0.5
    x = tf.repeat(tf.range(width, dtype=tf.float32) + 0.5, channels)
    inside = ((top <= y) & (y < bottom))[:, :, None] & ((left <= x) & (x < right))[:, None, :]
    rows = (-1, height, width * channels)  # tf.where takes twice the time when it must broadcast over C
    return tf.reshape(tf.where(inside, tf.reshape(fill, rows), tf.reshape(images, rows)), tf.shape(images))


# --- chance ---


def augmentation(
    *,
    flip_horizontal: float = 0.0,
    flip_vertical: float = 0.0,
    rotation: float = 0.0,
    shear: float = 0.0,
    zoom: float = 0.0,
    translation: float = 0.0,
    contrast: float = 0.0,
    brightness: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    erasing: float = 0.0,
    fill_mode: str = "reflect",
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function (images (B, H, W, C) in 0..255, seed (2,) integers) -> float32 images, clipped to 0..255.

    Each picture is changed its own way; the same seed, say (run seed, step), gives the same pictures. What is
    0 is off and not in the graph, and the other draws stay: `augmentation(rotation=15)` is rotation alone.

    flip_horizontal, flip_vertical: probability that left and right, or top and bottom, change places.
    rotation, shear: degrees either way. Shear leans both axes, each by its own draw.
    zoom: factor from 1 / (1 + zoom) to 1 + zoom, uniform in its logarithm: half of the pictures shrink.
    translation: share of the height and of the width, either way, in whole pixels, each number as likely:
        0.125 of 32 pixels with a flip is the usual random crop of a picture padded by 4.
    contrast, saturation: factor from 1 - amount to 1 + amount. Saturation and hue leave C = 1 alone.
    brightness: -brightness x 255 to brightness x 255 is added. hue: turns of the colour circle, either way.
    erasing: probability that a box becomes random bytes: 2..33 % of the area, height to width 0.3..3.3 times
        the picture's. Zhong et al., "Random Erasing Data Augmentation", arXiv 1708.04896.
    fill_mode: what a moved picture shows beyond its edge, see `transform`. A mirror image looks like a
        picture, a plain border would tell how it was moved; K. Jordan's cifar10-airbench mirrors too.

    Colours change first, as light does before a camera turns: then contrast's mean is of the picture, not the
    fill. Values are clipped last and once.

    Raises:
        ValueError: an amount is not a number from 0 to its limit, or `fill_mode` is unknown. When called: the
            images are not (B, H, W, C) with known H, W and C 1 or 3, or a translation is under half a pixel.
    """
    colours = {"contrast": contrast, "saturation": saturation, "brightness": brightness, "hue": hue}
    flips = {"flip_horizontal": flip_horizontal, "flip_vertical": flip_vertical}
    moves = {**flips, "zoom": zoom, "shear": shear, "rotation": rotation, "translation": translation}
    for name, amount in {**colours, **moves, "erasing": erasing}.items():
        limit = LIMITS[name]
        if isinstance(amount, bool) or not isinstance(amount, numbers.Real) or not 0 <= amount <= limit:
            raise ValueError(f"{name}={amount!r} is not a number from 0 (off) to {limit:g}; choose one.")
    _require("fill_mode", fill_mode, FILL_MODES)

    def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        images = tf.cast(images, tf.float32)
        if images.shape.rank != 4 or None in images.shape[1:] or images.shape[3] not in (1, 3):
            raise ValueError(
                f"images of shape {images.shape} are not (B, H, W, C) with known H, W and 1 or 3 channels; "
                "batch, resize or reshape them first."
            )
        if any(colours.values()):
            images = _random_colours(images, seed, **colours)
        if any(moves.values()):
            images = _random_moves(images, seed, fill_mode, **moves)
        if erasing:
            images = _random_erasing(images, seed, erasing)
        return tf.clip_by_value(images, 0.0, 255.0)

    return augment


def _random_colours(images, seed, *, contrast, saturation, brightness, hue):
    draw = functools.partial(_draw, seed, tf.shape(images)[:1])
    if hue:  # first, as it needs colours in 0..255 and the others leave that range
        images = adjust_hue(images, draw("hue", -hue, hue))
    amounts = {}
    if contrast:
        amounts["contrast"] = draw("contrast", 1 - contrast, 1 + contrast)
    if saturation:
        amounts["saturation"] = draw("saturation", 1 - saturation, 1 + saturation)
    if brightness:
        amounts["brightness"] = draw("brightness", -brightness, brightness)
    return adjust_colours(images, **amounts) if amounts else images


def _random_moves(
    images, seed, fill_mode, *, flip_horizontal, flip_vertical, zoom, shear, rotation, translation
):
    draw = functools.partial(_draw, seed, tf.shape(images)[:1])
    height, width = images.shape[1:3]
    matrices = []
    if flip_horizontal:
        matrices.append(scale_matrices(1.0, tf.where(draw("flip_horizontal") < flip_horizontal, -1.0, 1.0)))
    if flip_vertical:
        matrices.append(scale_matrices(tf.where(draw("flip_vertical") < flip_vertical, -1.0, 1.0), 1.0))
    if zoom:
        factors = (1.0 + zoom) ** draw("zoom", -1.0, 1.0)
        matrices.append(scale_matrices(factors, factors))
    if shear:
        matrices.append(shear_matrices(draw("shear_x", -shear, shear), draw("shear_y", -shear, shear)))
    if rotation:
        matrices.append(rotation_matrices(draw("rotation", -rotation, rotation)))
    if translation:
        down, right = round(translation * height), round(translation * width)
        if not down and not right:
            raise ValueError(
                f"translation={translation} is under half a pixel of {height}x{width} pictures; "
                "take a larger share, or 0 for none."
            )
        down = draw("translation_down", -down, down + 1, tf.int32)
        right = draw("translation_right", -right, right + 1, tf.int32)
        matrices.append(translation_matrices(tf.cast(down, tf.float32), tf.cast(right, tf.float32)))
    interpolation = "bilinear" if zoom or shear or rotation else "nearest"
    return transform(images, functools.reduce(tf.matmul, matrices), fill_mode, interpolation)


def _random_erasing(images, seed, probability):
    draw = functools.partial(_draw, seed, tf.shape(images)[:1])
    height, width, channels = images.shape[1:]
    area = draw("erased_area", *ERASED_AREA)
    # Aspects from area to 1 / area fit into the picture: drawn among these, none need be rejected in a loop.
    aspect = tf.minimum(LARGEST_ERASED_ASPECT, 1 / area) ** draw("erased_aspect", -1.0, 1.0)
    box_height, box_width = height * tf.sqrt(area * aspect), width * tf.sqrt(area / aspect)
    top, left = draw("erased_top") * (height - box_height), draw("erased_left") * (width - box_width)
    boxes = tf.stack([top, left, top + box_height, left + box_width], axis=-1)
    chosen = tf.cast(draw("erasing") < probability, tf.float32)
    # The bytes of one 32-bit draw are a pixel: half the time of a float for each channel.
    words = _draw(seed, tf.shape(images)[:3], "erased_bytes", None, None, tf.uint32)
    fill = tf.cast(tf.bitcast(words, tf.uint8)[..., :channels], tf.float32)
    return erase(images, boxes * chosen[:, None], fill)


def _draw(seed, shape, stream, low=0.0, high=1.0, dtype=tf.float32):
    own_seed = tf.random.experimental.stateless_fold_in(seed, STREAMS.index(stream))
    return tf.random.stateless_uniform(shape, own_seed, low, high, dtype)
