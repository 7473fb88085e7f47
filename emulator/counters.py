"""Counters: what a function costs on the emulated DirectML device, and which of its ops the device cannot run.

A kernel is one op run on the device. A compilation is a DirectML operator that the real plugin would have built and not
found in its cache. A device-to-host copy stops the CPU until the GPU has done everything it was asked for; each is the
price of reading a number.
"""

from __future__ import annotations

import ctypes
import json
import re
import sysconfig
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, NamedTuple

import tensorflow as tf
from tensorflow.python.eager import context

# These compute nothing: they begin, end and order a graph, and carry values between the devices.
PLUMBING = {"NoOp", "Const", "Identity", "IdentityN", "_Arg", "_DeviceArg", "_Retval", "_DeviceRetval",
            "_Send", "_Recv", "_HostSend", "_HostRecv"}
TF_DATA = re.compile("Dataset|Iterator")                    # the CPU's task
# An int32 variable lives on the CPU, which is where a step counter belongs.
VARIABLES = {"VarHandleOp", "ReadVariableOp", "AssignVariableOp", "AssignAddVariableOp"}
ON_HOST = re.compile(r"(^|/)on_host(_\d+)?/")               # TensorFlow numbers a name scope that is entered again


class Counts(NamedTuple):
    """What one call costs."""

    kernels: int
    compilations: float
    device_to_host: float
    host_to_device: float
    kernels_by_op: dict[str, float]
    compilations_by_op: dict[str, float]


def count(function: Callable[[], Any], warm_up: int = 2, times: int = 3) -> Counts:
    """function -> what a call of it costs: the mean of `times` calls, after `warm_up` calls that compile what stays.

    Raises RuntimeError where TensorFlow has no emulated device.
    """
    library = _library()
    copies = [ctypes.c_longlong.in_dll(library, f"dmlemu_{way}") for way in ("device_to_host", "host_to_device")]
    for _ in range(warm_up):
        function()
    library.dmlemu_reset_kernels()
    for copy in copies:
        copy.value = 0
    for _ in range(times):
        function()
    by_op = json.loads(library.dmlemu_kernels().decode())
    kernels = {op: runs / times for op, (runs, _) in by_op.items() if runs}
    compilations = {op: number / times for op, (_, number) in by_op.items() if number}
    return Counts(round(sum(kernels.values())), sum(compilations.values()), *(copy.value / times for copy in copies),
                  kernels, compilations)


def cpu_ops(function: Callable[[], Any]) -> Counter:
    """function, which must not have run before -> how many ops of each kind it leaves to the CPU.

    Counted are the nodes of the graphs as TensorFlow runs them: optimized, and cut in one part per device. Not counted
    are plumbing, tf.data, what the code puts on the CPU on purpose (name scope "on_host") and int32 variables.

    Raises ValueError if it has run before, for TensorFlow shows a graph when it makes it, and RuntimeError where it has
    no emulated device.
    """
    _library()
    run_time = context.context()
    run_time.ensure_initialized()
    run_time.enable_run_metadata()
    run_time.export_run_metadata()                          # graphs that came up since the last time are not ours
    try:
        function()
        metadata = run_time.export_run_metadata()
    finally:
        run_time.disable_run_metadata()
    if not metadata.function_graphs:
        raise ValueError("no graph was made: cpu_ops wants a function that has not run before; make a new one")
    graphs = {graph.SerializeToString(deterministic=True): graph          # one that runs twice is there twice
              for graphs in metadata.function_graphs for graph in graphs.partition_graphs}
    return Counter(node.op for graph in graphs.values() for node in graph.node
                   if "CPU" in node.device and not _belongs_on_the_cpu(node))


def _belongs_on_the_cpu(node: tf.compat.v1.NodeDef) -> bool:
    int32_variable = node.op in VARIABLES and node.attr["dtype"].type == tf.int32.as_datatype_enum
    return node.op in PLUMBING or bool(TF_DATA.search(node.op) or ON_HOST.search(node.name)) or int32_variable


@lru_cache(maxsize=None)
def _library() -> ctypes.CDLL:
    """The device's library, as TensorFlow has loaded it."""
    path = Path(sysconfig.get_path("purelib"), "tensorflow-plugins", "libdirectml_emulated.so")
    if not path.exists():
        raise RuntimeError(f"no emulated DirectML device in this Python ({path} is missing): bash emulator/build.sh")
    if not tf.config.list_physical_devices("GPU"):
        raise RuntimeError("no emulated DirectML device is visible: unset DML_VISIBLE_DEVICES and DMLEMU_DEVICES")
    library = ctypes.CDLL(str(path))
    library.dmlemu_kernels.restype = ctypes.c_char_p
    return library
