"""Schedules against formulas worked by hand, and against Keras's where it has them."""
import math

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from vision_transformer.schedules import SCHEDULES, make_schedule

TOTAL = 41


def factors(name, warmup_epochs=0, epochs=TOTAL, steps_per_epoch=1):
    schedule = make_schedule(name, steps_per_epoch, epochs, warmup_epochs)
    return np.array([schedule(tf.constant(step)).numpy() for step in range(steps_per_epoch * epochs)])


@pytest.mark.parametrize("name", ["plateau", "constant"])
def test_plateau_and_constant_leave_the_learning_rate_as_it_is(name):
    assert factors(name).tolist() == [1.0] * TOTAL


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_warm_up_is_a_line_to_the_full_rate(name):
    with_warmup = factors(name, warmup_epochs=7)
    np.testing.assert_allclose(with_warmup[:7], np.arange(1, 8) / 7, rtol=1e-6)
    assert with_warmup[7] == pytest.approx(1)
    assert (np.diff(with_warmup[7:]) <= 1e-6).all()


@pytest.mark.parametrize("warmup", [0, 7])
def test_cosine_equals_keras(warmup):
    theirs = keras.optimizers.schedules.CosineDecay(1.0, TOTAL - warmup)
    expected = [theirs(step).numpy() for step in range(TOTAL - warmup)]
    np.testing.assert_allclose(factors("cosine", warmup)[warmup:], expected, atol=1e-6)


def test_one_cycle_is_two_straight_lines():
    steps = np.arange(TOTAL)
    expected = np.where(steps < 10, (steps + 1) / 10, 1 - (steps - 10) / 31)           # up for 10, a quarter of 41
    np.testing.assert_allclose(factors("one-cycle"), expected, rtol=1e-5)
    expected = np.where(steps < 17, (steps + 1) / 17, 1 - (steps - 17) / 24)
    np.testing.assert_allclose(factors("one-cycle", warmup_epochs=17), expected, rtol=1e-5)


def test_step_drops_twice():
    expected = [1.0] * 12 + [0.1] * 5 + [0.01] * 3
    np.testing.assert_allclose(factors("step", epochs=4, steps_per_epoch=5), expected, rtol=1e-6)


def test_step_drops_behind_the_warm_up():
    expected = [*np.arange(1, 11) / 10, *[1.0] * 6, *[0.1] * 3, 0.01]             # of the 10 steps behind it: 6, 8.5
    np.testing.assert_allclose(factors("step", warmup_epochs=2, epochs=4, steps_per_epoch=5), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "one-cycle"])
def test_falling_schedules_end_near_0_and_stay_there(name):
    assert 0 < factors(name)[-1] < 0.04
    assert make_schedule(name, 2, TOTAL, 3)(tf.constant(3 * TOTAL)).numpy() == pytest.approx(0, abs=1e-6)


def test_a_warm_up_may_be_part_of_an_epoch():
    np.testing.assert_allclose(factors("constant", 0.5, epochs=3, steps_per_epoch=4)[:4], [0.5, 1, 1, 1])


def test_factors_are_made_on_the_host_and_named_so():
    graph = tf.function(make_schedule("cosine", 1, 5, 2), input_signature=[tf.TensorSpec((), tf.int32)])
    nodes = graph.get_concrete_function().graph.as_graph_def().node
    made = [node for node in nodes if node.op in ("Cast", "Cos", "Mul", "SelectV2")]
    assert len(made) > 3 and all("CPU" in node.device and node.name.startswith("on_host") for node in made)


@pytest.mark.parametrize("arguments, says", [
    (("cosin", 7, 9), "SCHEDULE 'cosin' is not known; choose one of plateau, constant, cosine, one-cycle, step"),
    (("cosine", 7, 9, 9), "WARMUP_EPOCHS 9 doesn't fit EPOCHS 9; choose from 0 to below 9"),
    (("cosine", 7, 9, -0.5), "WARMUP_EPOCHS -0.5"), (("cosine", 7, 9, math.nan), "WARMUP_EPOCHS nan"),
    (("constant", 7, 0), "EPOCHS is 0"),
])
def test_senseless_schedules_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        make_schedule(*arguments)
