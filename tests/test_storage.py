"""Files that are whole or not there, whatever stops the writing; locks; arrays that come back exactly, or not."""
import os
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from processes import hold

from vision_transformer import storage
from vision_transformer.storage import CannotWrite, Damaged, RunError, assign, lock, read_tensors, write, write_tensors


class Killed(BaseException):
    """The process ends here: nothing after it is done, no `except` for errors sees it."""


def operations(function):
    """Runs function; gives how often it asked the operating system to change a file."""
    calls = []
    with counting(lambda: calls.append(1)):
        function()
    return len(calls)


def counting(before):
    """Patches all ways in which storage changes files, so that `before` is called first."""
    def patched(owner, name):
        original = getattr(owner, name)

        def changed(*arguments, **options):
            before()
            return original(*arguments, **options)
        return mock.patch.object(owner, name, changed)

    class Patches:
        def __enter__(self):
            self.all = [patched(Path, "open"), patched(os, "fsync"), patched(Path, "replace"), patched(Path, "unlink")]
            for patch in self.all:
                patch.__enter__()

        def __exit__(self, *error):
            for patch in self.all:
                patch.__exit__(*error)
    return Patches()


def interrupted(function, at, error):
    """Runs function until it wants to change a file for the at-th time (from 0): raises error there and ever after."""
    calls = []

    def stop():
        calls.append(1)
        if len(calls) > at:
            raise error

    with counting(stop), pytest.raises(type(error)):
        function()


def test_a_write_that_is_killed_anywhere_leaves_the_old_file_or_the_new_one(tmp_path):
    path, before = tmp_path / "x", tmp_path / "x-before"

    def write_again():
        for file in (path, before):
            file.unlink(missing_ok=True)
        write(path, "0", before), write(path, "1", before)

    write_again()
    count = operations(lambda: write(path, "2", before))
    flushes = int(os.name == "posix")                   # of the folder, which Windows doesn't do
    assert count == 5 + flushes, "open, flush, move the old file, move the new one, flush the folder, remove"
    seen = []
    for at in range(count):
        write_again()
        interrupted(lambda: write(path, "2", before), at, Killed())
        seen.append([file.read_text(encoding="utf-8") for file in (path, before) if file.is_file()])
    assert seen == [["1", "0"]] * 3 + [["1"]] + [["2", "1"]] * (1 + flushes)


def test_a_full_disk_anywhere_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "x"
    write(path, "old")
    renames = []
    for at in range(3):                                 # open, flush, rename
        error = OSError(28, "No space left on device")
        calls = []

        def fail(calls=calls, at=at, error=error):
            calls.append(1)
            if len(calls) == at + 1:
                raise error

        with counting(fail), pytest.raises(CannotWrite, match=r"x can't be written: No space left.*whole.*--resume"):
            write(path, "new")
        renames.append(path.read_text(encoding="utf-8"))
        assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert renames == ["old"] * 3


def test_a_write_into_no_folder_says_so(tmp_path):
    with pytest.raises(CannotWrite, match=r"x can't be written: No such file or directory"):
        write(tmp_path / "gone" / "x", "new")


def test_a_file_that_someone_looks_at_is_waited_for(monkeypatch, tmp_path):
    replace, failures = Path.replace, [1, 1]
    monkeypatch.setattr(Path, "replace", lambda self, to: (_ for _ in ()).throw(PermissionError("in use"))
                        if failures and failures.pop() else replace(self, to))
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    write(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text(encoding="utf-8") == "new" and not failures
    failures.extend([1] * 99)
    with pytest.raises(CannotWrite, match="in use"):
        write(tmp_path / "x", "newer")
    assert (tmp_path / "x").read_text(encoding="utf-8") == "new"


# ------------------------------------------------------------------------------------------ locks
@pytest.mark.parametrize("end", ["ends", "is killed"])
def test_another_process_is_kept_out_until_this_one(tmp_path, end):
    holder = hold(tmp_path)
    with pytest.raises(RunError, match=re.escape(f"another training is using {tmp_path} right now")):
        lock(tmp_path)
    holder.kill() if end == "is killed" else holder.stdin.close()
    holder.wait()
    held = lock(tmp_path)
    assert held.is_locked and lock(tmp_path) is held, "the same process may take it again"
    held.release(force=True)


def test_a_folder_that_is_gone_cannot_be_locked(tmp_path):
    with mock.patch("filelock.FileLock.acquire", side_effect=OSError(30, "Read-only file system")), \
            pytest.raises(CannotWrite, match=r"\.lock can't be written: Read-only file system"):
        lock(tmp_path)


# ------------------------------------------------------------------------------------------ arrays
def test_arrays_that_are_not_contiguous_are_written_right(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    values = {"step": 7, "third": 1 / 3, "rows": [{"loss": 0.1 + 0.2}], "none": None}
    write_tensors(tmp_path / "x", {"t": array.T, "s": array[:, ::2], "scalar": np.float32(7)}, values)
    tensors, read = read_tensors(tmp_path / "x")
    np.testing.assert_array_equal(tensors["t"], array.T)
    np.testing.assert_array_equal(tensors["s"], array[:, ::2])
    assert tensors["scalar"] == 7 and read == values


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in "abcdefgh":
        write_tensors(tmp_path / name, {"x": np.ones(3), "y": np.zeros(2)}, {"epoch": 3, "val_accuracy": 0.5})
    assert len({(tmp_path / name).read_bytes() for name in "abcdefgh"}) == 1


def test_every_bit_of_a_file_is_watched(tmp_path):
    """Any one bit that flips is refused, in the arrays, the values or the header."""
    path = tmp_path / "x"
    write_tensors(path, {"a": np.float32([1, 2, 3])}, {"step": 123})
    content, accepted = path.read_bytes(), []
    for place in range(len(content)):
        for bit in range(8):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1:])
            try:
                tensors, values = read_tensors(path)
            except RunError:
                continue
            accepted.append((place, bit))
            assert tensors["a"].tolist() == [1, 2, 3] and values == {"step": 123}
    assert len(accepted) < 0.02 * 8 * len(content), "only spaces between JSON's words may differ"


def test_a_file_that_cannot_be_opened_is_not_damaged(tmp_path):
    write_tensors(tmp_path / "x", {}, {})
    with mock.patch.object(Path, "open", side_effect=PermissionError(13, "Permission denied")), \
            pytest.raises(RunError, match="x can't be read: Permission denied; make it readable") as refusal:
        read_tensors(tmp_path / "x")
    assert not isinstance(refusal.value, Damaged)


def test_assign_is_all_or_nothing():
    x, y = tf.Variable([1.0, 2.0]), tf.Variable(3.0)
    good = {"x": np.float32([7, 8]), "y": np.float32(9)}
    for changes, says in [({"y": None}, "missing y; unknown nothing"),
                          ({"z": np.float32(1)}, "missing nothing; unknown z"),
                          ({"y": np.float32([9])}, r"y is of shape \(1,\).* needs \(\)"),
                          ({"y": np.float64(9)}, "y is .* type float64, .* needs .* float32")]:
        tensors = {name: array for name, array in {**good, **changes}.items() if array is not None}
        with pytest.raises(RunError, match=says):
            assign(Path("file"), tensors, {"x": x, "y": y})
        assert x.numpy().tolist() == [1, 2] and y.numpy() == 3
    assign(Path("file"), good, {"x": x, "y": y})
    assert x.numpy().tolist() == [7, 8] and y.numpy() == 9
