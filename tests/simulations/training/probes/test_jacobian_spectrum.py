"""Jacobians of built networks against the laws of their descriptions."""

import json
import math

import numpy as np
import pytest

import simulations as sim
from bntheory import jacobian_law
from bntheory.architectures import mlp, resnet

torch = pytest.importorskip("torch")
nn, jacobian_spectrum = torch.nn, sim.jacobian_spectrum


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("net", "allowed"),
    [
        (mlp(3, 150, "linear", "lecun_normal"), 0.03),
        (mlp(2, 150, "linear", "lecun_normal", output_width=300), 0.03),
        (mlp(3, 150), 0.15),  # the last mask keeps 75 ± 6 of 150
        (mlp(2, 150, "leaky_relu"), 0.05),
    ],
    ids=["linear", "widening", "relu", "leaky"],
)
def test_near_the_law_of_the_description(net, allowed, dtype):
    model, x = sim.build(net, seed=3, dtype=dtype), np.random.default_rng(4).standard_normal(150)
    found = jacobian_spectrum(model, x)
    logs = found.log_singular_values
    matrix = sim.jacobian(model, x)
    assert logs.shape == (len(matrix),) and found.unavailable == ""
    large = logs > found.resolution + 5
    values = np.linalg.svd(matrix, compute_uv=False)[: large.sum()]
    np.testing.assert_allclose(logs[large], np.log(values), atol=1e-2 if dtype == "float32" else 1e-8)
    assert found.distance < allowed
    assert found.law.mean == pytest.approx(jacobian_law(net).mean, rel=0.1)
    other = jacobian_law(mlp(8, 150))
    assert np.abs(other.log.ppf(0.9) - found.law.log.ppf(0.9)) > 0.1


def test_trained_weights_leave_the_law():
    model = sim.build(mlp(2, 100, "linear", "lecun_normal"), seed=1, dtype="float64")
    x = np.ones(100)
    before = jacobian_spectrum(model, x).distance
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(100))
    assert jacobian_spectrum(model, x).distance > 3 * before


def test_where_there_is_no_law():
    found = jacobian_spectrum(
        sim.build(resnet(8, image=(1, 6, 6))), np.random.default_rng(0).standard_normal((1, 6, 6))
    )
    assert found.law is None and math.isnan(found.distance)
    assert found.unavailable.startswith("not available because the input has shape (1, 6, 6)")
    assert str(found).startswith("10 singular values, the largest e^")
    assert json.dumps(found.to_dict(), allow_nan=False) and found.table() and found.plot()


def test_dead():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU())
    nn.init.constant_(model[0].weight, -1.0)
    found = jacobian_spectrum(model, np.ones(4))
    assert np.isneginf(found.log_singular_values).all() and math.isnan(found.distance)
    assert json.dumps(found.to_dict(), allow_nan=False) and found.table()
