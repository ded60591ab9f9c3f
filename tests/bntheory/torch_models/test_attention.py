"""Attention has no rule: it is named, and what follows starts from the numbers that the module has there."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bntheory as bn
from simulations.comparison import crosscheck
from simulations.training.redraws import measure_module

DRAWS = 50
TENTH_OF_A_DECADE = 0.1 * math.log(10)
WIDTH = 32


class Attention(nn.Module):
    """A layer of torch's own, beside a shortcut."""

    def __init__(self, weights):
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(WIDTH, 4, batch_first=True), nn.Linear(WIDTH, 8)
        self.weights = weights

    def forward(self, x):
        return self.last(x + self.attention(x, x, x, need_weights=self.weights)[0])


class Causal(nn.Module):
    """Scaled dot products, by the function."""

    def __init__(self):
        super().__init__()
        self.split, self.out, self.last = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 8)

    def forward(self, x):
        heads = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.split(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        return self.last(x + self.out(mixed.transpose(1, 2).flatten(2)))


def encoder(**options):
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True, **options)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), layer, nn.Linear(WIDTH, 8))


def stack():
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.0, batch_first=True)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.TransformerEncoder(layer, 2), nn.Linear(WIDTH, 8))


MULTI_HEAD, FUNCTION = "multi_head_attention_forward", "scaled_dot_product_attention"
NETWORKS = {
    "multi-head": (lambda: Attention(False), MULTI_HEAD),
    "multi-head with weights": (lambda: Attention(True), MULTI_HEAD),
    "scaled dot product": (Causal, FUNCTION),
    "post-LN": (encoder, MULTI_HEAD),
    "pre-LN": (lambda: encoder(norm_first=True), MULTI_HEAD),
    "post-LN evaluated": (lambda: encoder().eval(), MULTI_HEAD),
    "pre-LN, GELU": (lambda: encoder(norm_first=True, activation="gelu", dropout=0.0), MULTI_HEAD),
    "encoder": (stack, MULTI_HEAD),
}


def network(word):
    torch.manual_seed(0)
    make, operation = NETWORKS[word]
    return make(), torch.randn(4, 7, WIDTH), operation


@pytest.mark.parametrize("word", NETWORKS)
def test_attention_is_named_and_rows_after_it_hold(word):
    """Over 50 redraws as for the zoo: 0.1 decades, 3 standard errors, and 3 deviations of the network taken on."""
    model, batch, operation = network(word)
    predicted = bn.predict_module(model, batch)
    methods = np.array(predicted.moment_method)
    named = [predicted.operation[row] for row in np.flatnonzero(methods == "unsupported")]
    assert operation in named and methods[-1] == "measured"
    measured = measure_module(model, batch, DRAWS, gradients=False).log_second_moment
    lawful = np.isfinite(predicted.log_growth_mean)
    expected = np.where(lawful, predicted.log_growth_mean, predicted.log_second_moment)
    deviation = measured.std(axis=0, ddof=1)
    allowed = TENTH_OF_A_DECADE + 3 * deviation * (1 / math.sqrt(DRAWS) + (methods == "measured"))
    checked = (methods != "unsupported") & np.isfinite(measured).all(axis=0)
    assert np.all(np.abs(measured.mean(axis=0) - expected)[checked] <= allowed[checked])


@pytest.mark.parametrize("word", ["multi-head", "scaled dot product", "pre-LN", "post-LN"])
def test_the_crosscheck_says_what_it_has_not_compared(word):
    model, batch, _ = network(word)
    checked = crosscheck(model, batch, trials=30)
    unsupported = np.array(checked.predicted.moment_method) == "unsupported"
    assert checked.agrees and not checked.compared[unsupported].any() and checked.compared[-1]
    assert f"({checked.compared.sum()} of {len(unsupported)} rows, 30 networks, no rule at row" in checked.verdict()
