"""Accuracy against training FLOPs, ours beside published systems: draws docs/accuracy.png from docs/results.md.

    python benchmarks/accuracy_chart.py

Its points are the rows of that file's tables that have the columns below, so no figure is written twice.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parents[1] / "docs"
SYSTEM, KIND, ACCURACY, FLOPS = "system", "kind", "test accuracy, %", "training FLOPs"
KINDS = {       # kind -> how it is drawn
    "ours": {"marker": "*", "s": 190, "color": "tab:red", "zorder": 3, "label": "this project (JPEG copy)"},
    "ours, written out": {"marker": "*", "s": 150, "edgecolor": "tab:red", "color": "none",
                          "label": "the same with all products of mirrored filters"},
    "attention": {"marker": "o", "s": 40, "color": "tab:blue", "label": "published, with attention (lossless)"},
    "no attention": {"marker": "s", "s": 36, "color": "gray", "label": "published, without attention (lossless)"},
}


class Point(NamedTuple):
    """A system, its test accuracy in percent and the floating-point operations of its training."""

    system: str
    kind: str
    accuracy: float
    flops: float


def read_points(markdown: str) -> list:
    """Gives a Point for each row of the tables with the four columns; raises ValueError for what can't be read."""
    points, columns = [], None
    for line in markdown.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else None
        if cells is None:
            columns = None
        elif columns is None:
            columns = {name: i for i, name in enumerate(cells)}
        elif {SYSTEM, KIND, ACCURACY, FLOPS} <= columns.keys() and set(line) - set("|-: "):
            system, kind, accuracy, flops = (cells[columns[name]] for name in (SYSTEM, KIND, ACCURACY, FLOPS))
            numbers = [re.match(r"[\d.]+(e\d+)?", text) for text in (accuracy, flops)]
            if kind not in KINDS or None in numbers:
                raise ValueError(f"the row of {system!r} can't be drawn: {KIND} is one of {', '.join(KINDS)}, accuracy "
                                 "and FLOPs begin with a number such as 85.1 and 1.4e14.")
            plain = re.sub(r"\[([^]]*)]\([^)]*\)|`", r"\1", system)
            points.append(Point(plain, kind, float(numbers[0][0]), float(numbers[1][0])))
    return points


def draw(points: list) -> Figure:
    """Draws the points, each kind its own way, each with its name."""
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    axes = figure.subplots()
    for kind, style in KINDS.items():
        of_kind = [point for point in points if point.kind == kind]
        axes.scatter([p.flops for p in of_kind], [p.accuracy for p in of_kind], **style)
        ours = kind.startswith("ours")                  # on the left, where nobody else is yet
        place = {"ours": (-9, -3), "ours, written out": (-9, -11)}.get(kind, (7, -3))
        for point in of_kind:
            axes.annotate(point.system, (point.flops, point.accuracy), xytext=place, textcoords="offset points",
                          ha="right" if ours else "left", fontsize=8, color=style.get("edgecolor", style["color"]),
                          weight="bold" if kind == "ours" else "normal")
    axes.set(xscale="log", xlabel="training FLOPs",
             ylabel="CIFAR-10 test accuracy, %", title="Accuracy for compute, trained from scratch")
    axes.margins(x=0.2)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


if __name__ == "__main__":
    draw(read_points((DOCS / "results.md").read_text(encoding="utf-8"))).savefig(DOCS / "accuracy.png", dpi=110)
    print(f"drawn: {DOCS / 'accuracy.png'}")
