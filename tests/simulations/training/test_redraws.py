"""Torch modules measured over redraws of their weights."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from simulations.samples import moments
from simulations.training.redraws import measure_module


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))


@pytest.fixture
def batch():
    return torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def test_the_network_as_it_is_is_measured_once(batch):
    """Against forward hooks and torch's own gradients."""
    model, values, gradients = small(), {}, {}

    def keep(name):
        def hook(module, args, out):
            values[name] = out
            out.retain_grad()

        return hook

    samples = measure_module(model, batch, draws=7, redraw="none")
    assert samples.trials == 1
    for name, part in model.named_children():
        part.register_forward_hook(keep(name))
    output = model(batch)
    white = torch.randn(output.shape, generator=torch.Generator().manual_seed(5))
    (output * white).sum().backward()
    for row, name in enumerate(samples.name[1:], 1):
        found = [samples.log_second_moment, samples.log_channel_mean_square, samples.log_channel_variance]
        np.testing.assert_allclose([column[0, row] for column in found], moments(values[name].detach().numpy()))
        gradients[name] = float(values[name].grad.square().sum())
    assert samples.log_gradient[0, -1] == 0.0
    # another white gradient: within its fluctuation
    log = math.log(gradients["0"]) - math.log(gradients["3"])
    assert abs(samples.log_gradient[0, 1] - log) < 0.5
    assert math.isfinite(samples.log_weight_gradient[0, 1]) and math.isnan(samples.log_weight_gradient[0, 2])


def test_redraws_have_the_variances_of_the_weights(batch):
    """Against normal numbers drawn by hand: all mean logarithms within 5 standard errors."""
    model = small()
    with torch.no_grad():
        model[3].weight.mul_(3)
        model[3].bias.fill_(2.0)
        sizes = [[part.pow(2).mean().sqrt().item() for part in model[index].parameters()] for index in (0, 3)]

    def redraw(copied):
        for index, stds in zip((0, 3), sizes, strict=True):
            for part, std in zip(copied[index].parameters(), stds, strict=True):
                nn.init.normal_(part, std=std)

    first = measure_module(model, batch, draws=40).log_second_moment
    second = measure_module(model, batch, draws=40, redraw=redraw, seed=9).log_second_moment
    error = np.sqrt((first.var(axis=0, ddof=1) + second.var(axis=0, ddof=1)) / 40)
    assert np.all(np.abs(first.mean(axis=0) - second.mean(axis=0))[1:] < 5 * error[1:])
    assert np.all(error[1:] < 0.2)


def test_draws_do_not_depend_on_how_many_there_are(batch):
    few, many = (measure_module(small(), batch, draws=draws, seed=4) for draws in (2, 4))
    for name in few.quantities:
        np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[:2])


@pytest.mark.parametrize("redraw", ["theory", "reset", "none", lambda model: model[0].reset_parameters()])
def test_the_module_is_left_as_it_is(batch, redraw):
    model = small()
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    measure_module(model, batch, draws=2, redraw=redraw)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(part.grad is None for part in model.parameters())


def test_reset_draws_torchs_own_law(batch):
    """Weights that were tripled return to ±1/√fan_in."""
    model = small()
    with torch.no_grad():
        model[0].weight.mul_(30)
    reset, own = (measure_module(model, batch, 10, redraw=word, gradients=False) for word in ("reset", "theory"))
    assert own.log_second_moment[:, 1].mean() - reset.log_second_moment[:, 1].mean() > 4
    assert reset.log_gradient is None


def test_inplace_changes_do_not_hide_gradients(batch):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1))
    samples = measure_module(model, batch, draws=2)
    assert np.isfinite(samples.log_gradient).all()
    assert np.all(samples.log_second_moment[:, 1] > samples.log_second_moment[:, 2])


class Undecided(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        h = self.linear(x)
        return torch.tanh(h) if h.sum() > 0 else torch.relu(h)


class Computed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return x @ (self.weight * 0.5)


def test_what_cannot_be_drawn_is_refused(batch):
    with pytest.raises(ValueError, match="another path"):
        measure_module(Undecided(), torch.randn(2, 4), draws=40)
    with pytest.raises(ValueError, match="row matmul are computed from others"):
        measure_module(Computed(), torch.randn(2, 4))
    with pytest.raises(ValueError, match="needs parts with reset_parameters"):
        measure_module(nn.Tanh(), torch.randn(2, 4), redraw="reset")
    with pytest.raises(ValueError, match="redraw must be one of theory, reset, none"):
        measure_module(small(), batch, redraw="again")
    with pytest.raises(ValueError, match="draws must be"):
        measure_module(small(), batch, draws=0)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_module_that_cannot_be_copied_is_refused_in_one_line():
    """As torch's former weight_norm, which leaves computed weights on the module."""
    model = torch.nn.utils.weight_norm(torch.nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"^model cannot be copied to draw its weights: .*deepcopy") as caught:
        measure_module(model, torch.randn(5, 4), draws=2)
    assert "\n" not in str(caught.value)
