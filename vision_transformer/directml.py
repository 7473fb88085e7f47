"""The static checker: what a compiled function would cost on a DirectML device, found without one.

TensorFlow hides it all: an op without a DirectML kernel runs on the CPU in silence, its tensors copied to and fro. So
each op of the function's graph, with its types, is looked up among the kernels that the plugin registers (those of
the installed plugin; without one, our list of them), as TensorFlow's placer does: device GPU, then DEFAULT, else the
CPU. The plugin's source says the rest: what it compiles anew, and which of its kernels only pass the work to the CPU.

    problem             what happens on the device
    leaves the GPU      the op runs on the CPU, between two copies
    runs on the CPU     the plugin's kernel itself does the work there
    compiled each step  DirectML compiles the op at each execution, or for each new value of an input that changes
    stops the GPU       a tensor is made on the GPU and wanted by the host: the GPU works off its queue and waits
    unknown shape       sizes are computed on the device, with stops; each new one compiles all kernels again
    fails               DirectML has nothing to do it with

Source: tensorflow-directml-plugin 0.4.0, tfdml/core and tfdml/kernels; TensorFlow 2.10, core/framework/op_kernel.cc.
"""
from __future__ import annotations

import functools
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import kernel_def_pb2, types_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2
from tensorflow.python.framework import kernels, op_def_registry
from tensorflow.python.grappler import tf_optimizer

from .installation import PLUGIN, version_of

KERNEL_LIST = Path(__file__).with_name("directml_kernels.pbtxt")
ON_THE_CPU = ("TruncatedNormal", "UnsortedSegmentSum", "UnsortedSegmentMax", "UnsortedSegmentMin",
              "UnsortedSegmentProd")
COMPILED_EACH_TIME = (
    "AssignAddVariableOp", "AssignSubVariableOp", "RandomUniform", "RandomStandardNormal", "RandomUniformInt",
    "RngReadAndSkip", "RngSkip", "ResourceGather", "ResourceStridedSliceAssign",
    *(f"ResourceScatter{kind}" for kind in ("Add", "Sub", "Mul", "Div", "Min", "Max", "Update", "NdAdd", "NdSub",
                                            "NdUpdate")))
CALLS = {"PartitionedCall", "StatefulPartitionedCall", "If", "StatelessIf", "While", "StatelessWhile", "Case",
         "StatelessCase"}
EITHER_SIDE = {"Const", "HostConst", *CALLS}            # made where they are wanted, or looked into themselves

RANDOM = ("draw with tf.random.stateless_uniform and the seed (seed, step), as vision_transformer's Dropout does where "
          "keras.layers.Dropout does not")
LOOK_UP = "add the whole table: positions 0..N-1 need no look-up (vision_transformer.embedding.PositionEmbedding)"
ON_HOST = 'compute it from the step counter under tf.device("/CPU:0"), or change it once an epoch'
MENDS = {
    "Einsum": "write the product with tf.matmul and tf.transpose: keras.layers.MultiHeadAttention and EinsumDense use "
              "Einsum, vision_transformer.blocks.Attention does not",
    "AssignAddVariableOp": "write v.assign(v + x) in place of v.assign_add(x); Keras's fit, metrics and experimental "
                           "optimizers use it, vision_transformer's Trainer and AdamW do not",
    "AssignSubVariableOp": "write v.assign(v - x) in place of v.assign_sub(x); Keras 3's optimizers use it, "
                           "vision_transformer.AdamW does not",
    "ResourceApplyAdam": "take vision_transformer.AdamW: Keras's reads its scalars back at each step",
    ("compiled each step", "ResourceApplyAdam"):
        "the learning rate follows a schedule, and each new value is compiled into Adam, once per weight's shape: "
        "take vision_transformer.AdamW, or change the learning rate once an epoch",
    "ImageProjectiveTransformV3": "transform pictures in tf.data, as data_augmentations.py does",
    "ScaleAndTranslate": "resize in tf.data, or by tf.image.resize without antialias, bilinear or nearest",
    "ResourceGather": LOOK_UP, "ResourceScatterAdd": LOOK_UP,
    "UnsortedSegmentSum": "it is the gradient of tf.gather: multiply by tf.one_hot, or add the whole table",
    **dict.fromkeys(("RandomUniform", "RandomStandardNormal", "RandomUniformInt", "RngReadAndSkip", "RngSkip",
                     "TruncatedNormal", "StatelessRandomGetKeyCounter"), RANDOM),
    "StatelessRandomUniformFullIntV2": "leave out alg=: the default needs no such op",
    "RandomShuffle": "shuffle in tf.data", "RandomGammaV2": "draw it in tf.data",
    "InTopKV2": "count the logits above the right one's, as vision_transformer.Classification does",
    "_XlaMustCompile": "DirectML has no XLA compiler: leave out jit_compile=True, and give jit_compile=False to "
                       "keras.optimizers.experimental, which turn it on where they see a GPU",
}
GENERAL_MENDS = {
    "leaves the GPU": "write it with other ops, or do it in tf.data; docs/directml.md lists what has kernels",
    "stops the GPU": "keep the tensor on one side: int32 arithmetic is the host's on any GPU, so use float32 or int64",
    "compiled each step": "keep this input constant; " + ON_HOST,
    "runs on the CPU": "write it with other ops, or do it in tf.data",
    "unknown shape": "give every batch one known size: batch(n, drop_remainder=True), and the batch size to "
                     "keras.Input or input_signature; fill up the last batch of an evaluation",
}


class Finding(NamedTuple):
    """One thing that costs on DirectML: `count` ops of a kind, some of their names in the graph, and the mend."""

    problem: str
    op: str
    count: int
    names: list
    mend: str


def check(function) -> list:
    """Gives the Findings about a ConcreteFunction, worst first; [] if all of it stays on the GPU.

    Ops that the code itself puts on the CPU (tf.device) are no problem there, but what they want from the GPU is. This
    project's models are to be traced under `xla.as_on_directml()`, as they leave some work to XLA on a CPU.

    Raises:
        RuntimeError: this TensorFlow was built for CUDA, whose kernels can't be told from DirectML's.
    """
    found = defaultdict(list)
    for tensor in function.inputs:
        if tensor.dtype not in (tf.resource, tf.variant) and not tensor.shape.is_fully_defined():
            found["unknown shape", "input"].append(f"{tensor.name} {tensor.shape}")
    graph = _as_run(function)
    for definition in graph.library.function:
        if definition.attr["_XlaMustCompile"].b:
            found["fails", "_XlaMustCompile"].append(definition.signature.name)
    for nodes in [graph.node, *(f.node_def for f in graph.library.function)]:
        for problem, op, name in _problems(nodes):
            found[problem, op].append(name)
        for node in nodes:
            if node.op == "IteratorGetNext":
                found["unknown shape", "input"] += [
                    f"{node.name} {tf.TensorShape(shape)}" for shape in node.attr["output_shapes"].list.shape
                    if not tf.TensorShape(shape).is_fully_defined()]
    found = {key: names for key, names in found.items() if names}
    order = list(dict.fromkeys(["fails", *GENERAL_MENDS]))
    return sorted((Finding(problem, op, len(names), names, _mend(problem, op))
                   for (problem, op), names in found.items()), key=lambda f: (order.index(f.problem), -f.count))


def report(functions: dict) -> bool:
    """Prints what `check` finds in each of {name: ConcreteFunction}; tells whether it found nothing."""
    clean, plugin = True, version_of(PLUGIN)
    print(f"graphs of TensorFlow {tf.__version__}, kernels of "
          + (f"the installed plugin {plugin}" if plugin else "our list, of the plugin for TensorFlow 2.10"))
    for name, function in functions.items():
        findings = check(function)
        clean = clean and not findings
        print(f"\n{name}: " + (f"{len(findings)} problem{'s' * (len(findings) > 1)}" if findings else
                               "everything stays on the GPU, nothing is compiled at each step"), flush=True)
        for finding in findings:
            more = ", ..." if finding.count > 2 else ""
            print(f"\n  {finding.problem}: {finding.op} ({finding.count}), e.g. {', '.join(finding.names[:2])}{more}\n"
                  f"    mend: {finding.mend}")
    return clean


def _mend(problem, op) -> str:
    return MENDS.get((problem, op)) or MENDS.get(op) or GENERAL_MENDS[problem]


# ------------------------------------------------------------------------------------------ one graph
class _Node(NamedTuple):
    name: str
    op: str
    kernel: kernel_def_pb2.KernelDef | None     # None: it runs on the CPU
    asked: bool                                 # ... because the code or a host variable says so
    inputs: list                                # (argument's name, dtype, tensor's name)
    outputs: list                               # (argument's name, dtype)

    def on_host(self, argument) -> bool:
        """Tells whether the op takes or gives this argument in the host's memory."""
        return self.kernel is None or argument in self.kernel.host_memory_arg

    @property
    def compiles(self) -> bool:
        """Tells whether it is an operator of DirectML's, which an op that gives host memory only is not."""
        return (self.kernel is not None and self.op in directml_ops()
                and not (self.outputs and all(self.on_host(argument) for argument, _ in self.outputs)))


def _problems(nodes):
    """Yields (problem, op, node's name) for the nodes of one graph or function body."""
    graph = {n.name: n for n in map(_node, nodes) if n is not None}
    made_on_host, stopped = {}, set()
    for n in graph.values():
        for place, (argument, number, dtype) in enumerate(_numbered(n.outputs)):
            host = dtype == types_pb2.DT_INT32 if n.op in ("Placeholder", "_Arg") else n.on_host(argument)
            if n.op not in EITHER_SIDE:
                made_on_host[f"{n.name}:{place}"] = made_on_host[f"{n.name}:{argument}:{number}"] = host
    for n in graph.values():
        if n.op in CALLS:
            continue
        if n.kernel is None and not n.asked:
            if n.op != "Const":                         # a text, which is the host's on any GPU
                yield "leaves the GPU", n.op, n.name
            continue
        wanted = [source for argument, dtype, source in n.inputs
                  if n.on_host(argument) and dtype not in (types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT)]
        if n.op in ON_THE_CPU:
            yield "runs on the CPU", n.op, n.name
        elif n.compiles and (n.op in COMPILED_EACH_TIME or
                             any(_origins(graph, source) & {"counter", "random", "argument"} for source in wanted)):
            yield "compiled each step", n.op, n.name
        for source in wanted:
            if made_on_host.get(source) is False and source not in stopped:
                stopped.add(source)                     # copied once, however many want it
                problem = "unknown shape" if _origins(graph, source) == {"shape"} else "stops the GPU"
                yield problem, n.op, f"{n.name} wants {source}"


def _node(definition):
    """Reads a node; None for a function's call by its own name, which is looked into anyway."""
    op = op_def_registry.get(definition.op)
    if op is None:
        return None
    kernel = find_kernel(definition, op)
    inputs = _typed(op.input_arg, definition, op)
    names = [name if ":" in name else f"{name}:0" for name in definition.input if not name.startswith("^")]
    dtype = definition.attr["dtype"].type
    # With a job in its name, the device is not the code's wish but where some variable lies on this machine.
    on_host_variable = dtype == types_pb2.DT_INT32 and any(t == types_pb2.DT_RESOURCE for _, t in inputs)
    asked = on_host_variable or ("CPU" in definition.device and "/job:" not in definition.device)
    return _Node(definition.name, definition.op, None if asked else kernel, asked,
                 [(argument, t, name) for (argument, t), name in zip(inputs, names)],
                 _typed(op.output_arg, definition, op))


def _origins(graph, source) -> set:
    """Gives what a tensor is made of: "shape", "counter" (variable of integers), "variable", "random", "argument"."""
    origins, seen, sources = set(), set(), [source]
    while sources:
        n = graph.get(sources.pop().split(":")[0])
        if n is None or n.name in seen or n.op in EITHER_SIDE:
            continue
        seen.add(n.name)
        dtype = n.outputs[0][1] if n.outputs else types_pb2.DT_INVALID
        if n.op in ("Shape", "ShapeN", "Size", "Rank"):
            origins.add("shape")
        elif n.op == "ReadVariableOp":
            origins.add("counter" if tf.as_dtype(dtype).is_integer else "variable")
        elif n.op in ("Placeholder", "_Arg"):
            origins.add("argument")
        elif "Random" in n.op or n.op.startswith("Rng"):
            origins.add("random")
        else:
            sources += [s for _, _, s in n.inputs]
    return origins


def _numbered(outputs):
    """Yields (argument, its how-manyth tensor, dtype): a function body names outputs so."""
    counts = defaultdict(int)
    for argument, dtype in outputs:
        yield argument, counts[argument], dtype
        counts[argument] += 1


def _as_run(function):
    """Gives the function's graph as TensorFlow runs it: calls inlined, constants folded."""
    graph = function.graph.as_graph_def()
    meta = tf.compat.v1.train.export_meta_graph(graph_def=graph, graph=function.graph)
    meta.collection_def.clear()
    keep = {n.name for n in graph.node if n.op == "Placeholder"} | {t.op.name for t in function.graph.outputs} | {
        op.name for op in function.graph.control_outputs}
    nodes = meta_graph_pb2.CollectionDef()
    nodes.node_list.value.extend(sorted(keep))
    meta.collection_def["train_op"].CopyFrom(nodes)
    config = config_pb2.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewrite.min_graph_nodes = -1                        # even the smallest
    rewrite.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    rewrite.optimizers.extend(["function", "constfold", "shape", "constfold", "dependency", "pruning"])
    return tf_optimizer.OptimizeGraph(config, meta, strip_default_attributes=False)


# ------------------------------------------------------------------------------------------ kernels
@functools.lru_cache(maxsize=None)
def registered() -> dict:
    """Gives {op: its KernelDefs for devices GPU and DEFAULT}."""
    if tf.test.is_built_with_cuda():
        raise RuntimeError("this TensorFlow was built for CUDA, whose kernels can't be told from DirectML's; check in "
                           "an environment made from requirements.txt.")
    found = list(kernels.get_all_registered_kernels().kernel)
    if not any(k.op == "MatMul" and k.device_type == "GPU" for k in found):         # no plugin is installed
        found += plugin_kernels()
    by_op = defaultdict(list)
    for kernel in found:
        if kernel.device_type in ("GPU", "DEFAULT"):
            by_op[kernel.op].append(kernel)
    return by_op


@functools.lru_cache(maxsize=None)
def plugin_kernels() -> list:
    """Gives our list of the plugin's KernelDefs."""
    return list(text_format.Parse(KERNEL_LIST.read_text(encoding="utf-8"), kernel_def_pb2.KernelList()).kernel)


@functools.lru_cache(maxsize=None)
def directml_ops() -> frozenset:
    """Gives the ops that the plugin has kernels for; TensorFlow itself has other kernels for any GPU."""
    return frozenset(kernel.op for kernel in plugin_kernels())


def find_kernel(node, op):
    """Gives the KernelDef that a GPU device runs this NodeDef by, its best; None if there is none."""
    fitting = [k for k in registered().get(node.op, ()) if _fits(k, node, op)]
    return max(fitting, key=lambda k: (k.device_type == "GPU", k.priority), default=None)


def _fits(kernel, node, op) -> bool:
    if kernel.label != node.attr["_kernel"].s.decode():
        return False
    for constraint in kernel.constraint:
        value, allowed = _attribute(node, op, constraint.name), constraint.allowed_values.list.type
        types = [value.type] if value.WhichOneof("value") == "type" else value.list.type
        if allowed and not set(types) <= set(allowed):
            return False
    return True


def _typed(arguments, node, op) -> list:
    """Gives (argument's name, dtype) of each tensor that an op takes or gives."""
    tensors = []
    for a in arguments:
        if a.type_list_attr:
            types = list(_attribute(node, op, a.type_list_attr).list.type)
        else:
            types = [a.type or _attribute(node, op, a.type_attr).type]
            if a.number_attr:
                types *= _attribute(node, op, a.number_attr).i
        tensors += [(a.name, t) for t in types]
    return tensors


def _attribute(node, op, name):
    """Gives an attribute's value: the node's, or the op's default."""
    return node.attr[name] if name in node.attr else next(a.default_value for a in op.attr if a.name == name)
