"""benchmarks/start_up.py: both ways get to the end of a first step, and the table."""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import start_up

from vision_transformer.datasets import load_dataset


@pytest.mark.slow
@pytest.mark.parametrize("way", start_up.WAYS)
def test_a_way_trains_its_first_step(way, tmp_path, monkeypatch):
    monkeypatch.setattr(start_up, "BATCHES", dict.fromkeys(start_up.BATCHES, 130))
    start_up.write_pictures(tmp_path)
    assert load_dataset("cifar10", tmp_path).train.images.shape == (650, 32, 32, 3)
    start_up.WAYS[way](str(tmp_path))


def test_a_run_is_measured_from_without_and_tells_its_cpu_seconds(tmp_path, monkeypatch):
    script = tmp_path / "child.py"
    script.write_text("import sys, time\nassert sys.argv[1:] == ['--serve', 'mine', 'there']\ntime.sleep(0.5)\n"
                      "print('something else')\nprint(7.25)\n")
    monkeypatch.setattr(start_up, "__file__", str(script))
    seconds, cpu = start_up.measure("mine", "there")
    assert 0.5 < seconds < 60 and cpu == 7.25


def test_a_row_has_medians_spread_and_ratios_of_the_same_turn():
    ours, theirs = [(10, 20), (11, 22), (30, 18)], [(20, 20), (20, 20), (20, 20)]
    assert start_up.line("ours", ours, theirs) == "| ours | 11.0 (10.0 to 30.0) | 0.55 | 20.0 (18.0 to 22.0) | 1.00 |"
