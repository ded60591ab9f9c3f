"""Channel moments along the step against stored activations of networks that torch's optimizer has moved."""

import math

import numpy as np
import pytest

import simulations as sim
from bntheory.architectures import resnet

torch = pytest.importorskip("torch")
nn, moments_along_step = torch.nn, sim.moments_along_step


@pytest.mark.parametrize("batch_norm", [False, True])
def test_against_stored_activations(batch_norm, stepped):
    model = sim.build(resnet(8, batch_norm=batch_norm, image=(1, 6, 6)), seed=1, dtype="float64")
    rng = np.random.default_rng(2)
    images, labels = torch.from_numpy(rng.standard_normal((5, 1, 6, 6))), torch.from_numpy(rng.integers(10, size=5))
    layers = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d)][:3]
    found = moments_along_step(model, images, labels, step=0.2, layers=layers, fractions=[1, 0.5, 0])
    assert found.layers == tuple(layers) and found.fractions.tolist() == [0, 0.5, 1]
    for row, fraction in enumerate(found.fractions):
        moved = stepped(model, images, labels, 0.2 * fraction)
        for index, name in enumerate(layers):
            kept = []
            moved.get_submodule(name).register_forward_hook(lambda _m, _i, output, kept=kept: kept.append(output))
            with torch.no_grad():
                moved(images)
            h = kept[0].numpy()
            np.testing.assert_allclose(found.mean[index][row], h.mean(axis=(0, 2, 3)), rtol=0, atol=1e-12)
            np.testing.assert_allclose(found.variance[index][row], h.var(axis=(0, 2, 3)), rtol=1e-11, atol=1e-13)
    same = sim.loss_along_step(model, images, labels, steps=[0.1, 0.2])
    np.testing.assert_allclose(found.log_relative_loss[1:], same.log_relative_loss, rtol=0, atol=1e-13)
    assert found.log_relative_loss[0] == 0


class Deep(nn.Module):
    """Linear layers of one unit, all weights 1: after a step of α each is 1 − 2α x², of the loss y²."""

    def __init__(self, depth):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(depth)))
        for layer in self.layers:
            nn.init.ones_(layer.weight)

    def forward(self, x):
        return self.layers(x)


def test_the_smallest_diverging_step_and_what_float32_cannot_hold():
    """(1 − 2α)^depth at layer `depth`, beyond e^88 too, until float64 ends."""
    given = torch.ones(1, 1), torch.zeros(1, 1), nn.functional.mse_loss
    with pytest.raises(ValueError, match=r"no step up to 0.2 raises the loss by 1000, at most by 0\.999.*: give step"):
        moments_along_step(Deep(30), *given)
    found = moments_along_step(Deep(100), *given, step=9.0, layers=["layers.9", "layers.99"], fractions=[0, 1])
    assert found.mean[0][:, 0] == pytest.approx([1, 17**10], rel=1e-6)
    assert found.mean[1][1, 0] == pytest.approx(17.0**100, rel=1e-4) and found.variance[1][1, 0] == 0
    assert found.log_relative_loss[1] == pytest.approx(200 * math.log(17), rel=1e-5) and "e+246" in found.table()
    lost = moments_along_step(Deep(300), *given, step=9.0, layers=["layers.299"], fractions=[1])
    assert lost.mean[0] == math.inf and lost.log_relative_loss == math.inf
    with torch.no_grad():
        steep = Deep(30)
        for layer in steep.layers:
            layer.weight *= 1.3
    curve = sim.loss_along_step(steep, *given)
    assert moments_along_step(steep, *given).step == curve.steps[curve.first_diverging]


def test_layers_by_default(tanh_net, blobs):
    found = moments_along_step(tanh_net, *blobs, step=0.1)
    assert found.layers == ("0", "2") and len(found.fractions) == 21
    assert [part.shape for part in found.mean] == [(21, 3), (21, 3)]


def test_the_last_call_of_a_module_counts(blobs):
    torch.manual_seed(0)
    layer = nn.Linear(4, 4).double()
    model = nn.Sequential(layer, nn.Tanh(), layer)
    found = moments_along_step(model, *blobs, step=0.1, layers=["0"], fractions=[0])
    with torch.no_grad():
        np.testing.assert_allclose(found.mean[0][0], model(blobs[0]).mean(0), rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0}, "step must be finite and above 0, got 0"),
        ({"step": math.nan}, "step must be finite and above 0, got nan"),
        ({"step": 1, "layers": ["3"]}, "layers must be one of .*; got '3'"),
        ({"step": 1, "layers": "0"}, "layers must be a list of names, got '0'"),
        ({"step": 1, "fractions": [0, 1.5]}, r"fractions must be in \[0, 1\], at least one, got \[0, 1.5\]"),
        ({"step": 1, "fractions": []}, r"fractions must be in \[0, 1\], at least one, got \[\]"),
    ],
)
def test_refusals(options, message, tanh_net, blobs):
    with pytest.raises(ValueError, match=message):
        moments_along_step(tanh_net, *blobs, **options)


def test_layers_that_cannot_be_seen(tanh_net, blobs):
    tanh_net.spare, forward = nn.Linear(2, 2), tanh_net[0:3].forward
    tanh_net.forward = lambda x: forward(x)
    with pytest.raises(ValueError, match="layers: 'spare' does not run in this model's forward pass"):
        moments_along_step(tanh_net, *blobs, step=0.1, layers=["spare"])
    flat = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)).double()
    with pytest.raises(ValueError, match=r"layers: '1' must return a real tensor \(batch, channels, …\), got \(12,\)"):
        moments_along_step(flat, blobs[0], blobs[1].double(), nn.functional.mse_loss, step=0.1, layers=["1"])
    assert not flat[1]._forward_hooks
    affine = nn.LayerNorm(4).double()
    with pytest.raises(ValueError, match=r"no module with a weight of two axes or more returns channels: give layers="):
        moments_along_step(affine, *blobs, step=0.1)


def test_layers_that_return_no_channels_are_not_chosen():
    """Attention returns a pair, and its projection does not run as a module."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(32, 3))
    found = moments_along_step(model, torch.randn(6, 4, 8), torch.arange(6) % 3, step=0.1, fractions=[0, 1])
    assert found.layers == ("0.linear1", "0.linear2", "2")
