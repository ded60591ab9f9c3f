"""The border of stability against its closed form on quadratics, and against 2/λ."""

import math

import pytest

import simulations as sim

torch = pytest.importorskip("torch")
nn, stable_step = torch.nn, sim.stable_step


def bowl(curvature=2.0):
    """½ λ (w − 3)² of one weight."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(model.weight)
    x = torch.full((1, 1), math.sqrt(curvature / 2), dtype=torch.float64)
    return model, x, 3 * x, nn.functional.mse_loss


@pytest.mark.parametrize(
    ("curvature", "iterations", "threshold"), [(2.0, 1, 1e3), (50.0, 20, 1e3), (0.2, 20, 10.0), (2.0, 100, 10.0)]
)
def test_quadratic(curvature, iterations, threshold):
    """(1 + threshold^{1/2T})/λ, from far above and far below; one step: 16.3 times 2/λ at 10³."""
    found = stable_step(*bowl(curvature), iterations=iterations, threshold=threshold, tolerance=1e-3)
    border = (1 + threshold ** (0.5 / iterations)) / curvature
    assert found.step <= border * (1 + 1e-9) and border <= found.diverging * (1 + 1e-9)
    assert found.diverging <= 1.001 * found.step and found.gradients <= iterations * len(found.largest)
    assert found.step < sim.stable_step(*bowl(curvature), iterations=1, threshold=threshold).diverging * 1.05


def test_near_a_minimum_it_is_two_over_the_largest_eigenvalue():
    """Softmax regression with a penalty, 1e-6 away from its minimum.

    Growth by |αλ − 1|^600 from 1e-12 λ to 1e-4 ℓ leaves α up to 2% above 2/λ, the search another 1%.
    """
    torch.manual_seed(0)
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randint(3, (20,))
    model = nn.Linear(4, 3, dtype=torch.float64)

    def loss(outputs, labels):
        return nn.functional.cross_entropy(outputs, labels) + 0.05 * outputs.square().mean()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        model.weight += 1e-6 * torch.randn(3, 4)
    limit = sim.curvature(model, x, y, loss).stable_step
    found = stable_step(model, x, y, loss, iterations=300, tolerance=0.01, threshold=1.0001)
    assert 0.98 * limit < found.step < 1.03 * limit


def test_refusals(tanh_net, blobs):
    with pytest.raises(ValueError, match="start must be finite and above 0, got -1"):
        stable_step(tanh_net, *blobs, start=-1)
    with pytest.raises(ValueError, match="start must be finite and above 0, got nan"):
        stable_step(tanh_net, *blobs, start=math.nan)
    with pytest.raises(ValueError, match="threshold must be finite and above 1, got 1"):
        stable_step(tanh_net, *blobs, threshold=1)
    with pytest.raises(ValueError, match="tolerance must be finite and at least 1e-06, got 0"):
        stable_step(tanh_net, *blobs, tolerance=0)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        stable_step(tanh_net, *blobs, iterations=0)
    with pytest.raises(ValueError, match=r"gradient descent stays bounded for all steps from 0.1 to .*: take another"):
        stable_step(tanh_net, *blobs, loss=lambda o, _: 1 + torch.sigmoid(o).mean(), iterations=1)
    with pytest.raises(ValueError, match=r"the loss at the start must be positive .*, got -"):
        stable_step(tanh_net, *blobs, loss=lambda o, _: -o.square().mean())
