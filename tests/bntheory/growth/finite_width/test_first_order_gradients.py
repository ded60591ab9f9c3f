"""Gradients: exact laws of linear and ReLU networks, first order for the rest, against simulated networks.

False alarms: means and standard deviations get 4.5 standard errors (1e-5 each) and what is of second order; below 1e-3
in all; the seeds are fixed.
"""

import math

import numpy as np
import pytest

from bntheory import activation, initialization, mlp, resnet
from bntheory.growth.finite_width import first_order_lattice, first_order_stretches
from bntheory.growth.finite_width.first_order_gradients import gradient_fluctuations, weight_gradient_fluctuations
from bntheory.layers import BatchNorm, Dense, Dropout, LayerNorm
from bntheory.networks import Residual, Sequential, leaves
from simulations import simulate_growth

SIGMAS = 4.5


def judge(law, drawn, rows, share=0.0):
    """Mean and standard deviation within 4.5 standard errors and `share` of the standard deviation."""
    for row in rows:
        x = drawn[:, row]
        x = x[np.isfinite(x)]
        std, squares = x.std(), (x - x.mean()) ** 2
        assert abs(x.mean() - law.mean[row]) < SIGMAS * std / math.sqrt(len(x)) + share * std + 1e-12
        spread = squares.std() / math.sqrt(len(x)) / (2 * std) if std > 0 else 0.0
        assert abs(std - law.std[row]) < SIGMAS * spread + share * std + 1e-12


def drawn(net, trials=3000, seed=0, quantity="log_gradient", method="conditional"):
    return getattr(simulate_growth(net, trials, batch=1, seed=seed, method=method), quantity)


def blocks(phi, depth=50, width=128, norm=(), scale=1.0):
    branch = Sequential((*norm, activation(phi), Dense(width)))
    return Sequential((Dense(width, "lecun_normal"), *(Residual(branch, scale=scale),) * depth), (width,))


NARROW = {
    "relu": mlp(8, 6),
    "relu, a last Dense layer, biases": mlp(6, 5, bias=0.2, input_width=3, output_width=4),
    "linear": mlp(8, 4, "linear", "lecun_normal"),
    "relu after linear": Sequential((Dense(7), activation("linear"), activation("relu"), Dense(9), Dense(5)), (6,)),
}


@pytest.mark.parametrize("net", NARROW.values(), ids=NARROW)
@pytest.mark.parametrize("method", ["conditional", "weights"])
def test_exact_at_any_width(net, method):
    """Mean and standard deviation of every row, given that it is alive."""
    law = gradient_fluctuations(net, 0.0)
    assert set(law.method) == {"exact"} and law.mean[-1] == law.std[-1] == 0
    judge(law, drawn(net, 4000 if method == "conditional" else 1000, seed=1, method=method), range(len(law.rows)))


def test_first_order_agrees_with_exact_laws_to_second_order():
    """A leaky ReLU of slope 1e-9 takes the other way: errors fall as n^-2."""
    widths = np.array([64, 128, 256, 512, 1024])
    errors = []
    for width in widths:
        exact = gradient_fluctuations(mlp(20, int(width)), 0.0)
        ours = gradient_fluctuations(mlp(20, int(width), "leaky_relu(1e-9)"), 0.0)
        assert set(ours.method) == {"first-order"}
        errors.append((ours.mean[0] - exact.mean[0], ours.std[0] ** 2 - exact.std[0] ** 2))
    for column in np.transpose(errors):
        assert -np.polyfit(np.log(widths), np.log(np.abs(column)), 1)[0] == pytest.approx(2, abs=0.15)
        assert abs(column[0]) < 0.1


@pytest.mark.parametrize("name, gain, bias", [("tanh", 1, None), ("tanh", 1.4, 0.1), ("selu", 1, None)])
def test_plain_networks_against_simulation(name, gain, bias):
    """Depth 50, also in bands: 90 ± 3% of 3000 networks (5 standard errors)."""
    net = mlp(50, 128, name, initialization("lecun_normal", gain=gain), bias)
    law, x = gradient_fluctuations(net, 0.0), drawn(net, seed=2)
    judge(law, x, (0, 1, 2, 51, -4), share=0.05)
    lower, upper = law.band(0.9)
    for row in (0, 1, 50, -4):
        assert abs(np.mean((lower[row] <= x[:, row]) & (x[:, row] <= upper[row])) - 0.9) < 0.03


def test_known_component_shifts_the_mean():
    """The weights are known along what went forward; without that, the mean would be off by 0.19."""
    net = mlp(20, 64, "tanh", initialization("lecun_normal", gain=1.3), bias=0.1)
    law, x = gradient_fluctuations(net, 0.0), drawn(net, 8000, seed=3)
    judge(law, x, (0, 10, 20), share=0.03)


def test_layer_norm_against_simulation():
    net = Sequential((Dense(128), LayerNorm(), activation("tanh")) * 20, (128,))
    judge(gradient_fluctuations(net, 0.0), drawn(net, seed=4), (0, 1, 2, 3, 30, -2), share=0.05)
    eps = Sequential((Dense(128, "lecun_normal"), LayerNorm(0.5), activation("relu")) * 5 + (Dense(30),), (128,))
    judge(gradient_fluctuations(eps, 0.0), drawn(eps, seed=5), range(16), share=0.05)


@pytest.mark.parametrize("phi, scale, norm", [("relu", 0.3, ()), ("tanh", 0.3, ()), ("relu", 1.0, 1e-5)])
def test_residual_networks_against_simulation(phi, scale, norm):
    net = blocks(phi, scale=scale, norm=(LayerNorm(norm),) if norm else ())
    law = gradient_fluctuations(net, 0.0)
    judge(law, drawn(net, seed=6), (0, 1, 2, 3, len(law.rows) // 2, -2), share=0.08)


def test_dense_shortcuts_against_simulation():
    wide = Residual((activation("tanh"), Dense(100)), (Dense(100, "lecun_normal"),), scale=0.8)
    net = Sequential((Dense(100), wide, wide, activation("elu"), Dense(100), activation("linear"), wide), (100,))
    judge(gradient_fluctuations(net, 0.0), drawn(net, seed=7), range(16), share=0.06)


def test_gradients_of_weights():
    for net in (mlp(50, 128, "tanh", "lecun_normal"), blocks("relu", depth=20, scale=0.3)):
        law, x = weight_gradient_fluctuations(net, 0.0), drawn(net, seed=8, quantity="log_weight_gradient")
        dense = [index for index, row in enumerate(law.rows) if isinstance(row.layer, Dense)]
        assert [index for index, method in enumerate(law.method) if method == "first-order"] == dense
        judge(law, x, (dense[0], dense[1], dense[len(dense) // 2], dense[-2]), share=0.08)


def test_rows_without_a_rule():
    nets = (
        mlp(3, 8, batch_norm=True),
        resnet(8),
        Sequential((Dense(4), BatchNorm(), Dense(3)), (4,)),
        Sequential((Dense(4), activation("tanh"), Dropout(0.1), Dense(3)), (4,)),
        Sequential((Dense(4), Residual((activation("tanh"), Dense(4), activation("tanh"), Dense(4)))), (4,)),
        Sequential((Dense(4, "orthogonal"), Dense(3)), (4,)),
    )
    for net in nets:
        law = gradient_fluctuations(net, 0.0)
        assert set(law.method[:-1]) == {"unsupported"} and np.isnan(law.mean[:-1]).all() and law.mean[-1] == 0
        assert np.isnan(weight_gradient_fluctuations(net, 0.0).mean).all()


def test_a_component_that_takes_over_has_no_rule():
    """Going back through softplus the component along h outgrows the rest: NaN from there on, and right before."""
    net = mlp(20, 64, "softplus", "he_normal")
    law = gradient_fluctuations(net, 0.0)
    last = max(index for index, method in enumerate(law.method) if method == "unsupported")
    assert 0 < last < 30 and set(law.method[: last + 1]) == {"unsupported"}
    judge(law, drawn(net, seed=9), (-2, -3, -6), share=0.05)


def test_broad_laws_against_simulation():
    """Gelu runs away from its unstable size: sizes spread over e^±4, and gradients with them. Blocks have no rule."""
    net = mlp(40, 128, "gelu")
    law, x = gradient_fluctuations(net, 0.0), drawn(net, seed=10)
    judge(law, x, (-4, -8, 50, 41, 20), share=0.1)
    lower, upper = law.band(0.9)
    for row in (-4, 50, 21):
        assert abs(np.mean((lower[row] <= x[:, row]) & (x[:, row] <= upper[row])) - 0.9) < 0.03
    assert np.isnan(weight_gradient_fluctuations(net, 0.0).mean).all()
    both = Sequential((*net.layers, Residual((activation("gelu"), Dense(128)))), (128,))
    assert set(gradient_fluctuations(both, 0.0).method[:-1]) == {"unsupported"}


def test_lattices_agree_with_derivatives():
    """Two ways to one law, where it is narrow."""
    net = mlp(30, 400, "tanh", "lecun_normal")
    rows = tuple(leaves(net))
    parts = first_order_stretches.stretches(net, rows, 0.0)
    law, lattice = gradient_fluctuations(net, 0.0), first_order_lattice.laws(parts, [0.0] * len(parts), (400,), 0.0)
    for row in (0, 1, 2, 30, 57, 58):
        assert lattice[row].std == pytest.approx(law.std[row], rel=0.01)
        assert lattice[row].mean == pytest.approx(law.mean[row], abs=0.15 * law.std[row])


def test_ten_thousand_layers():
    for net in (mlp(10_000, 64, "tanh", "lecun_normal"), blocks("tanh", 2_000)):
        law = gradient_fluctuations(net, 0.0)
        assert np.isfinite(law.mean).all() and np.isfinite(law.std).all()


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="log_start must be finite"):
        gradient_fluctuations(mlp(1, 2), math.inf)
