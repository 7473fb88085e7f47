"""The task: its loss and figures against scikit-learn's and Keras's, for integer and for soft labels."""
import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
from tensorflow import keras

from vision_transformer.classification import Classification, classification_figures


def test_figures_equal_scikit_learns():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(101, 7)).astype(np.float32) * 9, rng.integers(0, 7, 101)
    shares = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(axis=1, keepdims=True)
    expected = [sklearn.metrics.log_loss(labels, shares, labels=range(7)),
                sklearn.metrics.accuracy_score(labels, logits.argmax(axis=1)),
                sklearn.metrics.top_k_accuracy_score(labels, logits, k=3, labels=range(7))]
    assert classification_figures(logits, labels, 3) == pytest.approx(expected, rel=1e-5)


def test_nan_logits_are_never_right():
    logits = np.full((4, 5), np.nan, np.float32)
    with np.errstate(invalid="ignore"):
        assert classification_figures(logits, np.arange(4), 2)[1:] == [0, 0]


# ------------------------------------------------------------------------------------------ the training loss
@pytest.fixture
def batch():
    """13 pictures of random pixels, and soft labels that are no ties."""
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (13, 6, 10, 3)).astype(np.float32), rng.dirichlet([0.5] * 5, 13).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.17])
@pytest.mark.parametrize("soft", [False, True])
def test_loss_equals_keras_and_accuracy_counts_the_likeliest_label(make_model, batch, soft, smoothing):
    images, shares = batch
    keras.utils.set_random_seed(0)
    task = Classification(make_model(), top_k=2, batch_size=13, label_smoothing=smoothing)
    labels = shares if soft else shares.argmax(axis=1)
    loss, figures = task.loss((tf.constant(images), tf.constant(labels)), tf.constant(0))
    logits = task.model(images).numpy()
    targets = shares if soft else np.eye(5)[shares.argmax(axis=1)].astype(np.float32)
    expected = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)(targets, logits)
    assert loss.numpy() == pytest.approx(float(expected), rel=1e-5)
    _, *hits = classification_figures(logits, shares.argmax(axis=1), 2)
    np.testing.assert_allclose(figures, [float(expected), *hits], rtol=1e-5)
    assert 0 < hits[0] < hits[1] < 1                            # figures that a mistake would change


def test_validation_knows_no_smoothing(make_model, data):
    plain, smooth = (Classification(make_model(seed=7), 2, 16, label_smoothing=s) for s in (0.0, 0.5))
    smooth.model.set_weights(plain.model.get_weights())
    assert smooth.evaluate(data.test) == plain.evaluate(data.test)


# ------------------------------------------------------------------------------------------ predictions
def test_evaluation_leaves_no_picture_out(data, make_model):
    task = Classification(make_model(), 2, batch_size=16)
    np.testing.assert_allclose(task.predict(data.test.images), task.model(data.test.images), atol=1e-5)
    assert len(task.predict(data.test.images)) == 37


@pytest.mark.parametrize("options, says", [
    ({"top_k": 0}, "TOP_K is 0; choose a whole number from 2 to 5, which is all classes"),
    ({"top_k": 1}, "TOP_K is 1"), ({"top_k": 6}, "TOP_K is 6"),
    ({"label_smoothing": 1.0}, "LABEL_SMOOTHING is 1.0; it is a share"),
    ({"label_smoothing": -0.1}, "LABEL_SMOOTHING is -0.1"),
    ({"label_smoothing": float("nan")}, "LABEL_SMOOTHING is nan")])
def test_senseless_numbers_are_refused(make_model, options, says):
    with pytest.raises(ValueError, match=says):
        Classification(make_model(), **{"top_k": 2, "batch_size": 16, **options})
