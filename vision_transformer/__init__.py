"""A Vision Transformer trainer in TensorFlow/Keras, for any DirectX 12 GPU and any CPU.

The public names. Each is imported when first asked for: TensorFlow takes seconds to load, and reads
DML_VISIBLE_DEVICES only then.
"""
import importlib

_HOME = {
    "check_choice": "adapters",
    "read_settings": "settings", "run_script": "settings",
    "load_dataset": "datasets", "split_validation": "datasets",
    "training_batches": "batches", "steps_per_epoch": "batches", "make_mixing": "mixing",
    "VisionTransformer": "model", "ResNet": "resnet", "build_model": "architectures", "set_precision": "precision",
    "AdamW": "optimizer", "make_schedule": "schedules",
    "Classification": "classification", "Trainer": "training", "seed_everything": "training",
    "Run": "runs", "open_run": "runs", "resumed": "runs", "with_recipe": "recipes",
    "announce": "report", "finish": "report",
}
__all__ = list(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
