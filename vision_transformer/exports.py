"""A finished model for other programs: SavedModel, ONNX, TensorFlow Lite, Hugging Face; each is read and compared.

The first three take "images", uint8 (B, H, W, C) with any B, and give "probabilities", float32 (B, K), rows of sum 1.
The class names are inside all of them.

    B pictures in a batch   H, W, C height, width, channels   K classes   n pictures
"""
from __future__ import annotations

import importlib
import io
import json
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf

from .hugging_face import export_hugging_face, why_not
from .memory import enough_memory
from .messages import harmless, one_line
from .pretrained import load_pretrained
from .runs import weights_by_name
from .storage import CannotWrite, reason, rename, write

OPSET = 13                      # of ONNX: old enough for any runtime of the last years, new enough for every op here
LARGEST_FILE = 2 ** 31          # bytes: where protocol buffers and flat buffers end
LARGEST_DIFFERENCE = 1e-3       # of a probability; what conversion rounds otherwise is a thousandth of it
LEAST_AGREEMENT = 0.99          # share of the pictures with the same likeliest class: all but near ties
BATCH = 32                      # pictures compared at a time, after one alone
CPU = "/CPU:0"                  # where both are computed: a GPU rounds otherwise


class ExportError(RuntimeError):
    """An export that can't be made, or doesn't do what the model does."""


class Served(tf.Module):
    """What is exported of a model: "serving_default", images to probabilities, and "class_names"."""

    def __init__(self, model, class_names):
        super().__init__()
        self.weights = list(weights_by_name(model).values())
        pictures = tf.TensorSpec((None, *model.config["image_shape"]), tf.uint8, name="images")

        @tf.function(input_signature=[pictures])
        def serve(images):
            return {"probabilities": tf.nn.softmax(model(images, training=False))}

        @tf.function(input_signature=[])
        def names():
            return {"class_names": tf.constant(class_names)}

        self.serve, self.names = serve, names


# ------------------------------------------------------------------------------------------ SavedModel
def write_saved_model(model, class_names, path: Path) -> None:
    """Writes a folder in TensorFlow's own format."""
    served = Served(model, class_names)
    try:
        tf.saved_model.save(served, str(path), {"serving_default": served.serve, "class_names": served.names})
    except tf.errors.OpError as error:                  # what TensorFlow calls a full disk, or no permission
        raise OSError(one_line(error)[:300]) from error


def read_saved_model(path: Path) -> tuple:
    """Gives what it predicts with, images (B, H, W, C) -> probabilities (B, K), and its class names."""
    loaded = tf.saved_model.load(str(path))
    names = loaded.signatures["class_names"]()["class_names"].numpy()
    # `loaded` is kept by its being named here: without it the weights would go.
    return (lambda images, loaded=loaded: loaded.signatures["serving_default"](tf.constant(images))[
        "probabilities"].numpy()), [name.decode("utf-8") for name in names]


# ------------------------------------------------------------------------------------------ ONNX
def write_onnx(model, class_names, path: Path) -> None:
    """Writes an ONNX file of standard ops; the class names are a JSON list among its metadata."""
    import onnx
    import tf2onnx
    served = Served(model, class_names).serve
    proto, _ = tf2onnx.convert.from_function(served, input_signature=served.input_signature, opset=OPSET)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(proto, {"class_names": json.dumps(list(class_names), ensure_ascii=False)})
    onnx.checker.check_model(proto, full_check=True)    # tf2onnx only mentions an op that it can't write
    write(path, proto.SerializeToString())


def read_onnx(path: Path) -> tuple:
    """Gives what it predicts with, by onnxruntime on the CPU, and its class names."""
    import onnxruntime
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return (lambda images: session.run(["probabilities"], {"images": images})[0],
            json.loads(session.get_modelmeta().custom_metadata_map["class_names"]))


# ------------------------------------------------------------------------------------------ TensorFlow Lite
def write_tflite(model, class_names, path: Path) -> None:
    """Writes a TensorFlow Lite file of built-in ops; the class names are labels.txt in a zip archive at its end."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        write_saved_model(model, class_names, Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        content = io.BytesIO(converter.convert())
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(zipfile.ZipInfo("labels.txt"), "\n".join(class_names))
    write(path, content.getvalue())


def read_tflite(path: Path) -> tuple:
    """Gives what it predicts with, and its class names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                 # TensorFlow's about its interpreter's new home, ai-edge-litert
        runner = tf.lite.Interpreter(model_content=path.read_bytes()).get_signature_runner("serving_default")
    with zipfile.ZipFile(path) as archive:
        return (lambda images: runner(images=images)["probabilities"],
                archive.read("labels.txt").decode("utf-8").split("\n"))


# ------------------------------------------------------------------------------------------ Hugging Face
def read_hugging_face(path: Path) -> tuple:
    """Gives what it predicts with, read by pretrained.py, and its class names."""
    model, names, _ = load_pretrained(path)
    return lambda images: tf.nn.softmax(model(images, training=False)).numpy(), names


# ------------------------------------------------------------------------------------------ all formats
class Format(NamedTuple):
    """How a kind of export is written and read; `write` makes a file or, where `suffix` is empty, a folder."""

    write: Callable             # (model, class_names, path) -> None
    read: Callable              # path -> (images -> probabilities, class names)
    suffix: str                 # of the file's name
    sign: str = ""              # the file by which such a folder, and no run's, is known
    packages: tuple = ()        # beyond those that training needs
    why_not: Callable = lambda model: ""        # a sentence on a model that it can't be, whatever the converter


FORMATS = {
    "savedmodel": Format(write_saved_model, read_saved_model, "", sign="saved_model.pb"),
    "onnx": Format(write_onnx, read_onnx, ".onnx", packages=("onnx", "tf2onnx", "onnxruntime")),
    "tflite": Format(write_tflite, read_tflite, ".tflite"),
    "hf": Format(export_hugging_face, read_hugging_face, "", sign="preprocessor_config.json", why_not=why_not),
}


def check_export(kind: str, output: Path) -> None:
    """Raises, before any work, what can be known then: ExportError (a package is missing), ValueError (the output)."""
    made = FORMATS[kind]
    for package in made.packages:
        try:
            importlib.import_module(package)
        except Exception as error:      # also what a version says that doesn't go with the others
            raise ExportError(
                f"--to {kind} needs {', '.join(made.packages)}, and {package} can't be imported: "
                f"{one_line(error)[:300]}. Install what goes with this Python's TensorFlow: python -m pip install -r "
                "requirements-extras.txt; or do so in an environment of its own, of any Python from 3.10 on: it reads "
                "the same run folder.") from error
    shown = harmless(output)
    if made.suffix and output.is_dir():
        raise ValueError(f"--output {shown} is a folder; name a file, such as {shown}/model{made.suffix}.")
    if not made.suffix and output.exists() and not (output.is_dir() and (
            (output / made.sign).is_file() or not any(output.iterdir()))):
        raise ValueError(f"--output {shown} is there already, and is no {kind} that could be replaced; choose another.")


def check_model(kind: str, model) -> None:
    """Raises ExportError for a model that no converter could make one of that kind of."""
    if FORMATS[kind].why_not(model):
        raise ExportError(f"this model can't be exported to {kind}: {FORMATS[kind].why_not(model)}")


def export(kind: str, model, class_names, output: Path, pictures) -> tuple:
    """Writes a model as FORMATS[kind], reads that again and compares; only then it is put to `output`, whole.

    What was at `output` is replaced. pictures: uint8 (n, H, W, C) to compare on.

    Returns:
        The largest difference of a probability, and the share of pictures with the same likeliest class.

    Raises:
        ExportError: it can't be converted, or the copy predicts otherwise; nothing is left.
        CannotWrite: what was there still is.
    """
    made, output = FORMATS[kind], Path(output).absolute()
    check_model(kind, model)
    size = sum(4 * int(tf.size(weight)) for weight in weights_by_name(model).values())
    if made.suffix and size > LARGEST_FILE:
        raise ExportError(f"{kind} files end at {LARGEST_FILE / 1e9:.1f} GB, and this model's weights have "
                          f"{size / 1e9:.1f} GB; choose --to savedmodel.")
    near = next(folder for folder in output.parents if folder.is_dir())         # of the same disk
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=near) as folder, \
                enough_memory("an export of this model", "what other programs use"):
            part = Path(folder) / "part"
            try:
                made.write(model, class_names, part)
                predict, names = made.read(part)
                figures = compare(predict, model, pictures)
            except (OSError, CannotWrite, MemoryError, tf.errors.ResourceExhaustedError, ExportError):
                raise
            except Exception as error:  # converters and runtimes raise nearly anything
                raise ExportError(f"this model can't be exported to {kind}: {one_line(error)[:300]}; try another "
                                  "format, or the other Python: 3.10 and 3.11 bring other converters.") from error
            if names != list(class_names):
                raise ExportError(f"the {kind} lost class names: it has {harmless(str(names)[:100])}; nothing is left.")
            _put(part, output)
    except (OSError, CannotWrite) as error:
        raise CannotWrite(f"{harmless(output)} can't be written: {reason(error)}. Make room, give permission or choose "
                          "another --output.") from error
    return figures


def compare(predict, model, pictures) -> tuple:
    """Gives the largest difference of a probability, and the share of pictures with the same likeliest class.

    Both see the pictures, uint8 (n, H, W, C), first one alone, then BATCH at a time.

    Raises:
        ExportError: where `predict` does not do what the model does.
    """
    ours, theirs = [], []
    for batch in np.split(pictures, range(1, len(pictures), BATCH)):
        with tf.device(CPU):
            ours.append(tf.nn.softmax(model(batch, training=False)).numpy())
            theirs.append(predict(batch))
        if theirs[-1].shape != ours[-1].shape:
            raise ExportError(f"the copy gives {theirs[-1].shape} for a batch of {len(batch)}, the model "
                              f"{ours[-1].shape}; nothing is left.")
    ours, theirs = np.concatenate(ours), np.concatenate(theirs)
    difference = float(np.abs(ours - theirs).max())
    agreement = float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
    if not (difference <= LARGEST_DIFFERENCE and agreement >= LEAST_AGREEMENT):         # NaN is neither
        raise ExportError(
            f"the copy predicts otherwise than the model: probabilities differ by up to {difference:.2g} (at most "
            f"{LARGEST_DIFFERENCE:g} can be rounding), and the likeliest class is the same for {agreement:.1%} of "
            f"{len(pictures)} pictures; nothing is left. Try another format, or the other Python: 3.10 and 3.11 bring "
            "other converters.")
    return difference, agreement


def _put(part: Path, output: Path) -> None:
    """Moves what was made to its place; what is there goes into the temporary folder, or back if that fails."""
    before = part.with_name("before")
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.is_dir():
        rename(output, before)
    try:
        rename(part, output)
    except OSError:
        if before.is_dir():
            rename(before, output)
        raise
