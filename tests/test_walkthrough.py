"""examples/walkthrough.ipynb, from top to bottom, in a folder of its own; its cells assert what they say."""
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = ("examples", "vision_transformer", "train_digits.py", "data_augmentations.py")


@pytest.mark.slow
def test_the_walkthrough_runs_and_shows_its_pictures(tmp_path):
    import nbformat
    from nbclient import NotebookClient
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    notebook = nbformat.read(tmp_path / "examples" / "walkthrough.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without what it printed"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path / "examples")}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 8
    said = "".join(output.get("text", "") for output in outputs)
    assert "test accuracy" in said and "of 360 test pictures are right" in said
    assert (tmp_path / "runs" / "walkthrough" / "digits-001" / "report.html").is_file()
