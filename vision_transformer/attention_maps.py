"""Where a Vision Transformer looks: its attention, as maps over the picture. Numbers only; explanations.py draws them.

    B pictures     h heads     E class and register tokens, in front     P tokens of the picture, rows * columns
    S learned tokens behind a token learner     N tokens of a block: E + P, or behind a token learner E + S

Attention says which tokens were mixed, not why a class was chosen: Jain and Wallace, arXiv 1902.10186.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from .memory import enough_memory
from .model import PATCHES, VisionTransformer, learns_after, stem_halvings, token_grid

MOST_NUMBERS = 2 ** 24          # of attention that are held at a time: 192 MB


class TokenField(NamedTuple):
    """The part of a picture that each of its tokens is made of, or stands for: a square of `size` pixels.

    The first begins in the upper left corner, the next `stride` pixels on. Behind a stem a token stands for a square,
    yet the stem's convolutions have also seen what lies around it, as shifted patches have.
    """

    rows: int
    columns: int
    size: int
    stride: int

    @classmethod
    def of(cls, config: dict) -> TokenField:
        """Gives that of a VisionTransformer's config."""
        rows, columns = token_grid(config)
        if config["embedding"] in PATCHES:
            return cls(rows, columns, config["patch_size"], config["patch_stride"])
        side = 2 ** stem_halvings(config)
        # Whitening sees 2 pixels at a time, the halvings of odd sides 3: squares reach into their neighbours.
        return cls(rows, columns, 2 * side if config["whitening"] else side, side)

    def distances(self) -> np.ndarray:
        """Gives how far apart the squares' centres are, in pixels, each from each: (P, P)."""
        row, column = (self.stride * axis.reshape(-1) for axis in np.mgrid[:self.rows, :self.columns])
        return np.hypot(row[:, None] - row, column[:, None] - column)

    def spread(self, values) -> np.ndarray:
        """Gives values (rows, columns) as (H, W): at each pixel the mean of the squares there."""
        cover_rows, cover_columns = self._cover(self.rows), self._cover(self.columns)
        count = np.outer(cover_rows.sum(axis=1), cover_columns.sum(axis=1))
        return cover_rows @ np.asarray(values, np.float64) @ cover_columns.T / count

    def _cover(self, squares: int) -> np.ndarray:
        """Tells which pixels of a side lie in which square: (pixels, squares), 0 or 1."""
        pixels = np.arange((squares - 1) * self.stride + self.size)
        inside = pixels[:, None] - self.stride * np.arange(squares)
        return ((inside >= 0) & (inside < self.size)).astype(np.float64)


class Looks(NamedTuple):
    """What a model made of some pictures, as far as it tells where it looked; `look` makes it."""

    logits: np.ndarray              # (B, K)
    attention: list                 # of each block (B, h, N, N); rows sum to 1: who looks, at whom
    read: np.ndarray                # (B, N) with the last block's N: how much the pool reads of each token; sums to 1
    learner: np.ndarray | None      # (B, E + S, E + P): what the tokens behind a token learner are made of
    learns_after: int               # the number of blocks before it; 0 where there is none
    extra: int                      # E
    field: TokenField

    def rollout(self) -> np.ndarray:
        """Gives what share of what the classifier reads came from where in the picture: (B, rows, columns), sum 1.

        That of class and register tokens, which are no part of it, is left out.
        """
        shares = rollout(self.read, self.attention, self.learner, self.learns_after)[:, self.extra:]
        return _share(shares).reshape(-1, self.field.rows, self.field.columns)

    def heads(self) -> list:
        """Gives where each head looks, for each block (B, h, rows, columns): the share that each token is looked at.

        Who looks is who is read: the class token, or with other pools all of the picture's tokens, weighted as the pool
        does. What a sum lacks of 1 went to class and register tokens. Learned tokens' shares go to what they are made
        of.
        """
        maps = []
        for number, attention in enumerate(self.attention, start=1):
            behind = 0 < self.learns_after < number
            who = self.read if behind or self.learner is None else _carry(self.read, self.learner)
            shares = np.einsum("bn,bhnm->bhm", who, attention)
            shares = np.einsum("bhm,bmp->bhp", shares, self.learner) if behind else shares
            maps.append(shares[:, :, self.extra:].reshape(*shares.shape[:2], self.field.rows, self.field.columns))
        return maps

    def distances(self) -> np.ndarray:
        """Gives how far each head looks, in pixels: (blocks, B, h); see mean_distance."""
        apart, far = self.field.distances(), []
        for number, attention in enumerate(self.attention, start=1):
            if 0 < self.learns_after < number:
                places = _share(self.learner[:, self.extra:, self.extra:])                 # (B, S, P)
                far.append(mean_distance(attention, places @ apart @ places.swapaxes(1, 2), self.extra))
            else:
                far.append(mean_distance(attention, apart[None], self.extra))
        return np.stack(far)


def look(model, images) -> Looks:
    """Runs pictures (B, H, W, C), 0..255, through a VisionTransformer and tells where it looks.

    Raises:
        ValueError: a model without attention.
    """
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"a {type(model).__name__} has no attention: nothing can be said of where it looks; take a "
                         "run of ARCHITECTURE 'vit'.")
    config, extra = model.config, model.extra_tokens
    with enough_memory(f"the attention of {len(images)} pictures", "their number"):
        made = model.forward(tf.convert_to_tensor(np.asarray(images)), training=False)
        attention = [shares.numpy().astype(np.float64) for shares in made["attention"]]
        read = np.zeros(made["tokens"].shape[:2])
        if config["pool"] == "cls":
            read_tokens = 1 + config["read_registers"]
            read[:, :read_tokens] = 1 / read_tokens
        elif config["pool"] == "sequence":
            read[:, extra:] = model.sequence_pooling.weights_of(made["tokens"][:, extra:]).numpy()[:, :, 0]
        else:                   # "flatten" gives each token weights of its own in the classifier: as if all were equal
            read[:, extra:] = 1 / (read.shape[1] - extra)
        maps = made["token_maps"]
        learner = None if maps is None else learner_matrix(maps.numpy().astype(np.float64), extra)
    return Looks(made["logits"].numpy(), attention, read, learner, learns_after(config), extra, TokenField.of(config))


def look_in_parts(model, images):
    """Gives the Looks of pictures, as many at a time as memory may hold."""
    config = model.config
    rows, columns = token_grid(config)
    numbers = config["number_of_layers"] * config["num_heads"] * (model.extra_tokens + rows * columns) ** 2
    at_a_time = max(1, MOST_NUMBERS // numbers)
    for start in range(0, len(images), at_a_time):
        yield look(model, images[start:start + at_a_time])


def rollout(read, attention, learner=None, learns_after: int = 0) -> np.ndarray:
    """Follows shares (B, N) of the last block's tokens back to the first's: (B, E + P), with the same sum.

    Through each block, half of a token's share stays with it (the residual sum), and half goes where it looks, the mean
    over heads: with A that mean, the shares are multiplied by (A + 1) / 2 of every block, from the last to the first.
    Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers, arXiv 2005.00928, section 3 (attention
    rollout); that a share goes through a token learner to what its token is made of is ours.
    """
    shares = np.asarray(read, np.float64)
    for number in range(len(attention), 0, -1):
        if number == learns_after:
            shares = _carry(shares, learner)
        shares = (shares + _carry(shares, attention[number - 1].mean(axis=1))) / 2
    return shares


def learner_matrix(token_maps, extra: int) -> np.ndarray:
    """Gives what E + S tokens behind a token learner are made of, (B, E + S, E + P), rows summing to 1.

    token_maps (B, S, P): its weights, by whatever sum.
    """
    count, learned, patches = token_maps.shape
    matrix = np.zeros((count, extra + learned, extra + patches))
    matrix[:, :extra, :extra] = np.eye(extra)
    matrix[:, extra:, extra:] = _share(token_maps)
    return matrix


def mean_distance(attention, apart, extra: int) -> np.ndarray:
    """Gives how far tokens look in the mean, (B, h): over all tokens of the picture, by attention (B, h, N, N).

    apart (B or 1, N - E, N - E): how far each such token is from each; for learned ones, which are made of many places,
    in the mean over these, so that even what looks at itself looks some way. Class and register tokens have no place:
    they are left out on both sides, and what is looked at beside them counts as all.
    Source: Dosovitskiy et al., arXiv 2010.11929, figure 7 and appendix D.7.
    """
    return (_share(attention[:, :, extra:, extra:]) * apart[:, None]).sum(axis=3).mean(axis=2)


def _carry(shares, matrix):
    """Carries shares (B, n) over (B, n, m) to (B, m)."""
    return np.einsum("bn,bnm->bm", shares, matrix)


def _share(values):
    """Divides by the sum over the last axis; where that is 0, nothing has a share."""
    total = values.sum(axis=-1, keepdims=True)
    return np.divide(values, total, out=np.zeros_like(values), where=total > 0)
