"""The task: its loss and figures against scikit-learn's and Keras's, for integer and for soft labels."""
import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight
from tensorflow import keras

from vision_transformer import directml
from vision_transformer.batches import training_batches
from vision_transformer.classification import Classification, balancing_weights, classification_figures
from vision_transformer.mixing import make_mixing
from vision_transformer.optimizer import AdamW
from vision_transformer.steps import compiled_step


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


# ------------------------------------------------------------------------------------------ class weights
UNEVEN = np.repeat(np.arange(5), [3, 40, 11, 7, 29])


def weighted_task(model, **options):
    return Classification(model, top_k=2, batch_size=13, class_weights=True, training_labels=UNEVEN, **options)


def test_weights_are_scikit_learns_balanced_ones_and_1_in_the_mean():
    weights = balancing_weights(UNEVEN, 5)
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(5), y=UNEVEN), rtol=1e-6)
    assert weights[UNEVEN].mean() == pytest.approx(1) and weights[0] == pytest.approx(90 / (5 * 3))
    for k in range(5):
        assert weights[UNEVEN[k == UNEVEN]].sum() == pytest.approx(18), "each class counts alike"


def cross_entropy(targets, logits):
    """By hand, in double precision: (n,)."""
    logits = logits.astype(float)
    return -(targets * (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))).sum(axis=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.17])
@pytest.mark.parametrize("soft", [False, True])
def test_a_weighted_loss_is_the_weighted_mean_of_its_parts_losses(make_model, batch, soft, smoothing):
    images, shares = batch
    keras.utils.set_random_seed(0)
    task = weighted_task(make_model(), label_smoothing=smoothing)
    labels = shares if soft else shares.argmax(axis=1)
    with tf.GradientTape() as tape:
        loss, figures = task.loss((tf.constant(images), tf.constant(labels)), tf.constant(0))
    logits, weights = task.model(images).numpy(), compute_class_weight("balanced", classes=np.arange(5), y=UNEVEN)
    shares = shares if soft else np.eye(5)[labels]
    losses = [cross_entropy((1 - smoothing) * np.eye(5)[k] + smoothing / 5, logits) for k in range(5)]
    expected = (shares * weights * np.stack(losses, axis=1)).sum(axis=1).mean()
    assert loss.numpy() == pytest.approx(expected, rel=1e-5) and figures[0] == loss
    np.testing.assert_allclose(figures[1:], classification_figures(logits, shares.argmax(axis=1), 2)[1:], rtol=1e-5)
    assert abs(expected - cross_entropy(shares, logits).mean()) > 0.05, "a mistake would change it"
    # The gradient of the last bias by hand: softmax minus target, each part's times its weight.
    chances = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(axis=1, keepdims=True)
    slopes = sum((shares * weights)[:, [k]] * (chances - (1 - smoothing) * np.eye(5)[k] - smoothing / 5)
                 for k in range(5))
    [bias] = [v for v in task.model.trainable_variables if v.shape == (5,)]
    np.testing.assert_allclose(tape.gradient(loss, bias), slopes.mean(axis=0), atol=1e-6)


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_keras_weighs_classes_alike(make_model, batch):
    images, shares = batch
    task, labels = weighted_task(make_model()), shares.argmax(axis=1)
    loss, _ = task.loss((tf.constant(images), tf.constant(labels)), tf.constant(0))
    inputs = keras.Input((5,))
    keras_model = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    keras_model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    weights = dict(enumerate(balancing_weights(UNEVEN, 5).tolist()))
    fitted = keras_model.fit(task.model(images).numpy(), labels, 13, verbose=0, class_weight=weights)
    assert loss.numpy() == pytest.approx(fitted.history["loss"][0], rel=1e-5)


def test_held_out_figures_know_no_weights(make_model, data):
    plain, weighted = Classification(make_model(seed=7), 2, 13), weighted_task(make_model(seed=7))
    weighted.model.set_weights(plain.model.get_weights())
    assert weighted.evaluate(data.test) == plain.evaluate(data.test)


def test_even_classes_weigh_as_if_there_were_no_weights(make_model, batch):
    tasks = [Classification(make_model(seed=3), 2, 13, 0.1, on, np.arange(35) % 5) for on in (False, True)]
    tasks[1].model.set_weights(tasks[0].model.get_weights())
    losses = [task.loss(tuple(map(tf.constant, batch)), tf.constant(0))[0].numpy() for task in tasks]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_step_with_weights_stays_on_a_directml_gpu_and_changes_the_weights(make_model, data):
    results = []
    for options in ({}, {"sam_rho": 0.05}):
        task = weighted_task(make_model(seed=1), label_smoothing=0.1)
        optimizer = AdamW(task.model.trainable_variables, 0.01, accumulation_steps=2)
        batches = training_batches(data.train, batch_size=13, epochs=1, seed=0, mix=make_mixing(5, mixup=0.2))
        step = compiled_step(task, optimizer, tf.Variable(tf.zeros(3)), batches, **options)
        assert directml.check(step.get_concrete_function()) == []
        for each in batches:
            step(*each)
        assert int(optimizer.failed_step.numpy()) < 0
        results.append(np.concatenate([v.numpy().ravel() for v in task.model.trainable_variables]))
    assert np.isfinite(results).all() and (results[0] != results[1]).any()


@pytest.mark.parametrize("options, says", [
    ({"class_weights": True}, "CLASS_WEIGHTS is true, but class 0 has no training picture"),
    ({"class_weights": True, "training_labels": [0, 1, 2, 4]}, "class 3 has no training picture.*set it to false"),
    ({"class_weights": "no"}, "CLASS_WEIGHTS is 'no'; choose True or False")])
def test_weights_that_can_not_be_are_refused(make_model, options, says):
    with pytest.raises(ValueError, match=says):
        Classification(make_model(), 2, 16, **options)


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
