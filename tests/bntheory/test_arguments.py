"""Argument checks: plain types come back, everything else is one line with the value."""

import numpy as np
import pytest

from bntheory import arguments


def test_numbers_come_back_in_plain_types():
    assert type(arguments.integer("n", np.int64(3))) is int
    assert type(arguments.number("x", np.float32(3))) is float
    assert type(arguments.number("x", 3)) is float


@pytest.mark.parametrize("value", [0, True, 2.0, "3", None, np.array([1, 2])])
def test_integers_are_refused_by_value(value):
    with pytest.raises(ValueError, match=r"^n must be .*at least 1.*got") as error:
        arguments.integer("n", value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", True, None, 10**400])
def test_numbers_are_refused_by_value(value):
    with pytest.raises(ValueError, match=r"^x must be .*above 0.*got"):
        arguments.number("x", value, above=0)


def test_choices_suggest_the_nearest():
    with pytest.raises(ValueError, match=r"c must be one of red, green; got 'grean' \(did you mean green\?\)"):
        arguments.choice("c", "grean", ["red", "green"])
    with pytest.raises(ValueError, match=r"got 7$"):
        arguments.choice("c", 7, ["red"])
