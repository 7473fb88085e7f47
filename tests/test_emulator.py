"""The emulated DirectML device: adapters and log as the plugin's, ops on the CPU seen, every cost counted.

Run by .venv-emulator/bin/python -m pytest -m emulator; see emulator/README.md.
"""
import itertools
import os
import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from emulator import counters
from emulator.counters import count, cpu_ops

pytestmark = pytest.mark.emulator

BUILD = Path(__file__).parents[1] / "emulator" / "build.sh"
TITAN, INTEL = "NVIDIA TITAN V", "Intel(R) UHD Graphics 770"
BOTH = f"{TITAN};{INTEL}"
SPEC = tf.TensorSpec((5, 3))


def python(code, **environment):
    """Runs the code in another Python -> (what it printed, what it logged)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DML", "TF_CPP"))}
    child = subprocess.run([sys.executable, "-c", code], env={**kept, **environment}, check=False,
                           capture_output=True, encoding="utf-8")
    return child.stdout, child.stderr


def variable(value, dtype=tf.float32):
    with tf.device("/GPU:0"):
        return tf.Variable(tf.fill((5, 3), tf.cast(value, dtype)))


# ------------------------------------------------------------------------------------------ adapters and the log
# The library without TensorFlow's Python, whose import takes seconds ...
LIBRARY = """
import ctypes, os, sysconfig
site = sysconfig.get_path("purelib")
ctypes.CDLL(site + "/tensorflow/libtensorflow_framework.so.2", ctypes.RTLD_GLOBAL)
library = ctypes.CDLL(site + "/tensorflow-plugins/libdirectml_emulated.so")
"""
# ... and what that import calls, with room for the structures it fills in, once for each value.
ENUMERATE = LIBRARY + """
parameters, platform, functions = ((ctypes.c_void_p * 64)() for _ in range(3))
parameters[4], parameters[5] = map(ctypes.addressof, (platform, functions))
for value in %r:
    os.environ["DML_VISIBLE_DEVICES"] = value
    library.SE_InitPlugin(parameters, None)
"""
VISIBLE = [("", [0, 1]), ("0,1", [0, 1]), ("1,0", [1, 0]), ("1", [1]), ("-1", []), ("-0", []), ("0,-1,1", [0]),
           (" 0 , 1 ", [0, 1]), ("+1", [1]), ("01", [1]), ("0,,1", [0]), ("0,", [0]), (",0", []), ("a", []),
           ("0x1", []), ("1.0", []), ("GPU:0", []), ("99", []), ("1,2,0", [1]), ("0,0", [0, 0]), ("4294967296", [])]


def visible(devices):
    """The names logged for each value in VISIBLE, on a machine with these adapters."""
    _, log = python(ENUMERATE % [value for value, _ in VISIBLE], DMLEMU_DEVICES=devices, TF_CPP_VMODULE="logging=1")
    _, *parts = re.split(r"DirectML device enumeration: found (\d+) compatible adapters\.\n", log)
    found = [re.findall(r"DirectML adapter \d+: (.*)", part) for part in parts[1::2]]
    assert [len(names) for names in found] == [int(number) for number in parts[::2]]
    return found


def test_dml_visible_devices_is_read_by_the_plugins_rules():
    found = zip((value for value, _ in VISIBLE), visible(BOTH))
    assert dict(found) == {value: [(TITAN, INTEL)[number] for number in numbers] for value, numbers in VISIBLE}


def test_a_machine_without_adapters_shows_none_whatever_is_asked_for():
    assert visible("") == [[]] * len(VISIBLE)


IMPORT = """
import tensorflow as tf
print(len(tf.config.list_physical_devices("GPU")))
print([tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")])
tf.config.list_logical_devices("GPU")
print([tf.constant([1.0]).device[-5:]])
"""
LINES = re.compile(r"^\S+ \S+: I tensorflow/c/logging\.cc:\d+\] (.*)", re.MULTILINE)


def test_tensorflow_finds_the_adapters_and_logs_them_as_the_plugin_does():
    printed, log = python(IMPORT, DMLEMU_DEVICES=BOTH, DML_VISIBLE_DEVICES="1,0", TF_CPP_VMODULE="logging=1")
    assert printed.splitlines() == ["2", "[{'device_name': 'DML'}, {'device_name': 'DML'}]", "['GPU:0']"]
    assert LINES.findall(log) == [
        "DirectML device enumeration: found 2 compatible adapters.",
        f"DirectML adapter 0: {INTEL}", "    VendorID: 0x00008086", "    DeviceID: 0x00001002",
        "    Driver: 31.0.101.4002", "    IsComputeOnly: false",
        f"DirectML adapter 1: {TITAN}", "    VendorID: 0x000010de", "    DeviceID: 0x00001001",
        "    Driver: 31.0.101.4001", "    IsComputeOnly: false",
        f"DirectML: creating device on adapter 0 ({INTEL})", f"DirectML: creating device on adapter 1 ({TITAN})"]


def test_without_an_adapter_tensorflow_uses_the_cpu():
    printed, log = python(IMPORT, DML_VISIBLE_DEVICES="-1")
    assert printed.splitlines() == ["0", "[]", "['CPU:0']"]
    assert LINES.findall(log) == ["DirectML device enumeration: found 0 compatible adapters."]


def test_unasked_there_is_one_adapter_and_the_plugins_version_says_it_is_emulated():
    assert len(tf.config.list_physical_devices("GPU")) == 1
    assert metadata.version("tensorflow-directml-plugin") == "0.4.0.dev230202+emulated"


# ------------------------------------------------------------------------------------------ where ops run
def test_results_are_right():
    a, b = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    with tf.device("/GPU:0"):
        product = tf.matmul(a, b, transpose_b=True)
    assert product.device.endswith("GPU:0")
    np.testing.assert_allclose(product, a @ b.T, rtol=1e-5)


@pytest.mark.parametrize("function, ops", [
    (lambda x: tf.einsum("ij,kj->ik", x, x), {"Einsum": 1}),
    (lambda x: tf.einsum("ij,kj->ik", tf.einsum("ij,ij->ij", x, x), x), {"Einsum": 2}),
    (lambda x: tf.matmul(x, x, transpose_b=True), {}),
    (lambda x: tf.matmul(tf.cast(x, tf.float64), tf.cast(x, tf.float64), transpose_b=True), {"MatMul": 1, "Cast": 1}),
])
def test_ops_without_a_kernel_go_to_the_cpu(function, ops):
    compiled, x = tf.function(function, input_signature=[SPEC]), variable(0.5)
    assert cpu_ops(lambda: compiled(x)) == ops


@pytest.mark.parametrize("scope, ops", [("on_host", {}), ("on_ghost", {"Cast": 2, "Cos": 2})])
def test_only_what_is_on_the_cpu_on_purpose_is_left_out(scope, ops):
    counter, x = tf.Variable(3, dtype=tf.int32), variable(0.5)

    @tf.function(input_signature=[SPEC])
    def step(x):
        counter.assign_add(1)
        for _ in range(2):                                          # the second scope is called on_host_1
            with tf.name_scope(scope), tf.device("/CPU:0"):
                rate = tf.cos(tf.cast(counter, tf.float32))
            x = x * rate
        return x

    assert cpu_ops(lambda: step(x)) == ops


def test_tf_data_is_left_out():
    assert cpu_ops(lambda: next(iter(tf.data.Dataset.range(3).map(lambda number: number + 1).prefetch(1)))) == {}


def test_cpu_ops_refuses_a_function_that_has_run():
    compiled, x = tf.function(lambda x: tf.einsum("ij,kj->ik", x, x), input_signature=[SPEC]), variable(0.5)
    compiled(x)
    with pytest.raises(ValueError, match="has not run before; make a new one"):
        cpu_ops(lambda: compiled(x))


# ------------------------------------------------------------------------------------------ what is counted
def test_kernels_are_counted_per_call():
    compiled, x = tf.function(lambda x: tf.matmul(tf.tanh(tf.tanh(x)), x, transpose_b=True)), variable(0.5)
    counts = count(lambda: compiled(x), warm_up=1, times=7)
    assert counts == (3, 0, 0, 0, {"Tanh": 2, "MatMul": 1}, {})


def test_reading_a_number_is_a_copy_to_the_host_and_giving_one_a_copy_to_the_device():
    x, given = variable(0.5), np.ones((5, 3), np.float32)
    assert count(x.numpy)[2:4] == (1, 0)
    assert count(lambda: [x.numpy(), x.numpy()])[2:4] == (2, 0)
    assert count(lambda: x.assign(given))[2:4] == (0, 1)
    einsum, x = tf.function(lambda x: tf.einsum("ij,kj->ik", x, x)), tf.identity(x)
    assert count(lambda: einsum(x))[2:4] == (1, 1)                  # to the CPU and back


@pytest.mark.parametrize("step, compilations", [
    (lambda x, y: x.assign_add(y), {"AssignAddVariableOp": 1}),
    (lambda x, y: x.assign(x + y), {}),
    (lambda x, y: x.assign(x + tf.random.uniform((5, 3))), {"RandomUniform": 1}),
    (lambda x, y: x.assign(x + tf.random.stateless_uniform((5, 3), (1, 2))), {}),
    (lambda x, y: x.scatter_nd_sub([[0]], y[:1]), {"ResourceScatterNdSub": 1}),
])
def test_what_the_plugin_does_not_cache_is_compiled_each_time(step, compilations):
    x, y = variable(0.5), variable(1.0)
    compiled = tf.function(lambda: step(x, y))
    counts = count(compiled)
    assert counts.compilations_by_op == compilations
    assert counts.compilations == sum(compilations.values())


def test_a_host_input_that_changes_is_compiled_anew():
    x, numbers = variable(0.5), itertools.count(10)
    roll = tf.function(lambda x, shift: tf.roll(x, shift, axis=0), input_signature=[SPEC, tf.TensorSpec((), tf.int32)])
    assert count(lambda: roll(x, 3)).compilations_by_op == {}
    assert count(lambda: roll(x, next(numbers)), times=5).compilations_by_op == {"Roll": 1}


def test_each_new_shape_and_attribute_is_compiled_once():
    def call(rows, negative=True):
        with tf.device("/GPU:0"):
            return tf.nn.leaky_relu(tf.ones((rows, 7)), alpha=0.125 if negative else 0.25)

    assert count(lambda: call(13), warm_up=0, times=4).compilations_by_op["LeakyRelu"] == 1 / 4
    assert count(lambda: call(17), warm_up=0, times=4).compilations_by_op["LeakyRelu"] == 1 / 4
    assert count(lambda: call(17, False), warm_up=0, times=4).compilations_by_op["LeakyRelu"] == 1 / 4
    assert count(lambda: call(13), warm_up=0, times=4).compilations == 0


# ------------------------------------------------------------------------------------------ faults and errors
FAULT = """
import tensorflow as tf
x = tf.ones((5, 3))
with tf.device("/CPU:0"):
    print(tf.matmul(x, x, transpose_b=True).numpy().max(), tf.sign(x).numpy().max())
with tf.device("/GPU:0"):
    print(tf.matmul(x, x, transpose_b=True).numpy().max(), tf.sign(x).numpy().max(), tf.square(x).numpy().max())
"""


def test_a_fault_multiplies_the_output_on_the_device_only():
    printed, _ = python(FAULT, DMLEMU_FAULT="MatMul:1.5;Sign:-0.25")
    assert printed.splitlines() == ["3.0 1.0", "4.5 -0.25 1.0"]


@pytest.mark.parametrize("fault, message", [
    ("MatMul", "DMLEMU_FAULT has 'MatMul' instead of an op and a factor, such as MatMul:1.001"),
    ("Einsum:2", "DMLEMU_FAULT names Einsum, an op that DirectML has no kernel for"),
])
def test_a_fault_that_cannot_be_is_refused(fault, message):
    printed, log = python(LIBRARY + "library.TF_InitKernel(); print('went on')", DMLEMU_FAULT=fault)
    assert (printed, message in log) == ("", True)


@pytest.mark.parametrize("measure", [count, cpu_ops])
def test_counters_say_that_there_is_no_device(measure, monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    counters._library.cache_clear()
    with pytest.raises(RuntimeError, match=r"no emulated DirectML device .* is missing\): bash emulator/build.sh"):
        measure(lambda: 0)


def test_counters_say_that_no_adapter_is_visible(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    counters._library.cache_clear()
    with pytest.raises(RuntimeError, match="is visible: unset DML_VISIBLE_DEVICES and DMLEMU_DEVICES"):
        count(lambda: 0)


def build(folder, **environment):
    built = subprocess.run(["bash", str(BUILD), str(folder)], env={**os.environ, **environment}, check=False,
                           capture_output=True, encoding="utf-8")
    return built.returncode, built.stdout + built.stderr


def test_build_wants_python_310(tmp_path):
    other = tmp_path / "python3.9"
    other.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")              # no, it answers when asked: are you 3.10?
    other.chmod(0o755)
    message = f"emulator/build.sh: {other} is not a working Python 3.10\n"
    assert build(tmp_path / "new", PYTHON310=str(other)) == (1, message)
    assert not (tmp_path / "new").exists()


def test_build_leaves_an_environment_with_the_real_plugin_alone(tmp_path):
    plugin = tmp_path / "tensorflow-plugins" / "libtfdml_plugin.so"
    interpreter = tmp_path / "bin" / "python"
    for file, text in ((plugin, ""), (interpreter, f"#!/bin/sh\necho {tmp_path}\n")):     # it says where packages are
        file.parent.mkdir()
        file.write_text(text, encoding="utf-8")
        file.chmod(0o755)
    message = f"emulator/build.sh: {tmp_path} has the real plugin: name another folder\n"
    assert build(tmp_path) == (1, message)
