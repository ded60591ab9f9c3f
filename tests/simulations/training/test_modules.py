"""The torch module of a description: names, weight laws, functions computed, and that nothing global is touched."""

import importlib.util
import math
import sys

import numpy as np
import pytest
from scipy import stats

from bntheory.activations import Activation, activation
from bntheory.architectures import cnn, mlp, resnet, vgg
from bntheory.initializations import INITIALIZATIONS, initialization
from bntheory.layers import Affine, BatchNorm, Conv, Dense, Dropout, Flatten, GroupNorm, LayerNorm, Pad, Pool, Unknown
from bntheory.networks import Join, Residual, Sequential, leaves
from bntheory.positional import ConvTranspose, Mix, Offset
from bntheory.rearrangements import Channels, Unflatten, Unroll, Upsample

torch = pytest.importorskip("torch")
modules = pytest.importorskip("simulations.training.modules")
build, nn_functional = modules.build, torch.nn.functional

NETWORKS = {
    "mlp": mlp(3, 8, bias=0.1),
    "residual mlp": mlp(2, 8, "gelu", "torch_default", None, True, True, input_width=4, output_width=2),
    "resnet": resnet(14, batch_norm=True),
    "zero-pad resnet": resnet(14, shortcut="zero-pad"),
    "nested": Sequential(
        (
            Conv(8, 5, stride=2, padding=1, dilation=2, groups=2),
            Sequential((Pool("max", 2, 1), Sequential((activation("erf"),)))),
            Pool("average", 2),
            Pad((0, 1, 2, 0)),
            Pool("max", 3, 1, 1),
            Pool("max"),
            Flatten(),
            Dense(5, "orthogonal"),
        ),
        (4, 16, 16),
    ),
    "pre-norm blocks": Sequential(
        (
            LayerNorm(),
            LayerNorm(0.2, "channels"),
            Conv(6),
            Dropout(0.2),
            Residual((LayerNorm(0.1), Conv(6), activation("gelu"), Dropout(0.1)), (Conv(6, 1),), 0.3),
            Flatten(),
            Dense(5),
            Residual((LayerNorm(), Dense(5), Dropout(0.5)), scale=2),
        ),
        (3, 4, 4),
    ),
    "other normalizations": Sequential(
        (
            GroupNorm(3, 0.1),
            Conv(6),
            BatchNorm(0.2, 3.0, training=False),
            Residual((GroupNorm(2), Conv(6), BatchNorm(gamma=0))),
            Flatten(),
            GroupNorm(4),
            BatchNorm(gamma=0.1),
        ),
        (3, 4, 4),
    ),
    "factors and pairs": Sequential(
        (Affine((0.5, 1.0, 2.0), 0.1), Conv(2), Residual((Conv(2), Affine((1.0, 2.0), (0.0, 1.0)))), Flatten()),
        (3, 4, 4),
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
            Dense(24),
            Unflatten((6, 2, 2)),
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
    "vgg": vgg(13, batch_norm=True, image=(1, 8, 8), channels=2),
    "cnn": cnn(3, 4, bias=0.1, image=(2, 5, 5), classes=3),
    "mlp LayerNorm": mlp(2, 5, layer_norm=True),
    "joins": Sequential(
        (
            Join(((Conv(4), BatchNorm()), (Conv(2, 1),), ())),
            Join(((), (Pool(), Conv(9, 1), activation("sigmoid"))), "product"),
            Flatten(),
            Join(((Dense(3),), (Residual((Dense(3),), (Dense(3),)),)), "product"),
        ),
        (3, 4, 4),
    ),
}
WITH_WEIGHTS = (Dense, Conv, BatchNorm, LayerNorm, GroupNorm, Affine, Offset, Mix, ConvTranspose)
P_VALUE = 1e-6  # false-alarm rate of each test of a distribution; the seeds are fixed
SIGMAS = 5  # 6e-7


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)
def test_state_dict_is_named_after_the_rows(net):
    model = build(net)
    with_weights = [leaf.name for leaf in leaves(net) if isinstance(leaf.layer, WITH_WEIGHTS)]
    assert list(dict.fromkeys(key.rpartition(".")[0] for key in model.state_dict())) == with_weights
    named = dict(model.named_modules())
    for leaf in leaves(net):
        if leaf.operation not in ("input", "sum", "concatenate", "product"):
            assert named[leaf.name].description is leaf.layer
    shape = (2, *net.input_shape)
    assert tuple(model(torch.ones(shape)).shape[1:]) == net.output_shape(net.input_shape)


def test_unknown_operations_are_refused_by_name():
    joined = Join(((), ()), Unknown("attention", (4,)))
    with pytest.raises(ValueError, match=r"row 0.unknown \(attention\) cannot be built: only the shape of its output"):
        build(Sequential((joined,), (4,)))
    assert repr(modules.Join([torch.nn.Sequential()] * 2, "product")).startswith("Join(\n  product")


@pytest.mark.parametrize(
    ("depth", "shortcut", "expected"),
    [
        (20, "zero-pad", 269_712),
        (20, "projection", 272_464),
        (110, "zero-pad", 1_727_952),
        (110, "projection", 1_730_704),
    ],
)
def test_resnet_has_the_parameters_of_he_et_al(depth, shortcut, expected):
    """Table 6 there: 0.27 M and 1.7 M, shortcuts without parameters; ours has no bias in the classifier (10 fewer)."""
    net = resnet(depth, batch_norm=True, shortcut=shortcut)
    model = build(net)
    blocks, by_hand = (depth - 2) // 6, 3 * 16 * 9 + 2 * 16 + 64 * 10
    for old, new in ((16, 16), (16, 32), (32, 64)):
        by_hand += 9 * new * old + 9 * new * new * (2 * blocks - 1) + 2 * blocks * 2 * new
        by_hand += (old * new + 2 * new) * (shortcut == "projection" and old != new)
    assert parameters(model) == by_hand == expected
    convolutions = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    assert len([name for name in convolutions if "shortcut" not in name]) == depth - 1
    assert len(convolutions) - (depth - 1) == 2 * (shortcut == "projection")


LAYERS = {
    "dense": (Dense(80), (120,)),
    "conv": (Conv(40, kernel=3), (24, 4, 4)),
    "grouped conv": (Conv(48, kernel=3, groups=4), (64, 4, 4)),
}


@pytest.mark.parametrize("law", [law for law in INITIALIZATIONS.values() if law.distribution != "orthogonal"], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_weights_follow_their_law(kind, law):
    layer, shape = LAYERS[kind]
    layer = type(layer)(**{**vars(layer), "init": law})
    weights = build(Sequential((layer,), shape), seed=2, dtype="float64")[0].weight.detach().numpy().ravel()
    deviation = math.sqrt(layer.weight_variance(shape))
    kurtosis = {"normal": 3.0, "uniform": 1.8}[law.distribution]
    assert np.mean(weights**2) / deviation**2 == pytest.approx(1, abs=SIGMAS * math.sqrt((kurtosis - 1) / weights.size))
    expected = stats.norm() if law.distribution == "normal" else stats.uniform(-math.sqrt(3), 2 * math.sqrt(3))
    assert stats.kstest(weights / deviation, expected.cdf).pvalue > P_VALUE
    neighbours = np.corrcoef(weights[1:], weights[:-1])[0, 1]
    assert abs(neighbours) < SIGMAS / math.sqrt(weights.size)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("gain", [1.0, 1.5])
def test_orthogonal_weights_are_orthogonal(kind, gain):
    layer, shape = LAYERS[kind]
    layer = type(layer)(**{**vars(layer), "init": initialization("orthogonal", gain=gain)})
    weight = build(Sequential((layer,), shape), dtype="float64")[0].weight.detach().flatten(1)
    small = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    assert torch.allclose(small, gain**2 * torch.eye(len(small), dtype=torch.float64), atol=1e-12)
    assert float((weight**2).mean()) == pytest.approx(layer.weight_variance(shape))


def test_orthogonal_weights_are_haar_distributed():
    """An entry of a Haar orthogonal 3×3 matrix is uniform on (−1, 1); without the sign rule QR's corner is not."""
    net = Sequential((Dense(3, "orthogonal"),), (3,))
    draws = np.array([build(net, 0, "float64", draw)[0].weight.detach().numpy() for draw in range(300)])
    for row, column in ((0, 0), (1, 2), (2, 2)):
        assert stats.kstest(draws[:, row, column], stats.uniform(-1, 2).cdf).pvalue > P_VALUE


def test_biases():
    """No parameter for variance 0, Gaussian for a variance of its own, torch's uniform by default."""
    wide = 20_000
    none, gaussian, default = (
        build(Sequential((Dense(wide, init, bias),), (3,)), dtype="float64")[0].bias
        for init, bias in (("he_normal", None), ("he_normal", 0.3), ("torch_default", None))
    )
    assert none is None
    assert build(Sequential((Dense(4, "torch_default", 0.0),), (3,)))[0].bias is None
    gaussian, default = gaussian.detach().numpy(), default.detach().numpy()
    assert stats.kstest(gaussian, stats.norm(scale=math.sqrt(0.3)).cdf).pvalue > P_VALUE
    bound = 1 / math.sqrt(3)
    assert stats.kstest(default, stats.uniform(-bound, 2 * bound).cdf).pvalue > P_VALUE


def test_deterministic_and_apart_from_global_state():
    net = NETWORKS["residual mlp"]
    state = torch.get_rng_state()
    first = build(net, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        again = build(net, seed=5).state_dict()
    finally:
        torch.set_default_dtype(default)
        torch.set_rng_state(state)
    assert first["0.weight"].dtype == torch.float32
    for key, value in first.items():
        assert torch.equal(value, again[key]) and value.dtype == again[key].dtype
    exact = build(net, seed=5, dtype=torch.float64).state_dict()
    assert all(torch.equal(value, exact[key].to(value.dtype)) for key, value in first.items())
    others = [build(net, seed=6), build(net, seed=5, draw=1), build(net, seed=2**100)]
    weights = {tuple(model[0].weight.flatten().tolist()) for model in (build(net, seed=5), *others)}
    assert len(weights) == 4


def test_a_generator_is_a_seed_and_is_advanced():
    generator = np.random.default_rng(1)
    models = [build(mlp(1, 4), seed=generator)[0].weight for _ in range(2)]
    assert not torch.equal(*models)
    assert torch.equal(models[0], build(mlp(1, 4), seed=np.random.default_rng(1))[0].weight)


KNOWN = ["linear", "relu", "leaky_relu(0.3)", "tanh", "erf", "sigmoid", "gelu", "silu", "elu", "selu", "softplus"]
KNOWN += ["softsign", "mish", "gelu_tanh", "logsigmoid", "tanhshrink", "relu6", "hardtanh", "hardsigmoid", "hardswish"]
KNOWN += ["elu(0.3)"]
SQUARE = Activation.from_function("half square", lambda x: x**2 / 2, lambda x: x)


@pytest.mark.parametrize("phi", [*map(activation, KNOWN), SQUARE], ids=str)
def test_activations_compute_phi_and_its_derivative(phi):
    module = build(Sequential((phi,), (1,)), dtype="float64")[0]
    x = np.linspace(-30, 30, 241) + 0.01
    h = torch.from_numpy(x).requires_grad_()
    values = module(h)
    (slope,) = torch.autograd.grad(values.sum(), h)
    np.testing.assert_allclose(values.detach(), phi.phi(x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(slope, phi.dphi(x), rtol=1e-12, atol=1e-14)
    assert module(torch.zeros(2, dtype=torch.float32)).dtype == torch.float32


def test_a_user_s_activation_has_jacobians_but_no_second_derivative():
    module = build(Sequential((SQUARE,), (1,)), dtype="float64")[0]
    h = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert torch.equal(torch.func.jacrev(module)(h), torch.diag(h))
    h.requires_grad_()
    (slope,) = torch.autograd.grad(module(h).sum(), h, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        slope.sum().backward()
    assert repr(module) == "Pointwise(half square)"


def test_modules_of_our_own():
    h = torch.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    padded = modules.ZeroPad(4, stride=2)(h)
    assert padded.shape == (1, 4, 2, 2)
    assert padded[0, 1].tolist() == [[1.0, 3.0], [9.0, 11.0]]
    assert float(padded[0, [0, 2, 3]].abs().sum()) == 0
    block = modules.Residual(torch.nn.Sequential(torch.nn.ReLU()), torch.nn.Sequential())
    assert block(torch.tensor([-1.0, 2.0])).tolist() == [-1.0, 4.0]
    assert repr(modules.ZeroPad(4, 2)) == "ZeroPad(4, stride=2)"


def test_windows_are_the_description_s():
    """Pools against plain reshaping; a convolution against torch's function with the same options."""
    h = torch.randn(2, 4, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    windows = h[..., :8, :8].unflatten(3, (4, 2)).unflatten(2, (4, 2))
    for pool, expected in (
        (Pool("average", 2), windows.mean((3, 5))),
        (Pool("max", 2), windows.amax((3, 5))),
        (Pool("max", 1, 4), h[..., ::4, ::4]),
        (Pool("average"), h.mean((2, 3), keepdim=True)),
        (Pool("max"), h.amax((2, 3), keepdim=True)),
    ):
        assert torch.allclose(build(Sequential((pool,), (4, 9, 9)))(h), expected), pool
    conv = build(Sequential((Conv(6, 3, 2, padding=3, dilation=2, groups=2, bias=1.0),), (4, 9, 9)), dtype="float64")[0]
    expected = nn_functional.conv2d(h, conv.weight, conv.bias, stride=2, padding=3, dilation=2, groups=2)
    assert torch.equal(conv(h), expected)


def test_a_residual_network_computes_what_its_description_says():
    net = mlp(2, 6, "tanh", residual=True, bias=0.2)
    model = build(net, dtype="float64")
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    h = np.random.default_rng(0).standard_normal((5, 6))
    expected = h
    for block in ("0", "1"):
        expected = expected + np.tanh(expected) @ state[f"{block}.branch.1.weight"].T + state[f"{block}.branch.1.bias"]
    np.testing.assert_allclose(model(torch.from_numpy(h)).detach(), expected, rtol=1e-12)


def test_batch_norm_is_the_description_s():
    flat = build(Sequential((BatchNorm(0.5),), (3,)))[0]
    image = build(Sequential((BatchNorm(),), (3, 4, 4)))[0]
    assert isinstance(flat, torch.nn.BatchNorm1d) and flat.eps == 0.5 and flat.training
    assert isinstance(image, torch.nn.BatchNorm2d) and image.eps == 1e-5
    assert bool((flat.weight == 1).all()) and bool((flat.bias == 0).all())


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_gamma_is_the_description_s_and_can_be_trained(shape):
    h = torch.randn(6, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    plain = nn_functional.batch_norm(h, None, None, training=True)
    for gamma in (0.0, 0.1, 3.0):
        module = build(Sequential((BatchNorm(gamma=gamma),), shape), dtype="float64")[0]
        assert bool((module.weight == gamma).all())  # to the last bit, although torch makes its weights in float32
        np.testing.assert_allclose(module(h).detach(), gamma * plain, rtol=1e-13, atol=1e-15)
        module.zero_grad()
        (module(h) * h).sum().backward()
        assert module.weight.requires_grad and bool((module.weight.grad > 0).all())
    assert build(Sequential((BatchNorm(gamma=0.1),), shape))[0].weight.dtype == torch.float32


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_an_evaluated_batch_norm_uses_mean_0_and_variance_1(shape):
    """One input is enough, and the running statistics stay; the other modules are in training mode."""
    model = build(Sequential((activation("relu"), BatchNorm(0.5, 3.0, training=False)), shape), dtype="float64")
    assert model.training and model[0].training and not model[1].training
    h = torch.linspace(0, 4, math.prod(shape), dtype=torch.float64).reshape(1, *shape)
    np.testing.assert_allclose(model(h).detach(), 3 * h / math.sqrt(1.5), rtol=1e-14)
    assert int(model[1].num_batches_tracked) == 0 and bool((model[1].running_mean == 0).all())


@pytest.mark.parametrize("shape", [(8,), (4, 3, 5)])
def test_group_norm_is_torch_s(shape):
    module = build(Sequential((GroupNorm(2, 0.5),), shape), dtype="float64")[0]
    h = 3 * np.random.default_rng(1).standard_normal((4, *shape)) + 1
    grouped = h.reshape(4, 2, -1)
    expected = (grouped - grouped.mean(2, keepdims=True)) / np.sqrt(grouped.var(2, keepdims=True) + 0.5)
    np.testing.assert_allclose(module(torch.from_numpy(h)).detach(), expected.reshape(h.shape), rtol=1e-12, atol=1e-14)
    assert isinstance(module, torch.nn.GroupNorm) and build(Sequential((GroupNorm(2),), shape))[0].eps == 1e-5


def test_vgg_has_the_parameters_of_its_convolutions():
    """Table 2 of the paper less its three Dense layers and all biases, and 512 · 10 of ours: 14.7 M for VGG-16."""
    widths = [3, 64, 64, 128, 128, *[256] * 3, *[512] * 6]
    by_hand = sum(9 * old * new for old, new in zip(widths, widths[1:], strict=False)) + 512 * 10
    assert parameters(build(vgg(16))) == by_hand == 14_715_584


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_layer_norm_is_over_all_entries_of_one_input(shape):
    module = build(Sequential((LayerNorm(0.5),), shape), dtype="float64")[0]
    h = 3 * np.random.default_rng(1).standard_normal((4, *shape)) + 1
    axes = tuple(range(1, h.ndim))
    expected = (h - h.mean(axes, keepdims=True)) / np.sqrt(h.var(axes, keepdims=True) + 0.5)
    output = module(torch.from_numpy(h))
    np.testing.assert_allclose(output.detach(), expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(output, nn_functional.layer_norm(torch.from_numpy(h), shape, eps=0.5))
    assert isinstance(module, torch.nn.LayerNorm) and build(Sequential((LayerNorm(),), shape))[0].eps == 1e-5


def test_dropout_is_torch_s_and_draws_nothing_while_building():
    """Share of zeros: false-alarm rate 6e-7."""
    state = torch.get_rng_state()
    module = build(Sequential((Dropout(0.3),), (20_000,)), dtype="float64")[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(module, torch.nn.Dropout) and module.p == 0.3 and module.training and not module.inplace
    h = torch.ones(2, 20_000, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        output = module(h)
        torch.manual_seed(3)
        assert torch.equal(output, nn_functional.dropout(h, 0.3, training=True))
    assert set(output.flatten().tolist()) == {0.0, 1 / 0.7}
    for of_one_input in (output == 0).double().mean(1):
        assert float(of_one_input) == pytest.approx(0.3, abs=SIGMAS * math.sqrt(0.3 * 0.7 / 20_000))
    assert not torch.equal(output[0], output[1])
    assert torch.equal(module.eval()(h), h)


def test_a_block_s_scale_multiplies_its_branch():
    net = Sequential((Residual((activation("tanh"), Dense(3)), (Dense(3),), scale=0.25),), (5,))
    block, h = build(net, dtype="float64")[0], torch.linspace(-2, 2, 10, dtype=torch.float64).reshape(2, 5)
    branch, shortcut = torch.tanh(h) @ block.branch[1].weight.T, h @ block.shortcut[0].weight.T
    assert torch.allclose(block(h), 0.25 * branch + shortcut, rtol=1e-13, atol=1e-15)
    assert block.scale == 0.25 and "scale=0.25" in repr(block) and block.description is net.layers[0]
    plain = build(Sequential((Residual((activation("tanh"), Dense(3)), (Dense(3),)),), (5,)), dtype="float64")[0]
    assert torch.equal(plain.branch[1].weight, block.branch[1].weight) and "scale" not in repr(plain)
    assert torch.allclose(plain(h), branch + shortcut, rtol=1e-13, atol=1e-15)


def test_bad_arguments():
    with pytest.raises(ValueError, match="a network needs an input shape"):
        build(Sequential((Dense(3),)))
    with pytest.raises(ValueError, match="a network needs an input shape"):
        build(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="dtype must be one of float32, float64; got 'float16'"):
        build(mlp(1, 4), dtype=torch.float16)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        build(mlp(1, 4), seed=-1)
    with pytest.raises(ValueError, match="draw must be at least 0, got -1"):
        build(mlp(1, 4), draw=-1)


def test_without_torch_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    spec = importlib.util.spec_from_file_location("modules_without_torch", modules.__file__)
    with pytest.raises(ImportError, match=r'this needs PyTorch: pip install "bntheory\[train\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
