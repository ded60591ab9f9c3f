"""Speed of sampled singular values beside what one writes in NumPy: run with ``pytest tests/benchmarks -s``.

Both run in turn, NumPy with all of BLAS's threads; what counts is the ratio of the least times.
"""

import functools
import time

import numpy as np
import pytest

from bntheory.networks import mlp
from simulations.products import log_singular_values

pytest.importorskip("pytest_benchmark")


def in_numpy(width, depth, trials, relu=False):
    """Explicit weights and masks, product, singular values."""
    rng = np.random.default_rng(0)
    logs = np.empty((trials, width))
    for values in logs:
        signal, jacobian = rng.standard_normal(width), None
        for _ in range(depth):
            weights = rng.standard_normal((width, width)) / np.sqrt(width / (2 if relu else 1))
            if relu:
                signal = weights @ signal
                weights[signal <= 0] = 0
                signal = np.maximum(signal, 0)
            jacobian = weights if jacobian is None else weights @ jacobian
        values[:] = np.linalg.svd(jacobian, compute_uv=False)
    with np.errstate(divide="ignore"):
        return np.log(logs)


def seconds(call, *arguments):
    started = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - started, result


def ratio(benchmark, name, ours, theirs, rounds=2):
    """How many times as long theirs takes, and both results."""
    ours(1)  # compiles
    taken, reference = seconds(theirs)
    logs = benchmark.pedantic(ours, rounds=1)
    own = benchmark.stats.stats.min
    for _ in range(rounds - 1):
        own, taken = min(own, seconds(ours)[0]), min(taken, seconds(theirs)[0])
    benchmark.extra_info["NumPy / chain"] = taken / own
    print(f"\n{name}: NumPy {taken:.2f} s, chain {own:.2f} s, {taken / own:.1f} times faster")
    return taken / own, logs, reference


@pytest.mark.parametrize(("depth", "floor"), [(5, 1.3), (50, 2.5)])
def test_thousand_by_thousand(benchmark, depth, floor):
    net, trials = mlp(depth, 1000, "linear", "lecun_normal"), 10
    faster, logs, reference = ratio(
        benchmark,
        f"N = 1000, M = {depth}, {trials} draws",
        lambda count=trials: log_singular_values(net, count),
        lambda: in_numpy(1000, depth, trials),
        rounds=1,
    )
    np.testing.assert_allclose(logs[:, :500].mean(), reference[:, :500].mean(), rtol=0, atol=0.05)
    smallest = (logs[:, 0] - logs[:, -1]).mean(), (reference[:, 0] - reference[:, -1]).mean()
    print("ln of largest over smallest: chain {:.1f}, NumPy {:.1f}; rounding: 36".format(*smallest))
    assert faster > floor


def test_relu(benchmark):
    net, trials = mlp(20, 1000), 4
    faster, logs, reference = ratio(
        benchmark,
        f"ReLU, depth 20, width 1000, {trials} draws",
        lambda count=trials: log_singular_values(net, count),
        lambda: in_numpy(1000, 20, trials, relu=True),
        rounds=1,
    )
    np.testing.assert_allclose(logs[:, :200].mean(), reference[:, :200].mean(), rtol=0, atol=0.1)
    assert faster > 6


@pytest.mark.parametrize(("width", "depth", "floor"), [(50, 20, 3.0), (24, 50, None), (8, 5, None)])
def test_ten_thousand_small_products(benchmark, width, depth, floor):
    net, trials = mlp(depth, width, "linear", "lecun_normal"), 10_000
    faster, logs, reference = ratio(
        benchmark,
        f"N = {width}, M = {depth}, {trials} draws",
        lambda count=trials: log_singular_values(net, count),
        lambda: in_numpy(width, depth, trials),
    )
    np.testing.assert_allclose(logs[:, :3].mean(axis=0), reference[:, :3].mean(axis=0), rtol=0, atol=0.1)
    assert floor is None or faster > floor


@pytest.mark.parametrize(("depth", "rate", "point"), [(50, 3.6, 100), (1000, 3.3, 59)])
def test_given_matrices(benchmark, exact, depth, rate, point):
    """24×24: every value by the chain, those above rounding by the SVD of the product."""
    rng = np.random.default_rng(1)
    matrices = [rng.standard_normal((24, 24)) / np.sqrt(24) for _ in range(depth)]
    logs = benchmark.pedantic(log_singular_values, (matrices,), rounds=1)
    product = functools.reduce(lambda done, matrix: matrix @ done, matrices)
    with np.errstate(divide="ignore"):
        reference = np.log(np.linalg.svd(product, compute_uv=False))
    expected = exact(matrices, rate, point)
    chain, numpy = (int((np.abs(found - expected) < 1e-6).sum()) for found in (logs, reference))
    print(f"\n24×24, M = {depth}: right to 1e-6: chain {chain}, NumPy {numpy} of 24; {expected[-1] - expected[0]:.0f}")
    assert chain == 24
    assert np.abs(logs - expected).max() < 1e-10
