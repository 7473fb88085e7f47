"""chance: streams that know nothing of each other."""
import numpy as np
import tensorflow as tf

from vision_transformer.chance import STREAMS, draw


def test_the_streams_are_independent():
    draws = [draw((5, 3), (3000,), stream) for stream in STREAMS]
    correlations = np.corrcoef([*draws, draw((5, 4), (3000,), "rotation")])
    assert np.abs(correlations - np.eye(len(correlations))).max() < 0.1


def test_a_stream_keeps_its_number():
    assert STREAMS[:18] == (                            # those of the first version
        "flip_horizontal", "flip_vertical", "rotation", "shear_x", "shear_y", "zoom", "translation_down",
        "translation_right", "contrast", "brightness", "saturation", "hue", "erasing", "erased_area", "erased_aspect",
        "erased_top", "erased_left", "erased_bytes")
    assert len(set(STREAMS)) == len(STREAMS)
    np.testing.assert_allclose(draw((5, 3), (2,), "hue"), tf.random.stateless_uniform(
        (2,), tf.random.experimental.stateless_fold_in((5, 3), 11)))
