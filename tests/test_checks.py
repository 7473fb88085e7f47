"""The checks of single values, each held against its limits, and the kinds of the scripts' constants."""
import math

import numpy as np
import pytest
from test_constants import CONSTANTS, ROOT

from vision_transformer.checks import SWITCHES, TEXTS, check_number, check_share, check_switch, check_whole
from vision_transformer.settings import read_constants


@pytest.mark.parametrize("check, good, bad", [
    (lambda value: check_whole("SIDE", value, 3, 7), (3, 7, np.int64(5)),
     (2, 8, 5.0, "5", True, None, [5], math.nan, 10 ** 30)),
    (lambda value: check_whole("SIDE", value, 3), (3, 10 ** 30), (2, math.inf)),
    (lambda value: check_number("SIDE", value, 0, 1.5), (0, 1.5, np.float32(0.5)),
     (-0.1, 1.6, "1", True, None, math.nan, math.inf, 1j)),
    (lambda value: check_share("SIDE", value), (0, 0.999), (1, 1.0, -1e-9, math.nan, "0", False)),
    (lambda value: check_switch("SIDE", value), (True, False), (1, 0, "no", None)),
])
def test_a_check_takes_its_range_and_no_more(check, good, bad):
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ValueError, match=r"^SIDE is .*; .*choose .*\.$"):
            check(value)


def test_a_check_says_what_to_choose_and_shortens_what_is_long():
    with pytest.raises(ValueError, match=r"^SIDE is 0; choose a whole number from 1 to 1,000, of the house\.$"):
        check_whole("SIDE", 0, 1, 1000, ", of the house")
    with pytest.raises(ValueError, match=r"^SIDE is -1; choose a whole number of at least 0\.$"):
        check_whole("SIDE", -1, 0)
    with pytest.raises(ValueError, match=r"^SIDE is 'x{99}\.\.\.; choose a number from 0 to 0.5\.$"):
        check_number("SIDE", "x" * 10 ** 6, 0, 0.5)


def test_the_switches_and_texts_are_the_scripts():
    assert {name for name, constant in CONSTANTS.items() if isinstance(constant.default, bool)} == SWITCHES
    texts = {**CONSTANTS, **{c.name: c for c in read_constants(ROOT / "examples" / "finetune_pretrained.py")[1]}}
    assert {name for name in TEXTS if isinstance(texts[name].default, str)} == TEXTS
