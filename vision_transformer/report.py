"""What a person reads about a training: what it is about to do, how well it did, and how to go on."""
from __future__ import annotations

import numpy as np
from sklearn.metrics import confusion_matrix

from . import devices
from .pictures import save_confusion, save_curves, save_samples
from .runs import command
from .training import classification_figures, duration


def announce(trainer, data, training, validation, samples) -> None:
    """Prints device, versions, data, model and run folder; saves samples (n, H, W, C) as samples.png.

    samples: the first training pictures as the model sees them.
    """
    model, run, versions = trainer.task.model, trainer.run, devices.versions()
    height, width, channels = data.image_shape
    sizes = model.config
    weights = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    device = devices.describe_device().replace("\n", "\n" + " " * 10)
    goes_on = f", goes on after step {trainer.step}" if trainer.step else ""
    print(f"device    {device}\n"
          f"versions  Python {versions['python']}, TensorFlow {versions['tensorflow']}, Keras {versions['keras']}\n"
          f"data      {data.name}: {len(training):,} training, {len(validation):,} validation, {len(data.test):,} test "
          f"pictures of {height}x{width}x{channels}, {data.num_classes} classes\n"
          f"model     {sizes['number_of_layers']} blocks of width {sizes['embedding_dim']} on "
          f"{model.position_embedding.positions} tokens (patches of {sizes['patch_size']} pixels, one every "
          f"{sizes['patch_stride']}), {weights:,} weights\n"
          f"run       {run.path}{goes_on}", flush=True)
    save_samples(run.path / "samples.png", np.asarray(samples), training.labels[:len(samples)], data.class_names)


def finish(trainer, data) -> None:
    """Reads the test set once, with the best weights; saves results.json and pictures, and prints how to go on."""
    state, run = trainer.state, trainer.run
    run.load_weights(trainer.task.model)
    save_curves(run.path / "curves.png", state["history"], state["best_epoch"])
    figures = report_test(run, trainer.task, data)
    run.write_results({**{f"test_{name}": value for name, value in figures.items()},
                       "best_epoch": state["best_epoch"], "best_val_accuracy": state["best_accuracy"],
                       "seconds": round(state["seconds"], 1), "cpu_seconds": round(state["cpu_seconds"], 1)})
    print(f"best epoch {state['best_epoch']} (validation accuracy {state['best_accuracy']:.2%}); "
          f"training took {duration(state['seconds'])}\n"
          f"\nWeights, figures and pictures are in {run.path}. To go on:\n"
          f"  {command('-m', 'vision_transformer', 'evaluate', run.path)}\n"
          f"  {command('-m', 'vision_transformer', 'predict', run.path)} IMAGE...\n"
          f"  {run.resume_command} --epochs {2 * trainer.epochs}\n"
          f"  {command('-m', 'tensorboard.main', '--logdir', run.path.parent)}")


def report_test(run, task, data) -> dict:
    """Evaluates all of a dataset's test pictures, prints the figures, saves confusion.png."""
    logits, labels = task.predict(data.test.images), data.test.labels
    figures = dict(zip(task.figures, classification_figures(logits, labels, task.top_k)))
    counts = confusion_matrix(labels, logits.argmax(axis=1), labels=np.arange(data.num_classes))
    print(f"\ntest accuracy {figures['accuracy']:.2%}, top-{task.top_k} {figures[task.figures[2]]:.2%}, "
          f"loss {figures['loss']:.4f} on all {len(labels):,} test pictures", flush=True)
    save_confusion(run.path / "confusion.png", counts, data.class_names)
    return {**figures, "per_class": per_class(counts, data.class_names)}


def per_class(counts, class_names) -> dict:
    """Gives {class name: share of its pictures that were recognized} of a confusion matrix (K, K)."""
    return {name: float(row[i] / max(row.sum(), 1)) for i, (name, row) in enumerate(zip(class_names, counts))}
