"""Small networks as people write them: what is predicted of them against recorded redraws of their weights."""

import functools
import math
import pathlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bntheory as bn
from simulations.training.redraws import measure_module

DRAWN = pathlib.Path(__file__).with_name("zoo_draws.npz")  # by tests/benchmarks/module_bands_study.py
LEVELS = np.linspace(0, 1, 101)
TENTH_OF_A_DECADE = 0.1 * math.log(10)


def he(module):
    """He's law for every convolution and matrix, no biases."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module


def plain_cnn():
    layers = []
    for inside in (3, 32, 32, 32, 32):
        layers += [nn.Conv2d(inside, 32, 3, padding=1), nn.ReLU()]
    return he(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)))


def torch_default_cnn():
    return nn.Sequential(
        nn.Conv2d(3, 32, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(32, 32, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def vgg_bn():
    layers, inside = [], 3
    for width in (32, 32, "M", 64, 64, "M", 64):
        if width == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(inside, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            inside = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inside * 16, 10))


class BasicBlock(nn.Module):
    """The version-1 block of CIFAR ResNets."""

    def __init__(self, inside, outside, stride, shortcut, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside) if norm else nn.Identity()
        self.shortcut, self.outside, self.stride = nn.Sequential(), outside, stride
        self.option = shortcut
        if (stride != 1 or inside != outside) and shortcut == "projection":
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.option == "zero-pad" and x.shape != out.shape:
            new = self.outside - x.shape[1]
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, new // 2, new - new // 2))
        else:
            x = self.shortcut(x)
        out += x
        return F.relu(out)


class ResNet(nn.Module):
    def __init__(self, depth, shortcut="projection", norm=False, width=16):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        blocks, inside = [], width
        for stage, outside in enumerate((width, 2 * width, 4 * width)):
            for block in range((depth - 2) // 6):
                stride = 2 if stage and not block else 1
                blocks.append(BasicBlock(inside, outside, stride, shortcut, norm))
                inside = outside
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(inside, 10)

    def forward(self, x):
        out = self.blocks(F.relu(self.bn1(self.conv1(x))))
        out = F.avg_pool2d(out, out.size(3))
        return self.linear(out.view(out.size(0), -1))


def resnet20():
    return he(ResNet(20))


def resnet20_zero_pad():
    return he(ResNet(20, "zero-pad"))


def resnet20_bn():
    return ResNet(20, norm=True)


def resnet56():
    return he(ResNet(56, "zero-pad"))


def resnet110():
    return he(ResNet(110))


def wide_resnet():
    return he(ResNet(14, width=48))


class PreActivation(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x):
        h = self.conv1(torch.relu(self.bn1(x)))
        return x + self.conv2(self.bn2(h).relu())


def pre_activation_resnet():
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        *(PreActivation(24) for _ in range(4)),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


class DenseBlock(nn.Module):
    """Every layer reads all before it, put together anew each time."""

    def __init__(self, inside, growth, layers):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(inside + k * growth, growth, 3, padding=1) for k in range(layers))

    def forward(self, x):
        features = [x]
        for conv in self.convs:
            features.append(conv(F.relu(torch.cat(features, 1))))
        return torch.cat(features, 1)


def dense_net():
    return he(
        nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1),
            DenseBlock(24, 12, 4),
            nn.ReLU(),
            nn.Conv2d(72, 36, 1),
            nn.AvgPool2d(2),
            DenseBlock(36, 12, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(72, 10),
        )
    )


class MixerBlock(nn.Module):
    def __init__(self, tokens, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.token1, self.token2 = nn.Linear(tokens, 2 * tokens), nn.Linear(2 * tokens, tokens)
        self.channel1, self.channel2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        y = self.norm1(x).transpose(1, 2)
        x = x + self.token2(F.gelu(self.token1(y))).transpose(1, 2)
        return x + self.channel2(F.gelu(self.channel1(self.norm2(x))))


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 48, 4, 4)
        self.blocks = nn.Sequential(MixerBlock(16, 48), MixerBlock(16, 48))
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


class SqueezeExcitation(nn.Module):
    def __init__(self, width, reduced):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, reduced), nn.Linear(reduced, width)

    def forward(self, x):
        b, c, _, _ = x.shape
        gate = F.adaptive_avg_pool2d(x, 1).view(b, c)
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(gate)))).view(b, c, 1, 1)
        return x * gate


def squeeze_excitation():
    return he(
        nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1),
            nn.ReLU(),
            SqueezeExcitation(64, 16),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            SqueezeExcitation(64, 16),
            nn.Flatten(),
            nn.Linear(64 * 64, 10),
        )
    )


def depthwise_separable():
    layers = [nn.Conv2d(3, 48, 3, 2, 1), nn.ReLU6()]
    for _ in range(3):
        layers += [
            nn.Conv2d(48, 48, 3, padding=1, groups=48),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Conv2d(48, 48, 1),
            nn.BatchNorm2d(48),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


class ScaledResidualMLP(nn.Module):
    def __init__(self, depth=12, width=128):
        super().__init__()
        self.first = nn.Linear(64, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x):
        x = self.first(x.flatten(1))
        for layer in self.layers:
            x = x + torch.tanh(x).matmul(layer.weight.t()) / len(self.layers) ** 0.5
        return x


class SharedLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(64, 256), nn.Linear(256, 256), nn.Linear(256, 10)

    def forward(self, x):
        h = F.relu(self.first(x.reshape(len(x), -1)))
        for _ in range(3):
            h = F.relu(self.shared(h))
        return self.last(h)


def gelu_layer_norm():
    layers = [nn.Flatten(), nn.Linear(64, 128)]
    for _ in range(6):
        layers += [nn.LayerNorm(128), nn.GELU(), nn.Linear(128, 128)]
    return nn.Sequential(*layers)


def dilated_strided():
    return he(
        nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=2, dilation=2),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, dilation=2, padding="same"),
            nn.SiLU(),
            nn.Conv2d(32, 32, (1, 3)),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(1536, 10),
        )
    )


class DataDependent(nn.Module):
    """A branch that is taken according to the data, and a loop with an early end."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if k == 0 else 32, 32, 3, padding=1) for k in range(4))
        self.other, self.head = nn.Conv2d(32, 32, 1), nn.Linear(32, 10)
        he(self)

    def forward(self, x):
        for conv in self.convs:
            x = F.relu(conv(x))
            if x.detach().abs().max() < 1e-3:
                x = self.other(x)
            if float(x.detach().std()) > 1e6:
                break
        return self.head(x.mean((2, 3)))


class ImageNetStem(nn.Module):
    """Padded pools, group normalization, an inception of three widths."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 7, 2, 3), nn.GroupNorm(8, 32), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.one, self.three = nn.Conv2d(32, 16, 1), nn.Conv2d(32, 32, 3, padding=1)
        self.pool, self.five = nn.AvgPool2d(3, 1, 1), nn.Conv2d(32, 16, 1)
        self.head = nn.Conv2d(64, 10, 1)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([self.one(x), self.three(x), self.five(self.pool(x))], dim=1)
        return self.head(F.leaky_relu(x, 0.1)).amax(dim=(2, 3))


class ConvNeXtBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(0.1 * torch.ones(width))

    def forward(self, x):
        h = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        h = self.gamma * self.pwconv2(F.gelu(self.pwconv1(h)))
        return x + h.permute(0, 3, 1, 2)


def conv_next():
    return nn.Sequential(
        nn.Conv2d(3, 40, 2, 2), ConvNeXtBlock(40), ConvNeXtBlock(40), nn.Conv2d(40, 80, 2, 2), ConvNeXtBlock(80)
    )


class UNet(nn.Module):
    def __init__(self, width=24):
        super().__init__()
        self.first, self.down = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, padding=1)
        self.middle = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.up, self.joined = nn.ConvTranspose2d(2 * width, width, 2, 2), nn.Conv2d(2 * width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 2, 1)
        he(self)

    def forward(self, x):
        outer = F.relu(self.first(x))
        inner = F.relu(self.middle(F.relu(self.down(F.max_pool2d(outer, 2)))))
        return self.last(F.relu(self.joined(torch.cat([outer, self.up(inner)], dim=1))))


def generator():
    """Vectors to images, as in DCGAN."""
    return nn.Sequential(
        nn.Linear(32, 64 * 16),
        nn.Unflatten(1, (64, 4, 4)),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(32, 3, 3, padding=1),
        nn.Tanh(),
    )


class GatedTokens(nn.Module):
    """Tokens with a position embedding, gated linear units, and the mean over them."""

    def __init__(self):
        super().__init__()
        self.embed, self.positions = nn.Linear(12, 64), nn.Parameter(0.5 * torch.randn(1, 9, 64))
        self.layers = nn.ModuleList(nn.Linear(64, 128) for _ in range(3))

    def forward(self, x):
        x = self.embed(x) + self.positions
        for layer in self.layers:
            value, gate = layer(x).chunk(2, dim=-1)
            x = x + value * torch.sigmoid(gate)
        return x.mean(1)


class Transformer(nn.Module):
    """A pre-normalization encoder with its own attention."""

    def __init__(self, width=64, layers=2):
        super().__init__()
        self.embed = nn.Linear(12, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


IMAGE = (3, 8, 8)
ZOO = {
    "plain CNN": (plain_cnn, IMAGE),
    "torch-default tanh CNN": (torch_default_cnn, (3, 16, 16)),
    "VGG with BN": (vgg_bn, (3, 16, 16)),
    "ResNet-20": (resnet20, IMAGE),
    "ResNet-20, zero-padded": (resnet20_zero_pad, IMAGE),
    "ResNet-20 with BN": (resnet20_bn, IMAGE),
    "ResNet-56": (resnet56, IMAGE),
    "ResNet-110": (resnet110, IMAGE),
    "wide ResNet": (wide_resnet, IMAGE),
    "pre-activation ResNet": (pre_activation_resnet, IMAGE),
    "DenseNet": (dense_net, IMAGE),
    "Mixer": (Mixer, (3, 16, 16)),
    "squeeze and excitation": (squeeze_excitation, IMAGE),
    "depthwise separable": (depthwise_separable, (3, 16, 16)),
    "scaled residual MLP": (ScaledResidualMLP, (1, 8, 8)),
    "shared layers": (SharedLayers, (1, 8, 8)),
    "GELU with LayerNorm": (gelu_layer_norm, (1, 8, 8)),
    "dilated and strided": (dilated_strided, (3, 16, 16)),
    "data-dependent": (DataDependent, IMAGE),
    "ImageNet stem and inception": (ImageNetStem, (3, 32, 32)),
    "ConvNeXt": (conv_next, IMAGE),
    "U-Net": (UNet, IMAGE),
    "generator": (generator, (32,)),
    "gated tokens": (GatedTokens, (9, 12)),
    "transformer": (Transformer, (9, 12)),
}

# Rows that no rule speaks about, by the start of their names; all others of the zoo must have one.
UNSUPPORTED = {
    "transformer": ("layers.",),
}


# Networks whose bands are judged, with the number of their inputs: a band of a network of vectors is that of one.
NARROW = {
    "plain CNN": 4,
    "torch-default tanh CNN": 4,
    "ResNet-20": 4,
    "ResNet-20, zero-padded": 4,
    "wide ResNet": 4,
    "dilated and strided": 4,
    "data-dependent": 4,
    "ConvNeXt": 4,
    "ResNet-20 with BN": 4,
    "VGG with BN": 4,
    "pre-activation ResNet": 4,
    "squeeze and excitation": 4,
    "depthwise separable": 4,
    "ImageNet stem and inception": 4,
    "U-Net": 4,
    "gated tokens": 4,
    "scaled residual MLP": 1,
    "GELU with LayerNorm": 1,
}


WORDS = tuple(ZOO)


def network(word):
    """A network and a batch, from a fixed seed."""
    make, shape = ZOO[word]
    torch.manual_seed(0)
    return make(), torch.randn(4, *shape)[: NARROW.get(word, 4)]


def draws(word):
    """How many are recorded: bands need more of them."""
    return 1000 if word in NARROW else 200


@functools.cache
def prediction(word):
    return bn.predict_module(*network(word))


def recorded(word):
    """Quantiles of ln(mean of h²) at LEVELS, (levels, rows)."""
    with np.load(DRAWN) as file:
        return file[word].astype(float)


def mean_and_deviation(quantiles):
    """Of the law whose quantiles are linear between the levels."""
    middles = (quantiles[1:] + quantiles[:-1]) / 2
    return middles.mean(axis=0), middles.std(axis=0)


@pytest.mark.parametrize("word", WORDS)
def test_predictions_hold_over_redraws(word):
    """Mean of ln(mean of h²) within 0.1 decades and 3 standard errors; after a restart, of one network's deviation."""
    predicted, quantiles = prediction(word), recorded(word)
    lawful = np.isfinite(predicted.log_growth_mean)
    expected = np.where(lawful, predicted.log_growth_mean, predicted.log_second_moment)
    unsupported = np.array(predicted.moment_method) == "unsupported"
    for row in np.flatnonzero(unsupported):
        assert predicted.name[row].startswith(UNSUPPORTED[word]), predicted.name[row]
    seen = np.isfinite(quantiles).all(axis=0)
    restarted = np.array(predicted.moment_method) == "measured"
    mean, deviation = mean_and_deviation(quantiles)
    allowed = TENTH_OF_A_DECADE + 3 * deviation * (1 / math.sqrt(draws(word)) + restarted)
    gap = np.abs(mean - expected)
    checked = seen & ~unsupported
    assert np.all(gap[checked] <= allowed[checked]), [
        (predicted.name[row], float(gap[row]), float(allowed[row]))
        for row in np.flatnonzero(checked & ~(gap <= allowed))
    ]
    assert checked[-1] and checked.sum() > 0.5 * len(seen)


@pytest.mark.parametrize("word", ["plain CNN", "depthwise separable", "transformer"])
def test_what_is_recorded_are_redraws_of_these_networks(word):
    """The first 20 draws once more: within the recorded range, their mean within 4.5 standard errors, 1e-5 a row."""
    again = measure_module(*network(word), draws=20, gradients=False, seed=1).log_second_moment
    quantiles = recorded(word)
    seen = np.isfinite(again).all(axis=0)
    assert np.array_equal(seen, np.isfinite(quantiles).all(axis=0))
    again, quantiles = again[:, seen], quantiles[:, seen]
    assert np.all((again > quantiles[0] - 1e-4) & (again < quantiles[-1] + 1e-4))
    mean, deviation = mean_and_deviation(quantiles)
    assert np.all(np.abs(again.mean(axis=0) - mean) < 4.5 * deviation / math.sqrt(20) + 1e-4)


def test_names_are_those_of_the_modules():
    rows = prediction("ResNet-20").name
    assert rows[:6] == ("input", "conv1", "relu", "blocks.0.conv1", "blocks.0.relu", "blocks.0.conv2")
    assert rows[-4:] == ("relu (2)", "avg_pool2d", "view", "linear") or rows[-3:] == ("avg_pool2d", "view", "linear")


@pytest.mark.parametrize("word", NARROW)
def test_bands_hold_what_they_say(word):
    """90% of 1000 draws ± 4%, on the mean over rows, whose draws are not independent of one another."""
    quantiles, predicted = recorded(word), prediction(word)
    lower, upper = predicted.band(0.9)
    rows = np.flatnonzero((upper > lower) & np.isfinite(quantiles[0]))
    held = [np.diff(np.interp([lower[row], upper[row]], quantiles[:, row], LEVELS)).item() for row in rows]
    assert len(rows) >= 4
    assert abs(np.mean(held) - 0.9) < 0.04
