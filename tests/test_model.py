"""The model against formulas written out in numpy, its sizes, and its life as an ordinary keras.Model."""
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from tensorflow import keras

from vision_transformer import embedding, model
from vision_transformer.compat import raw, weight_path

POOLS = model.POOLS


def weights_of(layer):
    """A layer's weights by the last part of their names, as numpy arrays."""
    return {"/".join(weight_path(v).split("/")[-2:]): raw(v).numpy() for v in layer.weights}


def count(net):
    return sum(int(np.prod(v.shape)) for v in net.trainable_variables)


# ------------------------------------------------------------------------------------------ patches
@pytest.mark.parametrize("size, stride", [(2, 2), (2, 1), (4, 2), (3, 1), (6, 4)])
def test_patches_are_the_pictures_windows(images, size, stride):
    patches = embedding.extract_patches(tf.constant(images), size, stride).numpy()
    expected = [[picture[y:y + size, x:x + size].ravel()
                 for y in range(0, 7 - size, stride) for x in range(0, 11 - size, stride)] for picture in images]
    np.testing.assert_array_equal(patches, expected)


def test_patches_equal_tensorflows_own(images):
    ours = embedding.extract_patches(tf.constant(images, tf.float32), 2, 1)
    ones = (1, 1, 1, 1)
    theirs = tf.image.extract_patches(tf.constant(images, tf.float32), (1, 2, 2, 1), ones, ones, "VALID")
    np.testing.assert_array_equal(ours, tf.reshape(theirs, ours.shape))


# ------------------------------------------------------------------------------------------ layers
def test_gelu_is_the_normal_distributions_share():
    x = np.linspace(-5, 5, 41).astype(np.float32)
    np.testing.assert_allclose(model.gelu(tf.constant(x)), x * scipy.special.ndtr(x), atol=1e-6)


def test_attention_equals_the_papers_formula():
    layer = model.Attention(num_heads=3, embedding_dim=6)
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    output, attention = layer(x)
    w = weights_of(layer)
    qkv = x @ w["query_key_value/kernel"] + w["query_key_value/bias"]
    heads = []
    for head in range(3):
        query, key, value = (qkv[..., part * 6 + head * 2:part * 6 + head * 2 + 2] for part in range(3))
        looks = scipy.special.softmax(query @ key.transpose(0, 2, 1) / np.sqrt(2), axis=-1)
        np.testing.assert_allclose(attention[:, head], looks, atol=1e-6)
        heads.append(looks @ value)
    expected = np.concatenate(heads, axis=-1) @ w["projection/kernel"] + w["projection/bias"]
    np.testing.assert_allclose(output, expected, atol=1e-5)


def test_block_equals_the_papers_formula():
    layer = model.Block(num_heads=3, embedding_dim=6, mlp_hidden_dim=7)
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    output, _ = layer(x)
    w = weights_of(layer.mlp)

    def norm(y):
        return (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)

    y = x + layer.attention(norm(x))[0].numpy()
    hidden = norm(y) @ w["expand/kernel"] + w["expand/bias"]
    expected = y + (hidden * scipy.special.ndtr(hidden)) @ w["contract/kernel"] + w["contract/bias"]
    np.testing.assert_allclose(output, expected, atol=1e-5)


def test_positions_add_their_table_and_learn(make_model, images):
    net = make_model()
    layer = net.position_embedding
    tokens = np.random.default_rng(0).normal(size=(2, 15, 14)).astype(np.float32)
    np.testing.assert_allclose(layer(tokens), tokens + raw(layer.table.embeddings).numpy(), atol=1e-6)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(net(images) ** 2)
    [gradient] = tape.gradient(loss, [raw(layer.table.embeddings)])
    assert (np.abs(tf.convert_to_tensor(gradient)) > 0).all()


def test_first_attention_weights_look_alike_and_answer_with_the_opposite():
    layer = model.Attention(num_heads=3, embedding_dim=6, seed=4)
    layer(np.zeros((1, 5, 6), np.float32))
    w = weights_of(layer)
    query, key, value = np.split(w["query_key_value/kernel"], 3, axis=1)
    np.testing.assert_allclose(value @ w["projection/kernel"], -0.4 * np.eye(6), atol=1e-6)
    for head in range(3):                               # 1.5 times a projection on 2 of the 6 directions
        product = query[:, 2 * head:2 * head + 2] @ key[:, 2 * head:2 * head + 2].T
        np.testing.assert_allclose(product @ product, 1.5 * product, atol=1e-6)
        assert np.trace(product) == pytest.approx(1.5 * 2, abs=1e-5)
    other = model.Attention(num_heads=3, embedding_dim=6, seed=5)
    other(np.zeros((1, 5, 6), np.float32))
    assert (np.abs(weights_of(other)["projection/kernel"] - w["projection/kernel"]) > 1e-3).any()


def test_first_positions_are_sines_of_row_and_column():
    table = embedding.sine_positions(3, 5, 11)
    assert table.shape == (15, 11)
    for row in range(3):
        for column in range(5):
            expected = [np.sin(row), np.sin(row / 100), np.cos(row), np.cos(row / 100),
                        np.sin(column), np.sin(column / 100), np.cos(column), np.cos(column / 100), 0, 0, 0]
            np.testing.assert_allclose(table[5 * row + column], expected, atol=1e-12)
    layer = embedding.PositionEmbedding(3, 5, 1, 11)
    np.testing.assert_allclose(layer(np.zeros((1, 16, 11), np.float32))[0], [[0] * 11, *table], atol=1e-6)
    assert embedding.sine_positions(2, 2, 3).tolist() == [[0.0] * 3] * 4


def test_dropout_keeps_the_mean_and_is_a_function_of_seed_and_step():
    layer, x = model.Dropout(0.3, seed=5), tf.ones((64, 1021))
    first = layer(x, step=3).numpy()
    assert first.min() == 0 and first.max() == pytest.approx(1 / 0.7)
    assert (first == 0).mean() == pytest.approx(0.3, abs=0.01)
    np.testing.assert_array_equal(first, layer(x, step=tf.constant(3)))
    assert (first != layer(x, step=4).numpy()).any()
    assert (first != model.Dropout(0.3, seed=6)(x, step=3).numpy()).any()
    np.testing.assert_array_equal(layer(x), x)


def test_no_two_layers_share_a_seed(make_model):
    net = make_model(seed=3)
    attentions = [block.attention.seed for block in net.blocks]
    assert len(set(attentions)) == 2
    seeds = [d.seed for block in net.blocks for d in (block.dropout_1, block.dropout_2)] + [net.classifier.dropout.seed]
    assert len(set(seeds)) == len(seeds) == 5


LAYERS = [
    (lambda: embedding.PatchEmbedding(2, 1, 7), (2, 4, 6, 3)),
    (lambda: embedding.ClassToken(), (2, 5, 6)),
    (lambda: embedding.PositionEmbedding(2, 3, 1, 5), (2, 7, 5)),
    (lambda: model.Dropout(0.4, 9), (2, 5, 6)),
    (lambda: model.Attention(3, 6, 2), (2, 5, 6)),
    (lambda: model.MLP(7, 4, 0.2, 8), (2, 5, 6)),
    (lambda: model.Block(3, 6, 7, 0.1, 4), (2, 5, 6)),
]


@pytest.mark.parametrize("make, shape", LAYERS, ids=[make().__class__.__name__ for make, _ in LAYERS])
def test_layer_survives_its_config_and_gives_the_same_output(make, shape):
    layer = make()
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    before = tf.nest.flatten(layer(x))
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    copy(x)
    copy.set_weights(layer.get_weights())
    for one, other in zip(before, tf.nest.flatten(copy(x))):
        np.testing.assert_array_equal(one, other)


# ------------------------------------------------------------------------------------------ the whole model
# Worked out by hand: two norms; query, key and value; projection; the MLP's two layers.
BLOCK = 2 * 28 + (14 * 42 + 42) + (14 * 14 + 14) + (14 * 11 + 11) + (11 * 14 + 14)


@pytest.mark.parametrize("changes, weights", [
    ({}, 2 * 2 * 3 * 14 + 14 + 15 * 14 + 2 * BLOCK + 28 + 15 * 14 * 11 + 11 + 11 * 5 + 5),
    ({"pool": "mean"}, 182 + 210 + 2 * BLOCK + 28 + 14 * 11 + 11 + 60),
    ({"pool": "cls"}, 182 + 14 + 16 * 14 + 2 * BLOCK + 28 + 14 * 11 + 11 + 60),
    ({"patch_stride": 1}, 182 + 45 * 14 + 2 * BLOCK + 28 + 45 * 14 * 11 + 11 + 60),
])
def test_parameter_counts(make_model, changes, weights):
    assert count(make_model(**changes)) == weights


@pytest.mark.parametrize("pool, weights", [("flatten", 1_458_634), ("cls", 426_570), ("mean", 426_442)])
def test_default_parameter_counts(pool, weights):
    net = model.VisionTransformer(image_shape=(32, 32, 3), num_classes=10, pool=pool)
    assert count(net) == weights


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("stride, tokens", [(2, 15), (1, 45)])
def test_forward_names_all_it_makes(make_model, images, pool, stride, tokens):
    net = make_model(pool=pool, patch_stride=stride)
    out, tokens = net.forward(images), tokens + (pool == "cls")
    assert [a.shape for a in out["attention"]] == [(4, 7, tokens, tokens)] * 2
    np.testing.assert_allclose(np.sum(out["attention"], axis=-1), 1, atol=1e-5)
    assert out["tokens"].shape == (4, tokens, 14)
    expected = {"flatten": np.reshape(out["tokens"], (4, -1)), "cls": out["tokens"][:, 0],
                "mean": np.mean(out["tokens"], axis=1)}[pool]
    np.testing.assert_allclose(out["features"], expected, atol=1e-6)
    np.testing.assert_allclose(out["logits"], net.classifier(out["features"]), atol=1e-6)
    np.testing.assert_array_equal(out["logits"], net(images))


def test_pixels_are_scaled_inside(make_model, images):
    scaled = make_model(pixel_mean=[100, 110, 120], pixel_deviation=[50, 60, 70])
    plain = make_model(pixel_mean=[0, 0, 0], pixel_deviation=[1, 1, 1])
    plain.set_weights(scaled.get_weights())
    by_hand = (images - np.float32([100, 110, 120])) / np.float32([50, 60, 70])
    np.testing.assert_allclose(scaled(images), plain(by_hand), atol=1e-5)
    np.testing.assert_allclose(scaled(images), scaled(images.astype(np.float32)), atol=1e-6)


def test_same_seed_gives_the_same_weights_on_both_kerases():
    keras.utils.set_random_seed(1)
    net = model.VisionTransformer(image_shape=(32, 32, 3), num_classes=10)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3)).astype(np.uint8)
    np.testing.assert_allclose(net(pixels)[0, :4], [2.31551, 2.03181, -0.35876, -0.08111], atol=2e-5)


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


def test_fit_learns(make_model, data):
    keras.utils.set_random_seed(0)
    net = make_model()
    net.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=["accuracy"], jit_compile=False)
    net.fit(data.train.images, data.train.labels, batch_size=32, epochs=15, verbose=0)
    assert net.evaluate(data.test.images, data.test.labels, verbose=0)[1] > 0.8


@pytest.mark.parametrize("pool", POOLS)
def test_saved_weights_load_into_a_copy(make_model, images, tmp_path, pool):
    net = make_model(pool=pool)
    copy = model.VisionTransformer.from_config(net.get_config())
    assert copy.get_config() == net.get_config()
    assert (np.abs(copy(images) - net(images)) > 0).any()
    net.save_weights(str(tmp_path / "net.weights.h5"))
    copy.load_weights(str(tmp_path / "net.weights.h5"))
    np.testing.assert_array_equal(copy(images), net(images))


@pytest.mark.parametrize("pool", POOLS)
def test_keras_own_saving_needs_no_custom_objects(make_model, images, tmp_path, pool):
    net, path = make_model(pool=pool), str(tmp_path / "net.keras")
    if keras.__version__.startswith("2"):               # there a subclassed model is saved as a folder
        path = str(tmp_path / "net")
    net.save(path)
    np.testing.assert_allclose(keras.models.load_model(path)(images), net(images), atol=1e-6)


@pytest.mark.parametrize("pool", POOLS)
def test_mixed_precision_gives_float32_logits_near_the_exact_ones(make_model, images, pool):
    exact = make_model(pool=pool, dropout=0.2, classifier_dropout=0.2)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        net = make_model(pool=pool, dropout=0.2, classifier_dropout=0.2)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    net.set_weights(exact.get_weights())
    out = net.forward(images, training=True)
    assert (out["tokens"].dtype, out["logits"].dtype) == (tf.bfloat16, tf.float32)
    np.testing.assert_allclose(net(images), exact(images), atol=0.1)
    assert (np.abs(net(images) - exact(images)) > 0).any()


# ------------------------------------------------------------------------------------------ wrong sizes
@pytest.mark.parametrize("changes, sentence", [
    ({"num_heads": 4}, "EMBEDDING_DIM 14 can't be divided among NUM_HEADS 4"),
    ({"patch_size": 7, "patch_stride": 7}, "PATCH_SIZE 7 is larger than the 6x10 picture"),
    ({"patch_stride": 3}, "PATCH_STRIDE 3 is larger than PATCH_SIZE 2"),
    ({"patch_size": 3, "patch_stride": 3}, "would drop the last 1 of 10 pixels"),
    ({"patch_size": 0}, "every size must be at least 1"),
    ({"patch_stride": -1}, "every size must be at least 1"),
    ({"image_shape": (6, 0, 3)}, "every size must be at least 1"),
    ({"image_shape": (6, 10)}, "not enough values"),
    ({"number_of_layers": 0}, "NUMBER_OF_LAYERS is 0"),
    ({"embedding_dim": -14}, "EMBEDDING_DIM is -14"),
    ({"num_heads": 0}, "NUM_HEADS is 0"),
    ({"mlp_hidden_dim": 0}, "MLP_HIDDEN_DIM is 0"),
    ({"num_classes": 0}, "NUM_CLASSES is 0"),
    ({"pool": "max"}, "POOL 'max' is not known; choose one of flatten, cls, mean"),
    ({"dropout": 1.0}, "DROPOUT is 1.0"),
    ({"classifier_dropout": -0.1}, "CLASSIFIER_DROPOUT is -0.1"),
    ({"pixel_mean": [1, 2]}, "pixel_mean has 2 values for pictures of 3 channels"),
    ({"pixel_deviation": [1, 0, 1]}, "each must be above 0"),
])
def test_wrong_sizes_are_refused_before_anything_is_built(make_model, monkeypatch, changes, sentence):
    monkeypatch.setattr(keras.Model, "__init__", lambda *a, **k: pytest.fail("something was built"))
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        make_model(**changes)
