"""PyTorch's rows of train_step.py, at the sizes of the default model: timm, vit-pytorch.

Each takes pictures (B, 32, 32, 3), 0..255, their labels (B,) and whether the model is compiled, and gives a function
that makes one step, and the multiply-adds of that step.
"""
from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

DROPOUT = 0.1


def timm(images, labels, compiled=""):
    """timm's VisionTransformer."""
    from timm.models.vision_transformer import VisionTransformer

    return _step(images, labels, compiled, VisionTransformer(
        img_size=32, patch_size=4, num_classes=10, embed_dim=64, depth=8, num_heads=8, mlp_ratio=4, drop_rate=DROPOUT,
        proj_drop_rate=DROPOUT))


def vit_pytorch(images, labels, compiled=""):
    """vit-pytorch's ViT."""
    from vit_pytorch import ViT

    return _step(images, labels, compiled, ViT(
        image_size=32, patch_size=4, num_classes=10, dim=64, depth=8, heads=8, dim_head=8, mlp_dim=256, dropout=DROPOUT,
        emb_dropout=DROPOUT))


def _step(images, labels, compiled, model):
    """A model's step, with AdamW."""
    images, labels = map(torch.from_numpy, (images, labels))
    images = images.permute(0, 3, 1, 2).contiguous() / 255
    optimizer = torch.optim.AdamW(model.parameters(), 0.001)

    def step_of(model):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step_of(model)
    run = torch.compile(model) if compiled else model
    return lambda: step_of(run), counter.get_total_flops() // 2
