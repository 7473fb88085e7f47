"""Folders of pictures that tests make: a colour per class, so that there is something to learn."""
import numpy as np
from PIL import Image

COLOURS = {"coal": (30, 30, 30), "fire": (220, 60, 20), "grass": (40, 170, 60), "sea": (20, 80, 200)}


def picture(colour, seed, size=(19, 13)):
    noise = np.random.default_rng(seed).integers(-20, 21, (*size[::-1], 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def make_folder(root, counts, kind="png", first=0):
    """Makes root/<class>/<number>.<kind>, so many of each class."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            picture(COLOURS.get(name, (99, 99, 99)), number).save(root / name / f"{number:02d}.{kind}")
    return root
