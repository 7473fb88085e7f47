"""Patches, their embeddings, learned tokens and positions against formulas written out in numpy."""
import numpy as np
import pytest
import reference
import tensorflow as tf
from reference import random, weights_of

from vision_transformer import embedding
from vision_transformer.compat import raw


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


@pytest.mark.parametrize("size, stride", [(2, 2), (3, 1), (4, 2)])
def test_a_convolution_is_the_linear_embedding_with_its_kernel_reshaped(size, stride):
    x = random(2, 6, 10, 3)
    linear = embedding.PatchEmbedding(size, stride, 7)
    convolution = embedding.ConvolutionEmbedding(size, stride, 7)
    tokens = linear(x)
    assert convolution(x).shape == tokens.shape == (2, ((6 - size) // stride + 1) * ((10 - size) // stride + 1), 7)
    reference.randomize(linear)
    kernel, bias = (raw(v).numpy() for v in linear.weights)
    convolution.set_weights([kernel.reshape(size, size, 3, 7), bias])
    np.testing.assert_allclose(convolution(x), linear(x), atol=1e-4)


def test_a_convolutions_first_tokens_are_as_large_as_its_pixels():
    layer = embedding.ConvolutionEmbedding(4, 4, 64)
    layer(np.zeros((1, 8, 8, 3), np.float32))
    assert raw(layer.projection.kernel).numpy().var() == pytest.approx(1 / 48, rel=0.1)


@pytest.mark.parametrize("size, stride, half", [(2, 2, 1), (3, 1, 1), (4, 2, 2)])
def test_shifted_patches_equal_the_papers_formula(size, stride, half):
    x = random(2, 6, 10, 3)
    layer = embedding.ShiftedPatchEmbedding(size, stride, 7)
    layer(x)
    reference.randomize(layer)
    w = weights_of(layer)
    five = np.zeros((2, 6, 10, 15), np.float32)
    five[..., :3] = x
    for corner, (down, right) in enumerate([(1, 1), (1, -1), (-1, 1), (-1, -1)], start=1):
        for row in range(6):                            # what is there came from half a patch further up or down
            for column in range(10):
                y, z = row - down * half, column - right * half
                if 0 <= y < 6 and 0 <= z < 10:
                    five[:, row, column, 3 * corner:3 * corner + 3] = x[:, y, z]
    patches = reference.windows(five, size, stride).reshape(2, -1, size * size * 15)
    normal = reference.layer_norm(patches) * w["norm/gamma"] + w["norm/beta"]
    np.testing.assert_allclose(layer(x), normal @ w["projection/kernel"] + w["projection/bias"], atol=2e-4)


# ------------------------------------------------------------------------------------------ tokens and positions
@pytest.mark.parametrize("count, after", [(1, 0), (3, 0), (3, 1), (2, 5)])
def test_learned_tokens_are_put_in_their_place(count, after):
    layer, x = embedding.LearnedTokens(count, after), random(2, 5, 6)
    expected = [[*picture[:after], *token, *picture[after:]] for picture in x
                for token in [layer(x) is not None and raw(layer.token).numpy()[0]]]
    assert raw(layer.token).shape == (1, count, 6)
    np.testing.assert_array_equal(layer(x), expected)


def test_positions_add_their_table_and_learn(make_model, images):
    net = make_model()
    layer = net.position_embedding
    tokens = random(2, 15, 14)
    np.testing.assert_allclose(layer(tokens), tokens + raw(layer.table.embeddings).numpy(), atol=1e-6)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(net(images) ** 2)
    [gradient] = tape.gradient(loss, [raw(layer.table.embeddings)])
    assert (np.abs(tf.convert_to_tensor(gradient)) > 0).all()


def test_first_positions_are_sines_of_row_and_column():
    table = embedding.sine_positions(3, 5, 11)
    assert table.shape == (15, 11)
    for row in range(3):
        for column in range(5):
            expected = [np.sin(row), np.sin(row / 100), np.cos(row), np.cos(row / 100),
                        np.sin(column), np.sin(column / 100), np.cos(column), np.cos(column / 100), 0, 0, 0]
            np.testing.assert_allclose(table[5 * row + column], expected, atol=1e-12)
    assert embedding.sine_positions(2, 2, 3).tolist() == [[0.0] * 3] * 4


@pytest.mark.parametrize("positions", [embedding.PositionEmbedding, embedding.SinePositions])
def test_both_kinds_of_positions_begin_as_sines_and_leave_extra_tokens_alone(positions):
    layer = positions(3, 5, 2, 11)
    x = random(1, 17, 11)
    expected = x[0] + [[0] * 11, [0] * 11, *embedding.sine_positions(3, 5, 11)]
    np.testing.assert_allclose(layer(x)[0], expected, atol=1e-6)
    assert len(layer.weights) == (positions is embedding.PositionEmbedding)


LAYERS = [
    (lambda: embedding.PatchEmbedding(2, 1, 7), (2, 4, 6, 3)),
    (lambda: embedding.ConvolutionEmbedding(2, 1, 7), (2, 4, 6, 3)),
    (lambda: embedding.ShiftedPatchEmbedding(2, 1, 7), (2, 4, 6, 3)),
    (lambda: embedding.LearnedTokens(3, 2), (2, 5, 6)),
    (lambda: embedding.PositionEmbedding(2, 3, 1, 5), (2, 7, 5)),
    (lambda: embedding.SinePositions(2, 3, 1, 5), (2, 7, 5)),
]


@pytest.mark.parametrize("make, shape", LAYERS, ids=[make().__class__.__name__ for make, _ in LAYERS])
def test_layer_survives_its_config_and_gives_the_same_output(make, shape):
    reference.assert_survives_its_config(make(), random(*shape))
