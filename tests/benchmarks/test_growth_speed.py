"""Predictions of the growth of deep networks take a moment."""

import numpy as np
import pytest

from bntheory import initialization, mlp, predict_growth, predict_module, resnet

TEN = initialization("lecun_normal", gain=10)


@pytest.mark.parametrize("width", [128, 1000])
def test_a_prediction_takes_a_moment(benchmark, width):
    growth = benchmark(lambda: predict_growth(mlp(100, width)))
    assert np.isfinite(growth.log_growth_std).all()
    if benchmark.stats:
        assert benchmark.stats.stats.min < 0.2


@pytest.mark.parametrize("shortcut", ["projection", "zero-pad"])
@pytest.mark.parametrize(("covariances", "seconds"), [(False, 1), (True, 15)])
def test_resnet_110(benchmark, shortcut, covariances, seconds):
    """Second moments alone, and with channel means and variances, gradients and the band, of 32×32 images."""
    net = resnet(110, shortcut=shortcut)
    growth = benchmark.pedantic(_with_band, (net, covariances), rounds=3 if seconds == 1 else 1)
    assert np.isfinite(growth.log_second_moment[:-3]).all()
    if benchmark.stats:
        assert benchmark.stats.stats.min < seconds


def test_resnet_110_as_a_torch_module(benchmark):
    """Second moments of a module, its trace included."""
    torch = pytest.importorskip("torch")
    from simulations.training.modules import build

    model, batch = build(resnet(110, init="he_normal")), torch.randn(8, 3, 32, 32)
    growth = benchmark.pedantic(predict_module, (model, batch), {"covariances": False}, rounds=3)
    assert np.isfinite(growth.log_second_moment[:-3]).all()
    if benchmark.stats:
        assert benchmark.stats.stats.min < 1


def _with_band(net, covariances):
    growth = predict_growth(net, batch_size=8, covariances=covariances)
    growth.band()
    return growth


@pytest.mark.parametrize("options", [{}, {"bias": 0.1}, {"batch_norm": True}, {"residual": True}], ids=str)
@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_depth_ten_thousand(benchmark, name, options):
    """tanh in residual blocks never comes to rest, so that every layer costs two quadratures: the slowest."""
    net = mlp(10_000, 128, name, TEN, **options)
    growth = benchmark.pedantic(predict_growth, (net,), rounds=1)
    assert np.isfinite(growth.log_second_moment).all()
    if benchmark.stats:
        assert benchmark.stats.stats.min < 60
