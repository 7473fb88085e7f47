"""python -m vision_transformer compare: the table's figures, the constants that differ, and what can't be compared."""
import csv

import pytest
from PIL import Image

from vision_transformer.__main__ import main
from vision_transformer.records import FIGURES, differences, read_history, read_results
from vision_transformer.runs import Run
from vision_transformer.storage import RunError


def make(folder, accuracies, results=None, fingerprint="f", **constants):
    run = Run.create(folder, "a", {"constants": {"POOL": "cls", "EPOCHS": 3, "RUN_FOLDER": str(len(constants)),
                                                 **constants}, "data": {"fingerprint": fingerprint}})
    run.write_history([{"epoch": epoch, "loss": 2.0, "accuracy": 0.5, "val_loss": 1 / epoch, "val_accuracy": accuracy,
                        "cpu_seconds": 45.0 * epoch} for epoch, accuracy in enumerate(accuracies, start=1)])
    if results:
        run.write_results(results)
    return run


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def runs(tmp_path):
    """A finished run, one that was stopped, and one that is now trained longer than its results say."""
    finished = {"epochs": 3, "test_accuracy": 0.6543, "test_loss": 1.25, "weights": 12_345}
    return [make(tmp_path / "runs", [0.2, 0.7, 0.6], finished),
            make(tmp_path / "runs", [0.1, 0.3], POOL="<mean>", MIXUP=0.2),
            make(tmp_path / "runs", [0.1, 0.2, 0.4, 0.3], finished, EPOCHS=4)]


def test_it_puts_results_and_differing_constants_side_by_side(runs, capsys):
    assert main(["compare", *(str(run.path) for run in runs)]) == 0
    first, second, third = table(runs[0].path.parent / "compare.csv")
    assert first == {"run": str(runs[0].path), "epochs": "3", "best epoch": "2", "validation accuracy": "70.00%",
                     "test accuracy": "65.43%", "test loss": "1.2500", "weights": "12,345", "CPU minutes": "2.2",
                     "POOL": "cls", "EPOCHS": "3", "MIXUP": "None"}
    assert (second["best epoch"], second["test accuracy"], second["weights"], second["CPU minutes"]) == (
        "2", "", "", "1.5")
    assert (second["POOL"], second["MIXUP"]) == ("<mean>", "0.2")
    assert (third["epochs"], third["best epoch"], third["test accuracy"], third["EPOCHS"]) == ("4", "3", "", "4")
    said = capsys.readouterr().out
    assert "70.00%" in said and "<mean>" in said and "RUN_FOLDER" not in said and "don't compare" not in said
    lines = said.split("\n\n")[0].splitlines()
    assert len({len(line) for line in lines}) == 1, "columns"
    with Image.open(runs[0].path.parent / "compare.png") as picture:
        assert picture.width > 1500 and len(picture.convert("RGB").getcolors(10 ** 6)) > 50


def test_output_folder_and_other_data(runs, tmp_path, capsys):
    other = make(tmp_path, [0.5], fingerprint="g")
    assert main(["compare", str(runs[0].path), str(other.path), "--output", str(tmp_path / "new" / "folder")]) == 0
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {"compare.png", "compare.csv"}
    assert "not all of these were trained and tested on the same pictures" in capsys.readouterr().out


def test_what_differs_is_told_by_constant(runs):
    assert differences(runs) == {"POOL": ["cls", "<mean>", "cls"], "EPOCHS": [3, 3, 4], "MIXUP": [None, 0.2, None]}
    assert differences(runs[:1] * 2) == {}


def test_one_run_is_nothing_to_compare(runs):
    for words in ([str(runs[0].path)], [str(runs[0].path)] * 2):
        with pytest.raises(ValueError, match=r"there is nothing to compare .*a-001 with; name two runs or more"):
            main(["compare", *words])


@pytest.mark.parametrize("content, says", [
    (None, "has no history.csv: not one epoch of it is finished"), ("", "is damaged: each epoch needs epoch, loss"),
    (",".join(FIGURES) + "\n1,2,3,4,5,many\n", "is damaged: could not convert"), ("epoch\n1\n", "each epoch needs"),
    (",".join(FIGURES) + "\n1,2\n", "is damaged"), (b"\xff\xfe", "is damaged"),
])
def test_a_history_that_is_none_is_refused(runs, content, says):
    path = runs[0].path / "history.csv"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunError, match=says):
        read_history(runs[0])


@pytest.mark.parametrize("content", ["[]", "{", "[" * 10 ** 5, "\x00"])
def test_results_that_are_none_are_refused(runs, content):
    (runs[0].path / "results.json").write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=r"results\.json is damaged: "):
        read_results(runs[0])
    assert read_results(runs[1]) == {}
