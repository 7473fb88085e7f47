"""Files of weights: what is in them, in every floating type; and files of strangers, refused in one sentence."""
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

from vision_transformer.weight_files import PretrainedError, open_weights, read_json

PUBLISHED = Path(__file__).parent / "stored" / "published"
ARRAYS = {"a": np.float32([[1.5, -2, 3], [0.1, 1e-30, 7e8]]), "b": np.float32(-0.3), "c": np.zeros((0, 2), np.float32)}


def safetensors_file(path, header, content=b"", length=None):
    """Writes the format's parts as they are given."""
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + content)
    return path


def rounded(array, kind):
    """An array after it was written in less precise numbers, as TensorFlow rounds them."""
    return tf.cast(tf.cast(array, kind), tf.float32).numpy()


# ------------------------------------------------------------------------------------------ what is in them
@pytest.mark.parametrize("kind", ["float32", "float16", "float64"])
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_arrays_come_back_as_float32(tmp_path, suffix, kind):
    arrays = {name: np.asarray(array.clip(-6e4, 6e4), kind) for name, array in ARRAYS.items()}
    path = tmp_path / f"x{suffix}"
    save_file(arrays, path) if suffix == ".safetensors" else np.savez(path, **arrays)
    weights = open_weights(path)
    assert weights.shapes == {"a": (2, 3), "b": (), "c": (0, 2)}
    for name, array in arrays.items():
        assert weights.read(name).dtype == np.float32
        np.testing.assert_array_equal(weights.read(name), array.astype(np.float32))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_bfloat16_comes_back_which_numpy_has_no_type_for(tmp_path, suffix):
    """As vit_jax writes it, as two bytes of no type; and as Hugging Face does."""
    path, array = tmp_path / f"x{suffix}", np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    content = tf.io.decode_raw(tf.io.serialize_tensor(tf.cast(array, tf.bfloat16)), tf.uint8).numpy()[-30:].tobytes()
    if suffix == ".npz":
        np.savez(path, a=np.frombuffer(content, "V2").reshape(3, 5))
    else:
        safetensors_file(path, {"a": {"dtype": "BF16", "shape": [3, 5], "data_offsets": [0, 30]}}, content)
    np.testing.assert_array_equal(open_weights(path).read("a"), rounded(array, tf.bfloat16))
    assert (rounded(array, tf.bfloat16) != array).any()


def test_columns_first_come_back_in_order(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.asfortranarray(ARRAYS["a"]))
    np.testing.assert_array_equal(open_weights(tmp_path / "x.npz").read("a"), ARRAYS["a"])


# ------------------------------------------------------------------------------------------ strangers' files
@pytest.mark.parametrize("header, content, says", [
    (b"{", b"", "can't be read"), (b"[]", b"", "can't be read"), (b"", b"", "can't be read"),
    ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234", "can't be read"),
    ({"a": {"dtype": "F32", "shape": [2 ** 40, 2 ** 40], "data_offsets": [0, 8]}}, b"12345678", "can't be read"),
    ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"12345678", "can't be read"),
    ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, b"12345678", "can't be read")])
def test_a_damaged_safetensors_is_refused(tmp_path, header, content, says):
    with pytest.raises(PretrainedError, match=says):
        open_weights(safetensors_file(tmp_path / "x.safetensors", header, content))


def test_a_header_of_gigabytes_is_not_read(tmp_path):
    with pytest.raises(PretrainedError, match=r"its header has 1,099,511,627,776 bytes"):
        open_weights(safetensors_file(tmp_path / "x.safetensors", b"{}", length=2 ** 40))


def test_numbers_that_are_no_weights_are_refused_where_they_are_needed(tmp_path):
    save_file({"a": np.int64([1, 2])}, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", a=np.int64([1, 2]))
    for suffix in ("safetensors", "npz"):
        weights = open_weights(tmp_path / f"x.{suffix}")
        with pytest.raises(PretrainedError, match=r"a is of type .*(I64|int64).*; weights are of type F64, F32"):
            weights.read("a")


def test_a_pickle_in_an_npz_is_not_run(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([{}], object))
    with pytest.raises(PretrainedError, match=r"a\.npy is no array of the size it claims"):
        open_weights(tmp_path / "x.npz")


def test_an_npz_that_could_unfold_to_gigabytes_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(1000))
    with pytest.raises(PretrainedError, match=r"it is compressed; write it again by numpy\.savez"):
        open_weights(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }\n"
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(PretrainedError, match="no array of the size it claims"):
        open_weights(tmp_path / "y.npz")


@pytest.mark.parametrize("name, says", [("x.bin", "no file of weights that is read here"),
                                        ("x.npz", "No such file"), ("x.safetensors", "No such file")])
def test_other_files_and_missing_ones_are_refused(tmp_path, name, says):
    with pytest.raises(PretrainedError, match=says):
        open_weights(tmp_path / name)


@pytest.mark.parametrize("path", ["vit/model.safetensors", "vit-jax/weights.npz"])
def test_whatever_byte_is_changed_a_file_is_read_or_refused(tmp_path, path):
    content, chance = (PUBLISHED / path).read_bytes(), np.random.default_rng(0)
    copy, refused = tmp_path / Path(path).name, 0
    for _ in range(150):
        changed = bytearray(content)
        for place in chance.integers(0, len(content), 30):
            changed[place] = chance.integers(256)
        copy.write_bytes(changed[:chance.integers(1, len(content) + 1)] if chance.random() < 0.3 else changed)
        try:
            weights = open_weights(copy)
            for name in weights.shapes:
                weights.read(name)
        except PretrainedError as error:
            assert len(str(error).splitlines()) == 1
            refused += 1
    assert refused > 75


@pytest.mark.parametrize("text", ["{", "[1]", "\udcff", "[" * 10 ** 5])
def test_json_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PretrainedError, match=r"x\.json can't be read"):
        read_json(tmp_path / "x.json")
