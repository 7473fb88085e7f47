"""The Vision Transformer: tokens of a picture, encoder blocks over them, features, a classifier.

    B pictures in a batch     N tokens        D embedding width   M hidden width of an MLP
    h attention heads         F features      K classes           S learned tokens

Its parts, from small to large: blocks.py (attention, MLP, block), embedding.py (patches, positions), stems.py (CNNs in
place of patches), token_learner.py, heads.py (pooling, classifier).
Source: Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv 2010.11929 (ViT).
"""
from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import keras

from .blocks import ATTENTIONS, LAYER_NORM_EPSILON, NORMS, Block, LayerNorm
from .checks import check_number, check_share, check_switch, check_whole
from .embedding import (
    POSITIONS,
    ConvolutionEmbedding,
    LearnedTokens,
    PatchEmbedding,
    PositionEmbedding,
    ShiftedPatchEmbedding,
    SinePositions,
    patch_grid,
)
from .heads import CLASSIFIERS, POOLS, SequencePooling, make_classifier, pool_tokens
from .picture_classifier import LARGEST_SIDE, MOST_WIDTH, PictureClassifier, check_total, with_pixels
from .stems import WHITENING_PIXELS, CompactStem, HybridStem, stem_channels, stem_grid, stem_widths
from .token_learner import TOKEN_LEARNERS, TokenLearner

PATCHES = {"linear": PatchEmbedding, "convolution": ConvolutionEmbedding, "shifted": ShiftedPatchEmbedding}
CHOICES = {"embedding": (*PATCHES, "hybrid", "compact"), "positions": POSITIONS, "attention": ATTENTIONS,
           "norm": NORMS, "token_learner": TOKEN_LEARNERS, "pool": POOLS, "classifier": CLASSIFIERS}
# From what to what each whole number may go; above lies nothing that anybody has built.
LIMITS = {"number_of_layers": (1, 1000), "embedding_dim": (1, MOST_WIDTH), "num_heads": (1, MOST_WIDTH),
          "mlp_hidden_dim": (1, 4 * MOST_WIDTH), "patch_size": (1, LARGEST_SIDE), "patch_stride": (1, LARGEST_SIDE),
          "stem_depth": (1, 100), "register_tokens": (0, 1000), "learned_tokens": (1, MOST_WIDTH),
          "token_learner_after": (0, 1000), "seed": (0, 2 ** 31 - 1)}


@keras.utils.register_keras_serializable("vision_transformer")
class VisionTransformer(PictureClassifier):
    """A picture classifier: pictures (B, H, W, C) with pixels 0..255, uint8 or float, to logits (B, K).

    The model is built when constructed. It is an ordinary keras.Model: `compile` and `fit` work on it.

    Args:
        image_shape: (H, W, C) of the pictures.
        num_classes: K.
        patch_size, patch_stride: pixels; a stride below the size makes patches overlap. The embeddings "hybrid" and
            "compact" have no patches and ignore both.
        number_of_layers, embedding_dim, num_heads, mlp_hidden_dim: the encoder's sizes (sizes.py names published
            ones); mlp_hidden_dim is the hidden width of the blocks' MLPs and of an MLP classifier.
        embedding: how pictures become tokens: "linear" (each patch through a Dense layer), "convolution" (the same as
            one), "shifted" (patches that see beyond their edges), "hybrid" or "compact" (a small CNN).
        stem_widths: channels of such a CNN's convolutions but the last, which has D: "64-128". With "hybrid" each of
            them halves the picture's sides, with "compact" the last one too.
        stem_depth: convolutions of each of these widths, with "hybrid"; the halving comes behind the first.
        whitening: "hybrid" begins with a convolution that `whiten` fits to the data; it costs a pixel along each side,
            and so, behind halvings, a row and a column of tokens.
        mirrored_filters: each filter of "hybrid" has a twin that is its mirror image; all widths are even then.
        positions: "learned" (from sines and cosines on), "sincos" (those, fixed) or "none".
        register_tokens: learned tokens that are no part of the picture, behind the class token; only pool "cls" can
            read them.
        read_registers: how many of them it reads beside the class token, side by side: F = (1 + read_registers) * D.
            One such token is what DeiT calls a distillation token (arXiv 2012.12877, section 4).
        attention: "plain", or "locality" (a learned temperature, no token looks at itself).
        norm: where normalization is: "pre", before each branch, or "post", after each sum.
        norm_epsilon: what the blocks and the norm behind them add to a variance.
        layer_scale: the first value of learned factors on the branches; 0: none.
        token_learner: what makes learned_tokens tokens of all after block number token_learner_after (0: after half of
            them): "" (nothing), "v1" or "v1.1".
        pool: how tokens become features: "flatten" (all of them, side by side: F = N*D), "cls" (an added class
            token's), "mean" (their mean), "sequence" (a learned weighted mean).
        classifier: "mlp" (one hidden layer) or "linear" (none).
        dropout: share of each block's branches that is zeroed in training.
        stochastic_depth: share of the pictures whose branches are left out in training; in the last block, growing
            evenly from 0 at the embedding.
        classifier_dropout: share of the classifier's hidden layer (with "linear": of the features) that is zeroed in
            training.
        pixel_mean, pixel_deviation: per channel, of the training set; pixels are scaled by them inside.
        seed: of attention's first weights and of the masks; the other first weights are Keras's, and follow
            keras.utils.set_random_seed.

    Raises:
        ValueError: sizes that can't work together; nothing is built then.
    """

    def __init__(self, *, image_shape, num_classes: int, patch_size: int = 4, patch_stride: int = 4,
                 number_of_layers: int = 8, embedding_dim: int = 64, num_heads: int = 8, mlp_hidden_dim: int = 256,
                 embedding: str = "linear", stem_widths: str = "64-128", stem_depth: int = 1,
                 whitening: bool = False, mirrored_filters: bool = False, positions: str = "learned",
                 register_tokens: int = 0, read_registers: int = 0, attention: str = "plain", norm: str = "pre",
                 norm_epsilon: float = LAYER_NORM_EPSILON, layer_scale: float = 0.0, token_learner: str = "",
                 learned_tokens: int = 8, token_learner_after: int = 0, pool: str = "flatten", classifier: str = "mlp",
                 dropout: float = 0.0, stochastic_depth: float = 0.0, classifier_dropout: float = 0.0, pixel_mean=None,
                 pixel_deviation=None, seed: int = 0, name: str = "vision_transformer", **kwargs):
        config = with_pixels({key: value for key, value in locals().items()
                              if key not in ("self", "name", "kwargs", "__class__")})
        _check(config)
        super().__init__(config, name=name, **kwargs)
        rows, columns = token_grid(config)
        class_tokens = int(pool == "cls")
        self.extra_tokens = class_tokens + register_tokens      # in front of those that show a part of the picture
        # From here on each layer that draws gets a seed of its own; far from those of the next `seed`.
        first_seed = seed * 1009 % 2 ** 30

        # Layers are made in the order in which they are called: Keras 3 draws first weights in the one, Keras 2 in the
        # other.
        self.patches = make_embedding(config)
        if class_tokens:
            self.class_token = LearnedTokens(1, name="class_token")
        if positions != "none":
            make_positions = {"learned": PositionEmbedding, "sincos": SinePositions}[positions]
            self.position_embedding = make_positions(rows, columns, class_tokens, embedding_dim, name="positions")
        if register_tokens:
            self.registers = LearnedTokens(register_tokens, class_tokens, name="registers")
        self.learns_after = learns_after(config)
        self.blocks = []
        for i in range(number_of_layers):
            self.blocks.append(Block(num_heads, embedding_dim, mlp_hidden_dim, dropout, first_seed + 2 * i, attention,
                                     norm, layer_scale, stochastic_depth * (i + 1) / number_of_layers, norm_epsilon,
                                     name=f"block_{i}"))
            if i + 1 == self.learns_after:
                self.token_learner = TokenLearner(token_learner, learned_tokens, rows, columns, self.extra_tokens,
                                                  name="token_learner")
        if norm == "pre":                               # with "post" the last block ends with one
            self.norm = LayerNorm(norm_epsilon, name="norm")
        if pool == "sequence":
            self.sequence_pooling = SequencePooling(name="sequence_pooling")
        self.classifier = make_classifier(config, first_seed + 2 * number_of_layers)
        self.build_now()

    def forward(self, images, training=None) -> dict:
        """Gives all that is made of images (B, H, W, C) on the way to the logits, by name.

        "attention": a list of (B, h, N, N), one per block, rows summing to 1, without gradient; "tokens": (B, N, D)
        after the final norm; "features": (B, F); "logits": (B, K). N counts the patches row by row; before them come
        the class token of pool "cls", as number 0, and register tokens.

        With a token learner N is smaller in the blocks behind it: S learned tokens, after the same class and register
        tokens. "token_maps": (B, S, patches), its weights: what the S tokens are made of; None without one.
        """
        step = self.next_step() if training else None
        x = self.patches(self.scaled(images), training=training)                           # (B, N, D)
        if self.config["pool"] == "cls":
            x = self.class_token(x)                                                        # (B, 1 + N, D)
        if self.config["positions"] != "none":
            x = self.position_embedding(x)
        if self.config["register_tokens"]:
            x = self.registers(x)
        attention, token_maps = [], None
        for number, block in enumerate(self.blocks, start=1):
            x, looks = block(x, step=step)
            attention.append(looks)
            if number == self.learns_after:
                x, token_maps = self.token_learner(x)                                      # (B, extra + S, D)
        tokens = self.norm(x) if self.config["norm"] == "pre" else x
        features = self._pool(tokens)                                                      # (B, F)
        logits = self.classifier(features, step=step)                                      # (B, K)
        return {"attention": attention, "token_maps": token_maps, "tokens": tokens, "features": features,
                "logits": logits}

    def _pool(self, tokens):
        """Makes features (B, F) of the tokens (B, N, D) that the pool reads."""
        if self.config["pool"] == "cls":
            read = 1 + self.config["read_registers"]
            return tf.reshape(tokens[:, :read], (-1, read * tokens.shape[2])) if read > 1 else tokens[:, 0]
        tokens = tokens[:, self.extra_tokens:] if self.extra_tokens else tokens
        return self.sequence_pooling(tokens) if self.config["pool"] == "sequence" else pool_tokens(
            tokens, self.config["pool"])

    def describe(self) -> str:
        """Says in a few words what the model is made of."""
        c, (rows, columns) = self.config, token_grid(self.config)
        source = (f"patches of {c['patch_size']} pixels, one every {c['patch_stride']}" if c["embedding"] in PATCHES
                  else f"{c['embedding']} stem")
        text = (f"{c['number_of_layers']} blocks of width {c['embedding_dim']} on "
                f"{self.extra_tokens + rows * columns} tokens ({source})")
        if self.learns_after:
            text += f", {c['learned_tokens']} learned ones after block {self.learns_after}"
        return text

    def whiten(self, images) -> None:
        """Fits the whitening layer, if there is one, to training pictures (n, H, W, C), uint8; call it before training.

        A run's saved weights hold the result.
        """
        if self.config["whitening"]:
            height, width, _ = self.config["image_shape"]
            first = np.asarray(images[:max(1, WHITENING_PIXELS // (height * width))])
            self.patches.whitening.fit(self.scaled(first).numpy())


def make_embedding(config: dict):
    """Makes the layer that turns pictures into tokens."""
    if config["embedding"] in PATCHES:
        return PATCHES[config["embedding"]](config["patch_size"], config["patch_stride"], config["embedding_dim"],
                                            name="patches")
    widths = stem_widths(config["stem_widths"])
    if config["embedding"] == "compact":
        return CompactStem(widths, config["embedding_dim"], name="patches")
    return HybridStem(widths, config["embedding_dim"], config["stem_depth"], config["whitening"],
                      config["mirrored_filters"], name="patches")


def token_grid(config: dict) -> tuple[int, int]:
    """Gives (rows, columns) of the tokens that the embedding makes; raises ValueError for sizes that don't fit."""
    if config["embedding"] in PATCHES:
        return patch_grid(config["image_shape"], config["patch_size"], config["patch_stride"])
    return stem_grid(config["image_shape"], stem_halvings(config), config["whitening"])


def stem_halvings(config: dict) -> int:
    """Gives how often a stem halves the picture's sides."""
    return len(stem_widths(config["stem_widths"])) + (config["embedding"] == "compact")


def learns_after(config: dict) -> int:
    """Gives the number of the block that the token learner is behind, counted from 1; 0 where there is none."""
    half = (config["number_of_layers"] + 1) // 2
    return (config["token_learner_after"] or half) if config["token_learner"] else 0


def _check(config: dict) -> None:
    """Raises ValueError, one sentence for each thing that can be wrong, before anything is built."""
    for name, allowed in CHOICES.items():
        if config[name] not in allowed:
            raise ValueError(f"{name.upper()} {config[name]!r} is not known; choose one of "
                             f"{', '.join(choice or 'nothing' for choice in allowed)}.")
    for name, limits in LIMITS.items():
        if name not in ("patch_size", "patch_stride") or config["embedding"] not in PATCHES:
            check_whole(name.upper(), config[name], *limits)        # patch_grid knows patches' limits better
    check_whole("read_registers", config["read_registers"], 0,
                config["register_tokens"] if config["pool"] == "cls" else 0,
                ", as POOL is {pool!r} and REGISTER_TOKENS {register_tokens}".format(**config))
    check_number("norm_epsilon", config["norm_epsilon"], 1e-12, 1)
    check_number("LAYER_SCALE", config["layer_scale"], 0, 1000, ", where 0 is none")
    for name in ("dropout", "stochastic_depth", "classifier_dropout"):
        check_share(name.upper(), config[name])
    switches = {"WHITENING": config["whitening"], "MIRRORED_FILTERS": config["mirrored_filters"]}
    for name, value in switches.items():
        check_switch(name, value)
    if config["embedding_dim"] % config["num_heads"]:
        raise ValueError(f"EMBEDDING_DIM {config['embedding_dim']} can't be divided among NUM_HEADS "
                         f"{config['num_heads']}; choose a multiple of {config['num_heads']}.")
    depth = config["stem_depth"] if config["embedding"] == "hybrid" else 1
    widths = stem_channels(stem_widths(config["stem_widths"]), config["embedding_dim"], depth)
    rows, columns = token_grid(config)
    _check_totals(config, rows * columns, widths)
    if rows * columns < 2:
        height, width, _ = config["image_shape"]
        raise ValueError(f"EMBEDDING {config['embedding']!r} makes {('no', 'one')[rows * columns]} token of "
                         f"{height}x{width} pixels, with nothing to look at; choose a smaller PATCH_SIZE, or with a "
                         "stem fewer STEM_WIDTHS.")
    for name, value in switches.items():
        if value and config["embedding"] != "hybrid":
            raise ValueError(f"{name} is true with EMBEDDING {config['embedding']!r}; only 'hybrid' has such a layer: "
                             "choose that, or false.")
    odd = [width for width in widths if width % 2]
    if config["mirrored_filters"] and odd:
        raise ValueError(f"MIRRORED_FILTERS pairs filters, but STEM_WIDTHS and EMBEDDING_DIM have {odd[0]}; choose "
                         "even numbers.")
    if config["token_learner"]:
        if not 1 <= config["learned_tokens"] < rows * columns:
            raise ValueError(f"LEARNED_TOKENS is {config['learned_tokens']}; learn at least 1, and fewer than the "
                             f"{rows * columns} tokens of a picture.")
        if not 0 <= config["token_learner_after"] <= config["number_of_layers"]:
            raise ValueError(f"TOKEN_LEARNER_AFTER is {config['token_learner_after']}; it is a block's number, from 1 "
                             f"to {config['number_of_layers']}, or 0 for after half of them.")
        if config["pool"] == "cls" and learns_after(config) == config["number_of_layers"]:
            raise ValueError(f"TOKEN_LEARNER {config['token_learner']!r} behind the last block is of no use to POOL "
                             "'cls', whose token no block updates after that; choose an earlier TOKEN_LEARNER_AFTER, "
                             "more blocks or another pool.")


def _check_totals(config: dict, patches: int, widths: list) -> None:
    """Raises ValueError where a model whose sizes can each be is too large as a whole; counts roughly."""
    dim, hidden = config["embedding_dim"], config["mlp_hidden_dim"]
    height, image_width, channels = config["image_shape"]
    if config["embedding"] in PATCHES:
        embedding = config["patch_size"] ** 2 * channels * dim
    else:
        first = 8 * channels if config["whitening"] else channels
        embedding = sum(9 * before * width for before, width in zip([first, *widths], widths))
        check_total("numbers in a feature map", height * image_width * max(first, *widths[:1]),
                    "STEM_WIDTHS or image_shape")
    read = config["learned_tokens"] if config["token_learner"] else patches
    features = dim * (read if config["pool"] == "flatten" else 1 + config["read_registers"])
    check_total("weights", embedding + patches * dim + config["number_of_layers"] * dim * (4 * dim + 2 * hidden)
                + features * hidden, "EMBEDDING_DIM, MLP_HIDDEN_DIM, NUMBER_OF_LAYERS or number of patches")
    check_total("shares of attention", config["num_heads"] * (patches + config["register_tokens"]) ** 2,
                "NUM_HEADS or number of patches")
