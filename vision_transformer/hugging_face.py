"""Vision Transformers as Hugging Face's transformers library keeps them: read from such a folder, written as one.

    config.json                 the architecture, the classes' names
    model.safetensors           the weights
    preprocessor_config.json    how pixels are scaled

Of model_type "vit" (ViT, and DeiT without distillation) and "deit" (with its distillation token, which is a register
token here). D embedding width   M hidden width of an MLP   P patch size   C channels   K classes
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save as safetensors_bytes

from .checks import check_number, check_whole, shown
from .compat import raw, weight_path
from .messages import harmless
from .picture_classifier import MOST_CLASSES
from .published import STANDARD, Part, Published, check_sizes, convert
from .runs import as_json
from .storage import make_folder, write
from .weight_files import PretrainedError, open_weights, read_json

CONFIG, WEIGHTS, PIXELS = "config.json", "model.safetensors", "preprocessor_config.json"
FILES = (CONFIG, WEIGHTS, PIXELS)
SIZES = {               # transformers' names, with the values that it takes where a config.json is silent -> ours
    "num_hidden_layers": (12, "number_of_layers"), "hidden_size": (768, "embedding_dim"),
    "num_attention_heads": (12, "num_heads"), "intermediate_size": (3072, "mlp_hidden_dim")}
# What published ones of a kind are trained on, in shares of 255, where the file doesn't say: mean, deviation.
SCALES = {"vit": ([0.5] * 3, [0.5] * 3), "deit": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])}
TEACHER = ("cls_classifier", "distillation_classifier")         # DeiT's two, whose logits are averaged
IGNORED = ("pooler.", "embeddings.mask_token")          # no classifier reads them


# ------------------------------------------------------------------------------------------ names and shapes
def layout(arguments: dict, classes: int, prefix: str, qkv_bias: bool = True, heads=()) -> list:
    """Lists the Parts of a model.safetensors.

    prefix: of all names but the classifiers'; heads: their names, two where their logits are averaged; none: ().
    """
    def same(ours, theirs, *shape):
        return Part((ours,), ((theirs, shape),), lambda array: (array,), lambda array: (array,))

    def dense(ours, theirs, inputs, outputs):
        return [Part((f"{ours}/kernel",), ((f"{theirs}.weight", (outputs, inputs)),), lambda a: (a.T,),
                     lambda a: (a.T,)), same(f"{ours}/bias", f"{theirs}.bias", outputs)]

    def norm(ours, theirs):
        return [same(f"{ours}/gamma", f"{theirs}.weight", width), same(f"{ours}/beta", f"{theirs}.bias", width)]

    width, hidden, patch = arguments["embedding_dim"], arguments["mlp_hidden_dim"], arguments["patch_size"]
    height, image_width, channels = arguments["image_shape"]
    parts = [
        Part(("patches/projection/kernel",),
             ((f"{prefix}embeddings.patch_embeddings.projection.weight", (width, channels, patch, patch)),),
             lambda kernel: (kernel.transpose(2, 3, 1, 0).reshape(-1, width),),
             lambda kernel: (kernel.reshape(patch, patch, channels, width).transpose(3, 2, 0, 1),)),
        same("patches/projection/bias", f"{prefix}embeddings.patch_embeddings.projection.bias", width),
        same("class_token/token", f"{prefix}embeddings.cls_token", 1, 1, width),
        *_positions(prefix, (height // patch) * (image_width // patch), width, arguments["register_tokens"])]
    for i in range(arguments["number_of_layers"]):
        ours, theirs = f"block_{i}/", f"{prefix}encoder.layer.{i}."
        looks = [f"{theirs}attention.attention.{name}" for name in ("query", "key", "value")]
        parts += [
            *norm(f"{ours}norm_1", f"{theirs}layernorm_before"),
            Part((f"{ours}attention/query_key_value/kernel",),
                 tuple((f"{name}.weight", (width, width)) for name in looks),
                 lambda *kernels: (np.concatenate([kernel.T for kernel in kernels], axis=1),),
                 lambda kernel: tuple(part.T for part in np.split(kernel, 3, axis=1))),
            Part((f"{ours}attention/query_key_value/bias",),
                 tuple((f"{name}.bias", (width,)) for name in looks if qkv_bias),
                 lambda *biases: (np.concatenate(biases or [np.zeros(3 * width, np.float32)]),),
                 lambda bias: tuple(np.split(bias, 3))),
            *dense(f"{ours}attention/projection", f"{theirs}attention.output.dense", width, width),
            *norm(f"{ours}norm_2", f"{theirs}layernorm_after"),
            *dense(f"{ours}mlp/expand", f"{theirs}intermediate.dense", width, hidden),
            *dense(f"{ours}mlp/contract", f"{theirs}output.dense", hidden, width)]
    parts += norm("norm", f"{prefix}layernorm")
    if len(heads) == 1:
        parts += dense("classifier/projection", heads[0], width, classes)
    return parts + (_averaged(heads, width, classes) if len(heads) == 2 else [])


def _positions(prefix: str, patches: int, width: int, registers: int) -> list:
    """The Parts of the positions; a distillation token comes with one, which is added to the token itself here."""
    table, token = f"{prefix}embeddings.position_embeddings", f"{prefix}embeddings.distillation_token"
    if not registers:
        return [Part(("positions/table/embeddings",), ((table, (1, 1 + patches, width)),), lambda array: (array[0],),
                     lambda array: (array[None],))]
    return [Part(("registers/token", "positions/table/embeddings"),
                 ((token, (1, 1, width)), (table, (1, 2 + patches, width))),
                 lambda token, array: (token + array[:, 1:2], np.delete(array[0], 1, axis=0)),
                 lambda token, array: (token, np.insert(array, 1, 0, axis=0)[None]))]


def _averaged(heads, width: int, classes: int) -> list:
    """The Part of two classifiers of a token each: their mean is one classifier of both tokens, of half the weights."""
    shapes = [(f"{head}.{name}", shape) for name, shape in (("weight", (classes, width)), ("bias", (classes,)))
              for head in heads]
    return [Part(("classifier/projection/kernel", "classifier/projection/bias"), tuple(shapes),
                 lambda one, other, bias, other_bias: (np.concatenate([one.T, other.T]) / 2, (bias + other_bias) / 2),
                 lambda kernel, bias: (2 * kernel[:width].T, 2 * kernel[width:].T, bias, bias))]


# ------------------------------------------------------------------------------------------ reading
def read(folder) -> Published:
    """Reads a folder with config.json and model.safetensors.

    Raises:
        PretrainedError: a file is missing or damaged, or the model is of a kind that can't be made here.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    arguments = _arguments(folder, config)
    weights = open_weights(_weights(folder))
    kind = config["model_type"]
    prefix = f"{kind}." if any(name.startswith(f"{kind}.") for name in weights.shapes) else ""
    heads = [head for head in ("classifier", *(TEACHER if kind == "deit" else ())) if f"{head}.bias" in weights.shapes]
    classes = (weights.shapes[f"{heads[0]}.bias"] or (0,))[0] if heads else 0
    arguments["read_registers"] = int(len(heads) == 2)
    parts = layout(arguments, classes, prefix, config.get("qkv_bias", True), heads)
    tensors, ignored = convert(parts, weights, tuple(prefix + name for name in IGNORED))
    return Published(arguments, tensors, _class_names(folder, config, classes) if heads else None, ignored,
                     "" if heads else "it has no classifier")


def _weights(folder: Path) -> Path:
    """Gives the path of the weights; raises PretrainedError where they are kept otherwise, and says what to do."""
    path = folder / WEIGHTS
    if path.is_file():
        return path
    again = (f"with transformers installed, AutoModelForImageClassification.from_pretrained({harmless(folder)!r})"
             ".save_pretrained(\"new-folder\", max_shard_size=\"100GB\") writes it")
    if (folder / f"{WEIGHTS}.index.json").is_file():
        raise PretrainedError(f"{harmless(folder)} has its weights in several files; one {WEIGHTS} is read here: "
                              f"{again}.")
    if (folder / "pytorch_model.bin").is_file():
        raise PretrainedError(f"{harmless(folder)} has only a pytorch_model.bin, a pickle, which could run anything; "
                              f"one {WEIGHTS} is read here: where you trust the file, {again}.")
    raise PretrainedError(f"{harmless(path)} is missing: the weights.")


def _arguments(folder: Path, config: dict) -> dict:
    """Gives a VisionTransformer's arguments but for what the weights tell; raises PretrainedError where none fit."""
    where = folder / CONFIG
    if "format" in config and "model" in config:
        raise PretrainedError(f"{harmless(folder)} is a run folder; what it has learnt is first exported: python -m "
                              f"vision_transformer export {harmless(folder)} --to hf")
    allowed = {"model_type": (*SCALES,), "hidden_act": ("gelu",), "qkv_bias": (True, False),
               "problem_type": (None, "single_label_classification"), "layerscale_value": (None, 0)}
    silent = {"hidden_act": "gelu", "qkv_bias": True}
    for name, choices in allowed.items():
        value = config.get(name, silent.get(name))
        if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
            raise PretrainedError(f"{harmless(where)} says that {name} is {harmless(shown(value))}; only "
                                  f"{' or '.join(map(repr, choices))} can be made here.")
    height, width = _pair(where, "image_size", config.get("image_size", 224))
    patch_size, other = _pair(where, "patch_size", config.get("patch_size", 16))
    if patch_size != other:
        raise PretrainedError(f"{harmless(where)} has patches of {patch_size}x{other} pixels; only square ones can be "
                              "made here.")
    epsilon, channels = config.get("layer_norm_eps", 1e-12), config.get("num_channels", 3)
    arguments = {**STANDARD, **{ours: config.get(name, silent) for name, (silent, ours) in SIZES.items()},
                 "image_shape": (height, width, channels), "patch_size": patch_size, "patch_stride": patch_size,
                 "register_tokens": int(config["model_type"] == "deit"), "norm_epsilon": epsilon}
    check_sizes(where, arguments)
    try:
        check_number("layer_norm_eps", epsilon, 1e-12, 1)
    except ValueError as error:
        raise PretrainedError(f"{harmless(where)}: {error}") from error
    return {**arguments, **_pixels(folder, config["model_type"], channels)}


def _pair(where: Path, name: str, value) -> tuple:
    """Gives a size as (height, width): transformers writes one number, or both."""
    pair = value if isinstance(value, list) else [value, value]
    try:
        for side in pair:
            check_whole(name, side, 1, 2 ** 14)
        height, width = pair
    except ValueError as error:
        raise PretrainedError(f"{harmless(where)} says that {name} is {harmless(shown(value))}; give one whole number, "
                              "or height and width.") from error
    return height, width


def _pixels(folder: Path, kind: str, channels: int) -> dict:
    """Gives pixel_mean and pixel_deviation, for pixels 0..255."""
    path = folder / PIXELS
    config = read_json(path) if path.is_file() else {}
    scale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    pixels = {}
    for ours, theirs, silent in (("pixel_mean", "image_mean", SCALES[kind][0]),
                                 ("pixel_deviation", "image_std", SCALES[kind][1])):
        if not config.get("do_normalize", True):
            values = [float(ours == "pixel_deviation")] * channels
        else:
            values = config.get(theirs, silent if channels == 3 else [0.5] * channels)
        values = values if isinstance(values, list) else [values] * channels
        try:
            check_number("rescale_factor", scale, 1e-6, 1e6)
            for value in values:
                check_number(theirs, value, -1e6, 1e6)
        except ValueError as error:
            raise PretrainedError(f"{harmless(path)}: {error}") from error
        pixels[ours] = [value / scale for value in values]
    return pixels


def _class_names(folder: Path, config: dict, classes: int) -> list:
    """Gives the classes' names by number; those that transformers makes up where the file names none."""
    names = config.get("id2label", {str(k): f"LABEL_{k}" for k in range(min(classes, MOST_CLASSES))})
    if not isinstance(names, dict) or sorted(names) != sorted(map(str, range(classes))):
        raise PretrainedError(f"{harmless(folder / CONFIG)}: its id2label doesn't name the {classes} classes that the "
                              "weights tell apart.")
    return [harmless(names[str(k)]) for k in range(classes)]


# ------------------------------------------------------------------------------------------ writing
def why_not(model) -> str:
    """Says in a sentence why a model is none that transformers' ViT or DeiT can be; "" for one that is."""
    config = {"architecture": "vit", **model.get_config()}
    if config["architecture"] != "vit" or "pool" not in config:
        return "only a Vision Transformer can be written for transformers."
    if config["embedding"] not in ("linear", "convolution"):
        return f"EMBEDDING is {config['embedding']!r}; transformers' ViT has 'linear'."
    for name, value in STANDARD.items():
        if name != "embedding" and config[name] != value:
            return f"{name.upper()} is {config[name]!r}; transformers' ViT has {value!r}."
    if config["patch_stride"] != config["patch_size"]:
        return f"patches of {config['patch_size']} pixels every {config['patch_stride']} overlap; transformers' don't."
    if config["register_tokens"] > 1:
        return f"REGISTER_TOKENS is {config['register_tokens']}; transformers' ViT has none, its DeiT has one."
    return ""


def export_hugging_face(model, class_names, folder) -> Path:
    """Writes a model as a folder that transformers loads, with the same logits; gives its path.

    It becomes a ViTForImageClassification; with a register token a DeiTForImageClassification, or, where that token is
    read, one WithTeacher.

    Raises:
        ValueError: the model is another than those are; the sentence says in what.
        CannotWrite: there is no room or no permission.
    """
    reason = why_not(model)
    if reason:
        raise ValueError(f"this model can't become one of transformers: {reason}")
    c, folder = model.get_config(), Path(folder)
    kind = "deit" if c["register_tokens"] else "vit"
    heads = TEACHER if c["read_registers"] else ("classifier",)
    parts = layout(c, c["num_classes"], f"{kind}.", heads=heads)
    ours = {weight_path(v): raw(v).numpy() for v in model.trainable_variables}
    if c["embedding"] == "convolution":
        ours["patches/projection/kernel"] = ours["patches/projection/kernel"].reshape(-1, c["embedding_dim"])
    theirs = {}
    for part in parts:
        arrays = part.to_theirs(*(ours.pop(name) for name in part.ours))
        theirs.update({name: np.ascontiguousarray(a, np.float32) for (name, _), a in zip(part.theirs, arrays)})
    assert not ours, f"{sorted(ours)} are in no Part"
    height, width, channels = c["image_shape"]
    config = {
        "architectures": [f"{'DeiT' if kind == 'deit' else 'ViT'}ForImageClassification"
                          f"{'WithTeacher' if c['read_registers'] else ''}"],
        "model_type": kind, "image_size": height if height == width else [height, width],
        "patch_size": c["patch_size"], "num_channels": channels,
        **{name: c[our_name] for name, (_, our_name) in SIZES.items()},
        "hidden_act": "gelu", "layer_norm_eps": c["norm_epsilon"], "qkv_bias": True,
        "hidden_dropout_prob": c["dropout"], "attention_probs_dropout_prob": 0.0,
        "id2label": {str(k): name for k, name in enumerate(class_names)},
        "label2id": {name: k for k, name in enumerate(class_names)}, "torch_dtype": "float32"}
    pixels = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": height, "width": width},
        "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [mean / 255 for mean in c["pixel_mean"]],
        "image_std": [deviation / 255 for deviation in c["pixel_deviation"]]}
    make_folder(folder)
    write(folder / WEIGHTS, safetensors_bytes(theirs, {"format": "pt"}))
    write(folder / PIXELS, as_json(pixels))
    write(folder / CONFIG, as_json(config))             # last: without it there is no model
    return folder
