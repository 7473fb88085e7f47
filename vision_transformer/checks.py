"""Numbers and switches from outside, held to what makes sense: one sentence says what it is and what to choose.

They come from flags, from constants that somebody edited, and from the config.json of a stranger's run.
"""
from __future__ import annotations

import math
import numbers

SWITCHES = {"WHITENING", "MIRRORED_FILTERS", "MUON", "ALTERNATING_FLIP", "XLA", "DETERMINISTIC", "TEST_FLIP", "DEBUG",
            "CLASS_WEIGHTS"}
TEXTS = {"RECIPE", "DATA_DIR", "RUN_FOLDER", "RESUME", "PRETRAINED"}         # those that are no choice of a table


def check_whole(name: str, value, least: int, most: float = math.inf, remark: str = "") -> None:
    """Raises ValueError unless value is a whole number from least to most; `remark` ends the sentence."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}; choose a whole number {_range(least, most)}{remark}.")


def check_number(name: str, value, least: float, most: float, remark: str = "") -> None:
    """Raises ValueError unless value is a number from least to most; NaN is none. `remark` ends the sentence."""
    if not is_number(value) or not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}; choose a number {_range(least, most)}{remark}.")


def check_share(name: str, value, remark: str = "") -> None:
    """Raises ValueError unless value is a number from 0 to below 1; `remark` ends the sentence."""
    if not is_number(value) or not 0 <= value < 1:
        raise ValueError(f"{name} is {shown(value)}; it is a share: choose a number from 0 to below 1{remark}.")


def check_switch(name: str, value) -> None:
    """Raises ValueError unless value is True or False: any text, also "no", would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value)}; choose True or False, without quotes.")


def check_kinds(constants: dict) -> None:
    """Raises ValueError for a switch that is neither True nor False, or for another kind of value in place of a text.

    constants: name -> value. Numbers are checked where they are used, for their range as well.
    """
    for name in SWITCHES & constants.keys():
        check_switch(name, constants[name])
    for name in TEXTS & constants.keys():
        if not isinstance(constants[name], str):
            raise ValueError(f"{name} is {shown(constants[name])}; choose a text, in quotes.")


def is_number(value) -> bool:
    """Tells whether value is a real number, of Python or NumPy; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _range(least, most) -> str:
    bounds = [f"{bound:,}" if isinstance(bound, int) else f"{bound:g}" for bound in (least, most)]
    return f"of at least {bounds[0]}" if most == math.inf else f"from {bounds[0]} to {bounds[1]}"


def shown(value) -> str:
    """A value as messages show it: NumPy's numbers without their type, texts in quotes, nothing at full length."""
    text = str(value) if isinstance(value, numbers.Number) else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
