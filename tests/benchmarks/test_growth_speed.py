"""Growth without weights against explicit weights, and predictions of deep networks, in seconds."""

import time

import numpy as np
import pytest

from bntheory import initialization, mlp, predict_growth
from simulations import simulate_growth

TEN = initialization("lecun_normal", gain=10)


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def test_a_hundred_times_faster_than_explicit_weights(benchmark):
    """n = 4096, B = 2, L = 20, weights drawn anew, one thread each; the laws are compared at small width elsewhere."""
    net = mlp(20, 4096)

    def simulate(method, trials):
        return simulate_growth(net, trials, batch=2, seed=0, method=method, workers=1)

    explicit = seconds(lambda: simulate("weights", 1))
    samples = benchmark.pedantic(simulate, ("conditional", 20), rounds=3)
    assert np.isfinite(samples.log_second_moment).all()
    if benchmark.stats:  # absent with --benchmark-disable
        conditional = benchmark.stats.stats.min / 20
        benchmark.extra_info["ratio"] = round(explicit / conditional)
        times = f"explicit {explicit:.2f} s, conditional {1000 * conditional:.2f} ms"
        print(f"\n{times} a network: {explicit / conditional:.0f} times faster")
        assert explicit > 100 * conditional


@pytest.mark.parametrize("width", [128, 1000])
def test_a_prediction_takes_a_moment(benchmark, width):
    growth = benchmark(lambda: predict_growth(mlp(100, width)))
    assert np.isfinite(growth.log_growth_std).all()
    if benchmark.stats:
        assert benchmark.stats.stats.min < 0.2


@pytest.mark.parametrize("options", [{}, {"bias": 0.1}, {"batch_norm": True}, {"residual": True}], ids=str)
@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_depth_ten_thousand(benchmark, name, options):
    """tanh in residual blocks never comes to rest, so that every layer costs two quadratures: the slowest."""
    net = mlp(10_000, 128, name, TEN, **options)
    growth = benchmark.pedantic(predict_growth, (net,), rounds=1)
    assert np.isfinite(growth.log_second_moment).all()
    if benchmark.stats:
        assert benchmark.stats.stats.min < 60
