"""Adam against the paper's algorithm in numpy and against Keras's own."""
import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from vision_transformer.optimizer import Adam

SHAPES = [(2, 3), (5,), (7, 1, 2)]


def make_variables():
    rng = np.random.default_rng(0)
    return [tf.Variable(rng.normal(size=shape).astype(np.float32)) for shape in SHAPES]


def gradients_of(step):
    rng = np.random.default_rng(step + 1)
    return [tf.constant(rng.normal(size=shape).astype(np.float32)) for shape in SHAPES]


def test_equals_the_papers_algorithm():
    variables = make_variables()
    expected = [v.numpy().astype(np.float64) for v in variables]
    first, second = ([np.zeros(shape) for shape in SHAPES] for _ in range(2))
    optimizer = Adam(variables, 0.01, beta_1=0.8, beta_2=0.95, epsilon=1e-7)
    for step in range(12):
        assert optimizer.apply(gradients_of(step), tf.constant(step))
        for i, g in enumerate(gradients_of(step)):
            g = g.numpy().astype(np.float64)
            first[i], second[i] = 0.8 * first[i] + 0.2 * g, 0.95 * second[i] + 0.05 * g * g
            mean, square = first[i] / (1 - 0.8 ** (step + 1)), second[i] / (1 - 0.95 ** (step + 1))
            expected[i] -= 0.01 * mean / (np.sqrt(square) + 1e-7)
    for variable, value in zip(variables, expected):
        np.testing.assert_allclose(variable, value, atol=2e-6)


def test_equals_keras():
    ours, theirs = make_variables(), make_variables()
    optimizer, reference = Adam(ours, 0.003), keras.optimizers.Adam(0.003)
    for step in range(5):
        optimizer.apply(gradients_of(step), tf.constant(step))
        reference.apply_gradients(zip(gradients_of(step), theirs))
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_learning_rate_can_change_on_the_way():
    variables = make_variables()
    optimizer = Adam(variables, 0.01)
    optimizer.apply(gradients_of(0), tf.constant(0))
    before = [v.numpy() for v in variables]
    optimizer.learning_rate.assign(0.0)
    optimizer.apply(gradients_of(1), tf.constant(1))
    for variable, value in zip(variables, before):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_changes_from_the_first_bad_gradient_on(bad):
    variables = make_variables()
    optimizer = Adam(variables, 0.01)
    for step in range(3):
        optimizer.apply(gradients_of(step), tf.constant(step))
    kept = [v.numpy() for v in (*variables, optimizer.mean, optimizer.square)]
    poisoned = gradients_of(3)
    poisoned[1] = tf.constant([0, 0, bad, 0, 0], tf.float32)
    assert not optimizer.apply(poisoned, tf.constant(3))
    assert not optimizer.apply(gradients_of(4), tf.constant(4))
    assert optimizer.failed_step.numpy() == 3
    for now, before in zip((*variables, optimizer.mean, optimizer.square), kept):
        np.testing.assert_array_equal(now, before)


def test_sparse_gradients_count():
    table = tf.Variable(np.ones((4, 3), np.float32))
    optimizer = Adam([table], 0.5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(table, [2, 2]))
    optimizer.apply(tape.gradient(loss, [table]), tf.constant(0))
    np.testing.assert_allclose(table, [[1] * 3, [1] * 3, [0.5] * 3, [1] * 3], atol=1e-5)
