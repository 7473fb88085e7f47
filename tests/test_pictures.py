"""The pictures: right size, right content where a pixel can tell."""
import numpy as np
import pytest
from PIL import Image

from vision_transformer import pictures


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("count, channels", [(1, 3), (8, 1), (13, 3), (64, 1)])
def test_samples_show_every_picture_in_its_colour(tmp_path, count, channels):
    images = np.zeros((count, 6, 10, channels), np.float32)
    images[-1] = 200 if channels == 1 else (255, 0, 255)
    pictures.save_samples(tmp_path / "s.png", images, [0] * count, ["some class"])
    shown, colour = pixels_of(tmp_path / "s.png"), 200 if channels == 1 else (255, 0, 255)
    black, marked = (shown == 0).all(axis=-1).sum(), (shown == colour).all(axis=-1).sum()
    assert marked > 1000
    assert black == pytest.approx(marked * (count - 1), rel=0.05, abs=2000)


def row(epoch, **changes):
    return {"epoch": epoch, "learning_rate": 0.1, "loss": 2 / epoch, "accuracy": 1 - 1 / epoch, "val_loss": 3 / epoch,
            "val_accuracy": 0.9 - 0.8 / epoch, **changes}


@pytest.mark.parametrize("epochs", [1, 7])
def test_curves_are_drawn_for_any_number_of_epochs(tmp_path, epochs):
    pictures.save_curves(tmp_path / "c.png", [row(e + 1) for e in range(epochs)], 1, halves=True)
    plain = pixels_of(tmp_path / "c.png")
    falling = [row(e + 1, learning_rate=0.1 / (e + 1)) for e in range(epochs)]
    pictures.save_curves(tmp_path / "d.png", falling, 1, halves=True)
    assert plain.shape == (462, 1210, 3)
    assert (plain != pixels_of(tmp_path / "d.png")).any() == (epochs > 1), "halvings are marked where there are any"
    pictures.save_curves(tmp_path / "e.png", falling, 1, halves=False)
    np.testing.assert_array_equal(plain, pixels_of(tmp_path / "e.png"), "a schedule's fall is no halving")


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_confusion_shades_by_share_of_the_row(tmp_path, classes):
    counts = np.zeros((classes, classes), int)
    counts[0, 0], counts[1, 0] = 7, 3                   # class 0 all right, class 1 all wrong, no others
    pictures.save_confusion(tmp_path / "c.png", counts, [f"class {k}" for k in range(classes)])
    shown = pixels_of(tmp_path / "c.png")
    full = (np.abs(shown - (8, 48, 107)).sum(axis=-1) < 12).mean()          # the darkest of the Blues
    assert full > 0.5 / classes ** 2 * 0.3
    assert min(shown.shape[:2]) > 400


def test_any_name_of_a_class_can_be_drawn(tmp_path, recwarn):
    """Two $ would be a formula, here a broken one; of letters that the font lacks matplotlib would warn."""
    names = ["$\\frac{$", "x" * 250, "名前", "100 % {a}_^", "\\n"]
    pictures.save_samples(tmp_path / "s.png", np.zeros((5, 6, 10, 3)), range(5), names)
    pictures.save_confusion(tmp_path / "c.png", np.eye(5, dtype=int), names)
    sizes = [pixels_of(tmp_path / name).shape for name in ("s.png", "c.png")]
    assert sizes[1][0] > 300 and not recwarn.list
    pictures.save_confusion(tmp_path / "d.png", np.eye(5, dtype=int), ["a", "x" * 19 + "…", "b", "c", "d"])
    assert pixels_of(tmp_path / "d.png").shape == sizes[1], "long names are shortened"
