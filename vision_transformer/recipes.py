"""Ready-made choices: RECIPE and SIZE stand for other constants that go well together.

A flag on the command line beats both, SIZE beats RECIPE, RECIPE beats the constants of the script.
"""
from __future__ import annotations

from .checks import check_kinds
from .contradictions import refuse_contradictions, refuse_idle_flags
from .settings import flag_of, nearest
from .sizes import named_size

_NO_COLOURS_NO_DROPOUT = {
    "CONTRAST": 0.0, "BRIGHTNESS": 0.0, "SATURATION": 0.0, "DROPOUT": 0.0, "CLASSIFIER_DROPOUT": 0.0}
_SEQUENCE = {"POOL": "sequence", "CLASSIFIER": "linear"}
# The most accuracy for the least compute: a thin CNN whose small feature map attention looks at; docs/results.md.
_HYBRID = {
    "EMBEDDING": "hybrid", "STEM_WIDTHS": "48-192-192", "STEM_DEPTH": 2, "WHITENING": True,
    "MIRRORED_FILTERS": True, "NUMBER_OF_LAYERS": 2, "EMBEDDING_DIM": 192, "NUM_HEADS": 4, "MLP_HIDDEN_DIM": 384,
    **_SEQUENCE, **_NO_COLOURS_NO_DROPOUT, "POLICY": "trivial", "PLAIN_SHARE": 0.125, "FLIP_HORIZONTAL": 0.0,
    "ALTERNATING_FLIP": True, "BATCH_SIZE": 256, "MUON": True, "LEARNING_RATE": 0.01, "SCHEDULE": "one-cycle",
    "WEIGHT_DECAY": 0.2, "BETA_2": 0.99, "LABEL_SMOOTHING": 0.1, "EPOCHS": 13, "VALIDATION_SHARE": 0.05}
_WIDER = {"STEM_WIDTHS": "64-256-256", "EMBEDDING_DIM": 256, "MLP_HIDDEN_DIM": 512}
RECIPES = {
    # The scripts as they stand; those for CIFAR have the documented constants of Microsoft's sample.
    "sample": {},
    # CCT-2/3x2 (Hassani et al., arXiv 2104.05704, appendix A), which trains for 200 epochs; TrivialAugment, which needs
    # no tuning, in place of AutoAugment's fixed policy.
    "compact": {
        "EMBEDDING": "compact", "STEM_WIDTHS": "64", "NUMBER_OF_LAYERS": 2, "EMBEDDING_DIM": 128, "NUM_HEADS": 2,
        "MLP_HIDDEN_DIM": 128, **_SEQUENCE, **_NO_COLOURS_NO_DROPOUT, "STOCHASTIC_DEPTH": 0.1, "POLICY": "trivial",
        "BATCH_SIZE": 128, "LEARNING_RATE": 5e-4, "SCHEDULE": "cosine", "WARMUP_EPOCHS": 5.0, "WEIGHT_DECAY": 0.03,
        "LABEL_SMOOTHING": 0.1, "EPOCHS": 200},
    "hybrid": _HYBRID,
    # Wider and longer, six times the compute: so long that an end without a policy would be too much.
    "hybrid-large": {**_HYBRID, **_WIDER, "EPOCHS": 46, "PLAIN_SHARE": 0.0},
}
# What a recipe has otherwise for one data set: (RECIPE, DATASET) -> constants. A hundred classes want more width.
FOR_DATASET = {("hybrid", "cifar100"): _WIDER}


def with_recipe(settings):
    """Gives settings with what their RECIPE and SIZE stand for, but for constants given by a flag; prints what changed.

    A run that is resumed has its constants already.

    Raises:
        ValueError: no such recipe or size, a constant that the script lacks, or constants that contradict each other
            (contradictions.py) or are of another kind than they should.
    """
    check_kinds(settings.as_dict())
    if not settings.RESUME:
        near = nearest(settings.RECIPE, RECIPES)
        if settings.RECIPE not in RECIPES:
            raise ValueError(f"RECIPE {settings.RECIPE!r} is not known; choose one of {', '.join(RECIPES)}"
                             f"{f' (did you mean {near}?)' if near else ''}.")
        constants = {**RECIPES[settings.RECIPE], **FOR_DATASET.get((settings.RECIPE, settings.DATASET), {})}
        _replace(settings, f"recipe {settings.RECIPE}", constants)
        _replace(settings, f"size {settings.SIZE}",
                 {name.upper(): value for name, value in named_size(settings.SIZE).items()})
        refuse_contradictions(settings)
        refuse_idle_flags(settings)
    return settings


def _replace(settings, what: str, constants: dict) -> None:
    """Sets the constants that no flag gave, and prints the names and values of those that change.

    Recipes and sizes are for a Vision Transformer: another architecture takes only what isn't the model's.
    """
    replaced, model = [], settings.below("model") if settings.ARCHITECTURE != "vit" else ()
    for name, value in constants.items():
        if name.lower() in model:
            continue
        if not hasattr(settings, name):
            raise ValueError(f"{what} sets {name}, which this script doesn't have; write {name} = {value!r} into it.")
        if name not in settings.given and getattr(settings, name) != value:
            replaced.append(f"{flag_of(name)} {value} (was {getattr(settings, name)})")
            setattr(settings, name, value)
    if replaced:
        print(f"{what}: {', '.join(replaced)}")
