"""Predictions of the growth of deep networks take a moment."""

import resource
import subprocess
import sys

import numpy as np
import pytest

from bntheory import initialization, mlp, predict_growth, predict_module, resnet

TEN = initialization("lecun_normal", gain=10)


@pytest.mark.parametrize("width", [128, 1000])
def test_a_prediction_takes_a_moment(seconds, floor, width):
    net = mlp(100, width)
    assert np.isfinite(predict_growth(net).log_growth_std).all()
    floor(f"predict_growth of 100 layers of {width} units", *seconds(lambda: predict_growth(net)), most=0.2)


@pytest.mark.parametrize("shortcut", ["projection", "zero-pad"])
def test_resnet_110(seconds, floor, shortcut):
    """Second moments alone, and with channel means and variances, gradients and the band, of 32×32 images."""
    net = resnet(110, shortcut=shortcut)

    def with_band(covariances):
        growth = predict_growth(net, batch_size=8, covariances=covariances)
        growth.band()
        assert np.isfinite(growth.log_second_moment[:-3]).all()

    (taken,) = seconds(lambda: with_band(False))
    floor(f"predict_growth of ResNet-110, {shortcut}: second moments", taken, most=1)
    (taken,) = seconds(lambda: with_band(True), rounds=1)
    floor(f"predict_growth of ResNet-110, {shortcut}: channels, gradients and band too", taken, most=15)


def test_resnet_110_as_a_torch_module(seconds, floor):
    """Second moments of a module, its trace included."""
    torch = pytest.importorskip("torch")
    from simulations.training.modules import build

    model, batch = build(resnet(110, init="he_normal")), torch.randn(8, 3, 32, 32)

    def predict():
        assert np.isfinite(predict_module(model, batch, covariances=False).log_second_moment[:-3]).all()

    predict()
    floor("predict_module of ResNet-110: second moments", *seconds(predict), most=1)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_depth_ten_thousand(seconds, floor, name):
    """tanh in residual blocks never comes to rest, so that every layer costs two quadratures: the slowest."""

    def predict(options):
        net = mlp(10_000, 128, name, TEN, **options)
        assert np.isfinite(predict_growth(net).log_second_moment).all()

    variants = ({}, {"bias": 0.1}, {"batch_norm": True}, {"residual": True})
    taken = seconds(*(lambda options=options: predict(options) for options in variants), rounds=1)
    words = f"predict_growth of 10,000 {name} layers, gain 10: the slowest of plain, biased, BN and residual"
    floor(words, max(taken), most=60)


def test_help(floor):
    """Processor seconds: the least of five, as a process starts."""
    code = "import sys; sys.argv = ['bntheory', '--help']; from bntheory.cli import main; main()"
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    floor("bntheory --help, processor time", np.median(times), most=0.25)
