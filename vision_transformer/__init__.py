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
    "VisionTransformer": "model", "ResNet": "resnet", "build_model": "architectures",
    "load_pretrained": "pretrained", "starting_model": "pretrained", "export_hugging_face": "hugging_face",
    "set_precision": "precision",
    "AdamW": "optimizer", "make_schedule": "schedules",
    "Classification": "classification", "Trainer": "training", "seed_everything": "training",
    "Run": "runs", "open_run": "resume", "resumed": "resume", "with_recipe": "recipes",
    "announce": "report", "finish": "report",
}
__all__ = list(_HOME)
__version__ = "0.1.0"


def load(module: str):
    """Imports one of this package's modules; where a package is missing, says which, and how to install it."""
    try:
        return importlib.import_module(f".{module}", __name__)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise ModuleNotFoundError(f"the package {package!r} is not installed in this Python: python -m pip install -r "
                                  "requirements.txt; or python -m vision_transformer doctor tells what is wrong",
                                  name=error.name) from error


def __getattr__(name: str):
    if name in _HOME:
        return getattr(load(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
