"""Wrote the small runs in this folder, one on each stack: python tests/stored/make.py (from the project's folder).

Never make them again to mend a failing test: users' runs would stay broken. Another format gets another number
(FORMAT in runs.py), by which older runs are refused in so many words.
"""
import sys
from pathlib import Path

import numpy as np
from tensorflow import keras

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
from conftest import SIZES

from vision_transformer.model import VisionTransformer
from vision_transformer.runs import Run

keras.utils.set_random_seed(5)
model = VisionTransformer(**SIZES | {"pool": "cls", "pixel_mean": [120, 110, 100], "pixel_deviation": [60, 61, 62]})
run = Run.create(Path(__file__).parent, "new", {"model": model.get_config(), "class_names": list("abcde")})
run.save_weights(model)
pictures = np.random.default_rng(0).integers(0, 256, (4, 6, 10, 3)).astype(np.uint8)
np.save(run.path / "logits.npy", model(pictures).numpy())
run.path.rename(Path(__file__).parent / f"keras{keras.__version__[0]}")
