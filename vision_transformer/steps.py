"""One training step, compiled: the task's gradient, plain or sharpness-aware, the optimizer's update, the figures."""
from __future__ import annotations

import tensorflow as tf

from .compat import raw


def compiled_step(task, optimizer, totals, batches, *, sam_rho: float = 0.0, xla: bool = False):
    """Gives the tf.function of one step on batches (step, ...) such as these; it adds the figures to `totals`.

    sam_rho: how far away the gradient is taken (see sharpness_aware); 0: at the weights themselves.
    xla: compiled by XLA, which fuses element-wise work.
    """
    weights = [raw(v) for v in task.model.trainable_variables]
    statistics = [raw(v) for v in task.model.non_trainable_variables if raw(v).dtype.is_floating]

    @tf.function(input_signature=tf.nest.flatten(batches.element_spec), jit_compile=xla or None)
    def train_step(step, *batch):
        def differentiate():
            with tf.GradientTape() as tape:
                loss, figures = task.loss(batch, step)
                loss = optimizer.scaled(loss)
            return figures, tape.gradient(loss, weights)

        before = [tf.identity(v) for v in statistics]
        if sam_rho:
            figures, gradients = sharpness_aware(differentiate, weights, statistics, sam_rho)
        else:
            figures, gradients = differentiate()
        healthy = optimizer.apply(gradients, step)
        totals.assign(tf.where(healthy, totals + figures, totals))
        for variable, value in zip(statistics, before):         # the forward pass has moved them, bad numbers or not
            variable.assign(tf.where(healthy, variable, value))

    return train_step


def compiled_steps(train_step, batches):
    """Gives the tf.function (iterator over such batches, count) that makes `count` steps in one call."""
    specs = tf.nest.flatten(batches.element_spec)

    @tf.function(input_signature=[tf.data.IteratorSpec(batches.element_spec), tf.TensorSpec((), tf.int32)])
    def train_steps(stream, count):
        [iterator] = tf.nest.flatten(stream, expand_composites=True)
        for _ in tf.range(count):
            with tf.device("/CPU:0"):           # next() would leave that unsaid, and the DirectML checker unsure
                batch = tf.raw_ops.IteratorGetNext(iterator=iterator, output_types=[s.dtype for s in specs],
                                                   output_shapes=[s.shape for s in specs])
            train_step(*batch)

    return train_steps


def sharpness_aware(differentiate, weights, statistics, rho: float):
    """Gives what differentiate() does, (figures, gradients at the weights), but with the gradients of a worse point.

    That point is a step of length rho up the gradient, over all weights; they return from it to the bit. The figures
    are those at the weights themselves. So are the statistics (batch normalization's), which each of the two passes
    moves: the second one's move is taken back.

    Source: Foret et al., Sharpness-Aware Minimization, arXiv 2010.01412, equation 2 and algorithm 1.
    """
    figures, gradients = differentiate()
    gradients = [tf.convert_to_tensor(g) for g in gradients]            # sparse ones become dense
    kept = [tf.identity(v) for v in (*weights, *statistics)]
    stretch = rho / tf.maximum(tf.linalg.global_norm(gradients), 1e-12)
    for variable, gradient in zip(weights, gradients):
        variable.assign(variable + stretch * gradient)
    _, gradients = differentiate()
    for variable, value in zip((*weights, *statistics), kept):
        variable.assign(value)
    return figures, gradients
