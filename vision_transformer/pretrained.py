"""Published weights: a Vision Transformer that begins with them, at any resolution, for any classes.

hugging_face.py and vit_jax.py read the two ways in which they are published.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from . import hugging_face, vit_jax
from .architectures import build_model
from .embedding import patch_grid
from .messages import harmless, one_line
from .model import VisionTransformer
from .runs import Run, weights_by_name
from .settings import flag_of
from .storage import RunError, assign
from .weight_files import PretrainedError, read_json

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
REGULARIZATION = ("dropout", "stochastic_depth", "classifier_dropout")         # a script's own, whatever the file
HEAD, POSITIONS = "classifier/projection/{}", "positions/table/embeddings"


class Pretrained(NamedTuple):
    """A model with published weights, its classes' names by number, and sentences on what is not as in the file."""

    model: VisionTransformer
    class_names: list
    notes: list


def load_pretrained(name, class_names=None, image_shape=None, **arguments) -> Pretrained:
    """Makes a VisionTransformer with published weights; its logits are those of the library that they come from.

    Args:
        name: a folder with config.json and model.safetensors (ViT and DeiT, as Hugging Face publishes them), a .npz
            file (Google's vit_jax), or such a model's name on huggingface.co, as "google/vit-base-patch16-224", which
            needs a network and the package huggingface_hub.
        class_names: the classes to tell apart; others than the file's get a new classifier that begins at 0, as in
            arXiv 2010.11929, section 3.2. None: the file's.
        image_shape: (H, W, C) of the pictures; positions are resampled to another grid of patches. None: the file's.
        arguments: of VisionTransformer, such as dropout or seed.

    Raises:
        PretrainedError (a ValueError): there are no such weights, they are damaged, or of another kind of model.
        ValueError: image_shape and the file's patches don't go together, or arguments that make no sense.
    """
    path = _found(name)
    published = (vit_jax if path.is_file() else hugging_face).read(path)
    names, old_names = class_names and list(class_names), published.class_names
    if not names and not old_names:
        raise PretrainedError(f"{harmless(name)} tells no classes apart: {published.why}; give the class_names that a "
                              "new one is to tell apart.")
    shape, old_shape = tuple(image_shape or published.arguments["image_shape"]), published.arguments["image_shape"]
    if shape[2:] != old_shape[2:]:
        raise PretrainedError(f"{harmless(name)} is of pictures with {old_shape[2]} channels, these are of shape "
                              f"{shape}; give pictures with {old_shape[2]}.")
    model = VisionTransformer(**{**published.arguments, **arguments, "image_shape": shape,
                                 "num_classes": len(names or old_names)})
    tensors, notes = dict(published.tensors), [f"left out of the file: {name}" for name in published.ignored]
    grid, old_grid = (patch_grid(s, model.config["patch_size"], model.config["patch_size"]) for s in (shape, old_shape))
    if grid != old_grid:
        tensors[POSITIONS] = resample_positions(tensors[POSITIONS], old_grid, grid)
        notes.append("positions resampled from {}x{} to {}x{} patches".format(*old_grid, *grid))
    if names and names != old_names:
        width = model.config["embedding_dim"] * (1 + model.config["read_registers"])
        tensors[HEAD.format("kernel")] = np.zeros((width, len(names)), np.float32)
        tensors[HEAD.format("bias")] = np.zeros(len(names), np.float32)
        notes.append(f"new classifier of {len(names)} classes" + (f" (the file's had {len(old_names)})" if old_names
                                                                  else f" (of the file: {published.why})"))
    assign(path, tensors, weights_by_name(model))
    return Pretrained(model, names or old_names, notes)


def resample_positions(table: np.ndarray, old_grid, grid) -> np.ndarray:
    """Gives positions (1 + rows * columns, D) for another grid of (rows, columns) of patches.

    The patches' are a picture of D channels, resized by cubic interpolation; smoothed first where it shrinks. The
    first, the class token's, stays. Source of the idea: arXiv 2010.11929, section 3.2.
    """
    picture = table[1:].reshape(*old_grid, -1)
    with tf.device("/CPU:0"):
        resized = tf.image.resize(picture, grid, "bicubic", antialias=True).numpy()
    return np.concatenate([table[:1], resized.reshape(-1, table.shape[1])])


def starting_model(settings, data, training) -> VisionTransformer:
    """Gives the model that a training begins with: PRETRAINED's, or where that is empty, one as the settings have it.

    What the file says of the architecture takes the place of the constants below "model", but for REGULARIZATION, and
    is printed. Pixels are scaled as the file says; without one, by the pictures of `training`. The classifier is new
    unless `data` has the file's classes. A run that is resumed needs no file: it says itself what its model is, and its
    weights are in its last save.

    Raises:
        ValueError: a flag that contradicts the file, or what load_pretrained refuses.
        RunError: the run to resume describes no model.
    """
    constants = settings.below("model")
    if settings.RESUME:
        config = Run(settings.RESUME).read("model")
        try:
            return build_model(**config)
        except (TypeError, ValueError) as error:
            raise RunError(f"{settings.RESUME} describes no model that can be built: "
                           f"{one_line(error)[:500]}") from error
    if not settings.PRETRAINED:
        pixel_mean, pixel_deviation = training.pixel_statistics()
        return build_model(image_shape=data.image_shape, num_classes=data.num_classes, pixel_mean=pixel_mean,
                           pixel_deviation=pixel_deviation, seed=settings.SEED, **constants)
    loaded = load_pretrained(settings.PRETRAINED, data.class_names, data.image_shape, seed=settings.SEED,
                             **{name: constants[name] for name in REGULARIZATION})
    replaced = _replace(settings, {"architecture": "vit", **loaded.model.config})
    print("\n".join([f"pretrained {settings.PRETRAINED}{': ' if replaced else ''}{', '.join(replaced)}",
                     *(f"{'':10}{note}" for note in loaded.notes)]), flush=True)
    return loaded.model


def _replace(settings, config: dict) -> list:
    """Sets the constants below "model" to what a model is; gives flag and values of those that change.

    Raises ValueError where one of them was given by a flag.
    """
    if settings.SIZE and "SIZE" in settings.given:
        raise ValueError(f"SIZE {settings.SIZE!r} has no effect with PRETRAINED {settings.PRETRAINED!r}, which has "
                         "sizes of its own; leave one of the two out.")
    replaced = []
    for argument, constant in settings.below("model").items():
        name, value = argument.upper(), config.get(argument, constant)
        if value != constant:
            if name in settings.given:
                raise ValueError(f"{name} {constant!r} contradicts PRETRAINED {settings.PRETRAINED!r}, whose weights "
                                 f"are of a model with {value!r}; leave the flag out.")
            replaced.append(f"{flag_of(name)} {value} (was {constant})")
            setattr(settings, name, value)
    return replaced


def is_published(name) -> bool:
    """Tells whether a path leads to published weights; a run folder has no model_type."""
    config = Path(name) / hugging_face.CONFIG
    return Path(name).suffix == ".npz" or (config.is_file() and "model_type" in read_json(config))


def _found(name) -> Path:
    """Gives the path of what is here; otherwise downloads it, to where huggingface_hub keeps what it has."""
    path, text = Path(name), str(name)
    if path.exists():
        return path
    if not HUB_NAME.fullmatch(text):
        raise PretrainedError(f"{harmless(name)} is not here; give a folder with config.json and model.safetensors, a "
                              ".npz file, or a name on huggingface.co such as google/vit-base-patch16-224.")
    try:
        import huggingface_hub
    except ImportError as error:
        raise PretrainedError(f"{harmless(name)} is no folder here; to have it downloaded: python -m pip install "
                              f"huggingface_hub; or put its {' and '.join(hugging_face.FILES)} into a folder, and name "
                              "that.") from error
    try:
        return Path(huggingface_hub.snapshot_download(text, allow_patterns=list(hugging_face.FILES)))
    except Exception as error:          # many kinds: of the network, of its answers, of its own
        raise PretrainedError(f"{harmless(name)} can't be downloaded: {one_line(error)[:300]}; or put its "
                              f"{' and '.join(hugging_face.FILES)} into a folder, and name that.") from error
