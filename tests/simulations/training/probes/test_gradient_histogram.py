"""Weight gradients against a closed form and differences; layers as the paper counts them."""

import numpy as np
import pytest
import scipy.stats

from bntheory.architectures import resnet

torch = pytest.importorskip("torch")
histogram = pytest.importorskip("simulations.training.probes.gradient_histogram")
layers = pytest.importorskip("simulations.training.probes.weight_layers")
build = pytest.importorskip("simulations.training.modules").build
nn, gradient_histogram = torch.nn, histogram.gradient_histogram


def product(outputs, targets):
    """A loss whose gradient by the outputs is the targets."""
    return (outputs * targets).sum()


def test_a_linear_layer_in_closed_form():
    """∂L/∂W = Σ t xᵀ."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((40, 30)), rng.standard_normal((40, 50))
    found = gradient_histogram(nn.Linear(30, 50).double(), x, t, product)
    gradient = (t.T @ x).ravel()
    assert (found.layers, found.numbers, found.layer) == (("model",), (1,), "all layers")
    assert found.std[0] == pytest.approx(gradient.std(), rel=1e-12)
    assert found.kurtosis[0] == pytest.approx(scipy.stats.kurtosis(gradient, fisher=False), rel=1e-12)
    assert found.half_width[0] == pytest.approx(np.abs(gradient).max(), rel=1e-14)
    counts, edges = np.histogram(gradient, bins=101, range=(-np.abs(gradient).max(), np.abs(gradient).max()))
    assert found.counts.tolist() == counts.tolist() and found.counts.sum() == 1500
    np.testing.assert_allclose(found.edges, edges, atol=1e-14 * edges[-1])


@pytest.mark.parametrize("layer", [None, 1, 4, "5.shortcut.0"])
def test_a_network_against_differences(layer):
    """Central differences of the loss, weight by weight, in float64."""
    model = build(resnet(8, batch_norm=True, image=(1, 4, 4), classes=3), dtype="float64")
    rng = np.random.default_rng(1)
    x, y = torch.from_numpy(rng.standard_normal((5, 1, 4, 4))), torch.from_numpy(rng.integers(3, size=5))
    found = gradient_histogram(model, x, y, layer=layer, bins=5)
    number = layers.numbered(found.layers)
    name = {None: "0", 1: "0", 4: next(key for key in number if number[key] == 4)}.get(layer, layer)
    assert found.layer == ("all layers" if layer is None else name)
    weight, step = model.get_parameter(f"{name}.weight"), 1e-6
    chosen = rng.choice(weight.numel(), size=min(weight.numel(), 60), replace=False)
    differences = []
    with torch.no_grad():
        for index in chosen:
            values = []
            for sign in (1, -1):
                weight.view(-1)[index] += sign * step
                values.append(float(nn.functional.cross_entropy(model(x), y)))
                weight.view(-1)[index] -= sign * step
            differences.append((values[0] - values[1]) / (2 * step))
    exact = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), weight)[0].flatten()
    np.testing.assert_allclose(differences, exact[chosen], atol=1e-7)
    assert found.std[found.layers.index(name)] == pytest.approx(float(exact.std(correction=0)), rel=1e-10)
    total = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1)
    assert found.counts.sum() == (total if layer is None else weight.numel())


@pytest.mark.parametrize("depth", [8, 20, 110])
def test_layers_as_the_paper_counts_them(depth):
    """The stem is 1, the classifier the depth, even layers are first convolutions of blocks; no projections."""
    model = build(resnet(depth, image=(3, 8, 8)))
    names = layers.weights(model)
    number = layers.numbered(names)
    assert len(number) == depth and len(names) == depth + 2
    by_number = {place: model.get_submodule(name) for name, place in number.items()}
    assert by_number[1].in_channels == 3 and isinstance(by_number[depth], nn.Linear)
    assert [by_number[place].in_channels for place in (2, depth - 1)] == [16, 64]
    strides = [place for place in range(1, depth) if by_number[place].stride != (1, 1)]
    assert strides == [(depth - 2) // 3 + 2, 2 * (depth - 2) // 3 + 2]
    assert all("branch.0" in name for name, place in number.items() if 1 < place < depth and place % 2 == 0)


def test_extreme_sizes_and_equal_gradients():
    x, t = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([[2.0], [5.0]])
    model = nn.Linear(2, 1).double()
    usual, huge = (gradient_histogram(model, x, size * t, product) for size in (1, 1e200))
    assert huge.std[0] == pytest.approx(1e200 * usual.std[0]) and huge.kurtosis[0] == pytest.approx(usual.kurtosis[0])
    assert huge.counts.tolist() == usual.counts.tolist() and huge.reach == pytest.approx(1e200 * usual.reach)
    none = gradient_histogram(model, x, 0 * t, product)
    assert none.std[0] == none.half_width[0] == 0 and np.isnan(none.kurtosis[0]) and none.counts[50] == 2
    infinite = gradient_histogram(model, 1e200 * x, 1e200 * t, product)
    assert np.isnan(infinite.std[0]) and not infinite.counts.any()
    with pytest.raises(ValueError, match="are not finite: there is no histogram"):
        infinite.plot()


REFUSED = {
    "layer must be from 1 to 8, the layers along the main path, got 9": 9,
    "layer must be from 1 to 8, the layers along the main path, got 0": 0,
    "or one of 0, 2.branch.0, 2.branch.2, 4.branch.0, …, 10; got 'stem'": "stem",
}


@pytest.mark.parametrize("message", REFUSED)
def test_layers_that_are_not_there(message):
    model = build(resnet(8, image=(1, 4, 4)))
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        gradient_histogram(model, np.random.default_rng(0).random((2, 1, 4, 4)), [0, 1], layer=REFUSED[message])
