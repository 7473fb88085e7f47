"""Devices: the lines a training begins with, and the versions its run records. No GPU is needed here."""

import json
import os
import platform
import re
import sys
from importlib import metadata

import pytest
import tensorflow as tf

from vision_transformer import devices
from vision_transformer.adapters import Adapter, Answer

TITAN, RADEON = "NVIDIA TITAN V", "AMD Radeon RX 5700 XT"
INTEL = "Intel(R) UHD Graphics 770 (Alder Lake)"
CPU = "training on the CPU (AMD Ryzen 7, 13 logical cores)"


def installed():
    """The name of every installed distribution -> its version."""
    found = [(each.metadata["Name"], each.version) for each in metadata.distributions()]
    return {name.lower().replace("_", "-"): version for name, version in found}


@pytest.fixture
def machine(monkeypatch):
    """Makes TensorFlow see these GPUs {number: device_name}, with a known CPU, plugin and environment."""
    def pretend(gpus, plugin="0.4.0", chosen=None):
        found = [tf.config.PhysicalDevice(f"/physical_device:GPU:{number}", "GPU") for number in gpus]
        details = {gpu.name: {"device_name": name} if name else {} for gpu, name in zip(found, gpus.values())}
        monkeypatch.setattr(tf.config, "get_visible_devices", {"GPU": found}.__getitem__)
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details[gpu.name])
        monkeypatch.setattr(devices, "version_of", {"tensorflow-directml-plugin": plugin}.__getitem__)
        monkeypatch.setattr(devices, "cpu_name", lambda: "AMD Ryzen 7")
        monkeypatch.setattr(os, "cpu_count", lambda: 13)
        monkeypatch.delenv("DML_VISIBLE_DEVICES", raising=False)
        if chosen is not None:
            monkeypatch.setenv("DML_VISIBLE_DEVICES", chosen)
    return pretend


# ---------------------------------------------------------------------------------------- the device
@pytest.mark.parametrize("gpus, names, chosen, text", [
    ([0], {0: TITAN}, "0", f"DirectML GPU 0: {TITAN} (DML_VISIBLE_DEVICES=0)"),
    ([0], {0: RADEON}, "1", f"DirectML GPU 0: {RADEON} (DML_VISIBLE_DEVICES=1)"),
    ([0], {0: TITAN}, None, f"DirectML GPU 0: {TITAN}"),
    ([0], {0: TITAN}, "", f"DirectML GPU 0: {TITAN}"),
    ([0], {}, "0", "DirectML GPU 0 (DML_VISIBLE_DEVICES=0)"),
    ([0, 1], {1: TITAN, 0: RADEON}, "1,0",
     f"DirectML GPU 0: {RADEON} (DML_VISIBLE_DEVICES=1,0)\nalso visible: DirectML GPU 1: {TITAN}"),
    ([1, 2, 3], {0: TITAN, 1: RADEON, 3: INTEL}, None,
     f"DirectML GPU 1: {RADEON}\nalso visible: DirectML GPU 2, DirectML GPU 3: {INTEL}"),
])
def test_a_directml_gpu_is_described_by_its_adapter(machine, monkeypatch, gpus, names, chosen, text):
    machine(dict.fromkeys(gpus, "DML"), chosen=chosen)
    monkeypatch.setattr(devices, "adapter_names", lambda: names)
    assert devices.describe_device() == text


@pytest.mark.parametrize("gpus, text", [
    ({0: "NVIDIA GeForce RTX 4090"}, "GPU 0: NVIDIA GeForce RTX 4090"),
    ({0: "NVIDIA A100", 1: "NVIDIA T4"}, "GPU 0: NVIDIA A100\nalso visible: GPU 1: NVIDIA T4"),
    ({0: None}, "GPU 0: name unknown"),
])
def test_another_gpu_is_described_by_tensorflows_name(machine, monkeypatch, gpus, text):
    machine(gpus, plugin="", chosen="0")
    monkeypatch.delattr(devices, "adapter_names")   # only a DirectML GPU is worth a second Python
    assert devices.describe_device() == text


@pytest.mark.parametrize("plugin, chosen, text", [
    ("0.4.0", None, f"no DirectML adapter was found: {CPU}"),
    ("0.4.0", "0", f"no DirectML adapter was found (DML_VISIBLE_DEVICES=0): {CPU}"),
    ("0.4.0", "-1", f"{CPU}, as DML_VISIBLE_DEVICES=-1 wants"),
    ("", "0", f"no GPU was found: {CPU}\n"
              "tensorflow-directml-plugin is not installed: it needs Python 3.10 on x86-64 Windows or Linux, "
              "where pip install -r requirements.txt brings it; see README"),
])
def test_without_a_gpu_the_cpu_is_described(machine, plugin, chosen, text):
    machine({}, plugin, chosen)
    assert devices.describe_device() == text


def test_describe_device_on_this_machine():
    gpus, plugin = tf.config.list_physical_devices("GPU"), "tensorflow-directml-plugin" in installed()
    text = devices.describe_device()
    cpu = re.match(rf"no (.+) was found.*: training on the CPU \(.+, {os.cpu_count()} logical cores\)", text)
    expected = ("DirectML adapter", False) if plugin else ("GPU", True)
    assert bool(cpu) != bool(gpus)
    assert gpus or (cpu[1], "is not installed" in text) == expected


# ---------------------------------------------------------------------------------------- adapter names
@pytest.mark.parametrize("failure, names", [("", {0: TITAN, 11: RADEON}), ("no answer within 60 seconds", {})])
def test_adapter_names_are_asked_with_the_same_choice_and_are_a_nicety(monkeypatch, failure, names):
    asked = []

    def answer(environment, time_limit):
        asked.append((environment["DML_VISIBLE_DEVICES"], time_limit))
        found = [Adapter(0, TITAN), Adapter(1), Adapter(11, RADEON)]
        return Answer(tensorflow="2.10.0", adapters=found, failure=failure)

    monkeypatch.setenv("DML_VISIBLE_DEVICES", "1,0")
    monkeypatch.setattr(devices, "ask_tensorflow", answer)
    assert devices.adapter_names(7.0) == names
    assert asked == [("1,0", 7.0)]


def test_this_machines_adapters_are_tensorflows_directml_gpus():
    gpus = tf.config.list_physical_devices("GPU")
    kinds = [tf.config.experimental.get_device_details(gpu).get("device_name") for gpu in gpus]
    assert list(devices.adapter_names()) == [number for number, kind in enumerate(kinds) if kind == "DML"]


# ---------------------------------------------------------------------------------------- versions
def test_versions():
    versions, known = devices.versions(), installed()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["platform"] == platform.platform()
    assert versions["tensorflow"] in (known.get("tensorflow"), known.get("tensorflow-cpu"))
    assert (versions["keras"], versions["numpy"]) == (known["keras"], known["numpy"])
    assert versions["tensorflow-directml-plugin"] == known.get("tensorflow-directml-plugin", "")
    assert json.loads(json.dumps(versions)) == versions
