"""Devices: what runs the training, and the versions of what it runs on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow import keras

PLUGIN = "tensorflow-directml-plugin"
LIST_DEVICES = "import tensorflow as tf; tf.config.list_logical_devices('GPU')"


def describe_device() -> str:
    """The first visible GPU, else the CPU, in one line; a second line says what else is there or missing."""
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return _describe_cpu()
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    kinds = [detail.get("device_name", "name unknown") for detail in details]
    adapters = adapter_names() if "DML" in kinds else {}
    first, *others = [_describe_gpu(gpu, kind, adapters) for gpu, kind in zip(gpus, kinds)]
    choice = _directml_choice() if kinds[0] == "DML" else ""
    return first + choice + ("\nalso visible: " + ", ".join(others) if others else "")


def _describe_gpu(gpu: tf.config.PhysicalDevice, kind: str, adapters: dict[int, str]) -> str:
    number = int(gpu.name.rpartition(":")[2])                # "/physical_device:GPU:0" -> 0
    if kind != "DML":                                        # the plugin calls each of its GPUs so
        return f"GPU {number}: {kind}"
    return f"DirectML GPU {number}" + (f": {adapters[number]}" if number in adapters else "")


def _describe_cpu() -> str:
    cpu = f"training on the CPU ({_cpu_name()}, {os.cpu_count()} logical cores)"
    if _version(PLUGIN):
        return f"no DirectML adapter was found{_directml_choice()}: {cpu}"
    return (f"no GPU was found: {cpu}\n{PLUGIN} is not installed: it needs Python 3.10 on x86-64 Windows or"
            " Linux, where pip install -r requirements.txt brings it; see README")


def _directml_choice() -> str:
    """How the user chose adapters; shown because the plugin drops a number it cannot use without a word."""
    chosen = os.environ.get("DML_VISIBLE_DEVICES")
    return f" (DML_VISIBLE_DEVICES={chosen})" if chosen else ""


def _cpu_name() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:                                          # only Linux has this file, and needs it
        facts = ""
    found = re.search(r"^model name\s*:\s*(.+)$", facts, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def adapter_names(time_limit: float = 60.0) -> dict[int, str]:
    """TensorFlow's GPU number -> name of its DirectML adapter; {} when not known within `time_limit` seconds.

    No function tells the names, but the plugin logs them when it creates its devices. So a second Python
    creates them too, with the same DML_VISIBLE_DEVICES and thus the same numbers, and its log is read.

    Source: microsoft/tensorflow-directml-plugin, dml_device_cache.cc, GetOrCreateDeviceState.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-c", LIST_DEVICES], env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            encoding="utf-8", errors="replace", timeout=time_limit, check=True)
    except (OSError, subprocess.SubprocessError):            # a name is a nicety: training starts without
        return {}
    return _parse_adapter_names(child.stderr)


def _parse_adapter_names(log: str) -> dict[int, str]:
    found = re.findall(r"DirectML: creating device on adapter (\d+) \((.*)\)", log)
    return {int(number): name.strip("\0 ") for number, name in found}


def versions() -> dict[str, str]:
    """Name -> version of everything whose change may change a result; "" where it is not installed."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        PLUGIN: _version(PLUGIN),
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
