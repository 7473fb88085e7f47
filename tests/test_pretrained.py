"""Models that begin with published weights: another resolution, other classes, and where the weights are found."""
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision_transformer.__main__ import main as command
from vision_transformer.pretrained import is_published, load_pretrained, resample_positions
from vision_transformer.runs import weights_by_name
from vision_transformer.weight_files import PretrainedError

PUBLISHED = Path(__file__).parent / "stored" / "published"
VIT = PUBLISHED / "vit"


# ------------------------------------------------------------------------------------------ another resolution
@pytest.mark.parametrize("old, new", [((3, 5), (6, 10)), ((3, 5), (4, 7)), ((6, 10), (3, 7)), ((5, 3), (2, 7))])
def test_positions_are_resized_as_pillow_resizes_a_picture(old, new):
    """Another implementation of the same cubic interpolation (a = -1/2), which smooths before it shrinks, too."""
    table = np.random.default_rng(0).normal(size=(1 + old[0] * old[1], 2)).astype(np.float32)
    resized = resample_positions(table, old, new)
    assert resized.shape == (1 + new[0] * new[1], 2)
    np.testing.assert_array_equal(resized[0], table[0])
    for channel in range(2):
        picture = Image.fromarray(table[1:, channel].reshape(old))
        expected = np.asarray(picture.resize(new[::-1], Image.BICUBIC))
        np.testing.assert_allclose(resized[1:, channel].reshape(new), expected, atol=1e-5)


def test_a_model_takes_pictures_of_another_size():
    same, other = load_pretrained(VIT), load_pretrained(VIT, image_shape=(8, 14, 3))
    assert other.notes == ["positions resampled from 3x5 to 4x7 patches"] and other.class_names == same.class_names
    before, now = weights_by_name(same.model), weights_by_name(other.model)
    for name in now:
        expected = before[name].numpy()
        if name.startswith("positions/"):
            expected = resample_positions(expected, (3, 5), (4, 7))
        np.testing.assert_array_equal(now[name], expected)
    assert other.model(np.zeros((2, 8, 14, 3), np.uint8)).shape == (2, 5)


@pytest.mark.parametrize("shape, says", [
    ((6, 10, 1), r"pictures with 3 channels, these are of shape \(6, 10, 1\); give pictures with 3"),
    ((7, 10, 3), "would drop the last 1 of 7 pixels")])
def test_pictures_that_do_not_fit_are_refused(shape, says):
    with pytest.raises(ValueError, match=says):
        load_pretrained(VIT, image_shape=shape)


# ------------------------------------------------------------------------------------------ other classes
@pytest.mark.parametrize("name", ["vit", "deit-teacher", "vit-headless"])
def test_a_new_classifier_begins_at_0_on_the_same_features(name):
    loaded = load_pretrained(PUBLISHED / name, ["cat", "dog"], dropout=0.25, seed=7)
    made = loaded.model.forward(np.load(PUBLISHED / name / "images.npy"))
    assert made["logits"].numpy().tolist() == [[0, 0]] * 3 and loaded.class_names == ["cat", "dog"]
    assert loaded.notes[-1].startswith("new classifier of 2 classes (")
    assert (loaded.model.config["dropout"], loaded.model.config["seed"]) == (0.25, 7)
    if name == "vit-headless":
        np.testing.assert_allclose(made["features"], np.load(PUBLISHED / name / "logits.npy"), atol=2e-6)


def test_the_same_classes_keep_their_classifier():
    loaded = load_pretrained(VIT, [f"LABEL_{k}" for k in range(5)])
    assert loaded.notes == []
    np.testing.assert_allclose(loaded.model(np.load(VIT / "images.npy")), np.load(VIT / "logits.npy"), atol=2e-6)


# ------------------------------------------------------------------------------------------ where they are
def test_a_name_that_is_nowhere_is_refused(tmp_path):
    with pytest.raises(PretrainedError, match=r"vit is not here; give a folder with config\.json"):
        load_pretrained(tmp_path / "vit")
    with pytest.raises(PretrainedError, match=r"a\\nb is not here"):
        load_pretrained("a\nb")


@pytest.fixture
def hub(monkeypatch):
    """A huggingface_hub that has one model."""
    calls = []

    def snapshot_download(repo_id, *, allow_patterns):
        calls.append((repo_id, allow_patterns))
        if repo_id != "google/vit":
            raise OSError("404\nnot found")
        return str(VIT)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    return calls


def test_a_name_on_the_hub_is_downloaded_without_any_code(hub):
    loaded = load_pretrained("google/vit")
    assert hub == [("google/vit", ["config.json", "model.safetensors", "preprocessor_config.json"])]
    np.testing.assert_allclose(loaded.model(np.load(VIT / "images.npy")), np.load(VIT / "logits.npy"), atol=2e-6)


def test_what_the_hub_lacks_is_said_in_one_line(hub):
    with pytest.raises(PretrainedError, match=r"nobody/nothing can't be downloaded: 404 not found; or put its config"):
        load_pretrained("nobody/nothing")


def test_without_the_package_a_name_on_the_hub_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PretrainedError, match=r"google/vit is no folder here; .* pip install huggingface_hub; or put"):
        load_pretrained("google/vit")


# ------------------------------------------------------------------------------------------ predict
def test_predict_takes_published_weights(capsys, tmp_path):
    Image.fromarray(np.load(VIT / "images.npy")[1]).save(tmp_path / "x.png")
    assert command(["predict", str(VIT), str(tmp_path / "x.png"), "--top", "5"]) == 0
    logits = np.load(VIT / "logits.npy")[1]
    shares = np.exp(logits) / np.exp(logits).sum()
    said = [f"LABEL_{k} {shares[k]:.1%}" for k in np.argsort(-shares)]
    assert capsys.readouterr().out.strip() == f"{tmp_path / 'x.png'}: {', '.join(said)}"


@pytest.mark.parametrize("path, expected", [(VIT, True), (PUBLISHED / "vit-jax" / "weights.npz", True),
                                            (PUBLISHED.parent / "keras3", False), ("runs/nothing", False)])
def test_published_weights_are_told_from_runs(path, expected):
    assert is_published(path) is expected
