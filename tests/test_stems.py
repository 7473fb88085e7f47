"""Small CNNs as embeddings, against formulas written out in numpy; whitening against what it promises."""
import numpy as np
import pytest
import reference
import tensorflow as tf
from reference import random, weights_of

from vision_transformer import stems
from vision_transformer.compat import raw
from vision_transformer.runs import weights_by_name
from vision_transformer.xla import as_on_directml

X = random(2, 4, 12, 3)


def batch_norm(x, w, number):
    mean, variance = w[f"norm_{number}/moving_mean"], w[f"norm_{number}/moving_variance"]
    return (x - mean) / np.sqrt(variance + 1e-5) * w[f"norm_{number}/gamma"] + w[f"norm_{number}/beta"]


def mirror(x, halves):
    """Maps (B, H, W, C) of the mirrored picture: mirrored, and where they have halves, these exchanged."""
    return np.roll(x[:, :, ::-1], x.shape[3] // 2 if halves else 0, axis=3)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("widths, depth, whitening", [
    ([], 1, False), ([6], 1, False), ([6], 1, True), ([6, 10], 1, False), ([6], 2, False), ([6, 10], 3, True)])
def test_hybrid_stem_equals_its_description(widths, depth, whitening, mirrored):
    x = random(2, 8, 12, 3)
    layer = stems.HybridStem(widths, 8, depth, whitening, mirrored)
    layer(x)
    reference.randomize(layer)
    tokens, w, number = layer(x), weights_of(layer), 0
    if whitening:
        x = reference.gelu(reference.convolve(x, w["whitening/kernel"]))
        assert x.shape[1:3] == (7, 11)
    for width in [*widths, 8]:
        for again in range(depth if number < depth * len(widths) else 1):
            kernel, halving = w[f"convolution_{number}/kernel"], not again and number < depth * len(widths)
            # Of the twins' maps, those of the mirrored maps, mirrored.
            sides = [(x, False), (mirror(x, number > 0 or whitening), True)] if mirrored else [(x, False)]
            maps = []
            for side, turned in sides:
                y = reference.convolve_same(side, kernel)
                if halving:
                    odd = y.shape[1] % 2
                    y = reference.windows(y, 2 + odd, 2).max(axis=(3, 4))
                y = reference.gelu(batch_norm(y, w, number))
                maps.append(y[:, :, ::-1] if turned else y)
            x = np.concatenate(maps, axis=3)
            assert x.shape[-1] == width
            number += 1
    assert number == len(layer.convolutions)
    rows, columns = stems.stem_grid((8, 12, 3), len(widths), whitening)
    assert x.shape == (2, rows, columns, 8)
    np.testing.assert_allclose(tokens, x.reshape(2, -1, 8), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("widths, whitening", [([], True), ([6], True), ([6, 10], True), ([6], False)])
def test_mirrored_filters_make_of_a_mirrored_picture_mirrored_tokens_with_exchanged_halves(widths, whitening):
    layer, pictures = stems.HybridStem(widths, 8, 2, whitening, mirrored=True), correlated(50, 8, 12)
    layer(pictures)
    reference.randomize(layer)
    if whitening:
        layer.whitening.fit(pictures)
    for training in (False, True):
        rows, columns = stems.stem_grid((8, 12, 3), len(widths), whitening)
        tokens, other = (layer(x, training=training).numpy().reshape(50, rows, columns, 8)
                         for x in (pictures, pictures[:, :, ::-1].copy()))
        np.testing.assert_allclose(other, mirror(tokens, True), rtol=1e-3, atol=1e-3)
        assert (np.abs(other - tokens) > 0.1).any()


@pytest.mark.parametrize("training", [False, True])
def test_compiled_with_half_of_the_products_it_is_the_same_stem(training):
    pictures, weigh = correlated(50, 8, 12), random(50, 2, 8)

    def results():
        layer = stems.HybridStem([4, 6], 8, 2, whitening=True, mirrored=True)
        layer(pictures)
        reference.randomize(layer)

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                tokens = layer(tf.constant(pictures), training=training)
                loss = tf.reduce_sum(weigh * tokens)
            return [tokens, *tape.gradient(loss, [raw(v) for v in layer.trainable_variables])]

        return [*step(), *(raw(v).numpy() for v in layer.non_trainable_variables)]

    compiled = results()
    with as_on_directml():
        written_out = results()
    for one, other in zip(compiled, written_out):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(other).max())
    assert (compiled[0] != written_out[0]).numpy().any(), "two ways of rounding"


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
def correlated(pictures, height=7, width=11):
    """Pictures whose neighbouring pixels and channels say nearly the same."""
    noise = random(pictures, height, width, 3)
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


def test_mirrored_whitening_makes_numbers_that_do_not_go_together_in_pictures_and_their_mirror_images():
    x = 30 * correlated(97)                             # variances beside which the epsilon is nothing
    layer = stems.Whitening(mirrored=True)
    layer(x)
    layer.fit(x)
    kernel = raw(layer.kernel).numpy()
    first, second = np.split(kernel, 2, axis=3)
    np.testing.assert_array_equal(second, first[:, ::-1])
    np.testing.assert_array_equal(first[..., 6:], -first[..., :6])
    both = np.concatenate([x, x[:, :, ::-1]])
    maps = reference.convolve(both, np.concatenate([first[..., :6], second[..., :6]], axis=3)).reshape(-1, 12)
    np.testing.assert_allclose(np.cov(maps.T), np.eye(12), atol=1e-3)


def test_whitening_learns_nothing():
    layer = stems.Whitening()
    layer(X)
    assert not layer.trainable_variables


def test_whitening_sees_whole_patches_only():
    """A picture of one colour is the same everywhere: no edge outshines what is in it."""
    layer = stems.Whitening()
    layer(X)
    layer.fit(correlated(97))
    maps = layer(np.full((1, 4, 5, 3), 0.7, np.float32)).numpy()
    assert maps.shape == (1, 3, 4, 24)
    np.testing.assert_allclose(maps, np.broadcast_to(maps[:, :1, :1], maps.shape), rtol=1e-4, atol=1e-5)


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


def test_whitening_takes_the_last_row_and_column_off():
    assert stems.stem_grid((32, 48, 3), 3, whitening=True) == (3, 5)
    assert stems.stem_grid((32, 48, 3), 0, whitening=True) == (31, 47)


LAYERS = [lambda: stems.HybridStem([5], 7, 2, True), lambda: stems.HybridStem([6], 8, 2, True, True),
          lambda: stems.Whitening(True), lambda: stems.CompactStem([5], 7), lambda: stems.Whitening()]


@pytest.mark.parametrize("make", LAYERS, ids=[make().__class__.__name__ for make in LAYERS])
def test_layer_survives_its_config_and_gives_the_same_output(make):
    reference.assert_survives_its_config(make(), X)
