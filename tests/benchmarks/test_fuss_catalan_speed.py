"""A thousand points of any law take under ten milliseconds, whatever the number of factors."""

import numpy as np
import pytest

from bntheory.spectra.fuss_catalan import FussCatalan, MarchenkoPastur

LAWS = [FussCatalan(factors) for factors in (1, 5, 1000, 1_000_000)]
LAWS += [MarchenkoPastur(ratio) for ratio in (0.3, 0.9999, 4.0)]
LIMIT = 0.010  # seconds


@pytest.mark.parametrize("method", ["pdf", "cdf", "sf", "ppf", "log.pdf", "log.ppf"])
def test_a_thousand_points(seconds, floor, method):
    """The slowest of the laws."""
    levels, taken = np.linspace(0, 1, 1002)[1:-1], []
    for law in LAWS:
        view, name = (law.nonzero.log, method[4:]) if method.startswith("log.") else (law.nonzero, method)
        ends = view.ppf(levels[[0, -1]]) if method.startswith("log.") else law.support
        points = levels if name == "ppf" else np.linspace(*ends, 1002)[1:-1]
        evaluate = getattr(view, name)
        assert evaluate(points).shape == (1000,)
        taken += seconds(lambda evaluate=evaluate, points=points: evaluate(points), rounds=20)
    floor(f"Fuss–Catalan and Marchenko–Pastur laws: {method} of 1000 points", max(taken), most=LIMIT)


def test_points_spread_over_every_decade(seconds, floor):
    taken = []
    for law in (FussCatalan(1), FussCatalan(1_000_000)):
        x = np.geomspace(1e-300, law.support[1], 1000)
        assert np.all(np.diff(law.cdf(x)) >= 0)
        taken += seconds(lambda law=law, x=x: law.cdf(x), rounds=20)
    floor("Fuss–Catalan law: cdf of 1000 points from 1e-300 on", max(taken), most=LIMIT)
