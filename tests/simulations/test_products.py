"""What is sampled how: networks of all kinds, streams, inputs, refusals."""

import functools

import numpy as np
import pytest
from scipy import sparse, stats

from bntheory.activations import activation
from bntheory.architectures import mlp
from bntheory.layers import BatchNorm, Conv, Dense, Dropout, Flatten, GroupNorm, LayerNorm, Pool, ZeroPad
from bntheory.networks import Residual, Sequential
from simulations import memory
from simulations.products import dense_log_singular_values, log_singular_values

FALSE_ALARM = 1e-6  # of every statistical assertion here; the seeds are fixed

linear = functools.partial(mlp, activation="linear", init="lecun_normal")


RELU, TANH = (activation(name) for name in ("relu", "tanh"))
ROUTES = {
    "triangles": mlp(3, 70),
    "small triangles": mlp(3, 7),
    "orthogonal": mlp(3, 66, init="orthogonal"),
    "leaky": mlp(3, 7, "leaky_relu"),
    "explicit weights": mlp(3, 7, "tanh", layer_norm=True),
}


@pytest.mark.parametrize("name", ROUTES)
def test_same_numbers_for_any_workers_and_length(name):
    net = ROUTES[name]
    run = log_singular_values(net, trials=70, seed=11, workers=1)  # more than are drawn together
    np.testing.assert_array_equal(log_singular_values(net, trials=70, seed=11, workers=3), run)
    np.testing.assert_array_equal(log_singular_values(net, trials=2, seed=11), run[:2])
    assert not np.array_equal(log_singular_values(net, trials=2, seed=12), run[:2])
    generators = [np.random.default_rng(1) for _ in range(2)]
    first, second = (log_singular_values(net, trials=2, seed=generator) for generator in generators)
    np.testing.assert_array_equal(first, second)


# ---------------------------------------------------------------- explicit weights: the law

BLOCK = Sequential((LayerNorm(), RELU, Dense(5, "he_uniform", bias=0.1)))
NETWORKS = {
    "tanh": mlp(4, 5, "tanh", "orthogonal", bias=0.2),
    "first a relu": Sequential((RELU, Dense(4), RELU, Dense(3)), (5,)),
    "residual relu": mlp(4, 5, residual=True, input_width=4, output_width=3),
    "scaled blocks": Sequential((Residual(BLOCK, scale=0.5), Residual(BLOCK, Sequential((Dense(5),)))), (5,)),
    "a narrow branch beside an identity": Sequential((Residual(Sequential((Dense(1), TANH, Dense(4)))),) * 3, (4,)),
    "dropout": Sequential((Dense(5), Dropout(0.3), activation("silu"), Dense(5)), (5,)),
    "images": Sequential(
        (
            Conv(4, 3, 2, init="orthogonal"),
            BatchNorm(training=False, gamma=3.0),
            GroupNorm(2),
            Pool("max", 2, 1),
            Residual(Sequential((RELU, Conv(6))), Sequential((ZeroPad(6),))),
            Pool("average"),
            Flatten(),
            Dense(3),
        ),
        (1, 6, 6),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_same_law_as_multiplied_out(name):
    net, trials = NETWORKS[name], 700
    chain, dense = (f(net, trials, seed=s) for f, s in ((log_singular_values, 12), (dense_log_singular_values, 13)))
    assert chain.shape == dense.shape and not np.isnan(chain).any()
    for logs in (chain, dense):
        logs[logs < -25] = -100  # exact zeros, which are rounding in the dense product
    for ours, theirs in zip(chain.T, dense.T, strict=True):
        assert stats.ks_2samp(ours, theirs, method="asymp").pvalue > FALSE_ALARM / chain.shape[1]


def test_smallest_number_of_units():
    """Branches do not count: the identity passes them by."""
    assert log_singular_values(NETWORKS["a narrow branch beside an identity"], trials=2).shape == (2, 4)
    assert np.isfinite(log_singular_values(NETWORKS["a narrow branch beside an identity"], trials=2)).all()
    assert log_singular_values(Sequential((Dense(7), Dense(2), Dense(5)), (4,)), trials=2).shape == (2, 2)
    for route in (log_singular_values, dense_log_singular_values):
        assert route(Sequential((), (4,)), trials=1, inputs=np.zeros(4)).tolist() == [[0.0] * 4]


# ---------------------------------------------------------------- the input


def test_given_input():
    """Far out tanh is flat, at 0 the identity; a homogeneous network sees no sizes; at 0 relu has slope 0."""
    net = mlp(6, 5, "tanh", init="orthogonal")
    np.testing.assert_allclose(log_singular_values(net, inputs=np.zeros(5)), 0, rtol=0, atol=1e-13)
    assert (log_singular_values(net, inputs=np.full(5, 20.0))[:, -1] < -10).all()
    leaky = mlp(3, 5, "leaky_relu(0.5)")
    x = np.random.default_rng(0).standard_normal(5)
    dense = [dense_log_singular_values(leaky, 20, seed=1, inputs=x * 10.0**power) for power in (0, -200, 200)]
    np.testing.assert_allclose(dense[1:], [dense[0]] * 2, rtol=0, atol=1e-10)
    assert np.isneginf(log_singular_values(mlp(3, 5), inputs=[0] * 5)).all()
    assert np.isneginf(log_singular_values(Sequential((Dense(3), BatchNorm(gamma=0, training=False)), (3,)))).all()


def test_zero_over_zero():
    net = Sequential((LayerNorm(0.0), Dense(3)), (3,))
    with pytest.raises(ValueError, match=r"^the Jacobian up to layer 0 is not finite at this input$"):
        log_singular_values(net, inputs=np.ones(3))


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("net", [linear(2, 3), mlp(2, 3, "leaky_relu"), mlp(2, 3, "tanh")], ids=str)
def test_beyond_memory(monkeypatch, net):
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PHYS_PAGES": 1, "SC_PAGE_SIZE": 4000}.__getitem__)
    assert log_singular_values(net, trials=1).shape == (1, 3)
    with pytest.raises(
        ValueError, match=r"^the Jacobian needs .* GB of the machine's 4e-06 GB: use a narrower network"
    ):
        log_singular_values(net, trials=1, workers=30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "at least one matrix is needed, got an empty list"),
        ((3.0,), "a Sequential or a list of matrices is needed, got 3.0"),
        ((np.eye(2),), r"matrix 0 must be two-dimensional and not empty \(one matrix .* a list\), got shape \(2,\)"),
        (([np.eye(2), np.zeros((2, 0))],), r"matrix 1 must be two-dimensional and not empty .* got shape \(2, 0\)"),
        (([[[1.0, np.nan]]],), "matrix 0 must be finite, got nan"),
        (([[[1.0]], [[-np.inf]]],), "matrix 1 must be finite, got -inf"),
        (([[[1j]]],), "matrix 0 must be real, got complex numbers"),
        (([[["a"]]],), r"matrix 0 must be a dense array of numbers, got \[\['a'\]\]"),
        (([[["1"]]],), "matrix 0 must be a dense array of numbers"),
        (([np.eye(2), np.full((2, 2), "2020-01-01", "M8[D]")],), "matrix 1 must be a dense array of numbers"),
        (([sparse.csr_array(np.eye(9))],), "matrix 0 must be a dense array of numbers, got <Compressed"),
        (([np.full((2, 2), np.longdouble(1e308)) * 10],), "matrix 0 must be finite, got inf"),
        (([[[1.0], [1.0, 2.0]]],), "matrix 0 must be"),
        (
            ([np.diag([1e-200, 1e200])],),
            r"matrix 0 must have rows and columns .* factor 2\^1000, got entries from 1e-200 to 1e\+200",
        ),
        (
            ([np.ones((3, 2)), np.ones((4, 2))],),
            r"matrix 1 must have as many columns as matrix 0 has rows, got shapes \(4, 2\) and \(3, 2\)",
        ),
        ((linear(2, 3), 0), "trials must be at least 1, got 0"),
        ((linear(2, 3), 1, -1), "seed must be at least 0, got -1"),
        (([np.eye(2)], 0), "trials must be at least 1, got 0"),
        ((Sequential([Dense(2)]),), "a network needs an input shape"),
        ((Sequential([Dense(3), BatchNorm()], (3,)),), r"layer 1 \(BatchNorm\) is not supported: .*\(training=False\)"),
        ((mlp(2, 3, batch_norm=True, residual=True),), r"layer 0.branch.0 \(BatchNorm\) is not supported"),
        ((mlp(2, 3), 1, 0, 1, np.ones((1, 3))), r"inputs must be one input of shape \(3,\), .* of shape \(1, 3\)"),
        ((mlp(2, 3), 1, 0, 1, [1.0, np.nan, 1.0]), "inputs must be one input .* got float64 values, not all finite"),
        ((mlp(2, 3), 1, 0, 1, ["a"] * 3), "inputs must be one input of shape .* got <U1"),
        ((mlp(2, 3), 1, 0, 1, [1j] * 3), "inputs must be one input of shape .* got complex128"),
        (([np.eye(2)], 1, 0, 1, np.ones(2)), "given matrices have no input: leave out inputs"),
        ((mlp(2, 3), 1, 0, 0), "workers must be at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("route", [log_singular_values, dense_log_singular_values])
def test_refusals(route, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        route(*arguments)
    assert "\n" not in str(caught.value)


def test_parameters_of_torch():
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
    for matrix in (weight, weight.bfloat16(), weight.detach().int() + torch.eye(2)):
        found = log_singular_values([matrix])
        np.testing.assert_allclose(found, np.log(np.linalg.svd(matrix.detach().double().numpy())[1]), atol=1e-14)
    for matrix in (weight.to_sparse(), weight.to("meta")):
        with pytest.raises(ValueError, match=r"^matrix 0 must be a dense array of numbers, got .*$"):
            log_singular_values([matrix])


def test_dense_product_out_of_range():
    with pytest.raises(ValueError, match="left float64"):
        dense_log_singular_values([np.eye(2) * 1e200] * 2)
