"""Vision Transformers as Google publishes them: one .npz file of the vit_jax code (github.com/google-research/
vision_transformer), the original ones and those of "How to train your ViT" (arXiv 2106.10270).

The sizes follow from the arrays' shapes; there are no class names.

    D embedding width   M hidden width of an MLP   P patch size   C channels   K classes   h heads   d = D/h
"""
from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from .messages import harmless
from .published import STANDARD, Part, Published, check_sizes, convert
from .weight_files import PretrainedError, Weights, open_weights

BLOCK = "Transformer/encoderblock_{}/"
ATTENTION = "MultiHeadDotProductAttention_1/"
PRE_LOGITS = "pre_logits/"          # a hidden layer with tanh, in the original files with 21,843 classes


def read(path) -> Published:
    """Reads such a file.

    Raises:
        PretrainedError: it is missing, damaged, or of another kind of model.
    """
    weights = open_weights(Path(path))
    arguments = _arguments(weights)
    classes = weights.shapes.get("head/bias", (0,))[0]
    hidden = any(name.startswith(PRE_LOGITS) for name in weights.shapes)
    parts = layout(arguments, 0 if hidden else classes)
    tensors, ignored = convert(parts, weights, (PRE_LOGITS, "head/") if hidden else ())
    names = [str(k) for k in range(classes)] if classes and not hidden else None
    why = "its classifier has a hidden layer (pre_logits)" if hidden else "it has no classifier"
    return Published(arguments, tensors, names, ignored, "" if names else why)


def _arguments(weights: Weights) -> dict:
    """Gives the model's arguments, by the shapes of a few arrays; raises PretrainedError where there are none such."""
    shapes, first = weights.shapes, BLOCK.format(0)
    blocks = {match[1] for match in map(re.compile(r"Transformer/encoderblock_(\d+)/").match, shapes) if match}
    try:
        patch_size, _, channels, width = shapes["embedding/kernel"]
        _, positions, _ = shapes["Transformer/posembed_input/pos_embedding"]
        _, heads, _ = shapes[f"{first}{ATTENTION}query/kernel"]
        _, hidden = shapes[f"{first}MlpBlock_3/Dense_0/kernel"]
    except (KeyError, ValueError) as error:
        raise PretrainedError(f"{harmless(weights.path)} is no Vision Transformer of vit_jax; hybrids with a ResNet, "
                              "MLP-Mixers and files of big_vision are not read here.") from error
    side = patch_size * math.isqrt(max(positions - 1, 0))
    arguments = {
        **STANDARD, "image_shape": (side, side, channels), "patch_size": patch_size, "patch_stride": patch_size,
        "number_of_layers": len(blocks), "embedding_dim": width, "num_heads": heads, "mlp_hidden_dim": hidden,
        "norm_epsilon": 1e-6, "pixel_mean": [127.5] * channels, "pixel_deviation": [127.5] * channels}
    check_sizes(weights.path, arguments)
    return arguments


def layout(arguments: dict, classes: int) -> list:
    """Lists the Parts of such a file; classes 0: without its head."""
    def same(ours, theirs, *shape):
        return Part((ours,), ((theirs, shape),), lambda array: (array,))

    def dense(ours, theirs, inputs, outputs):
        return [same(f"{ours}/kernel", f"{theirs}/kernel", inputs, outputs),
                same(f"{ours}/bias", f"{theirs}/bias", outputs)]

    def norm(ours, theirs):
        return [same(f"{ours}/gamma", f"{theirs}/scale", width), same(f"{ours}/beta", f"{theirs}/bias", width)]

    width, hidden, patch = arguments["embedding_dim"], arguments["mlp_hidden_dim"], arguments["patch_size"]
    rows, channels, heads = arguments["image_shape"][0] // patch, arguments["image_shape"][2], arguments["num_heads"]
    head_dim = width // heads
    parts = [
        Part(("patches/projection/kernel",), (("embedding/kernel", (patch, patch, channels, width)),),
             lambda kernel: (kernel.reshape(-1, width),)),
        same("patches/projection/bias", "embedding/bias", width), same("class_token/token", "cls", 1, 1, width),
        Part(("positions/table/embeddings",),
             (("Transformer/posembed_input/pos_embedding", (1, 1 + rows ** 2, width)),), lambda table: (table[0],))]
    for i in range(arguments["number_of_layers"]):
        ours, theirs = f"block_{i}/", BLOCK.format(i)
        looks = [f"{theirs}{ATTENTION}{name}" for name in ("query", "key", "value")]
        parts += [
            *norm(f"{ours}norm_1", f"{theirs}LayerNorm_0"),
            Part((f"{ours}attention/query_key_value/kernel",),
                 tuple((f"{name}/kernel", (width, heads, head_dim)) for name in looks),
                 lambda *kernels: (np.concatenate([kernel.reshape(width, width) for kernel in kernels], axis=1),)),
            Part((f"{ours}attention/query_key_value/bias",),
                 tuple((f"{name}/bias", (heads, head_dim)) for name in looks),
                 lambda *biases: (np.concatenate([bias.ravel() for bias in biases]),)),
            Part((f"{ours}attention/projection/kernel",),
                 ((f"{theirs}{ATTENTION}out/kernel", (heads, head_dim, width)),),
                 lambda kernel: (kernel.reshape(width, width),)),
            same(f"{ours}attention/projection/bias", f"{theirs}{ATTENTION}out/bias", width),
            *norm(f"{ours}norm_2", f"{theirs}LayerNorm_2"),
            *dense(f"{ours}mlp/expand", f"{theirs}MlpBlock_3/Dense_0", width, hidden),
            *dense(f"{ours}mlp/contract", f"{theirs}MlpBlock_3/Dense_1", hidden, width)]
    parts += norm("norm", "Transformer/encoder_norm")
    return parts + (dense("classifier/projection", "head", width, classes) if classes else [])
