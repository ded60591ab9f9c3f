"""Speed of the triangular chain beside explicit weights: run with ``pytest tests/benchmarks -s``."""

import functools
import time

import numpy as np
import pytest

from bntheory.networks import mlp
from simulations.products import log_singular_values

pytest.importorskip("pytest_benchmark")


def explicit(width, depth, trials, seed):
    """What one would write without this package; BLAS takes all its threads."""
    rng = np.random.default_rng(seed)
    for _ in range(trials):
        factors = (rng.standard_normal((width, width)) / np.sqrt(width) for _ in range(depth))
        yield np.log(np.linalg.svd(functools.reduce(lambda done, factor: factor @ done, factors), compute_uv=False))


@pytest.mark.parametrize("depth", [5, 50])
def test_thousand_by_thousand(benchmark, depth):
    net, trials = mlp(depth, 1000, activation="linear", init="lecun_normal"), 2
    logs = benchmark.pedantic(log_singular_values, (net, trials), warmup_rounds=0, rounds=1)
    started = time.perf_counter()
    reference = np.array(list(explicit(1000, depth, trials, seed=0)))
    seconds = time.perf_counter() - started
    ratio = seconds / benchmark.stats.stats.mean
    benchmark.extra_info["explicit weights / chain"] = ratio
    print(f"\nN = 1000, M = {depth}: explicit weights take {ratio:.2f} times as long as the chain")
    np.testing.assert_allclose(logs[:, :500].mean(), reference[:, :500].mean(), rtol=0, atol=0.05)
