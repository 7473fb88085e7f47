"""python -m vision_transformer: the commands on a run that was really trained, and on broken input."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from peak_memory import child_environment
from PIL import Image
from strange_files import STRANGE_FILES

from vision_transformer.__main__ import main
from vision_transformer.datasets import load_dataset
from vision_transformer.runs import Run
from vision_transformer.storage import RunError

ROOT = Path(__file__).parents[1]


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
    monkeypatch.setattr("vision_transformer.commands.evaluate.load_dataset", lambda *_, **__: changed)
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


def everything_in(*folders):
    return sorted((str(path), path.lstat().st_size) for folder in folders for path in folder.rglob("*"))


def test_predict_answers_the_others_when_some_are_broken(digits_run, digit_files, tmp_path, capsys):
    good, broken = digit_files[0][0], tmp_path / "cut.png"
    broken.write_bytes(Path(good).read_bytes()[:80])
    bad = [str(broken), *(str(tmp_path / kind.replace(" ", "_")) for kind in STRANGE_FILES)]
    for path, (make, *_) in zip(bad[1:], STRANGE_FILES.values()):
        make(Path(path))
    before = everything_in(digits_run, tmp_path)
    assert main(["predict", str(digits_run), bad[0], good, *bad[1:], good]) == 2
    output = capsys.readouterr()
    assert [line.split(": ")[0] for line in output.out.splitlines()] == [good, good]
    assert [line.split(": can't be read")[0] for line in output.err.splitlines()] == bad
    assert everything_in(digits_run, tmp_path) == before


def test_a_process_that_meets_a_broken_picture_ends_with_2_and_one_line(digits_run, tmp_path):
    large = tmp_path / "of more pixels than Pillow likes.gif"
    Image.new("P", (20_000, 4_700)).save(large)
    command = [sys.executable, "-m", "vision_transformer", "predict", str(digits_run), str(large), "nowhere.jpg"]
    done = subprocess.run(command, env=child_environment(), capture_output=True, encoding="utf-8")
    own = [line for line in done.stderr.splitlines() if not re.match(r"WARNING: All log messages|[IW]\d{4} ", line)]
    assert done.returncode == 2 and re.fullmatch(rf"{re.escape(str(large))}: (\d [\d.]+%(, )?){{3}}\n", done.stdout)
    assert own == ["nowhere.jpg: can't be read as a picture: No such file or directory"]


def test_what_predict_prints_stays_on_its_line_and_leaves_the_terminal_alone(digits_run, monkeypatch, capsys):
    monkeypatch.setattr("vision_transformer.commands.predict.read_picture", lambda _, shape: np.zeros(shape, np.uint8))
    main(["predict", str(digits_run), "a\nb\x1b[2J.png", "\udcff\u202e.png"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(r"a\nb\x1b[2J.png: ") and second.startswith(r"\udcff\u202e.png: ")


COUNT_AND_TELL = """
import sys
from peak_memory import peak_memory
from vision_transformer.__main__ import main
from vision_transformer.commands import predict
predict.PICTURES_AT_A_TIME = int(sys.argv[1]) or predict.PICTURES_AT_A_TIME
code = main(["predict", *sys.argv[2:]])
print(code, peak_memory(), file=sys.stderr)
"""


@pytest.mark.slow
def test_ten_thousand_pictures_need_the_memory_of_a_thousand(tmp_path, make_model):
    model = make_model(image_shape=(60, 70, 3), patch_size=10, patch_stride=10)
    run = Run.create(tmp_path, "large", {"model": model.get_config(), "class_names": list("abcde")})
    run.save_weights(model)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8)
    for i in range(10_000):
        Image.fromarray(pixels + np.uint8(i % 256)).save(tmp_path / f"{i:04}.bmp")

    def peak(pattern, at_a_time=0):
        command = [sys.executable, "-c", COUNT_AND_TELL, str(at_a_time), str(run.path), str(tmp_path / pattern)]
        done = subprocess.run(command, env=child_environment(), capture_output=True, encoding="utf-8", check=True)
        code, memory = done.stderr.splitlines()[-1].split()
        assert code == "0" and len(done.stdout.splitlines()) == (10_000 if pattern == "*.bmp" else 1000)
        return float(memory)

    few, many, at_once = peak("0*.bmp"), peak("*.bmp"), peak("*.bmp", 10_000)
    print(f"{few:.0f} MB for 1,000, {many:.0f} MB for 10,000, {at_once:.0f} MB for 10,000 at once")
    assert many - few < 40 < at_once - few              # MB; the pictures have 126


@pytest.mark.parametrize("pattern", ["*.tiff", "**.jpg", "?" * 300])
def test_a_pattern_that_means_no_file_is_an_error(digits_run, tmp_path, pattern, capsys):
    assert main(["predict", str(digits_run), str(tmp_path / pattern)]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert output.err.startswith(f"{tmp_path / pattern}: can't be read")


def test_predict_finds_files_by_pattern_where_the_shell_has_not(digits_run, digit_files, capsys):
    main(["predict", str(digits_run), str(Path(digit_files[0][0]).parent / "1?_is_*.png")])
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == sorted(
        path for path, _ in digit_files if Path(path).name.startswith("1") and Path(path).name[1].isdigit())


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_folder_that_no_script_made_is_refused(tmp_path, command):
    run = Run.create(tmp_path, "a", {})
    with pytest.raises(RunError, match=r"doesn't say '(constants TOP_K|class_names)'"):
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


def test_a_run_of_10_classes_names_them(digits_run):
    assert Run(digits_run).config["class_names"] == list("0123456789")
