"""Which files a folder of pictures has, of which class: every layout, odd names, links, and what is no such folder."""
import os

import pytest
from strange_files import forbidden, open_folder

from vision_transformer.cifar import DataError
from vision_transformer.picture_folder import find_pictures


def make(root, *names):
    """Makes files of these names; a name that ends with / is a folder."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(name.encode("utf-8", "surrogateescape"))
    return root


def found(root):
    files, classes, has_test = find_pictures(str(root))
    return {file.name: (classes[file.label], file.tests) for file in files}, classes, has_test


def refusal(root):
    with pytest.raises(DataError) as error:
        find_pictures(str(root))
    [line] = str(error.value).splitlines()
    assert line.isprintable() and len(line) < 500
    return line


# ------------------------------------------------------------------------------------------ what counts
def test_a_folder_per_class(tmp_path):
    make(tmp_path, "dog/1.jpg", "cat/2.png", "cat/far/below/3.jpg", "cat/far/1.JPG", "Bird/a b.gif")
    files, classes, has_test = found(tmp_path)
    assert classes == ("Bird", "cat", "dog") and not has_test
    assert files == {"Bird/a b.gif": ("Bird", False), "cat/2.png": ("cat", False), "cat/far/1.JPG": ("cat", False),
                     "cat/far/below/3.jpg": ("cat", False), "dog/1.jpg": ("dog", False)}
    assert list(files) == sorted(files)


@pytest.mark.parametrize("train, test", [("train", "test"), ("Train", "Test"), ("train", "val"), ("train", "valid"),
                                         ("train", "validation"), ("TRAIN", "VAL")])
def test_train_and_test(tmp_path, train, test):
    make(tmp_path, f"{train}/cat/1.jpg", f"{train}/dog/1.jpg", f"{test}/cat/1.jpg", f"{test}/dog/2.jpg")
    files, classes, has_test = found(tmp_path)
    assert classes == ("cat", "dog") and has_test
    assert [name for name, (_, tests) in files.items() if tests] == [f"{test}/cat/1.jpg", f"{test}/dog/2.jpg"]
    assert {name for name, (label, _) in files.items() if label == "cat"} == {f"{train}/cat/1.jpg", f"{test}/cat/1.jpg"}


def test_train_alone_holds_the_classes(tmp_path):
    files, classes, has_test = found(make(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg"))
    assert classes == ("cat", "dog") and not has_test and len(files) == 2


def test_a_train_may_be_a_class(tmp_path):
    assert found(make(tmp_path, "train/1.jpg", "bus/1.jpg", "test/1.jpg"))[1:] == (("bus", "test", "train"), False)


def test_hidden_files_and_what_systems_leave_do_not_count(tmp_path, capsys):
    make(tmp_path, "cat/1.jpg", "dog/1.jpg", ".git/x.jpg", "__MACOSX/cat/1.jpg", "cat/.hidden.jpg", "cat/Thumbs.db",
         "cat/thumbs.db", "dog/desktop.ini", "cat/.thumbnails/1.jpg", ".DS_Store", "desktop.ini")
    assert list(found(tmp_path)[0]) == ["cat/1.jpg", "dog/1.jpg"]
    assert capsys.readouterr().out == ""


def test_what_lies_beside_the_classes_is_named(tmp_path, capsys):
    make(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "train/loose.jpg", "LICENSE\x1b")
    assert len(found(tmp_path)[0]) == 2
    assert "lie 'loose.jpg'; they are left out" in capsys.readouterr().out


def test_a_file_is_known_by_size_and_time(tmp_path):
    make(tmp_path, "cat/1.jpg", "dog/1.jpg")
    before = find_pictures(str(tmp_path))[0]
    assert find_pictures(str(tmp_path))[0] == before and before[0].size == len("cat/1.jpg")
    os.utime(tmp_path / "cat/1.jpg", ns=(5, 5))
    assert find_pictures(str(tmp_path))[0][0] == before[0]._replace(changed=5)


def test_one_file_may_be_in_two_classes(tmp_path):
    make(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "dog/1.jpg").write_bytes((tmp_path / "cat/1.jpg").read_bytes())
    assert len(found(tmp_path)[0]) == 2


# ------------------------------------------------------------------------------------------ odd names, links
@pytest.mark.skipif(os.name != "posix", reason="Windows has no such names")
def test_odd_names_become_harmless_ones(tmp_path):
    odd = ["new\nline", "\x1b[31mred", "\u202eright to left", "ünïcödé", "名前", "a'b\"c $x$", "%s {0}",
           os.fsdecode(b"\xff\xfe")]
    make(tmp_path, *(f"{name}/{name}.jpg" for name in odd))
    files, classes, _ = find_pictures(str(tmp_path))
    assert all(name.isprintable() for name in classes) and len(set(classes)) == len(odd)
    assert {"new\\nline", "\\x1b[31mred", "ünïcödé", "名前", "a'b\"c $x$", "\\udcff\\udcfe"} < set(classes)
    for file in files:
        assert (tmp_path / file.name).read_bytes().decode("utf-8", "surrogateescape") == file.name
        assert classes[file.label] in ascii(file.name).encode().decode("unicode_escape") or "\\" in classes[file.label]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such names")
def test_two_classes_that_look_alike_are_refused(tmp_path):
    make(tmp_path, "a\n/1.jpg", "a\\n/1.jpg", "b/1.jpg")
    assert "two folders whose names look the same on the screen; rename one" in refusal(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="links need a right on Windows")
def test_links_to_files_and_classes_are_followed_and_no_others(tmp_path):
    photos = make(tmp_path / "photos", "cat/1.jpg", "dog/")
    make(tmp_path, "elsewhere/1.jpg", "elsewhere/sub/2.jpg")
    (photos / "fox").symlink_to(tmp_path / "elsewhere")
    (photos / "dog/linked.jpg").symlink_to(tmp_path / "elsewhere/1.jpg")
    (photos / "dog/nowhere.jpg").symlink_to("nowhere")
    (photos / "dog/itself").symlink_to("itself")
    (photos / "dog/round").symlink_to(photos)
    (photos / "dog/there").symlink_to(photos / "cat")
    files, classes, _ = find_pictures(str(photos))
    problems = {file.name: file.problem for file in files}
    assert classes == ("cat", "dog", "fox")
    assert [name for name, problem in problems.items() if not problem] == [
        "cat/1.jpg", "dog/linked.jpg", "fox/1.jpg", "fox/sub/2.jpg"]
    assert "link to a folder" in problems["dog/round"] and "link to a folder" in problems["dog/there"]
    assert "No such file" in problems["dog/nowhere.jpg"] and "symbolic link" in problems["dog/itself"]


@pytest.mark.skipif(os.name != "posix", reason="chmod hides nothing on Windows")
def test_a_folder_or_file_without_permission_is_named(capsys):
    with open_folder() as root:
        make(root, "cat/1.jpg", "cat/private/2.jpg", "dog/1.jpg", "dog/2.jpg")
        with forbidden(root / "cat/private"):
            problems = {file.name: file.problem for file in find_pictures(str(root))[0]}
        assert "Permission denied" in problems["cat/private"] and not problems["cat/1.jpg"]
        with forbidden(root / "dog/2.jpg"):
            assert [file.problem for file in find_pictures(str(root))[0]] == ["", "", "", "Permission denied"]
        with forbidden(root):
            assert "can't be listed: Permission denied" in refusal(root)


# ------------------------------------------------------------------------------------------ what is no such folder
@pytest.mark.parametrize("names, says", [
    ([], "has no folders in it; at least two classes are needed. A folder of pictures has one folder per class"),
    (["1.jpg", "2.jpg"], "has no folders in it"),
    (["cat/1.jpg"], "has one class only, 'cat'; at least two"),
    (["train/cat/1.jpg", "test/cat/1.jpg"], "has one class only, 'cat'"),
    (["train/cat/1.jpg", "train/dog/1.jpg", "train/emu/1.jpg", "test/cat/1.jpg", "test/gnu/1.jpg"],
     "train/ and test/ must have the same classes, but only train/ has 'dog', 'emu' and only test/ has 'gnu'; make or"),
    (["train/cat/1.jpg", "train/dog/1.jpg", "test/1.jpg"], "but only train/ has 'cat', 'dog'; make or move folders"),
    (["train/cat/1.jpg", "train/dog/1.jpg", "extra/1.jpg", "test/cat/1.jpg"], "has 'extra' beside train/ with its"),
    (["train/cat/1.jpg", "train/dog/1.jpg", "test/cat/1.jpg", "val/cat/1.jpg"], "has 'test', 'val' beside train/;"),
    ([f"train/{k}/1" for k in range(9)] + ["test/9/1"], "only train/ has '0', '1', '2', '3', '4' and 4 more and only"),
])
def test_what_is_wrong_with_a_folder_is_said(tmp_path, names, says):
    assert says in refusal(make(tmp_path, *names))


def test_what_is_no_folder_at_all(tmp_path):
    (tmp_path / "file").touch()
    for name, says in (("", "DATA_DIR is empty. A folder of pictures has"), (tmp_path / "file", "is no folder "),
                       (tmp_path / "none\n\x1b", "none\\n\\x1b' is no folder here. A folder"), ("\0", "is no folder")):
        assert says in refusal(name)
