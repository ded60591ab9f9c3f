"""Blocks of well-known networks, as libraries write them, narrow and shallow: predictions and bands."""

import math
import pathlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bntheory as bn

DRAWN = pathlib.Path(__file__).with_name("idiom_draws.npz")  # by tests/benchmarks/module_bands_study.py
LEVELS = np.linspace(0, 1, 101)
TENTH_OF_A_DECADE = 0.1 * math.log(10)


def conv(inside, outside, kernel=3, stride=1, groups=1, activation=nn.ReLU):
    layers = [nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)]
    layers += [nn.BatchNorm2d(outside)] + ([] if activation is None else [activation(inplace=True)])
    return nn.Sequential(*layers)


def classifier(*layers, width):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(1), nn.Dropout(0.2), nn.Linear(width, 10))


class Bottleneck(nn.Module):
    """Of ResNet v1.5, with the stride in its middle."""

    def __init__(self, inside, width, stride=1):
        super().__init__()
        outside = 4 * width
        self.parts = nn.Sequential(
            conv(inside, width, 1), conv(width, width, 3, stride), conv(width, outside, 1, activation=None)
        )
        same = stride == 1 and inside == outside
        self.downsample = None if same else conv(inside, outside, 1, stride, activation=None)

    def forward(self, x):
        out = self.parts(x)
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)


class Squeeze(nn.Module):
    def __init__(self, width, reduced):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, reduced, 1), nn.Conv2d(reduced, width, 1)

    def forward(self, x):
        return torch.sigmoid(self.expand(F.silu(self.reduce(F.adaptive_avg_pool2d(x, 1))))) * x


class Inverted(nn.Module):
    """Of MobileNetV2, and of EfficientNet with its gate."""

    def __init__(self, inside, outside, stride, activation=nn.ReLU6, gate=False):
        super().__init__()
        hidden = 4 * inside
        self.parts = nn.Sequential(
            conv(inside, hidden, 1, activation=activation),
            conv(hidden, hidden, 3, stride, hidden, activation),
            Squeeze(hidden, inside // 2) if gate else nn.Identity(),
            conv(hidden, outside, 1, activation=None),
        )
        self.residual = stride == 1 and inside == outside

    def forward(self, x):
        return x + self.parts(x) if self.residual else self.parts(x)


class Fire(nn.Module):
    """Of SqueezeNet."""

    def __init__(self, inside, squeezed, expanded):
        super().__init__()
        self.squeeze = nn.Conv2d(inside, squeezed, 1)
        self.one, self.three = nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x):
        x = self.squeeze(x).relu_()
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


class Ghost(nn.Module):
    def __init__(self, inside, outside):
        super().__init__()
        self.first, self.cheap = conv(inside, outside // 2, 1), conv(outside // 2, outside // 2, 3, 1, outside // 2)

    def forward(self, x):
        x = self.first(x)
        return torch.cat([x, self.cheap(x)], dim=1)


class Gated(nn.Module):
    """Dilated convolutions of a sequence, as in WaveNet."""

    def __init__(self, width, dilation):
        super().__init__()
        self.filter, self.gate = (nn.Conv1d(width, width, 3, 1, dilation, dilation) for _ in range(2))
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x):
        return x + self.out(torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x)))


class Pyramid(nn.Module):
    """Features of two sizes, the smaller enlarged and added."""

    def __init__(self, width=32):
        super().__init__()
        self.fine, self.coarse = conv(3, width), conv(width, 2 * width, 3, 2)
        self.beside, self.above = nn.Conv2d(width, width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x):
        fine = self.fine(x)
        above = F.interpolate(self.above(self.coarse(fine)), size=fine.shape[-2:], mode="nearest")
        return F.relu(self.beside(fine) + above)


class Points(nn.Module):
    """The largest features of a cloud of points."""

    def __init__(self):
        super().__init__()
        self.each, self.all = nn.Sequential(nn.Linear(3, 48), nn.ReLU(), nn.Linear(48, 64)), nn.Linear(64, 5)

    def forward(self, x):
        return self.all(F.relu(self.each(x)).max(dim=1)[0])


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.randn(64, 64) / 8) for _ in range(2))

    def forward(self, x):
        return torch.einsum("bi,io->bo", F.elu(torch.einsum("bi,oi->bo", x, self.first)), self.second)


def instance_norm():
    layers = [nn.Conv2d(3, 32, 3), nn.InstanceNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.InstanceNorm2d(32)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(32, 4, 3))


def wavenet():
    layers = [nn.Conv1d(4, 32, 1), Gated(32, 1), Gated(32, 2), nn.AdaptiveAvgPool1d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(32, 3))


def bottlenecks():
    blocks = Bottleneck(16, 16), Bottleneck(64, 16), Bottleneck(64, 24, 2)
    return classifier(conv(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1), *blocks, width=96)


def mobile():
    blocks = Inverted(16, 24, 2), Inverted(24, 24, 1), Inverted(24, 32, 2)
    return classifier(conv(3, 16, 3, 2, activation=nn.ReLU6), *blocks, conv(32, 64, 1, activation=nn.ReLU6), width=64)


def efficient():
    blocks = (Inverted(inside, 24, 1, nn.SiLU, gate=True) for inside in (16, 24))
    return classifier(conv(3, 16, 3, 2, activation=nn.SiLU), *blocks, conv(24, 64, 1, activation=nn.SiLU), width=64)


IMAGE = (3, 16, 16)
NETWORKS = {
    "bottlenecks": (bottlenecks, (3, 32, 32)),
    "inverted residuals": (mobile, (3, 32, 32)),
    "gated inverted residuals": (efficient, IMAGE),
    "fire": (
        lambda: classifier(nn.Conv2d(3, 32, 3, 2), nn.ReLU(), Fire(32, 16, 32), Fire(64, 16, 32), width=64),
        IMAGE,
    ),
    "ghost": (lambda: classifier(conv(3, 16), Ghost(16, 32), Ghost(32, 48), width=48), IMAGE),
    "instance norm": (instance_norm, IMAGE),
    "pyramid": (Pyramid, IMAGE),
    "WaveNet": (wavenet, (4, 20)),
    "points": (Points, (20, 3)),
    "einsum": (Einsum, (64,)),
}


WORDS = tuple(f"{word}, {sign}" for word in NETWORKS for sign in ("signed", "positive"))


def network(words):
    """A network and a batch, from a fixed seed."""
    word, sign = words.split(", ")
    make, shape = NETWORKS[word]
    torch.manual_seed(0)
    return make(), torch.rand(8, *shape) if sign == "positive" else torch.randn(8, *shape)


def draws(words):
    """How many are recorded."""
    return 200


@pytest.mark.parametrize("words", WORDS)
def test_predictions_hold_over_redraws(words):
    """As for the zoo: 0.1 decades and 3 standard errors, at every row; and bands, of 200 draws, hold 90% ± 8%.

    On the mean over at least 4 rows, whose draws are not independent; bands of vectors are of one input.
    """
    model, batch = network(words)
    predicted = bn.predict_module(model, batch)
    assert "unsupported" not in predicted.moment_method
    with np.load(DRAWN) as file:
        quantiles = file[words].astype(float)
    lawful = np.isfinite(predicted.log_growth_mean)
    expected = np.where(lawful, predicted.log_growth_mean, predicted.log_second_moment)
    seen = np.isfinite(quantiles).all(axis=0)
    middles = (quantiles[1:] + quantiles[:-1]) / 2
    allowed = TENTH_OF_A_DECADE + 3 * middles.std(axis=0) / math.sqrt(draws(words))
    assert seen.sum() > 3 and np.all(np.abs(middles.mean(axis=0) - expected)[seen] <= allowed[seen])
    lower, upper = predicted.band(0.9)
    rows = np.flatnonzero((upper > lower) & seen)
    if batch.ndim > 2 and len(rows) >= 4:
        held = [np.diff(np.interp([lower[row], upper[row]], quantiles[:, row], LEVELS)).item() for row in rows]
        assert abs(np.mean(held) - 0.9) < 0.08
