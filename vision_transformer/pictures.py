"""The pictures of a run: augmented samples, training curves, confusion matrix. Each function writes one PNG."""
from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .messages import harmless
from .storage import write

DPI = 110
LONGEST_NAME = 20       # letters of a class's name that are shown


def save_samples(path: Path, images, labels, class_names) -> None:
    """Shows images (n, H, W, C), 0..255, in rows of 8, each under its class name."""
    count, height, width, channels = images.shape
    above, beside = -(-height // 4), -(-width // 16)            # white: for the name, and between two pictures
    tiles = np.full((-(-count // 8) * 8, above + height, width + beside, channels), 255, np.uint8)
    tiles[:count, above:, :width] = np.clip(np.rint(images), 0, 255)
    rows, (tall, wide) = len(tiles) // 8, tiles.shape[1:3]
    # One picture of them all: axes for each would take two seconds to draw, of the few until a training begins.
    mosaic = tiles.reshape(rows, 8, tall, wide, channels).swapaxes(1, 2).reshape(rows * tall, 8 * wide, channels)
    figure = Figure(figsize=(10, 10 * rows * tall / (8 * wide)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(mosaic, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    for number, label in enumerate(labels[:count]):
        row, column = divmod(number, 8)
        axes.text(column * wide + width / 2, row * tall + above - 1, _shown(class_names[label]), fontsize=8,
                  ha="center", va="bottom")
    axes.axis("off")
    save_figure(figure, path)


def save_curves(path: Path, history: list, best_epoch: int, halves: bool) -> None:
    """Shows loss and accuracy by epoch, training and validation, with the best epoch marked.

    halves: the learning rate falls by halvings only, as under "plateau"; they are marked, too.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    epochs = [row["epoch"] for row in history]
    rates = [row["learning_rate"] for row in history]
    halved = [epoch for epoch, before, now in zip(epochs[1:], rates, rates[1:]) if halves and now < before]
    best = history[best_epoch - 1]
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy")):
        axes.plot(epochs, [row[name] for row in history], marker=".", label="training (augmented)")
        axes.plot(epochs, [row[f"val_{name}"] for row in history], marker=".", label="validation")
        axes.plot(best_epoch, best[f"val_{name}"], "o", mfc="none", ms=11, color="black",
                  label=f"best: epoch {best_epoch}, validation accuracy {best['val_accuracy']:.2%}")
        for i, epoch in enumerate(halved):
            axes.axvline(epoch, color="gray", ls=":", lw=1, label=None if i else "learning rate halved")
        axes.set(xlabel="epoch", title=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncol=4, fontsize=8)
    save_figure(figure, path)


def save_comparison(path: Path, histories: dict) -> None:
    """Shows runs, {name: rows of its epochs}: validation loss and accuracy by epoch, and accuracy by CPU minutes."""
    figure = Figure(figsize=(15, 4.6 + 0.22 * len(histories)), layout="constrained")
    panels = figure.subplots(1, 3)
    marks = [line + mark for mark in "os^Dv" for line in ("-", "--", ":", "-.")]        # ten colours are soon used up
    for axes, by, name in zip(panels, ("epoch", "epoch", "cpu_seconds"), ("val_loss", "val_accuracy", "val_accuracy")):
        minutes = by == "cpu_seconds"
        for number, (run, history) in enumerate(histories.items()):
            axes.plot([row[by] / (60 if minutes else 1) for row in history], [row[name] for row in history],
                      marks[number // 10 % len(marks)], color=f"C{number % 10}", ms=4, label=run)
        axes.set(xlabel="CPU minutes" if minutes else "epoch", title=name.replace("val_", "validation "))
        axes.grid(alpha=0.3)
        if not minutes:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if name == "val_accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", fontsize=9)
    save_figure(figure, path)


def save_confusion(path: Path, confusion, class_names) -> None:
    """Shows a confusion matrix (K, K) of counts: row = true class, column = predicted, shade = share of the row."""
    confusion = np.asarray(confusion)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    classes, few = len(class_names), len(class_names) <= 20
    size = 3 + 0.55 * classes if few else 14
    figure = Figure(figsize=(size + 1.3, size), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks, font = np.arange(classes), 9 if few else 5
    names = list(map(_shown, class_names))
    axes.set_xticks(ticks, names, rotation=90, fontsize=font)
    axes.set_yticks(ticks, names, fontsize=font)
    axes.set(xlabel="predicted", ylabel="true",
             title=f"confusion on {confusion.sum():,} pictures, {np.trace(confusion) / confusion.sum():.2%} right")
    if few:
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                axes.text(column, row, str(count), ha="center", va="center", fontsize=8,
                          color="white" if shares[row, column] > 0.5 else "black")
    figure.colorbar(shown, ax=axes, shrink=0.8, format=PercentFormatter(1.0), label="share of the true class")
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG."""
    write(path, png_of(figure))


def png_of(figure: Figure) -> bytes:
    """Gives a figure as the content of a PNG file."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")           # of a name in another script: a box is drawn
        figure.savefig(content, format="png", dpi=DPI)
    return content.getvalue()


def plain(text) -> str:
    """Gives text, which may be a stranger's, so that it is drawn as it stands: matplotlib reads formulas between $."""
    return "\n".join(map(harmless, str(text).split("\n"))).replace("$", r"\$")


def _shown(name: str) -> str:
    """Gives a class's name, shortened, to be drawn."""
    return plain(name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME - 1] + "…")
