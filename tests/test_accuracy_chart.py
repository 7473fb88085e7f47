"""benchmarks/accuracy_chart.py: which rows of a document it draws, and that the document's own can be drawn."""
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from accuracy_chart import KINDS, Point, draw, read_points  # noqa: E402

DOCUMENT = """
| system | kind | test accuracy, % | training FLOPs | source |
|---|---|---|---|---|
| [A net](https://a.example) of `two` | attention | 76.8 (text) | 3.3e14 | here |
| B | ours | 85.1 ± 0.2 | 1.4e14, counted | there |

| system | seconds |
|---|---|
| C | 5 |
"""


def test_rows_with_the_four_columns_become_points():
    assert read_points(DOCUMENT) == [Point("A net of two", "attention", 76.8, 3.3e14), Point("B", "ours", 85.1, 1.4e14)]


@pytest.mark.parametrize("old, new", [("| ours |", "| our |"), ("85.1 ±", "about 85 ±"), ("| 1.4e14,", "| much,")])
def test_a_row_that_can_not_be_drawn_is_named(old, new):
    with pytest.raises(ValueError, match="the row of 'B' can't be drawn"):
        read_points(DOCUMENT.replace(old, new))


def test_the_documents_rows_are_all_in_the_chart():
    points = read_points((ROOT / "docs" / "results.md").read_text(encoding="utf-8"))
    assert {point.kind for point in points} == set(KINDS)
    [axes] = draw(points).axes
    assert sorted(text.get_text() for text in axes.texts) == sorted(point.system for point in points)
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == len(points)
