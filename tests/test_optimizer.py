"""AdamW, each option against the papers' algorithms in numpy, and against Keras's own."""
import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from vision_transformer.compat import weight_path
from vision_transformer.optimizer import AdamW, layer_shares, only_kernels
from vision_transformer.precision import set_precision
from vision_transformer.schedules import make_schedule

SHAPES = {"net/mix/kernel": (2, 3), "net/mix/bias": (5,), "net/filters/depthwise_kernel": (7, 1, 2)}
DECAYS = [True, False, True]


def make_variables(shapes=SHAPES):
    rng = np.random.default_rng(0)
    return [tf.Variable(rng.normal(size=shape).astype(np.float32), name=name) for name, shape in shapes.items()]


def gradients_of(step, shapes=SHAPES):
    rng = np.random.default_rng(step + 1)
    return [tf.constant(rng.normal(size=shape).astype(np.float32)) for shape in shapes.values()]


BETAS = {"beta_1": 0.8, "beta_2": 0.95}                 # the usual 0.999 is near the last bits of float32


def reference(steps, *, rate=0.01, beta_1, beta_2, weight_decay=0.0, factors=None, clip_norm=0.0,
              accumulation_steps=1, average=0.0):
    """All options in float64: gives the weights and their average after so many batches."""
    weights = [v.numpy().astype(np.float64) for v in make_variables()]
    first, second = ([np.zeros(shape) for shape in SHAPES.values()] for _ in range(2))
    averages = [w.copy() for w in weights]
    for t in range(1, steps // accumulation_steps + 1):
        batches = range((t - 1) * accumulation_steps, t * accumulation_steps)
        gradients = [np.mean(parts, axis=0, dtype=np.float64)
                     for parts in zip(*([g.numpy() for g in gradients_of(batch)] for batch in batches))]
        norm = np.sqrt(sum((g ** 2).sum() for g in gradients))
        shrink = clip_norm / norm if clip_norm and norm > clip_norm else 1.0
        eta = rate * (factors[t * accumulation_steps - 1] if factors is not None else 1.0)
        for i, g in enumerate(gradients):
            g = shrink * g
            first[i], second[i] = (beta_1 * first[i] + (1 - beta_1) * g, beta_2 * second[i] + (1 - beta_2) * g * g)
            mean, square = first[i] / (1 - beta_1 ** t), second[i] / (1 - beta_2 ** t)
            decay = eta * weight_decay * DECAYS[i] * weights[i]
            weights[i] = weights[i] - decay - eta * mean / (np.sqrt(square) + 1e-7)
            kept = min(average, t / (9 + t))
            averages[i] = kept * averages[i] + (1 - kept) * weights[i]
    return weights, averages


FALLING = np.linspace(1, 0.1, 12)
OPTIONS = {
    "plain": {},
    "decay": {"weight_decay": 0.7},
    "schedule": {"weight_decay": 0.7, "factors": FALLING},
    "clip": {"clip_norm": 4.3},                         # norms are from 3.7 to 6.4: some are shortened
    "accumulation": {"accumulation_steps": 3, "clip_norm": 2.6, "factors": FALLING},
    "average": {"average": 0.35},                       # of 12 steps the first 4 keep less
    "all": {"weight_decay": 0.7, "factors": FALLING, "clip_norm": 2.6, "accumulation_steps": 2, "average": 0.3},
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_equals_the_papers_algorithms(options, compiled):
    variables, ours = make_variables(), dict(options)
    if "factors" in ours:
        table = tf.constant(ours.pop("factors"), tf.float32)
        ours["schedule"] = lambda step: table[step]
    optimizer = AdamW(variables, 0.01, **BETAS, **ours)
    apply = tf.function(optimizer.apply) if compiled else optimizer.apply
    for step in range(12):
        assert apply(gradients_of(step), tf.constant(step))
    weights, averages = reference(12, **BETAS, **options)
    for variable, value in zip(variables, weights):
        np.testing.assert_allclose(variable, value, atol=2e-6)
    if "average" in options:
        np.testing.assert_allclose(optimizer.averages, np.concatenate([a.ravel() for a in averages]), atol=2e-6)


def keras_adamw(**options):
    """Keras 3's AdamW, or what Keras 2.10 has under another name."""
    if hasattr(keras.optimizers, "AdamW"):
        return keras.optimizers.AdamW(**options)
    return keras.optimizers.experimental.AdamW(**options, jit_compile=False)


@pytest.mark.parametrize("weight_decay, clip_norm, cosine", [(0.0, 0.0, False), (0.3, 0.0, False), (0.3, 4.0, True)])
def test_equals_keras(weight_decay, clip_norm, cosine):
    ours, theirs = make_variables(), make_variables()
    schedule = make_schedule("cosine", 1, 9) if cosine else None
    optimizer = AdamW(ours, 0.003, weight_decay=weight_decay, clip_norm=clip_norm, schedule=schedule)
    reference = keras_adamw(
        learning_rate=keras.optimizers.schedules.CosineDecay(0.003, 9) if cosine else 0.003,
        weight_decay=weight_decay, global_clipnorm=clip_norm or None)
    reference.exclude_from_weight_decay(var_names=["bias"])
    for step in range(5):
        optimizer.apply(gradients_of(step), tf.constant(step))
        reference.apply_gradients(zip(gradients_of(step), theirs))
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_learning_rate_can_change_on_the_way():
    variables = make_variables()
    optimizer = AdamW(variables, 0.01, weight_decay=0.5)
    optimizer.apply(gradients_of(0), tf.constant(0))
    before = [v.numpy() for v in variables]
    optimizer.learning_rate.assign(0.0)
    optimizer.apply(gradients_of(1), tf.constant(1))
    for variable, value in zip(variables, before):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("path, decays", [
    ("block_0/mlp/expand/kernel", True), ("stem/depthwise_kernel", True), ("block_0/mlp/expand/bias", False),
    ("norm/gamma", False), ("norm/beta", False), ("positions/table/embeddings", False), ("class_token/token", False),
    ("block_0/scale", False)])
def test_only_matrices_and_filters_decay(path, decays):
    assert only_kernels(path) == decays


def test_what_decays_is_a_choice():
    """Without gradient a weight only decays."""
    variables = make_variables()
    before = [v.numpy() for v in variables]
    seen = []
    optimizer = AdamW(variables, 0.1, weight_decay=0.2, decays=lambda path: seen.append(path) or path == "mix/bias")
    optimizer.apply([tf.zeros_like(v) for v in variables], tf.constant(0))
    assert seen == ["mix/kernel", "mix/bias", "filters/depthwise_kernel"]
    for variable, value, share in zip(variables, before, (0, 0.02, 0)):
        np.testing.assert_allclose(variable, value * (1 - share), rtol=1e-6)


def test_weights_of_a_model_decay_by_their_paths(make_model):
    """In the model's own names, on either Keras."""
    model = make_model(pool="cls")
    before = [v.numpy() for v in model.trainable_variables]
    optimizer = AdamW(model.trainable_variables, 0.1, weight_decay=0.2)
    optimizer.apply([tf.zeros(v.shape) for v in model.trainable_variables], tf.constant(0))
    decayed = [len(v.shape) == 2 and v.shape[0] != 16 for v in model.trainable_variables]   # 16: the positions' table
    assert 4 < sum(decayed) < len(decayed) - 10
    for variable, value, decays in zip(model.trainable_variables, before, decayed):
        np.testing.assert_allclose(variable, value * (0.98 if decays else 1), rtol=1e-6)


# ------------------------------------------------------------------------------------------ a rate for each layer
LAYERS = {          # path of a weight of a model with three blocks -> how often its rate is multiplied by the decay
    "patches/projection/kernel": 4, "class_token/token": 4, "positions/table/embeddings": 4, "registers/token": 4,
    "block_0/norm_1/gamma": 3, "block_1/mlp/expand/kernel": 2, "block_2/attention/projection/bias": 1,
    "norm/gamma": 0, "classifier/projection/kernel": 0, "sequence_pooling/score/bias": 0}


def test_the_rate_shrinks_from_layer_to_layer():
    assert layer_shares(LAYERS, 0.5) == [0.5 ** steps for steps in LAYERS.values()]


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.7, "accumulation_steps": 2, "average": 0.3}])
def test_each_layer_learns_as_with_its_own_rate(options):
    """The algorithm in numpy, once for each layer with the rate that it is to have."""
    paths = ["net/block_0/mix/kernel", "net/block_1/mix/bias", "net/classifier/depthwise_kernel"]
    variables = [tf.Variable(v, name=path) for v, path in zip(make_variables(), paths)]
    optimizer = AdamW(variables, 0.01, **BETAS, layer_decay=0.6, **options)
    for step in range(6):
        optimizer.apply(gradients_of(step), tf.constant(step))
    for i, share in enumerate((0.36, 0.6, 1)):
        weights, averages = reference(6, rate=0.01 * share, **BETAS, **options)
        np.testing.assert_allclose(variables[i], weights[i], atol=2e-6)
        if options:
            size = averages[i].size
            start = sum(average.size for average in averages[:i])
            np.testing.assert_allclose(optimizer.averages[start:start + size], averages[i].ravel(), atol=2e-6)


def test_every_layer_of_a_model_has_its_rate(make_model):
    """In the model's own names, on either Keras: after one step of Adam each weight has moved by its rate."""
    model = make_model(pool="cls", register_tokens=1)
    before = [v.numpy() for v in model.trainable_variables]
    optimizer = AdamW(model.trainable_variables, 0.1, layer_decay=0.5)
    optimizer.apply([tf.ones(v.shape) for v in model.trainable_variables], tf.constant(0))
    moved = {weight_path(v).split("/")[0]: (value - v.numpy()).ravel()
             for v, value in zip(model.trainable_variables, before)}
    expected = {"patches": 3, "class_token": 3, "positions": 3, "registers": 3, "block_0": 2, "block_1": 1, "norm": 0,
                "classifier": 0}
    assert moved.keys() == expected.keys()
    for part, steps in expected.items():
        np.testing.assert_allclose(moved[part], 0.1 * 0.5 ** steps, rtol=1e-4)


def test_one_rate_for_all_costs_nothing():
    assert AdamW(make_variables(), 0.1, layer_decay=1.0).shares is None


def test_a_model_without_blocks_has_no_layers_to_tell_apart():
    with pytest.raises(ValueError, match=r"LAYER_DECAY 0\.5 is for models of encoder blocks; .* leave it at 1"):
        AdamW(make_variables(), 0.1, layer_decay=0.5)


# ------------------------------------------------------------------------------------------ the average
def test_other_weights_are_averaged_too_but_not_counters():
    variables, statistic, counter = make_variables(), tf.Variable([3.0, 5.0]), tf.Variable(7)
    optimizer = AdamW(variables, 0.01, average=0.9, statistics=[statistic, counter])
    for step, now in enumerate(([13.0, 25.0], [3.0, -5.0])):
        statistic.assign(now)
        optimizer.apply(gradients_of(step), tf.constant(step))
    first = 0.1 * np.array([3, 5]) + 0.9 * np.array([13, 25])
    np.testing.assert_allclose(optimizer.averages[-2:], 2 / 11 * first + 9 / 11 * np.array([3, -5]), rtol=1e-4)
    assert optimizer.averages.shape == (25 + 2,)


@pytest.fixture
def float16(own_process):
    set_precision("mixed_float16")


def test_a_skipped_batch_leaves_no_bad_numbers_in_the_average(float16):
    """Its forward pass has made bad statistics, and it is the last of its batches, so that an update is due."""
    variables, statistic = make_variables(), tf.Variable([3.0, 5.0])
    optimizer = AdamW(variables, 0.01, average=0.9, accumulation_steps=2, statistics=[statistic])
    before = optimizer.averages.numpy()
    assert optimizer.apply(gradients_of(0), tf.constant(0))
    statistic.assign([np.nan, np.inf])
    assert not optimizer.apply([np.inf * g for g in gradients_of(1)], tf.constant(1))
    assert optimizer.failed_step.numpy() == -1
    np.testing.assert_array_equal(optimizer.averages[-2:], before[-2:])
    assert np.isfinite(optimizer.averages).all() and (optimizer.averages.numpy()[:-2] != before[:-2]).any()


def test_the_average_is_lent_and_the_weights_come_back():
    variables, statistic = make_variables(), tf.Variable([3.0, 5.0])
    optimizer = AdamW(variables, 0.01, average=0.9, statistics=[statistic])
    optimizer.apply(gradients_of(0), tf.constant(0))
    statistic.assign([8.0, 9.0])
    own = [v.numpy() for v in (*variables, statistic)]
    with pytest.raises(KeyboardInterrupt), optimizer.averaged():
        lent = np.concatenate([v.numpy().ravel() for v in (*variables, statistic)])
        raise KeyboardInterrupt
    np.testing.assert_array_equal(lent, optimizer.averages)
    assert np.abs(lent - np.concatenate([v.ravel() for v in own])).max() > 0
    for variable, value in zip((*variables, statistic), own):
        np.testing.assert_array_equal(variable, value)


def test_without_an_average_the_weights_are_lent():
    variables = make_variables()
    with AdamW(variables, 0.01).averaged():
        np.testing.assert_array_equal(variables[0], make_variables()[0])


# ------------------------------------------------------------------------------------------ bad numbers
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("options", [
    {}, {"weight_decay": 0.1, "clip_norm": 1.0, "average": 0.9}, {"accumulation_steps": 2, "average": 0.9},
    {"accumulation_steps": 3}, {"accumulation_steps": 4}])
def test_nothing_changes_from_the_first_bad_gradient_on(bad, options):
    """The bad one is the fourth: the last of its batches, the first, or one on the way."""
    variables = make_variables()
    optimizer = AdamW(variables, 0.01, **options)
    for step in range(3):
        assert optimizer.apply(gradients_of(step), tf.constant(step))
    everything = [*variables, *optimizer.state.values()]
    kept = [v.numpy() for v in everything]
    poisoned = gradients_of(3)
    poisoned[1] = tf.constant([0, 0, bad, 0, 0], tf.float32)
    assert not optimizer.apply(poisoned, tf.constant(3))
    for step in range(4, 9):
        assert not optimizer.apply(gradients_of(step), tf.constant(step))
    assert optimizer.failed_step.numpy() == 3
    for now, before in zip(everything, kept):
        np.testing.assert_array_equal(now, before)


def test_sparse_gradients_count():
    table = tf.Variable(np.ones((4, 3), np.float32))
    optimizer = AdamW([table], 0.5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(table, [2, 2]))
    optimizer.apply(tape.gradient(loss, [table]), tf.constant(0))
    np.testing.assert_allclose(table, [[1] * 3, [1] * 3, [0.5] * 3, [1] * 3], atol=1e-5)


@pytest.mark.parametrize("options, says", [
    ({"learning_rate": 0}, "LEARNING_RATE is 0; choose a number from 1e-12 to 1,000"),
    ({"learning_rate": float("nan")}, "LEARNING_RATE is nan"), ({"learning_rate": float("inf")}, "RATE is inf"),
    ({"weight_decay": -0.1}, "WEIGHT_DECAY is -0.1; choose a number from 0 to 10, where 0 is none"),
    ({"weight_decay": float("nan")}, "WEIGHT_DECAY is nan"), ({"clip_norm": -1}, "CLIP_NORM is -1"),
    ({"clip_norm": float("inf")}, "CLIP_NORM is inf"),
    ({"layer_decay": 0}, "LAYER_DECAY is 0; choose a number from 0.01 to 1, such as 0.75"),
    ({"layer_decay": 1.1}, "LAYER_DECAY is 1.1"), ({"layer_decay": float("nan")}, "LAYER_DECAY is nan"),
    ({"beta_2": 1.0}, "BETA_2 is 1.0; it is a share: choose a number from 0 to below 1"),
    ({"beta_2": -0.5}, "BETA_2 is -0.5"),
    ({"beta_2": float("nan")}, "BETA_2 is nan"),
    ({"accumulation_steps": 0}, "ACCUMULATION_STEPS is 0; choose a whole number from 1"),
    ({"average": 1.0}, "AVERAGE is 1.0; it is a share"), ({"average": -0.5}, "AVERAGE is -0.5"),
    ({"average": float("nan")}, "AVERAGE is nan")])
def test_senseless_numbers_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        AdamW(make_variables(), **{"learning_rate": 0.1, **options})
