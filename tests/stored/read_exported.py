"""Loads a folder by transformers alone, and saves what it makes of images.npy: TORCH_PYTHON read_exported.py FOLDER."""
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

folder = Path(sys.argv[1])
images = np.load(folder / "images.npy")
model, seen = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
assert not any(seen.values()), seen
pixels = AutoImageProcessor.from_pretrained(folder)([Image.fromarray(image) for image in images], return_tensors="pt")
with torch.no_grad():
    np.save(folder / "logits.npy", model.eval()(**pixels).logits.numpy())
(folder / "loaded.txt").write_text(f"{type(model).__name__} {model.config.id2label[1]}", encoding="utf-8")
