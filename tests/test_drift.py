"""Comparing a GPU with the CPU: what drift is, what rounding does, and what is called wrong."""
import numpy as np
import pytest

from vision_transformer import drift
from vision_transformer.drift import Drift, Steps


def test_drift_is_worked_out_by_hand():
    one = Steps(np.array([2.0, 4.0]), np.array([0.0, 0.0]), np.array([3.0, 4.0]))           # moved by 5
    other = Steps(np.array([2.5, 3.0]), np.array([0.0, 0.0]), np.array([3.0, 3.0]))         # 1 away from it
    assert one.drift(other) == Drift([0.25, 0.25], 0.2)


@pytest.mark.parametrize("weights, loss, normal, says", [
    (3e-5, 2e-8, True, "normal: the GPU's weights drift 1.0 times"),
    (9e-4, 1e-6, True, "the GPU's weights drift 30.0 times"),
    (3e-5, 2e-6, True, "normal: the GPU's losses drift 20.0 times"),
    (0.04, 1e-5, False, "NOT EXACT: the GPU's weights drift 1333.3 times"),
    (3e-5, 1e-3, False, "NOT EXACT: the GPU's losses drift 10000.0 times"),
    (0.3, 1e-5, False, "WRONG: the GPU's weights"), (3e-5, 0.5, False, "WRONG: the GPU's losses"),
    (float("nan"), 1e-6, False, "not finite"), (3e-5, float("inf"), False, "not finite")])
def test_the_verdict_follows_from_the_drift(weights, loss, normal, says):
    verdict = drift.judge(Drift([1e-7, loss], weights), Drift([1e-7], 3e-5))
    assert verdict[0] == normal and says in verdict[1]


def test_training_twice_is_the_same_and_small_errors_are_told_from_large_ones(monkeypatch):
    """On the CPU, in place of a GPU, with errors of known size in the first weights."""
    monkeypatch.setattr(drift, "STEPS", 4)
    monkeypatch.setattr(drift, "BATCH_SIZE", 16)
    cpu = drift.train_on("/CPU:0")
    assert cpu.losses.shape == (4,) and cpu.before.shape == cpu.after.shape
    last_bit = drift.moved_by_last_bit(cpu.before)
    assert 0 < np.abs(last_bit / np.where(cpu.before == 0, 1, cpu.before) - 1)[cpu.before != 0].max() < 2.5e-7
    rounding = cpu.drift(drift.train_on("/CPU:0", last_bit))
    assert 0 < rounding.weights < 1e-3
    noise = np.random.default_rng(0).standard_normal(cpu.before.shape).astype(np.float32)
    for error, normal, says in ((0, True, "drift 0.0 times"), (1e-3, False, "NOT EXACT"),
                                (0.1, False, "WRONG")):
        found = drift.judge(cpu.drift(drift.train_on("/CPU:0", cpu.before * (1 + error * noise))), rounding)
        assert found[0] == normal and says in found[1]
