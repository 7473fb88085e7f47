"""Damaged and hostile CIFAR files, each refused in one line by its name, as a folder and as an archive."""
import gzip
import io
import os
import pickle
import tarfile
import zlib

import numpy as np
import pytest
from cifar_files import (
    ARCHIVES,
    FOLDERS,
    NAMES,
    ROWS,
    contents,
    entries,
    python2,
    python2_file,
    refusal,
    write_archive,
    write_folder,
)
from peak_memory import measured
from strange_files import STRANGE_FILES, forbidden, open_folder

import train_cifar10
from vision_transformer.cifar import DataError
from vision_transformer.datasets import load_dataset

FOLDER, ARCHIVE = FOLDERS["cifar10"], ARCHIVES["cifar10"]


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
    "empty": (b"", "it is empty"),
    "cut in its data": (WHOLE[:5000], " remain"),
    "no pickle": (b"\xff\xd8 a JPEG", "opcode b'\\xff' unknown"),
    "a list": (b"\x80\x02" + python2([1]) + b".", "not a pickled dict"),
    "a persistent id": (b"\x80\x02K\x01Q.", "the instruction BINPERSID"),
    "memo that is not there": (b"\x80\x02h\x07.", "its pickle is damaged (KeyError: 7)"),
    "out-of-band buffer": (b"\x80\x05\x97.", "the instruction NEXT_BUFFER"),
    "no data": (without_entry("data"), "data are not an array"),
    "data a list": (with_entry("data", [1, 2, 3]), "data are not an array"),
    "data int8": (python3_file(data=DATA.astype(np.int8)), "'i1', not uint8"),
    "data float": (python3_file(data=DATA.astype(np.float32)), "'f4', not uint8"),
    "data objects": (python3_file(data=DATA.astype(object)), "'O8', not uint8"),
    "data never filled": (WHOLE.replace(b"tb" + python2(b"labels"), b"t0" + python2(b"labels")), "the instruction POP"),
    "data without a state": (b"\x80\x02}(U\x04datacnumpy\ndtype\nU\x02u1\x85Ru.", "not an array as numpy writes them"),
    "data of no type": (WHOLE.replace(b"(U\x02u1K\x00K\x01tR", b"(tR"), "not an array as numpy writes them"),
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


@pytest.mark.parametrize("write, where", [(write_folder, FOLDER), (write_archive, ARCHIVE)])
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_batch_is_refused_by_name(tmp_path, damage, write, where):
    content, reason = DAMAGED[damage]
    message = refusal("cifar10", write(tmp_path, "cifar10", test_batch=content))
    assert f"test_batch in {tmp_path / where}" in message and reason in message


def test_each_dataset_has_its_own_label_range(tmp_path):
    good, bad = (python2_file({"data": DATA, "fine_labels": [0, last, 50]}) for last in (99, 100))
    place = write_folder(tmp_path / "good", "cifar100", test=good)
    assert load_dataset("cifar100", str(place)).test.labels.tolist() == [0, 99, 50]
    place = write_folder(tmp_path / "bad", "cifar100", test=bad)
    assert "label 100 is not in 0..99" in refusal("cifar100", place)


@pytest.mark.parametrize("write", [write_folder, write_archive])
@pytest.mark.parametrize("names, reason", [
    *[(names, "are not a list of 10 names") for names in (
        NAMES["cifar10"][:9], NAMES["cifar100"], [*NAMES["cifar10"][:9], 9], "0123456789", None)],
    ([*NAMES["cifar10"][:9], "c3"], "the name 'c3', which is there twice"),
    ([*NAMES["cifar10"][:9], ""], "the name ''"), ([*NAMES["cifar10"][:9], "a" * 101], "of 1 to 100 letters"),
    ([*NAMES["cifar10"][:9], "a\nb"], r"the name 'a\nb'"), ([*NAMES["cifar10"][:9], "\x1b[2J"], r"the name '\x1b[2J'")])
def test_class_names_must_be_ten_that_can_be_told_apart_and_printed(tmp_path, write, names, reason):
    content = pickle.dumps({b"label_names": names}, 2)
    message = refusal("cifar10", write(tmp_path, "cifar10", **{"batches.meta": content}))
    assert "batches.meta in" in message and "label_names" in message and reason in message


@pytest.mark.parametrize("write", [write_folder, write_archive])
@pytest.mark.parametrize("name, file", [("cifar10", "data_batch_4"), ("cifar10", "batches.meta"),
                                        ("cifar100", "train"), ("cifar100", "test")])
def test_a_missing_file_is_named(tmp_path, name, file, write):
    message = refusal(name, write(tmp_path, name, **{file: None}))
    assert f"has no file {file};" in message and str(tmp_path) in message


def test_an_empty_or_absent_folder_says_what_was_looked_for(tmp_path):
    for place in (tmp_path, tmp_path / "absent"):
        message = refusal("cifar100", place)
        assert f"from {place}: neither the folder cifar-100-python nor" in message
        assert "the file cifar-100-python.tar.gz is there" in message
        assert "--data-dir D" in message and "DATA_DIR" in message


# --- what is no ordinary file ---

@pytest.mark.parametrize("kind", STRANGE_FILES)
def test_a_strange_file_in_place_of_a_batch_is_refused_at_once(tmp_path, kind):
    make, _, reason = STRANGE_FILES[kind]
    make(write_folder(tmp_path, "cifar10", test_batch=None) / FOLDER / "test_batch")
    message = refusal("cifar10", tmp_path)
    assert reason in message and "test_batch" in message


@pytest.mark.parametrize("kind", STRANGE_FILES)
@pytest.mark.parametrize("named", [lambda archive: archive, lambda archive: archive.parent])
def test_a_strange_file_in_place_of_the_archive_is_refused_at_once(tmp_path, kind, named):
    make, _, reason = STRANGE_FILES[kind]
    make(tmp_path / ARCHIVE)
    message = refusal("cifar10", named(tmp_path / ARCHIVE))
    assert (reason if reason != "no file" else "nor the file") in message or "is there" in message


@pytest.mark.parametrize("part", [FOLDER, f"{FOLDER}/test_batch", ARCHIVE][:3 if os.name == "posix" else 0])
def test_what_may_not_be_read_is_one_line(part):
    with open_folder() as place:
        (write_archive if part == ARCHIVE else write_folder)(place, "cifar10")
        with forbidden(place / part):
            message = refusal("cifar10", place)
        assert "Permission denied" in message and str(place / part) in message
        assert load_dataset("cifar10", str(place)).test.labels.tolist() == [7, 2, 4]


def test_bad_data_begin_no_run(tmp_path):
    place = write_folder(tmp_path / "data", "cifar10", test_batch=b"")
    with pytest.raises(DataError, match=r"test_batch in .*: it is empty"):
        train_cifar10.main(["--data-dir", str(place), "--run-folder", str(tmp_path / "runs")])
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


# --- archives ---

def member(name, kind=tarfile.REGTYPE, link="", size=0, content=b""):
    """A member's header and content, as they lie in a tar."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size or len(content)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def put(place, *members, end=bytes(10240)):
    """Writes an archive of a tar's parts."""
    (place / ARCHIVE).write_bytes(gzip.compress(b"".join(members) + end, 1))


GENUINE = [member(f"{FOLDER}/{name}", content=content) for name, content in contents("cifar10").items()]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("level", [0, 9])
def test_archives_of_every_tar_are_read(tmp_path, kind, level):
    with tarfile.open(tmp_path / ARCHIVE, "w:gz", format=kind, compresslevel=level) as tar:
        for name in [".", FOLDER, *(f"{FOLDER}/{name}" for name in contents("cifar10"))]:
            info = tarfile.TarInfo(name)
            info.mtime, info.uname = 1234567890.5, "Ä" * 20             # which make pax write a header of its own
            content = contents("cifar10").get(name.split("/")[-1], b"")
            info.type, info.size = tarfile.REGTYPE if content else tarfile.DIRTYPE, len(content)
            tar.addfile(info, io.BytesIO(content))
    read = load_dataset("cifar10", str(tmp_path))
    assert read.fingerprint == load_dataset("cifar10", str(write_folder(tmp_path / "plain", "cifar10"))).fingerprint


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE,
                                  tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE])
def test_a_needed_member_must_be_a_regular_file(tmp_path, kind):
    put(tmp_path, *GENUINE[:5], member(f"{FOLDER}/test_batch", kind, f"{FOLDER}/data_batch_1"), *GENUINE[6:])
    message = refusal("cifar10", tmp_path)
    assert f"its {FOLDER}/test_batch is not a regular file" in message and str(tmp_path / ARCHIVE) in message


def test_other_members_are_ignored_and_nothing_is_written(tmp_path):
    (place := tmp_path / "D").mkdir()
    names = [f"../{FOLDER}/test_batch", f"/{FOLDER}/test_batch", f"{FOLDER}/../{FOLDER}/test_batch",
             f"x/{FOLDER}/test_batch", f"././{FOLDER}/test_batch", "test_batch", f"{FOLDER}/readme.html"]
    links = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
    put(place, *[member(name, content=b"\x80\x04cos\nsystem\n.") for name in names],
        *[member(f"{FOLDER}/link", kind, "../../outside") for kind in links], *GENUINE)
    assert load_dataset("cifar10", str(place)).test.labels.tolist() == [7, 2, 4]
    assert [path.name for path in tmp_path.rglob("*")] == ["D", ARCHIVE]


def test_a_long_path_in_two_parts_is_not_mistaken_for_its_end(tmp_path):
    info = tarfile.TarInfo(f"{'x' * 90}/{FOLDER}/test_batch")
    info.size = 512
    put(tmp_path, info.tobuf(tarfile.USTAR_FORMAT), b"x" * 512, *GENUINE)
    assert load_dataset("cifar10", str(tmp_path)).test.labels.tolist() == [7, 2, 4]


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("size", [2**28 + 1, 2**40, -512])
def test_a_member_or_header_of_forged_size_is_refused(tmp_path, kind, size):
    """What follows the header may be a gzip of terabytes, so nothing of that length may be asked for."""
    put(tmp_path, member(f"{FOLDER}/test_batch", kind, size=size))
    message = refusal("cifar10", tmp_path)
    assert "declares" in message and ARCHIVE in message and str(2**28) in message


def test_two_files_of_one_name_are_refused(tmp_path):
    put(tmp_path, *GENUINE, member(f"./{FOLDER}/test_batch", content=WHOLE))
    assert "it has the file test_batch twice" in refusal("cifar10", tmp_path)


def test_thousands_of_members_and_headers_change_nothing(tmp_path):
    """tarfile would overflow its stack: of these headers each belongs to the next."""
    put(tmp_path, *[member(f"m{i}") for i in range(5000)], member("x", tarfile.XHDTYPE) * 5000, *GENUINE)
    assert load_dataset("cifar10", str(tmp_path)).test.labels.tolist() == [7, 2, 4]


def test_a_header_that_keeps_tarfile_busy_for_minutes_is_passed_over(tmp_path):
    put(tmp_path, member("x", tarfile.XHDTYPE, content=b"1" * 2**20), *GENUINE)
    assert load_dataset("cifar10", str(tmp_path)).test.labels.tolist() == [7, 2, 4]


@pytest.mark.parametrize("heads", [
    [member(f"m{i}", size=2**28) for i in range(128)], [bytes(512), *[b""] * 127],
    [b"".join(GENUINE) + bytes(1024), *[b""] * 127]], ids=["members", "an empty tar", "after the end"])
def test_a_gzip_of_32_gigabytes_is_left_at_half_of_one(tmp_path, heads):
    """A gzip may consist of gzips: each of these is a head and 256 MiB of zeros, in 256 kB."""
    zeros = gzip.compress(bytes(2**26)) * 4
    (tmp_path / ARCHIVE).write_bytes(b"".join(gzip.compress(head) + zeros for head in heads))
    message, peak = measured(lambda: refusal("cifar10", tmp_path))
    assert "unpacks to more than 536870912 bytes" in message and peak < 2**25


DAMAGED_ARCHIVES = {
    "empty": (lambda whole: b"", "no file data_batch_1"),
    "not gzip": (lambda whole: b"not gzip", "gzip"),
    "cut in the middle": (lambda whole: whole[:len(whole) // 2], "ended before"),
    "cut at the end": (lambda whole: whole[:-1], "ended before"),
    "wrong checksum": (lambda whole: whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:], "CRC check failed"),
    "wrong length": (lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), "Incorrect length"),
    "one pixel changed": (lambda whole: gzip.compress(unpacked := gzip.decompress(whole), 0)[:-8].replace(
        DATA.tobytes()[:99], b"?" + DATA.tobytes()[1:99]) + gzip.compress(unpacked)[-8:], "CRC check failed"),
    "something appended": (lambda whole: whole + b"something", "gzip"),
    "not tar": (lambda whole: gzip.compress(b"not tar" * 100), "it is no tar|no number"),
    "a short tar": (lambda whole: gzip.compress(b"not tar"), "no file data_batch_1"),
    "nothing in it": (lambda whole: gzip.compress(b""), "no file data_batch_1"),
    "a tar cut in a member": (lambda whole: gzip.compress(GENUINE[0][:2000]), "in the middle of"),
    "a changed header": (lambda whole: gzip.compress(GENUINE[0].replace(b"ustar", b"Ustar")), "checksum is wrong"),
    "tar, not zipped": (lambda whole: gzip.decompress(whole), "gzip"),
    "zlib": (lambda whole: zlib.compress(gzip.decompress(whole)), "gzip"),
}


@pytest.mark.parametrize("damage", DAMAGED_ARCHIVES)
def test_a_damaged_archive_is_refused_by_name(tmp_path, damage):
    change, reason = DAMAGED_ARCHIVES[damage]
    path = write_archive(tmp_path, "cifar10") / ARCHIVE
    path.write_bytes(change(path.read_bytes()))
    message = refusal("cifar10", tmp_path)
    assert f"from {path}: " in message and any(part in message for part in reason.split("|"))
