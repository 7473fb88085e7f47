"""benchmarks/training_flops.py: counts against layers worked out by hand and against TensorFlow's own profiler."""
import re
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow import keras

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import training_flops
from training_flops import multiply_adds

from vision_transformer import dry_run
from vision_transformer.blocks import Attention
from vision_transformer.model import VisionTransformer

ROOT = Path(__file__).parents[1]
BATCH = 3


def traced(function, *shapes, **options):
    return tf.function(function, **options).get_concrete_function(*map(tf.TensorSpec, shapes))


def forward(model, *shape):
    return traced(lambda x: model(x), (BATCH, *shape))


def step(model, *shape, **options):
    """The gradients of the weights, as a training takes them."""
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x) ** 2)
        return tape.gradient(loss, model.trainable_variables)

    model(tf.zeros((1, *shape)))                        # makes the weights
    return traced(gradients, (BATCH, *shape), **options)


# ------------------------------------------------------------------------------------------ layers, by hand
LAYERS = {          # a layer, its input's shape, multiply-adds of one picture
    "dense": (lambda: keras.layers.Dense(7), (5,), 5 * 7),
    "dense on tokens": (lambda: keras.layers.Dense(7), (11, 5), 11 * 5 * 7),
    "convolution": (lambda: keras.layers.Conv2D(7, (3, 2)), (8, 11, 5), (6 * 10) * 7 * (3 * 2 * 5)),
    "same": (lambda: keras.layers.Conv2D(7, 3, padding="same"), (8, 11, 5), (8 * 11) * 7 * (3 * 3 * 5)),
    "stride": (lambda: keras.layers.Conv2D(7, 3, 2), (8, 11, 5), (3 * 5) * 7 * (3 * 3 * 5)),
    "depthwise": (lambda: keras.layers.DepthwiseConv2D((3, 2), depth_multiplier=4), (8, 11, 5),
                  (6 * 10) * (5 * 4) * (3 * 2)),
    "attention": (lambda: Attention(2, 14, name="attention"), (11, 14), 4 * 11 * 14 * 14 + 2 * 11 * 11 * 14),
    "Keras's attention": (lambda: SelfAttention(), (11, 14), 4 * 11 * 14 * 14 + 2 * 11 * 11 * 14),
}


class SelfAttention(keras.layers.Layer):
    """Of Keras, by Einsum."""

    def __init__(self):
        super().__init__()
        self.attention = keras.layers.MultiHeadAttention(2, 7)

    def call(self, x):
        return self.attention(x, x)


def model_of(layer):
    """The layer's first output, behind a weight: then its input has a gradient, as inside a model."""
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.scale, self.layer = Scale(), layer

        def call(self, x):
            y = self.layer(self.scale(x))
            return y[0] if isinstance(y, tuple) else y

    return Model()


class Scale(keras.layers.Layer):
    def build(self, input_shape):
        self.factor = self.add_weight(name="factor", shape=(1,), initializer="ones")

    def call(self, x):
        return x * tf.convert_to_tensor(self.factor)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_costs_what_it_does_by_hand_and_three_times_that_to_train(layer):
    make, shape, cost = LAYERS[layer]
    model = model_of(make())
    assert multiply_adds(forward(model, *shape)) == BATCH * cost
    assert multiply_adds(step(model, *shape)) == 3 * BATCH * cost


@pytest.mark.parametrize("layer", ["dense", "same", "depthwise"])
def test_nobody_needs_the_gradient_of_the_pictures(layer):
    make, shape, cost = LAYERS[layer]
    assert multiply_adds(step(make(), *shape)) == 2 * BATCH * cost


def test_the_default_model_costs_what_the_paper_s_equations_do():
    """arXiv 2010.11929, equations 1 to 4: 64 tokens of 64, 8 blocks, an MLP of 256; our classifier reads all tokens."""
    tokens, width, hidden, classes = 64, 64, 256, 10
    embedding = tokens * (4 * 4 * 3) * width
    block = (4 * tokens * width * width             # queries, keys, values; projection
             + 2 * tokens * tokens * width          # scores; weighted values
             + 2 * tokens * width * hidden)
    all_in_all = embedding + 8 * block + tokens * width * hidden + hidden * classes
    assert all_in_all == 30_607_872
    model = VisionTransformer(image_shape=(32, 32, 3), num_classes=classes)
    assert multiply_adds(forward(model, 32, 32, 3)) == BATCH * all_in_all
    trained = step(model, 32, 32, 3)
    assert multiply_adds(trained) == BATCH * (3 * all_in_all - embedding)


# ------------------------------------------------------------------------------------------ another counter
@pytest.mark.parametrize("options", [{}, {"embedding": "hybrid", "stem_widths": "13"}, {"token_learner": "v1"},
                                     {"attention": "locality", "pool": "cls", "register_tokens": 2}])
def test_tensorflow_s_profiler_counts_the_same(make_model, options):
    graph = forward(make_model(**options), 6, 10, 3)
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    wanted = {**builder.float_operation(), "output": "none", "select": ["float_ops", "op_types"],
              "account_type_regexes": ["MatMul", "BatchMatMul.*", "Conv2D", "DepthwiseConv2dNative"]}
    counted = tf.compat.v1.profiler.profile(graph.graph, cmd="op", options=wanted)
    assert counted.total_float_ops == training_flops.FLOPS_PER_MAC * multiply_adds(graph) > 0


# ------------------------------------------------------------------------------------------ functions within
@pytest.mark.parametrize("options", [{}, {"jit_compile": True}])
@pytest.mark.parametrize("within", [{}, {"jit_compile": True}])
def test_called_functions_count_and_what_nobody_needs_does_not(options, within):
    @tf.function(**within)
    def layer(x, kernel):
        return tf.matmul(x, kernel), tf.matmul(x, kernel[:, :2])        # nothing reads the second

    @tf.function(**within)
    def first(x, kernel):
        return tf.matmul(x, kernel)

    def gradient(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            loss = tf.reduce_sum(first(x, kernel) ** 2)
        return tape.gradient(loss, kernel)                              # that of x is in the graph, too

    cost = 3 * 5 * 7
    assert multiply_adds(traced(lambda *x: layer(*x)[0], (3, 5), (5, 7), **options)) == cost
    assert multiply_adds(traced(lambda *x: layer(*x)[1], (3, 5), (5, 7), **options)) == 3 * 5 * 2
    assert multiply_adds(traced(gradient, (3, 5), (5, 7), **options)) == 2 * cost


def test_what_only_an_assignment_needs_counts():
    variable = tf.Variable(tf.zeros((3, 7)))

    def assigns(a, b):
        variable.assign(tf.matmul(a, b))

    assert multiply_adds(traced(assigns, (3, 5), (5, 7))) == 3 * 5 * 7


def test_a_loop_without_products_costs_nothing():
    function = traced(lambda x: tf.while_loop(lambda x: x[0, 0] < 9, lambda x: (x + 1,), (x,))[0], (3, 3))
    assert multiply_adds(function) == 0


def product(x):
    return tf.matmul(x, x)


@pytest.mark.parametrize(("function", "shape", "message"), [
    (lambda x: tf.nn.conv3d(x, tf.zeros((1, 1, 1, 2, 2)), [1] * 5, "SAME"), (1, 3, 3, 3, 2), "type Conv3D,"),
    (lambda x: tf.while_loop(lambda x: x[0, 0] < 9, lambda x: (product(x),), (x,))[0], (3, 3), r"While\) runs"),
    (lambda x: tf.cond(x[0, 0] > 0, lambda: product(x), lambda: x), (3, 3), r"If\) runs"),
    (product, (None, None), "unknown shape"),
    (lambda x: tf.einsum("...ab,...bc->...ac", x, x), (5, 3, 3), "an Einsum of"),
    (lambda x: tf.einsum("ab,cb->c", x, x), (3, 3), "an Einsum of"),
])
def test_what_cannot_be_counted_is_named(function, shape, message):
    with pytest.raises(ValueError, match=message):
        multiply_adds(traced(function, shape))


# ------------------------------------------------------------------------------------------ the command
def test_the_command_reports_a_whole_training(monkeypatch, capsys):
    flags = ["--number-of-layers", "2", "--batch-size", "37", "--epochs", "3", "--embedding-dim", "14",
             "--num-heads", "2", "--mlp-hidden-dim", "11"]
    monkeypatch.setattr(sys, "argv", ["training_flops.py", str(ROOT / "train_digits.py"), *flags])
    training_flops.main()
    lines = capsys.readouterr().out.splitlines()
    weights, macs, flops, usual, pictures, whole, usually = (re.split(" {2,}", line.strip())[-1] for line in lines)
    training = dry_run.dry_run(ROOT / "train_digits.py", flags)
    forward_macs = multiply_adds(training.functions()["evaluate, predict"]) / 37
    step_macs = multiply_adds(training.functions()["train step"]) / 37
    assert weights == f"{sum(v.numpy().size for v in training.owner.optimizer.variables):,}"
    assert (macs, flops, usual) == (f"{forward_macs:,.0f}", f"{2 * step_macs:,.0f}", f"{6 * forward_macs:,.0f}")
    seen = 3 * (1221 // 37 * 37)                        # digits' training pictures, whole batches
    assert pictures == f"{seen:,}"
    assert (whole, usually) == (f"{2 * step_macs * seen:.3g}", f"{6 * forward_macs * seen:.3g}")
    assert forward_macs < step_macs < 3 * forward_macs


def test_the_command_counts_for_this_machine_or_as_on_directml(monkeypatch, capsys):
    """Mirrored filters: of the digits' 8x8 pixels, 2 halvings; only the last two convolutions have halves to read."""
    flags = ["--embedding", "hybrid", "--stem-widths", "6-10", "--mirrored-filters", "--embedding-dim", "8"]
    macs = []
    for counted in ([], ["--as-on-directml"]):
        monkeypatch.setattr(sys, "argv", ["training_flops.py", *counted, str(ROOT / "train_digits.py"), *flags])
        training_flops.main()
        macs.append(int(re.search(r"MACs .*?([\d,]+)$", capsys.readouterr().out, re.MULTILINE)[1].replace(",", "")))
    assert macs[1] - macs[0] == 9 * (4 * 4 * 6 * 10 + 2 * 2 * 10 * 8) / 2


def test_a_script_that_trains_by_fit_is_refused(tmp_path, monkeypatch):
    script = tmp_path / "train_by_fit.py"
    script.write_text("from tensorflow import keras\nimport numpy as np\n"
                      "model = keras.Sequential([keras.layers.Dense(2)])\nmodel.compile('sgd', 'mse')\n"
                      "model.fit(np.zeros((4, 3)), np.zeros((4, 2)), batch_size=2)\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["training_flops.py", str(script)])
    with pytest.raises(ValueError, match=r"trains by keras\.Model\.fit"):
        training_flops.main()
