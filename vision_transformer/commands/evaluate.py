"""Evaluates a run's best weights on the whole test set: accuracy, per class, and confusion.png in the run folder."""
from __future__ import annotations

from ..classification import Classification
from ..datasets import load_dataset
from ..report import report_test
from ..runs import Run
from ..storage import RunError


def add_arguments(parser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/cifar10-001")
    parser.add_argument("--flip", action="store_true", help="also with each picture's mirror image, averaged")
    parser.add_argument("--data-dir", help="where the data lies now (default: where it lay in training)")


def run(arguments) -> int:
    """Evaluates and prints."""
    run = Run(arguments.run)
    top_k, batch_size = (run.read("constants", name, kind=int) for name in ("TOP_K", "BATCH_SIZE"))
    model = run.load_model()
    data = data_of(run, model, arguments.data_dir)
    task = Classification(model, top_k, batch_size)
    figures, _ = report_test(run, task, data, arguments.flip)
    width = max(map(len, data.class_names))
    for name, share in figures["per_class"].items():
        print(f"  {name:{width}}  {share:7.2%}")
    print(f"the confusion matrix is in {run.path / 'confusion.png'}")
    return 0


def data_of(run, model, data_dir=None):
    """Gives the dataset that a run was trained on, from data_dir (None: from where it lay); says if it has changed.

    Raises RunError where it doesn't fit the model, or isn't known; DataError where it can't be read.
    """
    seen = run.read("data", "fingerprint", kind=str)
    data = load_data(run, model.config["image_shape"], data_dir)
    if (data.image_shape, data.num_classes) != (model.config["image_shape"], model.config["num_classes"]):
        raise RunError(f"{run.path} was not trained on {data.name}: its model takes pictures of shape "
                       f"{model.config['image_shape']} and knows {model.config['num_classes']} classes, not "
                       f"{data.image_shape} and {data.num_classes}.")
    if data.fingerprint != seen:
        print(f"note: these are not the pictures of the training (fingerprint {data.fingerprint}, then {seen})")
    return data


def load_data(run, image_shape, data_dir=None):
    """Loads the dataset that a run names, from data_dir (None: from where it lay), whether or not it fits the model."""
    dataset, trained_on = (run.read("constants", name, kind=str) for name in ("DATASET", "DATA_DIR"))
    return load_dataset(dataset, trained_on if data_dir is None else data_dir, image_size=image_shape[0])
