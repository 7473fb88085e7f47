"""What a person reads about a training: what it is about to do, how well it did, and how to go on."""
from __future__ import annotations

import numpy as np
import tensorflow as tf
from sklearn.metrics import confusion_matrix

from . import devices
from .classification import classification_figures
from .messages import duration
from .pictures import save_confusion, save_curves, save_samples
from .report_page import write_report_page
from .runs import command
from .sizes import parameter_count

SAMPLES = 64            # pictures in samples.png
UNEVEN = 2              # times as many pictures of one class as of another, from which on it is worth a line


def announce(trainer, data, training, validation, batches) -> None:
    """Prints device, versions, data, model and run folder; saves the first pictures of `batches` as samples.png.

    Where some classes have far more pictures than others, says so, or how the loss weighs them.
    """
    model, run, versions = trainer.task.model, trainer.run, devices.versions()
    height, width, channels = data.image_shape
    device = devices.describe_device().replace("\n", "\n" + " " * 10)
    weights = getattr(trainer.task, "class_weights", None)              # a task that knows them
    goes_on = f", goes on after step {trainer.step}" if trainer.step else ""
    print(f"device    {device}\n"
          f"versions  Python {versions['python']}, TensorFlow {versions['tensorflow']}, Keras {versions['keras']}\n"
          f"data      {data.name}: {len(training):,} training, {len(validation):,} validation, {len(data.test):,} test "
          f"pictures of {height}x{width}x{channels}, {data.num_classes} classes\n"
          f"{classes_line(training.labels, data.class_names, weights)}"
          f"model     {model.describe()}, {parameter_count(model):,} weights\n"
          f"run       {run.path}{goes_on}", flush=True)
    if not trainer.step:
        _, images, labels = next(iter(batches))
        if labels.dtype.is_floating:                    # mixed pictures: the class that one shows most of
            labels = tf.argmax(labels, axis=1)
        save_samples(run.path / "samples.png", images[:SAMPLES].numpy(), labels.numpy(), data.class_names)


def classes_line(labels, class_names, weights=None) -> str:
    """Gives the line about classes of uneven numbers of training pictures; "" where there is nothing to say.

    weights: what each class weighs in the loss (K,), if it does.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    rare, frequent = counts.argmin(), counts.argmax()
    if weights is None and counts[frequent] < UNEVEN * counts[rare]:
        return ""
    line = (f"classes   from {counts[rare]:,} ({class_names[rare]}) to {counts[frequent]:,} ({class_names[frequent]}) "
            "training pictures; ")
    return line + ("--class-weights true lets all classes count alike\n" if weights is None else
                   f"in the training loss one weighs {weights[rare]:.3g} to {weights[frequent]:.3g}\n")


def finish(trainer, data, flip: bool = False) -> None:
    """Reads the test set once, with the best weights; saves results.json and pictures, and prints how to go on.

    flip: also gives the accuracy of the mean of each picture's logits and its mirror image's, apart from the plain one.
    """
    state, run = trainer.state, trainer.run
    run.load_weights(trainer.task.model)
    save_curves(run.path / "curves.png", state["history"], state["best_epoch"], trainer.halves)
    figures, logits = report_test(run, trainer.task, data, flip)
    run.write_results({"epochs": len(state["history"]), **{f"test_{name}": value for name, value in figures.items()},
                       "best_epoch": state["best_epoch"], "best_val_accuracy": state["best_accuracy"],
                       "weights": parameter_count(trainer.task.model),
                       "seconds": round(state["seconds"], 1), "cpu_seconds": round(state["cpu_seconds"], 1)})
    write_report_page(run, trainer.task.model, data.test, logits)
    run.release()
    print(f"best epoch {state['best_epoch']} (validation accuracy {state['best_accuracy']:.2%}); "
          f"training took {duration(state['seconds'])}\n"
          f"\nAll of it is in {run.path}, and on one page in {run.path / 'report.html'}. To go on:\n"
          f"  {command('-m', 'vision_transformer', 'evaluate', run.path)}\n"
          f"  {command('-m', 'vision_transformer', 'predict', run.path)} IMAGE...\n"
          f"  {run.resume_command} --epochs {2 * trainer.epochs}\n"
          f"  {command('-m', 'tensorboard.main', '--logdir', run.path.parent)}")


def report_test(run, task, data, flip: bool = False) -> tuple:
    """Evaluates all of a dataset's test pictures, prints the figures, saves confusion.png; flip: see finish.

    Gives the figures by name, and the logits (n, K).
    """
    logits, labels = task.predict(data.test.images), data.test.labels
    figures = dict(zip(task.figures, classification_figures(logits, labels, task.top_k)))
    counts = confusion_matrix(labels, logits.argmax(axis=1), labels=np.arange(data.num_classes))
    print(f"\ntest accuracy {figures['accuracy']:.2%}, top-{task.top_k} {figures[task.figures[2]]:.2%}, "
          f"loss {figures['loss']:.4f} on all {len(labels):,} test pictures", flush=True)
    if flip:
        mirrored = (task.predict(data.test.images, mirrored=True) + logits) / 2
        figures["flip_accuracy"] = classification_figures(mirrored, labels, task.top_k)[1]
        print(f"averaged with the mirrored pictures: accuracy {figures['flip_accuracy']:.2%}", flush=True)
    save_confusion(run.path / "confusion.png", counts, data.class_names)
    return {**figures, "per_class": per_class(counts, data.class_names)}, logits


def per_class(counts, class_names) -> dict:
    """Gives {class name: share of its pictures that were recognized} of a confusion matrix (K, K)."""
    return {name: float(row[i] / max(row.sum(), 1)) for i, (name, row) in enumerate(zip(class_names, counts))}
