"""From arrays to batches, in the one order that is right: cache, shuffle, batch, augment, prefetch.

Cached before shuffled, or every epoch would have the same order; augmented after cached, or every epoch would have the
same pictures; augmented after batched, because whole batches are cheaper; prefetched last, so that the CPU prepares the
next batch while the device works. Mixed after that, when each picture has had its own changes.

Of pictures in a file, more than fit into memory perhaps, only their places are cached and shuffled; each batch is read
from the file. The order is the same.
"""
from __future__ import annotations

import numpy as np
import tensorflow as tf

from .chance import draw
from .checks import check_whole
from .datasets import Split
from .stored_pictures import StoredPictures


def steps_per_epoch(pictures: int, batch_size: int) -> int:
    """Gives the number of whole batches in an epoch; raises ValueError for a batch that can't be filled."""
    check_whole("BATCH_SIZE", batch_size, 1, pictures, ", which is all training pictures")
    return pictures // batch_size


def training_batches(split: Split, *, batch_size: int, epochs: int, seed: int, augment=None, mix=None,
                     alternating_flip: bool = False, first_step: int = 0):
    """Gives a tf.data.Dataset of (step, images, labels) from step `first_step` to the end of the last epoch.

    step: int32 scalar; images: float32 (batch_size, H, W, C), 0..255, after augment(images, (seed, step)); labels:
    int64 (batch_size,). Each epoch shuffles all pictures anew and leaves out the few that don't fill a batch, others
    each time. Order and augmentation depend on (seed, step) alone: started at a later step, the rest is the same. Sets
    TensorFlow's global seed, without which one seed would not give one order.

    mix: a function such as make_mixing gives; mix(images, labels, (seed, step)) then makes images and labels.
    alternating_flip: mirrors left and right each picture of which a coin says so in the first epoch, the others in the
        second, and so on by turns: both sides are seen equally often. Augment should then mirror nothing itself. K.
        Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498, section 3.6.
    """
    steps = steps_per_epoch(len(split), batch_size)
    first_epoch, steps_done = divmod(first_step, steps)
    pictures = len(split)
    with tf.device("/CPU:0"):                           # where batches are made
        coins = draw((seed, 0), (pictures,), "alternating_flip") < 0.5
    held, read = _held(split.images)
    # With each picture its place, by which to look up its label and its coin: cheaper than a third thing to shuffle.
    cached = tf.data.Dataset.from_tensor_slices((held, np.arange(pictures))).cache()

    def one_epoch(epoch):
        shuffled = cached.shuffle(pictures, seed=seed * 100_003 + epoch, reshuffle_each_iteration=False)
        return shuffled.batch(batch_size, drop_remainder=True)

    def prepare(step, batch):
        images, places = batch
        images, labels = read(images), tf.gather(split.labels, places)
        if alternating_flip:
            mirrored = tf.cast(tf.gather(coins, places) != (step // steps % 2 == 1), tf.int32)
            images = tf.gather(tf.stack([images, tf.reverse(images, [2])], axis=1), mirrored, batch_dims=1)
        step, images = tf.cast(step, tf.int32), tf.cast(images, tf.float32)
        if augment is not None:
            images = augment(images, tf.stack([seed, step]))
        if mix is not None:
            images, labels = mix(images, labels, tf.stack([seed, step]))
        return step, images, labels

    tf.random.set_seed(1)           # shuffle mixes this into its own seed; 0 would not go with a tensor for seed
    order = tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch).skip(steps_done)
    return order.enumerate(first_step).map(prepare, tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


def _held(images):
    """Gives what a pipeline holds of a picture, itself or its place in a file; and what makes pictures of a batch."""
    if not isinstance(images, StoredPictures):
        return images, lambda batch: batch

    def read(places):
        batch = tf.numpy_function(lambda places: np.asarray(images[places]), [places], tf.uint8, stateful=False)
        return tf.ensure_shape(batch, (places.shape[0], *images.shape[1:]))

    return np.arange(len(images)), read


def evaluation_batches(images, batch_size: int, mirrored: bool = False):
    """Gives a tf.data.Dataset of (images, count): all images in order, the last batch filled up with black pictures.

    images: as given, or mirrored left and right, (batch_size, H, W, C); count: how many of them are real. Always one
    shape, as DirectML compiles its kernels again for another.
    """
    held, read = _held(images)

    def fill(batch):
        batch = tf.reverse(read(batch), [2]) if mirrored else read(batch)
        count = tf.shape(batch)[0]
        batch = tf.pad(batch, [[0, batch_size - count], [0, 0], [0, 0], [0, 0]])
        return tf.ensure_shape(batch, (batch_size, *images.shape[1:])), count

    return tf.data.Dataset.from_tensor_slices(held).batch(batch_size).map(fill).prefetch(tf.data.AUTOTUNE)
