"""What published Vision Transformers have in common: the architecture, and how their weights get our names.

hugging_face.py and vit_jax.py list a file's weights as Parts; pretrained.py makes a model of what convert gives.
"""
from __future__ import annotations

from typing import Callable, NamedTuple

from .checks import check_whole
from .messages import harmless
from .model import LIMITS
from .picture_classifier import LARGEST_SIDE, MOST_CHANNELS
from .weight_files import PretrainedError, Weights

# The Vision Transformer of the paper, in arguments of ours; its sizes come beside these.
STANDARD = {"embedding": "linear", "positions": "learned", "attention": "plain", "norm": "pre", "layer_scale": 0.0,
            "token_learner": "", "pool": "cls", "classifier": "linear"}
MOST_NAMED = 8          # in a message


class Part(NamedTuple):
    """Weights of ours, by name, and what they are in a file: (name, shape) each, and the ways there and back.

    to_ours: the file's arrays -> our arrays; to_theirs: the other way; both tuples.
    """

    ours: tuple
    theirs: tuple
    to_ours: Callable
    to_theirs: Callable = None


class Published(NamedTuple):
    """What a file holds: a VisionTransformer's arguments without num_classes, its weights by our names, its classes.

    class_names: None where the file has no classifier that can be used; why: the reason.
    ignored: what was left in the file on purpose.
    """

    arguments: dict
    tensors: dict
    class_names: list
    ignored: list
    why: str = ""


def check_sizes(where, arguments: dict) -> None:
    """Raises PretrainedError unless a file's sizes are such that a model can have them."""
    limits = dict(zip(("height", "width", "channels"), [(1, LARGEST_SIDE)] * 2 + [(1, MOST_CHANNELS)]))
    sizes = dict(zip(limits, arguments["image_shape"]))
    try:
        for name, (least, most) in {**limits, **LIMITS}.items():
            if name in sizes or name in arguments:
                check_whole(name, {**arguments, **sizes}[name], least, most)
        if arguments["embedding_dim"] % arguments["num_heads"]:
            raise ValueError(f"{arguments['num_heads']} heads don't divide width {arguments['embedding_dim']}.")
    except ValueError as error:
        raise PretrainedError(f"{harmless(where)} says what no model can be: {error}") from error


def convert(parts: list, weights: Weights, ignored=()) -> tuple:
    """Gives a file's weights by our names, and the names of those left there, which begin as `ignored` says.

    Raises:
        PretrainedError: the file lacks weights, has others (both lists are given), or has them in other shapes.
    """
    needed = {name: shape for part in parts for name, shape in part.theirs}
    left = sorted(name for name in weights.shapes if name not in needed)
    missing, unknown = sorted(needed.keys() - weights.shapes.keys()), [n for n in left if not n.startswith(ignored)]
    where = harmless(weights.path)
    if missing or unknown:
        raise PretrainedError(f"{where} doesn't hold the Vision Transformer that it says: missing {_listed(missing)}; "
                              f"unknown {_listed(unknown)}.")
    for name, shape in needed.items():
        if weights.shapes[name] != shape:
            raise PretrainedError(f"{where}: {harmless(name)} is of shape {weights.shapes[name]}; by the sizes that "
                                  f"the model is said to have it would be {shape}.")
    tensors = {}
    for part in parts:
        arrays = part.to_ours(*(weights.read(name) for name, _ in part.theirs))
        tensors.update(zip(part.ours, arrays))
    return tensors, left


def _listed(names: list) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return (", ".join(harmless(name)[:100] for name in names[:MOST_NAMED]) + more) or "nothing"
