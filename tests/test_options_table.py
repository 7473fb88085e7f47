"""docs/options.md against what benchmarks/options.py prints, and against the scripts."""
import sys
from pathlib import Path

import pytest

from vision_transformer.settings import read_constants

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import options  # noqa: E402

DOCUMENT = (ROOT / "docs" / "options.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("flags", options.OPTIONS)
def test_the_document_shows_what_the_command_prints(flags):
    assert options.line(flags) in DOCUMENT


def test_the_document_has_no_other_rows_in_that_table():
    start = DOCUMENT.index(options.HEAD.splitlines()[0])
    rows = DOCUMENT[start + 2:DOCUMENT.index("", start)]
    assert [row.split("|")[1].strip().strip("`") for row in rows] == [flags or "none" for flags in options.OPTIONS]


def test_every_constant_of_the_pictures_and_of_training_is_in_the_document():
    text = "\n".join(DOCUMENT)
    groups = ("model", "augmentation", "mixing", "optimizer", "task", "training")
    known = {"--patch-size", "--number-of-layers", "--embedding-dim", "--num-heads", "--mlp-hidden-dim", "--dropout",
             "--classifier-dropout", "--blocks-per-stage", "--first-width", "--fill-mode", "--beta-2", "--top-k",
             "--epochs", "--save-every"}        # numbers without an idea to explain; --help has them
    for constant in read_constants(ROOT / "examples" / "train_image_folder.py")[1]:         # has all others', too
        assert constant.group not in groups or constant.flag in known or constant.flag in text, constant.flag
