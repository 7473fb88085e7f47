"""Precision: what is refused, and the loss scale: it halves, grows, and lets true NaN through to the stop."""
import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from vision_transformer import precision
from vision_transformer.optimizer import AdamW
from vision_transformer.precision import LossScale, set_precision

pytestmark = pytest.mark.usefixtures("own_process")


@pytest.fixture
def directml(monkeypatch):
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind=None: [gpu])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"device_name": "DML"})


@pytest.mark.parametrize("name, compute", [
    ("float32", "float32"), ("mixed_bfloat16", "bfloat16"), ("mixed_float16", "float16")])
def test_layers_compute_in_it_and_keep_float32_weights(name, compute):
    set_precision(name)
    layer = keras.layers.Dense(3)
    assert layer(tf.ones((2, 5))).dtype == compute
    assert tf.as_dtype(layer.kernel.dtype) == tf.float32
    assert bool(AdamW([layer.kernel], 0.1).loss_scale) == (compute == "float16")


def test_a_precision_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="PRECISION 'half' is not known; choose one of float32, mixed_bfloat16, mixed"):
        set_precision("half")


def test_bfloat16_is_refused_on_directml_and_float16_is_not(directml):
    with pytest.raises(ValueError, match="PRECISION 'mixed_bfloat16' has no DirectML kernels; choose float32 or mixed"):
        set_precision("mixed_bfloat16")
    set_precision("mixed_float16")


def test_the_scale_halves_at_each_overflow_and_doubles_after_good_steps_in_a_row(monkeypatch):
    monkeypatch.setattr(precision, "GROWS_AFTER", 3)
    monkeypatch.setattr(precision, "LARGEST_SCALE", 2.0 ** 16)
    loss_scale, scales = LossScale(), []
    for finite in "yynyyyyyyyyynn":
        assert loss_scale.update(tf.constant(finite == "y"))
        scales.append(int(np.log2(loss_scale.scale.numpy())))
    assert scales == [15, 15, 14, 14, 14, 15, 15, 15, 16, 16, 16, 16, 15, 14]       # 16 is the largest here
    assert loss_scale.skipped.numpy() == 3


def test_overflows_are_skipped_until_the_scale_is_1_then_they_are_failures():
    set_precision("mixed_float16")
    weight = tf.Variable([1.0, 2.0])
    optimizer = AdamW([weight], 0.1)
    loss = tf.constant(3.0)
    assert optimizer.scaled(loss) == 3 * 2.0 ** 15
    for step in range(15):
        assert not optimizer.apply([tf.constant([np.inf, 1.0])], tf.constant(step))
        assert optimizer.failed_step.numpy() == -1 and optimizer.loss_scale.scale.numpy() == 2.0 ** (14 - step)
    np.testing.assert_array_equal(weight, [1, 2])
    np.testing.assert_array_equal(optimizer.mean, [0, 0])
    assert not optimizer.apply([tf.constant([np.nan, 1.0])], tf.constant(15))
    assert optimizer.failed_step.numpy() == 15
    assert not optimizer.apply([tf.constant([1.0, 1.0])], tf.constant(16))
    np.testing.assert_array_equal(weight, [1, 2])


def test_scaled_gradients_move_the_weights_as_plain_ones_do():
    plain, scaled = tf.Variable([1.0, 2.0]), tf.Variable([1.0, 2.0])
    ours = AdamW([plain], 0.1, clip_norm=0.3)
    set_precision("mixed_float16")
    theirs = AdamW([scaled], 0.1, clip_norm=0.3)
    for step in range(4):
        gradient = tf.constant([0.7, -0.2 * step])
        assert ours.apply([gradient], tf.constant(step)) and theirs.apply([2.0 ** 15 * gradient], tf.constant(step))
    np.testing.assert_array_equal(plain, scaled)
