"""Losses along the step against torch's optimizer, closed forms and exact arithmetic."""

import math

import mpmath
import numpy as np
import pytest

import simulations as sim
from bntheory.architectures import resnet

torch = pytest.importorskip("torch")
nn, loss_along_step = torch.nn, sim.loss_along_step


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_against_steps_of_the_optimizer(batch_norm, training, stepped):
    model = sim.build(resnet(8, batch_norm=batch_norm, image=(1, 6, 6)), seed=1, dtype="float64").train(training)
    rng = np.random.default_rng(2)
    images, labels = torch.from_numpy(rng.standard_normal((5, 1, 6, 6))), torch.from_numpy(rng.integers(10, size=5))
    found = loss_along_step(model, images, labels, steps=[0.3, 1e-4, 0.01])
    assert found.steps.tolist() == [1e-4, 0.01, 0.3] and not found.wide.any()
    with torch.no_grad():
        start, *after = [
            float(nn.functional.cross_entropy(each(images), labels))
            for each in (stepped(model, images, labels, step) for step in (0, *found.steps))
        ]
    assert found.loss == pytest.approx(start, rel=1e-14)
    np.testing.assert_allclose(found.log_relative_loss, np.log(np.array(after) / start), rtol=0, atol=1e-12)


def test_softmax_regression_by_hand(blobs):
    images, labels = (part.numpy() for part in blobs)
    model = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    weights, found = model.weight.detach().numpy(), loss_along_step(model, *blobs, steps=[0.5, 5.0])

    def loss(w):
        logits = images @ w.T
        return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(12), labels])

    soft = np.exp(images @ weights.T)
    gradient = (soft / soft.sum(1, keepdims=True) - np.eye(3)[labels]).T @ images / 12
    expected = [math.log(loss(weights - step * gradient) / loss(weights)) for step in (0.5, 5.0)]
    np.testing.assert_allclose(found.log_relative_loss, expected, rtol=0, atol=1e-12)
    assert found.squared_gradient == pytest.approx((gradient**2).sum(), rel=1e-12)


class Chain(nn.Module):
    """y = x Π w_i: with all w = 1 and the loss y², one step leaves (1 − 2α)^depth."""

    def __init__(self, depth):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(1)) for _ in range(depth)])

    def forward(self, x):
        for weight in self.weights:
            x = x * weight
        return x


@pytest.mark.parametrize("depth", [10, 100, 300])
def test_beyond_the_range_of_float32_and_float64(depth):
    """Up to e^706 in float64, then +inf; the loss of float32 ends at e^88."""
    steps = np.geomspace(0.6, 20, 25)
    found = loss_along_step(Chain(depth), torch.ones(1, 1), torch.zeros(1, 1), nn.functional.mse_loss, steps)
    exact = np.array([float(2 * depth * mpmath.log(2 * mpmath.mpf(step) - 1)) for step in steps])
    inside = exact < math.log(np.finfo(float).max)
    assert np.isposinf(found.log_relative_loss[~inside]).all()
    small = exact < math.log(np.finfo(np.float32).tiny)
    assert (found.log_relative_loss[small] < -80).all()  # in float32 nothing, or nearly so
    inside &= ~small
    np.testing.assert_allclose(found.log_relative_loss[inside], exact[inside], rtol=1e-5, atol=1e-4 * depth)
    np.testing.assert_array_equal(found.wide, exact > math.log(np.finfo(np.float32).max))
    assert depth == 10 or found.wide.any()
    passing = (1 + 1e3 ** (1 / (2 * depth))) / 2
    assert found.diverging_step == pytest.approx(max(passing, 0.6), rel=0.02)
    assert np.isposinf(found.relative_loss[-1]) == (depth > 10)


def test_parts_that_insist_on_float32():
    """Where the loss cannot be had in float64, what float32 does not hold is +inf."""
    weight = torch.ones(1)

    def loss(outputs, labels):
        return (outputs @ weight[:, None] - labels).square().mean()  # of one type only

    found = loss_along_step(Chain(100), torch.ones(1, 1), torch.zeros(1, 1), loss, [2.0, 5.0])
    assert found.log_relative_loss[0] == math.inf and found.wide.all() and np.isnan(found.log_relative_loss).sum() == 0


def test_tied_weights_take_one_step(blobs, stepped):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    model[2].weight = model[0].weight
    found = loss_along_step(model, *blobs, steps=[0.5])
    with torch.no_grad():
        after, before = (
            float(nn.functional.cross_entropy(each(blobs[0]), blobs[1]))
            for each in (stepped(model, *blobs, 0.5), model)
        )
    assert found.log_relative_loss[0] == pytest.approx(math.log(after / before), abs=1e-13)


def test_quadratic():
    """(1 − αλ)², λ = 2: smallest at 1/λ, level at 2/λ, 10³ at 16.3 times that."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    ones = np.ones((1, 1))
    found = loss_along_step(model, ones, 3 * ones, nn.functional.mse_loss, [0.5, 1, *np.geomspace(2, 30, 200)])
    assert found.log_relative_loss[0] == -math.inf and found.log_relative_loss[1] == pytest.approx(0, abs=1e-14)
    assert found.best_step == 0.5
    assert found.diverging_step == pytest.approx((1 + math.sqrt(1000)) / 2, rel=1e-4)
    assert "Smallest relative loss 0 at step 0.5; passes 1000 at step 16" in str(found)
    assert loss_along_step(model, ones, 3 * ones, nn.functional.mse_loss, [0.1]).diverging_step is None
    first = loss_along_step(model, ones, 3 * ones, nn.functional.mse_loss, [40.0])
    assert first.diverging_step == 40.0 and first.first_diverging == 0


def test_dropout_has_the_same_masks_at_all_steps(blobs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 3)).double()
    found = loss_along_step(model, *blobs, steps=[1e-9, 2e-9])
    np.testing.assert_allclose(found.log_relative_loss, 0, atol=1e-7)


def test_the_papers_steps(tanh_net, blobs):
    found = loss_along_step(tanh_net.float(), *blobs)
    assert len(found.steps) == 60 and found.steps[[0, -1]] == pytest.approx([1e-5, 0.2])
    assert found.best_step == pytest.approx(0.2) and found.diverging_step is None


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([0.1, 0.0], "steps must be finite and above 0, got 0.0"),
        ([-1.0], "steps must be finite and above 0, got -1.0"),
        ([math.nan], "steps must be finite and above 0, got nan"),
        ([math.inf], "steps must be finite and above 0, got inf"),
        ([], "steps must hold at least one step size, got none"),
    ],
)
def test_steps_are_positive(steps, message, tanh_net, blobs):
    with pytest.raises(ValueError, match=message):
        loss_along_step(tanh_net, *blobs, steps=steps)


def test_relative_to_a_positive_loss(tanh_net, blobs):
    with pytest.raises(ValueError, match=r"the loss at the start must be positive .*, got -"):
        loss_along_step(tanh_net, *blobs, lambda outputs, _: -outputs.square().mean())
    with pytest.raises(ValueError, match=r"the gradient must be finite, got .* in 0.weight: in float64"):
        loss_along_step(tanh_net, *blobs, lambda outputs, _: 1 + (outputs - outputs.detach()).abs().sum().sqrt())
    with pytest.raises(ValueError, match="threshold must be finite and above 0, got 0"):
        loss_along_step(tanh_net, *blobs, threshold=0)
