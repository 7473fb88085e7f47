"""Both ways between this project and the transformers library, which runs in a Python of its own.

TORCH_PYTHON names one that has tests/requirements-torch.txt; without that it is made, once, in the user's cache folder.
"""
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reference import randomize

from vision_transformer.hugging_face import export_hugging_face
from vision_transformer.pretrained import load_pretrained

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def torch_python():
    """The path of a Python with torch and transformers."""
    if "TORCH_PYTHON" in os.environ:
        return os.environ["TORCH_PYTHON"]
    needs = HERE / "requirements-torch.txt"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vision-transformer-directml"
    venv = cache / f"torch-{hashlib.sha256(needs.read_bytes() + sys.version.encode()).hexdigest()[:16]}"
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (venv / "whole").exists():
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", needs], check=True)
        (venv / "whole").touch()
    return python


def run(python, *words):
    done = subprocess.run([python, *map(str, words)], capture_output=True, encoding="utf-8",
                          env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def published(torch_python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    run(torch_python, HERE / "stored" / "make_published.py", folder, *SIZES)
    return folder


SIZES = ("tiny", "tiny-teacher", "base")


@pytest.mark.parametrize("name", SIZES)
def test_logits_equal_those_of_transformers(published, name):
    model = load_pretrained(published / name).model
    ours, theirs = model(np.load(published / name / "images.npy")).numpy(), np.load(published / name / "logits.npy")
    difference = np.abs(ours - theirs).max()
    print(f"{name}: logits up to {np.abs(theirs).max():.2f}, largest difference {difference:.1e}")
    assert theirs.shape == (3, 1000) and difference < 1e-5 < 0.5 < np.abs(theirs).max()


@pytest.mark.parametrize("changes, kind", [
    ({}, "ViTForImageClassification"), ({"embedding": "convolution"}, "ViTForImageClassification"),
    ({"image_shape": (8, 8, 3)}, "ViTForImageClassification"),
    ({"register_tokens": 1}, "DeiTForImageClassification"),
    ({"register_tokens": 1, "read_registers": 1}, "DeiTForImageClassificationWithTeacher")])
def test_transformers_loads_what_is_exported_with_the_same_logits(torch_python, make_model, tmp_path, changes, kind):
    model = make_model(pool="cls", classifier="linear", pixel_mean=[120, 110, 100], pixel_deviation=[60, 61, 62],
                       **changes)
    randomize(model)
    export_hugging_face(model, ["one", "two", "drei", "vier", "fünf"], tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (4, *model.config["image_shape"])).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    run(torch_python, HERE / "stored" / "read_exported.py", tmp_path)
    theirs = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(model(images), theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())
    assert (tmp_path / "loaded.txt").read_text(encoding="utf-8") == f"{kind} two"
