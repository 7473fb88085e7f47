"""Writes models of random weights as they are published, with pictures and the logits that their own library gives.

    TORCH_PYTHON tests/stored/make_published.py FOLDER [NAME ...]

TORCH_PYTHON: a Python with tests/requirements-torch.txt; for vit-jax with timm and torchvision, too. Without names, all
small ones: that was run for the folder published/ here.
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch

SMALL = {"hidden_size": 14, "num_hidden_layers": 2, "num_attention_heads": 7, "intermediate_size": 11,
         "image_size": [6, 10], "patch_size": 2, "num_labels": 5}
TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_labels": 1000}
VIT, DEIT = "ViTForImageClassification", "DeiTForImageClassification"
MODELS = {              # name -> transformers' class, its config where it isn't the default, which is ViT-B/16
    "vit": (VIT, SMALL),
    "vit-no-bias": (VIT, {**SMALL, "qkv_bias": False, "layer_norm_eps": 1e-3, "image_size": 6}),
    "vit-headless": ("ViTModel", SMALL),
    "deit": (DEIT, SMALL),
    "deit-teacher": (f"{DEIT}WithTeacher", SMALL),
    "tiny": (VIT, TINY),
    "tiny-teacher": (f"{DEIT}WithTeacher", TINY),
    "base": (VIT, {"num_labels": 1000}),
}
PIXELS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], "rescale_factor": 1 / 255}


def randomize(model, amount):
    """Moves each weight, so that none is 0 or 1 any more."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(amount * torch.randn_like(weight))


def save_logits(folder, model, size, mean, deviation):
    """Saves pictures (3, H, W, C) and the model's logits of them; without classes, the class token's features."""
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3)).astype(np.uint8)
    pixels = (torch.tensor(images, dtype=torch.float32) / 255 - torch.tensor(mean)) / torch.tensor(deviation)
    with torch.no_grad():
        made = model.eval()(pixels.permute(0, 3, 1, 2))
    if not torch.is_tensor(made):
        made = made.logits if hasattr(made, "logits") else made.last_hidden_state[:, 0]
    np.save(folder / "images.npy", images)
    np.save(folder / "logits.npy", made.numpy())


def make_hugging_face(folder, name):
    """Saves a model as transformers does."""
    import transformers

    kind, config = MODELS[name]
    family = transformers.DeiTConfig if kind.startswith("DeiT") else transformers.ViTConfig
    model = getattr(transformers, kind)(family(**config))
    randomize(model, 0.2 if "patch_size" in config else 0.02)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS), encoding="utf-8")
    size = config.get("image_size", 224)
    save_logits(folder, model, size if isinstance(size, list) else [size] * 2, PIXELS["image_mean"],
                PIXELS["image_std"])


def make_vit_jax(folder, width=14, layers=2, heads=7, hidden=11, patch=2, side=6, classes=5):
    """Saves a .npz as vit_jax names and shapes its arrays; the reference is timm, which reads such files."""
    from timm.models.vision_transformer import VisionTransformer

    chance, arrays = np.random.default_rng(0), {}

    def add(name, *shape, around=0.0):
        scale = 0.3 if width < 100 else 0.04
        arrays[name] = (around + scale * chance.standard_normal(shape)).astype(np.float32)

    def add_norm(name):
        add(f"{name}/scale", width, around=1.0), add(f"{name}/bias", width)

    add("cls", 1, 1, width), add("embedding/kernel", patch, patch, 3, width), add("embedding/bias", width)
    add("Transformer/posembed_input/pos_embedding", 1, 1 + (side // patch) ** 2, width)
    for i in range(layers):
        block = f"Transformer/encoderblock_{i}"
        add_norm(f"{block}/LayerNorm_0"), add_norm(f"{block}/LayerNorm_2")
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            add(f"{attention}/{part}/kernel", width, heads, width // heads)
            add(f"{attention}/{part}/bias", heads, width // heads)
        add(f"{attention}/out/kernel", heads, width // heads, width), add(f"{attention}/out/bias", width)
        add(f"{block}/MlpBlock_3/Dense_0/kernel", width, hidden), add(f"{block}/MlpBlock_3/Dense_0/bias", hidden)
        add(f"{block}/MlpBlock_3/Dense_1/kernel", hidden, width), add(f"{block}/MlpBlock_3/Dense_1/bias", width)
    add_norm("Transformer/encoder_norm")
    add("head/kernel", width, classes), add("head/bias", classes)
    np.savez(folder / "weights.npz", **arrays)
    model = VisionTransformer(img_size=side, patch_size=patch, embed_dim=width, depth=layers, num_heads=heads,
                              mlp_ratio=hidden / width, num_classes=classes)
    model.load_pretrained(str(folder / "weights.npz"))
    save_logits(folder, model, [side] * 2, [0.5] * 3, [0.5] * 3)


VIT_JAX = {"vit-jax": {}, "vit-jax-base": {"width": 768, "layers": 12, "heads": 12, "hidden": 3072, "patch": 16,
                                           "side": 224, "classes": 1000}}


if __name__ == "__main__":
    small = [name for name, (_, config) in MODELS.items() if "patch_size" in config] + ["vit-jax"]
    for wanted in sys.argv[2:] or small:
        torch.manual_seed(0)
        path = Path(sys.argv[1], wanted)
        path.mkdir(parents=True)
        if wanted in VIT_JAX:
            make_vit_jax(path, **VIT_JAX[wanted])
        else:
            make_hugging_face(path, wanted)
