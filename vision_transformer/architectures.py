"""The models by name: one call makes any of them, from the same arguments."""
from __future__ import annotations

import inspect

from .model import VisionTransformer
from .picture_classifier import PictureClassifier
from .resnet import ResNet

ARCHITECTURES = {"vit": VisionTransformer, "resnet": ResNet}


def build_model(architecture: str = "vit", **arguments) -> PictureClassifier:
    """Gives the model of that name, made of those of the arguments that it takes.

    So a script can pass all of its constants, and `build_model(**model.get_config())` makes any model again; a config
    that names no architecture is a VisionTransformer's.

    Raises:
        TypeError: an argument that no architecture takes.
        ValueError: an architecture that isn't known, or what the model itself refuses.
    """
    if architecture not in list(ARCHITECTURES):
        raise ValueError(f"ARCHITECTURE {architecture!r} is not known; choose one of {', '.join(ARCHITECTURES)}.")
    takes = {name: set(inspect.signature(model).parameters) for name, model in ARCHITECTURES.items()}
    unknown = sorted(arguments.keys() - set().union(*takes.values()))
    if unknown:
        raise TypeError(f"no architecture takes {', '.join(unknown)}.")
    return ARCHITECTURES[architecture](**{name: value for name, value in arguments.items()
                                          if name in takes[architecture]})
