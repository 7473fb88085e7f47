"""The ResNet against the paper: its blocks as formulas in numpy, its sizes, and its life as an ordinary keras.Model."""
import numpy as np
import pytest
import reference
import tensorflow as tf
from reference import random, weights_of
from tensorflow import keras

from vision_transformer.architectures import build_model
from vision_transformer.compat import raw
from vision_transformer.resnet import ResidualBlock, ResNet
from vision_transformer.runs import Run
from vision_transformer.sizes import parameter_count

SIZES = {"image_shape": (6, 10, 3), "num_classes": 5, "blocks_per_stage": 2, "first_width": 7}


@pytest.mark.parametrize("channels, stride", [(5, 1), (11, 2)])
def test_block_equals_the_papers_formula(channels, stride):
    layer, x = ResidualBlock(channels, stride), random(2, 6, 10, 5)
    layer(x)
    reference.randomize(layer)
    w = weights_of(layer)

    def norm(y, name):
        return ((y - w[f"{name}/moving_mean"]) / np.sqrt(w[f"{name}/moving_variance"] + 1e-5) * w[f"{name}/gamma"]
                + w[f"{name}/beta"])

    y = reference.convolve(reference.pad(x, 1, 1), w["convolution_1/kernel"], stride)
    y = np.maximum(norm(y, "norm_1"), 0)
    y = norm(reference.convolve_same(y, w["convolution_2/kernel"]), "norm_2")
    shortcut = np.zeros_like(y)
    shortcut[..., :5] = x[:, ::stride, ::stride]
    np.testing.assert_allclose(layer(x), np.maximum(shortcut + y, 0), rtol=1e-3, atol=1e-2)
    reference.assert_survives_its_config(layer, x)


def test_it_has_as_many_weights_as_published():
    """Table 6 of arXiv 1512.03385, and for n = 3 the sum over its layers; by n = 1 and 2, as all blocks are alike."""
    one, two = (parameter_count(ResNet(image_shape=(32, 32, 3), num_classes=10, blocks_per_stage=n)) for n in (1, 2))
    counts = {n: one + (n - 1) * (two - one) for n in (3, 5, 7, 9, 18)}
    assert {n: round(count / 1e6, 2) for n, count in counts.items()} == {3: 0.27, 5: 0.46, 7: 0.66, 9: 0.85, 18: 1.73}
    convolutions = 3 * 9 * 16 + 6 * 9 * 16 * 16 + 9 * 16 * 32 + 5 * 9 * 32 * 32 + 9 * 32 * 64 + 5 * 9 * 64 * 64
    assert counts[3] == convolutions + 2 * (7 * 16 + 6 * 32 + 6 * 64) + 64 * 10 + 10 == 269_722


def test_forward_names_all_it_makes(images):
    net = ResNet(**SIZES)
    out = net.forward(images)
    assert out["maps"].shape == (4, 2, 3, 28) and (out["maps"].numpy() >= 0).all()
    np.testing.assert_allclose(out["features"], np.mean(out["maps"], axis=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(out["logits"], net.classifier(out["features"]), atol=1e-6)
    np.testing.assert_array_equal(out["logits"], net(images))
    assert net.describe() == "ResNet of 14 layers, 2 blocks of each width 7, 14, 28"


def test_every_weight_learns(images):
    net = ResNet(**SIZES)
    weights = [raw(v) for v in net.trainable_variables]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(net(images, training=True) ** 2)
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in tape.gradient(loss, weights))


def test_fit_learns(data):
    keras.utils.set_random_seed(0)
    net = ResNet(**{**SIZES, "blocks_per_stage": 1})
    net.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=["accuracy"], jit_compile=False)
    net.fit(data.train.images, data.train.labels, batch_size=16, epochs=12, verbose=0)
    assert net.evaluate(data.test.images, data.test.labels, verbose=0)[1] > 0.8


def test_a_run_keeps_all_of_it(images, tmp_path):
    net = ResNet(**SIZES, pixel_mean=[1, 2, 3], pixel_deviation=[4, 5, 6])
    net(images, training=True)                          # moves the kept statistics
    run = Run.create(tmp_path, "bright", {"model": net.get_config()})
    run.save_weights(net)
    copy = build_model(**run.config["model"])
    run.load_weights(copy)
    assert isinstance(copy, ResNet) and copy.get_config() == net.get_config()
    np.testing.assert_array_equal(copy(images), net(images))


@pytest.mark.parametrize("policy, dtype", [("mixed_bfloat16", tf.bfloat16), ("mixed_float16", tf.float16)])
def test_mixed_precision_gives_float32_logits_near_the_exact_ones(images, policy, dtype):
    exact = ResNet(**SIZES)
    keras.mixed_precision.set_global_policy(policy)
    try:
        net = ResNet(**SIZES)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    net.set_weights(exact.get_weights())
    out = net.forward(images)
    assert (out["maps"].dtype, out["logits"].dtype) == (dtype, tf.float32)
    np.testing.assert_allclose(out["logits"], exact(images), atol=0.05 * np.abs(exact(images)).max())


@pytest.mark.parametrize("changes, sentence", [
    ({"blocks_per_stage": 0}, "BLOCKS_PER_STAGE is 0"), ({"first_width": -1}, "FIRST_WIDTH is -1"),
    ({"num_classes": 0}, "NUM_CLASSES is 0"), ({"image_shape": (6, 0, 3)}, "image_shape's width is 0"),
    ({"pixel_mean": [1]}, r"pixel_mean is \[1\]; give 3"), ({"pixel_deviation": [1, 0, 1]}, "each must be above 0"),
])
def test_wrong_sizes_are_refused_before_anything_is_built(monkeypatch, changes, sentence):
    monkeypatch.setattr(keras.Model, "__init__", lambda *a, **k: pytest.fail("something was built"))
    with pytest.raises(ValueError, match=sentence):
        ResNet(**{**SIZES, **changes})
