"""benchmarks/pipeline.py: what its ways make of a list, how it measures, and the table it prints."""
import io
import json
import sys
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import pipeline
import pipeline_sample
import pipeline_tensorflow as ways

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 11, 13, 3), np.uint8)


@pytest.mark.filterwarnings("ignore:The `deterministic` argument has no effect")
@pytest.mark.parametrize(("way", "amounts"), [
    (ways.ours, {"mixup": 0.2, "alternating_flip": True, "contrast": 0.2}),
    (ways.our_transforms, {"hue": 0.1}), (ways.keras_layers, {"flip_horizontal": 0.5, "contrast": 0.2})])
def test_a_way_makes_float_batches_that_differ(way, amounts):
    batches, lacks = way(IMAGES, amounts)
    first, second = (np.asarray(batch) for batch in islice(batches, 2))
    assert first.shape == IMAGES.shape and first.dtype == np.float32 and not lacks
    assert not np.array_equal(first, second) and not np.array_equal(first, IMAGES)


def test_keras_tells_what_it_lacks():
    batches, lacks = ways.keras_layers(IMAGES, {"contrast": 0.2, "hue": 0.1})
    assert batches and lacks == ({"hue"} if keras.__version__[0] == "2" else set())
    if keras.__version__[0] == "2":
        assert ways.keras_layers(IMAGES, pipeline.LISTS["RandAugment"]) == (None, {"policy"})


def test_the_samples_way_leaves_as_many_pictures_alone_as_its_coins_do():
    tf.random.set_seed(None)                            # with one, all coins of a picture would fall alike
    original = {image.tobytes() for image in IMAGES.astype(np.float32)}
    batches, lacks = pipeline_sample.sample(IMAGES, {})
    batch = np.concatenate(list(islice(batches, 4)))
    assert batch.shape == (512, *IMAGES.shape[1:]) and not lacks
    alone = 0.86 ** 3 * (0.93 ** 2 + 0.07 ** 2) * 0.93  # half of the flips do nothing, and two undo each other
    assert abs(np.mean([image.tobytes() in original for image in batch]) - alone) < 0.1


def test_the_resampling_turns():
    batches, _ = ways.resampling(IMAGES, {"rotation": 15})
    first, second = islice(batches, 2)
    np.testing.assert_array_equal(first, second)
    assert not np.isclose(first[0], IMAGES[0]).all()


@pytest.mark.parametrize(("seconds", "taken"), [(0.25, 3), (5.0, 2)])
def test_a_turn_takes_as_long_as_said_or_as_two_batches(monkeypatch, seconds, taken):
    clock = SimpleNamespace(now=0.0, taken=0)

    def batches():
        while True:
            clock.now, clock.taken = clock.now + seconds, clock.taken + 1
            yield IMAGES

    monkeypatch.setattr(pipeline, "time", SimpleNamespace(process_time=lambda: clock.now))
    assert pipeline.take(batches()) == 16 * taken and clock.taken == taken


def test_a_files_process_tells_its_rows_and_measures_those_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(pipeline, "WAYS", {
        "mine": ("numpy", "pipeline_tensorflow", "mine", ["all"]),
        "none": ("numpy", "pipeline_tensorflow", "none", ["all"]),
        "theirs": ("sparkle", "pipeline_tensorflow", "theirs", ["all"]),
        "elsewhere": ("numpy", "pipeline_torch", "elsewhere", ["all"])})
    monkeypatch.setattr(ways, "mine", lambda images, _: ((images for _ in count()), {"shear", "hue"}), raising=False)
    monkeypatch.setattr(ways, "none", lambda *_: (None, {"hue"}), raising=False)
    monkeypatch.setattr(pipeline, "take", lambda batches: len(next(batches)))
    monkeypatch.setattr(pipeline, "time", SimpleNamespace(process_time=iter([1.0, 3.0, 8.0]).__next__))
    answers = io.StringIO()
    monkeypatch.setattr(sys, "stdout", answers)
    monkeypatch.setattr(sys, "stdin", io.StringIO("0\n0\n"))
    pipeline.serve("pipeline_tensorflow")
    first, *rates = map(json.loads, answers.getvalue().splitlines())
    rows = [["mine", "all", "hue, shear"], ["none", "all", "hue"],
            ["theirs", "", "not installed here: pip install sparkle"]]
    assert first == [{"numpy": np.__version__}, rows, [0]]
    assert rates == [pipeline.BATCH / 2, pipeline.BATCH / 5]


class File:
    """Has five rows, and never turns to the same one twice in a row."""

    def __init__(self, file, python):
        self.versions, self.prepared = {file: python}, [0, 1, 2, 3]
        self.rows = [["mine", "all", "hue"], [pipeline.OURS_ALONE, "all", ""], [pipeline.RESAMPLING, "all", ""],
                     [pipeline.SAMPLE, pipeline.AS_IT_IS, ""], ["theirs", "", "not installed here"]]
        self.rates, self.child = {number: [] for number in self.prepared}, SimpleNamespace(end=lambda: None)
        self.last = None

    def turn(self, number):
        assert number != self.last
        self.last = number
        self.rates[number].append([20_500.0, 30_000.0, 20_000.0, 4_000.0][number] + [0, 50, 10, -50, 2][
            len(self.rates[number])])


def test_the_table_has_medians_spread_and_ratios(monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "File", File)
    pipeline.compare({"this file": "this python"})
    printed = capsys.readouterr().out
    assert "this file this python" in printed and "of 5 turns" in printed
    assert [line for line in printed.splitlines() if line.startswith("| ")][1:] == [
        "| mine | all | 20,502 (20,450 to 20,550) | 5.12 | hue |",
        f"| {pipeline.OURS_ALONE} | all | 30,002 (29,950 to 30,050) | 7.5 |  |",
        f"| {pipeline.RESAMPLING} | all | 20,002 (19,950 to 20,050) | 5 |  |",
        f"| {pipeline.SAMPLE} | {pipeline.AS_IT_IS} | 4,002 (3,950 to 4,050) | 1 |  |",
        "| theirs |  |  |  | not installed here |"]
    assert "reach 150% of the rate of" in printed


def test_a_file_that_does_not_run_says_how_to_see_why():
    with pytest.raises(RuntimeError, match=r"^--nothing does not run here; .* --serve --nothing shows why$"):
        pipeline.File("--nothing", sys.executable)


def test_every_list_of_a_way_exists():
    assert {name for *_, lists in pipeline.WAYS.values() for name in lists} == set(pipeline.LISTS)
