"""Random changes to whole batches of training pictures: pure functions of (images, seed) for `Dataset.map`.

    augment = augmentation(flip_horizontal=0.5, rotation=15, translation=0.125, contrast=0.2)
    batches = batches.enumerate().map(lambda step, images: augment(images, [SEED, step]))

Letters: B batch, H height, W width, C channels (1 or 3). Pictures are float32 (B, H, W, C) in 0..255. Here the amounts
are drawn, for each picture its own. What they do is written in vision_transformer/colours.py, moves.py and policies.py;
pictures and their labels are mixed in mixing.py.

Five ideas make it fast and sharp. Each move of a picture is a matrix, so all moves together are one matrix, and the
picture is resampled once. Where nothing is turned or leant, that is two matmuls. Contrast, saturation and brightness
are linear, so all three are one matmul. Turns, hues and erasing are many small steps, which XLA makes into few. A
policy deals the pictures out to its operations, so that each works on its own ones only.
"""
from __future__ import annotations

import functools
import numbers
from typing import Callable

import tensorflow as tf

from vision_transformer import chance, moves, xla
from vision_transformer.checks import check_share, check_whole
from vision_transformer.colours import adjust_colours, adjust_compiled, adjust_hue
from vision_transformer.policies import check_policy, random_policy

ERASED_AREA = (0.02, 0.33)              # share of the picture; this and the next are Zhong et al.'s
LARGEST_ERASED_ASPECT = 1 / 0.3

LIMITS = {
    "flip_horizontal": 1.0, "flip_vertical": 1.0, "erasing": 1.0,               # probabilities
    "rotation": 180.0, "shear": 45.0,                                           # degrees
    "zoom": 1.0,        # growth; its inverse shrinks, and below 1/2 bilinear resampling would skip pixels
    "translation": 1.0, "contrast": 1.0, "saturation": 1.0, "brightness": 1.0,  # shares
    "hue": 0.5,                                                                 # turns of the colour circle
}


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
    policy: str = "",
    policy_operations: int = 2,
    policy_strength: int = 9,
    plain_share: float = 0.0,
    total_steps: int | None = None,
    image_shape: tuple | None = None,
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function (images (B, H, W, C) in 0..255, seed (2,) integers) -> float32 images, clipped to 0..255.

    Each picture is changed its own way; the same seed, say (run seed, step), gives the same pictures. What is 0 is off
    and not in the graph, and the other draws stay: `augmentation(rotation=15)` is rotation alone.

    flip_horizontal, flip_vertical: probability that left and right, or top and bottom, change places.
    rotation, shear: degrees either way. Shear leans both axes, each by its own draw.
    zoom: factor from 1 / (1 + zoom) to 1 + zoom, uniform in its logarithm: half of the pictures shrink.
    translation: share of the height and of the width, either way, in whole pixels, each number as likely: 0.125 of 32
        pixels with a flip is the usual random crop of a picture padded by 4.
    contrast, saturation: factor from 1 - amount to 1 + amount. Saturation and hue leave C = 1 alone.
    brightness: -brightness x 255 to brightness x 255 is added. hue: turns of the colour circle, either way.
    erasing: probability that a box becomes random bytes: 2..33 % of the area, height to width 0.3..3.3 times the
        picture's. Zhong et al., "Random Erasing Data Augmentation", arXiv 1708.04896.
    fill_mode: what a moved picture shows beyond its edge, see moves.transform. A mirror image looks like a picture, a
        plain border would tell how it was moved; K. Jordan's cifar10-airbench mirrors too.
    policy: "trivial" (TrivialAugment), "rand" (RandAugment) or "" for none, see policies.py.
    policy_operations, policy_strength: rand's n, and its strength from 0 to 30. Its paper's scale goes to 10.
    plain_share: share of total_steps, at their end, in which the policy is left out, so that training ends on pictures
        like those that will come. He et al., "Data Augmentation Revisited", arXiv 1909.09148.
    total_steps: batches of the whole training. Only plain_share needs it; seeds are then (run seed, step).

    image_shape: (H, W, C) of the pictures to come, so that what makes no sense for them is refused here.

    The policy comes first, as in its authors' code, then colours, then moves, erasing last. Colours change before
    moves, as light does before a camera turns: then contrast's mean is of the picture, not the fill. Values are clipped
    last and, but for a policy's operations, once.

    Raises:
        ValueError: an amount is not a number from 0 to its limit, or the policy or fill_mode is unknown, or plain_share
            is no share below 1 or has no total_steps. When called: the images are not (B, H, W, C) with known H, W and
            C 1 or 3, or a translation is under half a pixel.
    """
    colours = {"contrast": contrast, "saturation": saturation, "brightness": brightness, "hue": hue}
    flips = {"flip_horizontal": flip_horizontal, "flip_vertical": flip_vertical}
    motions = {**flips, "zoom": zoom, "shear": shear, "rotation": rotation, "translation": translation}
    for name, amount in {**colours, **motions, "erasing": erasing}.items():
        limit = LIMITS[name]
        if isinstance(amount, bool) or not isinstance(amount, numbers.Real) or not 0 <= amount <= limit:
            raise ValueError(f"{name.upper()} {amount!r} is not a number from 0 (off) to {limit:g}; choose one.")
    moves.check_fill_mode(fill_mode)
    check_policy(policy, policy_operations, policy_strength)
    check_share("PLAIN_SHARE", plain_share)
    first_plain_step = None
    if plain_share:
        check_whole("total_steps", total_steps, 1, remark=", as PLAIN_SHARE is a share of them")
        first_plain_step = round((1 - plain_share) * total_steps)
    if image_shape is not None and translation:
        _largest_moves(translation, *image_shape[:2])

    @tf.autograph.experimental.do_not_convert  # which would look for branches on tensors, a second long, and find none
    def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        images = tf.cast(images, tf.float32)
        if images.shape.rank != 4 or None in images.shape[1:] or images.shape[3] not in (1, 3):
            raise ValueError(f"images of shape {images.shape} are not (B, H, W, C) with known H, W and 1 or 3 "
                             "channels; batch, resize or reshape them first.")
        if policy:
            images = random_policy(images, seed, policy, policy_operations, policy_strength, fill_mode,
                                   first_plain_step)
        if any(colours.values()):
            images = _random_colours(images, seed, **colours)
        if any(motions.values()):
            images = _random_moves(images, seed, fill_mode, **motions)
        if erasing:
            images = _random_erasing(images, seed, erasing)
        return tf.clip_by_value(images, 0.0, 255.0)

    return augment


def _random_colours(images, seed, *, contrast, saturation, brightness, hue):
    draw, amounts = functools.partial(chance.draw, seed, tf.shape(images)[:1]), {}
    if contrast:
        amounts["contrast"] = draw("contrast", 1 - contrast, 1 + contrast)
    if saturation:
        amounts["saturation"] = draw("saturation", 1 - saturation, 1 + saturation)
    if brightness:
        amounts["brightness"] = draw("brightness", -brightness, brightness)
    if hue:                 # first, as it needs colours in 0..255 and the others leave that range
        deltas = draw("hue", -hue, hue)
        if xla.pays(images) and images.shape[3] == 3:
            return adjust_compiled(images, deltas, **amounts)
        images = adjust_hue(images, deltas)
    return adjust_colours(images, **amounts) if amounts else images


def _random_moves(images, seed, fill_mode, *, flip_horizontal, flip_vertical, zoom, shear, rotation, translation):
    draw = functools.partial(chance.draw, seed, tf.shape(images)[:1])
    height, width = images.shape[1:3]
    matrices = []
    if flip_horizontal:
        matrices.append(moves.scale_matrices(1.0, tf.where(draw("flip_horizontal") < flip_horizontal, -1.0, 1.0)))
    if flip_vertical:
        matrices.append(moves.scale_matrices(tf.where(draw("flip_vertical") < flip_vertical, -1.0, 1.0), 1.0))
    if zoom:
        factors = (1.0 + zoom) ** draw("zoom", -1.0, 1.0)
        matrices.append(moves.scale_matrices(factors, factors))
    if shear:
        matrices.append(moves.shear_matrices(draw("shear_x", -shear, shear), draw("shear_y", -shear, shear)))
    if rotation:
        matrices.append(moves.rotation_matrices(draw("rotation", -rotation, rotation)))
    if translation:
        down, right = _largest_moves(translation, height, width)
        down = draw("translation_down", -down, down + 1, tf.int32)
        right = draw("translation_right", -right, right + 1, tf.int32)
        matrices.append(moves.translation_matrices(tf.cast(down, tf.float32), tf.cast(right, tf.float32)))
    if shear or rotation:
        way = moves.transform_compiled if xla.pays(images) else moves.transform
    else:
        way = moves.transform_aligned
    return way(images, functools.reduce(tf.matmul, matrices), fill_mode)


def _largest_moves(translation, height, width):
    """Gives the whole pixels of the largest move, down and to the right; raises ValueError where there are none."""
    down, right = round(translation * height), round(translation * width)
    if not down and not right:
        raise ValueError(f"TRANSLATION {translation} is under half a pixel of {height}x{width} pictures; take a larger "
                         "share, or 0 for none.")
    return down, right


def _random_erasing(images, seed, probability):
    draw = functools.partial(chance.draw, seed, tf.shape(images)[:1])
    height, width, channels = images.shape[1:]
    area = draw("erased_area", *ERASED_AREA)
    # Aspects from area to 1 / area fit into the picture: drawn among these, none need be rejected in a loop.
    aspect = tf.minimum(LARGEST_ERASED_ASPECT, 1 / area) ** draw("erased_aspect", -1.0, 1.0)
    box_height, box_width = height * tf.sqrt(area * aspect), width * tf.sqrt(area / aspect)
    top, left = draw("erased_top") * (height - box_height), draw("erased_left") * (width - box_width)
    boxes = tf.stack([top, left, top + box_height, left + box_width], axis=-1)
    chosen = tf.cast(draw("erasing") < probability, tf.float32)
    # One tall picture of noise, in which each picture's begins a row below its neighbour's: nobody compares the two,
    # and noise of its own for each would take 8 times as long. The bytes of one 32-bit draw are four values.
    pictures, length = tf.shape(images)[0], width * channels
    words = chance.draw(seed, (pictures + height - 1, -(-length // 4)), "erased_bytes", None, None, tf.uint32)
    noise = tf.cast(tf.reshape(tf.bitcast(words, tf.uint8), (pictures + height - 1, -1)), tf.float32)[:, :length]
    fill = tf.gather(noise, tf.range(pictures)[:, None] + tf.range(height))
    way = xla.compiled(erase) if xla.pays(images) else erase
    return way(images, boxes * chosen[:, None], tf.reshape(fill, tf.shape(images)))


def erase(images: tf.Tensor, boxes: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """Pictures (B, H, W, C) that show `fill` (B, H, W, C) at each pixel whose centre lies in their box.

    `boxes` (B, 4) are top, left, bottom, right in pixels from the top left corner; all zeros erase nothing.
    """
    height, width, channels = images.shape[1:]
    top, left, bottom, right = tf.unstack(boxes[:, None], axis=-1)
    y = tf.range(height, dtype=tf.float32) + 0.5
    x = tf.repeat(tf.range(width, dtype=tf.float32) + 0.5, channels)
    inside = ((top <= y) & (y < bottom))[:, :, None] & ((left <= x) & (x < right))[:, None, :]
    rows = (-1, height, width * channels)       # tf.where takes twice the time when it must broadcast over C
    return tf.reshape(tf.where(inside, tf.reshape(fill, rows), tf.reshape(images, rows)), tf.shape(images))
