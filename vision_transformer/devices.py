"""Devices: what runs the training, and the versions of what it runs on."""

from __future__ import annotations

import os
import platform

import numpy as np
import tensorflow as tf
from tensorflow import keras

from .adapters import VARIABLE, ask_tensorflow, is_negative
from .installation import PLUGIN, cpu_name, version_of


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
    cpu = f"training on the CPU ({cpu_name()}, {os.cpu_count()} logical cores)"
    if is_negative(os.environ.get(VARIABLE)):
        return f"{cpu}, as {VARIABLE}={os.environ[VARIABLE]} wants"
    if version_of(PLUGIN):
        return f"no DirectML adapter was found{_directml_choice()}: {cpu}"
    return (f"no GPU was found: {cpu}\n{PLUGIN} is not installed: it needs Python 3.10 on x86-64 Windows or"
            " Linux, where pip install -r requirements.txt brings it; see README")


def _directml_choice() -> str:
    """How the user chose adapters; shown because the plugin drops a number it cannot use without a word."""
    chosen = os.environ.get(VARIABLE)
    return f" ({VARIABLE}={chosen})" if chosen else ""


def adapter_names(time_limit: float = 60.0) -> dict[int, str]:
    """TensorFlow's GPU number -> name of its DirectML adapter; {} when not known within `time_limit` seconds.

    A second Python is asked, with the same DML_VISIBLE_DEVICES and thus the same numbers.
    """
    answer = ask_tensorflow(os.environ, time_limit)
    if answer.failure:                                       # a name is a nicety: training starts without
        return {}
    return {adapter.number: adapter.name for adapter in answer.adapters if adapter.name}


def versions() -> dict[str, str]:
    """Name -> version of everything whose change may change a result; "" where it is not installed."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        PLUGIN: version_of(PLUGIN),
    }
