"""Small CNNs as embeddings, against formulas written out in numpy; whitening against what it promises."""
import numpy as np
import pytest
import reference
from reference import random, weights_of

from vision_transformer import stems
from vision_transformer.compat import raw
from vision_transformer.runs import weights_by_name

X = random(2, 4, 12, 3)


def batch_norm(x, w, number):
    mean, variance = w[f"norm_{number}/moving_mean"], w[f"norm_{number}/moving_variance"]
    return (x - mean) / np.sqrt(variance + 1e-5) * w[f"norm_{number}/gamma"] + w[f"norm_{number}/beta"]


@pytest.mark.parametrize("widths, whitening", [([], 0), ([5], 0), ([5], 1), ([5, 11], 0)])
def test_hybrid_stem_equals_its_description(widths, whitening):
    layer = stems.HybridStem(widths, 7, whitening)
    layer(X)
    reference.randomize(layer)
    w, x = weights_of(layer), X
    if whitening:
        x = np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
        x = reference.gelu(reference.convolve(x, w["whitening/kernel"]) + w["whitening/bias"])
    for number in range(len(widths)):
        x = reference.halve(reference.convolve_same(x, w[f"convolution_{number}/kernel"]))
        x = reference.gelu(batch_norm(x, w, number))
    x = reference.convolve_same(x, w[f"convolution_{len(widths)}/kernel"])
    expected = reference.gelu(batch_norm(x, w, len(widths))).reshape(2, -1, 7)
    assert expected.shape == (2, 4 * 12 // 4 ** len(widths), 7)
    np.testing.assert_allclose(layer(X), expected, rtol=1e-3, atol=1e-3)


def test_hybrid_stem_normalizes_by_the_batch_in_training_only():
    layer = stems.HybridStem([5], 7)
    before = layer(X).numpy()
    trained = layer(X, training=True).numpy()
    assert (np.abs(trained - before) > 1e-3).any()
    np.testing.assert_allclose(trained, layer(X, training=True), atol=1e-5)     # whatever was kept
    assert (np.abs(layer(X, training=False) - before) > 1e-4).any()             # moved by the two trainings


@pytest.mark.parametrize("widths", [[], [5], [5, 11]])
def test_compact_stem_equals_its_description(widths):
    side = 2 ** (len(widths) + 1)
    x = random(2, 2 * side, 3 * side, 3)
    layer = stems.CompactStem(widths, 7)
    layer(x)
    reference.randomize(layer)
    tokens, w = layer(x), weights_of(layer)
    for number in range(len(widths) + 1):
        x = np.maximum(reference.convolve_same(x, w[f"convolution_{number}/kernel"]), 0)
        x = reference.windows(reference.pad(x, 0, 1, -np.inf), 3, 2).max(axis=(3, 4))
    assert x.shape == (2, 2, 3, 7)
    np.testing.assert_allclose(tokens, x.reshape(2, 6, 7), rtol=1e-4, atol=1e-3)


# ------------------------------------------------------------------------------------------ whitening
def correlated(pictures):
    """Pictures whose neighbouring pixels and channels say nearly the same."""
    noise = random(pictures, 7, 11, 3)
    smooth = noise + np.roll(noise, 1, axis=1) + np.roll(noise, 1, axis=2)
    return smooth @ np.float32([[1, 0.9, 0.8], [0, 0.3, 0.2], [0, 0, 0.1]])


def test_whitening_makes_numbers_that_do_not_go_together():
    x, width = correlated(97), 24
    layer = stems.Whitening()
    layer(x)
    layer.fit(x)
    kernel = raw(layer.kernel).numpy()
    maps = reference.convolve(x, kernel).reshape(-1, width)
    half = width // 2
    np.testing.assert_allclose(maps[:, half:], -maps[:, :half], atol=1e-4)
    directions = kernel.reshape(12, width)[:, :half]
    variances = 1 / np.square(directions).sum(axis=0) - 5e-4
    assert (np.diff(variances) < 0).all(), "the direction of most variance comes first"
    patches = reference.windows(x, 2).reshape(-1, 12)
    total = np.trace(np.cov(patches.T))
    assert variances.sum() == pytest.approx(total, rel=1e-3)
    # Each has the variance 1, but for the epsilon, and no two go together.
    np.testing.assert_allclose(np.cov(maps[:, :half].T), np.diag(variances / (variances + 5e-4)), atol=2e-3)
    assert (directions[np.abs(directions).argmax(axis=0), range(half)] > 0).all()


def test_whitening_learns_a_bias_only():
    layer = stems.Whitening()
    layer(X)
    assert [tuple(v.shape) for v in layer.trainable_variables] == [(24,)]


def test_a_model_is_whitened_by_scaled_pixels(make_model, images):
    sizes = {"embedding": "hybrid", "stem_widths": "5", "pixel_mean": [100, 110, 120], "pixel_deviation": [50, 60, 70]}
    net = make_model(**sizes, whitening=True)
    untouched = {name: v.numpy() for name, v in weights_by_name(net).items()}
    net.whiten(images)
    layer = stems.Whitening()
    layer(X)
    layer.fit((images - np.float32([100, 110, 120])) / np.float32([50, 60, 70]))
    np.testing.assert_allclose(raw(net.patches.whitening.kernel), raw(layer.kernel), rtol=1e-4, atol=1e-5)
    changed = [name for name, v in weights_by_name(net).items() if (v.numpy() != untouched[name]).any()]
    assert changed == ["patches/whitening/kernel"]
    plain = make_model(**sizes)
    before = plain(images)
    plain.whiten(images)                                # nothing to do
    np.testing.assert_array_equal(plain(images), before)


# ------------------------------------------------------------------------------------------ sizes
@pytest.mark.parametrize("text, widths", [("", []), ("64", [64]), ("64-128-7", [64, 128, 7])])
def test_widths_are_read(text, widths):
    assert stems.stem_widths(text) == widths


@pytest.mark.parametrize("text", ["64,128", "64-", "-64", "0", "64-0", "6.4", "a", "-"])
def test_what_is_no_list_of_widths_is_refused(text):
    with pytest.raises(ValueError, match=f"STEM_WIDTHS '{text}' is no list of widths"):
        stems.stem_widths(text)


@pytest.mark.parametrize("halvings, grid", [(0, (12, 20)), (1, (6, 10)), (2, (3, 5))])
def test_the_grid_is_the_picture_halved(halvings, grid):
    assert stems.stem_grid((12, 20, 3), halvings) == grid


LAYERS = [lambda: stems.HybridStem([5], 7, True), lambda: stems.CompactStem([5], 7), lambda: stems.Whitening()]


@pytest.mark.parametrize("make", LAYERS, ids=[make().__class__.__name__ for make in LAYERS])
def test_layer_survives_its_config_and_gives_the_same_output(make):
    reference.assert_survives_its_config(make(), X)
