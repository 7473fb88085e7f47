"""Changes of pictures' colours, whole batches at once: kernels that do what they are told.

Letters: B batch, H height, W width, C channels (1 or 3). Pictures are float32 (B, H, W, C) in 0..255, and every amount
is (B,): each picture has its own. First what data_augmentations.py does by itself, then what policies.py needs besides.
"""
from __future__ import annotations

import tensorflow as tf

from .xla import compiled

LUMA = (0.299, 0.587, 0.114)            # ITU-R BT.601, the grey of Pillow and torchvision


def adjust_hue(images: tf.Tensor, deltas: tf.Tensor) -> tf.Tensor:
    """Pictures (B, H, W, C) with hues moved by `deltas` (B,) turns, as tf.image.adjust_hue; C = 1 stays."""
    return images if images.shape[3] == 1 else tf.transpose(_hue_planes(images, deltas), (0, 2, 3, 1))


def _hue_planes(images, deltas):
    """The same, (B, 3, H, W): stacked as the last axis, they would take 4 times as long."""
    red, green, blue = tf.unstack(images, axis=-1)
    low, high = tf.minimum(tf.minimum(red, green), blue), tf.maximum(tf.maximum(red, green), blue)
    chroma = high - low
    # On a colour circle of 6, where red is 0, green 2 and blue 4: the way from red, to green's side or to blue's.
    from_red = 1 + tf.math.divide_no_nan(green + blue - red - low, chroma)
    hues = tf.where(green >= blue, from_red, -from_red) + 6 * deltas[:, None, None]
    hues -= 6 * tf.floor(hues * (1 / 6))
    shares = tf.abs(hues - 3) - 1, 2 - tf.abs(hues - 2), 2 - tf.abs(hues - 4)
    return tf.stack([low + chroma * tf.clip_by_value(share, 0.0, 1.0) for share in shares], axis=1)


def adjust_colours(
    images: tf.Tensor, *, contrast: tf.Tensor | None = None, saturation: tf.Tensor | None = None,
    brightness: tf.Tensor | None = None,
) -> tf.Tensor:
    """Pictures (B, H, W, C), not clipped, of other colours: factors and shares of 255 to add, each (B,).

    Contrast scales each channel about its mean over the picture, as tf.image.adjust_contrast. Saturation scales each
    pixel about its own grey, as Pillow's ImageEnhance.Color, and leaves C = 1 alone. Brightness is added. The three
    commute, so there is no order to choose.
    """
    height, width, channels = images.shape[1:]
    pixels = tf.reshape(images, (-1, height * width, channels))
    matrices, offsets = tf.eye(channels)[None], 0.0             # a pixel is a row: pixel @ matrix + offset
    if contrast is not None:
        factors = contrast[:, None, None]
        matrices, offsets = factors * matrices, (1 - factors) * tf.reduce_mean(pixels, axis=1, keepdims=True)
    if saturation is not None and channels == 3:
        factors = saturation[:, None, None]
        blends = factors * tf.eye(3) + (1 - factors) * tf.repeat(tf.constant(LUMA)[:, None], 3, axis=1)
        matrices, offsets = matrices @ blends, 0.0 if contrast is None else offsets @ blends
    if brightness is not None:
        offsets += 255 * brightness[:, None, None]
    rows = tf.reshape(pixels @ matrices, (-1, height, width * channels))
    # Added by rows: it takes 5 times as long where it must broadcast over C.
    return tf.reshape(rows + tf.tile(offsets + tf.zeros((1, 1, channels)), (1, 1, width)), tf.shape(images))


def adjust_compiled(images: tf.Tensor, deltas: tf.Tensor, **amounts: tf.Tensor) -> tf.Tensor:
    """As `adjust_hue` and then `adjust_colours`, C = 3, by XLA, which compiles for each shape: in half the time."""
    planes = compiled(_hue_planes)(images, deltas)          # in two parts, or XLA on 2.21 computes the hues many times
    return compiled(_adjust_planes)(planes, amounts)


def _adjust_planes(planes, amounts):
    """As `adjust_colours`, but (B, 3, H, W) -> (B, H, W, 3)."""
    amounts = {name: amount[:, None, None, None] for name, amount in amounts.items()}
    if "contrast" in amounts:
        mean = tf.reduce_mean(planes, axis=(2, 3), keepdims=True)
        planes = mean + amounts["contrast"] * (planes - mean)
    if "saturation" in amounts:
        red, green, blue = tf.split(planes, 3, axis=1)
        grey = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
        planes = grey + amounts["saturation"] * (planes - grey)
    if "brightness" in amounts:
        planes += 255 * amounts["brightness"]
    return tf.transpose(planes, (0, 2, 3, 1))


# ------------------------------------------------------------------------------------------ of policies
def blend(images: tf.Tensor, others: tf.Tensor | float, factors: tf.Tensor) -> tf.Tensor:
    """Pictures (B, H, W, C), clipped, from `others` (factor 0) through `images` (1) to as far beyond (2).

    `others` broadcast. Pillow's ImageEnhance is this, with black, one mean grey, each pixel's grey or a smooth picture
    as others: brightness, contrast, color, sharpness.
    """
    return tf.clip_by_value(others + factors[:, None, None, None] * (images - others), 0.0, 255.0)


def greys(images: tf.Tensor) -> tf.Tensor:
    """The greys (B, H, W, 1) of pictures (B, H, W, C)."""
    return images @ tf.constant(LUMA)[:, None] if images.shape[3] == 3 else images


def smooth(images: tf.Tensor) -> tf.Tensor:
    """Pictures (B, H, W, C) with each pixel 5/13 of itself and 1/13 of its 8 neighbours; the border stays.

    Pillow's ImageFilter.SMOOTH.
    """
    height, width = images.shape[1:3]
    if height < 3 or width < 3:
        return images
    columns = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    squares = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:]
    inner = images[:, 1:-1, 1:-1]
    return images + tf.pad((squares - 9 * inner) / 13, [[0, 0], [1, 1], [1, 1], [0, 0]])


def solarize(images: tf.Tensor, thresholds: tf.Tensor) -> tf.Tensor:
    """Pictures (B, H, W, C) whose values from `thresholds` (B,) up are inverted, as Pillow's ImageOps.solarize."""
    return tf.where(images < thresholds[:, None, None, None], images, 255.0 - images)


def posterize(images: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Pictures (B, H, W, C) with the first `bits` (B,) of 8 bits only, as Pillow's ImageOps.posterize."""
    steps = 2.0 ** (8 - bits[:, None, None, None])
    return tf.floor(images / steps) * steps


def autocontrast(images: tf.Tensor) -> tf.Tensor:
    """Pictures (B, H, W, C) with each channel stretched to 0..255; one of a single value stays.

    Pillow's ImageOps.autocontrast.
    """
    planes = _planes(images)
    low, high = (reduce(planes, axis=1, keepdims=True) for reduce in (tf.reduce_min, tf.reduce_max))
    stretched = (planes - low) * (255 / tf.where(high > low, high - low, 255.0))
    return _pictures(stretched + tf.where(high > low, 0.0, low), images)


def equalize(images: tf.Tensor) -> tf.Tensor:
    """Pictures (B, H, W, C), rounded, with each value as frequent in its channel as far as that goes.

    Pillow's ImageOps.equalize: a value becomes the number of pixels below it over the number that a level of 255 may
    have. The highest value is left out of account; where the others don't fill the levels, the channel stays.
    """
    values = tf.cast(tf.round(_planes(images)), tf.int32)
    counts = tf.math.bincount(values, minlength=256, maxlength=256, axis=-1)
    highest = tf.gather(counts, tf.reduce_max(values, axis=1), batch_dims=1)
    steps = (values.shape[1] - highest[:, None]) // 255
    table = (tf.cumsum(counts, axis=1, exclusive=True) + steps // 2) // tf.maximum(steps, 1)
    table = tf.where(steps > 0, tf.minimum(table, 255), tf.range(256))
    return _pictures(tf.cast(tf.gather(table, values, batch_dims=1), tf.float32), images)


def _planes(images):
    """Pictures (B, H, W, C) -> their channels, (B C, H W)."""
    return tf.reshape(tf.transpose(images, (0, 3, 1, 2)), (-1, images.shape[1] * images.shape[2]))


def _pictures(planes, images):
    """Channels (B C, H W) -> pictures of the shape of `images`."""
    height, width, channels = images.shape[1:]
    return tf.transpose(tf.reshape(planes, (-1, channels, height, width)), (0, 2, 3, 1))
