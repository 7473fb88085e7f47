"""Exports: each read as its users would, against the model; what goes wrong leaves things as they were."""
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import SIZES
from peak_memory import child_environment
from PIL import Image
from scipy.special import softmax
from test_options import RUN

from vision_transformer import exports
from vision_transformer.__main__ import main
from vision_transformer.architectures import build_model
from vision_transformer.commands import export as command
from vision_transformer.datasets import load_dataset
from vision_transformer.exports import ExportError, Format, check_export, export
from vision_transformer.pretrained import load_pretrained
from vision_transformer.runs import Run, weights_by_name
from vision_transformer.storage import CannotWrite, RunError, rename

ROOT = Path(__file__).parents[1]
NAMES = ["coal", "slate", "ash grey", "Straße", "雪"]
PICTURES = np.random.default_rng(0).integers(0, 256, (37, 6, 10, 3)).astype(np.uint8)


def shaken(model):
    """Gives the model with each weight moved: none may be left at a 0 or 1 that hides a mistake."""
    chance = np.random.default_rng(1)
    for weight in weights_by_name(model).values():
        weight.assign(weight + np.abs(chance.normal(0, 0.1, weight.shape)))     # a variance stays positive
    return model


@pytest.fixture(scope="module")
def model():
    return shaken(build_model(**{**SIZES, **RUN, "pool": "cls"}))


@pytest.fixture(scope="module")
def digits_model():
    return shaken(build_model(**{**SIZES, "image_shape": (8, 8, 1), "num_classes": 10}))


@pytest.fixture
def made_run(tmp_path, digits_model):
    """A run on the digits, as if trained."""
    run = Run.create(tmp_path, "digits", {"model": digits_model.get_config(), "class_names": list("0123456789"),
                                          "constants": {"DATASET": "digits", "DATA_DIR": ""}})
    run.save_weights(digits_model)
    return run


@pytest.fixture
def no_conversion(monkeypatch):
    """Makes "tflite" a format that only notes the class names, "savedmodel" a folder of it: to test all around it."""
    def note(model, names, path):
        path.write_text(json.dumps(list(names)), encoding="utf-8")

    def note_folder(model, names, path):
        path.mkdir()
        note(model, names, path / "saved_model.pb")

    def as_model(model, path):
        return lambda images: softmax(model(images).numpy(), axis=1), json.loads(path.read_text(encoding="utf-8"))

    def use(model):
        for kind, write, part, suffix in (("tflite", note, "", ".tflite"), ("savedmodel", note_folder,
                                                                            "saved_model.pb", "")):
            monkeypatch.setitem(exports.FORMATS, kind, Format(
                write, lambda path, part=part: as_model(model, path / part if part else path), suffix, part))

    return use


def everything_in(folder):
    return sorted((path.relative_to(folder).as_posix(), path.read_bytes() if path.is_file() else None)
                  for path in folder.rglob("*"))


# ------------------------------------------------------------------------------------------ as users read them
def read_saved_model(path):
    loaded = tf.saved_model.load(str(path))
    names = [name.decode("utf-8") for name in loaded.signatures["class_names"]()["class_names"].numpy()]
    return names, lambda images: loaded.signatures["serving_default"](images=tf.constant(images))[
        "probabilities"].numpy()


def read_onnx(path):
    import onnx  # here: the emulated device's environment has neither
    import onnxruntime

    proto = onnx.load(str(path))
    assert {node.domain for node in proto.graph.node} == {""}, "no op but ONNX's own"
    assert [entry.version for entry in proto.opset_import if entry.domain == ""] == [13]
    session = onnxruntime.InferenceSession(str(path))
    [images], [probabilities] = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", 6, 10, 3])
    assert (probabilities.name, probabilities.type) == ("probabilities", "tensor(float)")
    assert probabilities.shape == ["batch", 5]
    names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
    return names, lambda images: session.run(None, {"images": images})[0]


def read_tflite(path):
    interpreter = tf.lite.Interpreter(str(path))
    with zipfile.ZipFile(path) as archive:
        names = archive.read("labels.txt").decode("utf-8").splitlines()

    def predict(images):                # the way that every TensorFlow Lite has, without signatures
        [given], [wanted] = interpreter.get_input_details(), interpreter.get_output_details()
        assert (given["dtype"], wanted["dtype"]) == (np.uint8, np.float32)
        interpreter.resize_tensor_input(given["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(wanted["index"])

    return names, predict


READERS = {"savedmodel": read_saved_model, "onnx": read_onnx, "tflite": read_tflite}


@pytest.mark.parametrize("kind", READERS)
def test_an_export_takes_pixels_gives_probabilities_and_knows_the_names(kind, model, tmp_path):
    output = tmp_path / "new" / "exported"
    difference, agreement = export(kind, model, NAMES, output, PICTURES)
    names, predict = READERS[kind](output)
    assert names == NAMES and agreement == 1 and difference < 1e-5
    for batch in (PICTURES[:1], PICTURES[:7], PICTURES[30:]):
        probabilities = predict(batch)
        assert probabilities.dtype == np.float32 and probabilities.shape == (len(batch), 5)
        assert probabilities == pytest.approx(softmax(model(batch).numpy(), axis=1), abs=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["new"] and list((tmp_path / "new").iterdir()) == [output]


# ------------------------------------------------------------------------------------------ the command
def test_the_command_compares_on_the_runs_test_pictures(made_run, capsys):
    assert main(["export", str(made_run.path), "--to", "tflite"]) == 0
    output = made_run.path / "export" / "digits-001.tflite"
    assert re.fullmatch(rf"{re.escape(str(output))}: 0.0\d MB, read again and compared with the model on 180 test "
                        r"pictures of digits:\n  probabilities differ by \d.\de-0[678] at most; the likeliest class is "
                        r"the same for 100.0%\n", capsys.readouterr().out)
    assert output.is_file()


@pytest.mark.parametrize("changes, data_dir, shape, note", [
    ({"DATA_DIR": "gone"}, None, (8, 8, 1), "the digits come with scikit-learn, not from gone: leave DATA_DIR empty."),
    ({}, "x", (8, 8, 1), "the digits come with scikit-learn, not from x: leave DATA_DIR empty."),
    ({"DATASET": "a\x1b"}, None, (8, 8, 1), r"DATASET 'a\x1b' is not known; choose one of"),
    ({}, None, (8, 9, 1), "digits has pictures of shape (8, 8, 1), the model takes (8, 9, 1)")])
def test_without_test_pictures_noise_is_compared_on_and_said_so(made_run, changes, data_dir, shape, note, capsys):
    made_run.write_config({**made_run.config, "constants": {**made_run.config["constants"], **changes}})
    pictures, what = command.pictures_for(made_run, shape, data_dir)
    assert pictures.shape == (256, *shape) and pictures.dtype == np.uint8 and what == "256 pictures of noise"
    assert capsys.readouterr().out.startswith(f"note: the test pictures can't be had ({note}")


@pytest.mark.parametrize("kind", ["tflite", "savedmodel"])
def test_an_older_export_is_replaced_whole(kind, model, no_conversion, tmp_path):
    no_conversion(model)
    export(kind, model, NAMES, tmp_path / "exported", PICTURES)
    one = everything_in(tmp_path)
    if kind == "savedmodel":
        (tmp_path / "exported" / "of the old one").touch()
    check_export(kind, tmp_path / "exported")
    export(kind, model, NAMES[::-1], tmp_path / "exported", PICTURES)
    two = everything_in(tmp_path)
    assert one != two and [name for name, _ in one] == [name for name, _ in two]


# ------------------------------------------------------------------------------------------ Hugging Face
def test_a_run_becomes_a_hugging_face_folder_that_is_read_alike(tmp_path, capsys):
    model = build_model(image_shape=(8, 8, 1), num_classes=10, patch_size=2, patch_stride=2, number_of_layers=1,
                        embedding_dim=6, num_heads=3, mlp_hidden_dim=5, pool="cls", classifier="linear")
    run = Run.create(tmp_path, "digits", {"model": model.get_config(), "class_names": list("9876543210"),
                                          "constants": {"DATASET": "digits", "DATA_DIR": ""}})
    run.save_weights(model)
    assert main(["export", str(run.path), "--to", "hf"]) == 0
    assert "the likeliest class is the same for 100.0%" in capsys.readouterr().out
    folder = run.path / "export" / "hf"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    read, images = load_pretrained(folder), load_dataset("digits").test.images[:7]
    assert read.class_names == list("9876543210")
    np.testing.assert_allclose(read.model(images), model(images), atol=1e-5)


def test_what_hugging_face_has_no_model_for_is_refused_with_the_reason(made_run):
    with pytest.raises(ExportError, match=r"can't be exported to hf: POOL is 'flatten'; transformers' ViT has 'cls'"):
        main(["export", str(made_run.path), "--to", "hf"])
    assert not (made_run.path / "export").exists()


# ------------------------------------------------------------------------------------------ what goes wrong
def swapped(images, right):
    return right[:, ::-1]


@pytest.mark.parametrize("wrong, says", [
    (swapped, r"probabilities differ by up to 0\.\d+ \(at most 0.001 can be rounding\), and the likeliest class is the "
              r"same for \d+\.\d% of 37 pictures; nothing is left"),
    (lambda images, right: right + np.float32(0.002), r"differ by up to 0\.002 .* the same for 100\.0% of 37"),
    (lambda images, right: right * np.float32("nan"), "differ by up to nan"),
    (lambda images, right: right[:1], r"gives \(1, 5\) for a batch of 32, the model \(32, 5\)"),
    (lambda images, right: {}["x\n"], r"this model can't be exported to \w+: 'x\\n'; try another format"),
])
@pytest.mark.parametrize("kind", ["tflite", "savedmodel"])
def test_a_copy_that_predicts_otherwise_leaves_all_as_it_was(kind, wrong, says, model, no_conversion, monkeypatch,
                                                            tmp_path):
    no_conversion(model)
    export(kind, model, NAMES, tmp_path / "exported", PICTURES)
    before, made = everything_in(tmp_path), exports.FORMATS[kind]

    def read(path):
        predict, names = made.read(path)
        return lambda images: wrong(images, predict(images)), names

    monkeypatch.setitem(exports.FORMATS, kind, made._replace(read=read))
    for output in ("exported", "new/exported"):
        with pytest.raises(ExportError, match=says):
            export(kind, model, NAMES[::-1], tmp_path / output, PICTURES)
    assert everything_in(tmp_path) == before


def test_lost_names_are_no_export(model, no_conversion, monkeypatch, tmp_path):
    no_conversion(model)
    made = exports.FORMATS["tflite"]
    monkeypatch.setitem(exports.FORMATS, "tflite", made._replace(read=lambda path: (made.read(path)[0], ["a\n"])))
    with pytest.raises(ExportError, match=r"the tflite lost class names: it has \['a\\n'\]; nothing is left"):
        export("tflite", model, NAMES, tmp_path / "exported", PICTURES)
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize("package", ["onnx", "tf2onnx", "onnxruntime"])
def test_a_package_that_is_missing_is_named_with_the_command_that_brings_it(package, made_run, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)             # as if it were not installed
    before = everything_in(made_run.path)
    with pytest.raises(ExportError, match=f"--to onnx needs onnx, tf2onnx, onnxruntime, and {package} can't be imported"
                                          ".*python -m pip install -r requirements-extras.txt; or .* of any Python "
                                          "from 3.10 on: it reads the same run folder"):
        main(["export", str(made_run.path), "--to", "onnx"])
    assert everything_in(made_run.path) == before


def test_an_unknown_format_and_an_unknown_run_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", "runs/a-001", "--to", "caffe"])
    assert stop.value.code == 2 and re.search("caffe.*savedmodel.*onnx.*tflite", capsys.readouterr().err)
    with pytest.raises(RunError, match="nowhere is no run folder"):
        main(["export", "nowhere", "--to", "onnx"])


@pytest.mark.parametrize("kind, output, says", [
    ("tflite", ".", r"is a folder; name a file, such as .*model\.tflite"),
    ("savedmodel", "digits-001", "is there already, and is no savedmodel that could be replaced"),
    ("savedmodel", "digits-001/config.json", "is there already, and is no savedmodel"),
])
def test_what_is_no_export_is_never_replaced(kind, output, says, made_run, tmp_path):
    before = everything_in(tmp_path)
    with pytest.raises(ValueError, match=says):
        main(["export", str(made_run.path), "--to", kind, "--output", str(tmp_path / output)])
    assert everything_in(tmp_path) == before


def test_an_output_that_cant_be_written_is_named(model, no_conversion, monkeypatch, tmp_path):
    no_conversion(model)
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match=r"file.x\.tflite can't be written: .* or choose another --output"):
        export("tflite", model, NAMES, tmp_path / "file" / "x.tflite", PICTURES)
    assert everything_in(tmp_path) == [("file", b"")]


def test_a_full_disk_leaves_the_old_export(model, no_conversion, monkeypatch, tmp_path):
    no_conversion(model)
    export("savedmodel", model, NAMES, tmp_path / "exported", PICTURES)
    before = everything_in(tmp_path)

    def full(path, to):
        if path.name == "part":
            raise OSError(28, "No space left on device")
        rename(path, to)

    monkeypatch.setattr(exports, "rename", full)
    with pytest.raises(CannotWrite, match="exported can't be written: No space left on device"):
        export("savedmodel", model, NAMES[::-1], tmp_path / "exported", PICTURES)
    assert everything_in(tmp_path) == before


def test_a_full_disk_as_tensorflow_says_it(model, monkeypatch, tmp_path):
    def full(*arguments):
        raise tf.errors.ResourceExhaustedError(None, None, "x; No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(CannotWrite, match=r"exported can't be written: .*No space left on device"):
        export("savedmodel", model, NAMES, tmp_path / "exported", PICTURES)


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_model_larger_than_such_files_can_be_is_refused_at_once(kind, model, monkeypatch, tmp_path):
    monkeypatch.setattr(exports, "LARGEST_FILE", 4000)
    with pytest.raises(ExportError, match=rf"{kind} files end at 0\.0 GB, .*choose --to savedmodel"):
        export(kind, model, NAMES, tmp_path / "exported", PICTURES)


# ------------------------------------------------------------------------------------------ the documents
def test_the_documents_example_runs_without_tensorflow(model, tmp_path):
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^```python\n(import json\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    export("onnx", model, NAMES, tmp_path / "cifar10-001.onnx", PICTURES)
    Image.fromarray(PICTURES[5]).resize((50, 30), Image.NEAREST).save(tmp_path / "cat.jpg", quality=95)
    example += "\nimport sys\nassert 'tensorflow' not in sys.modules\nprint(np.asarray(picture).tolist())"
    done = subprocess.run([sys.executable, "-X", "utf8", "-c", example], cwd=tmp_path, capture_output=True,
                          encoding="utf-8", env=child_environment())
    assert done.returncode == 0, done.stderr
    answer, picture = done.stdout.splitlines()
    shares = softmax(model(np.array([json.loads(picture)], np.uint8)).numpy()[0])
    assert answer == f"CPUExecutionProvider {NAMES[shares.argmax()]} {shares.max():.1%}"
