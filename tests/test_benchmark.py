"""The benchmark: what is counted in a stretch of time, what the figures mean, and whole runs of the command."""
import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import train_digits
from vision_transformer.__main__ import main
from vision_transformer.batches import training_batches
from vision_transformer.commands import benchmark
from vision_transformer.commands.benchmark import Speed, figure, measure, table, verdict
from vision_transformer.datasets import Split
from vision_transformer.dry_run import Training
from vision_transformer.settings import read_constants
from vision_transformer.training import READ_EVERY

ROOT = Path(__file__).parents[1]
SMALL = ["--number-of-layers", "1", "--embedding-dim", "12", "--num-heads", "3", "--epochs", "1"]
PARTS = ("pipeline", "train step", "together", "inference")


# ------------------------------------------------------------------------------------------ measuring
class Clock:
    """Pretends a device: each batch takes time of the clock and, twice as much, of the CPU."""

    def __init__(self, monkeypatch, seconds):
        self.seconds, self.now, self.cpu, self.calls = iter(seconds), 0.0, 0.0, []
        monkeypatch.setattr(benchmark.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(benchmark.time, "process_time", lambda: self.cpu)

    def batch(self):
        took = next(self.seconds)
        self.now, self.cpu = self.now + took, self.cpu + 2 * took
        self.calls.append("batch")

    def wait(self):
        self.now += 0.25
        self.calls.append("wait")


def test_rates_leave_out_the_warm_up_and_count_the_waiting(monkeypatch):
    # Stretches of 1 s: a slow warm-up, then 4, 4, 2, 1 and 4 whole batches, each stretch ended by a wait of 1/4 s.
    clock = Clock(monkeypatch, [7.0, *[0.25] * 8, *[0.5] * 2, 3.0, *[0.25] * 4])
    speed = measure(clock.batch, clock.wait, batch_size=13, seconds=5.0)
    assert speed.stretches == [4 * 13 / 1.25, 4 * 13 / 1.25, 2 * 13 / 1.25, 13 / 3.25, 4 * 13 / 1.25]
    assert speed.median == 4 * 13 / 1.25
    assert speed.per_cpu_second == 15 * 13 / (2 * (12 * 0.25 + 2 * 0.5 + 3.0))


def test_the_device_is_read_as_in_a_training(monkeypatch):
    clock = Clock(monkeypatch, itertools.repeat(1 / 1024))
    measure(clock.batch, clock.wait, batch_size=13, seconds=2.0)
    assert clock.calls[-1] == "wait"
    in_a_row = [len(list(group)) for kind, group in itertools.groupby(clock.calls) if kind == "batch"]
    assert len(in_a_row) > 6 and max(in_a_row) == READ_EVERY


def test_a_cpu_clock_that_has_not_moved_gives_no_error(monkeypatch):
    clock = Clock(monkeypatch, itertools.repeat(0.5))
    monkeypatch.setattr(benchmark.time, "process_time", lambda: 3.0)
    assert measure(clock.batch, clock.wait, batch_size=13, seconds=1.0).per_cpu_second > 0


def test_each_part_does_its_own_work_only(monkeypatch):
    log = []

    class Pretended:
        """A trainer, its task and a tensor in one, which writes down what is done with it."""
        batch_size = 3
        task = totals = property(lambda self: self)

        def train_step(self, batches):
            return lambda step, images, labels: log.append(int(step))

        def predict_step(self, images):
            log.append(images.shape.as_list())
            return self

        def numpy(self):
            log.append("read")

    def nine_batches(one_batch, wait, batch_size, seconds):
        del log[:]
        for _ in range(9):
            one_batch()
        assert (wait(), log.pop(), batch_size, seconds) == (None, "read", 3, 0.5)
        return list(log)

    monkeypatch.setattr(benchmark, "measure", nine_batches)
    split = Split(np.zeros((21, 2, 5, 1), np.uint8), np.zeros(21, np.int64))
    training = Training(Pretended(), training_batches(split, batch_size=3, epochs=1, seed=0), split)
    assert benchmark.measure_parts(training, 0.5)[1] == {
        "pipeline": [], "train step": [0] * 9, "together": [*range(7), 0, 1], "inference": [[3, 2, 5, 1], "read"] * 9}


# ------------------------------------------------------------------------------------------ what it means
def speeds(pipeline, step, together, cpu=(1.0, 1.0)):
    """Speeds of the three parts, the middle of five stretches that differ, and per CPU second."""
    def speed(middle, per_cpu_second=1.0):
        return Speed([middle * f for f in (1.3, 0.4, 1.0, 0.9, 1.1)], per_cpu_second)
    return {"pipeline": speed(pipeline, cpu[0]), "train step": speed(step, cpu[1]), "together": speed(together)}


def said(*arguments):
    return "\n".join(verdict(*arguments, "train_mine.py"))


CONSTANTS = {"ROTATION": 15.0, "ZOOM": 0.0, "ERASING": 0.25, "DROPOUT": 0.1, "CLASSIFIER_DROPOUT": 0.0}


@pytest.mark.parametrize("pipeline, step, limit", [
    (89, 100, "the input pipeline limits"), (91, 100, "neither limits"), (100, 100, "neither limits"),
    (100, 91, "neither limits"), (100, 89, "the train step limits")])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_slower_part_limits_beyond_a_margin_of_a_tenth(pipeline, step, limit, on_gpu):
    text = said(speeds(pipeline, step, 85), CONSTANTS, on_gpu)
    assert [words for words in ("the input pipeline limits", "the train step limits", "neither limits")
            if words in text] == [limit]
    assert ("augmentations on: ROTATION 15, ERASING 0.25\n" in text) == (limit != "the train step limits")
    assert ("a smaller model is faster" in text) == (limit != "the input pipeline limits")
    assert ("BATCH_SIZE" in text) == ("doctor --ops train_mine.py" in text) == (
        on_gpu and limit != "the input pipeline limits")
    assert ("more CPU cores make more pictures" in text) == (on_gpu and limit != "the train step limits")


def test_a_slow_pipeline_on_a_gpu():
    assert said(speeds(400, 1000, 380), CONSTANTS, True).splitlines() == [
        "the input pipeline limits: the GPU could train 2.6 times as fast",
        "  augmentations on: ROTATION 15, ERASING 0.25",
        "  what one costs: this command again without it, e.g. with --rotation 0",
        "  more CPU cores make more pictures"]


def test_a_slow_step_on_a_cpu():
    assert said(speeds(3000, 1000, 700, cpu=(900, 300)), CONSTANTS, False).splitlines() == [
        "pipeline and train step share the CPU: 25% of its time goes to pictures",
        "the train step limits",
        "  a smaller model is faster: NUMBER_OF_LAYERS, EMBEDDING_DIM, MLP_HIDDEN_DIM",
        "  so are fewer tokens: a larger PATCH_STRIDE",
        "  dropout is on: what it costs, this command tells with --dropout 0"]


def test_only_what_is_on_is_named():
    off = dict.fromkeys(CONSTANTS, 0.0)
    assert "no augmentation is on: " in said(speeds(400, 1000, 380), off, False)
    assert "dropout is on" not in said(speeds(1000, 400, 380), off, False)
    both = {**CONSTANTS, "CLASSIFIER_DROPOUT": 0.2}
    assert "with --dropout 0 --classifier-dropout 0" in said(speeds(1000, 400, 380), both, True)


@pytest.mark.parametrize("pipeline, step, together, says", [
    (1000, 400, 310, "only 78% of the slower one alone"), (400, 1000, 200, "only 50% of the slower one alone"),
    (400, 1000, 330, "")])
def test_parts_of_a_gpu_training_that_disturb_each_other(pipeline, step, together, says):
    text = said(speeds(pipeline, step, together), CONSTANTS, True)
    assert says in text and ("together they reach" in text) == bool(says)
    assert "together they reach" not in said(speeds(pipeline, step, together), CONSTANTS, False)


def test_the_names_of_the_augmentations_are_the_scripts():
    ways = ("FILL_MODE", "POLICY_OPERATIONS", "POLICY_STRENGTH", "PLAIN_SHARE")     # how, not whether
    group = [c.name for c in read_constants(ROOT / "train_cifar10.py")[1] if c.group in ("augmentation", "mixing")]
    assert list(benchmark.AUGMENTATIONS) == [name for name in group if name not in ways]


def test_a_policy_alone_is_advised_against_as_the_text_that_it_is():
    assert "without it, e.g. with --policy=" in said(speeds(100, 400, 90), {"POLICY": "trivial"}, False)


@pytest.mark.parametrize("value, text", [(24310.4, "24,310"), (99.6, "100"), (3.24, "3.2"), (0.0213, "0.021")])
def test_figures_have_two_digits_that_count(value, text):
    assert figure(value) == text


def test_the_table_lines_up():
    lines = table({"pipeline": Speed([24310.4, 9.0, 1e6], 1234.5), "train step": Speed([0.7, 0.5, 0.9], 0.25)})
    assert lines.splitlines() == [
        "images per second    median    lowest   highest  per CPU second",
        "pipeline             24,310         9 1,000,000           1,234",
        "train step              0.7       0.5       0.9            0.25"]


# ------------------------------------------------------------------------------------------ the whole command
def check_output(output, batch_size):
    """Checks what the command printed: all parts, and figures that agree with each other."""
    def number(text):
        return float(text.replace(",", ""))

    for start in ("device    ", "versions  Python ", f"batch     {batch_size} pictures of 8x8x1\n",
                  "measuring start-up, pipeline, train step, together, inference\n"):
        assert re.search("^" + re.escape(start), output, re.MULTILINE), start
    rows = {part: list(map(number, re.search(rf"^{part}" + r" +(\S+)" * 4 + "$", output, re.MULTILINE).groups()))
            for part in PARTS}
    for median, lowest, highest, per_cpu_second in rows.values():
        assert 0 < lowest <= median <= highest and per_cpu_second > 0
    starts = re.search(r"^start-up: first batch (\S+) s, first train step (\S+) s, first inference (\S+) s$", output,
                       re.MULTILINE).groups()
    assert all(number(s) > 0 for s in starts)
    trained, pictures, validated, held_out = map(number, re.search(
        r"^an epoch: about (\S+) s for (\S+) training pictures, (\S+) s for (\S+) validation pictures$", output,
        re.MULTILINE).groups())
    assert pictures == 1221 // batch_size * batch_size and held_out == 216
    assert trained == pytest.approx(pictures / rows["together"][0], rel=0.06)            # two digits are printed
    assert validated == pytest.approx(held_out / rows["inference"][0], rel=0.06)
    share = number(re.search(r"share the CPU: (\S+)% of its time", output)[1])
    costs = [1 / rows[part][3] for part in ("pipeline", "train step")]
    assert share == pytest.approx(100 * costs[0] / sum(costs), abs=1)
    assert re.search("^(the input pipeline limits|the train step limits|neither limits)", output, re.MULTILINE)


def test_a_script_with_flags_is_measured_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", "--seconds", "0.2", str(ROOT / "train_digits.py"), *SMALL, "--batch-size", "37",
                 "--dropout", "0.1"]) == 0
    output = capsys.readouterr().out
    check_output(output, 37)
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_is_measured_as_it_was_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_digits.py"])
    train_digits.main([*SMALL, "--batch-size", "41", "--run-folder", str(tmp_path / "runs")])
    files = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    monkeypatch.chdir(ROOT)
    assert main(["benchmark", "--seconds", "0.2", str(tmp_path / "runs" / "digits-001")]) == 0
    check_output(capsys.readouterr().out, 41)
    assert sorted(tmp_path.rglob("*")) == files


def test_on_a_gpu_the_verdict_is_a_gpus(monkeypatch, capsys):
    measured = {**speeds(400, 1000, 200), "inference": Speed([3000.0], 1.0)}

    def pretend(*_):
        monkeypatch.setattr(benchmark.tf.config, "get_visible_devices", lambda kind: [kind])
        return {"batch": 0.5}, measured

    monkeypatch.setattr(benchmark, "measure_parts", pretend)
    assert main(["benchmark", str(ROOT / "train_digits.py"), *SMALL]) == 0
    output = capsys.readouterr().out
    assert "share the CPU" not in output and "the GPU could train 5.0 times as fast" in output
    assert "augmentations on: ROTATION 10, ZOOM 0.1, TRANSLATION 0.125" in output
    assert "together they reach only 50%" in output


FIT = """
import numpy as np
from tensorflow import keras
model = keras.Sequential([keras.layers.Dense(5)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(np.zeros((11, 3)), np.zeros(11))
"""


@pytest.mark.parametrize("words, says", [
    (["missing.py"], "'missing.py' is neither a training script nor a run folder here"),
    ([""], "is no run folder"),
    (["fits.py"], r"fits\.py trains by keras\.Model\.fit, .* scripts that train by vision_transformer\.Trainer"),
    (["idle.py"], r"idle\.py ended without training"),
    (["--seconds", "0", "idle.py"], "--seconds 0 is no time to measure for"),
    (["--seconds", "-1", "idle.py"], "--seconds -1 is no time"),
    (["--seconds", "nan", "idle.py"], "--seconds nan is no time"),
    (["--seconds", "inf", "idle.py"], "--seconds inf is no time"),
])
def test_what_can_not_be_measured_is_refused(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    Path("fits.py").write_text(FIT, encoding="utf-8")
    Path("idle.py").write_text("print('hello')", encoding="utf-8")
    with pytest.raises(ValueError, match=says):
        main(["benchmark", *words])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("flags, code, says", [
    (["--batch-size", "many"], 2, "train_digits.py: --batch-size takes a whole number, not 'many'"),
    (["--top-k", "11"], 2, "TOP_K is 11; choose a whole number from 2 to 10"),
    (["--seconds", "1"], 2, "train_digits.py: unknown flag --seconds"),
    (["--help"], None, "--patch-size"), (["-h"], None, "--patch-size"),
])
def test_words_after_the_script_are_the_scripts(capsys, flags, code, says):
    with pytest.raises(SystemExit) as stop:
        main(["benchmark", str(ROOT / "train_digits.py"), *flags])
    output = capsys.readouterr()
    assert (stop.value.code or None) == code and says in (output.err if code else output.out)
