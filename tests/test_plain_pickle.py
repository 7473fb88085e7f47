"""Pickles of strangers: nothing in them is run, and none takes more time or memory than a genuine one."""
import os
import pickle
import struct

import numpy as np
import pytest
from cifar_files import entries, python2, python2_file, refusal, write_archive, write_folder
from peak_memory import measured

from vision_transformer.datasets import load_dataset
from vision_transformer.plain_pickle import Recipe, unpickle


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back(protocol):
    values = {"text": ["", "ä\n'", "日本"], b"numbers": [0, 1, -1, 255, 256, 65536, 2**31, -2**70, 1.5],
              "constants": [None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], "bytes": b"\x00\xff" * 200,
              "deep": {"a": {"b": [[], {}]}}, "many": list(range(3000))}
    assert unpickle(pickle.dumps(values, protocol)) == values


def test_python_2s_strings_are_bytes():
    assert unpickle(b"\x80\x02U\x02\xffaT\x03\x00\x00\x00abcS'x\\n'\n\x87.") == (b"\xffa", b"abc", b"x\n")


# --- nothing is run ---

class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.recipe = function, arguments

    def __reduce__(self):
        return self.recipe


def hostile_batch(kind, marker):
    call = Calls(exec, f"open({str(marker)!r}, 'w').close()")
    batch = {b"data": entries("cifar10", 0)["data"], b"labels": [1, 2, 3]}
    objects = np.empty(2, object)
    objects[0] = call
    return {**batch, **{"system": {b"data": Calls(os.system, f"echo > {marker}")},
                        "eval": {b"labels": Calls(eval, call.recipe[1][0])},
                        "nested in an object array": {b"data": objects},
                        "in an entry that nobody reads": {b"note": [call]}}[kind]}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind, named", [("system", ".system"), ("eval", ".eval"),
                                         ("nested in an object array", ".exec"),
                                         ("in an entry that nobody reads", ".exec")])
@pytest.mark.parametrize("write", [write_folder, write_archive])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, write, kind, named, protocol):
    marker = tmp_path / "marker"
    content = pickle.dumps(hostile_batch(kind, marker), protocol)
    message = refusal("cifar10", write(tmp_path, "cifar10", data_batch_3=content))
    assert "data_batch_3" in message and "the file wants to run" in message
    assert f"{named}, which a CIFAR file never does" in message
    assert not marker.exists()
    pickle.loads(content)
    assert marker.exists()                             # the harm was real


@pytest.mark.parametrize("line", [
    b"cnumpy\nndarray.tofile\n", b"cbuiltins\ngetattr\n", b"c__builtin__\neval\n", b"cnumpy\nload\n",
    b"cnumpy.core\nmultiarray._reconstruct.__self__\n"])
def test_only_the_few_names_of_a_cifar_file_are_known(tmp_path, line):
    place = write_folder(tmp_path, "cifar10", test_batch=b"\x80\x04" + line + b".")
    assert line[1:-1].replace(b"\n", b".").decode() + ", which" in refusal("cifar10", place)


def test_what_a_pickle_would_call_is_kept_and_not_called():
    recipe = unpickle(b"\x80\x02cnumpy\ndtype\nU\x02u1\x85RK\x07b.")
    assert isinstance(recipe, Recipe)
    assert (recipe.name, recipe.arguments, recipe.state) == ("numpy.dtype", (b"u1",), 7)


def test_a_forged_dtype_does_not_reach_numpy(tmp_path):
    """The flags 63 would make numpy's own dtype take the array's integers for pointers to objects."""
    content = python2_file(entries("cifar10", 7))
    forged = content.replace(b"J\xff\xff\xff\xffK\x00tb", b"J\xff\xff\xff\xffK\x3ftb")
    assert forged != content
    honest = load_dataset("cifar10", str(write_folder(tmp_path / "a", "cifar10", test_batch=content)))
    same = load_dataset("cifar10", str(write_folder(tmp_path / "b", "cifar10", test_batch=forged)))
    assert same.test.images.dtype == np.dtype("u1") and not same.test.images.dtype.hasobject
    assert same.fingerprint == honest.fingerprint


# --- bombs ---

def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def doubled(start, pair, times):
    """Instructions that make [[x, x], [x, x]], and so on, `times` deep, each level from the one before, twice."""
    return start + b"".join(b"q\x00h\x00" + pair for _ in range(times))


def batch(labels):
    """A batch whose labels are made by some instructions."""
    data = python2(b"data") + python2(entries("cifar10", 7)["data"])
    return b"\x80\x02}(" + data + python2(b"labels") + labels + b"u."


BOMBS = {
    "a key that hashes for ever": (b"\x80\x02}" + doubled(b"K\x01", b"\x86", 64) + b"Ns.", "a key that is not text"),
    "a key that is a number": (b"\x80\x02}K\x01Ns.", "a key that is not text"),
    "keys of a megabyte": (b"\x80\x02}" + text(b"k" * 2**20) + b"Ns.", "of at most 100 letters"),
    "lists without end": (b"\x80\x02" + b"]" * 2**23 + b".", "more than 1000000 instructions"),
    "one text encoded often": (b"\x80\x02c_codecs\nencode\nq\x00" + text(b"a" * 2**20) + text(b"latin1") + b"\x86q\x01"
                               + b"h\x00h\x01R" * 10_000 + b".", "encodes more text than it holds"),
    "a label that laughs": (batch(b"](" + b"(" * 64 + b"K\x01" + b"q\x00h\x00l" * 64 + b"K\x01K\x02e"),
                            "label [[[[[[[...], [...]]"),
    "a label nested doubly": (batch(b"](" + doubled(b"K\x01", b"\x86", 64) + b"K\x01K\x02e"), "label ((((((("),
    "a label nested deeply": (batch(b"](" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"K\x01K\x02e"), "label [[[[[[[...]]]"),
    "bytes of 2^62": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "only 2 remain"),
    "bytes of 2^40": (b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.", "only 2 remain"),
    "text of 2^40": (b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.", "only 2 remain"),
    "a buffer of 2^40": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.", "only 2 remain"),
    "Python 2's text of 2^31": (b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"x.", "only 2 remain"),
    "Python 2's text of -1": (b"\x80\x02T" + struct.pack("<i", -1) + b"x.", "byte count < 0"),
    "a number of 2^31 bytes": (b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b"x.", "not enough data"),
    "a number of -1 bytes": (b"\x80\x04\x8b" + struct.pack("<i", -1) + b"x.", "byte count < 0"),
    "a number of a million digits": (b"L" + b"9" * 10**6 + b"L\n.", "4300"),
    "a name of a megabyte": (b"\x80\x02c" + b"m" * 2**20 + b"\nn\n.", "wants to run mmm"),
    "a name that steers the terminal": (b"\x80\x02c\x1b[2Jm\nn\n.", r"wants to run \x1b[2Jm.n"),
    "a name that is a list": (b"\x80\x04" + doubled(b"]", b"\x86", 64) + b"h\x00\x93.", "its pickle is damaged"),
    "a call of what is no name": (b"\x80\x02K\x01)R.", "its pickle is damaged"),
    "encode without text": (b"\x80\x02c_codecs\nencode\n]\x85R.", "its pickle is damaged"),
    "a state for a number": (b"\x80\x02K\x01K\x01b.", "a state to what has none"),
    "a list as a dict": (b"\x80\x02]U\x01aK\x01s.", "no dict to put them in"),
    "a key without a value": (b"\x80\x02}(U\x01au.", "keys without values"),
    "a dict as a list": (b"\x80\x02}K\x01a.", "appends to what is no list"),
    "more taken than there is": (b"\x80\x02a.", "its pickle is damaged"),
    "no mark": (b"\x80\x02e.", "its pickle is damaged"),
    "no end": (b"\x80\x02]", "exhausted"),
    "an instance": (b"\x80\x02(i__builtin__\nobject\n.", "the instruction INST"),
    "a new object": (b"\x80\x02cnumpy\ndtype\n)\x81.", "the instruction NEWOBJ"),
    "an extension": (b"\x80\x02\x82\x01.", "the instruction EXT1"),
    "a set": (b"\x80\x04\x8f.", "the instruction EMPTY_SET"),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("write", [write_folder, write_archive])
def test_a_bomb_is_refused_in_little_memory(tmp_path, bomb, write):
    content, reason = BOMBS[bomb]
    place = write(tmp_path, "cifar10", test_batch=content)
    message, peak = measured(lambda: refusal("cifar10", place))
    assert reason in message and "test_batch" in message and len(message) < 1000
    assert peak < 2**27, f"{peak} bytes for a file of {len(content)}"


def test_a_memo_of_four_billion_places_takes_none(tmp_path):
    """Python's own reader would fill 64 GB."""
    content = python2_file(entries("cifar10", 7))[:-1] + b"r\xff\xff\xff\xff."
    place = write_folder(tmp_path, "cifar10", test_batch=content)
    dataset, peak = measured(lambda: load_dataset("cifar10", str(place)))
    assert dataset.test.labels.tolist() == [7, 2, 4] and peak < 2**24


def test_no_memory_left_is_said(tmp_path, monkeypatch):
    def fail(_):
        raise MemoryError
    monkeypatch.setattr("vision_transformer.cifar.unpickle", fail)
    assert ": out of memory;" in refusal("cifar10", write_folder(tmp_path, "cifar10"))
