"""Eigenvalues of the Hessian against explicit ones, differences and quadratics."""

import math

import numpy as np
import pytest

import simulations as sim
from bntheory import Activation
from bntheory.architectures import mlp, resnet

torch = pytest.importorskip("torch")
nn, curvature = torch.nn, sim.curvature


def explicit(model, images, labels):
    """The whole Hessian, entry by entry, and the gradient."""
    names, values = zip(*model.named_parameters(), strict=True)
    sizes = [value.numel() for value in values]

    def loss(flat):
        own = {n: part.reshape(v.shape) for n, part, v in zip(names, flat.split(sizes), values, strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(model, own, (images,)), labels)

    flat = torch.cat([value.detach().flatten() for value in values])
    return torch.func.jacrev(torch.func.jacrev(loss))(flat).numpy(), torch.func.grad(loss)(flat).numpy()


@pytest.mark.parametrize("k", [1, 4])
def test_against_the_explicit_hessian(k, tanh_net, blobs):
    found = curvature(tanh_net, *blobs, k=k, tolerance=1e-10)
    hessian, gradient = explicit(tanh_net, *blobs)
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh(hessian)[::-1][:k], rtol=1e-9)
    assert found.residuals.shape == (k,) and (found.residuals < 1e-6).all()
    assert found.along_gradient == pytest.approx(gradient @ hessian @ gradient, rel=1e-11)
    assert found.squared_gradient == pytest.approx(gradient @ gradient, rel=1e-12)
    assert found.parameters == 27 and found.products >= 20
    assert found.stable_step == pytest.approx(2 / np.linalg.eigvalsh(hessian)[-1])
    assert found.level_step >= found.stable_step


def test_batch_norm_against_differences_of_gradients():
    """ReLU and BN through its statistics: H v by central differences, along the gradient."""
    model = sim.build(resnet(8, batch_norm=True, image=(1, 6, 6)), seed=1, dtype="float64")
    rng = np.random.default_rng(2)
    images, labels = torch.from_numpy(rng.standard_normal((6, 1, 6, 6))), torch.from_numpy(rng.integers(10, size=6))
    found = curvature(model, images, labels, tolerance=1e-3)

    def gradient():
        model.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        return [own.grad.clone() for own in model.parameters()]

    centre, ends = gradient(), []
    step = 1e-7 / math.sqrt(found.squared_gradient)
    for sign in (1, -2):
        with torch.no_grad():
            for own, part in zip(model.parameters(), centre, strict=True):
                own += sign * step * part
        ends.append(gradient())
    along = sum(float(((a - b) * g).sum()) for a, b, g in zip(*ends, centre, strict=True)) / (2 * step)
    assert found.along_gradient == pytest.approx(along, rel=1e-4)
    assert found.eigenvalues[0] >= found.along_gradient / found.squared_gradient
    assert found.residuals[0] < 0.05 * found.eigenvalues[0]


def quadratic(curvatures):
    """A loss ½ Σ λ w² around w = 1: a linear model and mean squares."""
    n = len(curvatures)
    model = nn.Linear(n, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    x = torch.diag(torch.tensor([math.sqrt(n * value / 2) for value in curvatures], dtype=torch.float64))
    return model, x, x.sum(1, keepdim=True), nn.functional.mse_loss


def test_quadratic():
    given = quadratic([5.0, 3.0, 0.5, 0.25])
    found = curvature(*given, k=3)
    assert found.eigenvalues == pytest.approx([5, 3, 0.5], rel=1e-8)
    assert found.level_step == pytest.approx(2 * (25 + 9 + 0.25 + 0.0625) / (125 + 27 + 0.125 + 0.015625))
    at = sim.loss_along_step(*given, steps=[found.level_step])
    assert at.log_relative_loss[0] == pytest.approx(0, abs=1e-12)


def test_no_positive_curvature(tanh_net, blobs):
    found = curvature(tanh_net, *blobs, loss=lambda o, _: -o.square().mean() * torch.ones(()))
    assert found.along_gradient < 0 and found.level_step == math.inf


def test_float32(tanh_net, blobs):
    exact, found = (curvature(model, *blobs).eigenvalues for model in (tanh_net, tanh_net.float()))
    assert found == pytest.approx(exact, rel=1e-4)


def test_what_has_no_second_derivative(blobs):
    once = Activation.from_function("shifted tanh", lambda x: np.tanh(x) + x, lambda x: 2 - np.tanh(x) ** 2)
    model = sim.build(mlp(2, 4, once, output_width=3), dtype="float64")
    with pytest.raises(ValueError, match=r"the loss cannot be differentiated twice: .*") as caught:
        curvature(model, *blobs)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="the gradient does not depend on the parameters: there is no curvature"):
        curvature(nn.Linear(4, 3), *blobs, lambda outputs, _: outputs.mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": 27}, "k must be below the number of parameters, 27, got 27"),
        ({"tolerance": 0}, "tolerance must be finite and above 0, got 0"),
        ({"loss": lambda o, t: (1e200 * o).square().mean()}, "loss and gradient must be finite, got inf"),
    ],
)
def test_refusals(options, message, tanh_net, blobs):
    with pytest.raises(ValueError, match=message):
        curvature(tanh_net, *blobs, **options)


def test_a_dead_network_has_no_curvature():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)).double()
    with torch.no_grad():
        model[0].bias.fill_(-1e3)
    with pytest.raises(ValueError, match="the Hessian is zero here, as of a dead network"):
        curvature(model, torch.ones(5, 3, dtype=torch.float64), torch.zeros(5, dtype=torch.int64))
