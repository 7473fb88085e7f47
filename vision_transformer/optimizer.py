"""Adam in plain TensorFlow: one element-wise update of all weights as a single flat vector.

Why not Keras's: DirectML compiles a kernel for each of its updates whenever the learning rate changes, it costs
hundreds of kernels a step, and its state differs between the two Kerases, so that no run could move between them.
"""
from __future__ import annotations

import tensorflow as tf

from .compat import raw


class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980, end of section 2) over `variables`, which must all be built.

    `learning_rate` is a tf.Variable: set it between epochs. `state` names the variables that a resume needs.
    A step whose gradient is not finite changes nothing, nor does any step after it; `failed_step` then holds its number
    (-1 until then), so that the last good weights survive until the loop, which reads the device rarely, notices.
    """

    def __init__(self, variables, learning_rate: float, beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-7):
        if not learning_rate > 0:
            raise ValueError(f"LEARNING_RATE is {learning_rate}; it must be above 0.")
        self.variables = [raw(v) for v in variables]
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self._sizes = [v.shape.num_elements() for v in self.variables]
        self.mean = tf.Variable(tf.zeros(sum(self._sizes)), name="mean")
        self.square = tf.Variable(tf.zeros(sum(self._sizes)), name="square")
        self.state = {"mean": self.mean, "square": self.square}
        self.learning_rate = tf.Variable(float(learning_rate), name="learning_rate")
        self.failed_step = tf.Variable(-1.0, name="failed_step")

    def apply(self, gradients, step):
        """Moves the variables against `gradients`, one per variable, in step 0, 1, 2, ... (an int32 scalar).

        Gives a bool scalar: whether it did. All by `assign`: DirectML compiles assign_add and assign_sub at every call.
        """
        gradient = _flat(gradients)
        with tf.device("/CPU:0"), tf.name_scope("on_host"):                # where the step counter lives
            count = tf.cast(step + 1, tf.float32)
            correction = tf.sqrt(1 - tf.pow(self.beta_2, count)) / (1 - tf.pow(self.beta_1, count))
            number = tf.cast(step, tf.float32)
        healthy = tf.math.is_finite(tf.reduce_sum(gradient)) & (self.failed_step < 0)
        self.failed_step.assign(tf.where(healthy | (self.failed_step >= 0), self.failed_step, number))

        mean = self.beta_1 * self.mean + (1 - self.beta_1) * gradient
        square = self.beta_2 * self.square + (1 - self.beta_2) * tf.square(gradient)
        update = self.learning_rate * correction * mean / (tf.sqrt(square) + self.epsilon)
        weights = _flat(self.variables)
        self.mean.assign(tf.where(healthy, mean, self.mean))
        self.square.assign(tf.where(healthy, square, self.square))
        weights = tf.where(healthy, weights - update, weights)
        for variable, value in zip(self.variables, tf.split(weights, self._sizes)):
            variable.assign(tf.reshape(value, variable.shape))
        return healthy


def _flat(tensors):
    """Joins tensors into one vector; sparse gradients become dense first."""
    return tf.concat([tf.reshape(tf.convert_to_tensor(t), [-1]) for t in tensors], axis=0)
