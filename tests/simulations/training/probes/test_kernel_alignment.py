"""a and b of table 1 against loops over every contribution, and against the prediction at infinite width."""

import itertools
import math

import numpy as np
import pytest

from bntheory import cnn, leaves
from bntheory.architectures import resnet
from bntheory.growth.backward.alignment import kernel_alignment as predicted_alignment
from simulations.growth import uncorrelated_inputs

torch = pytest.importorskip("torch")
probe = pytest.importorskip("simulations.training.probes.kernel_alignment")
build = pytest.importorskip("simulations.training.modules").build
nn, kernel_alignment = torch.nn, probe.kernel_alignment


def product(outputs, targets):
    """A loss whose gradient by the outputs is the targets."""
    return (outputs * targets).sum()


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def padded(layer, read):
    """The input as the kernel's positions see it, and NumPy's words for the ways to pad."""
    if isinstance(layer.padding, str):
        total = [
            (dilation * (size - 1) if layer.padding == "same" else 0)
            for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True)
        ]
        ends = [(width // 2, width - width // 2) for width in total]
    else:
        ends = [(width, width) for width in layer.padding]
    mode = {"zeros": "constant", "circular": "wrap", "reflect": "reflect", "replicate": "edge"}[layer.padding_mode]
    return np.pad(read, [(0, 0), (0, 0), *ends], mode=mode)


def contributions(layer, read, gradient):
    """Σ|d| and Σd of every weight, one contribution after the other."""
    a, total = np.zeros(layer.weight.shape), np.zeros(layer.weight.shape)
    read = padded(layer, read)
    inside = layer.in_channels // layer.groups
    for co, ci, *kernel in itertools.product(*map(range, layer.weight.shape)):
        channel = co // (layer.out_channels // layer.groups) * inside + ci
        for b, *place in itertools.product(range(len(gradient)), *map(range, gradient.shape[2:])):
            at = [
                p * stride + k * dilation
                for p, stride, k, dilation in zip(place, layer.stride, kernel, layer.dilation, strict=True)
            ]
            d = gradient[(b, co, *place)] * read[(b, channel, *at)]
            a[(co, ci, *kernel)] += abs(d)
            total[(co, ci, *kernel)] += d
    return a, np.abs(total)


def judged(found, a, b):
    assert found.ratio[0] == pytest.approx(a.mean() / b.mean(), rel=1e-10)
    assert found.median_ratio[0] == pytest.approx(np.median(a[a > 0] / b[a > 0]), rel=1e-10)
    np.testing.assert_allclose(found.magnitudes[0], b.reshape(*b.shape[:2], -1).sum(axis=2), rtol=1e-9)


CONVOLUTIONS = {
    "plain": nn.Conv2d(2, 3, 3),
    "stride, padding": nn.Conv2d(2, 3, 3, stride=2, padding=1),
    "rectangular, dilated": nn.Conv2d(2, 3, (2, 3), stride=(1, 2), padding=(0, 2), dilation=(1, 2)),
    "groups": nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "depthwise": nn.Conv2d(3, 3, 3, groups=3),
    "same": nn.Conv2d(2, 2, (4, 3), padding="same"),
    "circular": nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
    "reflect": nn.Conv2d(1, 2, 3, padding=(2, 1), padding_mode="reflect"),
    "one axis": nn.Conv1d(2, 3, 3, stride=2, padding=1),
    "three axes": nn.Conv3d(1, 2, 2, padding=1),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("word", CONVOLUTIONS)
def test_every_contribution_to_a_convolution(word):
    layer = CONVOLUTIONS[word].double()
    read = drawn(2, layer.in_channels, *([5, 6, 3] if word == "three axes" else [5, 6])[: len(layer.kernel_size)])
    gradient = drawn(*layer(torch.from_numpy(read)).shape, seed=1)
    found = kernel_alignment(layer, read, gradient, product)
    assert found.layers == ("model",)
    judged(found, *contributions(layer, read, gradient))


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1, "output_padding": 1}, {"groups": 2, "dilation": 2}]
)
def test_every_contribution_to_a_transposed_convolution(options):
    layer = nn.ConvTranspose2d(2, 4, 3, **options).double()
    read = drawn(2, 2, 4, 3)
    gradient = drawn(*layer(torch.from_numpy(read)).shape, seed=1)
    a, total = np.zeros(layer.weight.shape), np.zeros(layer.weight.shape)
    for ci, c, i, j in itertools.product(*map(range, a.shape)):
        co = ci // (2 // layer.groups) * (4 // layer.groups) + c
        for b, x, y in itertools.product(range(2), range(4), range(3)):
            at = [
                p * s - pad + k * dilation
                for p, s, pad, k, dilation in zip(
                    (x, y), layer.stride, layer.padding, (i, j), layer.dilation, strict=True
                )
            ]
            if all(0 <= place < side for place, side in zip(at, gradient.shape[2:], strict=True)):
                d = read[b, ci, x, y] * gradient[b, co, at[0], at[1]]
                a[ci, c, i, j] += abs(d)
                total[ci, c, i, j] += d
    judged(kernel_alignment(layer, read, gradient, product), a, np.abs(total))


@pytest.mark.parametrize("axes", [(), (5,)])
def test_every_contribution_to_a_linear_layer(axes):
    layer, read, gradient = nn.Linear(3, 4).double(), drawn(6, *axes, 3), drawn(6, *axes, 4, seed=1)
    d = gradient.reshape(-1, 4, 1) * read.reshape(-1, 1, 3)
    judged(kernel_alignment(layer, read, gradient, product), np.abs(d).sum(axis=0), np.abs(d.sum(axis=0)))


class InPlace(nn.Module):
    """Writes over the outputs of its layers, as many networks do."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(256, 10)

    def forward(self, h):
        h = self.first(h).relu_()
        h = self.second(h).add_(h).relu_()
        return self.last(h.flatten(1)).mul_(2)


@pytest.mark.parametrize("make", [lambda: build(resnet(14, batch_norm=True, image=(3, 8, 8))), InPlace])
def test_b_is_the_gradient_of_the_weights_throughout_a_network(make):
    """Autograd's own weight gradients, through BatchNorm, shortcuts, in-place functions and cross-entropy."""
    model = make().double()
    images, labels = torch.from_numpy(drawn(5, 3, 8, 8)), torch.arange(5)
    found = kernel_alignment(model, images, labels)
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}
    assert [f"{name}.weight" for name in found.layers] == list(weights)
    gradients = torch.autograd.grad(nn.functional.cross_entropy(model(images), labels), list(weights.values()))
    for pairs, gradient in zip(found.magnitudes, gradients, strict=True):
        expected = gradient.abs().flatten(2).sum(2) if gradient.ndim > 2 else gradient.abs()
        np.testing.assert_allclose(pairs, expected, rtol=1e-8, atol=1e-12 * float(expected.max()))
    assert np.all(found.ratio >= 1)


def test_calls_of_one_module_are_taken_together():
    layer, x, t = nn.Linear(2, 2, bias=False).double(), drawn(3, 2), drawn(3, 2, seed=1)
    found = kernel_alignment(nn.Sequential(layer, layer), x, t, product)
    weight = layer.weight.detach().numpy()
    d = np.concatenate([(t @ weight)[:, :, None] * x[:, None], t[:, :, None] * (x @ weight.T)[:, None]])
    judged(found, np.abs(d).sum(axis=0), np.abs(d.sum(axis=0)))


def test_weights_that_are_computed_from_others_and_layers_that_no_image_reaches():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
            self.constant, self.unused = nn.Linear(4, 2), nn.Linear(2, 2)

        def forward(self, h):
            return self.normed(h) + self.constant(torch.ones(1, 4, dtype=h.dtype))

    model, x, t = Model().double(), drawn(4, 3), drawn(4, 2, seed=1)
    found = kernel_alignment(model, x, t, product)
    assert found.layers == ("normed",)
    d = t[:, :, None] * x[:, None]
    judged(found, np.abs(d).sum(axis=0), np.abs(d.sum(axis=0)))
    with pytest.raises(ValueError, match="no convolution or linear layer of Embedded lies between"):
        kernel_alignment(Embedded(), x, t, lambda outputs, _: outputs.sum())


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(3, 3))

    def forward(self, h):
        return h.float() @ self.table


def test_inputs_of_zero_and_sizes_of_the_whole_range():
    """Weights whose input is always 0 have a = b = 0 and no a/b; large sizes change no ratio."""
    x, t = drawn(6, 3), drawn(6, 2, seed=1)
    usual = kernel_alignment(nn.Linear(3, 2).double(), x, t, product)
    huge = kernel_alignment(nn.Linear(3, 2).double(), 1e150 * x, 1e150 * t, product)
    np.testing.assert_allclose([huge.ratio, huge.median_ratio], [usual.ratio, usual.median_ratio], rtol=1e-12)
    x[:, 0] = 0
    found = kernel_alignment(nn.Linear(3, 2).double(), x, t, product)
    d = t[:, :, None] * x[:, None]
    judged(found, np.abs(d).sum(axis=0), np.abs(d.sum(axis=0)))
    dead = kernel_alignment(nn.Linear(3, 2).double(), x, 0 * t, product)
    assert math.isnan(dead.ratio[0]) and math.isnan(dead.median_ratio[0])


@pytest.mark.parametrize("normalized, slack", [(False, 0.15), (True, 0.12)])
def test_against_the_prediction_at_infinite_width(normalized, slack):
    """White gradients at the output, 16 networks of 48 channels: within four standard errors and the stated slack.

    The slack is that of the prediction's own test, for Σ d that is not Gaussian.
    """
    net = cnn(depth=5, channels=48, image=(3, 6, 6), batch_norm=normalized, classes=10)
    images = uncorrelated_inputs((3, 6, 6), 12, 3)
    draws = []
    for draw in range(16):
        found = kernel_alignment(build(net, seed=draw), images.astype(np.float32), drawn(12, 10, seed=draw), product)
        b = np.array([pairs.sum() for pairs in found.magnitudes[:-1]])
        draws.append([found.ratio[:-1] * b, b])
    a, b = np.mean(draws, axis=0)
    error = np.std([a_draw - a / b * b_draw for a_draw, b_draw in draws], axis=0) / b / math.sqrt(len(draws))
    rows = [row for row, leaf in enumerate(leaves(net)) if leaf.operation.startswith("Conv")]
    predicted = predicted_alignment(net, images)[rows]
    assert np.all(np.abs(predicted - a / b) < slack * a / b + 4 * error)


def test_one_layer_is_drawn_by_its_channel_pairs():
    from matplotlib.figure import Figure

    model = build(resnet(8, image=(1, 4, 4)))
    found = kernel_alignment(model, drawn(3, 1, 4, 4), [0, 1, 2])
    ax = found.plot(Figure().add_subplot(), layer=4)
    assert ax.images[0].get_array().shape == (32, 16)
