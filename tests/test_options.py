"""Every option of the model: how many weights it has, that each of them learns, and what holds whatever is chosen."""
import numpy as np
import pytest
import tensorflow as tf
from conftest import SIZES
from tensorflow import keras

from vision_transformer import directml
from vision_transformer.architectures import build_model
from vision_transformer.compat import raw, weight_path
from vision_transformer.model import CHOICES, VisionTransformer
from vision_transformer.runs import Run
from vision_transformer.sizes import parameter_count
from vision_transformer.xla import as_on_directml

PICTURES = np.random.default_rng(0).integers(0, 256, (4, 6, 10, 3)).astype(np.uint8)
RUN = {"dropout": 0.2, "classifier_dropout": 0.2, "pixel_mean": [120, 121, 122], "pixel_deviation": [60, 61, 62]}
# Worked out by hand for 15 tokens of width 14 and two blocks: two norms; query, key and value; projection; the MLP's
# two layers.
BLOCK = 2 * 28 + (14 * 42 + 42) + (14 * 14 + 14) + (14 * 11 + 11) + (11 * 14 + 14)
PATCHES, POSITIONS, BLOCKS, NORM = 2 * 2 * 3 * 14 + 14, 15 * 14, 2 * BLOCK, 28
ENCODER = PATCHES + POSITIONS + BLOCKS + NORM


def mlp(features):
    return features * 11 + 11 + 11 * 5 + 5


LEARNED = {"learned_tokens": 4, "token_learner_after": 1}
V1, V11 = 28 + 9 * 14 * 4 + 3 * 9 * 4 * 4, 28 + 14 * 64 + 64 + 64 * 4 + 4
OPTIONS = {
    "default": ({}, ENCODER + mlp(210)),
    "convolution": ({"embedding": "convolution"}, ENCODER + mlp(210)),
    "shifted": ({"embedding": "shifted"}, ENCODER - PATCHES + 2 * 60 + 60 * 14 + 14 + mlp(210)),
    "hybrid": ({"embedding": "hybrid", "stem_widths": "5"},
               ENCODER - PATCHES + 27 * 5 + 2 * 5 + 9 * 5 * 14 + 2 * 14 + mlp(210)),
    "whitening": ({"embedding": "hybrid", "stem_widths": "5", "whitening": True},
                  ENCODER - PATCHES - 7 * 14 + 9 * 24 * 5 + 2 * 5 + 9 * 5 * 14 + 2 * 14 + mlp(8 * 14)),
    "depth": ({"embedding": "hybrid", "stem_widths": "5", "stem_depth": 3},
              ENCODER - PATCHES + 27 * 5 + 2 * 9 * 5 * 5 + 3 * 2 * 5 + 9 * 5 * 14 + 2 * 14 + mlp(210)),
    "mirrored": ({"embedding": "hybrid", "stem_widths": "6", "whitening": True, "mirrored_filters": True},
                 ENCODER - PATCHES - 7 * 14 + 9 * 24 * 3 + 2 * 3 + 9 * 6 * 7 + 2 * 7 + mlp(8 * 14)),
    "compact": ({"embedding": "compact", "stem_widths": ""}, ENCODER - PATCHES + 27 * 14 + mlp(210)),
    "sincos": ({"positions": "sincos"}, ENCODER - POSITIONS + mlp(210)),
    "none": ({"positions": "none", "pool": "mean"}, ENCODER - POSITIONS + mlp(14)),
    "registers": ({"register_tokens": 2}, ENCODER + 28 + mlp(210)),
    "locality": ({"attention": "locality"}, ENCODER + 2 * 7 + mlp(210)),
    "post": ({"norm": "post"}, ENCODER - NORM + mlp(210)),
    "layer scale": ({"layer_scale": 0.1}, ENCODER + 2 * 28 + mlp(210)),
    "stochastic depth": ({"stochastic_depth": 0.2}, ENCODER + mlp(210)),
    "v1": ({"token_learner": "v1", **LEARNED}, ENCODER + V1 + mlp(4 * 14)),
    "v1.1": ({"token_learner": "v1.1", **LEARNED}, ENCODER + V11 + mlp(4 * 14)),
    "sequence": ({"pool": "sequence"}, ENCODER + 14 + 1 + mlp(14)),
    "linear": ({"classifier": "linear"}, ENCODER + 210 * 5 + 5),
    "read registers": ({"pool": "cls", "register_tokens": 3, "read_registers": 2, "norm_epsilon": 1e-12},
                       ENCODER + 14 + 14 + 3 * 14 + mlp(3 * 14)),
    "all tokens": ({"pool": "cls", "register_tokens": 3, "token_learner": "v1.1", **LEARNED},
                   ENCODER + 14 + 14 + 3 * 14 + V11 + mlp(14)),
    "everything": ({"embedding": "hybrid", "stem_widths": "5", "stem_depth": 2, "whitening": True,
                    "attention": "locality", "layer_scale": 0.1, "stochastic_depth": 0.2, "register_tokens": 2,
                    "token_learner": "v1", **LEARNED, "pool": "sequence", "classifier": "linear"},
                   ENCODER - PATCHES - 7 * 14 + 9 * (24 + 5) * 5 + 4 * 5 + 9 * 5 * 14 + 28 + 2 * 7 + 2 * 28 + 28 + V1
                   + 14 + 1 + 14 * 5 + 5),
    "resnet": ({"architecture": "resnet", "blocks_per_stage": 1, "first_width": 7},
               9 * (3 * 7 + 2 * 7 * 7 + 7 * 14 + 14 * 14 + 14 * 28 + 28 * 28) + 2 * (3 * 7 + 2 * 14 + 2 * 28)
               + 28 * 5 + 5),
}
# The softmax behind these takes away what they add, so nothing can be learned of them.
WITHOUT_EFFECT = {"sequence_pooling/score/bias", "token_learner/mlp/contract/bias"}


def make(option, policy="float32", **changes):
    """A model with an option; its policy can be another than float32."""
    keras.mixed_precision.set_global_policy(policy)
    keras.utils.set_random_seed(1)                      # rounding errors depend on the weights
    try:
        return build_model(**{**SIZES, **RUN, **OPTIONS[option][0], **changes})
    finally:
        keras.mixed_precision.set_global_policy("float32")


def train_step(net, jit_compile=False):
    """A compiled step on (step, images, labels) as the loop's: gives the loss and the gradients."""
    weights = [raw(v) for v in net.trainable_variables]

    @tf.function(jit_compile=jit_compile, input_signature=[
        tf.TensorSpec((), tf.int32), tf.TensorSpec((4, 6, 10, 3), tf.uint8), tf.TensorSpec((4,), tf.int64)])
    def step(number, images, labels):
        net.step.assign(number)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(
                tf.one_hot(labels, 5), net(images, training=True)))
        return loss, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, weights)]

    return step


@pytest.fixture(scope="module", params=OPTIONS)
def option(request):
    return request.param


@pytest.fixture(scope="module")
def net(option):
    return make(option)


@pytest.fixture(scope="module")
def step(net):
    return train_step(net)


def test_every_choice_is_tried():
    default = VisionTransformer(**SIZES).config
    for name, allowed in CHOICES.items():
        assert {{**default, **changes}[name] for changes, _ in OPTIONS.values()} == set(allowed), name


def test_parameter_count(option, net):
    assert parameter_count(net) == OPTIONS[option][1]


def test_every_weight_learns(net, step):
    loss, gradients = step(tf.constant(3), PICTURES, np.arange(4))
    assert np.isfinite(loss)
    for variable, gradient in zip(net.trainable_variables, gradients):
        assert np.isfinite(gradient).all(), weight_path(variable)
        assert np.abs(gradient).max() > 1e-9 or weight_path(variable) in WITHOUT_EFFECT, weight_path(variable)


def test_a_run_keeps_all_of_it(net, option, tmp_path):
    net(PICTURES, training=True)
    run = Run.create(tmp_path, "bright", {"model": net.get_config()})
    run.save_weights(net)
    copy = build_model(**run.config["model"])
    assert copy.get_config() == net.get_config()
    assert (np.abs(copy(PICTURES) - net(PICTURES)) > 1e-6).any()
    run.load_weights(copy)
    np.testing.assert_array_equal(copy(PICTURES), net(PICTURES))


def check_precision(name, exact, dtype):
    """Holds a model in half precision against the same in float32."""
    mixed = make(name, f"mixed_{dtype.name}")
    mixed.set_weights(exact.get_weights())
    out, logits = mixed.forward(PICTURES), exact(PICTURES).numpy()
    assert out["features"].dtype == dtype and out["logits"].dtype == tf.float32
    assert {raw(v).dtype for v in mixed.weights} == {tf.float32, tf.int32}
    rounding = {tf.bfloat16: 2 ** -8, tf.float16: 2 ** -11}[dtype]
    np.testing.assert_allclose(out["logits"], logits, atol=30 * rounding * max(1, np.abs(logits).max()))
    assert (out["logits"].numpy() != logits).any()
    assert np.isfinite(mixed(PICTURES, training=True)).all()


def test_mixed_precision_gives_float32_logits_near_the_exact_ones(net, option):
    check_precision(option, net, tf.bfloat16)


@pytest.mark.parametrize("name", ["all tokens", "everything", "resnet"])
def test_float16_does_so_too(name):
    check_precision(name, make(name), tf.float16)


def test_all_of_it_stays_on_a_directml_gpu(net, step, option):
    predict = tf.function(lambda images: net(images, training=False),
                          input_signature=[tf.TensorSpec((4, 6, 10, 3), tf.uint8)])
    if option == "mirrored":                            # on a CPU its step leaves some work to XLA
        step = train_step(net)
    with as_on_directml():
        assert directml.check(step.get_concrete_function()) == []
        assert directml.check(predict.get_concrete_function()) == []


@pytest.mark.parametrize("name", ["stochastic depth", "everything"])
def test_masks_are_a_function_of_the_step(name):
    net = make(name)
    first, second = net(PICTURES, training=True).numpy(), net(PICTURES, training=True).numpy()
    assert (np.abs(first - second) > 1e-5).any(), "each training call must draw its own masks"
    net.step.assign(0)
    np.testing.assert_array_equal(first, net(PICTURES, training=True))
    np.testing.assert_array_equal(net(PICTURES), net(PICTURES, training=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v1.1", "everything"])
def test_xla_makes_the_same(name):
    net = make(name, dropout=0.0, classifier_dropout=0.0, stochastic_depth=0.0)        # XLA draws other random numbers
    results = []
    for jit_compile in (False, True):
        loss, gradients = train_step(net, jit_compile)(tf.constant(3), PICTURES, np.arange(4))
        results.append([loss, *gradients])
    for one, other in zip(*results):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_keras_own_saving_needs_no_custom_objects(tmp_path):
    net, path = make("everything"), str(tmp_path / "net.keras")
    if keras.__version__.startswith("2"):               # there a subclassed model is saved as a folder
        path = str(tmp_path / "net")
    net.save(path)
    np.testing.assert_allclose(keras.models.load_model(path)(PICTURES), net(PICTURES), atol=1e-5)
