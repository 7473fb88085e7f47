"""Small CNNs in place of patches: each position of their feature map is a token.

    B pictures in a batch   H, W, C height, width, channels   N tokens   D embedding width
"""
from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import keras

from .batch_norm import BatchNorm
from .checks import shown
from .compat import raw
from .embedding import as_tokens
from .gradients import gelu
from .mirrored_convolution import MirroredConvolution
from .picture_classifier import MOST_WIDTH

WHITENING_SIDE = 2              # pixels of the patches that whitening looks at
WHITENING_PIXELS = 2000 * 32 * 32       # of training pictures that their covariance is measured on
WHITENING_EPSILON = 5e-4        # added to a direction's variance, so that one without any isn't blown up


def stem_widths(text: str) -> list:
    """Reads channels such as "64-128" -> [64, 128], "" -> []; raises ValueError for anything else."""
    parts = text.split("-") if isinstance(text, str) else ["?"]
    widths = [int(part) if part.isdecimal() and len(part) < 9 else 0 for part in parts] if text != "" else []
    if not all(0 < width <= MOST_WIDTH for width in widths):
        raise ValueError(f"STEM_WIDTHS {shown(text)} is no list of widths; write whole numbers from 1 to "
                         f"{MOST_WIDTH:,} with - between them, such as 64-128.")
    return widths


def stem_channels(widths, embedding_dim: int, depth: int) -> list:
    """Lists the channels of a hybrid stem's convolutions: depth of each width, and the last to D."""
    return [width for width in widths for _ in range(depth)] + [embedding_dim]


def stem_grid(image_shape, halvings: int, whitening: bool = False) -> tuple[int, int]:
    """Gives (rows, columns) of an (H, W, C) picture's feature map; raises ValueError where a side can't be halved.

    Whitening takes a pixel off both sides, which the halving of what is left leaves out.
    """
    height, width, _ = image_shape
    if height % 2 ** halvings or width % 2 ** halvings:
        raise ValueError(f"a {height}x{width} picture can't be halved {halvings} times, as EMBEDDING and STEM_WIDTHS "
                         "ask for; give fewer widths.")
    return (height - whitening) // 2 ** halvings, (width - whitening) // 2 ** halvings


def _convolution(width: int, number: int, **kwargs):
    return keras.layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"convolution_{number}", **kwargs)


@keras.utils.register_keras_serializable("vision_transformer")
class HybridStem(keras.layers.Layer):
    """Pictures (B, H, W, C) to tokens (B, N, D): for each width convolution, halving, batch norm, GELU; one more to D.

    All convolutions are 3x3 without a bias, which batch norm would take away again. Each output of a halving is the
    largest of 2x2 neighbours, or of 3x3 where the sides are odd, so that it leaves nothing out. A depth of 2 or more
    follows each halving up with so many more of the same width, less one. With whitening, such a layer comes first.

    With mirrored filters, the second half of the channels is what the first half is of the mirrored picture, mirrored
    back: what is learned of a picture is known of its mirror image, with half of the weights. Each filter and its twin
    share a norm.
    Source: hybrid ViTs, arXiv 2010.11929, section 3.1; this stem: Jordan, arXiv 2404.00498, section 3 (the order of its
    layers), and Hassani et al., arXiv 2104.05704 (how small it can be); mirrored filters: Cohen and Welling, Group
    Equivariant Convolutional Networks, arXiv 1602.07576, for the group of a mirror.
    """

    def __init__(self, widths, embedding_dim: int, depth: int = 1, whitening: bool = False, mirrored: bool = False,
                 **kwargs):
        super().__init__(**kwargs)
        self.widths, self.embedding_dim, self.depth, self.mirrored = list(widths), embedding_dim, depth, mirrored
        self.whitening = Whitening(mirrored, name="whitening") if whitening else None
        channels = stem_channels(widths, embedding_dim, depth)
        self.convolutions = [
            MirroredConvolution(width, of_halves=i > 0 or whitening, name=f"convolution_{i}") if mirrored
            else _convolution(width, i) for i, width in enumerate(channels)]
        self.norms = [BatchNorm(name=f"norm_{i}") for i in range(len(channels))]

    def call(self, images, training=None):
        """Makes tokens (B, N, D) of images (B, H, W, C)."""
        x = self.whitening(images) if self.whitening else images
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            x = convolution(x)
            if number % self.depth == 0 and number < self.depth * len(self.widths):
                x = tf.nn.max_pool2d(x, 2 + x.shape[1] % 2, 2, "VALID")                    # (B, H/2, W/2, width)
            _, rows, columns, width = x.shape
            if self.mirrored:                           # the two halves of the channels as more columns, for one norm
                x = norm(tf.reshape(x, (-1, rows, 2 * columns, width // 2)), training=training)
                x = gelu(tf.reshape(x, (-1, rows, columns, width)))
            else:
                x = gelu(norm(x, training=training))
        return as_tokens(x)

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "widths": self.widths, "embedding_dim": self.embedding_dim,
                "depth": self.depth, "whitening": self.whitening is not None, "mirrored": self.mirrored}


@keras.utils.register_keras_serializable("vision_transformer")
class CompactStem(keras.layers.Layer):
    """Pictures (B, H, W, C) to tokens (B, N, D): for each width and for D convolution, ReLU, halving.

    The convolutions are 3x3 without a bias; each output of a halving is the largest of 3x3 neighbours.
    Source: Hassani et al., Escaping the Big Data Paradigm with Compact Transformers, arXiv 2104.05704, section 3
    (convolutional tokenizer; there the neighbourhoods begin one pixel further to the left and top); first weights: He
    et al., arXiv 1502.01852.
    """

    def __init__(self, widths, embedding_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.widths, self.embedding_dim = list(widths), embedding_dim
        self.convolutions = [_convolution(width, i, kernel_initializer="he_normal")
                             for i, width in enumerate([*widths, embedding_dim])]

    def call(self, images, training=None):
        """Makes tokens (B, N, D) of images (B, H, W, C); training makes no difference."""
        x = images
        for convolution in self.convolutions:
            x = tf.nn.max_pool2d(tf.nn.relu(convolution(x)), 3, 2, "SAME")                 # (B, H/2, W/2, width)
        return as_tokens(x)

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "widths": self.widths, "embedding_dim": self.embedding_dim}


@keras.utils.register_keras_serializable("vision_transformer")
class Whitening(keras.layers.Layer):
    """A first convolution that makes neighbouring pixels, which say nearly the same, into numbers that don't.

    Its 2x2 kernel is `fit` to the data once and not trained: half of the 8C channels are the directions in which
    patches differ, the one of most variance first, each scaled to variance 1; the other half are the same with the
    other sign, as GELU lets only one side through. Only whole patches count: to a kernel that tells small differences,
    a picture's edge on nothing would be one that outshines all others. Until it is fit, the kernel is random.

    Mirrored, the data are taken to hold each picture's mirror image, too. Each direction is then even, which is its own
    mirror image, or odd, which is that with the other sign. The sum of an even and an odd one, over the root of 2, and
    their difference are mirror images of each other: with both signs, the two halves of the channels.
    Source: Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv 2404.00498, section 3 (there with a bias that
    is trained for a while).
    """

    def __init__(self, mirrored: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.mirrored = mirrored
        self.initializer = keras.initializers.GlorotUniform()

    def build(self, input_shape):
        """Creates the kernel."""
        channels = input_shape[-1]
        shape = (WHITENING_SIDE, WHITENING_SIDE, channels, 2 * WHITENING_SIDE ** 2 * channels)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.initializer, trainable=False)
        super().build(input_shape)

    def call(self, images):
        """Makes maps (B, H - 1, W - 1, 8C) of images (B, H, W, C)."""
        return gelu(tf.nn.conv2d(images, tf.cast(raw(self.kernel), images.dtype), 1, "VALID"))

    def fit(self, images) -> None:
        """Sets the kernel to scaled float images (n, H, W, C)."""
        _, height, width, channels = images.shape
        left, right = (np.concatenate([images[:, y:height - 1 + y, x:width - 1 + x] for y in (0, 1)], axis=3).reshape(
            -1, 2 * channels) for x in (0, 1))                                             # (n * all places, 2C)
        if self.mirrored:
            even, odd = _directions((left + right) / 2 ** 0.5), _directions((left - right) / 2 ** 0.5)
            left, right = (even + odd) / 2, (even - odd) / 2                               # of the filters (2C, 2C)
            columns = [np.concatenate([one, -one, other, -other], axis=1)
                       for one, other in ((left, right), (right, left))]
        else:
            both = _directions(np.concatenate([left, right], axis=1))                      # (4C, 4C)
            columns = np.split(np.concatenate([both, -both], axis=1), 2)
        kernel = [column.reshape(2, channels, -1) for column in columns]                   # rows, C, 8C
        raw(self.kernel).assign(np.stack(kernel, axis=1))

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "mirrored": self.mirrored}


def _directions(samples) -> np.ndarray:
    """Gives the directions in which samples (n, d) differ, as columns (d, d), that of most variance first, each scaled.

    The largest number of each is above 0; along it the samples have variance 1.
    """
    variances, directions = np.linalg.eigh(np.cov(samples.T, bias=True))                   # the largest last
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), range(len(directions))])
    return (directions / np.sqrt(variances + WHITENING_EPSILON))[:, ::-1]
