"""How far contributions to a kernel's gradient cancel: explicit weights, a layer by hand, and what the paper saw."""

import math

import numpy as np
import pytest
import torch

from bntheory import activation, cnn, leaves, resnet
from bntheory.growth.backward.alignment import kernel_alignment
from bntheory.layers import BatchNorm, Conv, Dense
from bntheory.networks import Sequential
from simulations.growth import uncorrelated_inputs
from simulations.training.modules import build

IMAGES = uncorrelated_inputs((3, 6, 6), 12, 3)
NETWORKS = 16


@pytest.fixture(autouse=True)
def one_thread():
    """Such small networks are faster on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plain(normalized):
    return cnn(depth=5, channels=48, image=(3, 6, 6), batch_norm=normalized, classes=10)


def convolutions(net):
    return [k for k, row in enumerate(leaves(net)) if row.operation.startswith("Conv")]


def one_network(net, alike, draw):
    """Mean a and mean b over the kernel of every convolution, of one draw of the weights and of the output gradient."""
    module, seen = build(net, seed=draw), []

    def record(layer, inputs, output):
        h = inputs[0].detach()
        output.register_hook(lambda g: seen.append((layer, h, g)))

    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(record)
    output = module(torch.tensor(IMAGES, dtype=torch.float32))
    rng = np.random.default_rng(draw)
    own, shared = rng.standard_normal(output.shape), rng.standard_normal((1, *output.shape[1:]))
    output.backward(torch.tensor(math.sqrt(1 - alike) * own + math.sqrt(alike) * shared, dtype=torch.float32))
    results = []
    for layer, h, g in reversed(seen):
        read = torch.nn.functional.unfold(h, layer.kernel_size, padding=layer.padding).movedim(1, 0).flatten(1)
        given = g.movedim(1, 0).flatten(1)
        results.append([(given.abs() @ read.abs().T).mean().item(), (given @ read.T).abs().mean().item()])
    return results


@pytest.mark.parametrize("normalized, alike, slack", [(False, 0.0, 0.15), (False, 1.0, 0.3), (True, 0.0, 0.12)])
def test_against_explicit_weights(normalized, alike, slack):
    """16 networks, 48 channels: E a/E b of every layer within its stated slack and four standard errors.

    The slack is for Σ d that is not Gaussian: least with BatchNorm, most where gradients and activations are all alike.
    """
    net = plain(normalized)
    draws = np.array([one_network(net, alike, draw) for draw in range(NETWORKS)])  # (draws, layers, 2)
    a, b = draws.mean(axis=0).T
    error = (draws[..., 0] - (a / b) * draws[..., 1]).std(axis=0) / b / math.sqrt(NETWORKS)
    predicted = kernel_alignment(net, IMAGES, alike=alike)[convolutions(net)]
    assert np.all(np.abs(predicted - a / b) < slack * a / b + 4 * error)


def test_the_finding_of_the_paper():
    """Without BatchNorm contributions add up, more so further up; with it they cancel, in every layer but the last."""
    without, normalized = (
        kernel_alignment(net, IMAGES, alike=1.0)[convolutions(net)] for net in map(plain, (False, True))
    )
    assert np.all(np.diff(without) < 0) and without[-1] < 1.5
    assert np.all(normalized[1:-1] > 2 * without[1:-1])


@pytest.mark.parametrize("alike", [0.0, 0.3, 1.0])
def test_a_single_layer_by_hand(alike):
    """Gaussian g and h, independent: Σ g h has variance B + alike Σ_{i≠j} h_i h_j, all with Gaussian orthogonal h."""
    h = uncorrelated_inputs((400,), 16, 0)
    net = Sequential((Dense(300),), (400,))
    ratio = kernel_alignment(net, h, alike=alike)[1]
    rng = np.random.default_rng(2)
    g = math.sqrt(1 - alike) * rng.standard_normal((16, 2000)) + math.sqrt(alike) * rng.standard_normal(2000)
    a, b = (np.abs(g).T @ np.abs(h)).mean(), np.abs(g.T @ h).mean()
    assert ratio == pytest.approx(a / b, rel=0.02)


@pytest.mark.parametrize("net", [plain(False), resnet(8, image=(3, 6, 6))], ids=["plain", "resnet"])
def test_sizes_of_images_change_nothing_where_directions_agree(net):
    """Of s x with numbers s all ReLUs are open where those of x are: a and b are Σ s times those of the one image x.

    Within a tenth, as units are sampled; slopes that took sizes for directions were 50% and more off.
    """
    image, sizes = IMAGES[:1], np.array([0.2, 1.0, 1.7, 3.0])[:, None, None, None]
    one, several = (kernel_alignment(net, inputs, alike=1.0)[convolutions(net)] for inputs in (image, sizes * image))
    assert np.abs(several / one - 1).max() < 0.1


def test_rows_without_weights_or_rule():
    net = Sequential((Conv(4), activation("relu"), Conv(4)), (3, 5, 5))
    ratios = kernel_alignment(net, batch_size=2)
    assert np.isnan(ratios[[0, 2]]).all() and np.isfinite(ratios[[1, 3]]).all()
    assert np.isnan(kernel_alignment(Sequential((BatchNorm(), Conv(4)), (3, 5, 5)), batch_size=4)[0])


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"batch_size": 4, "alike": 1.5}, "at most 1, got 1.5"),
        ({}, "give inputs or batch_size"),
        ({"batch_size": 0}, "got 0"),
    ],
)
def test_refusals(arguments, words):
    with pytest.raises(ValueError, match=words):
        kernel_alignment(plain(False), **arguments)
