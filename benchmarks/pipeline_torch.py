"""Torch's rows of pipeline.py, and albumentations'; the functions are as those of pipeline_tensorflow.py.

Each library is used as its own documentation does, with one resampling for all moves.
"""
from __future__ import annotations

import itertools

import numpy as np

COLOURS, MOVES = ("brightness", "contrast", "saturation", "hue"), ("zoom", "rotation", "shear", "translation")


def albumentations(images, amounts):
    """Picture by picture, in numpy and OpenCV."""
    import albumentations as A

    changes, side = [], images.shape[1]
    if "flip_horizontal" in amounts:
        changes.append(A.HorizontalFlip(p=0.5))
    if "flip_vertical" in amounts:
        changes.append(A.VerticalFlip(p=0.5))
    if COLOURS[0] in amounts:
        changes.append(A.ColorJitter(**colours(amounts), p=1))
    if crops_only(amounts):
        changes += [A.Pad(pixels(amounts, side), border_mode=2, p=1), A.RandomCrop(side, side, p=1)]
    else:
        turn, lean, shift = (amounts.get(name, 0) for name in ("rotation", "shear", "translation"))
        changes.append(A.Affine(scale=zoom_range(amounts), rotate=(-turn, turn), shear=(-lean, lean), border_mode=2,
                                translate_percent=(-shift, shift), p=1))
    if "erasing" in amounts:
        changes.append(A.Erasing(fill="random", p=amounts["erasing"]))
    change = A.Compose(changes)
    return (np.stack([change(image=image)["image"] for image in images]).astype(np.float32)
            for _ in itertools.count()), set()


def torchvision_v1(images, amounts):
    """Torchvision's first transforms, picture by picture, on Pillow's pictures."""
    import torch
    from PIL import Image
    from torchvision import transforms

    torch.set_num_threads(1)            # with more, most of the CPU time is their waiting
    change = transforms.Compose(torchvision_changes(transforms, images.shape[1], amounts, [transforms.ToTensor()]))
    pictures = [Image.fromarray(image) for image in images]
    return (torch.stack([change(picture) for picture in pictures]) for _ in itertools.count()), set()


def torchvision_v2(images, amounts):
    """Torchvision's transforms.v2 on a whole batch, whose pictures then all change alike."""
    import torch
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    change = v2.Compose(torchvision_changes(v2, images.shape[1], amounts, [v2.ToDtype(torch.float32, scale=True)]))
    mix = v2.MixUp(alpha=amounts["mixup"], num_classes=10) if "mixup" in amounts else v2.CutMix(
        alpha=amounts["cutmix"], num_classes=10) if "cutmix" in amounts else lambda *batch: batch
    batch, labels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.arange(len(images)) % 10
    return (mix(change(batch), labels)[0] for _ in itertools.count()), set()


def torchvision_changes(transforms, side, amounts, to_float):
    """The transforms of a list, by either version."""
    changes = []
    if "flip_horizontal" in amounts:
        changes.append(transforms.RandomHorizontalFlip())
    if "flip_vertical" in amounts:
        changes.append(transforms.RandomVerticalFlip())
    if COLOURS[0] in amounts:
        changes.append(transforms.ColorJitter(**colours(amounts)))
    if "policy" in amounts:
        changes.append(transforms.TrivialAugmentWide() if amounts["policy"] == "trivial" else transforms.RandAugment(
            amounts["policy_operations"], amounts["policy_strength"]))
    elif crops_only(amounts):
        changes.append(transforms.RandomCrop(side, pixels(amounts, side), padding_mode="symmetric"))
    else:
        turn, lean, shift = (amounts.get(name, 0) for name in ("rotation", "shear", "translation"))
        changes.append(transforms.RandomAffine(turn, (shift, shift), zoom_range(amounts), (-lean, lean, -lean, lean),
                                               transforms.InterpolationMode.BILINEAR))
    erasing = [transforms.RandomErasing(amounts["erasing"], value="random")] if "erasing" in amounts else []
    return [*changes, *to_float, *erasing]


def kornia(images, amounts):
    """Whole batches, each picture its own way."""
    import kornia.augmentation as K
    import torch

    torch.set_num_threads(1)
    changes, side = [], images.shape[1]
    if "flip_horizontal" in amounts:
        changes.append(K.RandomHorizontalFlip())
    if "flip_vertical" in amounts:
        changes.append(K.RandomVerticalFlip())
    if COLOURS[0] in amounts:
        changes.append(K.ColorJitter(**colours(amounts), p=1.0))
    if crops_only(amounts):
        changes.append(K.RandomCrop((side, side), pixels(amounts, side), padding_mode="reflect"))
    else:
        turn, lean, shift = (amounts.get(name, 0) for name in ("rotation", "shear", "translation"))
        changes.append(K.RandomAffine(turn, (shift, shift), zoom_range(amounts), (-lean, lean, -lean, lean),
                                      padding_mode="reflection", p=1.0))
    if "erasing" in amounts:
        changes.append(K.RandomErasing(p=amounts["erasing"]))
    mix = {"mixup": K.RandomMixUpV2, "cutmix": K.RandomCutMixV2}
    changes += [mix[name](p=1.0, data_keys=["input"]) for name in amounts if name in mix]
    change = torch.nn.Sequential(*changes)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return (change(batch.float() / 255) for _ in itertools.count()), set()


def crops_only(amounts) -> bool:
    """Whether pictures are moved by whole pixels at most."""
    return not {"zoom", "rotation", "shear"} & amounts.keys()


def pixels(amounts, side) -> int:
    """How far pictures are moved."""
    return round(side * amounts["translation"])


def colours(amounts) -> dict:
    """The amounts that go by the same names everywhere."""
    return {name: amounts.get(name, 0) for name in COLOURS}


def zoom_range(amounts) -> tuple:
    """Factors from and to which pictures are magnified."""
    return 1 / (1 + amounts.get("zoom", 0)), 1 + amounts.get("zoom", 0)
