"""The Jacobian of a torch module: closed forms, differences, and a model that is left as it was."""

import copy

import numpy as np
import pytest

import simulations as sim
from bntheory.architectures import mlp, resnet

torch = pytest.importorskip("torch")
nn, jacobian, build = torch.nn, sim.jacobian, sim.build


def test_a_matrix():
    """Of a linear layer, its weights; singular values through the chain."""
    model = nn.Linear(3, 2)
    found = jacobian(model, np.ones(3))
    assert found.dtype == np.float64 and (found == model.weight.detach().numpy()).all()
    expected = np.log(np.linalg.svd(found, compute_uv=False))
    np.testing.assert_allclose(sim.log_singular_values([found]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "net", [mlp(3, 5, "tanh", bias=0.1), resnet(8, image=(1, 6, 6), batch_norm=True)], ids=["mlp", "resnet"]
)
def test_against_differences(net):
    """Central differences; more rows than a chunk are in the next test."""
    model = build(net, seed=1, dtype="float64").eval()
    x = np.random.default_rng(2).standard_normal(net.input_shape)
    found, step = jacobian(model, torch.from_numpy(x)), 1e-6
    units = np.eye(x.size).reshape(-1, *x.shape)
    with torch.no_grad():
        ahead, behind = (model(torch.from_numpy(x + sign * step * units)).numpy() for sign in (1, -1))
    np.testing.assert_allclose(found, (ahead - behind).T / (2 * step), rtol=0, atol=1e-7 * np.abs(found).max())


def test_more_rows_than_a_chunk():
    weights = np.random.default_rng(3).standard_normal((600, 4))
    model = nn.Linear(4, 600, dtype=torch.float64)
    model.weight.data = torch.from_numpy(weights)
    assert (jacobian(model, np.zeros(4)) == weights).all()


class Drifting(nn.Module):
    """Draws noise and counts its calls in a buffer, as training modules do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, h):
        self.calls += 1
        return nn.functional.dropout(self.linear(h), 0.5, self.training).relu_()


@pytest.mark.parametrize("training", [True, False])
def test_nothing_changes(training):
    model = Drifting().train(training)
    model.linear.weight.grad = torch.ones(3, 3)
    before, random = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    with torch.no_grad():  # as callers often are
        first = jacobian(model, torch.ones(3, requires_grad=True))
    assert first.shape == (3, 3) and np.isfinite(first).all()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state()) and model.training is training
    assert (model.linear.weight.grad == 1).all() and model.linear.bias.grad is None
    with torch.inference_mode():
        assert np.array_equal(jacobian(model, torch.ones(3)), first)  # the same noise


def test_a_part_with_two_names_keeps_its_weights_and_attributes_are_as_before():
    model = Drifting()
    model.again, model.seen = model.linear, 0
    model.register_forward_hook(lambda part, *_: setattr(part, "seen", part.seen + 1))
    before = dict(model.named_parameters(remove_duplicate=False))
    jacobian(model, torch.ones(3))
    after = dict(model.named_parameters(remove_duplicate=False))
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    assert model.seen == 0 and all(weight.requires_grad for weight in after.values())


def test_constant_outputs():
    class Constant(nn.Module):
        def forward(self, h):
            return torch.ones(1, 2)

    assert jacobian(Constant(), np.ones(3)).tolist() == [[0.0] * 3] * 2


def test_precision_is_the_models():
    """float32 leaves 1e-7 of the largest singular value; in float64 the small ones are right."""
    net = mlp(40, 8, "tanh")
    x = np.random.default_rng(4).standard_normal(8)
    single, double = (jacobian(build(net, seed=5, dtype=kind), x) for kind in ("float32", "float64"))
    error = np.abs(single - double).max() / np.linalg.norm(double, 2)
    assert 1e-9 < error < 1e-5


class Tuple(nn.Module):
    """Returns no tensor."""

    def forward(self, h):
        return h, h


@pytest.mark.parametrize(
    ("model", "x", "error", "message"),
    [
        (np.eye(2), np.ones(2), TypeError, "model must be a torch.nn.Module, got ndarray"),
        (Tuple(), np.ones(2), TypeError, r"model must return a real tensor \(1, …\) for one input, got tuple"),
        (nn.Flatten(0), np.ones(2), TypeError, r"model must return a real tensor .* got torch.float64 \(2,\)"),
        (nn.BatchNorm1d(2), np.ones(2), ValueError, r"model \(BatchNorm1d\) normalizes with its batch's statistics"),
        (build(mlp(1, 2, batch_norm=True)), np.ones(2), ValueError, r"1 \(BatchNorm1d\) .*: call model.eval\(\) first"),
        (nn.BatchNorm1d(2, track_running_stats=False).eval(), np.ones(2), ValueError, "model .BatchNorm1d. normalizes"),
        (nn.LazyLinear(2), np.ones(2), ValueError, "model has lazy modules"),
        (nn.Linear(2, 2), [1.0, np.nan], ValueError, "x must be finite in the model's torch.float32, got nan"),
        (nn.Linear(2, 2), [1.0, 1e300], ValueError, "x must be finite in the model's torch.float32, got 1e.300"),
        (nn.Linear(2, 2), ["a", "b"], ValueError, "x must be an array of real numbers, got <U1"),
        (nn.Linear(2, 2), [], ValueError, r"x must be an array of real numbers, got float64 of shape \(0,\)"),
        (build(mlp(1, 2)), np.ones((1, 2)), ValueError, r"x must be one input of shape \(2,\), without a batch axis"),
        (
            nn.Linear(2, 2),
            [1.0, 2.0, 3.0],
            ValueError,
            r"model fails on an x of shape \(3,\), .*: mat1 and mat2 shapes",
        ),
        (nn.LayerNorm(2, eps=0), [1.0, 1.0], ValueError, "the Jacobian must be finite, got nan"),
    ],
)
def test_refusals(model, x, error, message):
    with pytest.raises(error, match=f"^{message}") as caught:
        jacobian(model, x)
    assert "\n" not in str(caught.value)
