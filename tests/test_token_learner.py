"""TokenLearner against the paper's formulas written out in numpy."""
import numpy as np
import pytest
import reference
import scipy.special
from reference import random, weights_of

from vision_transformer.token_learner import TokenLearner

VERSIONS = ("v1", "v1.1")


@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("version", VERSIONS)
def test_learned_tokens_equal_the_papers_formula(version, extra):
    layer, x = TokenLearner(version, 2, 3, 5, extra), random(4, extra + 15, 7)
    layer(x)
    reference.randomize(layer)
    tokens, weights = layer(x)
    assert tokens.shape == (4, extra + 2, 7) and weights.shape == (4, 2, 15)
    w, grid = weights_of(layer), x[:, extra:]
    normal = reference.layer_norm(grid) * w["norm/gamma"] + w["norm/beta"]
    if version == "v1":
        maps = normal.reshape(4, 3, 5, 7)
        for number in range(3):
            maps = reference.gelu(reference.convolve_same(maps, w[f"convolution_{number}/kernel"]))
        maps = scipy.special.expit(reference.convolve_same(maps, w["convolution_3/kernel"])).reshape(4, 15, 2)
        expected = [(maps[:, :, token, None] * grid).mean(axis=1) for token in range(2)]
    else:
        hidden = reference.gelu(normal @ w["expand/kernel"] + w["expand/bias"])
        assert hidden.shape == (4, 15, 64)
        maps = scipy.special.softmax(hidden @ w["contract/kernel"] + w["contract/bias"], axis=1)
        expected = [(maps[:, :, token, None] * grid).sum(axis=1) for token in range(2)]
        np.testing.assert_allclose(np.sum(weights, axis=2), 1, atol=1e-5)
    np.testing.assert_array_equal(tokens[:, :extra], x[:, :extra])
    np.testing.assert_allclose(tokens[:, extra:], np.stack(expected, axis=1), atol=1e-4)
    np.testing.assert_allclose(tokens[:, extra:], weights.numpy() @ grid, atol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_layer_survives_its_config_and_gives_the_same_output(version):
    reference.assert_survives_its_config(TokenLearner(version, 2, 3, 5, 1), random(4, 16, 7))
