"""AdamW in plain TensorFlow: one element-wise update of all weights as a single flat vector.

Why not Keras's: DirectML compiles a kernel for each of its updates whenever the learning rate changes, it costs
hundreds of kernels a step, and its state differs between the two Kerases, so that no run could move between them.
"""
from __future__ import annotations

import contextlib
import re

import numpy as np
import tensorflow as tf

from .checks import check_number, check_share, check_switch, check_whole
from .compat import raw, weight_path
from .muon import Muon
from .precision import loss_scale_for_policy
from .schedules import make_schedule


def only_kernels(path: str) -> bool:
    """Tells whether a weight decays: matrices and filters; not biases, norms, scales, positions or tokens."""
    return path.endswith("kernel")


def layer_shares(paths, layer_decay: float) -> list:
    """Gives each weight's share of the learning rate, by its path: less the nearer it is to the pictures.

    1 for what comes behind the blocks, layer_decay for the last block, its square for the block before, and so on; the
    embedding, in front of the first block, has the least.
    Sources: Clark et al., arXiv 2003.10555, appendix A; for ViTs: Bao et al., arXiv 2106.08254, appendix.

    Raises:
        ValueError: there are no blocks.
    """
    depths = [match and int(match[1]) for match in map(re.compile(r"block_(\d+)/").match, paths)]
    blocks = 1 + max((depth for depth in depths if depth is not None), default=-1)
    if not blocks:
        raise ValueError(f"LAYER_DECAY {layer_decay} is for models of encoder blocks; for any other leave it at 1.")
    first = ("patches/", "class_token/", "positions/", "registers/")
    below = [blocks - depth if depth is not None else (blocks + 1) * path.startswith(first)
             for path, depth in zip(paths, depths)]
    return [layer_decay ** steps for steps in below]


class AdamW:
    """Adam with decoupled weight decay over `variables`, which must all be built; without decay, plain Adam.

    Args:
        variables: what learns, as Keras's model.trainable_variables lists it.
        learning_rate: becomes a tf.Variable; set that between epochs.
        beta_1, beta_2, epsilon: Adam's, in the form at the end of section 2 of its paper.
        weight_decay: share of a weight, times the learning rate in use, that each update takes away.
        decays: function of a weight's path such as "block_0/mlp/expand/kernel"; tells whether it decays.
        muon: the matrices of hidden layers get Muon's updates (muon.py) in place of Adam's, by the same rate and decay.
        layer_decay: what the learning rate shrinks to from each block to the one before it (layer_shares); 1: nowhere.
        schedule: a Schedule, which gives the share of learning_rate to use at each step, counted in batches; None:
            "plateau", all of it until the Trainer halves it.
        clip_norm: a gradient whose norm over all weights is longer is shortened to this; 0: none is.
        accumulation_steps: batches whose mean gradient makes one update, at the last of them.
        average: how much of the weights' moving average each update keeps, (1 + t) / (10 + t) at most after t updates;
            0: there is no average. Steps of accumulation don't count.
        statistics: the model's other weights, such as model.non_trainable_variables; those of floating type, batch
            normalization's, are averaged too.

    `state` names the variables that a resume needs. A step whose gradient is not finite changes nothing, nor does any
    step after it, so that the last good weights survive until the loop, which reads the device rarely, notices:
    `failed_step` then holds its number (-1 until then), `gradient_norm` the norm of the last gradient that counted
    (-1 before the first).
    Under Keras's policy mixed_float16 there is a `loss_scale`, and such a step is only skipped (in accumulation: its
    batch) until the scale has come down to 1.

    Raises:
        ValueError: a number that makes no sense.

    Sources: Kingma and Ba, arXiv 1412.6980; Loshchilov and Hutter, arXiv 1711.05101, algorithm 2; Pascanu et al., arXiv
    1211.5063 (clipping); Polyak and Juditsky, 1992 (averaging).
    """

    def __init__(self, variables, learning_rate: float, *, beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-7, muon: bool = False, weight_decay: float = 0.0, decays=only_kernels,
                 layer_decay: float = 1.0, schedule=None, clip_norm: float = 0.0, accumulation_steps: int = 1,
                 average: float = 0.0, statistics=()):
        check_switch("MUON", muon)
        _check(learning_rate, beta_2, weight_decay, layer_decay, clip_norm, accumulation_steps, average)
        self.variables = [raw(v) for v in variables]
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.schedule = schedule or make_schedule("plateau", 1, 1)
        self.clip_norm, self.accumulation_steps, self.average = clip_norm, accumulation_steps, average
        self._sizes = [v.shape.num_elements() for v in self.variables]
        self.mean = tf.Variable(tf.zeros(sum(self._sizes)), name="mean")
        self.square = tf.Variable(tf.zeros(sum(self._sizes)), name="square")
        self.state = {"mean": self.mean, "square": self.square}
        self.muon = None
        if muon:
            self.muon = Muon([weight_path(v) for v in variables], [v.shape for v in self.variables])
            self.keeps = tf.Variable(self.muon.momentum(beta_1), name="keeps")
        self.decay = None
        if weight_decay:
            shares = [weight_decay * float(decays(weight_path(v))) for v in variables]
            self.decay = tf.Variable(np.repeat(np.float32(shares), self._sizes), name="decay")
        self.shares = None
        if layer_decay != 1:
            shares = layer_shares([weight_path(v) for v in variables], layer_decay)
            self.shares = tf.Variable(np.repeat(np.float32(shares), self._sizes), name="shares")
        if accumulation_steps > 1:
            self.state["gradient_sum"] = self.gradient_sum = tf.Variable(tf.zeros_like(self.mean), name="gradient_sum")
        if average:
            self._statistics = [raw(v) for v in statistics if raw(v).dtype.is_floating]
            self._averaged = [*self.variables, *self._statistics]
            self.state["average"] = self.averages = tf.Variable(_flat(self._averaged), name="average")
        self.loss_scale = loss_scale_for_policy()
        if self.loss_scale:
            self.state.update(self.loss_scale.state)
        self.learning_rate = tf.Variable(float(learning_rate), name="learning_rate")
        self.failed_step = tf.Variable(-1.0, name="failed_step")
        self.gradient_norm = tf.Variable(-1.0, name="gradient_norm")

    def scaled(self, loss):
        """Gives what to take the gradient of: the loss, under mixed_float16 times the loss scale."""
        return loss * self.loss_scale.scale if self.loss_scale else loss

    def apply(self, gradients, step):
        """Takes in the gradients of the scaled loss, one per variable, of step 0, 1, 2, ... (an int32 scalar).

        Gives a bool scalar: whether they counted. All by `assign`: DirectML compiles assign_add and assign_sub at every
        call.
        """
        gradient = _flat(gradients)
        if self.loss_scale:
            gradient /= self.loss_scale.scale
        with tf.device("/CPU:0"), tf.name_scope("on_host"):                # where the step counter lives
            number = tf.cast(step, tf.float32)
        norm = tf.norm(gradient)                # infinite where a square overflows, as Adam's own squares would
        finite = tf.math.is_finite(norm)
        healthy = finite & (self.failed_step < 0)
        self.gradient_norm.assign(tf.where(healthy, norm, self.gradient_norm))
        good = healthy | self.loss_scale.update(finite) if self.loss_scale else healthy
        self.failed_step.assign(tf.where(good | (self.failed_step >= 0), self.failed_step, number))
        if self.accumulation_steps == 1:
            self._update(gradient, healthy, step, healthy)
        else:
            with tf.device("/CPU:0"), tf.name_scope("on_host"):
                last = (step + 1) % self.accumulation_steps == 0
            total = self.gradient_sum + tf.where(healthy, gradient / self.accumulation_steps, 0.0)
            due = last & (self.failed_step < 0)
            self.gradient_sum.assign(tf.where(due, 0.0, total))
            # Made at each batch and mostly thrown away: tf.cond would spare a GPU 1 kernel in 11, at the price of
            # control flow in the step.
            self._update(total, due, step, healthy)
        return healthy

    def _update(self, gradient, due, step, healthy):
        """Moves the variables, their moments and their average, if it is `due`; of a batch that is `healthy` or not."""
        factor = self.schedule(step)
        with tf.device("/CPU:0"), tf.name_scope("on_host"):
            count = tf.cast((step + 1) // self.accumulation_steps, tf.float32)
            correction = tf.sqrt(1 - tf.pow(self.beta_2, count)) / (1 - tf.pow(self.beta_1, count))
            correction *= factor
            newest = 1 - tf.minimum(self.average, count / (count + 9))             # t is count - 1
        if self.clip_norm:
            gradient *= self.clip_norm / tf.maximum(tf.norm(gradient), self.clip_norm)
        keeps = self.keeps if self.muon else self.beta_1
        mean = keeps * self.mean + (1 - keeps) * gradient
        square = self.beta_2 * self.square + (1 - self.beta_2) * tf.square(gradient)
        update = self.learning_rate * correction * mean / (tf.sqrt(square) + self.epsilon)
        if self.muon:
            update = self.muon.replaced(update, mean, gradient, self.learning_rate * factor)
        weights = _flat(self.variables)
        if self.decay is not None:
            update += self.learning_rate * factor * (self.decay * weights)
        if self.shares is not None:
            update *= self.shares
        self.mean.assign(tf.where(due, mean, self.mean))
        self.square.assign(tf.where(due, square, self.square))
        weights = tf.where(due, weights - update, weights)
        _spread(weights, self.variables)
        if self.average:
            now = weights
            if self._statistics:        # what a batch that was skipped has made of them, the step takes back after this
                kept = self.averages[sum(self._sizes):]
                now = tf.concat([weights, tf.where(healthy, _flat(self._statistics), kept)], axis=0)
            average = self.averages + newest * (now - self.averages)
            self.averages.assign(tf.where(due, average, self.averages))

    def rescale_counts(self, share: float) -> None:
        """After a change of the batch size in mid-epoch: what counted batches counts that share of them."""
        if self.loss_scale:
            self.loss_scale.skipped.assign(self.loss_scale.skipped * share)
        if self.accumulation_steps > 1:
            self.gradient_sum.assign(tf.zeros_like(self.gradient_sum))      # begun for an update at another step

    @contextlib.contextmanager
    def averaged(self):
        """While entered, the weights are their average; the very weights come back. Without an average: no change."""
        if not self.average:
            yield
            return
        kept = [v.numpy() for v in self._averaged]
        _spread(self.averages, self._averaged)
        try:
            yield
        finally:
            for variable, value in zip(self._averaged, kept):
                variable.assign(value)


def _flat(tensors):
    """Joins tensors into one vector; sparse gradients become dense first."""
    return tf.concat([tf.reshape(tf.convert_to_tensor(t), [-1]) for t in tensors], axis=0)


def _spread(vector, variables) -> None:
    """Assigns the parts of one vector to variables."""
    parts = tf.split(vector, [v.shape.num_elements() for v in variables])
    for variable, value in zip(variables, parts):
        variable.assign(tf.reshape(value, variable.shape))


def _check(learning_rate, beta_2, weight_decay, layer_decay, clip_norm, accumulation_steps, average) -> None:
    """Raises ValueError, one sentence for each number that can be wrong; NaN is wrong everywhere."""
    check_number("LEARNING_RATE", learning_rate, 1e-12, 1000)
    check_number("WEIGHT_DECAY", weight_decay, 0, 1 / learning_rate,
                 ", where 0 is none: times LEARNING_RATE, a step takes away that share of a weight")
    check_number("LAYER_DECAY", layer_decay, 0.01, 1, ", such as 0.75, where 1 is the same rate for all layers")
    check_number("CLIP_NORM", clip_norm, 0, 1e6, ", where 0 is none")
    check_share("BETA_2", beta_2, ", such as 0.999")
    check_whole("ACCUMULATION_STEPS", accumulation_steps, 1, 2 ** 31 - 1)
    check_share("AVERAGE", average, ", where 0 is none")
