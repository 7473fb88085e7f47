"""Adapters: how DML_VISIBLE_DEVICES is read, what is refused, and what a second Python's log tells. No GPU needed."""
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from vision_transformer import adapters
from vision_transformer.adapters import Adapter, Answer, check_choice, explain, parse_log, selected

ROOT = Path(__file__).parents[1]
TITAN, INTEL, RADEON = "NVIDIA TITAN V", "Intel(R) UHD Graphics 770 (Alder Lake)", "AMD Radeon RX 5700 XT"
ONE, TWO = [Adapter(0, TITAN)], [Adapter(0, TITAN), Adapter(1, INTEL)]
INFO = "2026-01-02 03:04:05.678901: I tensorflow/c/logging.cc:34] "
WARNING = INFO.replace(" I ", " W ")
FATAL = INFO.replace(" I ", " F ")


@pytest.mark.parametrize("module", ["adapters", "installation", "commands.doctor"])
def test_tensorflow_is_not_imported(module):
    code = f"import sys, vision_transformer.{module}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# ------------------------------------------------------------------------------------------ what is selected
@pytest.mark.parametrize("value, numbers", [            # as absl read them, compiled, with two adapters
    (None, [0, 1]), ("", [0, 1]), ("0", [0]), ("1", [1]), ("0,1", [0, 1]), ("1,0", [1, 0]), ("0,0", [0, 0]),
    ("-1", []), ("-0", []), ("0,-1,1", [0]), ("0,,1", [0]), ("0,", [0]), (",0", []), (",", []), (" ", []),
    ("a", []), ("0x1", []), ("1.0", []), ("GPU:0", []), ('"0"', []), ("'1'", []), ("0;1", []), ("1e0", []), ("1_0", []),
    ("99", []), ("2", []), ("0,99", [0]), ("1,2,0", [1]),
    (" 0 , 1 ", [0, 1]), ("\t1\r", [1]), ("+1", [1]), ("01", [1]), ("000000000000", [0]), ("+ 1", []), ("++1", []),
    ("+", []), ("1 0", []), ("0 1", []), ("\u00a00", []), ("\u0660", []), ("\u00b9", []),
    ("4294967295", []), ("4294967296", []), ("4294967297", []), ("9" * 5000, []), ("0" * 5000 + "1", [1]),
])
def test_selected(value, numbers):
    assert selected(value, 2) == numbers
    assert selected(value, 0) == []


def test_selected_among_many():
    assert selected("12,3", 13) == [12, 3]
    assert selected("13,3", 13) == []


@pytest.mark.parametrize("value, text", [
    ("0", f"0 selects adapter 0 ({TITAN})"),
    ("1", f"1 selects adapter 1 ({INTEL})"),
    (None, f"not set, which selects adapters 0 ({TITAN}) and 1 ({INTEL}); trainings use only the first, adapter 0"),
    ("", f"empty, which selects adapters 0 ({TITAN}) and 1 ({INTEL}); trainings use only the first, adapter 0"),
    ("1,0", f"1,0 selects adapters 1 ({INTEL}) and 0 ({TITAN}); trainings use only the first, adapter 1"),
    ("0,,1", f"0,,1 selects adapter 0 ({TITAN}); the plugin reads no further than '': an empty entry ends the list"),
    ("0,99", f"0,99 selects adapter 0 ({TITAN}); the plugin reads no further than '99': there is no adapter 99"),
    ("0,GPU:1", f"0,GPU:1 selects adapter 0 ({TITAN}); the plugin reads no further than 'GPU:1': 'GPU:1' is no "
                "adapter's number"),
    ("1,-1,0", f"1,-1,0 selects adapter 1 ({INTEL}); the plugin reads no further than '-1': a negative number ends "
               "the list"),
    ("0,0", f"0,0 selects adapters 0 ({TITAN}) and 0 ({TITAN}); TensorFlow takes an adapter that is named twice for "
            "two GPUs; trainings use only the first, adapter 0"),
    ("GPU:0", "GPU:0 selects nothing: 'GPU:0' is no adapter's number"),
    ("0x1", "0x1 selects nothing: '0x1' is no adapter's number"),
    ("a", "a selects nothing: 'a' is no adapter's number"),
    (",0", ",0 selects nothing: an empty entry ends the list"),
    ("99", "99 selects nothing: there is no adapter 99"),
    ("4294967295", "4294967295 selects nothing: there is no adapter 4294967295"),
    ("4294967296", "4294967296 selects nothing: '4294967296' is no adapter's number"),
    ("-1", "-1 selects nothing, which means the CPU"),
])
def test_explain_with_two_adapters(value, text):
    assert explain(value, TWO) == text


@pytest.mark.parametrize("value, found, text", [
    ("0", [], "0 selects nothing: there is no DirectML adapter"),
    ("99", [], "99 selects nothing: there is no DirectML adapter"),
    (None, [], "not set, which selects nothing: there is no DirectML adapter"),
    ("-1", [], "-1 selects nothing, which means the CPU"),
    ("GPU:0", [], "GPU:0 selects nothing: 'GPU:0' is no adapter's number"),
    (None, ONE, f"not set, which selects adapter 0 ({TITAN})"),
    ("1", ONE, "1 selects nothing: there is no adapter 1"),
    ("0", [Adapter(0)], "0 selects adapter 0 (name unknown)"),
])
def test_explain_with_fewer(value, found, text):
    assert explain(value, found) == text


# ------------------------------------------------------------------------------------------ what is refused
@pytest.fixture
def machine(monkeypatch):
    """Pretends adapters, a plugin and a TensorFlow (None: not imported); gives the values that are tried."""
    tried = []

    def pretend(found, plugin="0.4.0", tensorflow_sees=None):
        def ask(environment, time_limit):
            tried.append(environment.get("DML_VISIBLE_DEVICES"))
            gpus = ["DML" for _ in selected(tried[-1], len(found))]
            return Answer(tensorflow="2.10.0", adapters=found if tried[-1] is None else (), gpus=gpus)

        loaded = SimpleNamespace(config=SimpleNamespace(list_physical_devices=lambda kind: tensorflow_sees))
        monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
        if tensorflow_sees is not None:
            monkeypatch.setitem(sys.modules, "tensorflow", loaded)
        monkeypatch.setattr(adapters, "ask_tensorflow", ask)
        monkeypatch.setattr(adapters, "version_of", {"tensorflow-directml-plugin": plugin}.__getitem__)
        return tried
    return pretend


@pytest.mark.parametrize("found, plugin, tensorflow_sees, value", [
    (TWO, "0.4.0", None, None), (TWO, "0.4.0", None, ""), (TWO, "0.4.0", None, "0"), (TWO, "0.4.0", None, " +00 ,1"),
    (TWO, "0.4.0", None, "0,GPU:1"), ([], "0.4.0", None, "0"), (TWO, "0.4.0", None, "-1"), (TWO, "0.4.0", [], "-1,0"),
    (TWO, "", None, "GPU:0"), (TWO, "", [], "99"), (TWO, "0.4.0", ["GPU:0"], "1"),
])
def test_a_choice_that_is_right_costs_nothing(machine, found, plugin, tensorflow_sees, value):
    tried = machine(found, plugin, tensorflow_sees)
    check_choice(value)
    assert tried == []


@pytest.mark.parametrize("found, tensorflow_sees, value, asked", [
    (TWO, None, "1", ["1"]), (TWO, None, "1,99", ["1,99"]), ([], None, "1", ["1", None]), ([], [], "99", [None]),
])
def test_a_choice_that_may_be_wrong_is_tried(machine, found, tensorflow_sees, value, asked):
    tried = machine(found, tensorflow_sees=tensorflow_sees)
    check_choice(value)
    assert tried == asked


@pytest.mark.parametrize("tensorflow_sees", [None, []])
@pytest.mark.parametrize("found, value, text", [
    (TWO, "99", f"DML_VISIBLE_DEVICES=99 selects no GPU: there is no adapter 99. This machine has adapters 0 ({TITAN}) "
                f"and 1 ({INTEL}); set DML_VISIBLE_DEVICES to 0, 1, or -1 for the CPU."),
    (ONE, "1", f"DML_VISIBLE_DEVICES=1 selects no GPU: there is no adapter 1. This machine has adapter 0 ({TITAN}); "
               "set DML_VISIBLE_DEVICES to 0, or -1 for the CPU."),
    (ONE, ",0", f"DML_VISIBLE_DEVICES=,0 selects no GPU: an empty entry ends the list. This machine has adapter 0 "
                f"({TITAN}); set DML_VISIBLE_DEVICES to 0, or -1 for the CPU."),
    ([], "GPU:0", "DML_VISIBLE_DEVICES=GPU:0 selects no GPU: 'GPU:0' is no adapter's number. This machine has no "
                  "DirectML adapter; set DML_VISIBLE_DEVICES to -1 for the CPU."),
    ([], "a", "DML_VISIBLE_DEVICES=a selects no GPU: 'a' is no adapter's number. This machine has no DirectML adapter; "
              "set DML_VISIBLE_DEVICES to -1 for the CPU."),
])
def test_a_choice_of_nothing_by_mistake_is_refused(machine, found, tensorflow_sees, value, text):
    tried = machine(found, tensorflow_sees=tensorflow_sees)
    with pytest.raises(ValueError) as refused:
        check_choice(value)
    assert str(refused.value) == text
    assert tried == ([value, None] if value.isdigit() and tensorflow_sees is None else [None])


# ------------------------------------------------------------------------------------------ the log
LOG = f"""{INFO}Successfully opened dynamic library dxgi.dll
{INFO}DirectML device enumeration: found 3 compatible adapters.
{INFO}DirectML adapter 0: {TITAN}
{INFO}    VendorID: 0x000010de
{INFO}    DeviceID: 0x00001d81
{INFO}    Driver: 31.0.15.3623
{INFO}    IsComputeOnly: false
{INFO}DirectML adapter 1: {INTEL}
{INFO}    Driver: 30.0.101.1191
{INFO}NUMA node of adapter 5 (none)
{INFO}DirectML: creating device on adapter 0 ({TITAN})
{INFO}DirectML: creating device on adapter 1 ({INTEL})
{INFO}DirectML: creating device on adapter 11 ({RADEON}\0)
"""
ALL = [Adapter(0, TITAN, "31.0.15.3623"), Adapter(1, INTEL, "30.0.101.1191"), Adapter(2), Adapter(11, RADEON)]
NO_DIRECTML = (f"{WARNING}Could not load dynamic library 'libdirectml.so'; dlerror: libd3d12.so: cannot open\n"
               f"{WARNING}Could not load DirectML.\n{INFO}DirectML device enumeration: found 0 compatible adapters.\n")


@pytest.mark.parametrize("log, found, directml", [
    (LOG, ALL, True),
    (LOG.replace("\n", "\r\n"), ALL, True),
    (LOG.split("\n", 2)[2], [ALL[0], ALL[1], ALL[3]], None),
    (f"{INFO}DirectML device enumeration: found 2 compatible adapters.", [Adapter(0), Adapter(1)], True),
    (f"{INFO}DirectML device enumeration: found 0 compatible adapters.", [], True),
    (NO_DIRECTML, [], False),
    (NO_DIRECTML.replace("DirectML.", "DirectML. TF_DIRECTML_PATH is set: D:/x", 1), [], False),
    ("", [], None),
])
def test_parse_log(log, found, directml):
    assert parse_log(log) == (found, directml)


def question(monkeypatch, code):
    """Replaces what the second Python runs."""
    monkeypatch.setattr(adapters, "QUESTION", "import os, sys, time\n" + code)


TELL = """print('{"tensorflow": "2.10.0", "keras": "2.10.0", "gpus": ["DML"]}', flush=True)\n"""


def test_a_second_python_is_asked(monkeypatch):
    question(monkeypatch, f"print('{{noise')\n{TELL}sys.stderr.buffer.write({LOG.encode()!r})")
    assert adapters.list_adapters() == Answer("2.10.0", "2.10.0", ["DML"], ALL, True, "", LOG)


def test_a_name_in_another_encoding_does_no_harm(monkeypatch):
    question(monkeypatch, TELL + "sys.stderr.buffer.write(b'DirectML adapter 0: Gr\\xfcn \\xe2\\x84\\xa2\\r\\n')")
    assert adapters.list_adapters().adapters == [Adapter(0, "Gr\N{REPLACEMENT CHARACTER}n ™")]


@pytest.mark.parametrize("ask, choice", [
    (lambda: adapters.list_adapters(), None), (lambda: adapters.ask_tensorflow(os.environ, 60), "1,0")])
def test_the_second_python_logs_all(monkeypatch, ask, choice):
    monkeypatch.setenv("DML_VISIBLE_DEVICES", "1,0")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    question(monkeypatch, TELL + "print([os.environ.get(name) for name in ('DML_VISIBLE_DEVICES',"
                                 "'TF_CPP_MIN_LOG_LEVEL', 'TF_CPP_VMODULE')], file=sys.stderr)")
    assert ask().log.split("\n")[0] == str([choice, "0", "logging=1"])
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"


@pytest.mark.parametrize("code, failure", [
    ("sys.exit('last words\\n')", "last words (exit code 1)"),
    ("sys.exit(3)", "(exit code 3)"),
    (f"print({FATAL!r} + 'HRESULT failed with 0x1', file=sys.stderr); sys.exit(3)",
     "HRESULT failed with 0x1 (exit code 3)"),
    ("", "(exit code 0)"),
    ("""print('{"failure": "ImportError: no such thing"}')""", "ImportError: no such thing"),
    ("time.sleep(600)", "no answer within 0.5 seconds"),
])
def test_a_second_python_that_fails_says_how(monkeypatch, code, failure):
    question(monkeypatch, code)
    answer = adapters.list_adapters(time_limit=0.5 if "sleep" in code else 60)
    assert (answer.failure, answer.tensorflow) == (failure, "")


def test_one_that_stops_late_has_told_what_it_knew(monkeypatch):
    question(monkeypatch, TELL + f"sys.stderr.write({LOG.replace(chr(0), '')!r}); sys.stderr.flush(); os.abort()")
    answer = adapters.list_adapters()
    assert (answer.tensorflow, answer.adapters) == ("2.10.0", ALL)
    assert answer.failure.startswith("DirectML: creating device on adapter 11")


@pytest.mark.parametrize("code, how", [
    (-4, "signal SIGILL"), (0xC000001D, "exit code 0xC000001D"), (1, "exit code 1")])
def test_how_a_process_ended(code, how):
    assert adapters._how_it_ended("first\nlast\n\n", code) == f"last ({how})"


def test_without_a_second_python_there_is_no_answer(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    answer = adapters.list_adapters()
    assert "no-python" in answer.failure and not answer.adapters


def test_the_real_question_on_this_machine():
    answer = adapters.list_adapters()
    names = {distribution.metadata["Name"].lower().replace("_", "-") for distribution in metadata.distributions()}
    assert answer.failure == ""
    assert answer.tensorflow == metadata.version("tensorflow-cpu" if "tensorflow-cpu" in names else "tensorflow")
    assert answer.keras == metadata.version("keras")
    assert (answer.directml is not None) == ("tensorflow-directml-plugin" in names)
    assert len(answer.adapters) == answer.gpus.count("DML")
