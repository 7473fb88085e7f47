"""Muon against the decomposition that it does without."""
import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras
from test_optimizer import gradients_of, make_variables

from vision_transformer.architectures import build_model
from vision_transformer.compat import weight_path
from vision_transformer.muon import is_hidden_matrix, orthogonalize
from vision_transformer.optimizer import AdamW

RNG = np.random.default_rng(0)
SHAPES = {"net/block_0/attention/query_key_value/kernel": (4, 12), "net/block_0/mlp/expand/kernel": (4, 7),
          "net/block_0/mlp/contract/kernel": (7, 4), "net/block_1/mlp/contract/kernel": (7, 4),
          "net/patches/convolution_0/kernel": (3, 3, 2, 5), "net/block_0/mlp/expand/bias": (7,),
          "net/classifier/contract/kernel": (7, 3)}
HIDDEN = list(SHAPES)[:5]


def by_decomposition(matrix):
    """The same five polynomials of the singular values alone, in float64."""
    u, s, v = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    s = s / (np.linalg.norm(s) + 1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s ** 3 + 2.0315 * s ** 5
    return u * s @ v


@pytest.mark.parametrize("shape", [(5, 5), (3, 11), (27, 6), (1, 4), (8, 1)])
def test_equals_the_polynomial_of_the_singular_values(shape):
    matrix = RNG.normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(orthogonalize(matrix), by_decomposition(matrix), atol=2e-4)
    both = orthogonalize(np.stack([matrix, -3 * matrix]))                   # how long it is does not matter
    np.testing.assert_allclose(both, np.stack([by_decomposition(matrix), -by_decomposition(matrix)]), atol=2e-4)


@pytest.mark.parametrize("shape", [(64, 192), (432, 48), (192, 384)])
def test_lengths_come_near_1_and_directions_stay(shape):
    matrix = RNG.normal(size=shape) @ np.diag(np.geomspace(1, 0.03, shape[1]))
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    made = u.T @ orthogonalize(matrix.astype(np.float32)).numpy() @ v.T
    lengths = np.diag(made)
    assert lengths.min() > 0.6 and lengths.max() < 1.3
    np.testing.assert_allclose(made - np.diag(np.diag(made)), 0, atol=0.01)


def test_nothing_stays_nothing():
    np.testing.assert_array_equal(orthogonalize(np.zeros((3, 5), np.float32)), 0)


def test_bfloat16_is_used_where_layers_do_and_comes_near():
    matrix = RNG.normal(size=(96, 40)).astype(np.float32)
    exact = orthogonalize(matrix)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        rounded = orthogonalize(matrix)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert rounded.dtype == tf.float32 and (rounded.numpy() != exact.numpy()).any()
    np.testing.assert_allclose(rounded, exact, atol=0.05)


# ------------------------------------------------------------------------------------------ which weights
@pytest.mark.parametrize("changes, others", [
    ({}, {"patches/projection/kernel", "classifier/expand/kernel", "classifier/contract/kernel"}),
    ({"embedding": "hybrid", "pool": "sequence", "classifier": "linear", "token_learner": "v1.1"},
     {"sequence_pooling/score/kernel", "classifier/projection/kernel"}),
    ({"architecture": "resnet", "blocks_per_stage": 1}, {"classifier/kernel"}),
])
def test_all_kernels_are_hidden_but_the_first_projection_and_the_heads(changes, others):
    model = build_model(image_shape=(32, 32, 3), num_classes=10, number_of_layers=1, **changes)
    kernels = {weight_path(v): v.shape for v in model.trainable_variables if weight_path(v).endswith("kernel")}
    assert {path for path, shape in kernels.items() if not is_hidden_matrix(path, shape)} == others
    assert not any(is_hidden_matrix(weight_path(v), v.shape) for v in model.trainable_variables
                   if not weight_path(v).endswith("kernel"))


# ------------------------------------------------------------------------------------------ in the optimizer
FALLING = tf.constant(np.linspace(1, 0.2, 6), tf.float32)
OPTIONS = {"plain": {}, "decay": {"weight_decay": 0.5}, "schedule": {"schedule": lambda step: FALLING[step]},
           "clip": {"clip_norm": 5.0}, "accumulation": {"accumulation_steps": 2, "weight_decay": 0.5}}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_hidden_matrices_move_by_muon_and_all_else_by_adam(options):
    ours, adams = make_variables(SHAPES), make_variables(SHAPES)
    optimizer, adam = AdamW(ours, 0.02, muon=True, **options), AdamW(adams, 0.02, **options)
    weights = {name: v.numpy().astype(np.float64) for name, v in zip(SHAPES, ours)}
    means, every = dict.fromkeys(HIDDEN, 0.0), options.get("accumulation_steps", 1)
    for step in range(6):
        optimizer.apply(gradients_of(step, SHAPES), tf.constant(step))
        adam.apply(gradients_of(step, SHAPES), tf.constant(step))
        if (step + 1) % every:
            continue
        batches = [gradients_of(batch, SHAPES) for batch in range(step + 1 - every, step + 1)]
        gradients = [np.mean(parts, axis=0) for parts in zip(*batches)]
        norm = np.sqrt(sum(np.square(g).sum() for g in gradients))
        rate = 0.02 * (float(FALLING[step]) if "schedule" in options else 1)
        for name, gradient in zip(SHAPES, gradients):
            if name in HIDDEN:
                gradient = gradient * min(1, options.get("clip_norm", norm) / norm)
                means[name] = 0.95 * means[name] + 0.05 * gradient
                ahead = (0.95 * means[name] + 0.05 * gradient).reshape(-1, gradient.shape[-1])
                update = max(1, len(ahead) / ahead.shape[1]) ** 0.5 * by_decomposition(ahead).reshape(gradient.shape)
                weights[name] -= rate * (update + options.get("weight_decay", 0) * weights[name])
    for name, variable, other in zip(SHAPES, ours, adams):
        np.testing.assert_allclose(variable, weights[name] if name in HIDDEN else other, atol=5e-5, err_msg=name)


@pytest.mark.parametrize("shape", [(64, 192), (192, 192), (432, 48), (1728, 192)])
def test_how_long_an_update_is_depends_on_the_outputs_alone(shape):
    variable = tf.Variable(np.zeros(shape, np.float32), name="net/block_0/mlp/expand/kernel")
    AdamW([variable], 0.1, muon=True).apply([RNG.normal(size=shape).astype(np.float32)], tf.constant(0))
    assert np.sqrt(np.square(variable.numpy()).mean()) == pytest.approx(0.1 / shape[1] ** 0.5, rel=0.25)


def test_it_is_a_switch():
    with pytest.raises(ValueError, match="MUON is 'no'; choose True or False"):
        AdamW(make_variables(SHAPES), 0.1, muon="no")
