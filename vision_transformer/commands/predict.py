"""Names the likeliest classes of pictures, of any size and kind that Pillow reads."""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..classification import Classification
from ..runs import Run

PICTURES_AT_A_TIME = 64                 # so that ten thousand files need no more memory than these


def add_arguments(parser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/cifar10-001")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="picture files")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="classes to name for each (default 3)")


def run(arguments) -> int:
    """Prints a line per picture; gives 1 if any could not be read."""
    run, failed = Run(arguments.run), 0
    names, model = run.read("class_names"), run.load_model()
    if not 1 <= arguments.top <= len(names):
        raise ValueError(f"--top {arguments.top} makes no sense for {len(names)} classes; "
                         f"choose from 1 to {len(names)}.")
    task = Classification(model, len(names), PICTURES_AT_A_TIME)
    paths = [path for word in arguments.images for path in expand(word)]
    for start in range(0, len(paths), PICTURES_AT_A_TIME):
        pictures = []
        for path in paths[start:start + PICTURES_AT_A_TIME]:
            try:
                pictures.append((path, read_picture(path, model.config["image_shape"])))
            except Exception as error:          # Pillow's readers raise nearly anything for a broken file
                failed += 1
                print(f"{path}: can't be read as a picture ({error})", file=sys.stderr, flush=True)
        if pictures:
            for (path, _), logits in zip(pictures, task.predict(np.stack([picture for _, picture in pictures]))):
                shares = np.exp(logits - logits.max())
                shares /= shares.sum()
                likeliest = np.argsort(-shares)[:arguments.top]
                print(f"{path}: {', '.join(f'{names[k]} {shares[k]:.1%}' for k in likeliest)}", flush=True)
    return int(failed > 0)


def expand(word: str) -> list:
    """Lists the files that a word such as photos/*.jpg means, where the shell has not done so (Windows)."""
    path = Path(word)
    return sorted(map(str, path.parent.glob(path.name))) if set("*?") & set(path.name) and not path.exists() else [word]


def read_picture(path, image_shape) -> np.ndarray:
    """Reads a picture file as uint8 (H, W, C): upright, cut to the model's proportions about its centre, resized.

    Transparent parts become white; 16-bit greys are brought to 8; of an animation the first picture counts.
    """
    height, width, channels = image_shape
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode == "I" or image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).astype(np.uint8))
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = ImageOps.fit(image.convert("RGB" if channels == 3 else "L"), (width, height), Image.BICUBIC)
    return np.asarray(image).reshape(image_shape)
