"""Whole numbers that an Embedding looks up: the rows of its table are what the network is given."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import bntheory as bn
from simulations.comparison import crosscheck
from simulations.training.redraws import measure_module

TOKENS = torch.tensor([[1, 2, 2, 3], [3, 3, 0, 1], [5, 4, 3, 2]])


class Classifier(nn.Module):
    """Words and their places, a layer on each, and the mean over them."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(6, 48), nn.Embedding(4, 48)
        self.layer, self.last = nn.Linear(48, 64), nn.Linear(64, 3)

    def forward(self, x):
        h = self.words(x) * math.sqrt(48) + self.places(torch.arange(x.shape[1]))
        return self.last(torch.relu(self.layer(h)).mean(1))


def made():
    torch.manual_seed(0)
    return Classifier()


def test_row_0_is_what_the_table_has():
    model = made()
    kept = copy.deepcopy(model.state_dict())
    predicted = bn.predict_module(model, TOKENS)
    found = model.words(TOKENS).detach().double()
    assert predicted.name[:2] == ("input", "mul") and predicted.shape[0] == (48, 4, 1)
    assert predicted.log_second_moment[0] == pytest.approx(math.log(found.square().mean()), abs=1e-12)
    assert "unsupported" not in predicted.moment_method
    assert all(torch.equal(kept[name], part) for name, part in model.state_dict().items())


def test_it_is_predicted_as_the_module_behind_the_table_is():
    """Equal tokens are equal, others as far apart as their rows are."""
    model = made()
    behind = nn.Sequential(model.layer, nn.ReLU())
    whole = bn.predict_module(nn.Sequential(model.words, model.layer, nn.ReLU()), TOKENS)
    other = bn.predict_module(behind, model.words(TOKENS).detach())
    for name in ("log_second_moment", "log_channel_variance", "log_gradient", "log_growth_std"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(other, name))


def test_redraws_agree():
    checked = crosscheck(made(), TOKENS, trials=50)
    assert checked.agrees and checked.compared.all(), checked.verdict()
    assert np.isfinite(measure_module(made(), TOKENS, draws=3).log_gradient).all()


def test_numbers_that_are_not_looked_up_are_refused():
    table = nn.Embedding(6, 4)
    with pytest.raises(ValueError, match="got int64 numbers, which only an Embedding reads"):
        bn.predict_module(nn.Linear(4, 4), TOKENS)
    with pytest.raises(ValueError, match=r"of int64 numbers must be \(batch, tokens\), looked up in an Embedding"):
        bn.predict_module(table, TOKENS[:, :, None])
    second = bn.predict_module(Twice(), TOKENS)
    assert second.moment_method[1] == "unsupported" and second.name[1] == "second"


class Twice(nn.Module):
    """Two tables for the same numbers, of which the first is the input."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Embedding(6, 8), nn.Embedding(6, 8), nn.Linear(16, 4)

    def forward(self, x):
        return self.last(torch.cat([self.first(x), self.second(x)], dim=-1))


def test_a_table_that_is_used_again_at_the_end_has_no_rule_there():
    model = nn.Sequential(nn.Embedding(6, 32), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 6, bias=False))
    model[3].weight = model[0].weight
    predicted = bn.predict_module(model, TOKENS)
    assert predicted.moment_method == ("exact", "exact", "mean-field", "unsupported")
    assert measure_module(model, TOKENS, draws=2).log_second_moment[:, 0].std() == 0
