"""Pictures and tables of where a Vision Transformer looks in one picture: its patches, heads, learned tokens, rollout.

Each function gives what is drawn, and a table with the same numbers; nothing is written. What they mean, and what they
don't: docs/explain.md.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from .attention_maps import Looks, TokenField, look
from .classification import probabilities
from .tiles import Bar, as_tile, coloured, enlarged, figure_of

MOST_SHOWN = 16                 # blocks, heads and learned tokens of a model that are drawn; the tables have all
LUMINANCE = (0.299, 0.587, 0.114)       # of red, green and blue: ITU-R BT.601


class Explanation(NamedTuple):
    """A figure, and the numbers in it as a table: the names of its columns, its rows."""

    figure: Figure
    header: tuple
    rows: list


def rollout_map(model, image) -> np.ndarray:
    """Gives the attention rollout of one picture (H, W, C), 0..255: (rows, columns) of its tokens, sum 1."""
    return look(model, image[None]).rollout()[0]


def rollout_picture(model, image) -> np.ndarray:
    """Gives one picture (H, W, C), 0..255, covered by its attention rollout: uint8 (H', W', 3), enlarged."""
    return enlarged(overlaid(image, rollout_map(model, image), TokenField.of(model.config)), 256)


def overlaid(image, shares, field: TokenField) -> np.ndarray:
    """Gives a picture (H, W, C) in grey, half covered by the colours of shares (rows, columns), as a tile (H, W, 3).

    Black is the lowest share, yellow the highest, however near they are: say beside it which they are.
    """
    grey = as_tile(image) @ LUMINANCE
    heat = coloured(field.spread(shares), shares.min(), shares.max())
    return ((grey[..., None] + heat) / 2).round().astype(np.uint8)


def explain_rollout(image, looks: Looks, title: str) -> Explanation:
    """Shows one picture, its attention rollout, and the one over the other."""
    [shares] = looks.rollout()
    low, high = shares.min(), shares.max()
    tiles = [(as_tile(image), "the picture"), (coloured(looks.field.spread(shares), low, high), "attention rollout"),
             (overlaid(image, shares, looks.field), "both")]
    figure = figure_of([[(enlarged(tile, 256), caption) for tile, caption in tiles]], title,
                       bar=Bar(low * shares.size, high * shares.size, "times an even share"))
    return Explanation(figure, ("row", "column", "share"), [(*place, share) for place, share in np.ndenumerate(shares)])


def explain_heads(image, looks: Looks, title: str) -> Explanation:
    """Shows where each head of each block looks in one picture."""
    heads = [maps[0] for maps in looks.heads()]                                            # (h, rows, columns) each
    blocks, chosen = _chosen(len(heads)), _chosen(len(heads[0]))
    tiles = [[_map_tile(heads[block][head], looks.extra) for head in chosen] for block in blocks]
    below = f"below: the highest share, as a multiple of an even one{', and the sum' if looks.extra else ''}"
    figure = figure_of(tiles, f"{title}\nwhere each head looks; {below}", [f"block {block + 1}" for block in blocks],
                       [f"head {head + 1}" for head in chosen], Bar(0, 1, "share, of the map's highest"))
    return Explanation(figure, ("block", "head", "row", "column", "share"), [
        (block, head + 1, row, column, share) for block, maps in enumerate(heads, start=1)
        for (head, row, column), share in np.ndenumerate(maps)])


def explain_learned_tokens(image, looks: Looks, title: str) -> Explanation:
    """Shows which places of one picture each learned token is made of; for models with a token learner."""
    maps = looks.learner[0, looks.extra:, looks.extra:].reshape(-1, looks.field.rows, looks.field.columns)
    cells = [_map_tile(maps[token]) for token in _chosen(len(maps))]
    tiles = [cells[start:start + 8] for start in range(0, len(cells), 8)]
    figure = figure_of(tiles, f"{title}\nwhat each learned token is made of; below: the highest share, as a multiple "
                       "of an even one", bar=Bar(0, 1, "share, of the map's highest"))
    return Explanation(figure, ("token", "row", "column", "share"), [
        (token + 1, row, column, share) for (token, row, column), share in np.ndenumerate(maps)])


def explain_patches(image, field: TokenField, title: str) -> Explanation:
    """Shows one picture and what it is cut into, one square per token; squares that overlap are drawn apart."""
    times = max(1, 512 // (field.columns * (field.size + 1)))
    gap = max(1, times // 2)
    step = field.size * times + gap
    apart = np.full((field.rows * step - gap, field.columns * step - gap, 3), 255, np.uint8)
    tile, rows = as_tile(image), []
    for row in range(field.rows):
        for column in range(field.columns):
            top, left = row * field.stride, column * field.stride
            square = tile[top:top + field.size, left:left + field.size].repeat(times, axis=0).repeat(times, axis=1)
            apart[row * step:row * step + len(square), column * step:column * step + len(square)] = square
            rows.append((row, column, top, left, field.size))
    whole = np.full_like(apart, 255)
    shown = enlarged(tile, int(min(apart.shape[:2]) * 0.8))
    shown = shown[:whole.shape[0], :whole.shape[1]]
    top, left = ((room - size) // 2 for room, size in zip(whole.shape, shown.shape[:2]))
    whole[top:top + shown.shape[0], left:left + shown.shape[1]] = shown
    height, width = tile.shape[:2]
    figure = figure_of([[(whole, f"{height} x {width} pixels"),
                         (apart, f"{field.rows} x {field.columns} tokens of {field.size} x {field.size} pixels, one "
                                 f"every {field.stride}")]], title)
    return Explanation(figure, ("row", "column", "top", "left", "pixels"), rows)


def title_of(name: str, logits, class_names) -> str:
    """Says what a picture was taken for: "cat.jpg: cat 93.1%, dog 4.0%"."""
    shares = probabilities(logits)
    likeliest = np.argsort(-shares)[:2]
    return f"{name}: " + ", ".join(f"{class_names[k]} {shares[k]:.1%}" for k in likeliest)


def _map_tile(shares, with_sum=False):
    """Gives shares (rows, columns) as a tile beside its caption."""
    highest = shares.max()
    caption = f"{highest * shares.size:.1f}x" + (f"  {shares.sum():.0%}" if with_sum else "")
    return enlarged(coloured(shares, 0, highest), 72), caption


def _chosen(count: int) -> list:
    """Gives at most MOST_SHOWN of so many numbers, first and last among them, evenly apart."""
    return sorted(set(np.linspace(0, count - 1, min(count, MOST_SHOWN)).round().astype(int).tolist()))
