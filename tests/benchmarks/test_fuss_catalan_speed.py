"""A thousand points of any law take under ten milliseconds, whatever the number of factors."""

import numpy as np
import pytest

from bntheory.spectra.fuss_catalan import FussCatalan, MarchenkoPastur

LAWS = [FussCatalan(factors) for factors in (1, 5, 1000, 1_000_000)]
LAWS += [MarchenkoPastur(ratio) for ratio in (0.3, 0.9999, 4.0)]
LIMIT = 0.010  # seconds; of the fastest round, which other work on the machine disturbs least


@pytest.mark.parametrize("method", ["pdf", "cdf", "sf", "ppf", "log.pdf", "log.ppf"])
@pytest.mark.parametrize("law", LAWS, ids=str)
def test_a_thousand_points(benchmark, law, method):
    levels = np.linspace(0, 1, 1002)[1:-1]
    view, name = (law.nonzero.log, method[4:]) if method.startswith("log.") else (law.nonzero, method)
    ends = view.ppf(levels[[0, -1]]) if method.startswith("log.") else law.support
    points = levels if name == "ppf" else np.linspace(*ends, 1002)[1:-1]
    values = benchmark(getattr(view, name), points)
    assert values.shape == (1000,)
    if benchmark.stats:  # absent with --benchmark-disable
        assert benchmark.stats.stats.min < LIMIT


@pytest.mark.parametrize("factors", [1, 1_000_000])
def test_points_spread_over_every_decade(benchmark, factors):
    law = FussCatalan(factors)
    x = np.geomspace(1e-300, law.support[1], 1000)
    assert np.all(np.diff(benchmark(law.cdf, x)) >= 0)
    if benchmark.stats:
        assert benchmark.stats.stats.min < LIMIT
