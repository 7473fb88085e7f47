"""Pooling and classifiers against formulas written out in numpy."""
import numpy as np
import pytest
import reference
import scipy.special
from reference import random, weights_of

from vision_transformer import heads

X = random(2, 5, 7)


@pytest.mark.parametrize("pool, features", [
    ("flatten", X.reshape(2, 35)), ("cls", X[:, 0]), ("mean", X.mean(axis=1))])
def test_tokens_become_features(pool, features):
    np.testing.assert_allclose(heads.pool_tokens(X, pool), features, atol=1e-6)


def test_sequence_pooling_is_the_mean_weighted_by_the_softmax_of_a_score():
    layer = heads.SequencePooling()
    layer(X)
    reference.randomize(layer)
    w = weights_of(layer)
    weights = scipy.special.softmax(X @ w["score/kernel"] + w["score/bias"], axis=1)
    np.testing.assert_allclose(layer(X), (weights * X).sum(axis=1), atol=1e-5)


def test_linear_classifier_is_one_dense_layer_behind_dropout():
    layer, x = heads.LinearClassifier(11, 0.25, seed=3), X.reshape(2, 35)
    layer(x)
    reference.randomize(layer)
    w = weights_of(layer)
    np.testing.assert_allclose(layer(x), x @ w["projection/kernel"] + w["projection/bias"], rtol=1e-4)
    dropped = layer.dropout(x, step=5).numpy()
    assert (dropped == 0).any() and (dropped != 0).any()
    np.testing.assert_allclose(layer(x, step=5), dropped @ w["projection/kernel"] + w["projection/bias"], rtol=1e-4)


LAYERS = [(heads.SequencePooling, X), (lambda: heads.LinearClassifier(11, 0.25, 3), X[:, 0])]


@pytest.mark.parametrize("make, x", LAYERS, ids=[make().__class__.__name__ for make, _ in LAYERS])
def test_layer_survives_its_config_and_gives_the_same_output(make, x):
    reference.assert_survives_its_config(make(), x)
