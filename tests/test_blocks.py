"""The parts of a block against formulas written out in numpy."""
import numpy as np
import pytest
import reference
import scipy.special
import tensorflow as tf
from reference import random, weights_of
from tensorflow import keras

from vision_transformer import blocks
from vision_transformer.compat import raw


# ------------------------------------------------------------------------------------------ attention
@pytest.mark.parametrize("kind", blocks.ATTENTIONS)
def test_attention_equals_the_papers_formula(kind):
    layer = blocks.Attention(num_heads=3, embedding_dim=6, kind=kind)
    x = random(2, 5, 6)
    layer(x)
    temperatures = np.full(3, np.sqrt(2), np.float32)
    if kind == "locality":
        np.testing.assert_allclose(raw(layer.temperature), temperatures)       # begins where plain attention stays
        temperatures = np.float32([0.7, 1.1, 3.0])
        raw(layer.temperature).assign(temperatures)
    output, attention = layer(x)
    w = weights_of(layer)
    qkv = x @ w["query_key_value/kernel"] + w["query_key_value/bias"]
    heads = []
    for head in range(3):
        query, key, value = (qkv[..., part * 6 + head * 2:part * 6 + head * 2 + 2] for part in range(3))
        scores = query @ key.transpose(0, 2, 1) / temperatures[head]
        if kind == "locality":
            scores[:, range(5), range(5)] = -np.inf
        looks = scipy.special.softmax(scores, axis=-1)
        np.testing.assert_allclose(attention[:, head], looks, atol=1e-6)
        heads.append(looks @ value)
    expected = np.concatenate(heads, axis=-1) @ w["projection/kernel"] + w["projection/bias"]
    np.testing.assert_allclose(output, expected, atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_with_locality_no_token_looks_at_itself_in_any_precision(policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        layer = blocks.Attention(num_heads=3, embedding_dim=6, kind="locality")
        output, attention = layer(30 * random(2, 5, 6))         # such scores reach hundreds
    finally:
        keras.mixed_precision.set_global_policy("float32")
    attention = tf.cast(attention, tf.float32).numpy()
    assert (attention[..., range(5), range(5)] == 0).all()
    np.testing.assert_allclose(attention.sum(axis=-1), 1, atol=0.02)
    assert np.isfinite(tf.cast(output, tf.float32)).all()


def test_first_attention_weights_look_alike_and_answer_with_the_opposite():
    layer = blocks.Attention(num_heads=3, embedding_dim=6, seed=4)
    layer(np.zeros((1, 5, 6), np.float32))
    w = weights_of(layer)
    query, key, value = np.split(w["query_key_value/kernel"], 3, axis=1)
    np.testing.assert_allclose(value @ w["projection/kernel"], -0.4 * np.eye(6), atol=1e-6)
    for head in range(3):                               # 1.5 times a projection on 2 of the 6 directions
        product = query[:, 2 * head:2 * head + 2] @ key[:, 2 * head:2 * head + 2].T
        np.testing.assert_allclose(product @ product, 1.5 * product, atol=1e-6)
        assert np.trace(product) == pytest.approx(1.5 * 2, abs=1e-5)
    other = blocks.Attention(num_heads=3, embedding_dim=6, seed=5)
    other(np.zeros((1, 5, 6), np.float32))
    assert (np.abs(weights_of(other)["projection/kernel"] - w["projection/kernel"]) > 1e-3).any()


# ------------------------------------------------------------------------------------------ the block
@pytest.mark.parametrize("norm", blocks.NORMS)
def test_block_equals_the_papers_formula(norm):
    layer = blocks.Block(num_heads=3, embedding_dim=6, mlp_hidden_dim=7, norm=norm, layer_scale=0.5)
    x = random(2, 5, 6)
    layer(x)
    gains = random(2, 6, seed=1)
    for residual, gain in zip((layer.residual_1, layer.residual_2), gains):
        np.testing.assert_array_equal(raw(residual.gain), np.full(6, 0.5))
        raw(residual.gain).assign(gain)
    w = weights_of(layer.mlp)

    def attention(y):
        return layer.attention(y)[0].numpy()

    def mlp(y):
        hidden = y @ w["expand/kernel"] + w["expand/bias"]
        return reference.gelu(hidden) @ w["contract/kernel"] + w["contract/bias"]

    if norm == "pre":
        y = x + gains[0] * attention(reference.layer_norm(x))
        expected = y + gains[1] * mlp(reference.layer_norm(y))
    else:
        y = reference.layer_norm(x + gains[0] * attention(x))
        expected = reference.layer_norm(y + gains[1] * mlp(y))
    np.testing.assert_allclose(layer(x)[0], expected, atol=2e-5)


def test_without_layer_scale_a_block_has_no_factors():
    layer = blocks.Residual()
    np.testing.assert_array_equal(layer(random(2, 5, 6), random(2, 5, 6, seed=1)),
                                  random(2, 5, 6) + random(2, 5, 6, seed=1))
    assert layer.weights == []


# ------------------------------------------------------------------------------------------ random masks
@pytest.mark.parametrize("kind, shape, share_is_within", [
    (blocks.Dropout, (64, 1021), 0.01), (blocks.StochasticDepth, (4093, 5, 2), 0.02)])
def test_masks_keep_the_mean_and_are_functions_of_seed_and_step(kind, shape, share_is_within):
    layer, x = kind(0.3, seed=5), tf.ones(shape)
    first = layer(x, step=3).numpy()
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.7)}
    assert (first == 0).mean() == pytest.approx(0.3, abs=share_is_within)
    np.testing.assert_array_equal(first, layer(x, step=tf.constant(3)))
    assert (first != layer(x, step=4).numpy()).any()
    assert (first != kind(0.3, seed=6)(x, step=3).numpy()).any()
    np.testing.assert_array_equal(layer(x), x)


def test_stochastic_depth_leaves_out_whole_pictures():
    first = blocks.StochasticDepth(0.3, seed=5)(tf.ones((4093, 5, 2)), step=3).numpy()
    assert (first == first[:, :1, :1]).all()


def test_a_branch_is_left_out_or_dropped_and_what_it_branched_off_stays():
    x, branch = random(997, 5, 2), np.ones((997, 5, 2), np.float32)
    layer = blocks.Residual(dropout=0.25, stochastic_depth=0.5, seed=3)
    added = layer(x, branch, step=7).numpy() - x
    assert set(np.unique(added.round(4))) == {0, np.float32(2.6667)}                       # 1 / 0.75 / 0.5
    left_out = (added.round(4) == 0).all(axis=(1, 2))
    assert left_out.mean() == pytest.approx(0.5, abs=0.05)
    assert (added[~left_out].round(4) == 0).mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_array_equal(layer(x, branch), x + branch)


# ------------------------------------------------------------------------------------------ configs
LAYERS = [
    (lambda: blocks.Dropout(0.4, 9), [(2, 5, 6)]),
    (lambda: blocks.StochasticDepth(0.4, 9), [(2, 5, 6)]),
    (lambda: blocks.Residual(0.4, 0.3, 0.2, 9), [(2, 5, 6), (2, 5, 6)]),
    (lambda: blocks.LayerNorm(0.5), [(2, 5, 6)]),
    (lambda: blocks.Attention(3, 6, 2), [(2, 5, 6)]),
    (lambda: blocks.Attention(3, 6, 2, "locality"), [(2, 5, 6)]),
    (lambda: blocks.MLP(7, 4, 0.2, 8), [(2, 5, 6)]),
    (lambda: blocks.Block(3, 6, 7, 0.1, 4, "locality", "post", 0.3, 0.2), [(2, 5, 6)]),
]


@pytest.mark.parametrize("make, shapes", LAYERS, ids=[make().__class__.__name__ for make, _ in LAYERS])
def test_layer_survives_its_config_and_gives_the_same_output(make, shapes):
    reference.assert_survives_its_config(make(), *(random(*shape, seed=seed) for seed, shape in enumerate(shapes)))
