"""Each torch function against the layer it is taken for."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bntheory.growth.infinite_width import moments
from bntheory.growth.infinite_width.state import of_values
from bntheory.layers import Unknown
from bntheory.positional import Offset
from bntheory.torch_models import tracing

IMAGE, VECTOR, TOKENS = (4, 8, 6), (12,), (6, 5)

# Without weights: the layer does to numbers what the function does.
FUNCTIONS = {
    "relu": (lambda x: F.relu(x), IMAGE),
    "relu method in place": (lambda x: x.clone().relu_(), IMAGE),
    "leaky relu": (lambda x: F.leaky_relu(x, 0.3), VECTOR),
    "tanh": (torch.tanh, VECTOR),
    "sigmoid": (lambda x: x.sigmoid(), VECTOR),
    "erf": (torch.erf, VECTOR),
    "gelu": (F.gelu, IMAGE),
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), IMAGE),
    "silu": (F.silu, IMAGE),
    "elu": (F.elu, VECTOR),
    "elu with alpha": (lambda x: F.elu(x, 0.5), VECTOR),
    "selu": (F.selu, VECTOR),
    "softplus": (F.softplus, VECTOR),
    "mish": (F.mish, VECTOR),
    "logsigmoid": (F.logsigmoid, VECTOR),
    "tanhshrink": (F.tanhshrink, VECTOR),
    "hardsigmoid": (F.hardsigmoid, VECTOR),
    "clamp to an interval": (lambda x: x.clamp(-0.5, 2.0), VECTOR),
    "clamp from above": (lambda x: torch.clamp(x, max=1.5), VECTOR),
    "softsign": (F.softsign, VECTOR),
    "hardtanh": (F.hardtanh, VECTOR),
    "relu6": (F.relu6, VECTOR),
    "hardswish": (F.hardswish, VECTOR),
    "prelu": (lambda x: F.prelu(x, torch.tensor([0.25])), IMAGE),
    "clamp at 0": (lambda x: x.clamp(min=0), IMAGE),
    "square": (lambda x: x**2, VECTOR),
    "half": (lambda x: x / 2, IMAGE),
    "times a number": (lambda x: -0.3 * x, VECTOR),
    "minus": (lambda x: 1 - x, VECTOR),
    "negative": (lambda x: -x, VECTOR),
    "twice": (lambda x: x + x, VECTOR),
    "scaled channels": (lambda x: x * torch.arange(1.0, 5.0)[:, None, None], IMAGE),
    "shifted channels": (lambda x: x - torch.arange(1.0, 5.0).view(1, 4, 1, 1), IMAGE),
    "scaled units": (lambda x: x * torch.arange(1.0, 13.0), VECTOR),
    "average pool": (lambda x: F.avg_pool2d(x, 2), IMAGE),
    "padded average pool": (lambda x: F.avg_pool2d(x, 3, 1, 1), IMAGE),
    "maximum pool": (lambda x: F.max_pool2d(x, 2), IMAGE),
    "padded maximum pool": (lambda x: F.max_pool2d(x, 3, 2, 1), IMAGE),
    "rectangular pool": (lambda x: F.avg_pool2d(x, (4, 3)), IMAGE),
    "global average": (lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE),
    "adaptive average": (lambda x: F.adaptive_avg_pool2d(x, (4, 2)), IMAGE),
    "global maximum": (lambda x: F.adaptive_max_pool2d(x, (1, 1)), IMAGE),
    "mean over the map": (lambda x: x.mean((2, 3)), IMAGE),
    "mean over the map, kept": (lambda x: x.mean(dim=[-2, -1], keepdim=True), IMAGE),
    "maximum over the map": (lambda x: torch.amax(x, dim=(2, 3)), IMAGE),
    "mean over tokens": (lambda x: x.mean(1), TOKENS),
    "sum over the map": (lambda x: x.sum((2, 3)), IMAGE),
    "sum over tokens, kept": (lambda x: torch.sum(x, dim=1, keepdim=True), TOKENS),
    "maximum over tokens": (lambda x: x.max(dim=1)[0], TOKENS),
    "flatten": (lambda x: torch.flatten(x, 1), IMAGE),
    "view": (lambda x: x.view(x.size(0), -1), IMAGE),
    "map to sequence": (lambda x: torch.tanh(x.flatten(2)), IMAGE),
    "map to tokens": (lambda x: torch.tanh(x.flatten(2).transpose(1, 2)), IMAGE),
    "channels last": (lambda x: torch.tanh(x.permute(0, 2, 3, 1)), IMAGE),
    "every other position": (lambda x: x[:, :, ::2, ::2], IMAGE),
    "half of the units": (lambda x: x.chunk(2, dim=1)[1], VECTOR),
    "some of the channels": (lambda x: x.split([1, 3], dim=1)[1], IMAGE),
    "a slice of the channels": (lambda x: x[:, 1:3, ::2, ::2], IMAGE),
    "narrow": (lambda x: x.narrow(1, 2, 2), IMAGE),
    "some channels of tokens": (lambda x: x[..., 1:4], TOKENS),
    "vector to image": (lambda x: torch.tanh(x.view(-1, 3, 2, 2)), VECTOR),
    "vector to gate": (lambda x: torch.tanh(x[:, :, None, None]), VECTOR),
    "every third column": (lambda x: x[..., ::3], IMAGE),
    "every position twice": (lambda x: F.interpolate(x, scale_factor=2), IMAGE),
    "rows three times": (lambda x: F.interpolate(x, size=(24, 6)), IMAGE),
    "zeros around": (lambda x: F.pad(x, (1, 2, 0, 1)), IMAGE),
    "zero channels": (lambda x: F.pad(x, (0, 0, 0, 0, 2, 2)), IMAGE),
    "layer norm": (lambda x: F.layer_norm(x, x.shape[1:]), IMAGE),
    "layer norm of a vector": (lambda x: F.layer_norm(x, (12,)), VECTOR),
    "layer norm of channels": (lambda x: F.layer_norm(x, (5,)), TOKENS),
    "layer norm with its own scale": (
        lambda x: F.layer_norm(x, (12,), torch.arange(1.0, 13.0), torch.ones(12)),
        VECTOR,
    ),
    "group norm": (lambda x: F.group_norm(x, 2), IMAGE),
    "instance norm": (lambda x: F.instance_norm(x), IMAGE),
    "batch norm": (lambda x: F.batch_norm(x, None, None, training=True), IMAGE),
    "batch norm with γ": (lambda x: F.batch_norm(x, None, None, torch.full((12,), 0.5), None, True), VECTOR),
    "batch norm with γ, β": (lambda x: F.batch_norm(x, None, None, torch.arange(4.0), torch.ones(4), True), IMAGE),
    "batch norm evaluated": (
        lambda x: F.batch_norm(x, torch.arange(4.0), torch.arange(1.0, 5.0), torch.arange(4.0), torch.ones(4)),
        IMAGE,
    ),
    "batch norm never trained": (lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4)), IMAGE),
    "dropout evaluated": (lambda x: torch.tanh(F.dropout(x, 0.5, training=False)), VECTOR),
    "identity": (lambda x: nn.Identity()(x) * 1.5, VECTOR),
    "casts": (lambda x: torch.tanh(x.float().to(torch.float64).contiguous()), VECTOR),
}


class Wrapped(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def trace(function, example):
    """The trace, and the numbers of its last row."""
    seen = {}
    found = tracing.run(
        Wrapped(function), example, observe=lambda node, tensor, layout: seen.update({node: (tensor.clone(), layout)})
    )
    tensor, layout = seen[found.output]
    return found, tracing.canonical(tensor, found.nodes[found.output], layout), seen[0]


@pytest.mark.parametrize("word", FUNCTIONS)
def test_layers_do_what_the_function_does(word):
    function, shape = FUNCTIONS[word]
    example = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    found, expected, (start, layout) = trace(function, example)
    path = [found.output]
    while path[0]:
        path.insert(0, *found.nodes[path[0]].parents)
    assert not any(isinstance(found.nodes[row].layer, Unknown) for row in path)
    state = of_values(tracing.canonical(start, found.nodes[0], layout))
    for before, row in itertools.pairwise(path):
        state = moments.through(found.nodes[row].layer, state, found.nodes[before].shape, row)
    np.testing.assert_allclose(state.values.reshape(expected.shape), expected, rtol=2e-5, atol=2e-5)


def test_a_gated_linear_unit_is_a_product_of_channels():
    example = torch.randn(3, *VECTOR, generator=torch.Generator().manual_seed(1))
    found, expected, _ = trace(lambda x: F.glu(x, dim=1), example)
    assert [str(node.layer) for node in found.nodes[1:]] == ["Channels(0, 6)", "Channels(6, 12)", "sigmoid", "product"]
    assert expected.shape == (3, 6)


WEIGHTED = {
    "linear": (nn.Linear(12, 7), VECTOR),
    "matrix": (lambda x: x @ (torch.arange(60.0).reshape(12, 5) / 30), VECTOR),
    "matmul": (lambda x: torch.matmul(x, torch.ones(5, 3) / 2), TOKENS),
    "addmm": (lambda x: torch.addmm(torch.ones(5), x, torch.full((12, 5), 0.3)), VECTOR),
    "linear on tokens": (nn.Linear(5, 9), TOKENS),
    "einsum": (lambda x: torch.einsum("bi,oi->bo", x, torch.arange(60.0).reshape(5, 12) / 30), VECTOR),
    "einsum on tokens": (lambda x: torch.einsum("...c, cd -> ...d", x, torch.ones(5, 3) / 2), TOKENS),
    "linear, channels last": (lambda x: F.linear(x.permute(0, 2, 3, 1), torch.ones(6, 4) / 3), IMAGE),
    "convolution": (nn.Conv2d(4, 6, 3), IMAGE),
    "strided, padded, dilated": (nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2), IMAGE),
    "grouped": (nn.Conv2d(4, 8, 3, groups=2), IMAGE),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), IMAGE),
    "rectangular": (nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 0)), IMAGE),
    "same": (nn.Conv2d(4, 6, 5, padding="same"), IMAGE),
    "valid": (nn.Conv2d(4, 6, 3, padding="valid"), IMAGE),
    "one-dimensional": (nn.Conv1d(6, 8, 3, padding=1), TOKENS),
    "transposed": (nn.ConvTranspose2d(4, 6, 4, 2, 1), IMAGE),
    "transposed, unequal": (nn.ConvTranspose2d(4, 6, (3, 4), (2, 1), (0, 1), (1, 0), bias=False), IMAGE),
    "over positions": (lambda x: F.linear(x.transpose(1, 2), torch.linspace(-1, 1, 18).reshape(3, 6)), TOKENS),
}


@pytest.mark.parametrize("word", WEIGHTED)
def test_weights_are_read(word):
    """Shapes as torch has them, variances as the weights have them; the mean square of many units follows."""
    function, shape = WEIGHTED[word]
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2))
    model = function if isinstance(function, nn.Module) else Wrapped(function)
    with torch.no_grad():
        result = model(example)
    found = tracing.run(model, example)
    node = found.nodes[found.output]
    assert not isinstance(node.layer, Unknown)
    assert math.prod(node.shape) == result[0].numel()
    weight, bias = found.tensors[0]
    before = found.nodes[node.parents[0]].shape
    assert node.layer.output_shape(before) == node.shape
    assert node.layer.weight_variance(before) == pytest.approx(weight.double().square().mean().item(), rel=1e-12)
    mean_square = 0.0 if bias is None else bias.double().square().mean().item()
    assert node.layer.bias_variance(before) == pytest.approx(mean_square, rel=1e-12)


@pytest.mark.parametrize(
    "module",
    [
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
        nn.MaxPool2d(3, ceil_mode=True),
        nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        nn.AdaptiveAvgPool2d((3, 4)),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=1.5),
        nn.PixelShuffle(2),
        nn.Dropout2d(0.5),
        nn.LocalResponseNorm(2),
        nn.Softmax(1),
        nn.RReLU(),
        nn.Hardshrink(),
        nn.Softshrink(),
        nn.ReflectionPad2d(1),
    ],
    ids=lambda module: str(module)[:40],
)
def test_what_a_layer_would_get_wrong_is_unknown(module):
    found = tracing.run(module, torch.randn(2, *IMAGE))
    assert any(isinstance(node.layer, Unknown) for node in found.nodes)


def test_slopes_that_differ_between_channels_are_unknown():
    module = nn.PReLU(4)
    with torch.no_grad():
        module.weight[0] = 0.5
    assert isinstance(tracing.run(module, torch.randn(2, *IMAGE)).nodes[-1].layer, Unknown)


def test_position_embeddings_are_constants_of_a_mean_square():
    table = torch.randn(1, *TOKENS, generator=torch.Generator().manual_seed(5))
    found, _, _ = trace(lambda x: torch.tanh(x + table), torch.randn(3, *TOKENS))
    assert found.nodes[1].layer == Offset(table.double().square().mean().item())
    found, _, _ = trace(lambda x: torch.tanh(x + 0 * table), torch.randn(3, *TOKENS))
    assert str(found.nodes[1].layer) == "tanh"


def test_a_named_law_replaces_the_weights():
    from bntheory.initializations import initialization

    found = tracing.run(nn.Linear(12, 7), torch.randn(2, 12), initialization("he_normal"))
    assert str(found.nodes[1].layer.init) == "he_normal"
    assert found.nodes[1].layer.bias > 0


@pytest.mark.parametrize(
    ("value", "message"), [(math.nan, "row 0: weights must be finite, got 1 of 84"), (0.0, "all 84")]
)
def test_bad_weights_are_refused_by_row(value, message):
    model = nn.Sequential(nn.Linear(12, 7))
    with torch.no_grad():
        model[0].weight.fill_(0.0)
        model[0].weight[0, 0] = value
    with pytest.raises(ValueError, match=message):
        tracing.run(model, torch.randn(2, 12))


def test_statistics_of_weights():
    generator = torch.Generator().manual_seed(3)
    model = nn.Linear(1000, 1000)
    with torch.no_grad():
        model.weight.copy_(0.5 + torch.randn(1000, 1000, generator=generator))
        model.bias.fill_(0.25)
    (weights,) = tracing.run(model, torch.randn(2, 1000)).weights
    assert weights.second_moment == pytest.approx(1.25, rel=0.01)
    assert weights.mean_share == pytest.approx(0.2, rel=0.01)
    assert weights.kurtosis == pytest.approx(3, rel=0.02)
    assert weights.bias == 0.0625
