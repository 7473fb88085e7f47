"""The table in docs/directml.md is what the emulated device counts: no change makes a step dearer unseen."""
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAD = "| step of 128 pictures |"


def table(text):
    return text[text.index(HEAD):].partition("\n\n")[0].strip().splitlines()


@pytest.mark.emulator
def test_the_documented_counts_are_counted_again():
    done = subprocess.run([sys.executable, "benchmarks/directml_step.py"], cwd=ROOT, capture_output=True,
                          encoding="utf-8", check=True)
    documented = table((ROOT / "docs" / "directml.md").read_text(encoding="utf-8"))
    assert table(done.stdout) == documented


def test_the_documented_counts_keep_the_promise():
    """Of each training: no compilation, no stop, no op on the CPU; the default at most 1,300 kernels."""
    rows = [[cell.strip() for cell in row.strip("|").split("|")]
            for row in table((ROOT / "docs" / "directml.md").read_text(encoding="utf-8"))[2:]]
    ours = [row for row in rows if "train_cifar10.py" in row[0]]
    assert len(ours) >= 7 and int(ours[0][1].replace(",", "")) <= 1300
    assert {tuple(row[2:]) for row in ours} == {("0", "0", "0")}
    assert [row[2:] for row in rows if row[0] == "evaluate, predict"] == [["0", "1", "0"]]
