"""What each option of the model is, and what it weighs: prints the table that docs/options.md shows.

    python benchmarks/options.py

Weights are those that learn; MACs are multiply-adds of the forward pass of one 32x32x3 picture, counted in its graph by
training_flops.py.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from training_flops import multiply_adds

from vision_transformer import build_model
from vision_transformer.recipes import with_recipe
from vision_transformer.settings import read_settings
from vision_transformer.sizes import parameter_count

OPTIONS = {         # flags of train_cifar10.py -> what they mean, and the source
    "": "the default: patches of 4x4 pixels through a Dense layer, learned positions, 8 pre-norm blocks of width 64, "
        "all tokens side by side into an MLP (Microsoft's sample as documented; ViT, arXiv 2010.11929)",
    "--embedding convolution": "the same patches as one convolution (ViT)",
    "--patch-stride 2": "overlapping patches: 225 tokens",
    "--embedding shifted": "patches that also see four half-patch shifts of the picture: SPT (arXiv 2112.13492)",
    "--embedding hybrid": "a small CNN's feature map in place of patches (ViT, section 3.1)",
    "--embedding hybrid --stem-depth 2": "the same with two convolutions of each width, behind each halving (airbench, "
                                         "arXiv 2404.00498)",
    "--embedding hybrid --whitening": "hybrid after a first convolution that is fitted to the data (airbench)",
    "--embedding hybrid --mirrored-filters": "hybrid of filters and their mirror images, which share their weights "
                                             "(Cohen and Welling, arXiv 1602.07576, for the group of a mirror)",
    "--embedding compact --stem-widths 64": "convolution, ReLU, pooling, twice: CCT's tokenizer (arXiv 2104.05704)",
    "--positions sincos": "fixed sines and cosines in two dimensions (arXiv 2205.01580)",
    "--positions none": "no positions",
    "--register-tokens 4": "learned tokens that show nothing (arXiv 2309.16588)",
    "--attention locality": "learned temperature, and no token looks at itself: LSA (arXiv 2112.13492)",
    "--norm post": "normalization after each sum, as the first Transformer had it; pre-norm trains more easily (Xiong "
                   "et al., arXiv 2002.04745)",
    "--layer-scale 0.0001": "learned factors on the branches (CaiT, arXiv 2103.17239)",
    "--stochastic-depth 0.1": "pictures skip branches in training (arXiv 1603.09382)",
    "--token-learner v1": "8 learned tokens in place of all, after block 4: TokenLearner (arXiv 2106.11297)",
    "--token-learner v1.1": "the same by an MLP in place of convolutions (the authors' code)",
    "--token-learner v1.1 --learned-tokens 2 --token-learner-after 1": "2 learned tokens after the first block",
    "--pool cls": "a class token is read (ViT)",
    "--pool mean": "the tokens' mean",
    "--pool sequence": "the tokens' mean, with learned weights (CCT)",
    "--pool mean --classifier linear": "no hidden layer in the classifier",
    "--architecture resnet": "ResNet-20, a CNN to compare with (arXiv 1512.03385, section 4.2)",
    "--size tiny": "DeiT-Ti (arXiv 2012.12877)",
    "--size small": "DeiT-S (the same)",
    "--recipe compact": "CCT-2/3x2 (arXiv 2104.05704), trained much as published",
    "--recipe hybrid": "the most accuracy for the least compute: [results.md](results.md)",
    "--recipe hybrid-large": "the same, wider and longer: six times the compute",
}
HEAD = "| flags | what | weights | MACs |\n|---|---|---|---|"


def line(flags: str) -> str:
    """Builds an option's model and writes its line of the table."""
    tf.keras.backend.clear_session()
    settings = with_recipe(read_settings(ROOT / "train_cifar10.py", flags.split()))
    model = build_model(image_shape=(32, 32, 3), num_classes=10, **settings.below("model"))
    predict = tf.function(lambda images: model(images, training=False))
    macs = multiply_adds(predict.get_concrete_function(tf.TensorSpec((1, 32, 32, 3), tf.uint8)))
    name = f"`{flags}`" if flags else "none"
    return f"| {name} | {OPTIONS[flags]} | {parameter_count(model):,} | {macs / 1e6:.1f} M |"


if __name__ == "__main__":
    print(HEAD)
    for flags in OPTIONS:
        print(line(flags), flush=True)
