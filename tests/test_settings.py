"""Settings: constants read from a script's source, each of them a flag."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vision_transformer.settings import nearest, read_constants, read_settings, run_script

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = '''"""Train a model on pictures.

A second paragraph that --help leaves out.
"""
import os

os.environ.setdefault("SOME_VARIABLE", "1")

# --- model ---
PATCH_SIZE = 4             # side of a square patch, pixels
POOL = "flatten"           # how tokens become features: flatten, cls or mean
# a remark on its own line, no heading

# --- run ----------------------------
DETERMINISTIC = False      # bit-equal runs on one machine
VERBOSE = True             # one line per epoch
LEARNING_RATE = 0.001      # Adam's, at most 5 % off – see ≤ § 3
LAST_LAYER = -3            # counted from the end
OFFSET = -0.25             # added to every logit
EPOCHS = 100               # passes over the training set
RESUME = ""                # folder of a run to continue

_HIDDEN = object()
small = [1, 2, 3]


def main():
    # --- not a group ---
    INSIDE = 7
    return INSIDE


class Thing:
    INSIDE = 11


raise SystemExit("the script was executed")
'''
DEFAULTS = {"PATCH_SIZE": 4, "POOL": "flatten",
            "DETERMINISTIC": False, "VERBOSE": True, "LEARNING_RATE": 0.001, "LAST_LAYER": -3,
            "OFFSET": -0.25, "EPOCHS": 100, "RESUME": ""}


@pytest.fixture
def script(tmp_path):
    return write(tmp_path, SCRIPT)


def write(folder, source, encoding="utf-8"):
    path = folder / "train_pictures.py"
    path.write_bytes(source.encode(encoding))
    return path


def refused(script, arguments, capsys):
    """The one line on stderr with which these arguments are refused."""
    with pytest.raises(SystemExit) as stop:
        read_settings(script, arguments)
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    return err.rstrip("\n")


# ---------------------------------------------------------------------------------------- reading the script
def test_defaults_come_in_the_scripts_order_and_nothing_is_given(script):
    settings = read_settings(script, [])
    # repr, because it shows the order, and 1 == True == 1.0
    assert repr(settings.as_dict()) == repr(DEFAULTS)
    assert settings.PATCH_SIZE == 4
    assert settings.given == frozenset()
    assert json.loads(json.dumps(settings.as_dict())) == DEFAULTS


def test_meanings_and_groups(script):
    description, constants = read_constants(str(script))
    assert description == "Train a model on pictures."
    assert [constant.group for constant in constants] == ["model"] * 2 + ["run"] * 7
    assert constants[1].meaning == "how tokens become features: flatten, cls or mean"
    assert constants[4].meaning == "Adam's, at most 5 % off – see ≤ § 3"
    assert constants[4].flag == "--learning-rate"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_line_ends_and_byte_order_mark_change_nothing(tmp_path, line_end, encoding, script):
    expected = read_constants(script)
    assert read_constants(write(tmp_path, SCRIPT.replace("\n", line_end), encoding)) == expected


@pytest.mark.parametrize("source, constant", [
    ("X = 4  # before any heading", ("X", 4, "before any heading", "settings")),
    ("# ---a b---\nX = 'p' 'q'  # two parts", ("X", "pq", "two parts", "a b")),
    ("X = ('p'  # first\n     'q')  # over two lines", ("X", "pq", "over two lines", "settings")),
    ("X = '# --- no ---'  # a text with #", ("X", "# --- no ---", "a text with #", "settings")),
    ("X = 1e-3  #meaning without a space  ", ("X", 0.001, "meaning without a space", "settings")),
    ("X = +7  # signed", ("X", 7, "signed", "settings")),
])
def test_ways_to_write_a_constant(tmp_path, source, constant):
    assert read_constants(write(tmp_path, source))[1] == [constant]


@pytest.mark.parametrize("source, shown", [
    ("''", '""'), ("'größe'", '"größe"'), ("True", "true"), ("1e-5", "1e-05"), ("-3", "-3"),
])
def test_defaults_are_shown_as_they_are_typed_or_quoted(tmp_path, source, shown):
    assert read_constants(write(tmp_path, f"X = {source}  # some value"))[1][0].shown == shown


def test_a_script_without_docstring_or_constants(tmp_path):
    assert read_constants(write(tmp_path, "import os\n__all__ = []\n")) == ("", [])


@pytest.mark.parametrize("line", [
    "BAD = 3 * 5  # computed", "BAD = len('abc')  # computed", "BAD = [1, 2]  # a list",
    "BAD = None  # nothing", "BAD = b'abc'  # bytes", "BAD = 3j  # complex",
    "BAD = {[]: 1}  # no value at all", "BAD: int = 3  # annotated",
    "BAD, other = 3, 5  # two at once", "other = BAD = 3  # two names", "BAD += 3  # changed",
    "for BAD in (3, 5): pass  # a loop", "if small:\n    BAD = 3  # only sometimes",
    "try:\n    pass\nexcept OSError:\n    BAD = 3  # only sometimes",
])
def test_a_constant_that_is_no_literal_is_refused_by_name(tmp_path, line):
    with pytest.raises(ValueError, match=r"train_pictures\.py, line 2: BAD is no flag unless"):
        read_constants(write(tmp_path, f"GOOD = 3  # fine\n{line}\n"))


@pytest.mark.parametrize("line", ["BAD = 3", "BAD = 3  #", "BAD = '# a text'", "# above\nBAD = 3\n# below"])
def test_a_constant_without_a_meaning_is_refused_by_name(tmp_path, line):
    with pytest.raises(ValueError, match=r"line \d: BAD has no meaning; say it in a comment"):
        read_settings(write(tmp_path, f"GOOD = 3  # fine\n{line}\n"), [])


def test_a_constant_set_twice_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="line 2: BAD is already set above"):
        read_constants(write(tmp_path, "BAD = 3  # first\nBAD = 5  # second\n"))


# ---------------------------------------------------------------------------------------- flags
@pytest.mark.parametrize("name, text, value", [
    ("PATCH_SIZE", "7", 7), ("PATCH_SIZE", "-7", -7), ("PATCH_SIZE", "0", 0),
    ("LEARNING_RATE", "1e-3", 0.001), ("LEARNING_RATE", "-1e-3", -0.001), ("LEARNING_RATE", "3", 3.0),
    ("LEARNING_RATE", "-.5", -0.5), ("OFFSET", "0", 0.0),
    *[("DETERMINISTIC", text, True) for text in ("true", "yes", "on", "1", "True", "YES")],
    *[("VERBOSE", text, False) for text in ("false", "no", "off", "0", "False", "OFF")],
    ("POOL", "cls", "cls"), ("POOL", "3", "3"), ("POOL", "two words", "two words"), ("POOL", "-3", "-3"),
    ("POOL", "größe", "größe"), ("RESUME", "", ""),
    ("RESUME", r"C:\runs\cifar10-003", r"C:\runs\cifar10-003"),
])
@pytest.mark.parametrize("joined", [False, True])
def test_a_flag_overrides_its_constant_alone(script, name, text, value, joined):
    flag = "--" + name.lower().replace("_", "-")
    settings = read_settings(script, [f"{flag}={text}"] if joined else [flag, text])
    assert repr(settings.as_dict()) == repr({**DEFAULTS, name: value})
    assert settings.given == {name}


def test_given_holds_what_was_typed_even_when_it_equals_the_default(script):
    settings = read_settings(script, ["--resume", "runs/cifar10-003", "--epochs", "100", "--pool=a=b"])
    assert settings.given == {"RESUME", "EPOCHS", "POOL"}
    assert (settings.RESUME, settings.EPOCHS, settings.POOL) == ("runs/cifar10-003", 100, "a=b")


def test_what_is_below_a_heading_becomes_arguments(script):
    settings = read_settings(script, ["--pool", "cls"])
    assert settings.below("model") == {"patch_size": 4, "pool": "cls"}
    settings.PATCH_SIZE = 8                             # as a recipe or a resumed run may
    assert settings.below("model") == {"patch_size": 8, "pool": "cls"}
    assert settings.below("run").keys() == {name.lower() for name in DEFAULTS} - {"patch_size", "pool"}


def test_the_last_of_two_equal_flags_counts(script):
    assert read_settings(script, ["--epochs", "3", "--epochs", "5"]).EPOCHS == 5


def test_without_arguments_the_command_line_is_read(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["anything.py", "--epochs", "13"])
    assert read_settings(script).EPOCHS == 13


@pytest.mark.parametrize("arguments, message", [
    (["--epoch", "5"], "unknown flag --epoch; did you mean --epochs? (--help lists all)"),
    (["--epoch=5"], "unknown flag --epoch; did you mean --epochs? (--help lists all)"),
    (["--pool", "cls", "--epoch", "5", "--resume", "x"],
     "unknown flag --epoch; did you mean --epochs? (--help lists all)"),
    (["--patch_size", "5"], "unknown flag --patch_size; did you mean --patch-size? (--help lists all)"),
    (["--PATCH-SIZE", "5"], "unknown flag --PATCH-SIZE; did you mean --patch-size? (--help lists all)"),
    (["-epochs", "5"], "unknown flag -epochs; did you mean --epochs? (--help lists all)"),
    (["--lr", "5"], "unknown flag --lr (--help lists all)"),
    (["--inside", "5"], "unknown flag --inside (--help lists all)"),
    (["cls"], "'cls' belongs to no flag; write --name value (--help lists all)"),
    (["--pool", "cls", "mean"], "'mean' belongs to no flag; write --name value (--help lists all)"),
    (["--epochs"], "argument --epochs: expected one argument"),
    (["--epochs", "--pool", "cls"], "argument --epochs: expected one argument"),
    (["--epochs", "x"], "--epochs takes a whole number, not 'x' (default 100)"),
    (["--epochs", "1.5"], "--epochs takes a whole number, not '1.5' (default 100)"),
    (["--epochs", "1e3"], "--epochs takes a whole number, not '1e3' (default 100)"),
    (["--epochs="], "--epochs takes a whole number, not '' (default 100)"),
    (["--learning-rate", "fast"], "--learning-rate takes a number, not 'fast' (default 0.001)"),
    (["--learning-rate", "nan"], "--learning-rate takes a number, not 'nan' (default 0.001)"),
    (["--learning-rate=-inf"], "--learning-rate takes a number, not '-inf' (default 0.001)"),
    (["--learning-rate", "1e999"], "--learning-rate takes a number, not '1e999' (default 0.001)"),
    (["--deterministic", "2"], "--deterministic takes true or false, not '2' (default false)"),
    (["--verbose", ""], "--verbose takes true or false, not '' (default true)"),
])
def test_bad_arguments_are_refused_in_one_line(script, arguments, message, capsys):
    assert refused(script, arguments, capsys) == f"train_pictures.py: {message}"


@pytest.mark.parametrize("name, allowed, near", [
    ("epoch", ["epochs", "patience"], "epochs"), ("CLS", ["flatten", "cls", "mean"], "cls"),
    ("FLATEN", ["mean", "FLATTEN"], "FLATTEN"), ("zzz", ["flatten", "cls"], ""), ("cls", [], ""),
])
def test_nearest(name, allowed, near):
    assert nearest(name, iter(allowed)) == near


# ---------------------------------------------------------------------------------------- help and processes
HELP = """
model:
  --patch-size INT        side of a square patch, pixels (default 4)
  --pool STR              how tokens become features: flatten, cls or mean
                          (default "flatten")

run:
  --deterministic [BOOL]  bit-equal runs on one machine (default false)
  --verbose [BOOL]        one line per epoch (default true)
  --learning-rate FLOAT   Adam's, at most 5 % off – see ≤ § 3 (default 0.001)
  --last-layer INT        counted from the end (default -3)
  --offset FLOAT          added to every logit (default -0.25)
  --epochs INT            passes over the training set (default 100)
  --resume STR            folder of a run to continue (default "")
"""


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_flag_in_its_group_in_80_columns(script, flag, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as stop:
        read_settings(script, ["--epochs", "not a number", flag])
    text, err = capsys.readouterr()
    assert (stop.value.code, err) == (0, "")
    before, heading, flags = text.partition("\nmodel:\n")
    assert before.startswith("Train a model on pictures.\n\nopt") and "second paragraph" not in before
    assert heading + flags == HELP


@pytest.mark.parametrize("arguments, value", [(["--deterministic"], True), (["--deterministic", "--epochs", "3"], True),
                                              (["--deterministic", "no"], False)])
def test_a_true_or_false_flag_alone_means_true(script, arguments, value):
    assert read_settings(script, arguments).DETERMINISTIC is value


DEBUG = False


@pytest.mark.parametrize("error, code, says", [
    (ValueError("bad\n  value"), 2, "prog.py: bad value (--debug shows where)\n"),
    (FileNotFoundError(2, "No such file", "x"), 2, "prog.py: [Errno 2] No such file: 'x' (--debug shows where)\n"),
    (MemoryError(), 2, "prog.py: out of memory; lower BATCH_SIZE or the model's sizes (--debug shows where)\n"),
    (RuntimeError("it failed"), 1, "prog.py: it failed (--debug shows where)\n"),
    (KeyboardInterrupt(), 130, "prog.py: stopped\n"), (KeyboardInterrupt("why"), 130, "prog.py: why\n"),
])
def test_errors_become_one_line_and_an_exit_code(monkeypatch, capsys, error, code, says):
    def main():
        raise error
    monkeypatch.setattr(sys, "argv", [str(Path("somewhere") / "prog.py")])
    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert (stop.value.code, capsys.readouterr().err) == (code, says)
    if code != 130:
        for flags, shown in ((["--debug"], True), (["--debug", "--epochs=3"], True), (["--debug=yes"], True),
                             (["--debug", "False"], False), (["--debug=no"], False), (["--debugs"], False)):
            monkeypatch.setattr(sys, "argv", ["prog.py", *flags])
            with pytest.raises(type(error) if shown else SystemExit):
                run_script(main)
        monkeypatch.setattr(sys, "argv", ["prog.py"])
        monkeypatch.setitem(globals(), "DEBUG", True)
        with pytest.raises(type(error)):
            run_script(main)


def test_a_programming_error_keeps_its_traceback():
    with pytest.raises(KeyError):
        run_script(lambda: {}["no such key"])


@pytest.mark.parametrize("result, code", [(None, None), (0, 0), (1, 1)])
def test_main_decides_the_exit_code(result, code):
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: result)
    assert stop.value.code == code


def run(folder, *arguments, encoding="utf-8"):
    """A script of its own process that prints its settings, or how it refuses to."""
    source = SCRIPT.replace('raise SystemExit("the script was executed")',
                            "import json\nfrom vision_transformer.settings import read_settings\n"
                            "settings = read_settings(__file__)\n"
                            "print(json.dumps([settings.as_dict(), sorted(settings.given)]))")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "COLUMNS": "80"}
    return subprocess.run([sys.executable, str(write(folder, source)), *arguments], env=environment,
                          capture_output=True, encoding=encoding, check=False)


def test_a_script_reads_its_own_settings(tmp_path):
    done = run(tmp_path, "--patch-size", "7", "--pool", "cls", "--learning-rate", "-1e-3")
    assert json.loads(done.stdout) == [{**DEFAULTS, "PATCH_SIZE": 7, "POOL": "cls", "LEARNING_RATE": -0.001},
                                       ["LEARNING_RATE", "PATCH_SIZE", "POOL"]]


def test_a_script_exits_with_2_on_a_bad_flag(tmp_path):
    done = run(tmp_path, "--epoch", "5")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "train_pictures.py: unknown flag --epoch; did you mean --epochs? (--help lists all)"]


def test_help_survives_an_output_that_lacks_a_letter(tmp_path):
    done = run(tmp_path, "--help", encoding="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "at most 5 % off ? see ? ? 3" in " ".join(done.stdout.split())
