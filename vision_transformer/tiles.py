"""Small pictures side by side in one figure, each pixel of theirs a square of whole pixels; numbers as colours.

A tile is uint8 (h, w, 3).
"""
from __future__ import annotations

from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from .pictures import DPI, plain

GAP, LINE, MARGIN = 6, 17, 12       # pixels: between tiles, of a line of text, around the figure
LOWEST_BAR = 170                    # pixels: its label fits beside it
FONT = 7.5
COLOURS = "inferno"                 # equal steps of value are equal steps of lightness, from black to yellow


class Bar(NamedTuple):
    """A colour bar: what the colours from `low` to `high` mean."""

    low: float
    high: float
    label: str


def figure_of(tiles: list, title: str, rows=(), columns=(), bar: Bar | None = None) -> Figure:
    """Shows rows of (tile, caption), or None where nothing is; all tiles of one size, captions below them.

    rows, columns: what stands left of each row, above each column.
    """
    shown = [cell for row in tiles for cell in row if cell]
    tall, wide = shown[0][0].shape[:2]
    below = LINE * max(1 + caption.count("\n") if caption else 0 for _, caption in shown)
    left = MARGIN + (8 + _width(rows) if rows else 0)
    top = MARGIN + LINE * (1 + title.count("\n")) + 4 + (LINE if columns else 0)
    across = max(len(row) for row in tiles)
    right = left + across * (wide + GAP) - GAP
    bottom = top + len(tiles) * (tall + below + GAP) - GAP
    width = max(right, MARGIN + _width(title.split("\n"), 1.15)) + (95 if bar else 0) + MARGIN
    height = max(bottom, top + LOWEST_BAR if bar else 0) + MARGIN
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")

    def say(x, y, text, size=FONT, **options):
        axes.text(x, y, plain(text), fontsize=size, **{"ha": "center", "va": "top", "linespacing": 1.25, **options})

    say(MARGIN, MARGIN - 2, title, FONT * 1.15, ha="left")
    for i, row in enumerate(tiles):
        y = top + i * (tall + below + GAP)
        if rows:
            say(left - 8, y + tall / 2, rows[i], ha="right", va="center")
        for j, cell in enumerate(row):
            if cell:
                x = left + j * (wide + GAP)
                canvas[y:y + tall, x:x + wide] = cell[0]
                say(x + wide / 2, y + tall + 2, cell[1])
    for j, text in enumerate(columns):
        say(left + j * (wide + GAP) + wide / 2, top - LINE, text)
    axes.imshow(canvas, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    if bar:
        shown_height = max(LOWEST_BAR, min(bottom - top - below, 300))
        beside = figure.add_axes(((right + 18) / width, 1 - (top + shown_height) / height, 12 / width,
                                  shown_height / height))
        figure.colorbar(ScalarMappable(Normalize(bar.low, bar.high), COLOURS), cax=beside)
        beside.tick_params(labelsize=FONT)
        beside.set_ylabel(bar.label, fontsize=FONT)
    return figure


def _width(lines, larger: float = 1.0) -> int:
    """Gives about how many pixels the longest line is wide."""
    return int(max(map(len, lines)) * FONT * larger * DPI / 72 * 0.56)


def coloured(values, low: float, high: float) -> np.ndarray:
    """Gives values (h, w) as a tile: `low` and below has the first colour, `high` and above the last."""
    scaled = (np.asarray(values, np.float64) - low) / max(high - low, 1e-12)
    return (matplotlib.colormaps[COLOURS](np.clip(scaled, 0, 1))[..., :3] * 255).round().astype(np.uint8)


def as_tile(image) -> np.ndarray:
    """Gives a picture (h, w, C), 0..255, as a tile; of other than 3 channels their mean, in grey."""
    image = np.clip(np.rint(np.asarray(image, np.float64)), 0, 255)
    grey = image if image.shape[2] == 3 else np.repeat(image.mean(axis=2, keepdims=True).round(), 3, axis=2)
    return grey.astype(np.uint8)


def enlarged(tile, side: int) -> np.ndarray:
    """Repeats pixels, without blur, until the longer side has about `side`; of far larger tiles leaves some out."""
    longest = max(tile.shape[:2])
    times, each = max(1, round(side / longest)), max(1, longest // side)
    return tile[::each, ::each].repeat(times, axis=0).repeat(times, axis=1)
