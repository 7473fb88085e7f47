"""The task of telling which of K classes a picture shows: what training minimizes, and the figures that are reported.

    B pictures in a batch   H, W, C height, width, channels   K classes   n pictures
"""
from __future__ import annotations

import numpy as np
import tensorflow as tf

from .batches import evaluation_batches
from .checks import check_share, check_switch, check_whole
from .memory import enough_memory


class Classification:
    """Learning which of K classes a picture shows: cross-entropy on logits, top-1 and top-k accuracy.

    label_smoothing: share of the right class's weight in the loss that is spread over all classes (Szegedy et al.,
    arXiv 1512.00567, section 7); for training only.
    class_weights: whether each class counts as much as any other in the training loss, however many pictures it has
    among training_labels, integers (n,): of n_k pictures, each weighs n / (K * n_k), which is 1 in the mean. The loss
    of a mixed picture is then the mixture of its parts' weighted losses. Figures of held-out pictures know no weights.

    Raises:
        ValueError: a number that makes no sense, or weights without a picture of each class.
    """

    def __init__(self, model, top_k: int, batch_size: int, label_smoothing: float = 0.0, class_weights: bool = False,
                 training_labels=None):
        classes = model.config["num_classes"]
        check_whole("TOP_K", top_k, 2, classes, ", which is all classes")
        check_share("LABEL_SMOOTHING", label_smoothing, ", where 0 is none")
        self.model, self.top_k, self.batch_size, self.label_smoothing = model, top_k, batch_size, label_smoothing
        check_switch("CLASS_WEIGHTS", class_weights)
        self.class_weights = balancing_weights(training_labels, classes) if class_weights else None
        self.figures = ("loss", "accuracy", f"top_{top_k}_accuracy")
        shape = (batch_size, *model.config["image_shape"])
        self.predict_step = tf.function(lambda images: model(images, training=False),
                                        input_signature=[tf.TensorSpec(shape, tf.uint8)])

    def loss(self, batch, step):
        """Gives the mean loss of batch (images (B, H, W, C), labels) and the vector of figures.

        labels: integers (B,), or shares of the classes (B, K) that sum to 1, of which the largest counts as right.
        """
        images, labels = batch
        self.model.step.assign(step)                                # the dropout masks are this step's
        logits = self.model(images, training=True)                                         # (B, K)
        classes = logits.shape[1]
        # By one-hot labels and comparisons: deterministic, the sparse loss would sum on a DirectML device's host, and
        # in_top_k's k is an input that such a device reads back.
        if labels.dtype.is_floating:
            target, right = labels, tf.one_hot(tf.argmax(labels, axis=1), classes)         # (B, K)
        else:
            target = right = tf.one_hot(labels, classes)                                   # (B, K)
        if self.class_weights is not None:
            target *= self.class_weights
            importance = tf.reduce_sum(target, axis=1)                                     # (B,)
            target /= importance[:, None]                           # a target must sum to 1, or its gradient is wrong
        if self.label_smoothing:
            target = (1 - self.label_smoothing) * target + self.label_smoothing / classes
        losses = tf.nn.softmax_cross_entropy_with_logits(target, logits)                   # (B,)
        loss = tf.reduce_mean(losses if self.class_weights is None else importance * losses)
        own = tf.reduce_sum(right * logits, axis=1, keepdims=True)                         # (B, 1)
        worse = tf.reduce_sum(tf.cast(logits <= own, tf.float32), axis=1)                  # with the right one itself
        hits = [tf.reduce_mean(tf.cast(worse > classes - k, tf.float32)) for k in (1, self.top_k)]
        return loss, tf.stack([loss, *hits])

    def predict(self, images, mirrored: bool = False) -> np.ndarray:
        """Gives the logits (n, K) of all uint8 images (n, H, W, C), or of their mirror images, left and right."""
        with enough_memory(f"a batch of {self.batch_size} pictures", "BATCH_SIZE, or the model's sizes"):
            return np.concatenate([self.predict_step(batch).numpy()[:int(count)]
                                   for batch, count in evaluation_batches(images, self.batch_size, mirrored)])

    def evaluate(self, split) -> dict:
        """Gives the figures over all pictures of a split, none left out."""
        return dict(zip(self.figures, classification_figures(self.predict(split.images), split.labels, self.top_k)))


def balancing_weights(labels, classes: int) -> np.ndarray:
    """Gives what a picture of each class weighs, float32 (K,), so that all classes among labels (n,) count alike.

    Source: the heuristic that scikit-learn calls "balanced"; King and Zeng, Logistic Regression in Rare Events Data,
    Political Analysis 9:2 (2001).
    """
    counts = np.bincount(np.asarray([] if labels is None else labels, np.int64), minlength=classes)
    if not counts.min():
        raise ValueError(f"CLASS_WEIGHTS is true, but class {counts.argmin()} has no training picture, so nothing can "
                         "weigh it; set it to false.")
    return (counts.sum() / (classes * counts)).astype(np.float32)


def classification_figures(logits, labels, top_k: int) -> list:
    """Gives [mean cross-entropy, accuracy, top-k accuracy] of logits (n, K) and labels (n,)."""
    own = logits[np.arange(len(labels)), labels]
    highest = logits.max(axis=1)
    loss = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1)) - own
    better = (~(logits <= own[:, None])).sum(axis=1)        # how many classes look likelier; all, if logits are NaN
    return [float(loss.mean()), float((better == 0).mean()), float((better < top_k).mean())]


def probabilities(logits) -> np.ndarray:
    """Gives the softmax of logits (..., K)."""
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)
