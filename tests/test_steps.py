"""One step: sharpness-aware by hand, several in one call, under XLA, and each option free of DirectML's problems."""
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from vision_transformer import directml
from vision_transformer.batches import training_batches
from vision_transformer.classification import Classification
from vision_transformer.optimizer import AdamW
from vision_transformer.precision import set_precision
from vision_transformer.schedules import make_schedule
from vision_transformer.steps import compiled_step, compiled_steps
from vision_transformer.training import seed_everything

pytestmark = pytest.mark.usefixtures("own_process")

OPTIMIZERS = {
    "default": {},
    "weight decay": {"weight_decay": 0.05},
    "clip": {"clip_norm": 0.5},
    "accumulation": {"accumulation_steps": 2},
    "average": {"average": 0.9},
    "schedule": {"schedule": make_schedule("one-cycle", 1, 15)},
}
EVERYTHING = {name: value for options in OPTIMIZERS.values() for name, value in options.items()}


class SmallNet(keras.Model):
    """What a task wants of a model, at little cost; batch normalization makes it remember what it has seen."""

    def __init__(self, normalize=True):
        super().__init__(name="small")
        self.config = {"num_classes": 5, "image_shape": (6, 10, 3)}
        self.mix = keras.layers.Dense(7, name="mix", use_bias=not normalize)    # its gradient would be rounding alone
        self.norm = keras.layers.BatchNormalization(name="norm") if normalize else None
        self.classifier = keras.layers.Dense(5, name="classifier", dtype="float32")
        self.step = self.add_weight(name="step", shape=(), dtype="int32", initializer="zeros", trainable=False)
        self(tf.zeros((1, 6, 10, 3)))

    def call(self, images, training=None):
        x = self.mix(tf.reshape(tf.cast(images, self.compute_dtype), (-1, 180)) / 255)
        return self.classifier(tf.nn.relu(self.norm(x, training=training) if self.norm else x))


def weights_of(model, optimizer):
    """All that learns, as one vector."""
    floating = [w for w in model.get_weights() if w.dtype.kind == "f"]
    return np.concatenate([w.ravel() for w in (*floating, *(v.numpy() for v in optimizer.state.values()))])


def train(data, steps, make_model=SmallNet, batch_size=16, at_once=0, optimizer=None, label_smoothing=0.0, **options):
    """So many steps; gives the means of the figures, and all that learns."""
    seed_everything(3, False)
    task = Classification(make_model(), 2, batch_size, label_smoothing)
    optimizer = AdamW(task.model.trainable_variables, 0.01, statistics=task.model.non_trainable_variables,
                      **(optimizer or {}))
    totals = tf.Variable(tf.zeros(3))
    batches = training_batches(data.train, batch_size=batch_size, epochs=9, seed=3)
    step = compiled_step(task, optimizer, totals, batches, **options)
    if at_once:
        stream, several = iter(batches), compiled_steps(step, batches)
        for count in (at_once, steps - at_once):
            several(stream, tf.constant(count))
    else:
        for batch in batches.take(steps):
            step(*batch)
    return totals.numpy() / steps, weights_of(task.model, optimizer)


# ------------------------------------------------------------------------------------------ what a step must be
@pytest.mark.parametrize("options", [{"optimizer": EVERYTHING, "sam_rho": 0.05}, {}], ids=["everything", "default"])
def test_several_steps_in_one_call_are_the_same_steps(data, options):
    figures, weights = train(data, 7, **options)
    ours, our_weights = train(data, 7, at_once=4, **options)
    np.testing.assert_array_equal(ours, figures)
    np.testing.assert_array_equal(our_weights, weights)


@pytest.mark.parametrize("options", [
    {}, {"optimizer": EVERYTHING, "label_smoothing": 0.1}, {"sam_rho": 0.05},
    {"optimizer": EVERYTHING, "sam_rho": 0.05, "at_once": 3}], ids=["default", "all of them", "sam", "at once"])
def test_xla_changes_nothing_but_rounding(data, options):
    figures, weights = train(data, 5, **options)
    ours, our_weights = train(data, 5, xla=True, **options)
    np.testing.assert_allclose(ours, figures, rtol=1e-4)
    np.testing.assert_allclose(our_weights, weights, atol=2e-4)


def test_accumulated_batches_are_one_large_batch(data):
    """Without batch normalization, which would see smaller batches."""
    def model():
        return SmallNet(normalize=False)

    (figures, large), (ours, small) = (
        train(data, 5, model, batch_size=16),
        train(data, 10, model, batch_size=8, optimizer={"accumulation_steps": 2}))
    np.testing.assert_allclose(ours, figures, rtol=1e-5)
    np.testing.assert_allclose(small[:len(large)], large, atol=1e-5)
    assert not small[len(large):].any()                     # the sum begins anew


def test_bad_pictures_do_not_even_move_the_statistics(data):
    task = Classification(SmallNet(), 2, 16)
    optimizer = AdamW(task.model.trainable_variables, 0.01)
    batches = training_batches(data.train, batch_size=16, epochs=1, seed=3)
    step = compiled_step(task, optimizer, tf.Variable(tf.zeros(3)), batches)
    [batch] = batches.take(1)
    step(*batch)
    before = weights_of(task.model, optimizer)
    for number, images in enumerate((batch[1] * np.nan, batch[1]), 1):
        step(tf.constant(number), images, batch[2])
        np.testing.assert_array_equal(weights_of(task.model, optimizer), before)


def test_float16_learns_from_the_same_gradients(data):
    """The loss is scaled for the backward pass, the gradient scaled back: Adam's update alone would show neither."""
    means = []
    for precision in ("float32", "mixed_float16"):
        set_precision(precision)
        seed_everything(3, False)
        task = Classification(SmallNet(), 2, 16)
        optimizer = AdamW(task.model.trainable_variables, 0.01)
        batches = training_batches(data.train, batch_size=16, epochs=1, seed=3)
        [batch] = batches.take(1)
        compiled_step(task, optimizer, tf.Variable(tf.zeros(3)), batches)(*batch)
        means.append(optimizer.mean.numpy())
    assert np.abs(means[0]).max() > 0.01
    np.testing.assert_allclose(means[1], means[0], atol=1e-3)


# ------------------------------------------------------------------------------------------ sharpness-aware
class Descent:
    """Plain gradient descent."""

    def __init__(self, variables):
        self.variables = variables

    def scaled(self, loss):
        return loss

    def apply(self, gradients, step):
        for variable, gradient in zip(self.variables, gradients):
            variable.assign(variable - 0.1 * gradient)
        return tf.constant(True)


def test_sharpness_aware_steps_on_a_quadratic():
    """The loss is sum(a (w - c)^2) / 2 over two variables: its gradient at any point is a (w - c)."""
    rng = np.random.default_rng(0)
    a, c, w = (rng.uniform(1, 4, 5).astype(np.float32) for _ in range(3))
    variables = [tf.Variable(w[:3]), tf.Variable(w[3:].reshape(2, 1))]
    statistic, totals = tf.Variable(0.0), tf.Variable(tf.zeros(1))

    def loss(batch, step):
        statistic.assign(statistic + 1)
        flat = tf.concat([tf.reshape(v, [-1]) for v in variables], axis=0)
        value = tf.reduce_sum(a * (flat - c) ** 2) / 2
        return value, value[None]

    task = SimpleNamespace(loss=loss, model=SimpleNamespace(trainable_variables=variables,
                                                            non_trainable_variables=[statistic]))
    batches = tf.data.Dataset.from_tensor_slices((np.arange(2, dtype=np.int32), np.zeros(2, np.float32)))
    step, expected = compiled_step(task, Descent(variables), totals, batches, sam_rho=0.3), 0.0
    for number, batch in enumerate(batches, 1):
        expected += (a * (w - c) ** 2).sum() / 2
        gradient = a * (w - c)
        worse = w + 0.3 * gradient / np.sqrt((gradient ** 2).sum())
        w = w - 0.1 * a * (worse - c)
        step(*batch)
        np.testing.assert_allclose(np.concatenate([v.numpy().ravel() for v in variables]), w, rtol=1e-5)
        np.testing.assert_allclose(totals, [expected], rtol=1e-5)           # the loss at the weights themselves
        assert statistic.numpy() == number                                  # moved once a step


def test_where_the_gradient_is_0_there_is_no_worse_point():
    variable = tf.Variable([2.0, 3.0])
    task = SimpleNamespace(loss=lambda batch, step: (tf.reduce_sum(0 * variable), tf.zeros(1)),
                           model=SimpleNamespace(trainable_variables=[variable], non_trainable_variables=[]))
    batches = tf.data.Dataset.from_tensors((np.int32(0), np.float32(0)))
    [batch] = batches
    compiled_step(task, Descent([variable]), tf.Variable(tf.zeros(1)), batches, sam_rho=0.3)(*batch)
    np.testing.assert_array_equal(variable, [2, 3])


# ------------------------------------------------------------------------------------------ DirectML
@pytest.mark.parametrize("options", [
    *({"optimizer": options} for options in (*OPTIMIZERS.values(), EVERYTHING)), {"sam_rho": 0.05},
    {"label_smoothing": 0.1}, {"precision": "mixed_float16", "optimizer": EVERYTHING, "sam_rho": 0.05},
    {"soft": True, "label_smoothing": 0.1}],
    ids=[*OPTIMIZERS, "all of them", "sam", "smoothing", "float16", "soft labels"])
def test_each_option_stays_on_a_directml_device(make_model, options):
    options = {"precision": "float32", "optimizer": {}, "sam_rho": 0.0, "label_smoothing": 0.0, "soft": False,
               **options}
    set_precision(options["precision"])
    model = make_model(number_of_layers=1, dropout=0.2)
    optimizer = AdamW(model.trainable_variables, 0.01, statistics=model.non_trainable_variables, **options["optimizer"])
    labels = np.eye(5, dtype=np.float32)[[0, 1, 2]] if options["soft"] else np.arange(3)
    batches = tf.data.Dataset.from_tensors((np.int32(0), np.zeros((3, 6, 10, 3), np.float32), labels))
    step = compiled_step(Classification(model, 2, 3, options["label_smoothing"]), optimizer, tf.Variable(tf.zeros(3)),
                         batches, sam_rho=options["sam_rho"])
    assert directml.check(step.get_concrete_function()) == []


@pytest.mark.parametrize("xla", [False, True])
def test_a_loop_of_steps_stays_on_a_directml_device_but_not_under_xla(make_model, xla):
    task = Classification(make_model(number_of_layers=1, dropout=0.2), 2, 3)
    optimizer = AdamW(task.model.trainable_variables, 0.01, **EVERYTHING)
    batches = tf.data.Dataset.from_tensors((np.int32(0), np.zeros((3, 6, 10, 3), np.float32), np.arange(3)))
    step = compiled_step(task, optimizer, tf.Variable(tf.zeros(3)), batches, sam_rho=0.05, xla=xla)
    findings = directml.check(compiled_steps(step, batches).get_concrete_function())
    assert {f.op for f in findings} == ({"_XlaMustCompile"} if xla else set())
