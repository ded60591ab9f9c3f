"""A thousand points of a free product of fifty factors take under fifty milliseconds, its construction included."""

from fractions import Fraction

import numpy as np
import pytest

from bntheory.networks import mlp
from bntheory.spectra.jacobian import jacobian_law
from bntheory.spectra.s_transform import STransformLaw

LIMIT = 0.050  # seconds; of the fastest round, which other work on the machine disturbs least
MAKERS = {
    "relu, 50 layers": lambda: jacobian_law(mlp(50, 512)),
    "50 matrices": lambda: STransformLaw({0: -1, 1: 51}),
    "50 widths": lambda: STransformLaw([(0, -1), (1, 1), *((1 + Fraction(k, 50), 1) for k in range(50))]),
}


@pytest.mark.parametrize("method", ["pdf", "cdf", "ppf"])
@pytest.mark.parametrize("name", MAKERS)
def test_a_thousand_points(benchmark, name, method):
    law = MAKERS[name]()
    points = np.linspace(0.51, 0.99, 1000) if method == "ppf" else np.linspace(0, law.support[1], 1002)[1:-1]
    getattr(law, method)(points)
    assert benchmark(getattr(law, method), points).shape == (1000,)
    if benchmark.stats:  # absent with --benchmark-disable
        assert benchmark.stats.stats.min < LIMIT


@pytest.mark.parametrize("name", MAKERS)
def test_construction_included(benchmark, name):
    points = np.linspace(0, MAKERS[name]().support[1], 1002)[1:-1]
    assert benchmark(lambda: MAKERS[name]().pdf(points)).shape == (1000,)
    if benchmark.stats:
        assert benchmark.stats.stats.min < LIMIT
