"""The list of DirectML's kernels: complete, true to TensorFlow's registry, and of ops that TensorFlow knows."""
import itertools
import sys
from importlib import metadata
from pathlib import Path

import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import kernel_def_pb2
from tensorflow.python.framework import kernels, op_def_registry

FILE = Path(__file__).parents[1] / "vision_transformer" / "directml_kernels.pbtxt"
LINES = [line for line in FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
LISTED = text_format.Parse("\n".join(LINES), kernel_def_pb2.KernelList()).kernel
PLUGIN = any(each.metadata["Name"] == "tensorflow-directml-plugin" for each in metadata.distributions())

FLOAT, HALF, INT32, INT64, BOOL = (tf.as_dtype(name).as_datatype_enum
                                   for name in ("float32", "float16", "int32", "int64", "bool"))


def expand(definitions):
    """One (op, {(attribute, type)}, {argument in the computer's memory}) per kernel for one choice of types."""
    for kernel in definitions:
        attributes = [[(each.name, dtype) for dtype in each.allowed_values.list.type] for each in kernel.constraint]
        for types in itertools.product(*attributes):
            yield kernel.op, frozenset(types), frozenset(kernel.host_memory_arg)


def types_of(op, attribute="T"):
    return {dict(types)[attribute] for name, types, _ in expand(LISTED) if name == op}


def test_it_names_1187_kernels_each_once():
    each = list(expand(LISTED))
    assert len(each) == len(set(each)) == 1187
    assert len({op for op, _, _ in each}) == 318
    assert {kernel.device_type for kernel in LISTED} == {"GPU"}


def test_it_has_one_line_per_kernel_sorted_by_op():
    assert text_format.Parse(FILE.read_text(encoding="utf-8"), kernel_def_pb2.KernelList()).kernel == LISTED
    for kernel, line in zip(LISTED, LINES):
        assert line.startswith(f'kernel {{ op: "{kernel.op}" device_type: "GPU"')
    assert len(LISTED) == len(LINES)
    assert [kernel.op for kernel in LISTED] == sorted(kernel.op for kernel in LISTED)


@pytest.mark.parametrize("op, attribute, types", [
    ("MatMul", "T", {FLOAT, HALF}), ("Einsum", "T", set()), ("ArgMax", "T", {FLOAT, HALF}),
    ("VarHandleOp", "dtype", set()), ("AssignAddVariableOp", "dtype", {FLOAT, HALF, INT64}),
    ("ResourceScatterUpdate", "dtype", {BOOL, FLOAT, HALF, INT64}),
])
def test_types_as_in_the_plugins_source(op, attribute, types):
    assert types_of(op, attribute) == types


@pytest.mark.parametrize("op, attributes, pairs", [
    ("MaxPool3DGrad", ("T", "TInput"), {(FLOAT, FLOAT), (HALF, HALF)}),
    ("ResourceScatterUpdate", ("Tindices", "dtype"),
     {*itertools.product((INT32, INT64), (FLOAT, HALF)), (INT32, BOOL), (INT64, INT64)}),
])
def test_types_that_do_not_go_together_are_apart(op, attributes, pairs):
    found = [dict(types) for name, types, _ in expand(LISTED) if name == op]
    assert {tuple(types[each] for each in attributes) for types in found} == pairs


def test_tensorflow_knows_every_op_and_argument():
    unknown = set()
    for kernel in LISTED:
        op = op_def_registry.get(kernel.op)
        if op is None:
            unknown.add(kernel.op)
            continue
        assert {each.name for each in kernel.constraint} <= {each.name for each in op.attr}, kernel.op
        assert set(kernel.host_memory_arg) <= {each.name for each in [*op.input_arg, *op.output_arg]}, kernel.op
    assert unknown == {"_CopyFromGpuToHost", "_CopyFromHostToGpu"}          # known inside TensorFlow only


def test_it_is_what_the_plugin_adds_to_tensorflows_registry():
    """Without the plugin TensorFlow has none of it, unless CUDA brings kernels for the same ops."""
    registered = set(expand(each for each in kernels.get_all_registered_kernels().kernel if each.device_type == "GPU"))
    listed = set(expand(LISTED))
    if PLUGIN:
        own = registered - listed                                           # TensorFlow's, mostly to hand tensors on
        assert listed <= registered
        assert {op for op, _, _ in own} & {op for op, _, _ in listed} == {"SquaredDifference"}      # of int32
        assert len(own) == 423 or sys.platform != "linux"                   # counted there
    else:
        assert bool(listed & registered) == tf.test.is_built_with_cuda()
