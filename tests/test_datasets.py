"""CIFAR files of every layout, hostile and damaged ones, the digits, the validation split, the download."""
import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vision_transformer import cifar
from vision_transformer.cifar import DataError
from vision_transformer.datasets import Dataset, Split, load_dataset, split_validation

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
TRAIN = {"cifar10": [f"data_batch_{i}" for i in range(1, 6)], "cifar100": ["train"]}
TEST = {"cifar10": "test_batch", "cifar100": "test"}
META = {"cifar10": "batches.meta", "cifar100": "meta"}
LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}
NAMES = {"cifar10": [f"c{i}" for i in range(10)], "cifar100": [f"f{i}" for i in range(100)]}
ROWS = 3                                               # pictures in each file


def python2(value):
    """Pickles bytes, ints, lists, dicts and uint8 matrices with the opcodes that Python 2 wrote."""
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(python2(key) + python2(item) for key, item in value.items()) + b"u"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"".join(map(python2, value.shape)) + b"\x86"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + python2(value.tobytes()) + b"tb"


def python2_file(entries):
    return b"\x80\x02" + python2({key.encode(): value for key, value in entries.items()}) + b"."


def entries(name, number):
    """What the file of this number holds: random pixels, labels that no other file begins with."""
    data = np.random.default_rng(number).integers(0, 256, (ROWS, 3072), np.uint8)
    return {"batch_label": b"tiny", "data": data, LABELS[name]: [number, 9 - number, 4],
            "filenames": [b"a.png", b"", b"c.png"]}


def contents(name):
    """Returns {file name: bytes} of a dataset: the training files are numbers 0, 1, ..., the test file 7."""
    files = {file: python2_file(entries(name, i)) for i, file in enumerate(TRAIN[name])}
    files[TEST[name]] = python2_file(entries(name, 7))
    label_names = LABELS[name].replace("labels", "label_names")
    files[META[name]] = python2_file({label_names: [n.encode() for n in NAMES[name]], "num_vis": 3072})
    return files


def write_folder(place, name, **changes):
    """Writes the official folder under `place` and returns `place`; a file changed to None is left out."""
    folder = place / FOLDERS[name]
    folder.mkdir(parents=True)
    for file, content in {**contents(name), **changes}.items():
        if content is not None:
            (folder / file).write_bytes(content)
    return place


def write_archive(place, name, prefix="", extra=(), **changes):
    """Writes the official tar.gz, strange members first; a change may be bytes, a TarInfo or None."""
    with tarfile.open(place / ARCHIVES[name], "w:gz") as tar:
        for info, content in extra:
            tar.addfile(info, io.BytesIO(content))
        for file, content in {**contents(name), **changes}.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo()
            info.name = f"{prefix}{FOLDERS[name]}/{file}"
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            elif content is not None:
                tar.addfile(info)
    return place


def refusal(name, place):
    """Returns the message of the DataError, which must be one line that says what to do."""
    with pytest.raises(DataError) as caught:
        load_dataset(name, str(place))
    message = str(caught.value)
    assert "\n" not in message and message.count("cannot be read") == 1
    assert "https://www.cs.toronto.edu/~kriz/cifar.html" in message and "train_digits.py" in message
    return message


LAYOUTS = {
    "D holds the folder": lambda place, name: write_folder(place, name),
    "D is the folder": lambda place, name: write_folder(place, name) / FOLDERS[name],
    "D is the renamed folder":
        lambda place, name: (write_folder(place, name) / FOLDERS[name]).rename(place / "elsewhere"),
    "D holds the archive": lambda place, name: write_archive(place, name),
    "D holds an archive of ./ names": lambda place, name: write_archive(place, name, prefix="./"),
    "D is the archive": lambda place, name: write_archive(place, name) / ARCHIVES[name],
}


# --- both datasets, every layout ---

@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_files_in_order(tmp_path, name, layout):
    dataset = load_dataset(name, str(LAYOUTS[layout](tmp_path, name)))
    parts = [entries(name, i) for i in range(len(TRAIN[name]))]
    rows = np.concatenate([part["data"] for part in parts])
    assert isinstance(dataset, Dataset) and dataset.name == name
    assert dataset.train.images.shape == (len(rows), 32, 32, 3) and len(dataset.train) == len(rows)
    assert dataset.test.images.shape == (ROWS, 32, 32, 3) and len(dataset.test) == ROWS
    images = np.concatenate([dataset.train.images, dataset.test.images])
    for row, image in zip([*rows, *entries(name, 7)["data"]], images.reshape(-1, 1024, 3)):
        assert np.array_equal(image, np.stack([row[:1024], row[1024:2048], row[2048:]], axis=1))
    assert dataset.train.labels.tolist() == [label for part in parts for label in part[LABELS[name]]]
    assert dataset.test.labels.tolist() == [7, 2, 4]
    assert list(dataset.class_names) == NAMES[name] and dataset.num_classes == len(NAMES[name])
    assert dataset.image_shape == (32, 32, 3)
    for split in (dataset.train, dataset.test):
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int64
        assert split.images.flags.c_contiguous


def test_a_row_is_red_then_green_then_blue_line_by_line(tmp_path):
    row = np.zeros(3072, np.uint8)
    row[2 * 32 + 5] = 11                               # red of line 2, column 5
    row[1024 + 3 * 32 + 7] = 13                        # green of line 3, column 7
    row[2048 + 31 * 32] = 17                           # blue of line 31, column 0
    content = python2_file({"data": row[np.newaxis], "labels": [6]})
    [image] = load_dataset("cifar10", str(write_folder(tmp_path, "cifar10", test_batch=content))).test.images
    assert {tuple(place): image[tuple(place)] for place in np.argwhere(image)} == {
        (2, 5, 0): 11, (3, 7, 1): 13, (31, 0, 2): 17}


def test_the_folder_wins_over_the_archive(tmp_path):
    write_archive(tmp_path, "cifar10", test_batch=b"damaged")
    assert load_dataset("cifar10", str(write_folder(tmp_path, "cifar10"))).test.labels.tolist() == [7, 2, 4]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("key", [str, str.encode])
@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_pickles_made_again_by_python_3(tmp_path, protocol, order, key, core):
    data = entries("cifar10", 7)["data"]
    content = pickle.dumps({key("data"): np.asarray(data, order=order), key("labels"): [3, 0, 9]}, protocol)
    if protocol >= 4:
        content = content[:2] + content[11:]           # without the frame, whose length would change
    for written in (b"numpy.core", b"numpy._core"):    # whichever this numpy writes, both must be read
        for module in (b".multiarray", b".numeric"):
            content = replace_name(content, written + module, core + module)
    meta = pickle.dumps({key("label_names"): [key(name) for name in NAMES["cifar10"]]}, protocol)
    place = write_folder(tmp_path, "cifar10", test_batch=content, **{"batches.meta": meta})
    dataset = load_dataset("cifar10", str(place))
    assert np.array_equal(dataset.test.images.transpose(0, 3, 1, 2).reshape(ROWS, 3072), data)
    assert dataset.test.labels.tolist() == [3, 0, 9] and list(dataset.class_names) == NAMES["cifar10"]


def replace_name(content, old, new):
    """Renames a module in a pickle: a line in protocols 2 and 3, a string after its length in 4 and 5."""
    content = content.replace(b"c" + old + b"\n", b"c" + new + b"\n")
    return content.replace(bytes([0x8c, len(old)]) + old, bytes([0x8c, len(new)]) + new)


def test_local_files_and_digits_need_no_tensorflow(tmp_path):
    place = write_folder(tmp_path, "cifar10")
    code = ("import sys, warnings; warnings.simplefilter('error'); sys.modules['tensorflow'] = None\n"
            "from vision_transformer.datasets import load_dataset\n"
            "print(load_dataset('cifar10', sys.argv[1]).fingerprint, len(load_dataset('digits').train))")
    shown = subprocess.run([sys.executable, "-c", code, str(place)], cwd=Path(__file__).parent.parent,
                           check=True, stdout=subprocess.PIPE, text=True).stdout
    assert shown.split() == [load_dataset("cifar10", str(place)).fingerprint, "1437"]


# --- hostile files ---

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


def test_a_forged_dtype_does_not_reach_numpy(tmp_path):
    """The flags 63 would make numpy's own dtype take the array's integers for pointers to objects."""
    content = python2_file(entries("cifar10", 7))
    forged = content.replace(b"J\xff\xff\xff\xffK\x00tb", b"J\xff\xff\xff\xffK\x3ftb")
    assert forged != content
    honest = load_dataset("cifar10", str(write_folder(tmp_path / "a", "cifar10", test_batch=content)))
    same = load_dataset("cifar10", str(write_folder(tmp_path / "b", "cifar10", test_batch=forged)))
    assert same.test.images.dtype == np.dtype("u1") and not same.test.images.dtype.hasobject
    assert same.fingerprint == honest.fingerprint


def member(name, kind=tarfile.REGTYPE, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize("kind, link", [
    (tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, FOLDERS["cifar10"] + "/data_batch_1"),
    (tarfile.DIRTYPE, ""), (tarfile.FIFOTYPE, "")])
def test_a_needed_member_must_be_a_regular_file(tmp_path, kind, link):
    message = refusal("cifar10", write_archive(tmp_path, "cifar10", test_batch=member("", kind, link)))
    assert "test_batch is not a regular file" in message and ARCHIVES["cifar10"] in message


def test_other_members_are_ignored_and_nothing_is_written(tmp_path):
    folder = FOLDERS["cifar10"]
    poison = b"\x80\x04cos\nsystem\n."
    names = [f"../{folder}/test_batch", f"/{folder}/test_batch", f"{folder}/../{folder}/test_batch",
             f"x/{folder}/test_batch", f"././{folder}/test_batch", "test_batch", f"{folder}/readme.html"]
    extra = [(member(name, size=len(poison)), poison) for name in names]
    extra.append((member(f"{folder}/link", tarfile.SYMTYPE, "../../outside"), b""))
    place = tmp_path / "D"
    place.mkdir()
    dataset = load_dataset("cifar10", str(write_archive(place, "cifar10", extra=extra)))
    assert dataset.test.labels.tolist() == [7, 2, 4]
    assert [path.name for path in tmp_path.rglob("*")] == ["D", ARCHIVES["cifar10"]]


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("size", [2**28 + 1, 2**40, -512])
def test_a_member_or_header_of_forged_size_is_refused(tmp_path, kind, size):
    """What follows the header may be a gzip of terabytes, so nothing of that length may be asked for."""
    header = member(f"{FOLDERS['cifar10']}/test_batch", kind, size=size).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / ARCHIVES["cifar10"]).write_bytes(gzip.compress(header + bytes(10240)))
    message = refusal("cifar10", tmp_path)
    assert "declares" in message and ARCHIVES["cifar10"] in message and str(2**28) in message


# --- damaged files ---

def with_entry(key, value):
    return python2_file({**entries("cifar10", 7), key: value})


def without_entry(key):
    return python2_file({k: value for k, value in entries("cifar10", 7).items() if k != key})


def python3_file(**changes):
    return pickle.dumps({**entries("cifar10", 7), **changes}, 4)


DATA = entries("cifar10", 7)["data"]
WHOLE = python2_file(entries("cifar10", 7))
DAMAGED = {
    "empty": (b"", "Ran out of input"),
    "cut in its data": (WHOLE[:5000], "truncated"),
    "no pickle": (b"\xff\xd8 a JPEG", "invalid load key"),
    "a list": (b"\x80\x02" + python2([1]) + b".", "not a pickled dict"),
    "a persistent id": (b"\x80\x02K\x01Q.", "persistent"),
    "memo that is not there": (b"\x80\x02h\x07.", "Memo"),
    "out-of-band buffer": (b"\x80\x05\x97.", "buffer"),
    "no data": (without_entry("data"), "data are not an array"),
    "data a list": (with_entry("data", [1, 2, 3]), "data are not an array"),
    "data int8": (python3_file(data=DATA.astype(np.int8)), "'i1', not uint8"),
    "data float": (python3_file(data=DATA.astype(np.float32)), "'f4', not uint8"),
    "data objects": (python3_file(data=DATA.astype(object)), "'O8', not uint8"),
    "data never filled": (WHOLE.replace(b"tb" + python2(b"labels"), b"t0" + python2(b"labels")), "state"),
    "a row too few": (WHOLE.replace(python2(ROWS) + python2(3072), python2(4) + python2(3072)), "reshape"),
    "3071 numbers a row": (with_entry("data", DATA[:, 1:]), "shape (3, 3071)"),
    "rank 4": (python3_file(data=DATA.reshape(ROWS, 3, 32, 32)), "shape (3, 3, 32, 32)"),
    "no row": (python3_file(data=DATA[:0], labels=[]), "shape (0, 3072)"),
    "no labels": (without_entry("labels"), "not a list of 3 labels"),
    "a label too few": (with_entry("labels", [1, 2]), "not a list of 3 labels"),
    "labels an array": (with_entry("labels", DATA), "not a list of 3 labels"),
    "label 10": (with_entry("labels", [1, 10, 2]), "label 10 is not in 0..9"),
    "label -1": (with_entry("labels", [1, 2, -1]), "label -1 is not in 0..9"),
    "label 1.0": (python3_file(labels=[1, 2, 1.0]), "label 1.0 is not in 0..9"),
    "label True": (python3_file(labels=[True, 2, 1]), "label True is not in 0..9"),
    "key not text": (pickle.dumps({b"\xff": 1}, 4), "utf-8"),
}


@pytest.mark.parametrize("write, where", [(write_folder, FOLDERS), (write_archive, ARCHIVES)])
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_batch_is_refused_by_name(tmp_path, damage, write, where):
    content, reason = DAMAGED[damage]
    message = refusal("cifar10", write(tmp_path, "cifar10", test_batch=content))
    assert f"test_batch in {tmp_path / where['cifar10']}" in message and reason in message


def test_each_dataset_has_its_own_label_range(tmp_path):
    good, bad = (python2_file({"data": DATA, "fine_labels": [0, last, 50]}) for last in (99, 100))
    place = write_folder(tmp_path / "good", "cifar100", test=good)
    assert load_dataset("cifar100", str(place)).test.labels.tolist() == [0, 99, 50]
    place = write_folder(tmp_path / "bad", "cifar100", test=bad)
    assert "label 100 is not in 0..99" in refusal("cifar100", place)


@pytest.mark.parametrize("names", [NAMES["cifar10"][:9], NAMES["cifar100"], [*NAMES["cifar10"][:9], 9],
                                   "0123456789", None])
def test_class_names_must_be_a_list_of_ten(tmp_path, names):
    place = write_folder(tmp_path, "cifar10", **{"batches.meta": pickle.dumps({b"label_names": names}, 2)})
    message = refusal("cifar10", place)
    assert "batches.meta" in message and "label_names are not a list of 10 names" in message


@pytest.mark.parametrize("write", [write_folder, write_archive])
@pytest.mark.parametrize("name, file", [("cifar10", "data_batch_4"), ("cifar10", "batches.meta"),
                                        ("cifar100", "train"), ("cifar100", "test")])
def test_a_missing_file_is_named(tmp_path, name, file, write):
    message = refusal(name, write(tmp_path, name, **{file: None}))
    assert f"has no file {file};" in message and str(tmp_path) in message


def test_a_folder_in_place_of_a_file(tmp_path):
    write_folder(tmp_path / "a", "cifar10", test_batch=None)
    (tmp_path / "a" / FOLDERS["cifar10"] / "test_batch").mkdir()
    assert "has no file test_batch;" in refusal("cifar10", tmp_path / "a")
    (tmp_path / "b" / ARCHIVES["cifar10"]).mkdir(parents=True)
    assert f"nor the file {ARCHIVES['cifar10']} is there" in refusal("cifar10", tmp_path / "b")


def test_an_empty_or_absent_folder_says_what_was_looked_for(tmp_path):
    for place in (tmp_path, tmp_path / "absent"):
        message = refusal("cifar100", place)
        assert f"from {place}: neither the folder cifar-100-python nor" in message
        assert "the file cifar-100-python.tar.gz is there" in message
        assert "--data-dir D" in message and "DATA_DIR" in message


@pytest.mark.parametrize("damage", [
    lambda whole: b"", lambda whole: b"not gzip", lambda whole: whole[:len(whole) // 2],
    lambda whole: gzip.compress(b"not tar"), lambda whole: gzip.compress(b"")])
def test_a_damaged_archive_is_refused_by_name(tmp_path, damage):
    path = write_archive(tmp_path, "cifar10") / ARCHIVES["cifar10"]
    path.write_bytes(damage(path.read_bytes()))
    assert f"from {path}: " in refusal("cifar10", tmp_path)


# --- the digits ---

def test_digits_are_scikit_learns():
    dataset, source = load_dataset("digits"), load_digits()
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert dataset.image_shape == (8, 8, 1) and dataset.train.images.dtype == np.uint8
    assert dataset.num_classes == 10 and "".join(dataset.class_names) == "0123456789"
    scale = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]   # by hand
    expected = [(bytes(scale[int(value)] for value in image), label)
                for image, label in zip(source.data, source.target)]
    images = np.concatenate([dataset.train.images, dataset.test.images])
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    assert sorted((image.tobytes(), label) for image, label in zip(images, labels)) == sorted(expected)


def test_the_digits_test_fifth_is_fixed_and_stratified():
    first, second = load_dataset("digits"), load_dataset("digits")
    assert first.fingerprint == second.fingerprint == "6bec28cd4908dedf"        # the same on both stacks
    share = np.bincount(load_digits().target) / 5
    assert np.all(np.abs(np.bincount(first.test.labels) - share) < 1)


def test_digits_take_no_folder():
    with pytest.raises(ValueError, match="not from somewhere: leave DATA_DIR empty"):
        load_dataset("digits", "somewhere")


@pytest.mark.parametrize("name", ["mnist", "", "CIFAR10"])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=f"no dataset '{name}'.*cifar10, cifar100, digits"):
        load_dataset(name)


# --- the fingerprint ---

def tiny_dataset(**changes):
    rng = np.random.default_rng(0)
    train, test = (Split(rng.integers(0, 256, (n, 3, 5, 2), np.uint8), np.arange(n) % 2) for n in (11, 7))
    return Dataset(**{"name": "tiny", "train": train, "test": test, "class_names": ("a", "b"), **changes})


def changed(split, field):
    arrays = {"images": split.images.copy(), "labels": split.labels.copy()}
    arrays[field].flat[-1] ^= 1
    return Split(**arrays)


TINY = tiny_dataset()


@pytest.mark.parametrize("changes", [
    {"name": "other"}, {"class_names": ("a", "c")}, {"class_names": ("a", "b", "c")},
    {"train": changed(TINY.train, "images")}, {"train": changed(TINY.train, "labels")},
    {"test": changed(TINY.test, "images")}, {"test": changed(TINY.test, "labels")},
    {"train": TINY.test, "test": TINY.train},
    {"train": Split(TINY.train.images.reshape(11, 5, 3, 2), TINY.train.labels)},
])
def test_every_change_shows_in_the_fingerprint(changes):
    assert len(TINY.fingerprint) == 16 and int(TINY.fingerprint, 16) > 0
    assert tiny_dataset().fingerprint == TINY.fingerprint != tiny_dataset(**changes).fingerprint


def test_the_fingerprint_does_not_depend_on_memory_order():
    strided = Split(np.asfortranarray(TINY.train.images), TINY.train.labels)
    assert tiny_dataset(train=strided).fingerprint == TINY.fingerprint


# --- the validation split ---

def uneven_split():
    labels = np.repeat(np.arange(4), [7, 11, 29, 53])
    return Split(np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1), labels)


@pytest.mark.parametrize("share", [0.2, 0.25, 0.5, 0.83])
def test_the_split_is_stratified_and_whole(share):
    whole = uneven_split()
    train, validation = split_validation(whole, share, seed=3)
    assert len(validation) == np.ceil(share * 100) and len(train) + len(validation) == 100
    assert sorted([*train.images.ravel(), *validation.images.ravel()]) == list(range(100))
    for part, expected in ((validation, share), (train, 1 - share)):
        assert np.array_equal(part.labels, whole.labels[part.images.ravel()])
        counts = np.bincount(part.labels)
        assert np.all(np.abs(counts - expected * np.array([7, 11, 29, 53])) <= 1) and min(counts) > 0


def test_the_split_follows_the_seed():
    first, again, other = (split_validation(uneven_split(), 0.3, seed)[1].images.ravel()
                           for seed in (1, 1, 2))
    assert np.array_equal(first, again) and sorted(first) != sorted(other)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(ValueError, match=f"validation share {share} is not between 0 and 1"):
        split_validation(uneven_split(), share, 0)


@pytest.mark.parametrize("counts, share", [([7, 93], 0.1), ([7, 93], 0.9), ([1, 99], 0.5), ([5, 5], 0.05),
                                           ([0, 0], 0.5)])
def test_a_part_that_could_lack_a_class_is_refused(counts, share):
    labels = np.repeat([0, 1], counts)
    message = rf"share {share} of {sum(counts)} pictures .* the rarest class \({min(counts)} pictures\)"
    with pytest.raises(ValueError, match=message):
        split_validation(Split(np.zeros((len(labels), 1, 1, 1), np.uint8), labels), share, 0)


def test_pixel_statistics_are_each_channels_mean_and_deviation():
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 3, 2)).astype(np.uint8)
    mean, deviation = Split(images, np.zeros(7, np.int64)).pixel_statistics()
    np.testing.assert_allclose(mean, images.astype(float).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(deviation, images.astype(float).std(axis=(0, 1, 2)))


# --- the download ---

@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("error", [
    Exception("URL fetch failure on https://x: None -- [Errno -2] Name or service not known"),
    OSError("disk full"), ValueError("Incomplete or corrupted file detected.")])
def test_a_failed_download_says_what_to_do(monkeypatch, name, error):
    from tensorflow import keras

    def fail():
        raise error
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", fail)
    message = refusal(name, "")
    assert str(error) in message and "download" in message
    assert f"put {ARCHIVES[name]} from" in message and "--data-dir D" in message and "DATA_DIR" in message


@pytest.mark.parametrize("name, classes", [("cifar10", 10), ("cifar100", 100)])
def test_a_download_becomes_a_dataset(monkeypatch, name, classes):
    from tensorflow import keras
    rng = np.random.default_rng(0)
    splits = [(rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 10, (n, 1), np.uint8))
              for n in (5, 3)]
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", lambda: splits)
    dataset = load_dataset(name)
    for split, (images, labels) in zip((dataset.train, dataset.test), splits):
        assert np.array_equal(split.images, images)
        assert split.labels.dtype == np.int64 and np.array_equal(split.labels, labels[:, 0])
    assert dataset.name == name and len(set(dataset.class_names)) == dataset.num_classes == classes


def test_the_class_names_are_in_label_order():
    cifar10, cifar100 = list(cifar.CIFAR10.class_names), list(cifar.CIFAR100.class_names)
    assert [cifar10[i] for i in (0, 1, 6, 9)] == ["airplane", "automobile", "frog", "truck"]
    assert [cifar100[i] for i in (0, 1, 23, 52, 71, 99)] == [
        "apple", "aquarium_fish", "cloud", "oak_tree", "sea", "worm"]
    assert cifar10 == sorted(cifar10) and cifar100 == sorted(cifar100)          # as in the real files
