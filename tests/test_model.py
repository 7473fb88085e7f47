"""The whole model: its sizes, what it makes on the way, and its life as an ordinary keras.Model."""
import re

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from vision_transformer import blocks
from vision_transformer.architectures import build_model
from vision_transformer.blocks import Dropout
from vision_transformer.compat import raw
from vision_transformer.model import VisionTransformer
from vision_transformer.sizes import parameter_count

POOLS = ("flatten", "cls", "mean")
HYBRID = {"embedding": "hybrid", "stem_widths": "5"}
COMPACT = {"embedding": "compact", "stem_widths": ""}


# ------------------------------------------------------------------------------------------ sizes
@pytest.mark.parametrize("pool, weights", [("flatten", 1_458_634), ("cls", 426_570), ("mean", 426_442)])
def test_default_parameter_counts(pool, weights):
    net = VisionTransformer(image_shape=(32, 32, 3), num_classes=10, pool=pool)
    assert parameter_count(net) == weights


@pytest.mark.parametrize("changes, text", [
    ({}, "2 blocks of width 14 on 15 tokens (patches of 2 pixels, one every 2)"),
    ({"pool": "cls", "register_tokens": 2, "patch_stride": 1},
     "2 blocks of width 14 on 48 tokens (patches of 2 pixels, one every 1)"),
    ({**HYBRID, "patch_size": 99}, "2 blocks of width 14 on 15 tokens (hybrid stem)"),
    ({**COMPACT, "token_learner": "v1", "learned_tokens": 4},
     "2 blocks of width 14 on 15 tokens (compact stem), 4 learned ones after block 1"),
])
def test_a_model_describes_itself(make_model, changes, text):
    assert make_model(**changes).describe() == text


def drawing(net):
    """All layers of a model that draw masks."""
    return [*(layer for block in net.blocks for residual in (block.residual_1, block.residual_2)
              for layer in (residual.dropout, residual.stochastic_depth)), net.classifier.dropout]


def test_no_two_layers_share_a_seed(make_model):
    net = make_model(seed=3)
    assert len({block.attention.seed for block in net.blocks}) == 2
    assert all(isinstance(layer, Dropout) for layer in drawing(net))
    seeds = [layer.seed for layer in drawing(net)]
    assert len(set(seeds)) == len(seeds) == 9 and all(-2 ** 31 <= seed < 2 ** 31 for seed in seeds)


def test_stochastic_depth_grows_evenly_to_the_last_block(make_model):
    net = make_model(stochastic_depth=0.3, number_of_layers=3, dropout=0.2)
    rates = [[block.residual_1.stochastic_depth.rate, block.residual_2.stochastic_depth.rate] for block in net.blocks]
    np.testing.assert_allclose(rates, [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]])
    assert {block.residual_1.dropout.rate for block in net.blocks} == {0.2}


# ------------------------------------------------------------------------------------------ what it makes
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("stride, tokens", [(2, 15), (1, 45)])
def test_forward_names_all_it_makes(make_model, images, pool, stride, tokens):
    net = make_model(pool=pool, patch_stride=stride)
    out, tokens = net.forward(images), tokens + (pool == "cls")
    assert [a.shape for a in out["attention"]] == [(4, 7, tokens, tokens)] * 2
    np.testing.assert_allclose(np.sum(out["attention"], axis=-1), 1, atol=1e-5)
    assert out["tokens"].shape == (4, tokens, 14) and out["token_maps"] is None
    expected = {"flatten": np.reshape(out["tokens"], (4, -1)), "cls": out["tokens"][:, 0],
                "mean": np.mean(out["tokens"], axis=1)}[pool]
    np.testing.assert_allclose(out["features"], expected, atol=1e-6)
    np.testing.assert_allclose(out["logits"], net.classifier(out["features"]), atol=1e-6)
    np.testing.assert_array_equal(out["logits"], net(images))


@pytest.mark.parametrize("pool", [*POOLS, "sequence"])
def test_no_pool_reads_register_tokens(make_model, images, pool):
    net = make_model(pool=pool, register_tokens=2)
    before, tokens = 2 + (pool == "cls"), net.forward(images)["tokens"].numpy()
    assert tokens.shape == (4, before + 15, 14)
    features = net._pool(tf.constant(tokens)).numpy()
    np.testing.assert_allclose(features, net.forward(images)["features"], atol=1e-6)
    tokens[:, before - 2:before] = 9
    np.testing.assert_array_equal(net._pool(tf.constant(tokens)), features)
    tokens[:, 0 if pool == "cls" else before:] += 1
    assert (net._pool(tf.constant(tokens)).numpy() != features).all()


def test_pool_cls_can_read_registers_beside_the_class_token(make_model, images):
    out = make_model(pool="cls", register_tokens=3, read_registers=2).forward(images)
    np.testing.assert_array_equal(out["features"], np.reshape(out["tokens"][:, :3], (4, 42)))


def test_every_norm_adds_the_same_to_a_variance(make_model, images, monkeypatch):
    """All five of two blocks and the one behind them, with the paper's formula in their place."""
    seen = []

    def in_numpy(x, gain, bias, epsilon):
        seen.append(float(epsilon))
        x = x.numpy()
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.3) * gain.numpy() + bias.numpy()

    net = make_model(norm_epsilon=0.3)
    expected = net(images).numpy()
    monkeypatch.setattr(blocks, "normalize", in_numpy)
    np.testing.assert_allclose(net(images), expected, atol=1e-5)
    assert seen == [0.3] * 5 and np.abs(expected - make_model()(images)).max() > 1e-3


def test_registers_have_no_positions_and_come_behind_the_class_token(make_model, images):
    net = make_model(pool="cls", register_tokens=2, norm="post")
    seen = []
    net.blocks[0].attention.call = lambda x: seen.append(x.numpy()) or (x, x)
    net.forward(images)
    table = raw(net.position_embedding.table.embeddings).numpy()
    np.testing.assert_allclose(seen[0][:, 0], np.tile(raw(net.class_token.token)[0, 0] + table[0], (4, 1)), atol=1e-6)
    np.testing.assert_allclose(seen[0][:, 1:3], np.tile(raw(net.registers.token), (4, 1, 1)), atol=1e-6)
    np.testing.assert_allclose(seen[0][:, 3:], net.patches(net.scaled(images)) + table[1:], atol=1e-5)


@pytest.mark.parametrize("after, few", [(0, [3]), (1, [2, 3]), (2, [3]), (3, [])])
def test_behind_a_token_learner_there_are_fewer_tokens(make_model, images, after, few):
    net = make_model(token_learner="v1.1", learned_tokens=4, token_learner_after=after, number_of_layers=3, pool="mean",
                     register_tokens=2)
    out = net.forward(images)
    tokens = [6 if number in few else 17 for number in (1, 2, 3)]
    assert [a.shape for a in out["attention"]] == [(4, 7, n, n) for n in tokens]
    assert out["tokens"].shape == (4, 6, 14) and out["token_maps"].shape == (4, 4, 15)
    np.testing.assert_allclose(np.sum(out["token_maps"], axis=2), 1, atol=1e-5)


def test_pixels_are_scaled_inside(make_model, images):
    scaled = make_model(pixel_mean=[100, 110, 120], pixel_deviation=[50, 60, 70])
    plain = make_model(pixel_mean=[0, 0, 0], pixel_deviation=[1, 1, 1])
    plain.set_weights(scaled.get_weights())
    by_hand = (images - np.float32([100, 110, 120])) / np.float32([50, 60, 70])
    np.testing.assert_allclose(scaled(images), plain(by_hand), atol=1e-5)
    np.testing.assert_allclose(scaled(images), scaled(images.astype(np.float32)), atol=1e-6)


@pytest.mark.parametrize("changes, logits", [
    ({}, [2.31551, 2.03181, -0.35876, -0.08111]),
    ({"embedding": "hybrid", "attention": "locality", "token_learner": "v1", "pool": "sequence", "register_tokens": 3,
      "classifier": "linear"}, [-0.31740, -0.25737, 0.04195, -0.01781]),
    ({"embedding": "hybrid", "whitening": True, "mirrored_filters": True}, [0.95756, 1.70521, 0.54330, -1.05826]),
    ({"embedding": "hybrid", "whitening": True}, [0.65816, 0.92380, 1.84179, 0.76228]),
    ({"embedding": "shifted", "norm": "post", "layer_scale": 0.5, "token_learner": "v1.1", "pool": "cls"},
     [0.33753, -0.07789, 0.72732, 0.79613]),
    ({"embedding": "compact", "positions": "sincos"}, [-1.79800, -0.03961, 0.90496, -0.70315]),
    ({"architecture": "resnet"}, [-3.76179, -1.73050, -3.75862, -3.88228]),
])
def test_same_seed_gives_the_same_weights_on_both_kerases(changes, logits):
    keras.utils.set_random_seed(1)
    net = build_model(image_shape=(32, 32, 3), num_classes=10, **changes)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3)).astype(np.uint8)
    net.whiten(np.random.default_rng(1).integers(0, 255, (300, 32, 32, 3)).astype(np.uint8))
    np.testing.assert_allclose(net(pixels)[0, :4], logits, atol=2e-5 if changes == {} else 1e-4)


# ------------------------------------------------------------------------------------------ an ordinary keras.Model
def test_dropout_acts_in_training_only(make_model, images):
    net = make_model(dropout=0.2, classifier_dropout=0.2)
    np.testing.assert_array_equal(net(images), net(images, training=False))
    first, second = net(images, training=True), net(images, training=True)
    assert (np.abs(first - second) > 0).any(), "each training call must draw its own masks"
    net.step.assign(0)
    np.testing.assert_array_equal(first, net(images, training=True))


@pytest.mark.parametrize("pool", POOLS)
def test_compile_and_fit_draw_other_masks_each_step(make_model, images, pool):
    net = make_model(pool=pool, dropout=0.3, classifier_dropout=0.3)
    before = net.get_weights()
    # No learning and one batch: only the dropout masks can tell one step from another.
    net.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    net.optimizer.learning_rate = 0.0
    history = net.fit(images, np.arange(4), batch_size=4, epochs=4, verbose=0).history["loss"]
    assert len(set(history)) == 4
    assert int(net.step.numpy()) == 4
    for one, other in zip(before[1:-1], net.get_weights()[1:-1]):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("changes", [
    {}, {**HYBRID, "attention": "locality", "token_learner": "v1.1", "learned_tokens": 4, "pool": "sequence",
         "layer_scale": 0.5, "classifier": "linear"}], ids=["default", "other"])
def test_fit_learns(make_model, data, changes):
    keras.utils.set_random_seed(0)
    net = make_model(**changes)
    net.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=["accuracy"], jit_compile=False)
    net.fit(data.train.images, data.train.labels, batch_size=32, epochs=15, verbose=0)
    assert net.evaluate(data.test.images, data.test.labels, verbose=0)[1] > 0.8


@pytest.mark.parametrize("pool", POOLS)
def test_saved_weights_load_into_a_copy(make_model, images, tmp_path, pool):
    net = make_model(pool=pool)
    copy = VisionTransformer.from_config(net.get_config())
    assert copy.get_config() == net.get_config()
    assert (np.abs(copy(images) - net(images)) > 0).any()
    net.save_weights(str(tmp_path / "net.weights.h5"))
    copy.load_weights(str(tmp_path / "net.weights.h5"))
    np.testing.assert_array_equal(copy(images), net(images))


def test_keras_own_saving_needs_no_custom_objects(make_model, images, tmp_path):
    net, path = make_model(), str(tmp_path / "net.keras")
    if keras.__version__.startswith("2"):               # there a subclassed model is saved as a folder
        path = str(tmp_path / "net")
    net.save(path)
    np.testing.assert_allclose(keras.models.load_model(path)(images), net(images), atol=1e-6)


# ------------------------------------------------------------------------------------------ wrong sizes
@pytest.mark.parametrize("changes, sentence", [
    ({"num_heads": 4}, "EMBEDDING_DIM 14 can't be divided among NUM_HEADS 4"),
    ({"patch_size": 7, "patch_stride": 7}, "PATCH_SIZE is 7; choose a whole number from 1 to 6, as pictures have"),
    ({"patch_stride": 3}, "PATCH_STRIDE is 3; choose a whole number from 1 to 2, which is PATCH_SIZE"),
    ({"patch_size": 3, "patch_stride": 3}, "would drop the last 1 of 10 pixels"),
    ({"patch_size": 0}, "PATCH_SIZE is 0; choose"),
    ({"patch_stride": -1}, "PATCH_STRIDE is -1; choose"),
    ({"image_shape": (6, 0, 3)}, "image_shape's width is 0; choose a whole number from 1 to"),
    ({"image_shape": (6, 10)}, "image_shape is (6, 10); give 3 numbers: height, width"),
    ({"number_of_layers": 0}, "NUMBER_OF_LAYERS is 0"),
    ({"embedding_dim": -14}, "EMBEDDING_DIM is -14"),
    ({"num_heads": 0}, "NUM_HEADS is 0"),
    ({"mlp_hidden_dim": 0}, "MLP_HIDDEN_DIM is 0"),
    ({"num_classes": 0}, "NUM_CLASSES is 0"),
    ({"register_tokens": 2, "read_registers": 1},
     "read_registers is 1; choose a whole number from 0 to 0, as POOL is 'flatten' and REGISTER_TOKENS 2"),
    ({"pool": "cls", "register_tokens": 2, "read_registers": 3}, "read_registers is 3; choose a whole number from 0"),
    ({"norm_epsilon": 0}, "norm_epsilon is 0; choose a number from 1e-12 to 1"), ({"norm_epsilon": 2}, "norm_eps"),
    ({"pool": "max"}, "POOL 'max' is not known; choose one of flatten, cls, mean, sequence"),
    ({"embedding": "dense"}, "EMBEDDING 'dense' is not known; choose one of linear, convolution, shifted, hybrid"),
    ({"positions": "sine"}, "POSITIONS 'sine' is not known; choose one of learned, sincos, none"),
    ({"attention": ""}, "ATTENTION '' is not known; choose one of plain, locality"),
    ({"norm": "both"}, "NORM 'both' is not known; choose one of pre, post"),
    ({"classifier": 3}, "CLASSIFIER 3 is not known; choose one of mlp, linear"),
    ({"token_learner": "v2"}, "TOKEN_LEARNER 'v2' is not known; choose one of nothing, v1, v1.1"),
    ({**HYBRID, "stem_widths": "5-7"}, "a 6x10 picture can't be halved 2 times"),
    ({**COMPACT, "stem_widths": "5"}, "a 6x10 picture can't be halved 2 times"),
    ({**HYBRID, "stem_widths": "5,7"}, "STEM_WIDTHS '5,7' is no list of widths"),
    ({**HYBRID, "image_shape": (6, 0, 3)}, "image_shape's width is 0"),
    ({"whitening": True}, "WHITENING is true with EMBEDDING 'linear'; only 'hybrid' has such a layer"),
    ({"mirrored_filters": True}, "MIRRORED_FILTERS is true with EMBEDDING 'linear'; only 'hybrid' has such a layer"),
    ({**HYBRID, "stem_widths": "5", "mirrored_filters": True}, "STEM_WIDTHS and EMBEDDING_DIM have 5; choose even"),
    ({**HYBRID, "stem_widths": "6", "embedding_dim": 7, "num_heads": 1, "mirrored_filters": True}, "have 7; choose"),
    ({"register_tokens": -1}, "REGISTER_TOKENS is -1; choose a whole number from 0"),
    ({"layer_scale": -0.1}, "LAYER_SCALE is -0.1; choose a number from 0"),
    ({"stochastic_depth": 1}, "STOCHASTIC_DEPTH is 1; it is a share"),
    ({"token_learner": "v1", "learned_tokens": 0}, "LEARNED_TOKENS is 0; choose a whole number from 1"),
    ({"token_learner": "v1", "learned_tokens": 15}, "LEARNED_TOKENS is 15; learn at least 1, and fewer"),
    ({"token_learner": "v1", "token_learner_after": 3}, "TOKEN_LEARNER_AFTER is 3; it is a block's number, from 1"),
    ({"token_learner": "v1", "token_learner_after": -1}, "TOKEN_LEARNER_AFTER is -1"),
    ({"image_shape": (2, 2, 3)}, "EMBEDDING 'linear' makes one token of 2x2 pixels, with nothing to look at"),
    ({"dropout": 1.0}, "DROPOUT is 1.0"),
    ({"classifier_dropout": -0.1}, "CLASSIFIER_DROPOUT is -0.1"),
    ({"pixel_mean": [1, 2]}, "pixel_mean is [1, 2]; give 3 numbers: one for each of 3 channels"),
    ({"pixel_deviation": [1, 0, 1]}, "each must be above 0"),
])
def test_wrong_sizes_are_refused_before_anything_is_built(make_model, monkeypatch, changes, sentence):
    monkeypatch.setattr(keras.Model, "__init__", lambda *a, **k: pytest.fail("something was built"))
    with pytest.raises(ValueError, match=re.escape(sentence)):
        make_model(**changes)
