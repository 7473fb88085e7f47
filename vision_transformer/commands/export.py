"""Exports a run's best weights for other programs: pixels in, probabilities out, class names inside.

The export is read again and compared with the model on pictures of the test set before it is put to its place.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from ..exports import CPU, FORMATS, check_export, check_model, export
from ..messages import harmless, one_line
from ..runs import Run
from .evaluate import load_data

PICTURES = 256                  # compared, of the test set


def add_arguments(parser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/cifar10-001")
    parser.add_argument("--to", required=True, choices=FORMATS, help="the format")
    parser.add_argument("--output", metavar="PATH",
                        help="where to; an older export there is replaced (default: in RUN/export)")
    parser.add_argument("--data-dir", help="where the data lies now (default: where it lay in training)")


def run(arguments) -> int:
    """Exports, compares and prints."""
    run, kind = Run(arguments.run), arguments.to
    name = run.path.resolve().name + FORMATS[kind].suffix if FORMATS[kind].suffix else kind
    output = Path(arguments.output or run.path / "export" / name)
    check_export(kind, output)
    names = run.class_names
    with tf.device(CPU):
        model = run.load_model()
    check_model(kind, model)                            # before the pictures are read
    pictures, what = pictures_for(run, model.config["image_shape"], arguments.data_dir)
    difference, agreement = export(kind, model, names, output, pictures)
    print(f"{harmless(output)}: {size_of(output) / 1e6:.2f} MB, read again and compared with the model on {what}:\n"
          f"  probabilities differ by {difference:.1e} at most; the likeliest class is the same for {agreement:.1%}")
    return 0


def pictures_for(run: Run, shape: tuple, data_dir: str | None) -> tuple:
    """Gives uint8 pictures (n, H, W, C) to compare on, and what they are: the run's test set, or noise in its place."""
    try:
        data = load_data(run, shape, data_dir)
        if data.image_shape != shape:
            raise ValueError(f"{data.name} has pictures of shape {data.image_shape}, the model takes {shape}")
    except (ValueError, OSError) as error:
        print(f"note: the test pictures can't be had ({one_line(error)[:300]}); --data-dir says where they lie")
        noise = np.random.default_rng(0).integers(0, 256, (PICTURES, *shape), np.uint8)
        return noise, f"{PICTURES} pictures of noise"
    images = np.asarray(data.test.images[::-(-len(data.test) // PICTURES)])    # of every class, wherever it lies
    return images, f"{len(images)} test pictures of {data.name}"


def size_of(output: Path) -> int:
    """Gives the bytes of a file, or of all files in a folder."""
    return sum(path.stat().st_size for path in (output, *output.rglob("*")) if path.is_file())
