"""Laws of all probes on demand: the model stays as it is, and bad input is refused in one line."""

import json
import math
import random

import numpy as np
import pytest

import simulations as sim

torch = pytest.importorskip("torch")
nn = torch.nn
ON_BATCH = {
    "loss_along_step": lambda *given: sim.loss_along_step(*given, steps=[0.01, 0.1]),
    "moments_along_step": lambda *given: sim.moments_along_step(*given, step=0.1, fractions=[0, 1]),
    "sgd_noise": lambda *given: sim.sgd_noise(*given, batch_size=4, batches=4),
    "curvature": sim.curvature,
    "stable_step": lambda *given: sim.stable_step(*given, iterations=2, tolerance=0.5),
}
OF_WEIGHTS = {"weight_spectra": lambda model, *_: sim.weight_spectra(model, trials=100)}
PROBES = ON_BATCH | OF_WEIGHTS
every = pytest.mark.parametrize("name", PROBES)
on_batch = pytest.mark.parametrize("name", ON_BATCH)


class Pair(nn.Module):
    """Returns no tensor."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3, dtype=torch.float64)

    def forward(self, x):
        return self.linear(x), x


def everything(model):
    """All that a probe could change."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    gradients = {name: own.grad for name, own in model.named_parameters()}
    modes = [(part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in model.modules()]
    flags = [own.requires_grad for own in model.parameters()]
    states = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    return {
        "same tensors": {name: id(tensor) for name, tensor in tensors.items()},
        "values": {name: tensor.tolist() for name, tensor in tensors.items()},
        "gradients": {name: None if each is None else (id(each), each.tolist()) for name, each in gradients.items()},
        "rest": (modes, flags, states, torch.is_grad_enabled(), model.count),
    }


@every
@pytest.mark.parametrize("training", [True, False])
def test_nothing_changes(name, training, drifting, blobs):
    model = drifting().train(training)
    model.norm.train()
    model.first.bias.requires_grad_(False)
    model.last.weight.grad = torch.ones(3, 6)
    images, labels = blobs
    given, before = images.clone(), everything(model)
    with torch.no_grad():  # as callers often are
        first = PROBES[name](model, images, labels)
    assert everything(model) == {**before, "rest": (*before["rest"][:3], True, 0)}
    assert torch.equal(images, given)
    with torch.inference_mode():
        again = PROBES[name](model, images, labels)
    assert json.dumps(first.to_dict(), allow_nan=False) == json.dumps(again.to_dict(), allow_nan=False)


@on_batch
def test_nothing_changes_if_the_forward_pass_raises(name, drifting, blobs):
    model = drifting(fail_at=1)
    before = everything(model)
    with pytest.raises(RuntimeError, match="on demand"):
        ON_BATCH[name](model, *blobs)
    assert everything(model) == before


@every
def test_results_are_shown(name, blobs):
    from matplotlib import pyplot

    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))
    found = PROBES[name](model, *blobs)
    assert found.table() and str(found) and json.dumps(found.to_dict(), allow_nan=False)
    axes = found.plot()
    assert axes.get_xlabel() and axes.get_ylabel()
    axes.figure.canvas.draw()
    pyplot.close("all")


@on_batch
def test_resnets_of_digits(name):
    """With and without BN; Xavier, 8×8."""
    from bntheory.architectures import resnet

    images, labels = (part[:8] for part in sim.digits(8, channels=3)[:2])
    for batch_norm in (False, True):
        model = sim.build(resnet(20, batch_norm=batch_norm, image=(3, 8, 8)))
        found = ON_BATCH[name](model, images, labels)
        numbers = [value for value in vars(found).values() if isinstance(value, (float, np.ndarray))]
        assert all(
            np.isfinite(value).all() for value in numbers if not (isinstance(value, float) and math.isnan(value))
        )


@on_batch
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m, x, y: (nn.Tanh(), x, y), ValueError, "Tanh has no parameters that require a gradient"),
        (lambda m, x, y: (np.eye(2), x, y), TypeError, "model must be a torch.nn.Module, got ndarray"),
        (lambda m, x, y: (nn.LazyLinear(3), x, y), ValueError, "model has lazy modules"),
        (lambda m, x, y: (m, x[:0], y[:0]), ValueError, r"images must have .* entries, got \(0, 4\)"),
        (lambda m, x, y: (m, x, y[:5]), ValueError, r"labels must be one for each of 12 images, got shape \(5,\)"),
        (lambda m, x, y: (m, x * math.nan, y), ValueError, "images must be finite, got 48 NaN"),
        (lambda m, x, y: (m, x.numpy() * 1j, y), ValueError, "images must be real numbers, got complex128"),
        (lambda m, x, y: (m, x, y + 1), ValueError, "labels must be classes from 0 to 2, got 3"),
        (lambda m, x, y: (m, x, -y), ValueError, r"labels must be classes from 0 to 2, got -\d"),
        (
            lambda m, x, y: (m, x, y, lambda o, _: o),
            ValueError,
            r"loss must return a tensor of one real number, got \(",
        ),
        (
            lambda m, x, y: (m, x, y, lambda o, t: nn.functional.cross_entropy(o, t[:3])),
            ValueError,
            r"loss fails on outputs .* and labels \(",
        ),
        (lambda m, x, y: (Pair(), x, y), ValueError, r"loss fails on outputs tuple and labels \("),
        (lambda m, x, y: (m, x, y, lambda o, _: (1e200 * o).square().mean()), ValueError, "(the )?loss .*inf"),
    ],
)
def test_refusals(name, change, error, message, tanh_net, blobs):
    with pytest.raises(error, match=f"^{message}") as caught:
        ON_BATCH[name](*change(tanh_net, *blobs))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_parts_run_as_they_are_written(tanh_net, blobs):
    """Compiled as a whole, and in a part; second derivatives of compiled code do not exist."""
    plain = sim.curvature(tanh_net, *blobs).eigenvalues
    whole = sim.curvature(torch.compile(tanh_net), *blobs).eigenvalues
    tanh_net[0].compile()
    assert whole == pytest.approx(plain, rel=1e-9)
    assert sim.curvature(tanh_net, *blobs).eigenvalues == pytest.approx(plain, rel=1e-9)
