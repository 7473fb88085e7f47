"""docs/results.md, "The weights": the commands that make a release file and take it up again, as typed."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from peak_memory import child_environment

from vision_transformer.__main__ import main

ROOT = Path(__file__).parents[1]


def blocks():
    """The commands of the section, block by block."""
    document = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    section = document.split("\n## The weights\n")[1].split("\n## ")[0]
    return re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def shell(commands, folder):
    """Runs commands as a user would, in an environment whose `python` is this one."""
    environment = child_environment()
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    done = subprocess.run(commands, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(os.name != "posix", reason="the shell's words are for a POSIX shell")
def test_a_release_file_is_made_and_taken_up(digits_run, tmp_path, digit_files, capsys):
    make, take = blocks()
    [training, *pack] = make.splitlines()
    assert training.startswith("python train_cifar10.py --recipe hybrid ")
    shutil.copytree(digits_run, tmp_path / "runs" / "cifar10-001")
    shell("\n".join(pack), tmp_path)
    shutil.rmtree(tmp_path / "runs")
    said = shell(take.replace(" --data-dir D", ""), tmp_path)
    results = json.loads((digits_run / "results.json").read_text(encoding="utf-8"))
    assert f"test accuracy {results['test_accuracy']:.2%}" in said
    assert main(["predict", str(tmp_path / "hybrid-cifar10"), digit_files[0][0]]) == 0
    released, trained = capsys.readouterr().out, main(["predict", str(digits_run), digit_files[0][0]])
    assert released == capsys.readouterr().out and not trained
