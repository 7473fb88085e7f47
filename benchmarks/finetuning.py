"""What published weights are worth on few pictures: prints the table that docs/pretrained.md shows.

    python benchmarks/finetuning.py --data-dir D --folder F

D is CIFAR-10's folder; F gets all that is made. A small ViT learns six of the classes (about nine CPU minutes), and is
exported as Hugging Face publishes them. Then examples/finetune_pretrained.py, as a user would start it, learns the
other four from 100 pictures of each, at 48x48 pixels in place of 32x32: from those weights, and from scratch.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from PIL import Image

import train_cifar10
from vision_transformer.datasets import Dataset, Split, load_dataset
from vision_transformer.hugging_face import export_hugging_face
from vision_transformer.runs import Run

FIRST = ("airplane", "bird", "cat", "deer", "frog", "truck")
THEN = ("automobile", "dog", "horse", "ship")
PICTURES = {"train": 100, "test": 500}                  # of each of THEN
SIZES = "--number-of-layers 4 --embedding-dim 96 --num-heads 3 --mlp-hidden-dim 384"
PRETRAINING = (f"{SIZES} --pool cls --classifier linear --dropout 0 --classifier-dropout 0 --contrast 0 --brightness 0 "
               "--saturation 0 --batch-size 128 --schedule one-cycle --learning-rate 0.002 --weight-decay 0.05 "
               "--validation-share 0.05 --epochs 8")
COMMON = f"--image-size 48 {SIZES} --patch-size 4 --patch-stride 4 --batch-size 32 --stochastic-depth 0"
RUNS = {            # row -> its flags beside COMMON
    "fine-tuned": "--pretrained {published}",
    "fine-tuned, one learning rate for all layers": "--pretrained {published} --layer-decay 1",
    "from scratch, the same constants": "--pretrained {nothing}",
    "from scratch, one learning rate, 3 times the epochs": "--pretrained {nothing} --layer-decay 1 --epochs 60",
}


def some(split: Split, numbers: list) -> Split:
    """Gives the pictures of some classes, numbered anew."""
    chosen = np.isin(split.labels, numbers)
    return Split(split.images[chosen], np.searchsorted(numbers, split.labels[chosen]).astype(np.int64))


def pretrain(data: Dataset, folder: Path) -> Path:
    """Trains on FIRST, once; gives the folder that it is exported to."""
    numbers = [data.class_names.index(name) for name in FIRST]
    six = Dataset("cifar6", some(data.train, numbers), some(data.test, numbers), FIRST)
    if not (folder / "cifar6-001" / "results.json").exists():
        with mock.patch.object(train_cifar10, "load_dataset", lambda **_: six):
            train_cifar10.main([*PRETRAINING.split(), "--run-folder", str(folder)])
    run = Run(folder / "cifar6-001")
    return export_hugging_face(run.load_model(), run.class_names, folder / "published")


def save_pictures(data: Dataset, folder: Path) -> Path:
    """Saves the first pictures of THEN as files, a folder for each class."""
    for part, split in (("train", data.train), ("test", data.test)):
        for name in THEN:
            place = folder / "four" / part / name
            place.mkdir(parents=True, exist_ok=True)
            images = split.images[split.labels == data.class_names.index(name)][:PICTURES[part]]
            for number, image in enumerate(images):
                Image.fromarray(image).save(place / f"{number:03d}.png")
    return folder / "four"


def finetune(flags: list, pictures: Path, folder: Path, seed: int) -> tuple:
    """Runs the script; gives test accuracy and CPU seconds of the training."""
    before = set(folder.glob("folder-*"))
    subprocess.run([sys.executable, ROOT / "examples" / "finetune_pretrained.py", "--data-dir", pictures, *flags,
                    "--seed", str(seed), "--run-folder", folder], check=True, stdout=subprocess.DEVNULL)
    [run] = set(folder.glob("folder-*")) - before
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return results["test_accuracy"], results["cpu_seconds"]


def main() -> None:
    """Prints the rows as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    data = load_dataset("cifar10", arguments.data_dir)
    published, pictures = pretrain(data, arguments.folder), save_pictures(data, arguments.folder)
    print("| training | test accuracy | CPU seconds |\n|---|---|---|", flush=True)
    for row, flags in RUNS.items():
        words = [{"{published}": str(published), "{nothing}": ""}.get(word, word)
                 for word in f"{COMMON} {flags}".split()]
        done = [finetune(words, pictures, arguments.folder, seed) for seed in range(arguments.seeds)]
        accuracies, seconds = 100 * np.array([accuracy for accuracy, _ in done]), [cpu for _, cpu in done]
        print(f"| {row} | {accuracies.mean():.1f} % ± {accuracies.std(ddof=1):.1f} | {np.mean(seconds):.0f} |",
              flush=True)


if __name__ == "__main__":
    main()
