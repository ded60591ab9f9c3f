"""Explicit weights, there and back: against PyTorch's autograd on the same networks, and at the ends of the range."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bntheory import activation, cnn, initialization, leaves, mlp, resnet, vgg
from bntheory.activations import KNOWN, Activation
from bntheory.initializations import INITIALIZATIONS
from bntheory.layers import Affine, BatchNorm, Conv, Dense, Dropout, Flatten, GroupNorm, LayerNorm, Pad, Pool, ZeroPad
from bntheory.networks import Join, Residual, Sequential
from bntheory.positional import ConvTranspose, Mix, Offset
from bntheory.rearrangements import Channels, Unflatten, Unroll, Upsample
from simulations import streams
from simulations.samples import log_cosine_distance, moments
from simulations.signal import Signal, scaled
from simulations.statistics import mean_with_error, tolerance
from simulations.steps import steps
from simulations.weights import backward, draw_weights, forward, prepare

RELU, TANH, SIGMOID = map(activation, ("relu", "tanh", "sigmoid"))
SOFTSIGN = Activation.from_function("rational", lambda x: x / (1 + np.abs(x)), lambda x: (1 + np.abs(x)) ** -2.0)


def images(*layers, shape=(4, 9, 8)):
    """A network of images that ends in Flatten and Dense."""
    return Sequential((*layers, Flatten(), Dense(3)), shape)


NETWORKS = {
    **{f"mlp {name}": mlp(3, 7, name, bias=0.2) for name in KNOWN},
    **{f"mlp {law}": mlp(2, 6, init=law, input_width=9, output_width=4) for law in INITIALIZATIONS},
    "mlp of one's own φ": mlp(2, 6, SOFTSIGN),
    "mlp BN": mlp(3, 6, "tanh", batch_norm=True, bias=0.1),
    "mlp BN, two ε": Sequential((Dense(6), BatchNorm(1e-9), TANH, Dense(5), BatchNorm(0.3), RELU), (4,)),
    "residual mlp": mlp(3, 6, "gelu", "torch_default", residual=True, batch_norm=True, input_width=4),
    "LayerNorm": Sequential((Dense(6), LayerNorm(), RELU, Dense(5, bias=0.1), LayerNorm(0.5), TANH, Dense(2)), (4,)),
    "GroupNorm": Sequential(
        (Dense(6), GroupNorm(2), RELU, Dense(8, bias=0.1), GroupNorm(1, 0.5), TANH, Dense(2)), (4,)
    ),
    "LayerNorm over channels": images(
        Conv(6),
        LayerNorm(over="channels"),
        RELU,
        Conv(4),
        LayerNorm(0.2, "channels"),
        Flatten(),
        LayerNorm(0.1, "channels"),
    ),
    "GroupNorm of images": images(Conv(6), GroupNorm(3), RELU, Conv(4), GroupNorm(4, 0.2), GroupNorm(1), Conv(2)),
    "BN with γ": images(Conv(6), BatchNorm(gamma=0.3), TANH, Conv(4, bias=0.1), BatchNorm(0.1, gamma=20.0), RELU),
    "factors": Sequential((Affine(0.5), Dense(6, bias=0.1), Affine(-3.0), TANH, Dense(4), RELU, Affine(0.7)), (4,)),
    "γ and β": images(
        Conv(3), BatchNorm(), Affine((1.0, -0.5, 2.0), (0.1, 0.0, -1.0)), TANH, Affine(beta=0.3), Conv(2)
    ),
    "BN evaluated": images(Conv(6), BatchNorm(0.2, 3.0, False), RELU, Conv(4), BatchNorm(training=False), RELU),
    "BN of γ = 0": images(
        Residual((Conv(4), BatchNorm(gamma=0.0), TANH)),
        Residual((Conv(6), BatchNorm(), RELU, Conv(6), BatchNorm(gamma=0)), (Conv(6, 1), BatchNorm())),
        Residual((Conv(6), BatchNorm(0.1, 0.0, False))),
    ),
    "scaled and nested": Sequential(
        (
            Residual((Residual((Dense(5),), (Dense(5),), scale=3.0), TANH), (Dense(5, "orthogonal"),), scale=0.1),
            Sequential((RELU, Sequential((Dense(5),)))),
            Residual((activation("linear"),)),
            Residual(()),
        ),
        (6,),
    ),
    "conv": images(Conv(6, bias=0.3), TANH, Conv(5, 1), RELU, Conv(4, 2), LayerNorm(), Conv(2, 5, init="orthogonal")),
    "conv stride": images(Conv(6, stride=2), TANH, Conv(5, 1), RELU, Conv(4, 3, 2, padding=0)),
    "conv dilation": images(Conv(6, dilation=2), TANH, Conv(5, 2, dilation=3, stride=2, padding=2), BatchNorm()),
    "conv groups": images(Conv(6, groups=2), TANH, Conv(12, groups=6, init="xavier_normal"), RELU, Conv(4, groups=4)),
    "conv, unequal sides": images(
        Conv(6, (3, 1), padding=(0, 2)), TANH, Conv(6, (1, 4), (2, 1), dilation=(1, 2), groups=2), Pool("max", (2, 1))
    ),
    "signals": images(
        Conv(6, (5, 1), (2, 1)), RELU, Pool("average", (3, 1), (1, 1)), Conv(4, (3, 1)), shape=(2, 30, 1)
    ),
    "conv padding": images(Conv(6, 3, padding=0), TANH, Conv(5, padding=3), Conv(4, init="torch_default")),
    "average pools": images(Pool("average", 2), Conv(3), Pool("average", 3, 1), TANH, Pool("average", 1, 2)),
    "max pools": images(
        *(Conv(3), Pool("max", 3, 2), Conv(3), Pool("max", 2, 1), Conv(3), Pool("max", 2, 3)), shape=(4, 13, 9)
    ),
    "padded pools": images(
        Conv(3), Pool("max", 3, 2, 1), TANH, Pool("average", 3, 1, 1), Conv(3, 1), Pool("average", (4, 3), 2, (2, 0))
    ),
    "padded maximum": images(Conv(3), RELU, Pool("max", (3, 2), (1, 2), (1, 1)), Conv(3), Pool("max", 2, 1, 1)),
    "zeros around": images(
        Pad(1), Conv(3, padding=0), Pad((2, 0, 0, 1)), TANH, Pad((0, 1, 0, 0)), BatchNorm(), Conv(2)
    ),
    "transposed": Sequential(
        (
            ConvTranspose(4, bias=0.1),
            ConvTranspose(3, (3, 2), (2, 1), (0, 1), (1, 0), "torch_default"),
            activation("tanh"),
            ConvTranspose(2, 1, 3, 0, 2, "orthogonal"),
            ConvTranspose(5, 2, 1, 0, 0, "xavier_uniform"),
            Flatten(),
            Dense(3),
        ),
        (3, 2, 3),
    ),
    "unflattened": Sequential(
        (
            Dense(12, bias=0.1),
            Unflatten((3, 2, 2)),
            TANH,
            Conv(4),
            Offset(0.3),
            Upsample((1, 2)),
            Conv(4, 3, (1, 2)),
            Channels(1, 4),
            Unroll(),
            Conv(4, (3, 1)),
            Mix(5, bias=0.1),
            Mix(4, "torch_default"),
            Flatten(),
            Channels(2, 10),
            Unflatten((8, 1, 1)),
        ),
        (5,),
    ),
    "whole maps": images(Residual((Pool("max"),), (Pool("average"),)), Conv(4, 1)),
    "zero-pad": images(Conv(4), ZeroPad(7, 2), TANH, ZeroPad(8), Residual((Conv(11, stride=2),), (ZeroPad(11, 2),))),
    "resnet 8": resnet(8, batch_norm=True, image=(3, 8, 8)),
    "resnet 14 zero-pad": resnet(14, shortcut="zero-pad", image=(3, 8, 8)),
    "vgg 11 BN": vgg(11, batch_norm=True, image=(2, 9, 4), channels=3),
    "cnn": cnn(4, 5, "gelu", "torch_default", image=(2, 5, 5), classes=3),
    "mlp LayerNorm": mlp(3, 6, layer_norm=True),
    "no layers": Sequential((), (4,)),
    "concatenated vectors": Sequential(
        (Dense(6), Join(((), (RELU, Dense(4)), (Dense(3), TANH))), BatchNorm(), Join((Sequential(()),) * 2), Dense(2)),
        (5,),
    ),
    "gated vectors": Sequential((Join(((Dense(6),), (Dense(6), SIGMOID)), "product"), Join(((), ()), "product")), (5,)),
    "dense blocks": images(Conv(4), *(Join(((), (BatchNorm(), RELU, Conv(3)))) for _ in range(2)), Pool("average", 2)),
    "squeeze and excite": images(
        Residual((Conv(4), BatchNorm(), Join(((), (Pool(), Conv(2, 1), RELU, Conv(4, 1), SIGMOID)), "product"))),
        Join(((Pool(), SIGMOID), (Join(((Conv(3, 1),), (Conv(1, bias=0.1),))),)), "product"),
    ),
}


def batch_for(net, size=5, seed=0):
    return np.random.default_rng(seed).standard_normal((size, *net.input_shape)) + 0.3


def walked(torch, model, batch):
    """Every row of a torch module, in the order of `leaves`, with its gradient kept."""
    kept = [batch.requires_grad_()]

    def walk(module, h):
        if isinstance(module, torch.nn.Sequential):
            for child in module:
                h = walk(child, h)
            return h
        if hasattr(module, "branches"):
            ends = [walk(branch, h) for branch in module.branches]
            h = ends[0] * ends[1] if module.description.operation == "product" else torch.cat(ends, dim=1)
        elif hasattr(module, "shortcut"):
            branch, shortcut = walk(module.branch, h), walk(module.shortcut, h)
            h = module.description.scale * branch + shortcut
        else:
            h = module(h).clone()  # nn.Identity returns its input
        h.retain_grad()
        kept.append(h)
        return h

    walk(model, batch)
    return kept


def through_torch(net, batch, gradient, seed, draw):
    """The table of `prepare` by automatic differentiation."""
    torch = pytest.importorskip("torch")
    build = pytest.importorskip("simulations.training.modules").build
    model = build(net, seed, "float64", draw=draw)
    rows = walked(torch, model, torch.from_numpy(batch))
    rows[-1].backward(torch.from_numpy(gradient))
    log_output = math.log((gradient**2).sum())
    table = np.full((len(rows), 6), np.nan)
    named = dict(model.named_modules())
    for k, (leaf, row) in enumerate(zip(leaves(net), rows, strict=True)):
        h = row.detach().numpy()
        table[k, :3], table[k, 3] = moments(h), log_cosine_distance(h)
        table[k, 4] = torch.log((row.grad**2).sum()) - log_output
        if isinstance(leaf.layer, (Dense, Conv, Mix, ConvTranspose)):
            table[k, 5] = torch.log((named[leaf.name].weight.grad ** 2).sum()) - log_output
    return table


@pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)
def test_every_row_agrees_with_autograd(net):
    """Moments, gradients and weight gradients of build(net, seed, draw=k), to 1e-10 in the logarithm."""
    batch, walk, (seed, draw) = batch_for(net), steps(net), (4, 2)
    gradient = np.random.default_rng(9).standard_normal((len(batch), *net.output_shape(net.input_shape)))
    sizes, ways_back = forward(walk, scaled(batch), streams.stream(seed, draw), keep=True)
    found = np.hstack([sizes, backward(walk, ways_back, Signal(gradient, 0.0))])
    expected = through_torch(net, batch, gradient, seed, draw)
    found, expected = (
        np.where(table < -60, -60, table) for table in (found, expected)
    )  # means after BatchNorm: rounding
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def trial(net, seed=0, batch=4, gradients=True, **options):
    inputs = scaled(batch_for(net, batch))
    return prepare(steps(net), inputs, gradients, **options)(streams.stream(seed, 0))


RESIDUAL = resnet(8, batch_norm=True, image=(3, 8, 8))


def test_the_output_gradient_is_drawn_after_the_network():
    rng, walk = streams.stream(0, 0), steps(RESIDUAL)
    sizes, ways_back = forward(walk, scaled(batch_for(RESIDUAL, 4)), rng, keep=True)
    norms = backward(walk, ways_back, Signal(rng.standard_normal((4, 10)), 0.0))
    np.testing.assert_array_equal(trial(RESIDUAL), np.hstack([sizes, norms]))
    assert norms[-1, 0] == 0
    assert not ways_back  # given back on the way


def test_without_gradients_the_same_rows():
    one, other = trial(RESIDUAL, gradients=False), trial(RESIDUAL)
    np.testing.assert_array_equal(one[:, :4], other[:, :4])
    assert np.isnan(one[:, 4:]).all()
    assert not np.isnan(other[:, 4]).any()
    with_weights = [isinstance(leaf.layer, (Dense, Conv)) for leaf in leaves(RESIDUAL)]
    np.testing.assert_array_equal(~np.isnan(other[:, 5]), with_weights)


def test_the_same_bits_from_several_threads():
    run = prepare(steps(RESIDUAL), scaled(batch_for(RESIDUAL)), True)

    def one(k):
        return run(streams.stream(3, k))

    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(one, range(12)), map(one, range(12)), strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["mlp gelu", "mlp torch_default", "mlp BN", "LayerNorm", "conv", "resnet 14 zero-pad"])
def test_single_precision_is_the_same_network(name):
    one, other = (trial(NETWORKS[name], dtype=dtype) for dtype in (np.float32, np.float64))
    assert one.dtype == np.float64
    rough = [np.where(table < -25, -25, table) for table in (one, other)]  # means after BatchNorm: rounding
    np.testing.assert_allclose(*rough, atol=2e-4)
    assert np.abs(one[2:] - other[2:])[np.isfinite(other[2:])].max() > 1e-9


def test_rows_are_forgotten_once_read():
    """Forth through 200 layers in the memory of a few; the batch is what takes room."""
    import tracemalloc

    net = mlp(200, 32)
    run = prepare(steps(net), scaled(batch_for(net, 512)), False)
    tracemalloc.start()
    run(streams.stream(0, 0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 8 * 32 * 512


# --- far ends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "depth"), [(np.float64, 3000), (np.float32, 1000)])
def test_gain_ten_at_great_depth(dtype, depth):
    net = mlp(depth, 8, "leaky_relu", initialization("lecun_normal", gain=10), bias=0.1)
    table = trial(net, batch=1, dtype=dtype)
    assert np.isfinite(table[:, [0, 4]]).all()
    assert table[-1, 0] > 2 * depth and table[0, 4] > 2 * depth
    # one input: ‖∂ℓ/∂W‖² = ‖∂ℓ/∂z‖² ‖h‖²
    dense = slice(1, None, 2)
    expected = table[dense, 4] + table[:-1:2, 0] + math.log(8)
    np.testing.assert_allclose(table[dense, 5], expected, atol=1e-9 if dtype == np.float64 else 1e-3)


@pytest.mark.parametrize("gain", [1e-100, 1e-30, 1e30, 1e100])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_any_gain(gain, dtype):
    """Without bias and with φ homogeneous, a gain is a shift of every logarithm."""
    nets = [
        images(*(Conv(4, init=initialization("he_normal", gain=g)), RELU, Pool("max", 2)) * 2, shape=(2, 9, 9))
        for g in (1.0, gain)
    ]
    one, other = (trial(net, dtype=dtype) for net in nets)
    shift = 2 * math.log(gain)
    np.testing.assert_allclose(other[[1, 4], 0] - one[[1, 4], 0], [shift, 2 * shift], rtol=1e-6)
    np.testing.assert_allclose(other[[4, 1, 0], 4] - one[[4, 1, 0], 4], [0, shift, 2 * shift], rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("gain", [1e-3, 10.0])
def test_deep_networks_of_every_activation(name, gain):
    """300 layers, forth and back, at a gain of 10 and at one that makes them fade; nothing warns, nothing is NaN."""
    table = trial(mlp(300, 6, name, initialization("lecun_normal", gain=gain)), batch=2)
    assert not np.isnan(table[:, [0, 1, 2, 4]]).any()
    assert not (table[:, [0, 4]] == np.inf).any()


def test_a_dead_network_passes_no_gradient():
    """Width 1: once a ReLU is 0, so are all rows after it and all gradients before it."""
    net = mlp(12, 1)
    tables = [trial(net, seed, batch=1) for seed in range(20)]
    deaths = [int(np.argmax(table[:, 0] == -np.inf)) for table in tables if table[-1, 0] == -np.inf]
    assert len(deaths) > 10
    for table in tables:
        if table[-1, 0] == -np.inf:
            assert (table[:-1, 4] == -np.inf).all()  # at 0 the slope is the left one
            assert np.all(table[1::2, 5] == -np.inf)
        assert not np.isnan(table[:, [0, 1, 2, 4]]).any()


@pytest.mark.parametrize("layer", [BatchNorm(0.0), LayerNorm(0.0)], ids=str)
def test_a_constant_without_epsilon_is_out_of_range(layer):
    """0/0: rows after it and gradients before it are +inf, the others as they are; no warning."""
    constant = np.ones((3, 4))
    net = Sequential((activation("linear"), layer, TANH), (4,))
    table = prepare(steps(net), scaled(constant), True)(streams.stream(0, 0))
    np.testing.assert_array_equal(table[:, 0], [0, 0, np.inf, np.inf])
    np.testing.assert_array_equal(table[:, 4] == np.inf, [True, True, True, False])
    assert table[-1, 4] == 0


def test_a_weight_gradient_that_nearly_cancels():
    """Inputs x, x + d with |d| = 1e-9 |x| and opposite gradients: ‖g (xᵀ − (x + d)ᵀ)‖² = ‖g‖² ‖d‖²."""
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal(20), rng.standard_normal(5)
    inputs = np.stack([x, x + 1e-9 * rng.standard_normal(20)])
    walk = steps(Sequential((Dense(5),), (20,)))
    _, ways_back = forward(walk, Signal(inputs, 0.0), rng, keep=True)
    found = backward(walk, ways_back, Signal(np.stack([g, -g]), 0.0))[1, 1]
    expected = math.log(np.sum((inputs[0] - inputs[1]) ** 2) / 2)  # relative to ‖(g, −g)‖²
    assert found == pytest.approx(expected, abs=1e-6)


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_a_mask_is_drawn_where_it_stands():
    """Weights, mask, weights, from one generator."""
    net = Sequential((Dense(6), Dropout(0.5), Dense(3)), (4,))
    inputs, rng = batch_for(net), streams.stream(1, 0)
    first = rng.standard_normal((4, 6)) * math.sqrt(2 / 4)
    kept = rng.random((5, 6)) >= 0.5
    last = rng.standard_normal((6, 3)) * math.sqrt(2 / 6)
    table = prepare(steps(net), scaled(inputs), False)(streams.stream(1, 0))
    assert table[3, 0] == pytest.approx(moments(inputs @ first * kept * 2 @ last)[0], abs=1e-12)
    assert not kept.all()


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6), (1, 4)])
def test_orthogonal_weights(shape):
    w = draw_weights(initialization("orthogonal", gain=3.0), 0.0, shape, np.random.default_rng(0))
    assert w.shape == shape
    np.testing.assert_allclose(np.linalg.svd(w, compute_uv=False), 3.0, rtol=1e-13)


CONVOLUTIONS = [Conv(8, 3, init=law, groups=groups) for law in INITIALIZATIONS for groups in (1, 2)]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
def test_a_convolution_has_the_variance_it_says(layer):
    """One 3×3 input, no padding: E z² = Var w · fan_in · mean h² + Var b; 400 draws, false alarms 1e-4 in all."""
    layer = Conv(8, 3, padding=0, groups=layer.groups, init=layer.init, bias=layer.bias)
    net = Sequential((layer,), (4, 3, 3))
    h = batch_for(net, 1)
    blocks = (h**2).reshape(layer.groups, -1).sum(axis=1)
    expected = layer.weight_variance(net.input_shape) * blocks.mean() + layer.bias_variance(net.input_shape)
    run = prepare(steps(net), scaled(h), False)
    draws = [math.exp(run(streams.stream(7, k))[1, 0]) for k in range(400)]
    mean, error = mean_with_error(draws)
    assert abs(mean - expected) < tolerance(error, 1e-4, len(CONVOLUTIONS), 399)
