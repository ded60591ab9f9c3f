"""A thousand points of a free product of fifty factors take under fifty milliseconds, its construction included."""

from fractions import Fraction

import numpy as np
import pytest

from bntheory.architectures import mlp
from bntheory.spectra.jacobian import jacobian_law
from bntheory.spectra.s_transform import STransformLaw

MAKERS = {
    "ReLU network of 50 layers": lambda: jacobian_law(mlp(50, 512)),
    "50 square matrices": lambda: STransformLaw({0: -1, 1: 51}),
    "50 widths": lambda: STransformLaw([(0, -1), (1, 1), *((1 + Fraction(k, 50), 1) for k in range(50))]),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_thousand_points(seconds, floor, name):
    """The slowest of three functions, and of making the law and its density."""
    law = MAKERS[name]()
    levels, points = np.linspace(0.51, 0.99, 1000), np.linspace(0, law.support[1], 1002)[1:-1]
    assert all(values.shape == (1000,) for values in (law.pdf(points), law.cdf(points), law.ppf(levels)))
    made_too = seconds(lambda: MAKERS[name]().pdf(points), rounds=10)
    taken = seconds(lambda: law.pdf(points), lambda: law.cdf(points), lambda: law.ppf(levels), rounds=10)
    floor(f"law of {name}: pdf, cdf or ppf of 1000 points, or pdf and the law made", max(made_too + taken), most=0.050)
