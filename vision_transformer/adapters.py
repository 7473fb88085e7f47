"""Adapters: the GPUs that DirectML finds on this machine, and which of them DML_VISIBLE_DEVICES selects.

TensorFlow isn't imported here: its plugin reads the variable while it loads, and stops without a word at the first
entry that it can't use. No function tells the adapters' names either: a second Python is asked, and its log is read.

Source: microsoft/tensorflow-directml-plugin 0.4.0, tfdml/core: dml_adapter_impl.cc (how the variable is read, each
entry by absl's SimpleAtoi) and dml_device_cache.cc (what is logged).
"""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import Iterable, Mapping, NamedTuple, Sequence

from .installation import PLUGIN, version_of

VARIABLE = "DML_VISIBLE_DEVICES"
DEFAULT = "0"                                           # what scripts and commands take where the user set nothing
SPACE = " \t\n\v\f\r"                                   # absl's; Python's strip() alone would take more

QUESTION = """
import json, sys
def tell(**facts):
    print(json.dumps(facts), flush=True)
try:
    import tensorflow as tf
    from tensorflow import keras
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    gpus = [detail.get("device_name", "name unknown") for detail in details]
    tell(tensorflow=tf.__version__, keras=keras.__version__, gpus=gpus)
    if "DML" in gpus:
        tf.config.list_logical_devices("GPU")           # makes the devices; the plugin logs their names
except Exception as error:
    tell(failure=f"{type(error).__name__}: {error}")
"""


class Adapter(NamedTuple):
    """A GPU that DirectML can use; name and driver are "" where the log doesn't tell them."""

    number: int
    name: str = ""
    driver: str = ""

    def __str__(self) -> str:
        """Number and name, for a list."""
        return f"{self.number} ({self.name or 'name unknown'})"


class Answer(NamedTuple):
    """What a second Python found."""

    tensorflow: str = ""                    # its version; "" where it can't be imported
    keras: str = ""
    gpus: Sequence[str] = ()                # TensorFlow's names; it calls each of the plugin's "DML"
    adapters: Sequence[Adapter] = ()
    directml: bool | None = None            # whether it could be loaded; None where nothing tried to
    failure: str = ""                       # the exception, or the last line of the log and how the process ended
    log: str = ""


# ------------------------------------------------------------------------------------------ what there is
def list_adapters(time_limit: float = 120.0) -> Answer:
    """All adapters of this machine, by the numbers that DML_VISIBLE_DEVICES takes, whatever it says now."""
    return ask_tensorflow({name: value for name, value in os.environ.items() if name != VARIABLE}, time_limit)


def ask_tensorflow(environment: Mapping[str, str], time_limit: float) -> Answer:
    """What TensorFlow finds when a second Python imports it in this environment, within `time_limit` seconds."""
    logs_all = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "logging=1"}     # the latter for drivers' versions
    try:
        child = subprocess.run([sys.executable, "-c", QUESTION], env={**environment, **logs_all}, timeout=time_limit,
                               stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace",
                               check=False)
    except subprocess.TimeoutExpired:
        return Answer(failure=f"no answer within {time_limit:g} seconds")
    except OSError as error:
        return Answer(failure=str(error))
    facts = {}
    for line in child.stdout.splitlines():
        if line.startswith(('{"tensorflow"', '{"failure"')):        # others are of the user's sitecustomize
            facts.update(json.loads(line))
    if child.returncode or not facts:
        facts["failure"] = _how_it_ended(child.stderr, child.returncode)
    adapters, directml = parse_log(child.stderr)
    return Answer(**facts, adapters=adapters, directml=directml, log=child.stderr)


def parse_log(log: str) -> tuple[list[Adapter], bool | None]:
    """The plugin's log -> the adapters it found, and whether DirectML was loaded (None: there is no plugin)."""
    names, drivers, number, directml = {}, {}, 0, None
    for line in log.splitlines():
        found = re.search(r"DirectML device enumeration: found (\d+) compatible", line)
        if found:
            directml = directml is None             # logged in any case, after the complaint if there is one
            names = dict.fromkeys(range(int(found[1])), "")
        elif "Could not load DirectML." in line:
            directml = False
        found = (re.search(r"DirectML adapter (\d+): (.*)", line)
                 or re.search(r"DirectML: creating device on adapter (\d+) \((.*)\)", line))
        if found:
            number = int(found[1])
            names[number] = found[2].strip("\0" + SPACE)
        found = re.search(r" {4}Driver: ([\d.]+)", line)
        if found:
            drivers[number] = found[1]
    return [Adapter(number, names[number], drivers.get(number, "")) for number in sorted(names)], directml


def _how_it_ended(log: str, code: int) -> str:
    """The last line of a log without its time and place, and what stopped the process."""
    last = ([""] + [line for line in log.splitlines() if line.strip()])[-1]
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code if code < 256 else f'0x{code:08X}'}"
    return f"{re.sub(r'^.*?: [IWEF] .*?] ', '', last)} ({how})".lstrip()


# ------------------------------------------------------------------------------------------ what is selected
def selected(value: str | None, count: int) -> list[int]:
    """Which of `count` adapters a value of DML_VISIBLE_DEVICES selects (None: unset), in the plugin's order.

    TensorFlow calls the first of them GPU:0. The plugin takes numbers until the first entry that is none.
    """
    return _read(value, count)[0]


def _read(value: str | None, count: int) -> tuple[list[int], list[str]]:
    """The selected adapters, and the entries from the first unusable one on."""
    if not value:
        return list(range(count)), []
    numbers, entries = [], value.split(",")
    for i, entry in enumerate(entries):
        number = _number(entry)
        if number is None or number >= count:
            return numbers, entries[i:]
        numbers.append(number)
    return numbers, []


def _number(entry: str) -> int | None:
    """A 32-bit unsigned number as absl reads it: space around it, a plus sign and zeros before it are allowed."""
    digits = re.fullmatch(r"\+?0*([0-9]{1,10})", entry.strip(SPACE))
    return int(digits[1]) if digits and int(digits[1]) < 2 ** 32 else None


def is_negative(value: str | None) -> bool:
    """Tells whether the first entry is a negative number: the usual way to ask for no GPU, so no mistake."""
    return bool(re.fullmatch(r"-[0-9]+", (value or "").split(",")[0].strip(SPACE)))


def is_malformed(value: str | None) -> bool:
    """Tells whether the first entry is no number at all: such a value selects nothing on any machine."""
    return bool(value) and not is_negative(value) and _number(value.split(",")[0]) is None


def explain(value: str | None, adapters: Sequence[Adapter]) -> str:
    """What a value of DML_VISIBLE_DEVICES selects among all adapters, and why where that may surprise."""
    numbers, unread = _read(value, len(adapters))
    said = value or ("not set, which" if value is None else "empty, which")
    if is_negative(value):
        return f"{said} selects nothing, which means the CPU"
    if not adapters and not is_malformed(value):
        return f"{said} selects nothing: there is no DirectML adapter"
    if not numbers:
        return f"{said} selects nothing: {_objection(unread[0])}"
    text = f"{said} selects {_list(adapters[number] for number in numbers)}"
    if unread:
        text += f"; the plugin reads no further than {unread[0]!r}: {_objection(unread[0])}"
    if len(numbers) > len(set(numbers)):
        text += "; TensorFlow takes an adapter that is named twice for two GPUs"
    if len(numbers) > 1:
        text += f"; trainings use only the first, adapter {numbers[0]}"
    return text


def _objection(entry: str) -> str:
    """Why the plugin can't use an entry."""
    if not entry.strip(SPACE):
        return "an empty entry ends the list"
    if is_negative(entry):
        return "a negative number ends the list"
    number = _number(entry)
    return f"{entry!r} is no adapter's number" if number is None else f"there is no adapter {number}"


def _list(adapters: Iterable[Adapter]) -> str:
    """Adapters in a sentence: adapters 0 (NVIDIA TITAN V) and 1 (AMD Radeon)."""
    names = [str(adapter) for adapter in adapters]
    return f"adapter{'s' * (len(names) > 1)} {' and '.join(names)}"


def complaint(value: str, adapters: Sequence[Adapter]) -> str:
    """One line about a value that selects nothing by mistake: what there is, and what to type instead."""
    numbers = "".join(f"{adapter.number}, " for adapter in adapters)
    return (f"{VARIABLE}={value} selects no GPU: {_objection(value.split(',')[0])}. "
            f"This machine has {_list(adapters) if adapters else 'no DirectML adapter'}; "
            f"set {VARIABLE} to {numbers}{'or ' if adapters else ''}-1 for the CPU.")


def check_choice(value: str | None, time_limit: float = 60.0) -> None:
    """Refuses a value of DML_VISIBLE_DEVICES that selects nothing by mistake.

    Costs nothing where the value begins with 0 or a negative number, or TensorFlow is loaded and sees a GPU. Else a
    second Python is asked, which takes seconds.

    Raises:
        ValueError: the value is no adapter's number, or too high a one; names the adapters.
    """
    if not value or is_negative(value) or _number(value.split(",")[0]) == 0 or not version_of(PLUGIN):
        return
    if "tensorflow" in sys.modules:
        gpus = sys.modules["tensorflow"].config.list_physical_devices("GPU")
    else:
        gpus = () if is_malformed(value) else ask_tensorflow({**os.environ, VARIABLE: value}, time_limit).gpus
    if not gpus:
        adapters = list_adapters(time_limit).adapters
        if adapters or is_malformed(value):
            raise ValueError(complaint(value, adapters))
