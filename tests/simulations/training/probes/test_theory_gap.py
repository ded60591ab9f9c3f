"""Theory beside a network as it is: the size of gaps, rows without a rule, and units that are zero."""

import math

import numpy as np
import pytest
from matplotlib import pyplot

import bntheory as bn
from simulations.training.modules import build, torch
from simulations.training.probes.theory_gap import theory_gap

IMAGES = torch.randn(8, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_weights_that_read_the_inputs_are_told_from_random_ones():
    """Rows of the weights along one input: outputs are 32 times as large in mean square as of random rows."""
    layer = torch.nn.Linear(32, 64, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.ones(64, 1, dtype=torch.float64) * IMAGES[:1] / math.sqrt(32))
    found = theory_gap(torch.nn.Sequential(layer), IMAGES[:1])
    assert found.last == pytest.approx(math.log(32), abs=0.02)  # but for E ln of a random draw, -1/64
    assert found.largest == (found.last, "0") and found.outside == 1.0


def test_random_networks_lie_in_their_band():
    """40 networks, one row each: more than 8 outside of 95% have a probability of 1e-4."""
    net = bn.mlp(4, 64, input_width=32, output_width=10)
    gaps = [theory_gap(build(net, 0, "float64", draw), IMAGES).deviations[-1] for draw in range(40)]
    assert np.sum(np.abs(gaps) > 1.96) <= 8
    assert abs(np.mean(gaps)) < 4 / math.sqrt(40)


def test_a_row_without_a_rule_has_no_gap():
    """Softmax has none: its row is no agreement, and the next one is predicted from what is measured there."""
    layers = (torch.nn.Linear(32, 16), torch.nn.Softmax(dim=1), torch.nn.Linear(16, 4))
    found = theory_gap(torch.nn.Sequential(*layers).double(), IMAGES)
    assert found.predicted.moment_method[2:] == ("unsupported", "measured")
    assert np.isnan(found.gap[2]) and np.isfinite(found.gap[[1, 3]]).all()


def test_a_network_that_is_dead_as_it_is():
    model = torch.nn.Sequential(torch.nn.Linear(32, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)).double()
    with torch.no_grad():
        model[0].bias.fill_(-1e3)
        model[2].bias.zero_()
    found = theory_gap(model, IMAGES)
    assert found.gap[-1] == -math.inf and found.to_dict()["last"] is None


def test_the_picture_has_the_network_where_the_prediction_is():
    """Of a ResNet the axis counts blocks, of which there are fewer than rows."""
    found = theory_gap(build(bn.resnet(8, image=(1, 4, 4)), 0, "float64"), IMAGES[:, :16].reshape(8, 1, 4, 4))
    ax = found.plot()
    *predicted, own = ax.get_lines()
    assert own.get_label() == "this network" and list(own.get_xdata()) == list(range(len(own.get_xdata())))
    assert len(own.get_xdata()) == len(predicted[0].get_xdata()) < len(found.measured)
    pyplot.close(ax.figure)
