""".npz files of vit_jax, against timm, which made the stored one's logits (tests/stored/make_published.py)."""
from pathlib import Path

import numpy as np
import pytest

from vision_transformer.pretrained import load_pretrained
from vision_transformer.weight_files import PretrainedError

FOLDER = Path(__file__).parent / "stored" / "published" / "vit-jax"
EPSILON = 2e-6


@pytest.fixture
def changed(tmp_path):
    """Writes the stored file with some arrays changed; None removes."""
    def change(**arrays):
        kept = {**np.load(FOLDER / "weights.npz"), **{name.replace("__", "/"): a for name, a in arrays.items()}}
        np.savez(tmp_path / "x.npz", **{name: a for name, a in kept.items() if a is not None})
        return tmp_path / "x.npz"

    return change


def test_logits_are_those_of_timm():
    loaded = load_pretrained(FOLDER / "weights.npz")
    theirs = np.load(FOLDER / "logits.npy")
    np.testing.assert_allclose(loaded.model(np.load(FOLDER / "images.npy")), theirs, atol=EPSILON)
    assert np.abs(theirs).max() > 1 and loaded.notes == []
    assert loaded.class_names == list("01234"), "a .npz names no classes"


def test_a_file_without_classifier_wants_names_for_a_new_one(changed):
    path = changed(head__kernel=None, head__bias=None)
    with pytest.raises(PretrainedError, match=r"tells no classes apart: it has no classifier; give the class_names"):
        load_pretrained(path)
    loaded = load_pretrained(path, ["a", "b"])
    assert loaded.model(np.load(FOLDER / "images.npy")).numpy().tolist() == [[0, 0]] * 3


def test_a_hidden_layer_before_the_classifier_goes_with_it(changed):
    """The original files with 21,843 classes have one; fine-tuning of vit_jax leaves it out as well."""
    path = changed(pre_logits__kernel=np.ones((14, 14), np.float32), pre_logits__bias=np.ones(14, np.float32))
    with pytest.raises(PretrainedError, match=r"has a hidden layer \(pre_logits\); give the class_names"):
        load_pretrained(path)
    loaded = load_pretrained(path, ["a", "b"])
    assert loaded.notes == [*(f"left out of the file: {name}" for name in (
        "head/bias", "head/kernel", "pre_logits/bias", "pre_logits/kernel")),
        "new classifier of 2 classes (of the file: its classifier has a hidden layer (pre_logits))"]
    images = np.load(FOLDER / "images.npy")
    np.testing.assert_array_equal(loaded.model.forward(images)["features"],
                                  load_pretrained(FOLDER / "weights.npz").model.forward(images)["features"])


@pytest.mark.parametrize("arrays, says", [
    ({"cls": None}, r"missing cls; unknown nothing"), ({"conv_root__kernel": np.zeros(3)}, "unknown conv_root/kernel"),
    ({"embedding__kernel": None}, "no Vision Transformer of vit_jax; hybrids"),
    ({"embedding__kernel": np.zeros((12, 14))}, "no Vision Transformer of vit_jax"),
    ({"embedding__kernel": np.zeros((0, 0, 3, 14))}, "says what no model can be: height is 0"),
    ({"embedding__kernel": np.zeros((2, 3, 3, 14))}, r"kernel is of shape \(2, 3, 3, 14\); .* \(2, 2, 3, 14\)"),
    ({"Transformer__posembed_input__pos_embedding": np.zeros((1, 9, 14))}, r"pos_embedding is of shape \(1, 9, 14\)"),
    ({"Transformer__encoderblock_2__LayerNorm_0__scale": np.zeros(14)}, r"missing .*encoderblock_2/"),
    ({"head__bias": np.zeros(6)}, r"head/kernel is of shape \(14, 5\); .* \(14, 6\)"),
    ({"cls": np.zeros((1, 1, 14), int)}, "cls is of type 'int64'; weights are of type"),
])
def test_other_files_are_refused(changed, arrays, says):
    with pytest.raises(PretrainedError, match=says) as refusal:
        load_pretrained(changed(**arrays))
    assert len(str(refusal.value).splitlines()) == 1
