"""python -m vision_transformer explain: which files it leaves, what is in them, what it says where something lacks."""
import csv

import numpy as np
import pytest
from PIL import Image

from vision_transformer.__main__ import main
from vision_transformer.architectures import build_model
from vision_transformer.attention_maps import look
from vision_transformer.commands import explain
from vision_transformer.datasets import load_dataset
from vision_transformer.runs import Run
from vision_transformer.storage import CannotWrite, RunError

KINDS = ("patches", "heads", "rollout")
SIZES = {"image_shape": (8, 8, 1), "num_classes": 10, "patch_size": 2, "patch_stride": 2, "number_of_layers": 2,
         "embedding_dim": 12, "num_heads": 3, "mlp_hidden_dim": 11, "pool": "cls", "blocks_per_stage": 1,
         "first_width": 3}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits").test


@pytest.fixture
def make_run(tmp_path):
    """Makes a run on the digits, with a model of first weights."""
    def make(**changes):
        model, fingerprint = build_model(**{**SIZES, **changes}), load_dataset("digits").fingerprint
        run = Run.create(tmp_path / "runs", "digits", {
            "model": model.get_config(), "class_names": [f"digit {k}" for k in range(10)],
            "constants": {"DATASET": "digits", "DATA_DIR": ""}, "data": {"fingerprint": fingerprint}})
        run.save_weights(model)
        return run
    return make


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def both(*names):
    return sorted(f"{name}.{ending}" for name in names for ending in ("png", "csv"))


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_pictures(folder):
    """Each is a picture of a size that can be read, and not blank."""
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert image.format == "PNG" and 200 < image.width < 1500 and 100 < image.height < 1500, path.name
            assert np.asarray(image.convert("L")).std() > 10, path.name


def test_without_pictures_the_first_test_pictures_are_explained(make_run, digits, capsys, monkeypatch):
    monkeypatch.setattr(explain, "TEST_PICTURES", 2)
    run = make_run()
    assert main(["explain", str(run.path)]) == 0
    folder, model = run.path / "explain", run.load_model()
    numbers = [int(np.flatnonzero(digits.labels == label)[0]) for label in range(2)]
    assert names_in(folder) == both("distance", "positions", "filters", "mistakes", *(
        f"test-{number}-{kind}" for number in numbers for kind in KINDS))
    check_pictures(folder)
    made = model.forward(digits.images[numbers])
    likeliest = made["logits"].numpy().argmax(axis=1)
    lines = capsys.readouterr().out.splitlines()
    for number, label, taken, line in zip(numbers, range(2), likeliest, lines):
        assert line.startswith(f"test picture {number} (digit {label}): digit {taken} ")
    assert lines[2:] == [f"the pictures, and their numbers as CSV, are in {folder}; docs/explain.md tells how to read "
                         "them"]

    heads = table(folder / f"test-{numbers[1]}-heads.csv")
    shares = np.array([float(row["share"]) for row in heads]).reshape(2, 3, 16)
    np.testing.assert_allclose(shares, [block[1, :, 0, 1:] for block in made["attention"]], atol=1e-6)
    assert [heads[-1][name] for name in ("block", "head", "row", "column")] == ["2", "3", "3", "3"]
    total = np.eye(17)
    for attention in made["attention"]:
        total = (attention.numpy()[1].mean(axis=0) + np.eye(17)) / 2 @ total
    rollout = [float(row["share"]) for row in table(folder / f"test-{numbers[1]}-rollout.csv")]
    np.testing.assert_allclose(rollout, total[0, 1:] / total[0, 1:].sum(), atol=1e-6)

    distance = table(folder / "distance.csv")
    expected = look(model, digits.images[:128]).distances().mean(axis=1)
    np.testing.assert_allclose([float(row["distance"]) for row in distance], expected.ravel(), rtol=1e-5)
    assert {row["pictures"] for row in distance} == {"128"} and len(table(folder / "positions.csv")) == 256

    mistakes, logits = table(folder / "mistakes.csv"), model(digits.images).numpy()
    wrong = logits.argmax(axis=1) != digits.labels
    assert {int(row["test_picture"]) for row in mistakes} == set(np.flatnonzero(wrong))
    surest = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).max(axis=1)
    found = [float(row["probability"]) for row in mistakes]
    np.testing.assert_allclose(found, sorted(surest[wrong], reverse=True), rtol=1e-4)


def test_named_pictures_are_explained_wherever_they_lie(make_run, digits, tmp_path, capsys):
    run, output = make_run(token_learner="v1.1", learned_tokens=3), tmp_path / "a" / "folder"
    for number, place in enumerate(("one/a b$.png", "two/a b$.png")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.fromarray(digits.images[number, ..., 0]).save(tmp_path / place)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    words = [str(tmp_path / word) for word in ("one/a b$.png", "broken.png", "two/a*.png")]
    assert main(["explain", str(run.path), *words, "--output", str(output)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"{tmp_path / 'broken.png'}: can't be read as a picture: it is damaged")
    assert said.err.count("\n") == 1
    assert [line.split(":")[0] for line in said.out.splitlines()[:2]] == ["a b$.png", "a b$.png"]
    assert names_in(output) == both("distance", "positions", "filters", "mistakes", *(
        f"{name}-{kind}" for name in ("a_b_", "a_b_-2") for kind in (*KINDS, "tokens")))
    check_pictures(output)
    maps = run.load_model().forward(digits.images[1:2])["token_maps"].numpy()
    found = [float(row["share"]) for row in table(output / "a_b_-2-tokens.csv")]
    np.testing.assert_allclose(found, maps.ravel(), rtol=1e-3, atol=1e-6)


def test_without_the_data_what_needs_none_is_made(make_run, tmp_path, capsys):
    run = make_run(positions="none")
    picture = tmp_path / "grey.png"
    Image.new("L", (8, 8), 99).save(picture)
    assert main(["explain", str(run.path), str(picture), "--data-dir", "moved"]) == 0
    assert names_in(run.path / "explain") == both("filters", *(f"grey-{kind}" for kind in KINDS))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("note: without the test pictures there are no mistakes and no distances: the digits come "
                              "with scikit-learn, not from moved")
    assert said[1].startswith("grey.png: digit ")
    assert said[2] == "note: POSITIONS is 'none': there are none to compare"


def test_where_nothing_is_wrong_it_says_so(make_run, monkeypatch, capsys):
    monkeypatch.setattr(explain, "explain_mistakes", lambda *_: None)
    run = make_run(architecture="resnet")
    assert main(["explain", str(run.path)]) == 0
    assert "note: there are no mistakes to show: all 360 test pictures are right\n" in capsys.readouterr().out


def test_of_a_resnet_filters_and_mistakes_are_drawn(make_run, capsys):
    run = make_run(architecture="resnet")
    assert main(["explain", str(run.path)]) == 0
    assert names_in(run.path / "explain") == both("filters", "mistakes")
    check_pictures(run.path / "explain")
    assert capsys.readouterr().out.startswith("note: a ResNet has no attention: there are no heads, rollout, distances")
    with pytest.raises(ValueError, match="is a ResNet's, which has no attention: there is nothing to draw"):
        main(["explain", str(run.path), "a.png"])


def test_what_is_no_run_and_what_is_no_folder_is_refused(make_run, tmp_path):
    with pytest.raises(RunError, match=r"is no run folder \(it has no config\.json\)"):
        main(["explain", str(tmp_path)])
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(CannotWrite, match="file can't be written"):
        main(["explain", str(make_run().path), "--output", str(tmp_path / "file")])


@pytest.mark.parametrize("names, files", [
    (["a", "A", "a-2", "a"], ["a", "A-2", "a-2-2", "a-3"]),
    (["x/y\\z:*?\n", "", "ü.1", "é" * 99], ["x_y_z____", "", "ü.1", "é" * 80])])
def test_no_picture_takes_anothers_files(names, files):
    used = set()
    assert [explain._unused(name, used) for name in names] == files
    assert len(used) == len(files)
