"""What an encoder is made of, from small to large: norm, dropout, attention, MLP, and the block of the two.

    B pictures in a batch     N tokens        D embedding width   M hidden width of an MLP
    h attention heads         d = D/h

Sources: Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv 2010.11929 (ViT); Vaswani et al., arXiv 1706.03762
(attention, normalization after each branch); Xiong et al., arXiv 2002.04745 (normalization before it).
"""
from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import keras

from .compat import raw
from .gradients import attend, gelu, normalize

ATTENTIONS = ("plain", "locality")
NORMS = ("pre", "post")
LAYER_NORM_EPSILON = 1e-6
QUERY_KEY_GAIN = 1.5            # of the first weights: W_query W_key' is this much of a projection, per head,
VALUE_PROJECTION_GAIN = 0.4     # and W_value W_projection this much of the negative identity
MASKED = -1e4                   # score of what may not be looked at: its share is exactly 0; float16 ends at -65,504


@keras.utils.register_keras_serializable("vision_transformer")
class LayerNorm(keras.layers.Layer):
    """Normalizes each token (..., D) over its D numbers, in float32, then scales and shifts by D learned ones.

    epsilon: added to the variance. The names of its weights are those of Keras's LayerNormalization.
    """

    def __init__(self, epsilon: float = LAYER_NORM_EPSILON, **kwargs):
        # Not cast by Keras under mixed precision, neither what comes in nor the weights.
        super().__init__(**{**kwargs, "dtype": "float32", "autocast": False})
        self.epsilon = epsilon

    def build(self, input_shape):
        """Creates the learned scale and shift."""
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="ones")
        self.beta = self.add_weight(name="beta", shape=(input_shape[-1],), initializer="zeros")
        super().build(input_shape)

    def call(self, x):
        """Normalizes x (..., D)."""
        gain, bias = (tf.convert_to_tensor(raw(weight)) for weight in (self.gamma, self.beta))
        return tf.cast(normalize(tf.cast(x, tf.float32), gain, bias, self.epsilon), x.dtype)

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.utils.register_keras_serializable("vision_transformer")
class Dropout(keras.layers.Layer):
    """Zeroes a share of x, by a mask that depends on (seed, step) alone; without a step x passes unchanged.

    Keras's own keeps hidden state, so a resumed run would draw other masks, and DirectML would compile each of its
    random kernels anew at each step.
    """

    def __init__(self, rate: float, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed

    def mask_shape(self, x):
        """Gives the shape of the mask for x: every number has its own."""
        return tf.shape(x)

    def call(self, x, step=None):
        """Drops elements of x, any shape, in training step `step` (an int32 scalar)."""
        if step is None or self.rate == 0:
            return x
        kept = 1 - self.rate
        # In float32 whatever x is: bfloat16's 128 numbers would make 0.1 a share of 0.102.
        uniform = tf.random.stateless_uniform(self.mask_shape(x), (self.seed, step))
        return x * tf.cast(tf.floor(uniform + kept) * (1 / kept), x.dtype)      # floor: 1 for a share `kept`, else 0

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@keras.utils.register_keras_serializable("vision_transformer")
class StochasticDepth(Dropout):
    """Zeroes all tokens (B, N, D) of a share of the pictures. Source: Huang et al., arXiv 1603.09382, section 3."""

    def mask_shape(self, x):
        """Gives the shape of the mask for x: every picture has one number."""
        return tf.shape(x)[0], 1, 1


@keras.utils.register_keras_serializable("vision_transformer")
class Residual(keras.layers.Layer):
    """Adds a branch's tokens to those it branched off, (B, N, D) both, after the regularization that is asked for.

    dropout and stochastic_depth: shares; layer_scale: the first value of D learned factors on the branch, 0 for none.
    Source of layer scale: Touvron et al., arXiv 2103.17239, section 2.
    """

    def __init__(self, dropout: float = 0.0, layer_scale: float = 0.0, stochastic_depth: float = 0.0, seed: int = 0,
                 **kwargs):
        super().__init__(**kwargs)
        self.layer_scale, self.seed = layer_scale, seed
        self.dropout = Dropout(dropout, seed, name="dropout")
        # Below zero, where no other layer's seed is: with the same seed the two masks would be the same numbers.
        self.stochastic_depth = StochasticDepth(stochastic_depth, -1 - seed, name="stochastic_depth")

    def build(self, input_shape):
        """Creates the factors of layer scale."""
        if self.layer_scale:
            self.gain = self.add_weight(name="gain", shape=(input_shape[-1],),
                                        initializer=keras.initializers.Constant(self.layer_scale))
        super().build(input_shape)

    def call(self, x, branch, step=None):
        """Gives x + branch; in a training step some of the branch is left out."""
        branch = self.dropout(branch, step=step)
        if self.layer_scale:
            branch = branch * tf.cast(raw(self.gain), branch.dtype)
        return x + self.stochastic_depth(branch, step=step)

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "dropout": self.dropout.rate, "layer_scale": self.layer_scale,
                "stochastic_depth": self.stochastic_depth.rate, "seed": self.seed}


@keras.utils.register_keras_serializable("vision_transformer")
class Attention(keras.layers.Layer):
    """Multi-head self-attention over tokens (B, N, D); gives the new tokens and who looked at whom (B, h, N, N).

    Written with matmul: Keras's MultiHeadAttention uses Einsum, which has no DirectML kernel.

    kind "locality": no token looks at itself, and each head learns the temperature that its scores are divided by,
    which begins where plain attention stays, at the root of d. Scores of small data sets are too even without.

    The first weights, drawn from `seed`, already do what attention in trained ViTs is seen to do: each token looks at
    those like it (keys equal queries), and takes on the opposite of what it sees (projection against value).
    Sources: arXiv 1706.03762, section 3.2; locality: Lee et al., arXiv 2112.13492, section 3.3 (LSA); first weights:
    Trockman and Kolter, Mimetic Initialization, arXiv 2305.09828, here by orthogonal matrices where the paper takes a
    singular value decomposition of noise plus identity.
    """

    def __init__(self, num_heads: int, embedding_dim: int, seed: int = 0, kind: str = "plain", **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.embedding_dim, self.seed, self.kind = num_heads, embedding_dim, seed, kind
        normal = np.random.default_rng(seed).standard_normal((2, embedding_dim, embedding_dim))
        query, value = (np.linalg.qr(matrix)[0] * gain ** 0.5
                        for matrix, gain in zip(normal, (QUERY_KEY_GAIN, VALUE_PROJECTION_GAIN)))
        self.query_key_value = keras.layers.Dense(
            3 * embedding_dim, name="query_key_value",
            kernel_initializer=keras.initializers.Constant(np.concatenate([query, query, value], axis=1)))
        self.projection = keras.layers.Dense(embedding_dim, name="projection",
                                             kernel_initializer=keras.initializers.Constant(-value.T))

    def build(self, input_shape):
        """Creates the temperatures; the Dense layers make their weights themselves."""
        if self.kind == "locality":
            start = keras.initializers.Constant((self.embedding_dim // self.num_heads) ** 0.5)
            self.temperature = self.add_weight(name="temperature", shape=(self.num_heads,), initializer=start)
        super().build(input_shape)

    def call(self, x):
        """Mixes tokens (B, N, D) by attention."""
        tokens, head_dim, mask = x.shape[1], self.embedding_dim // self.num_heads, None
        x = self.query_key_value(tf.reshape(x, (-1, self.embedding_dim)))       # of rows: product and bias in one op
        x = tf.reshape(x, (-1, tokens, 3, self.num_heads, head_dim))
        query, key, value = tf.unstack(tf.transpose(x, (2, 0, 3, 1, 4)))                   # each (B, h, N, d)
        if self.kind == "locality":
            query = query / tf.reshape(tf.cast(raw(self.temperature), x.dtype), (-1, 1, 1))
            mask = tf.constant(MASKED * np.eye(tokens), x.dtype)
        else:
            query = query * head_dim ** -0.5
        x, attention = attend(query, key, value, mask)
        x = self.projection(tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (-1, self.embedding_dim)))
        return tf.reshape(x, (-1, tokens, self.embedding_dim)), attention

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "num_heads": self.num_heads, "embedding_dim": self.embedding_dim,
                "seed": self.seed, "kind": self.kind}


@keras.utils.register_keras_serializable("vision_transformer")
class MLP(keras.layers.Layer):
    """Two Dense layers with GELU and dropout between them: (..., any) -> (..., M) -> (..., out)."""

    def __init__(self, hidden_dim: int, output_dim: int, dropout: float = 0.0, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim, self.output_dim = hidden_dim, output_dim
        self.expand = keras.layers.Dense(hidden_dim, name="expand", dtype=self.dtype_policy)
        self.dropout = Dropout(dropout, seed, name="dropout", dtype=self.dtype_policy)
        self.contract = keras.layers.Dense(output_dim, name="contract", dtype=self.dtype_policy)

    def call(self, x, step=None):
        """Maps the last axis of x; drops out only in a training step."""
        rows = tf.reshape(x, (-1, x.shape[-1]))                                 # of rows: product and bias in one op
        rows = self.contract(self.dropout(gelu(self.expand(rows)), step=step))
        return tf.reshape(rows, (-1, *x.shape[1:-1], self.output_dim))

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "hidden_dim": self.hidden_dim, "output_dim": self.output_dim,
                "dropout": self.dropout.rate, "seed": self.dropout.seed}


@keras.utils.register_keras_serializable("vision_transformer")
class Block(keras.layers.Layer):
    """One encoder block on tokens (B, N, D): attention, then an MLP, each added back to what it was made of.

    norm "pre" normalizes what goes into each branch, "post" each sum; attention, layer_scale, stochastic_depth and
    norm_epsilon are those of Attention, Residual and LayerNorm.
    Sources: pre: arXiv 2010.11929, equations 2 and 3; post: arXiv 1706.03762, section 3.1; both: arXiv 2002.04745.
    """

    def __init__(self, num_heads: int, embedding_dim: int, mlp_hidden_dim: int, dropout: float = 0.0, seed: int = 0,
                 attention: str = "plain", norm: str = "pre", layer_scale: float = 0.0, stochastic_depth: float = 0.0,
                 norm_epsilon: float = LAYER_NORM_EPSILON, **kwargs):
        super().__init__(**kwargs)
        self.arguments = {"num_heads": num_heads, "embedding_dim": embedding_dim, "mlp_hidden_dim": mlp_hidden_dim,
                          "dropout": dropout, "seed": seed, "attention": attention, "norm": norm,
                          "layer_scale": layer_scale, "stochastic_depth": stochastic_depth,
                          "norm_epsilon": norm_epsilon}
        self.norm_1 = LayerNorm(norm_epsilon, name="norm_1")
        self.attention = Attention(num_heads, embedding_dim, seed, attention, name="attention")
        self.residual_1 = Residual(dropout, layer_scale, stochastic_depth, seed, name="residual_1")
        self.norm_2 = LayerNorm(norm_epsilon, name="norm_2")
        self.mlp = MLP(mlp_hidden_dim, embedding_dim, name="mlp")
        self.residual_2 = Residual(dropout, layer_scale, stochastic_depth, seed + 1, name="residual_2")

    def call(self, x, step=None):
        """Gives the new tokens (B, N, D) and this block's attention (B, h, N, N)."""
        if self.arguments["norm"] == "post":
            y, attention = self.attention(x)
            x = self.norm_1(self.residual_1(x, y, step=step))
            y = self.mlp(x)
            return self.norm_2(self.residual_2(x, y, step=step)), attention
        y, attention = self.attention(self.norm_1(x))
        x = self.residual_1(x, y, step=step)
        y = self.mlp(self.norm_2(x))
        return self.residual_2(x, y, step=step), attention

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), **self.arguments}
