"""Crosscheck: agreement where theory holds, disagreement where the network is another one."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import bntheory as bn
from simulations.comparison import compare, crosscheck
from simulations.growth import simulate_growth, uncorrelated_inputs
from simulations.samples import QUANTITIES


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(5).standard_normal((1, 20))


def test_exact_law_agrees_with_torch(image):
    pytest.importorskip("torch")
    result = crosscheck(bn.mlp(12, 16, input_width=20), image, trials=150, seed=3)
    assert result.agrees and result.compared.all() and not result.disagreeing.any()
    assert np.abs(result.z).max() < 4.5  # Student, 25 rows: false alarm below 1e-3
    assert 0.8 < result.coverage < 0.98
    assert "agree: largest |z|" in result.verdict() and "band holds" in result.verdict()


@pytest.mark.parametrize("net", [bn.mlp(6, 64, "tanh", "lecun_normal"), bn.mlp(6, 64, "gelu", residual=True)], ids=str)
def test_mean_field_agrees_within_a_tenth_of_a_decade(net):
    pytest.importorskip("torch")
    batch = np.random.default_rng(6).standard_normal((3, 64))
    result = crosscheck(net, batch, trials=60)
    assert result.agrees and math.isnan(result.coverage)


def test_batch_lies_between_typical_and_mean_size():
    """Jensen both ways: mean of ln ≤ ln of the batch's mean square, averaged ≤ ln of the expectation."""
    net = bn.mlp(30, 12)
    samples = simulate_growth(net, trials=2000, batch=6, seed=1, method="conditional", gradients=False)
    result = compare(bn.predict_growth(net), samples, single=False)
    assert result.agrees
    inside = (result.lower[1:] - 4 * result.standard_error[1:] < result.estimate[1:]) & (
        result.estimate[1:] < result.upper[1:] + 4 * result.standard_error[1:]
    )
    assert inside.all()
    assert result.upper[-1] - result.lower[-1] > 20 * result.standard_error[-1]  # an interval worth the name


@pytest.mark.parametrize(
    ("described", "measured"),
    [
        (bn.mlp(10, 16), bn.mlp(10, 16, init=bn.initialization("he_normal", gain=1.3))),
        (bn.mlp(10, 16), bn.mlp(10, 16, bias=0.2)),
        (bn.mlp(10, 32, "tanh", "lecun_normal"), bn.mlp(10, 32, "erf", bn.initialization("lecun_normal", gain=2))),
    ],
    ids=["gain", "bias", "activation"],
)
def test_another_network_is_found_out(described, measured):
    samples = simulate_growth(measured, trials=300, seed=2)
    result = compare(bn.predict_growth(described), samples, single=True)
    assert not result.agrees and result.disagreeing.any()
    assert "DISAGREE from row" in result.verdict() and "DISAGREES" in result.table(100)


def test_wrong_spread_is_found_out():
    """The right mean with half the standard deviation: only the band can tell."""
    net = bn.mlp(10, 16)
    samples = simulate_growth(net, trials=400, seed=2)
    growth = bn.predict_growth(net)
    squeezed = growth.log_growth_mean + (samples.log_second_moment - growth.log_growth_mean) / 2
    fake = type(samples)(samples.rows, squeezed, *(2 * [samples.log_channel_variance]), method=samples.method)
    result = compare(growth, fake, single=True)
    assert not result.disagreeing.any() and not result.agrees
    assert "the 90% band holds" in result.verdict() and "DISAGREE" in result.verdict()


def test_dying_networks_are_judged_by_the_living_and_by_how_many_die():
    net = bn.mlp(5, 1)  # half of the draws die in every layer
    samples = simulate_growth(net, trials=600, seed=4)
    result = compare(bn.predict_growth(net), samples, single=True)
    assert result.agrees and result.compared.all()
    immortal = np.where(samples.alive, samples.log_second_moment, 0.0)
    fake = type(samples)(samples.rows, immortal, immortal, immortal, method=samples.method)
    result = compare(bn.predict_growth(net), fake, single=True)
    assert not result.agrees and "0 dead draws, predicted probability 0.5" in result.verdict()
    deep = bn.mlp(60, 3)  # hardly a draw lives: nothing to judge there, and no alarm
    with pytest.warns(RuntimeWarning, match="dead in every one of 40 trials"):
        dead = simulate_growth(deep, trials=40, seed=0)
    result = compare(bn.predict_growth(deep), dead, single=True)
    assert result.agrees and not result.compared[-1]


def test_overflow_is_a_disagreement():
    net = bn.mlp(5, 8)
    samples = simulate_growth(net, trials=60, seed=4)
    gone = samples.log_second_moment.copy()
    gone[0, 3] = np.inf
    fake = type(samples)(samples.rows, gone, gone, gone, method=samples.method)
    assert compare(bn.predict_growth(net), fake, single=True).disagreeing[3]


ALIKE = (
    (bn.mlp(10, 2), 20),
    (bn.mlp(10, 3), 40),
    (bn.mlp(5, 8), 5),
    (bn.mlp(8, 1, "linear"), 20),
    (bn.mlp(5, 16), 100),
)


def test_false_alarms_are_rare():
    """250 crosschecks of networks that follow the theory; at the stated rate of 0.001, 3 alarms have odds of 0.2%."""
    alarms = []
    for net, trials in ALIKE:
        growth = bn.predict_growth(net)
        samples = simulate_growth(net, trials=50 * trials, seed=9, method="conditional", gradients=False)
        parts = zip(*(getattr(samples, name).reshape(50, trials, -1) for name in QUANTITIES), strict=True)
        drawn = (type(samples)(samples.rows, *arrays, method=samples.method) for arrays in parts)
        alarms.append(sum(not compare(growth, one, single=True).agrees for one in drawn))
    assert sum(alarms) <= 2, alarms


@pytest.mark.parametrize(
    "net",
    [
        bn.mlp(40, 64, "leaky_relu"),
        bn.mlp(40, 32, residual=True, input_width=16),
        bn.mlp(40, 64, "tanh", "lecun_normal"),
        bn.mlp(30, 32, init=bn.initialization("orthogonal", gain=2**0.5)),
    ],
    ids=lambda net: str(net)[:60],
)
def test_no_alarm_where_only_the_expectation_is_predicted(net):
    samples = simulate_growth(net, trials=100, seed=5)
    assert compare(bn.predict_growth(net), samples, single=True).agrees


def test_float32_is_granted_its_rounding():
    net = bn.mlp(20, 64)
    one = uncorrelated_inputs((64,), 1, 0)
    samples = simulate_growth(net, 60, batch=1, dtype="float32", method="weights")
    assert samples.rounding[0, 0] > 1e-9
    assert compare(bn.predict_growth(net, one), samples, single=True).agrees


NESTED = bn.Residual((bn.Residual((bn.Dense(8),)),))  # parts that share weights, but not units


def test_a_network_without_a_rule():
    net = bn.Sequential((bn.Dense(8), NESTED, bn.Dense(8)), (8,))
    result = compare(bn.predict_growth(net), simulate_growth(net, 50, gradients=False), single=True)
    assert result.agrees and "no rule from row 1.sum on" in result.verdict()
    assert not result.compared[4:].any() and result.compared[1]


def test_json_and_table(image):
    samples = simulate_growth(bn.mlp(30, 20), trials=20, inputs=image, seed=0)
    result = compare(bn.predict_growth(bn.mlp(30, 20), inputs=image), samples, single=True)
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["agrees"] is result.agrees and len(data["estimate"]) == 61
    assert len(result.table().splitlines()) == 26 and len(result.table(100).splitlines()) == 62
    ax = result.plot()
    assert ax.get_xlabel()
    ax.figure.clear()


def test_bad_arguments(image):
    with pytest.raises(ValueError, match="trials must be at least 2, got 1"):
        crosscheck(bn.mlp(2, 20), image, trials=1)
    with pytest.raises(ValueError, match=r"inputs must have shape \(batch, 20\), got \(1, 3\)"):
        crosscheck(bn.mlp(2, 20), image[:, :3])
    samples = simulate_growth(bn.mlp(3, 4), trials=2)
    with pytest.raises(ValueError, match="prediction has rows"):
        compare(bn.predict_growth(bn.mlp(2, 4)), samples, single=True)


def test_heavy_tails_without_a_law_are_left_unjudged():
    """The mean of a few hundred wild draws is far below its expectation: no verdict on such rows, and no alarm."""
    for net in (
        bn.mlp(50, 64, "gelu"),
        bn.mlp(4, 3, residual=True),
        bn.mlp(30, 32, "silu", "xavier_normal", residual=True, input_width=16),
    ):
        one = uncorrelated_inputs(net.input_shape, 1, 0)
        result = compare(bn.predict_growth(net, one), simulate_growth(net, 200, inputs=one), single=True)
        assert result.agrees, result.verdict()
    net = bn.mlp(50, 12, "gelu", bn.initialization("orthogonal", gain=2**0.5))
    wild = compare(bn.predict_growth(net), simulate_growth(net, 50), single=True)
    assert wild.compared[1] and not wild.compared[-1]


def small_module():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Softmax(1), nn.Linear(256, 32)
    )


def test_a_torch_module_is_cross_checked_as_it_stands():
    """Rows after the softmax start from what one network has there, and are allowed its deviation."""
    batch = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    result = crosscheck(small_module(), batch, trials=30)
    assert result.agrees
    assert result.predicted.moment_method[-2:] == ("unsupported", "measured")
    assert not result.compared[-2] and result.compared[-1]
    assert result.allowed[-1] > result.allowed[-3]
    assert np.all(result.row_coverage[1:3] > 0.7) and np.isnan(result.row_coverage[-1])
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_law_that_the_weights_do_not_have_is_found_out():
    """He's law predicted, torch's own drawn."""
    batch = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    result = crosscheck(small_module(), batch, trials=20, redraw="reset", init="he_normal")
    assert not result.agrees
    assert "DISAGREE from row 0" in result.verdict()
    assert crosscheck(small_module(), batch, trials=20, init="he_normal").agrees


def test_activations_out_of_range_are_refused():
    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(12)))
    with torch.no_grad():
        for part in model:
            part.weight.mul_(1e4)
    with pytest.raises(ValueError, match=r"activations leave float32 in PyTorch at row \d+"):
        crosscheck(model, torch.randn(2, 8), trials=3)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda width: nn.GroupNorm(4, width)], ids=["BatchNorm", "GroupNorm"])
@pytest.mark.parametrize("side", [2, 6])
def test_a_normalized_row_of_a_single_image_is_not_taken_for_exact(norm, side):
    """It varies by ε over the variance that it divides by, 1e-5 to 5e-3 of its size."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 32, 3, padding=1), norm(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), norm(32), nn.ReLU())
    checked = crosscheck(nn.Sequential(*layers), torch.randn(1, 3, side, side), trials=40)
    assert checked.agrees, checked.verdict()
    assert math.isnan(checked.coverage) and checked.compared.all()


def test_rows_before_the_weights_are_granted_the_rounding_of_single_precision():
    """Exact rows of float32, of which a mean of squares errs by 1e-7; a Join of given numbers has no band to be in."""

    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(6, 16, 3)

        def forward(self, x):
            return self.conv(torch.cat([x / 3, torch.tanh(x)], dim=1))

    torch.manual_seed(0)
    checked = crosscheck(Shuffled(), torch.randn(1, 3, 6, 6), trials=20)
    assert checked.agrees, checked.verdict()
    assert math.isnan(checked.coverage)


def test_rows_after_a_first_row_without_a_rule_are_compared():
    torch.manual_seed(0)
    checked = crosscheck(nn.Sequential(nn.Softmax(1), nn.Linear(16, 64), nn.ReLU()), torch.randn(4, 16), trials=40)
    assert checked.agrees and "agree: largest deviation" in checked.verdict()
    assert "no rule at row 0" in checked.verdict()
