"""The sizes of published models, by name, and how to count a model's weights."""
from __future__ import annotations

import numpy as np

_FIELDS = ("number_of_layers", "embedding_dim", "num_heads", "mlp_hidden_dim")
# Sources: sample: the Microsoft sample that this project starts from; tiny, small: Touvron et al., arXiv 2012.12877,
# table 1 (DeiT-Ti, DeiT-S); base, large, huge: Dosovitskiy et al., arXiv 2010.11929, table 1 (ViT-B, ViT-L, ViT-H);
# compact-N: Hassani et al., arXiv 2104.05704 (CCT-N; its MLPs are once or twice as wide as its tokens).
SIZES = {
    "": (),
    "sample": (8, 64, 8, 256),
    "tiny": (12, 192, 3, 768),
    "small": (12, 384, 6, 1536),
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
    "huge": (32, 1280, 16, 5120),
    "compact-2": (2, 128, 2, 128),
    "compact-4": (4, 128, 2, 128),
    "compact-6": (6, 256, 4, 512),
    "compact-7": (7, 256, 4, 512),
}


def named_size(name: str) -> dict:
    """Gives the arguments of VisionTransformer that a size's name stands for: layers, width, heads, MLP; "" for none.

    Raises ValueError for a name that isn't known.
    """
    if name not in SIZES:
        raise ValueError(f"SIZE {name!r} is not known; choose one of {', '.join(filter(None, SIZES))}, or \"\" for the "
                         "four numbers themselves.")
    return dict(zip(_FIELDS, SIZES[name]))


def parameter_count(model) -> int:
    """Counts the trained weights of a model, or of a part of one: what papers call parameters."""
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)
