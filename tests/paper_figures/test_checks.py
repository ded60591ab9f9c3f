import math

import pytest

from paper_figures.checks import at_most, between, near


@pytest.mark.parametrize("check", [between("q", math.nan, 0, 1), near("q", math.nan, 0, 1), at_most("q", math.nan, 1)])
def test_nan_never_passes(check):
    assert not check.passed


def test_ends_are_inside():
    assert between("q", 1.0, 0.0, 1.0).passed and near("q", 1.5, 1.0, 0.5).passed and at_most("q", 1.0, 1.0).passed
    assert not between("q", -0.01, 0.0, 1.0).passed
    assert not near("q", 0.4, 1.0, 0.5).passed


def test_expected_is_printed_to_two_digits_of_the_tolerance():
    assert near("q", 0.0, -71.8726, 0.446).expected == "-71.87 ± 0.45"
    assert near("q", 0.0, 3.0, 25.0).expected == "3 ± 25"
