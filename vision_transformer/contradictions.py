"""What contradicts what: the constants that have an effect only beside certain choices of others.

A flag that would do nothing is refused: whoever types it expects something of it. A constant of a script may stay as it
is, though: a script has them all.
"""
from __future__ import annotations

from typing import NamedTuple

from .checks import shown
from .model import PATCHES
from .policies import POLICIES
from .schedules import HALVING
from .token_learner import TOKEN_LEARNERS


class Beside(NamedTuple):
    """Has an effect only where one of the constants `names` is one of `choices`; no choices: neither 0 nor ""."""

    names: tuple
    choices: tuple = ()

    def holds(self, constants: dict) -> bool:
        """Tells whether it is so among these constants, by name."""
        values = [constants[name] for name in self.names]
        return any(value in self.choices for value in values) if self.choices else any(values)


VIT, RESNET = Beside(("ARCHITECTURE",), ("vit",)), Beside(("ARCHITECTURE",), ("resnet",))
IN_PATCHES, IN_STEMS = Beside(("EMBEDDING",), tuple(PATCHES)), Beside(("EMBEDDING",), ("hybrid", "compact"))
IN_HYBRID = Beside(("EMBEDDING",), ("hybrid",))
LEARNER = Beside(("TOKEN_LEARNER",), tuple(filter(None, TOKEN_LEARNERS)))
PLATEAU = Beside(("SCHEDULE",), (HALVING,))
RAND, POLICY = Beside(("POLICY",), ("rand",)), Beside(("POLICY",), tuple(POLICIES))
MOVES = Beside(("ROTATION", "SHEAR", "ZOOM", "TRANSLATION", "POLICY"))
COLOURED = Beside(("DATASET",), ("cifar10", "cifar100", "folder"))      # the digits are grey

NEEDS = {       # a constant -> all that must hold, or it does nothing
    **dict.fromkeys(("EMBEDDING", "POSITIONS", "REGISTER_TOKENS", "NUMBER_OF_LAYERS", "EMBEDDING_DIM", "NUM_HEADS",
                     "MLP_HIDDEN_DIM", "ATTENTION", "NORM", "LAYER_SCALE", "TOKEN_LEARNER", "POOL", "CLASSIFIER",
                     "DROPOUT", "CLASSIFIER_DROPOUT", "STOCHASTIC_DEPTH"), (VIT,)),
    "PATCH_SIZE": (VIT, IN_PATCHES), "PATCH_STRIDE": (VIT, IN_PATCHES),
    "STEM_WIDTHS": (VIT, IN_STEMS),
    **dict.fromkeys(("STEM_DEPTH", "WHITENING", "MIRRORED_FILTERS"), (VIT, IN_HYBRID)),
    "LEARNED_TOKENS": (VIT, LEARNER), "TOKEN_LEARNER_AFTER": (VIT, LEARNER),
    "BLOCKS_PER_STAGE": (RESNET,), "FIRST_WIDTH": (RESNET,),
    "SATURATION": (COLOURED,), "HUE": (COLOURED,), "FILL_MODE": (MOVES,),
    "POLICY_OPERATIONS": (RAND,), "POLICY_STRENGTH": (RAND,), "PLAIN_SHARE": (POLICY,),
    "IMAGE_SIZE": (Beside(("DATASET",), ("folder",)),),
    "PATIENCE": (PLATEAU,), "MINIMUM_LEARNING_RATE": (PLATEAU,),
}


def lacking(name: str, constants: dict) -> Beside | None:
    """Gives what a constant lacks to have an effect among these constants, by name; None where it has one."""
    return next((need for need in NEEDS.get(name, ()) if not need.holds(constants)), None)


def refuse_contradictions(settings) -> None:
    """Raises ValueError for two choices of a script's settings that exclude each other."""
    if settings.SIZE and settings.ARCHITECTURE != "vit":
        raise ValueError(f"SIZE {settings.SIZE!r} is a size of ARCHITECTURE 'vit', not {settings.ARCHITECTURE!r}; "
                         "leave it empty.")
    if settings.ALTERNATING_FLIP and settings.FLIP_HORIZONTAL:
        raise ValueError("ALTERNATING_FLIP takes the place of FLIP_HORIZONTAL, which is "
                         f"{shown(settings.FLIP_HORIZONTAL)}; set one of the two to 0.")


def refuse_idle_flags(settings) -> None:
    """Raises ValueError for a typed flag that has no effect beside the other settings, recipe and size included.

    A switch may be turned off in any case: its script may have it on, beside choices that others were typed for.
    """
    constants = settings.as_dict()
    for name in sorted(settings.changed):
        need = lacking(name, constants)
        if need and constants[name] is not False:
            raise ValueError(f"{name} {constants[name]!r} has no effect {_with(need, constants)}")


def _with(need: Beside, constants: dict) -> str:
    """Ends the sentence: what is chosen, where the constant belongs, what to do."""
    if len(need.names) > 1:
        *first, last = need.names
        return f"where {', '.join(first)} and {last} are all off; leave it out, or turn one of these on."
    [name] = need.names
    return (f"with {name} {constants[name]!r}; it belongs to {name} {' or '.join(map(repr, need.choices))}. Leave it "
            f"out, or choose {'one of these' if need.choices[1:] else 'that'}.")
