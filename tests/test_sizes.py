"""Named sizes and how many weights they make, against what the papers and their code say."""
from pathlib import Path

import pytest

from vision_transformer.model import VisionTransformer
from vision_transformer.sizes import SIZES, named_size, parameter_count

IMAGENET = {"image_shape": (224, 224, 3), "num_classes": 1000, "patch_size": 16, "patch_stride": 16,
            "embedding": "convolution", "pool": "cls", "classifier": "linear"}
CIFAR = {"image_shape": (32, 32, 3), "num_classes": 10, "embedding": "compact", "stem_widths": "64",
         "pool": "sequence", "classifier": "linear"}
PUBLISHED = {
    "sample": ({"image_shape": (32, 32, 3), "num_classes": 10}, 1_458_634, 0),      # pinned: the default model
    "tiny": (IMAGENET, 5_717_416, 0),                   # DeiT-Ti, DeiT-S: the authors' code
    "small": (IMAGENET, 22_050_664, 0),
    "base": (IMAGENET, 86_567_656, 0),                  # ViT-B/16, ViT-L/16, ViT-H/14: torchvision
    "large": (IMAGENET, 304_326_632, 0),
    "huge": ({**IMAGENET, "patch_size": 14, "patch_stride": 14}, 632_045_800, 0),
    # CCT-N/3x2, arXiv 2104.05704; their query, key and value have no bias, ours has 3 D a layer.
    "compact-2": (CIFAR, 284_000 + 2 * 384, 500),
    "compact-4": (CIFAR, 482_000 + 4 * 384, 500),
    "compact-6": (CIFAR, 3_330_000 + 6 * 768, 5000),
    "compact-7": (CIFAR, 3_850_000 + 7 * 768, 5000),
}


@pytest.mark.parametrize("name", [name for name in SIZES if name])
def test_a_size_has_as_many_weights_as_published(name):
    """By a model of one layer, as all layers are alike: the large ones would take gigabytes."""
    arguments, published, rounding = PUBLISHED[name]
    size = named_size(name)
    model = VisionTransformer(**{**arguments, **size, "number_of_layers": 1})
    [block] = model.blocks
    weights = parameter_count(model) + (size["number_of_layers"] - 1) * parameter_count(block)
    assert weights == pytest.approx(published, abs=rounding)


def test_the_document_has_each_size_with_the_weights_of_its_blocks():
    """By hand: two norms, query, key and value, projection, and the MLP's two layers, D wide, M in the MLP."""
    rows = {}
    for layers, d, heads, m in filter(None, SIZES.values()):
        weights = layers * (4 * d + 3 * d * d + 3 * d + d * d + d + 2 * d * m + m + d)
        rows[layers, d, heads, m] = f"{layers} | {d} | {heads} | {m} | {weights / 1e6:.1f} M"
    text = (Path(__file__).parents[1] / "docs" / "options.md").read_text(encoding="utf-8")
    assert [f"| `{name}` | {rows[size]} |" in text for name, size in SIZES.items() if size] == [True] * 10


def test_no_name_stands_for_no_sizes_and_a_wrong_one_is_refused():
    assert named_size("") == {}
    assert named_size("tiny") == {"number_of_layers": 12, "embedding_dim": 192, "num_heads": 3, "mlp_hidden_dim": 768}
    with pytest.raises(ValueError, match=r"SIZE 'giant' is not known; choose one of sample, tiny, .*compact-7, or"):
        named_size("giant")
