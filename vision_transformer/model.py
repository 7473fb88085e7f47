"""The Vision Transformer, from small to large: dropout, attention, MLP, encoder block, the whole model.

    B pictures in a batch     N tokens        D embedding width   M hidden width of an MLP
    h attention heads         d = D/h         F features          K classes

Sources: Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv 2010.11929 (ViT); Vaswani et al., arXiv 1706.03762
(attention); Xiong et al., arXiv 2002.04745 (normalization before each branch).
"""
from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import keras

from .compat import raw
from .embedding import ClassToken, PatchEmbedding, PositionEmbedding, patch_grid

POOLS = ("flatten", "cls", "mean")
LAYER_NORM_EPSILON = 1e-6
QUERY_KEY_GAIN = 1.5            # of the first weights: W_query W_key' is this much of a projection, per head,
VALUE_PROJECTION_GAIN = 0.4     # and W_value W_projection this much of the negative identity


def gelu(x):
    """Multiplies x by the normal distribution's share below x (Hendrycks and Gimpel, arXiv 1606.08415).

    Written out because Keras 3's own becomes an Erfc op, which the ONNX converter cannot write.
    """
    return 0.5 * x * (1.0 + tf.math.erf(x * tf.cast(0.5 ** 0.5, x.dtype)))


@keras.utils.register_keras_serializable("vision_transformer")
class Dropout(keras.layers.Layer):
    """Zeroes a share of x, by a mask that depends on (seed, step) alone; without a step x passes unchanged.

    Keras's own keeps hidden state, so a resumed run would draw other masks, and DirectML would compile each of its
    random kernels anew at each step.
    """

    def __init__(self, rate: float, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed

    def call(self, x, step=None):
        """Drops elements of x, any shape, in training step `step` (an int32 scalar)."""
        if step is None or self.rate == 0:
            return x
        uniform = tf.random.stateless_uniform(tf.shape(x), (self.seed, step), dtype=x.dtype)
        return x * (tf.cast(uniform >= self.rate, x.dtype) / (1 - self.rate))

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@keras.utils.register_keras_serializable("vision_transformer")
class Attention(keras.layers.Layer):
    """Multi-head self-attention over tokens (B, N, D); gives the new tokens and who looked at whom (B, h, N, N).

    Written with matmul: Keras's MultiHeadAttention uses Einsum, which has no DirectML kernel.

    The first weights, drawn from `seed`, already do what attention in trained ViTs is seen to do: each token looks at
    those like it (keys equal queries), and takes on the opposite of what it sees (projection against value).
    Source: arXiv 1706.03762, section 3.2; first weights: Trockman and Kolter, Mimetic Initialization, arXiv 2305.09828,
    here by orthogonal matrices where the paper takes a singular value decomposition of noise plus identity.
    """

    def __init__(self, num_heads: int, embedding_dim: int, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.embedding_dim, self.seed = num_heads, embedding_dim, seed
        normal = np.random.default_rng(seed).standard_normal((2, embedding_dim, embedding_dim))
        query, value = (np.linalg.qr(matrix)[0] * gain ** 0.5
                        for matrix, gain in zip(normal, (QUERY_KEY_GAIN, VALUE_PROJECTION_GAIN)))
        self.query_key_value = keras.layers.Dense(
            3 * embedding_dim, name="query_key_value",
            kernel_initializer=keras.initializers.Constant(np.concatenate([query, query, value], axis=1)))
        self.projection = keras.layers.Dense(embedding_dim, name="projection",
                                             kernel_initializer=keras.initializers.Constant(-value.T))

    def call(self, x):
        """Mixes tokens (B, N, D) by attention."""
        tokens, head_dim = x.shape[1], self.embedding_dim // self.num_heads
        x = tf.reshape(self.query_key_value(x), (-1, tokens, 3, self.num_heads, head_dim))
        query, key, value = tf.unstack(tf.transpose(x, (2, 0, 3, 1, 4)))                   # each (B, h, N, d)
        scores = tf.matmul(query * head_dim ** -0.5, key, transpose_b=True)                # (B, h, N, N)
        attention = tf.nn.softmax(scores)                              # each row: one token's looks, sum 1
        x = tf.transpose(tf.matmul(attention, value), (0, 2, 1, 3))                        # (B, N, h, d)
        return self.projection(tf.reshape(x, (-1, tokens, self.embedding_dim))), attention

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "num_heads": self.num_heads, "embedding_dim": self.embedding_dim,
                "seed": self.seed}


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
        return self.contract(self.dropout(gelu(self.expand(x)), step=step))

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), "hidden_dim": self.hidden_dim, "output_dim": self.output_dim,
                "dropout": self.dropout.rate, "seed": self.dropout.seed}


@keras.utils.register_keras_serializable("vision_transformer")
class Block(keras.layers.Layer):
    """One encoder block on tokens (B, N, D): attention, then an MLP, each on normalized tokens and added back.

    Source: arXiv 2010.11929, equations 2 and 3.
    """

    def __init__(self, num_heads: int, embedding_dim: int, mlp_hidden_dim: int, dropout: float = 0.0,
                 seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.arguments = {"num_heads": num_heads, "embedding_dim": embedding_dim,
                          "mlp_hidden_dim": mlp_hidden_dim, "dropout": dropout, "seed": seed}
        self.norm_1 = keras.layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON, name="norm_1")
        self.attention = Attention(num_heads, embedding_dim, seed, name="attention")
        self.dropout_1 = Dropout(dropout, seed, name="dropout_1")
        self.norm_2 = keras.layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON, name="norm_2")
        self.mlp = MLP(mlp_hidden_dim, embedding_dim, name="mlp")
        self.dropout_2 = Dropout(dropout, seed + 1, name="dropout_2")

    def call(self, x, step=None):
        """Gives the new tokens (B, N, D) and this block's attention (B, h, N, N)."""
        y, attention = self.attention(self.norm_1(x))
        x = x + self.dropout_1(y, step=step)
        y = self.mlp(self.norm_2(x))
        return x + self.dropout_2(y, step=step), attention

    def get_config(self):
        """Gives the constructor's arguments."""
        return {**super().get_config(), **self.arguments}


@keras.utils.register_keras_serializable("vision_transformer")
class VisionTransformer(keras.Model):
    """A picture classifier: pictures (B, H, W, C) with pixels 0..255, uint8 or float, to logits (B, K).

    The model is built when constructed. It is an ordinary keras.Model: `compile` and `fit` work on it.

    Args:
        image_shape: (H, W, C) of the pictures.
        num_classes: K.
        patch_size, patch_stride: pixels; a stride below the size makes patches overlap.
        number_of_layers, embedding_dim, num_heads, mlp_hidden_dim: the encoder's sizes; mlp_hidden_dim is the hidden
            width of the blocks' MLPs and of the classifier.
        pool: how tokens become features: "flatten" (all of them, side by side: F = N*D), "cls" (an added class
            token's), "mean" (their mean).
        dropout: share of each block's branches that is zeroed in training.
        classifier_dropout: share of the classifier's hidden layer that is zeroed in training.
        pixel_mean, pixel_deviation: per channel, of the training set; pixels are scaled by them inside.
        seed: of attention's first weights and of the dropout masks; the other first weights are Keras's, and follow
            keras.utils.set_random_seed.

    Raises:
        ValueError: sizes that can't work together; nothing is built then.
    """

    def __init__(self, *, image_shape, num_classes: int, patch_size: int = 4, patch_stride: int = 4,
                 number_of_layers: int = 8, embedding_dim: int = 64, num_heads: int = 8, mlp_hidden_dim: int = 256,
                 pool: str = "flatten", dropout: float = 0.0, classifier_dropout: float = 0.0,
                 pixel_mean=None, pixel_deviation=None, seed: int = 0, name: str = "vision_transformer", **kwargs):
        _, _, channels = image_shape = tuple(int(side) for side in image_shape)
        config = {
            "image_shape": image_shape, "num_classes": num_classes, "patch_size": patch_size,
            "patch_stride": patch_stride, "number_of_layers": number_of_layers, "embedding_dim": embedding_dim,
            "num_heads": num_heads, "mlp_hidden_dim": mlp_hidden_dim, "pool": pool, "dropout": dropout,
            "classifier_dropout": classifier_dropout, "seed": seed,
            "pixel_mean": [127.5] * channels if pixel_mean is None else [float(m) for m in pixel_mean],
            "pixel_deviation": ([127.5] * channels if pixel_deviation is None
                                else [float(s) for s in pixel_deviation])}
        _check(config)
        super().__init__(name=name, **kwargs)
        self.config = config
        rows, columns = patch_grid(image_shape, patch_size, patch_stride)
        # From here on each layer that draws gets a seed of its own; far from those of the next `seed`.
        first_seed = seed * 1009 % 2 ** 30

        self.patches = PatchEmbedding(patch_size, patch_stride, embedding_dim, name="patches")
        if pool == "cls":
            self.class_token = ClassToken(name="class_token")
        self.position_embedding = PositionEmbedding(rows, columns, int(pool == "cls"), embedding_dim,
                                                    name="positions")
        self.blocks = [Block(num_heads, embedding_dim, mlp_hidden_dim, dropout, first_seed + 2 * i, name=f"block_{i}")
                       for i in range(number_of_layers)]
        self.norm = keras.layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON, name="norm")
        # Logits stay float32 under mixed precision: half precision would round small losses away.
        self.classifier = MLP(mlp_hidden_dim, num_classes, classifier_dropout,
                              first_seed + 2 * number_of_layers, name="classifier", dtype="float32")
        # On the host even with a GPU (int32), so that drawing a mask never waits for the device.
        self.step = self.add_weight(name="step", shape=(), dtype="int32", initializer="zeros", trainable=False)
        self(tf.zeros((1, *image_shape)))

    def call(self, images, training=None):
        """Gives the logits (B, K) of images (B, H, W, C)."""
        return self.forward(images, training=training)["logits"]

    def forward(self, images, training=None) -> dict:
        """Gives all that is made of images (B, H, W, C) on the way to the logits, by name.

        "attention": a list of (B, h, N, N), one per block, rows summing to 1; "tokens": (B, N, D) after the final
        norm; "features": (B, F); "logits": (B, K). N counts the patches row by row; with pool "cls" the class token
        comes before them, as number 0.
        """
        step = self._next_step() if training else None
        x = tf.cast(images, self.compute_dtype)                                            # (B, H, W, C)
        x = (x - tf.constant(self.config["pixel_mean"], x.dtype)) / tf.constant(
            self.config["pixel_deviation"], x.dtype)
        x = self.patches(x)                                                                # (B, N, D)
        if self.config["pool"] == "cls":
            x = self.class_token(x)                                                        # (B, 1 + N, D)
        x = self.position_embedding(x)
        attention = []
        for block in self.blocks:
            x, looks = block(x, step=step)
            attention.append(looks)
        tokens = self.norm(x)
        features = pool_tokens(tokens, self.config["pool"])                                # (B, F)
        logits = self.classifier(features, step=step)                                      # (B, K)
        return {"attention": attention, "tokens": tokens, "features": features, "logits": logits}

    def _next_step(self):
        """Reads the counter that the dropout masks are drawn from, and moves it on.

        A training loop may set `model.step` before each call to make the masks a function of its own step.
        """
        step = tf.identity(raw(self.step))
        self.step.assign_add(1)
        return step

    def get_config(self):
        """Gives the constructor's arguments."""
        return {"name": self.name, **self.config}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes a model of the same sizes, with new weights."""
        return cls(**config)


def pool_tokens(tokens, pool: str):
    """Makes features (B, F) of tokens (B, N, D): F is N*D for "flatten", D for "cls" and "mean"."""
    if pool == "flatten":
        return tf.reshape(tokens, (-1, tokens.shape[1] * tokens.shape[2]))
    return tokens[:, 0] if pool == "cls" else tf.reduce_mean(tokens, axis=1)


def _check(config: dict) -> None:
    """Raises ValueError, one sentence for each thing that can be wrong, before anything is built."""
    for name in ("num_classes", "number_of_layers", "embedding_dim", "num_heads", "mlp_hidden_dim"):
        if config[name] < 1:
            raise ValueError(f"{name.upper()} is {config[name]}; it must be at least 1.")
    for name in ("dropout", "classifier_dropout"):
        if not 0 <= config[name] < 1:
            raise ValueError(f"{name.upper()} is {config[name]}; it is a share: at least 0 and below 1.")
    if config["embedding_dim"] % config["num_heads"]:
        raise ValueError(f"EMBEDDING_DIM {config['embedding_dim']} can't be divided among NUM_HEADS "
                         f"{config['num_heads']}; choose a multiple of {config['num_heads']}.")
    if config["pool"] not in POOLS:
        raise ValueError(f"POOL {config['pool']!r} is not known; choose one of {', '.join(POOLS)}.")
    for name in ("pixel_mean", "pixel_deviation"):
        if len(config[name]) != config["image_shape"][2]:
            raise ValueError(f"{name} has {len(config[name])} values for pictures of "
                             f"{config['image_shape'][2]} channels; give one per channel.")
    if min(config["pixel_deviation"]) <= 0:
        raise ValueError(f"pixel_deviation is {config['pixel_deviation']}; each must be above 0: a channel that "
                         "never changes can't be scaled.")
    patch_grid(config["image_shape"], config["patch_size"], config["patch_stride"])
