"""Dense networks of any weights with fair coins for masks, against true masks, exact arithmetic and closed forms."""

import numpy as np
import pytest
from scipy import stats
from threadpoolctl import threadpool_limits

from bntheory.activations import activation
from bntheory.architectures import mlp
from bntheory.layers import Dense
from bntheory.networks import Residual, Sequential
from simulations import coins, streams
from simulations.graded import chained
from simulations.products import dense_log_singular_values, log_singular_values
from simulations.statistics import binomial_interval, kolmogorov_distance, mean_with_error, tolerance

FALSE_ALARM = 1e-6  # of every statistical assertion here; the seeds are fixed
RELU, LEAKY, NEGATIVE = (activation(name) for name in ("relu", "leaky_relu(0.3)", "leaky_relu(-0.5)"))


def orthogonal(*widths, phi=RELU):
    layers = [layer for width in widths[1:] for layer in (Dense(width, "orthogonal"), phi)]
    return Sequential(layers, widths[:1])


NETWORKS = {
    "orthogonal relu": orthogonal(6, 6, 6, 6),
    "orthogonal relu, narrowing": orthogonal(9, 7, 4, 4),
    "orthogonal relu, widening": orthogonal(3, 5, 8),
    "orthogonal leaky": orthogonal(5, 5, 7, 4, phi=LEAKY),
    "orthogonal leaky with biases": mlp(3, 5, LEAKY, "orthogonal", bias=0.5, output_width=4),
    "Gaussian leaky": mlp(4, 5, LEAKY),
    "uniform relu, uniform biases": mlp(3, 6, init="torch_default"),
    "negative slopes": Sequential([Dense(5), NEGATIVE, RELU, Dense(5), NEGATIVE, NEGATIVE, Dense(4), LEAKY], (4,)),
    "mixed": Sequential([Dense(6, "orthogonal"), RELU, Dense(5), Dense(5, "he_uniform"), LEAKY], (5,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_same_law_as_true_masks(name):
    net = NETWORKS[name]
    assert coins.described(net)
    chain, dense = log_singular_values(net, 800, seed=1), dense_log_singular_values(net, 1200, seed=2)
    assert chain.shape[1] == dense.shape[1]
    for logs in (chain, dense):
        logs[logs < -30] = -100  # exact zeros, which are rounding in the dense product
    views = [*np.eye(chain.shape[1]), np.ones(chain.shape[1])]  # every value, and their sum
    pairs = [(chain @ view, dense @ view) for view in views]
    for ours, theirs in [*pairs, ((chain > -100).sum(axis=1), (dense > -100).sum(axis=1))]:
        ours, theirs = np.round(ours, 9), np.round(theirs, 9)  # some values are exactly the gain
        assert stats.ks_2samp(ours, theirs, method="asymp").pvalue > FALSE_ALARM / (len(pairs) + 1)


def test_slopes():
    """max(x, 0) + α min(x, 0), composed; other networks have no such description."""
    slopes = [layer.slope for layer in coins.described(NETWORKS["negative slopes"])]
    x = np.linspace(-1, 1, 5)
    for slope, phis in zip(slopes, ((NEGATIVE, RELU), (NEGATIVE, NEGATIVE), (LEAKY,)), strict=True):
        composed = x
        for phi in phis:
            composed = phi.phi(composed)
        np.testing.assert_allclose(np.maximum(x, 0) + slope * np.minimum(x, 0), composed)
    others = mlp(2, 3, "tanh"), mlp(2, 3, residual=True), Sequential([RELU, Dense(3)], (3,)), mlp(2, 3, layer_norm=True)
    assert [coins.described(net) for net in others] == [None] * 4
    assert coins.described(Sequential([Residual(Sequential([Dense(3)]))], (3,))) is None


def test_one_orthogonal_layer():
    """Rows of an orthogonal matrix: Binomial(n, ½) singular values, each equal to the gain."""
    logs = log_singular_values(orthogonal(8, 8), trials=500, seed=3)
    alive = np.isfinite(logs)
    np.testing.assert_allclose(logs[alive], 0.0, rtol=0, atol=1e-14)
    low, high = binomial_interval(int(alive.sum()), alive.size, 1 - FALSE_ALARM)
    assert low < 0.5 < high
    deep = log_singular_values(orthogonal(8, *[8] * 1000, phi=activation("leaky_relu(-1)")), trials=2)
    np.testing.assert_allclose(deep, 0, rtol=0, atol=1e-11)  # ±1 on the diagonals: orthogonal at any depth


def test_half_of_an_orthogonal_matrix():
    """Two layers whose masks leave half: squared singular values of the arcsine law, as rigid as eigenvalues."""
    layers = coins.described(orthogonal(300, 300, 300))
    with threadpool_limits(1):  # as in trials
        draws = [chained(coins.factors(layers, [300, 150, 150], streams.stream(4, trial)), 300) for trial in range(5)]
    squares = np.exp(2 * np.concatenate(draws))
    assert len(squares) == 5 * 150
    assert kolmogorov_distance(squares, lambda x: 2 / np.pi * np.arcsin(np.sqrt(np.clip(x, 0, 1)))) < 0.01
    assert kolmogorov_distance(squares, lambda x: np.clip(x, 0, 1)) > 0.05


@pytest.mark.parametrize("slope", [0.0, 0.3, -0.7])
def test_traces(slope):
    """E tr JᵀJ and, for Gaussian weights, E tr (JᵀJ)² and E (tr JᵀJ)², exact at any width.

    With d₂ = E φ′² and d₄ = E φ′⁴ the pair is multiplied by (σ²/n)² [[Q + P, P], [2P, Q]] in every layer, P = n d₄ and
    Q = P + n(n − 1) d₂².
    """
    n, depth, d2, d4 = 6, 3, (1 + slope**2) / 2, (1 + slope**4) / 2
    phi = activation(f"leaky_relu({slope})")
    for init, variance in (("orthogonal", 1.0), ("he_normal", 2.0)):
        squares = np.exp(2 * log_singular_values(mlp(depth, n, phi, init), trials=1500, seed=5))
        trace = squares.sum(axis=1)
        samples = np.stack([trace, (squares**2).sum(axis=1), trace**2], axis=1)
        p, pair = n * d4, np.array([n, n**2.0])
        q = p + n * (n - 1) * d2**2
        for _ in range(depth):
            pair = (variance / n) ** 2 * np.array([[q + p, p], [2 * p, q]]) @ pair
        expected = np.array([n * (variance * d2) ** depth, *pair])
        mean, error = mean_with_error(samples)
        compared = 1 if init == "orthogonal" else 3
        z = np.abs(mean - expected)[:compared] < tolerance(error, FALSE_ALARM, comparisons=compared)[:compared]
        assert z.all()


@pytest.mark.parametrize(
    ("net", "rate"),
    [
        (orthogonal(*[16] * 40, phi=activation("leaky_relu(0.01)")), 8),
        (orthogonal(*[200] * 4), 10),
        (mlp(300, 6, activation("leaky_relu(0.1)")), 6),
        (mlp(50, 8, activation("leaky_relu(1e-30)")), 220),
    ],
    ids=["orthogonal leaky", "orthogonal relu", "deep", "tiny slope"],
)
def test_every_value(exact, net, rate):
    layers, rng = coins.described(net), streams.stream(6, 0)
    sizes = coins.blocks(layers, net.input_shape[0], rng)
    if sizes[0] == 200:
        sizes = [200, 13, 180, 20]  # small enough for the oracle
    factors = [factor.matrix for factor in coins.factors(layers, sizes, rng)]
    expected = exact(factors, rate, point=400)
    found = log_singular_values(factors)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-10)
    if sizes[0] != 200:
        np.testing.assert_array_equal(log_singular_values(net, trials=1, seed=6)[0], found)
