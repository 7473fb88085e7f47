"""Pictures are decoded once, whatever happens on the way: damage, death, a full disk, two trainings at once."""
import json
import os
import subprocess
import sys
import warnings
from collections import namedtuple
from pathlib import Path

import filelock
import numpy as np
import pytest
from peak_memory import child_environment, measured
from picture_folders import make_folder, picture
from PIL import Image
from strange_files import forbidden, open_folder

from vision_transformer import picture_cache
from vision_transformer.picture_cache import decoded
from vision_transformer.picture_files import read_picture
from vision_transformer.picture_folder import find_pictures
from vision_transformer.storage import CannotWrite, write
from vision_transformer.stored_pictures import StoredPictures

SIZE = 11


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras" / "datasets" / "picture-folders"


@pytest.fixture
def photos(tmp_path):
    return make_folder(tmp_path / "photos", {"coal": 4, "fire": 3, "sea": 5})


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that are decoded from now on."""
    names = []

    def counted(path, shape):
        names.append(path.name)
        return read_picture(path, shape)

    monkeypatch.setattr(picture_cache, "read_picture", counted)
    return names


def load(folder, size=SIZE):
    return decoded(str(folder), find_pictures(str(folder))[0], size)


def expected(folder, size=SIZE):
    return [read_picture(folder / file.name, (size, size, 3)) for file in find_pictures(str(folder))[0]]


def names(home):
    return sorted(path.name for path in home.iterdir() if path.name != ".lock")


# ------------------------------------------------------------------------------------------ once
def test_each_file_is_decoded_once_for_all_trainings(photos, home, reads, capsys, monkeypatch):
    first = load(photos)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"decoding 12 files of {photos}, this once ..." and len(reads) == 12
    assert isinstance(first.pictures, StoredPictures) and first.problems == {}
    assert first.readable.tolist() == [*range(12)]
    np.testing.assert_array_equal(np.asarray(first.pictures), expected(photos))
    monkeypatch.chdir(photos.parent)
    again = load("photos")                              # the same folder, named otherwise
    assert len(reads) == 12
    np.testing.assert_array_equal(np.asarray(again.pictures), np.asarray(first.pictures))
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("12 pictures of photos, 11x11 pixels each, are kept for next time in ")
    path, size = line.split(" in ")[1].rsplit(" (", 1)
    assert Path(path).stat().st_size == 12 * SIZE * SIZE * 3 and size == "0 MB)" and Path(path).parent == home
    assert names(home) == [Path(path).with_suffix(".json").name, Path(path).name]


def test_it_is_kept_where_keras_keeps_downloads(photos, tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "me")
    load(photos)
    assert len(names(tmp_path / "me" / ".keras" / "datasets" / "picture-folders")) == 2


@pytest.mark.parametrize("change", [
    lambda photos: picture((1, 2, 3), 9).save(photos / "sea" / "new.png"),
    lambda photos: (photos / "sea" / "00.png").unlink(),
    lambda photos: (photos / "sea" / "00.png").rename(photos / "sea" / "renamed.png"),
    lambda photos: (photos / "sea" / "00.png").replace(photos / "fire" / "00.png"),
    lambda photos: os.utime(photos / "sea" / "00.png", ns=(1, 1)),
])
def test_what_changed_is_decoded_anew_and_the_old_cache_goes(photos, home, reads, change):
    load(photos)
    load(photos, 13)
    before, reads[:] = names(home), []
    change(photos)
    np.testing.assert_array_equal(np.asarray(load(photos).pictures), expected(photos))
    assert len(reads) == len(find_pictures(str(photos))[0])
    after = names(home)
    assert len(after) == len(before) == 4 and len(set(before) & set(after)) == 2, "that of another size stays"
    assert all("-13px-" in name for name in set(before) & set(after))


def test_every_kind_of_picture_is_brought_to_one_shape(tmp_path):
    photos = make_folder(tmp_path / "photos", {"coal": 1, "sea": 1})
    colour = picture((20, 80, 200), 0, (40, 60))
    for number, mode in enumerate(("L", "LA", "RGBA", "P", "1")):
        colour.convert(mode).save(photos / "sea" / f"mode {number}.png")
    colour.convert("CMYK").save(photos / "sea" / "cmyk.jpg")
    Image.fromarray(np.full((30, 50), 40_000, np.uint16)).save(photos / "sea" / "16 bits.png")
    found = load(photos)
    assert found.pictures.shape == (9, SIZE, SIZE, 3) and not found.problems
    np.testing.assert_array_equal(np.asarray(found.pictures), expected(photos))


def test_memory_does_not_grow_with_the_folder(tmp_path, monkeypatch):
    """75 MB of decoded pictures; Python holds those that its threads are at, 2 to 10 MB as they take turns."""
    photos = make_folder(tmp_path / "photos", {"coal": 200, "sea": 200})
    monkeypatch.setattr(picture_cache, "PIECE", 2 ** 18)
    found, peak = measured(lambda: load(photos, 250))
    assert found.pictures.stored.nbytes == 400 * 250 * 250 * 3 and peak < 25e6


def test_warnings_are_as_before(photos):
    before = list(warnings.filters)
    load(photos)
    assert warnings.filters == before


# ------------------------------------------------------------------------------------------ files that can't be read
@pytest.fixture
def broken(photos):
    """14 files that are no pictures, and 12 that are."""
    whole = (photos / "sea" / "00.png").read_bytes()
    picture((9, 9, 9), 0, (90, 90)).save(photos / "sea" / "cut.jpg")
    cut = photos / "sea" / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[:900])
    (photos / "coal" / "cut.png").write_bytes(whole[:60])
    (photos / "coal" / "notes.txt").write_text("not a picture", encoding="utf-8")
    (photos / "coal" / "empty.png").touch()
    for number in range(10):
        (photos / "fire" / f"x{number}.jpg").write_bytes(b"\xff\xd8\xff")
    return photos


def test_broken_files_are_listed_and_not_fatal(broken, home, capsys, reads):
    for start in ("decoded", "from the cache"):
        found = load(broken)
        files = find_pictures(str(broken))[0]
        assert len(found.problems) == 14 and len(found.readable) == 12 == len(found.pictures), start
        np.testing.assert_array_equal(np.asarray(found.pictures), [
            read_picture(broken / files[number].name, (SIZE, SIZE, 3)) for number in found.readable])
        said = capsys.readouterr().out.splitlines()
        note = said.index("note: 14 files are left out, since they can't be read as pictures:")
        named = said[note + 1:note + 11]
        assert [line.split(": ")[0] for line in named[:4]] == ["  coal/cut.png", "  coal/empty.png", "  coal/notes.txt",
                                                               "  fire/x0.jpg"]
        assert "damaged" in named[2] and "it has 0 bytes" in named[1]
        [last] = said[note + 11:]
        listed = Path(last.split("all of them are listed in ")[1])
        assert listed.parent == home and len(listed.read_text(encoding="utf-8").splitlines()) == 14
        assert [f"  {line}" for line in listed.read_text(encoding="utf-8").splitlines()[:10]] == named
    assert len(reads) == 26


@pytest.mark.skipif(os.name != "posix", reason="chmod hides nothing on Windows")
def test_a_file_that_gets_readable_is_read(monkeypatch):
    with open_folder() as root:
        monkeypatch.setenv("KERAS_HOME", str(root / "keras"))
        photos = make_folder(root / "photos", {"coal": 2, "sea": 1})
        (root / "keras").mkdir()
        (root / "keras").chmod(0o777)
        with forbidden(photos / "coal" / "00.png"):
            assert load(photos).problems == {0: "Permission denied"}
        assert load(photos).problems == {}


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such names")
def test_names_are_printed_harmlessly(photos, capsys):
    (photos / "sea" / "a\nb\x1b[2J.jpg").write_bytes(b"?")
    (photos / "sea" / os.fsdecode(b"\xff.jpg")).write_bytes(b"?")
    assert len(load(photos).problems) == 2
    out = capsys.readouterr().out
    assert "  sea/a\\nb\\x1b[2J.jpg: " in out and "  sea/\\udcff.jpg: " in out
    assert all(line.isprintable() for line in out.splitlines())


def test_a_folder_of_nothing_else_gives_no_picture(tmp_path):
    for name in ("coal", "sea"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "x.jpg").write_bytes(b"?")
    for _ in range(2):
        found = load(tmp_path / "photos")
        assert (len(found.problems), len(found.readable), found.pictures.shape) == (2, 0, (0, SIZE, SIZE, 3))


# ------------------------------------------------------------------------------------------ damage
def pixels_of(home):
    [path] = home.glob("*.pixels")
    return path


def flipped(home):
    content = bytearray(pixels_of(home).read_bytes())
    content[len(content) // 2] ^= 4
    pixels_of(home).write_bytes(content)


def rewritten(**changes):
    def rewrite(home):
        path = pixels_of(home).with_suffix(".json")
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    return rewrite


@pytest.mark.parametrize("damage", [
    flipped, lambda home: os.truncate(pixels_of(home), 100), lambda home: os.truncate(pixels_of(home), 10 ** 5),
    lambda home: pixels_of(home).unlink(), lambda home: pixels_of(home).with_suffix(".json").unlink(),
    lambda home: pixels_of(home).with_suffix(".json").write_text("{", encoding="utf-8"),
    lambda home: pixels_of(home).with_suffix(".json").write_text("[" * 10 ** 5, encoding="utf-8"),
    rewritten(format=0), rewritten(sha256=""), rewritten(problems=[]), rewritten(problems={"3": "", "4": ""}),
    rewritten(problems={"x": ""})])
def test_a_damaged_cache_is_made_again(photos, home, reads, damage):
    load(photos)
    damage(home)
    reads.clear()
    np.testing.assert_array_equal(np.asarray(load(photos).pictures), expected(photos))
    assert len(reads) == 12
    load(photos)
    assert len(reads) == 12 and len(names(home)) == 2


# ------------------------------------------------------------------------------------------ no room, death, two at once
def test_a_disk_without_room_is_said_before_the_work(photos, home, reads, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(picture_cache.shutil, "disk_usage", lambda folder: usage(12 * 300 * 300 * 3 - 1))
    says = (r"can't be kept in .*picture-folders: they may take 3 MB, and 3 MB are free\. Make room or give "
            "permission, choose a smaller IMAGE_SIZE, or let KERAS_HOME be a folder elsewhere")
    with pytest.raises(CannotWrite, match=says):
        load(photos, 300)
    assert reads == [] == names(home)


@pytest.mark.parametrize("ending", [".pixels", ".json", ".unread.txt"])
def test_a_disk_that_becomes_full_leaves_nothing_half_done(broken, home, monkeypatch, ending):
    def full(path, content, before=None):
        def pieces():
            for number, piece in enumerate([content.encode()] if isinstance(content, str) else content):
                if number == 5 or isinstance(content, str):
                    raise OSError(28, "No space left on device")
                yield piece
        write(path, pieces() if path.name.endswith(ending) else content)

    with monkeypatch.context() as patch:
        patch.setattr(picture_cache, "write", full)
        with pytest.raises(CannotWrite, match=r"can't be kept in .*: No space left on device\. Make room"):
            load(broken)
    assert not list(home.glob("*.part")) and not list(home.glob("*.json"))
    assert len(load(broken).pictures) == 12 and len(names(home)) == 3


def test_a_place_that_can_not_be_made_is_named(photos, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with pytest.raises(CannotWrite, match=r"can't be kept in .*file.datasets.picture-folders: "):
        load(photos)


def test_a_whole_cache_needs_no_lock(photos, home, monkeypatch):
    load(photos)
    monkeypatch.setattr(filelock.FileLock, "acquire", lambda *_, **__: pytest.fail("a read-only place has no locks"))
    assert len(load(photos).pictures) == 12


CHILD = """
import os, sys, time
from pathlib import Path
from vision_transformer import picture_cache
from vision_transformer.picture_folder import find_pictures
read, done, (folder, dies_at, waits_for) = picture_cache.read_picture, [], sys.argv[1:]
def counted(*arguments):
    done.append(1)
    if len(done) == int(dies_at):
        os._exit(9)
    while waits_for and not Path(waits_for).exists():
        time.sleep(0.05)
    return read(*arguments)
picture_cache.read_picture = counted
found = picture_cache.decoded(folder, find_pictures(folder)[0], 11)
print(len(found.pictures), "pictures,", len(done), "decoded")
"""


def child(photos, dies_at=0, waits_for=""):
    return subprocess.Popen([sys.executable, "-u", "-c", CHILD, str(photos), str(dies_at), str(waits_for)],
                            env=child_environment(), stdout=subprocess.PIPE, encoding="utf-8")


def test_killed_while_it_decodes_the_next_training_begins_anew(photos, home):
    assert child(photos, dies_at=12).wait() == 9
    assert [name.rsplit(".", 2)[1:] for name in names(home)] == [["pixels", "part"]]
    np.testing.assert_array_equal(np.asarray(load(photos).pictures), expected(photos))
    assert len(names(home)) == 2


def test_of_two_trainings_at_once_one_decodes_and_the_other_waits(photos, tmp_path):
    first = child(photos, waits_for=tmp_path / "go on")
    assert first.stdout.readline().startswith("decoding 12 files")
    second = child(photos)
    assert second.stdout.readline() == "waiting for another training, which is decoding pictures now ...\n"
    (tmp_path / "go on").touch()
    said = [process.communicate()[0].splitlines()[-1] for process in (first, second)]
    assert said == ["12 pictures, 12 decoded", "12 pictures, 0 decoded"]
