"""python -m vision_transformer: the commands on a run that was really trained, and on broken input."""
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train_digits
from vision_transformer.__main__ import main
from vision_transformer.commands.predict import read_picture
from vision_transformer.datasets import load_dataset
from vision_transformer.runs import Run, RunError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A short training on the digits."""
    folder = tmp_path_factory.mktemp("digits") / "runs"
    train_digits.main(["--epochs", "6", "--run-folder", str(folder)])
    return folder / "digits-001"


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory):
    """The first 20 test digits as picture files, by true class."""
    folder, test = tmp_path_factory.mktemp("pictures"), load_dataset("digits").test
    files = []
    for i in range(20):
        path = folder / f"{i}_is_{test.labels[i]}.png"
        Image.fromarray(test.images[i, ..., 0]).resize((50, 50), Image.BICUBIC).save(path)
        files.append((str(path), int(test.labels[i])))
    return files


def test_evaluate_prints_what_training_printed(digits_run, capsys):
    (digits_run / "confusion.png").unlink()
    assert main(["evaluate", str(digits_run)]) == 0
    output = capsys.readouterr().out
    results = json.loads((digits_run / "results.json").read_text(encoding="utf-8"))
    assert f"test accuracy {results['test_accuracy']:.2%}" in output and "on all 360 test pictures" in output
    for name, share in results["test_per_class"].items():
        assert f"  {name}  {share:7.2%}" in output
    assert (digits_run / "confusion.png").stat().st_size > 10_000


def test_evaluate_by_flip_averages_logits_and_keeps_the_plain_figure_apart(digits_run, capsys):
    assert main(["evaluate", str(digits_run), "--flip"]) == 0
    output, (plain, mirrored) = capsys.readouterr().out, accuracies_of_both(Run(digits_run).load_model())
    assert plain != mirrored, "mirrored digits are hard to read"
    assert f"test accuracy {plain:.2%}" in output
    assert f"averaged with the mirrored pictures: accuracy {mirrored:.2%}" in output


def accuracies_of_both(model):
    """The plain test accuracy, and that of the mean of the logits of each picture and of its mirror image."""
    test = load_dataset("digits").test
    plain = model(test.images).numpy()
    mirrored = model(np.stack([np.fliplr(image) for image in test.images])).numpy()
    return [(logits.argmax(axis=1) == test.labels).mean() for logits in (plain, (plain + mirrored) / 2)]


def test_evaluate_on_other_data_says_so(digits_run, capsys, monkeypatch, tmp_path):
    changed = load_dataset("digits")
    changed.train.images[0] = 0
    monkeypatch.setattr("vision_transformer.commands.evaluate.load_dataset", lambda *_: changed)
    main(["evaluate", str(digits_run)])
    assert "not the pictures of the training" in capsys.readouterr().out


def test_predict_knows_the_digits(digits_run, digit_files, capsys):
    assert main(["predict", str(digits_run), *[path for path, _ in digit_files]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [path for path, _ in digit_files]
    right = sum(line.split(": ")[1].startswith(f"{label} ") for line, (_, label) in zip(lines, digit_files))
    assert right >= 16


def test_predict_gives_probabilities(digits_run, digit_files, capsys):
    main(["predict", str(digits_run), digit_files[0][0], "--top", "10"])
    shares = [float(part.split()[-1].rstrip("%")) for part in capsys.readouterr().out.split(": ")[-1].split(", ")]
    assert len(shares) == 10 and shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=0.5)


def test_predict_answers_the_others_when_some_are_broken(digits_run, digit_files, tmp_path, capsys):
    good, broken, text = digit_files[0][0], tmp_path / "cut.png", tmp_path / "text.jpg"
    broken.write_bytes(Path(good).read_bytes()[:80])
    text.write_text("no picture", encoding="utf-8")
    bad = [str(broken), str(text), str(tmp_path), str(tmp_path / "missing.png"), str(bomb(tmp_path))]
    assert main(["predict", str(digits_run), bad[0], good, *bad[1:], good]) == 1
    output = capsys.readouterr()
    assert [line.split(": ")[0] for line in output.out.splitlines()] == [good, good]
    assert [line.split(": can't be read")[0] for line in output.err.splitlines()] == bad


def bomb(folder):
    """A PNG of a few bytes that claims 50,000 x 50,000 pixels."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    path = folder / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    return path


def test_predict_finds_files_by_pattern_where_the_shell_has_not(digits_run, digit_files, capsys):
    main(["predict", str(digits_run), str(Path(digit_files[0][0]).parent / "1?_is_*.png")])
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == sorted(
        path for path, _ in digit_files if Path(path).name.startswith("1") and Path(path).name[1].isdigit())


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_folder_that_no_script_made_is_refused(tmp_path, command):
    run = Run.create(tmp_path, "a", {})
    with pytest.raises(RunError, match=r"doesn't say '(constants|class_names)'"):
        main([command, str(run.path), *(["x.png"] if command == "predict" else [])])


@pytest.mark.parametrize("arguments, says", [
    (["predict", "RUN", "x.png", "--top", "0"], "--top 0 makes no sense for 10 classes"),
    (["predict", "RUN", "x.png", "--top", "11"], "--top 11 makes no sense"),
    (["evaluate", "nowhere"], "nowhere is no run folder"),
])
def test_bad_arguments_are_refused(digits_run, arguments, says):
    with pytest.raises(ValueError, match=says):
        main([str(digits_run) if a == "RUN" else a for a in arguments])


@pytest.mark.parametrize("flags, lines", [([], 1), (["--debug"], 9)])
def test_an_error_is_one_line_and_with_debug_a_traceback(tmp_path, flags, lines):
    done = subprocess.run([sys.executable, "-m", "vision_transformer", *flags, "evaluate", "nowhere"], cwd=tmp_path,
                          capture_output=True, encoding="utf-8", env={**os.environ, "PYTHONPATH": str(ROOT)})
    own = [line for line in done.stderr.splitlines() if not re.match(r"WARNING: All log messages|I\d{4} ", line)]
    assert done.returncode == (1 if flags else 2) and len(own) >= lines
    assert ("Traceback" in done.stderr) == bool(flags)
    if not flags:
        assert own == ["vision_transformer: nowhere is no run folder (it has no config.json); a run folder looks like "
                       "runs/cifar10-001. (--debug shows where)"]


# ------------------------------------------------------------------------------------------ reading pictures
GRADIENT = np.linspace(0, 255, 32 * 24 * 3).reshape(24, 32, 3).astype(np.uint8)


def saved(path, mode):
    """Saves the grey of GRADIENT in some mode."""
    grey = Image.fromarray(GRADIENT).convert("L")
    if mode in ("I;16", "I"):
        grey = Image.fromarray(np.asarray(grey).astype(np.uint16 if mode == "I;16" else np.int32) * 257)
    elif mode == "P":
        grey = grey.quantize(64)
    elif mode != "L":
        grey = grey.convert("RGB").convert(mode) if mode != "LA" else grey.convert("LA")
    grey.save(path)
    return path


@pytest.mark.parametrize("mode, suffix", [
    ("RGB", "png"), ("RGB", "bmp"), ("RGB", "webp"), ("L", "png"), ("L", "jpg"), ("P", "png"), ("P", "gif"),
    ("RGBA", "png"), ("LA", "png"), ("CMYK", "jpg"), ("I;16", "png"), ("I", "tif"), ("F", "tif")])
def test_every_mode_gives_about_the_same_picture(tmp_path, mode, suffix):
    path = saved(tmp_path / f"x.{suffix}", "L" if mode == "F" else mode)
    if mode == "F":
        Image.open(path).convert("F").save(path)
    grey = np.asarray(Image.fromarray(GRADIENT).convert("L")).astype(float)
    for channels in (3, 1):
        read = read_picture(path, (24, 32, channels))
        assert read.shape == (24, 32, channels) and read.dtype == np.uint8
        assert np.abs(read.mean(axis=-1) - grey).mean() < 4


def test_transparent_parts_become_white(tmp_path):
    picture = Image.new("RGBA", (9, 9), (255, 0, 0, 0))
    picture.putpixel((4, 4), (255, 0, 0, 255))
    picture.save(tmp_path / "x.png")
    read = read_picture(tmp_path / "x.png", (9, 9, 3))
    assert (read[0, 0] == 255).all() and read[4, 4].tolist() == [255, 0, 0]


def test_camera_rotation_is_undone(tmp_path):
    picture = Image.fromarray(GRADIENT)
    tags = picture.getexif()
    tags[0x0112] = 3                                    # "hold me upside down"
    picture.save(tmp_path / "x.png", exif=tags)
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png", (24, 32, 3)), GRADIENT[::-1, ::-1])


def test_only_the_centre_of_a_wide_picture_is_looked_at(tmp_path):
    wide = np.zeros((10, 50, 3), np.uint8)
    wide[:, 17:33] = 200                                # the middle 10 of 50 columns, and what a filter reaches
    Image.fromarray(wide).save(tmp_path / "x.png")
    assert (read_picture(tmp_path / "x.png", (5, 5, 3)) == 200).all()


def test_a_run_of_10_classes_names_them(digits_run):
    assert Run(digits_run).config["class_names"] == list("0123456789")
