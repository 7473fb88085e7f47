"""Folders as transformers keeps them: read, refused by name where no model of ours can be that, and written.

tests/test_transformers.py holds both ways against the library itself.
"""
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors
from conftest import SIZES
from reference import randomize
from safetensors.numpy import load_file, save_file

from vision_transformer.hugging_face import export_hugging_face, read
from vision_transformer.model import VisionTransformer
from vision_transformer.pretrained import load_pretrained
from vision_transformer.resnet import ResNet
from vision_transformer.weight_files import PretrainedError

PUBLISHED = Path(__file__).parent / "stored" / "published"


@pytest.fixture
def folder(tmp_path):
    """A copy of the stored ViT that may be changed."""
    return Path(shutil.copytree(PUBLISHED / "vit", tmp_path / "vit"))


def change(folder, name="config.json", **values):
    """Changes what a JSON file says; None removes."""
    path = folder / name
    config = {**json.loads(path.read_text(encoding="utf-8")), **values}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}), encoding="utf-8")


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


# ------------------------------------------------------------------------------------------ reading
@pytest.mark.parametrize("name", ["vit", "vit-no-bias", "deit", "deit-teacher"])
def test_logits_are_those_of_the_library_it_was_saved_by(name):
    loaded = load_pretrained(PUBLISHED / name)
    ours, theirs = (loaded.model(np.load(PUBLISHED / name / "images.npy")), np.load(PUBLISHED / name / "logits.npy"))
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert np.abs(theirs).max() > 0.3 and loaded.notes == []
    assert loaded.class_names == [f"LABEL_{k}" for k in range(5)]


def test_a_teachers_two_classifiers_are_one_of_two_tokens():
    config = load_pretrained(PUBLISHED / "deit-teacher").model.config
    assert (config["pool"], config["register_tokens"], config["read_registers"]) == ("cls", 1, 1)


@pytest.mark.parametrize("values, says", [
    ({"model_type": "beit"}, r"says that model_type is 'beit'; only 'vit' or 'deit'"),
    ({"model_type": None}, "model_type is None"), ({"model_type": ["vit"]}, r"model_type is \['vit'\]"),
    ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'; only 'gelu'"),
    ({"qkv_bias": "no"}, "qkv_bias is 'no'"), ({"problem_type": "multi_label_classification"}, "problem_type is"),
    ({"patch_size": [2, 3]}, "patches of 2x3 pixels; only square"), ({"patch_size": 0}, "patch_size is 0"),
    ({"image_size": "6"}, "image_size is '6'; give one whole number"), ({"image_size": [6, 10, 3]}, "image_size is"),
    ({"hidden_size": 15}, "7 heads don't divide width 15"), ({"hidden_size": 2 ** 40}, "embedding_dim is"),
    ({"num_hidden_layers": 10 ** 9}, "number_of_layers is"), ({"num_hidden_layers": True}, "number_of_layers is True"),
    ({"num_channels": 4}, r"projection\.weight is of shape \(14, 3, 2, 2\); .* it would be \(14, 4, 2, 2\)"),
    ({"num_hidden_layers": 3}, r"missing .*layer\.2\..*; unknown nothing"),
    ({"num_hidden_layers": 1}, r"missing nothing; unknown .*layer\.1\."),
    ({"image_size": 6}, r"position_embeddings is of shape \(1, 16, 14\); .* \(1, 10, 14\)"),
    ({"layer_norm_eps": "tiny"}, "layer_norm_eps is 'tiny'"), ({"layer_norm_eps": 0}, "layer_norm_eps is 0"),
    ({"id2label": {"0": "a"}}, "id2label doesn't name the 5 classes"), ({"id2label": 5}, "id2label doesn't name"),
    ({"format": 2, "model": {}}, "is a run folder; .* export .* --to hf"),
])
def test_what_no_model_of_ours_can_be_is_refused_by_name(folder, values, says):
    change(folder, **values)
    with pytest.raises(PretrainedError, match=says) as refusal:
        read(folder)
    assert len(str(refusal.value).splitlines()) == 1


JUNK = (None, True, -1, 0, 7, 2 ** 70, 1.5, float("nan"), "", "7", [], [1], [6, 10], [[]], {}, {"0": None}, "a\nb")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_whatever_a_file_says_it_is_read_or_refused_in_one_line(folder, name):
    path, refused = folder / name, 0
    config = json.loads(path.read_text(encoding="utf-8"))
    config.update({"num_labels": 5, "do_rescale": True, "do_normalize": True, "problem_type": None})
    for key in config:
        for junk in JUNK:
            path.write_text(json.dumps({**config, key: junk}), encoding="utf-8")
            try:
                read(folder)
            except PretrainedError as error:
                assert len(str(error).splitlines()) == 1
                assert name in str(error) or "model.safetensors" in str(error)
                refused += 1
    assert refused > 30


def test_a_silent_config_has_the_values_of_transformers(folder):
    """As its ViTConfig documents them: ViT-B/16, which these weights are not."""
    (folder / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    with pytest.raises(PretrainedError, match=r"missing .*layer\.10\."):
        load_pretrained(folder)
    change(folder, hidden_size=14, num_hidden_layers=2, num_attention_heads=7, intermediate_size=11,
           image_size=[6, 10], patch_size=2)
    np.testing.assert_allclose(load_pretrained(folder).model(np.load(folder / "images.npy")),
                               np.load(folder / "logits.npy"), atol=2e-6)


def test_names_of_classes_are_theirs_and_harmless(folder):
    change(folder, id2label={str(k): name for k, name in enumerate(["tench", "a\nb", "\x1b[2J", "d", "ü"])})
    assert read(folder).class_names == ["tench", "a\\nb", "\\x1b[2J", "d", "ü"]


@pytest.mark.parametrize("values, mean, deviation", [
    ({}, [102, 127.5, 153], [51, 63.75, 76.5]),
    ({"rescale_factor": 1 / 127.5}, [51, 63.75, 76.5], [25.5, 31.875, 38.25]),
    ({"do_rescale": False, "image_mean": [7, 8, 9]}, [7, 8, 9], [0.2, 0.25, 0.3]),
    ({"do_normalize": False}, [0, 0, 0], [255, 255, 255]), ({"image_mean": 0.2}, [51, 51, 51], [51, 63.75, 76.5]),
    ({"image_mean": None, "image_std": None}, [127.5] * 3, [127.5] * 3)])
def test_pixels_are_scaled_as_the_file_says(folder, values, mean, deviation):
    change(folder, "preprocessor_config.json", **values)
    arguments = read(folder).arguments
    np.testing.assert_allclose([arguments["pixel_mean"], arguments["pixel_deviation"]], [mean, deviation], rtol=1e-6)


@pytest.mark.parametrize("name, mean", [("vit", [127.5] * 3), ("deit", [123.675, 116.28, 103.53])])
def test_pixels_without_a_file_are_scaled_as_published_models_of_the_kind_are(tmp_path, name, mean):
    folder = Path(shutil.copytree(PUBLISHED / name, tmp_path / name))
    (folder / "preprocessor_config.json").unlink()
    np.testing.assert_allclose(read(folder).arguments["pixel_mean"], mean)


@pytest.mark.parametrize("values, says", [
    ({"image_mean": [0.5]}, "give 3 numbers"), ({"image_std": [0, 1, 1]}, "each must be above 0"),
    ({"image_std": "x"}, "image_std is 'x'"), ({"rescale_factor": 0}, "rescale_factor is 0")])
def test_senseless_scales_are_refused(folder, values, says):
    change(folder, "preprocessor_config.json", **values)
    with pytest.raises(ValueError, match=says):
        load_pretrained(folder)


@pytest.mark.parametrize("files, says", [
    ((), r"model\.safetensors is missing"), (("pytorch_model.bin",), r"a pickle, .*\.save_pretrained\("),
    (("model.safetensors.index.json",), r"several files; .* max_shard_size")])
def test_weights_kept_otherwise_are_refused_with_the_way_out(folder, files, says):
    (folder / "model.safetensors").unlink()
    for name in files:
        (folder / name).touch()
    with pytest.raises(PretrainedError, match=says):
        load_pretrained(folder)


def test_both_leftovers_are_named(folder):
    def rename(tensors):
        tensors["vit.surprise\x07"] = tensors.pop("vit.layernorm.weight")

    change_weights(folder, rename)
    with pytest.raises(PretrainedError, match=r"missing vit\.layernorm\.weight; unknown vit\.surprise\\x07\."):
        read(folder)


def test_what_no_classifier_reads_is_left_and_named(folder):
    change_weights(folder, lambda tensors: tensors.update({"vit.pooler.dense.bias": np.float32([1])}))
    assert read(folder).ignored == ["vit.pooler.dense.bias"]
    assert load_pretrained(folder).notes == ["left out of the file: vit.pooler.dense.bias"]


# ------------------------------------------------------------------------------------------ writing
STANDARD = {"pool": "cls", "classifier": "linear", "pixel_mean": [120, 110, 100], "pixel_deviation": [60, 61, 62]}


@pytest.mark.parametrize("changes", [
    {"embedding": "convolution", "norm_epsilon": 0.01}, {"register_tokens": 1, "read_registers": 1},
    {"image_shape": (6, 6, 1), "pixel_mean": [9], "pixel_deviation": [2]}])
def test_what_is_exported_comes_back_with_the_same_logits(make_model, tmp_path, changes):
    model = make_model(**{**STANDARD, **changes})
    randomize(model)
    export_hugging_face(model, list("vwxyz"), tmp_path / "new" / "folder")
    loaded = load_pretrained(tmp_path / "new" / "folder")
    images = np.random.default_rng(0).integers(0, 256, (4, *model.config["image_shape"])).astype(np.uint8)
    expected = model(images).numpy()
    np.testing.assert_allclose(loaded.model(images), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert loaded.class_names == list("vwxyz") and loaded.notes == []


# The token's position has gone into the token, two classifiers' biases have become their mean.
TOKEN = {"deit.embeddings.distillation_token", "deit.embeddings.position_embeddings"}
CHANGED = {"vit": set(), "deit": TOKEN, "deit-teacher": {*TOKEN, "cls_classifier.bias", "distillation_classifier.bias"}}


def test_an_export_has_the_names_shapes_and_values_of_transformers(tmp_path):
    """The stored ones, which it wrote itself, go in and come out again the same."""
    for name in CHANGED:
        loaded = load_pretrained(PUBLISHED / name)
        folder = export_hugging_face(loaded.model, loaded.class_names, tmp_path / name)
        before, after = (load_file(place / "model.safetensors") for place in (PUBLISHED / name, folder))
        assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
        changed = {k for k in before if not np.allclose(before[k], after[k], atol=1e-6)}
        assert changed == CHANGED[name]
        config, new = (json.loads((place / "config.json").read_text(encoding="utf-8"))
                       for place in (PUBLISHED / name, folder))
        said = ("architectures", "model_type", "image_size", "patch_size", "num_channels", "hidden_size",
                "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps",
                "qkv_bias", "id2label", "label2id")
        assert {key: new[key] for key in said} == {key: config[key] for key in said}
        with safetensors.safe_open(folder / "model.safetensors", "np") as file:
            assert file.metadata() == {"format": "pt"}


@pytest.fixture(scope="module")
def standard():
    return VisionTransformer(**{**SIZES, **STANDARD})


@pytest.mark.parametrize("changes, says", [
    ({"pool": "mean"}, "POOL is 'mean'; transformers' ViT has 'cls'"), ({"classifier": "mlp"}, "CLASSIFIER is 'mlp'"),
    ({"embedding": "shifted"}, "EMBEDDING is 'shifted'"), ({"patch_stride": 1}, "patches of 2 pixels every 1 overlap"),
    ({"positions": "sincos"}, "POSITIONS is 'sincos'"), ({"attention": "locality"}, "ATTENTION is 'locality'"),
    ({"norm": "post"}, "NORM is 'post'"), ({"layer_scale": 0.1}, "LAYER_SCALE is 0.1"),
    ({"token_learner": "v1", "learned_tokens": 3}, "TOKEN_LEARNER is 'v1'"),
    ({"register_tokens": 2}, "REGISTER_TOKENS is 2")])
def test_any_other_model_is_refused_by_what_it_has(standard, tmp_path, changes, says):
    model = SimpleNamespace(get_config=lambda: {**standard.get_config(), **changes})
    with pytest.raises(ValueError, match=f"this model can't become one of transformers: {says}"):
        export_hugging_face(model, list("vwxyz"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_resnet_is_refused(tmp_path):
    model = ResNet(image_shape=(8, 8, 3), num_classes=5, blocks_per_stage=1, first_width=3)
    with pytest.raises(ValueError, match="only a Vision Transformer"):
        export_hugging_face(model, list("vwxyz"), tmp_path)
