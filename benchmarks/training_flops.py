"""What a training costs, counted in the graphs that TensorFlow makes of the model and of its training step.

    python benchmarks/training_flops.py train_cifar10.py [--flags of the script]
    python benchmarks/training_flops.py runs/cifar10-001
    python benchmarks/training_flops.py --as-on-directml train_cifar10.py --recipe hybrid

Multiply-adds (MACs) of matrix products and convolutions are counted, and nothing else: that is what papers and other
libraries' counters report, and what is left out (norms, softmax, GELU, masks, the optimizer) takes time, but hardly any
arithmetic. A convolution's products with its zero padding count as well, as they do there. 1 MAC = 2 FLOPs.

The usual estimate of a training is 6 FLOPs per MAC of the forward pass: backward twice as much as forward. What the
step's graph holds differs: nothing needs the pictures' gradient, and some options compute more than one pass. It is the
graph for this machine: on a CPU mirrored filters take half of what they do on a GPU.
"""
from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from vision_transformer.dry_run import Training, dry_run
from vision_transformer.settings import run_script
from vision_transformer.training import Trainer
from vision_transformer.xla import as_on_directml

FLOPS_PER_MAC, USUAL_FLOPS_PER_MAC = 2, 6       # of what is counted; of a training step, per MAC of the forward pass
CALLS = ("PartitionedCall", "StatefulPartitionedCall")
PRODUCTS = re.compile("MatMul|Conv|Einsum|Dot|RNN|LSTM|GRU")        # ops of such names multiply and add


# ------------------------------------------------------------------------------------------ one op
def _matrix_product(op) -> int:
    """(..., n, k) x (..., k, m) -> (..., n, m), either of them transposed."""
    transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
    return _size(op, op.outputs[0]) * _shape(op, op.inputs[0])[-2 if transposed else -1]


def _einsum(op) -> int:
    """A product of two tensors: each combination of indices is one multiply-add."""
    equation = op.get_attr("equation").decode()
    terms = re.split("->|,", equation)
    if not re.fullmatch("[a-zA-Z]*,[a-zA-Z]*->[a-zA-Z]*", equation) or any(
            sum(index in term for term in terms) < 2 for index in set("".join(terms))):
        raise ValueError(f"{op.name} is an Einsum of {equation}, whose multiply-adds depend on how it is done; write "
                         "it with tf.matmul.")
    sizes = {index: size for term, tensor in zip(terms, op.inputs) for index, size in zip(term, _shape(op, tensor))}
    return math.prod(sizes.values())


def _convolution(maps, kernel, per_channel=False):
    """Of an op that links these maps with the other side's by this kernel (each a function of the op: a tensor)."""
    def count(op):
        shape = _shape(op, kernel(op))      # rows, columns, channels in, channels out (or filters of each channel)
        return _size(op, maps(op)) * math.prod(shape[:2] if per_channel else shape[:3])
    return count


def _output(op):
    return op.outputs[0]


def _second_input(op):
    return op.inputs[1]


def _third_input(op):
    return op.inputs[2]


COUNTS = dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _matrix_product)
COUNTS["Einsum"] = _einsum
for name, per_channel in (("Conv2D", False), ("DepthwiseConv2dNative", True)):
    COUNTS[name] = _convolution(_output, _second_input, per_channel)
    COUNTS[f"{name}BackpropInput"] = _convolution(_third_input, _second_input, per_channel)
    COUNTS[f"{name}BackpropFilter"] = _convolution(_third_input, _output, per_channel)


def _shape(op, tensor) -> list:
    if not tensor.shape.is_fully_defined():
        raise ValueError(f"{op.name} ({op.type}) has a tensor of unknown shape {tensor.shape}; trace the function with "
                         "pictures of a known batch size.")
    return tensor.shape.as_list()


def _size(op, tensor) -> int:
    return math.prod(_shape(op, tensor))


# ------------------------------------------------------------------------------------------ a graph
def multiply_adds(concrete) -> int:
    """Counts the multiply-adds that one call of a ConcreteFunction makes, also inside the functions that it calls.

    What no output and no assignment needs is not counted, as TensorFlow leaves it out too.

    Raises:
        ValueError: a product of unknown shape or cost, or one in a loop or a branch.
    """
    return _multiply_adds(concrete.graph, concrete.graph.outputs)


def _multiply_adds(graph, wanted) -> int:
    """Of what makes the wanted tensors of a FuncGraph, and of what must run anyway."""
    needed, waiting = set(), [*graph.control_outputs, *(tensor.op for tensor in wanted)]
    while waiting:
        op = waiting.pop()
        if op not in needed:
            needed.add(op)
            waiting += [*op.control_inputs, *(tensor.op for tensor in op.inputs)]
    used = {(tensor.op, tensor.value_index) for tensor in [*wanted, *(t for op in needed for t in op.inputs)]}
    total = 0
    for op in needed:
        if op.type in COUNTS:
            total += COUNTS[op.type](op)
        elif op.type in CALLS:
            body = _function(graph, op.get_attr("f"))
            total += _multiply_adds(body, [t for i, t in enumerate(body.outputs) if (op, i) in used])
        else:
            _check_free_of_products(graph, op)
    return total


def _function(graph, name):
    return graph._get_function(name.name).graph         # TensorFlow has no public way to a function's graph


def _check_free_of_products(graph, op) -> None:
    """Raises ValueError for an op whose multiply-adds can't be told."""
    if PRODUCTS.search(op.type):
        raise ValueError(f"{op.name} is of type {op.type}, whose multiply-adds this file doesn't know; add it to "
                         "COUNTS, or leave it out of the model.")
    for value in op.node_def.attr.values():
        for name in [*([value.func] if value.HasField("func") else []), *value.list.func]:
            body = _function(graph, name)
            if _multiply_adds(body, body.outputs):
                raise ValueError(f"{op.name} ({op.type}) runs matrix products or convolutions nobody knows how often; "
                                 "leave loops and branches out of the function.")


# ------------------------------------------------------------------------------------------ a training
def report(training: Training) -> str:
    """Says what the training costs, a line for each figure."""
    trainer, functions = training.owner, training.functions()
    batch = training.batches.element_spec[1].shape[0]
    forward = multiply_adds(functions["evaluate, predict"]) / trainer.task.batch_size
    step = FLOPS_PER_MAC * multiply_adds(functions["train step"]) / batch
    pictures = trainer.steps_per_epoch * batch * trainer.epochs
    weights = sum(math.prod(v.shape) for v in trainer.task.model.trainable_variables)
    rows = [("weights that learn", f"{weights:,}"),
            ("MACs of the forward pass, per picture", f"{forward:,.0f}"),
            ("FLOPs of a training step, per picture", f"{step:,.0f}"),
            (f"  by the usual estimate, {USUAL_FLOPS_PER_MAC} x MACs", f"{USUAL_FLOPS_PER_MAC * forward:,.0f}"),
            ("pictures in the whole training, at most", f"{pictures:,}"),
            ("FLOPs of the whole training", f"{step * pictures:.3g}"),
            ("  by the usual estimate", f"{USUAL_FLOPS_PER_MAC * forward * pictures:.3g}")]
    return "\n".join(f"{name:42} {figure:>16}" for name, figure in rows)


def main() -> None:
    """Prints the report of a script or a run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--as-on-directml", action="store_true", help="count what a DirectML device would do")
    parser.add_argument("script", metavar="RUN-or-SCRIPT", help="a run folder, or a script such as train_cifar10.py")
    parser.add_argument("flags", metavar="FLAG", nargs=argparse.REMAINDER, help="the script's own flags, at the end")
    arguments = parser.parse_args()
    training = dry_run(arguments.script, arguments.flags)
    if not isinstance(training.owner, Trainer):
        raise ValueError(f"{arguments.script} trains by keras.Model.fit, which doesn't say for how long; this counts "
                         "scripts that train by vision_transformer.Trainer, as train_cifar10.py does.")
    with as_on_directml() if arguments.as_on_directml else contextlib.nullcontext():
        print(report(training))


if __name__ == "__main__":
    run_script(main)
