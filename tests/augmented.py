"""Pictures and amounts that the tests of augmentation share, and what numpy fills beyond an edge."""
import numpy as np

import data_augmentations as da

BATCH, HEIGHT, WIDTH = 7, 11, 13
SEED = (5, 3)
MANY = 3000
ALL_COLOURS = {"contrast": 0.3, "brightness": 0.2, "saturation": 0.4, "hue": 0.1}
ALL_FLIPS = {"flip_horizontal": 0.5, "flip_vertical": 0.5}
ALL_MOVES = {**ALL_FLIPS, "rotation": 20, "shear": 10, "zoom": 0.3, "translation": 0.2}
EVERYTHING = {**ALL_COLOURS, **ALL_MOVES, "erasing": 0.5}
NUMPY_FILL = {
    "reflect": {"mode": "symmetric"},
    "nearest": {"mode": "edge"},
    "constant": {"mode": "constant", "constant_values": 127.5},
}


def pictures(batch=BATCH, height=HEIGHT, width=WIDTH, channels=3):
    shape = (batch, height, width, channels)
    return np.random.RandomState(0).randint(0, 256, shape).astype("float32")


def uniform(low, high, seed=1):
    return np.random.RandomState(seed).uniform(low, high, BATCH).astype("float32")


# Two channels that rise with x and with y tell, in the middle of the result, by which matrix the picture was
# moved: bilinear interpolation keeps straight slopes.
SLOPE = 8.0


def slopes(batch):
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype("float32")
    image = 127.5 + SLOPE * np.stack([x - 6, y - 5, np.zeros_like(x)], axis=-1)
    return np.repeat(image[None], batch, axis=0)


def measured_matrices(batch=MANY, seed=SEED, **moves):
    moved = (da.augmentation(**moves)(slopes(batch), seed).numpy().astype("float64") - 127.5) / SLOPE
    along_x = (moved[:, 5, 7] - moved[:, 5, 5]) / 2
    along_y = (moved[:, 6, 6] - moved[:, 4, 6]) / 2
    return np.stack([along_x, along_y, moved[:, 5, 6]], axis=-1)[:, :2]
