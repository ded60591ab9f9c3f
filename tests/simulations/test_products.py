"""Log singular values of products, against exact arithmetic, explicit weights and closed forms."""

import functools

import mpmath
import numpy as np
import pytest
from scipy import linalg, stats
from scipy.special import erf, polygamma, psi

from bntheory.layers import BatchNorm, Conv, Dense, Flatten
from bntheory.networks import Residual, Sequential, mlp
from simulations import streams
from simulations.products import _triangle, dense_log_singular_values, log_singular_values
from simulations.statistics import (
    binomial_interval,
    kolmogorov_distance,
    kolmogorov_tolerance,
    mean_with_error,
    tolerance,
)

FALSE_ALARM = 1e-6  # of every statistical assertion here; the seeds are fixed

linear = functools.partial(mlp, activation="linear", init="lecun_normal")


def gaussian(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) / np.sqrt(shape[1]) for shape in shapes]


def exact_log_singular_values(matrices, rate, point=100):
    """Integer product, Gram–Schmidt, one-sided Jacobi: as far as needed beyond float64.

    `rate` bits a factor, and 200 more, hold the range of the singular values of every partial product; entries are cut
    `point` bits below 1.
    """
    product, shift, bits = None, 0, 200
    for matrix in matrices:
        factor = np.array([[int(entry) for entry in row] for row in matrix * 2.0**point], dtype=object)
        product, bits = factor if product is None else factor @ product, bits + rate
        cut = max(0, max(abs(entry).bit_length() for entry in product.flat) - round(bits))
        product, shift = product >> cut, shift + cut - point
    if product.shape[0] < product.shape[1]:
        product = product.T
    with mpmath.workprec(round(bits)):
        rank = min(min(matrix.shape) for matrix in matrices)
        squares = jacobi(triangle_of([np.array([mpmath.mpf(x) for x in column]) for column in product.T], rank))
        logs = sorted((float(mpmath.log(x) / 2 + shift * mpmath.log(2)) for x in squares), reverse=True)
    assert (logs[0] - logs[-1]) / np.log(2) < bits - 60  # the oracle's own precision
    return np.array(logs)


def triangle_of(columns, rank):
    """Rows of R by pivoted Gram–Schmidt: decreasing, so that Jacobi needs few sweeps."""
    rows, remaining = [], list(range(len(columns)))
    for _ in range(rank):
        pivot = max(remaining, key=lambda j: columns[j] @ columns[j])
        unit = columns[pivot] / mpmath.sqrt(columns[pivot] @ columns[pivot])
        row = np.array([mpmath.mpf(0)] * len(columns))
        for j in remaining:
            row[j] = unit @ columns[j]
            columns[j] = columns[j] - row[j] * unit
        remaining.remove(pivot)
        rows.append(row)
    return rows


def jacobi(rows):
    """Squared singular values of the matrix of these rows."""
    largest = 1.0
    while largest > 1e-40:  # squared cosine; convergence is quadratic
        largest = 0.0
        for i in range(len(rows)):
            for j in range(i + 1, len(rows)):
                a, b, c = rows[i] @ rows[i], rows[j] @ rows[j], rows[i] @ rows[j]
                cosine = float(c * c / (a * b))
                if cosine < 1e-45:
                    continue
                largest = max(largest, cosine)
                ratio = (b - a) / (2 * c)
                t = (1 if ratio >= 0 else -1) / (abs(ratio) + mpmath.sqrt(1 + ratio * ratio))
                rows[i], rows[j] = rows[i] - t * rows[j], rows[j] + t * rows[i]
                norm = mpmath.sqrt(1 + t * t)
                rows[i], rows[j] = rows[i] / norm, rows[j] / norm
    return [row @ row for row in rows]


# ---------------------------------------------------------------- given matrices


def test_oracle_agrees_with_mpmath():
    (matrix,) = gaussian(0, (6, 6))
    with mpmath.workdps(40):
        values = mpmath.svd_r(mpmath.matrix(matrix.tolist()), compute_uv=False)
        expected = [float(mpmath.log(value)) for value in values]
    np.testing.assert_allclose(exact_log_singular_values([matrix], 10), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("size", "factors", "rate"), [(24, 50, 3.6), (20, 200, 3.5), (8, 700, 2.8)])
def test_every_value_of_given_matrices(size, factors, rate):
    matrices = gaussian(1, *[(size, size)] * factors)
    exact = exact_log_singular_values(matrices, rate)
    np.testing.assert_allclose(log_singular_values(matrices), exact, rtol=0, atol=2e-11)
    if factors == 200:
        lost = np.abs(dense_log_singular_values(matrices) - exact) > 0.1
        assert exact[0] - exact[-1] > 350 and lost.sum() > 10 and not lost[0]


def test_every_value_of_a_thousand_given_matrices():
    matrices = gaussian(1, *[(24, 24)] * 1000)
    exact = exact_log_singular_values(matrices, 3.3, point=59)
    assert exact[0] - exact[-1] > 2000
    np.testing.assert_allclose(log_singular_values(matrices), exact, rtol=0, atol=1e-10)


def awkward():
    """Products whose triangles come in the wrong order or whose rows differ vastly in size; the oracle's options."""
    rng = np.random.default_rng(2)
    integers = functools.partial(rng.integers, -9, 10)
    scales = functools.partial(rng.permutation, 2.0 ** np.arange(-20, 20, 5))
    monomial = [np.diag(10.0 ** rng.uniform(-20, 20, 8))[rng.permutation(8)] for _ in range(2)]
    growing = [np.triu(rng.standard_normal((8, 8)), 1) + np.diag(np.arange(1.0, 9)) for _ in range(40)]
    return {
        "increasing triangles": (growing, 30),
        "one matrix again and again": ([integers((8, 8)) / 8.0] * 100, 10),
        "monomial": (monomial * 5, 300, 300),
        "scales on both sides": ([monomial[0], rng.standard_normal((8, 8)), monomial[1]], 300, 300),
        "graded": ([scales()[:, None] * rng.standard_normal((8, 8)) for _ in range(20)], 60),
        "back and forth": ([matrix := rng.standard_normal((8, 8)), np.linalg.inv(matrix)] * 20, 10),
        "near the identity": ([np.eye(8) + rng.standard_normal((8, 8)) / 20 for _ in range(200)], 2),
        "bottleneck": (gaussian(3, (9, 4), (7, 9), (3, 7), (8, 3), (5, 8)), 10),
    }


@pytest.mark.parametrize("name", awkward())
def test_awkward_matrices(name):
    matrices, *precision = awkward()[name]
    exact = exact_log_singular_values(matrices, *precision)
    np.testing.assert_allclose(log_singular_values(matrices), exact, rtol=0, atol=1e-10)


def test_order_and_transposition():
    first, second, third = gaussian(4, (7, 4), (5, 7), (6, 5))
    expected = np.log(np.linalg.svd(third @ second @ first, compute_uv=False))
    np.testing.assert_allclose(log_singular_values([first, second, third]), expected, atol=1e-13)
    np.testing.assert_allclose(log_singular_values([third.T, second.T, first.T]), expected, atol=1e-13)


def test_determinant():
    matrices = gaussian(5, *[(100, 100)] * 60)
    expected = sum(np.linalg.slogdet(matrix).logabsdet for matrix in matrices)
    np.testing.assert_allclose(log_singular_values(matrices).sum(), expected, rtol=1e-12)


def test_scales_and_invariances():
    matrices = gaussian(6, *[(5, 5)] * 8)
    logs = log_singular_values(matrices)
    powers = (-200, 200, -250, -250, 0, 90, -7, 300)
    scaled = [matrix * 10.0**power for matrix, power in zip(matrices, powers, strict=True)]
    np.testing.assert_allclose(log_singular_values(scaled), logs - 117 * np.log(10), atol=1e-12)
    rotations = [np.linalg.qr(matrix)[0] for matrix in matrices]
    np.testing.assert_allclose(log_singular_values(rotations * 50), 0, atol=1e-12)
    np.testing.assert_allclose(log_singular_values([*rotations, *matrices, *rotations]), logs, atol=1e-13)
    tiny = np.diag([1e-200, 1e200])
    np.testing.assert_allclose(log_singular_values([tiny]), np.log([1e200, 1e-200]), atol=1e-13)
    np.testing.assert_allclose(log_singular_values([tiny, 3 * np.eye(2)[::-1], tiny]), np.log([3.0, 3.0]), atol=1e-13)


def test_exact_zeros():
    assert log_singular_values([np.zeros((3, 2))]).tolist() == [-np.inf] * 2
    nilpotent = np.diag([1.0, 2.0], 1)
    assert log_singular_values([nilpotent] * 2).tolist() == [np.log(2), -np.inf, -np.inf]
    assert log_singular_values([nilpotent] * 3).tolist() == [-np.inf] * 3
    rng = np.random.default_rng(7)
    for _ in range(300):  # exact integers of known rank, then the same between Gaussian matrices
        (n, m), k = rng.integers(1, 30, 2), rng.integers(1, 30)
        matrix = (rng.integers(-9, 10, (n, k)) @ rng.integers(-9, 10, (k, m))).astype(float)
        rank = np.linalg.matrix_rank(matrix)
        between = [rng.standard_normal((m, m)), matrix, rng.standard_normal((n, n))]
        for matrices in ([matrix], between):
            assert np.isfinite(log_singular_values(matrices)).sum() == rank


def test_masked_matrices():
    """ReLU Jacobians with their zero rows left in: the zeros are exact, the rest as of the blocks."""
    rng = np.random.default_rng(8)
    masks = [rng.random(30) < 0.5 for _ in range(5)]
    weights = [rng.standard_normal((30, 30)) for _ in range(5)]
    logs = log_singular_values([mask[:, None] * weight for mask, weight in zip(masks, weights, strict=True)])
    kept = [np.ones(30, dtype=bool), *masks]
    blocks = log_singular_values([weight[np.ix_(kept[i + 1], kept[i])] for i, weight in enumerate(weights)])
    rank = min(mask.sum() for mask in masks)
    assert np.isfinite(logs).sum() == rank and len(logs) == 30
    np.testing.assert_allclose(logs[:rank], blocks, atol=1e-12)


# ---------------------------------------------------------------- networks: exactness of the arithmetic


def triangles(width, depth, seed):
    """The factors that a linear network's first trial multiplies."""
    rng = streams.stream(seed, 0)
    return [_triangle(rng, width, width) for _ in range(depth)]


@pytest.mark.parametrize(("width", "depth", "rate"), [(16, 60, 3.5), (12, 500, 3.2), (6, 3000, 2.2)])
def test_every_value_of_a_network(width, depth, rate):
    exact = exact_log_singular_values(triangles(width, depth, 9), rate)
    found = log_singular_values(linear(depth, width), trials=1, seed=9)[0]
    np.testing.assert_allclose(found, exact, rtol=1e-13, atol=1e-11)
    if depth == 3000:
        assert found[-1] < -4000 and found[0] > -1000


@pytest.mark.parametrize("depth", [5, 50])
def test_larger_network_against_preconditioned_jacobi(depth):
    product = functools.reduce(lambda done, factor: factor @ done, triangles(200, depth, 10))
    values, _, _, work, _, info = linalg.lapack.dgejsv(np.asfortranarray(product.T), joba=2, jobu=3, jobv=3)
    assert info == 0
    expected = np.log(values) + np.log(work[0] / work[1])
    found = log_singular_values(linear(depth, 200), trials=1, seed=10)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


def test_same_numbers_for_any_workers_and_length():
    net = mlp(depth=3, width=70)
    run = log_singular_values(net, trials=6, seed=11, workers=1)
    np.testing.assert_array_equal(log_singular_values(net, trials=6, seed=11, workers=3), run)
    np.testing.assert_array_equal(log_singular_values(net, trials=2, seed=11), run[:2])
    assert not np.array_equal(log_singular_values(net, trials=6, seed=12), run)
    generators = [np.random.default_rng(1) for _ in range(2)]
    first, second = (log_singular_values(net, trials=2, seed=generator) for generator in generators)
    np.testing.assert_array_equal(first, second)


# ---------------------------------------------------------------- networks: the law

RELU, LINEAR = mlp(1, 2).layers[1], linear(1, 2).layers[1]
BIASED = [Flatten(), Dense(8, bias=0.5), RELU, Dense(6, bias=0.5), RELU]
NETWORKS = {
    "square": linear(4, 5),
    "widening": Sequential([Dense(n, "lecun_normal") for n in (5, 7, 11)], (3,)),
    "narrowing": Sequential([Dense(n, "xavier_normal") for n in (9, 6, 4)], (11,)),
    "bottleneck": Sequential([Dense(n, "he_normal") for n in (6, 2, 5)], (4,)),
    "relu": mlp(3, 6),
    "relu, narrowing, unmasked output": mlp(2, 7, input_width=9, output_width=4),
    "relu with biases on an image": Sequential(BIASED, (1, 2, 5)),
    "relu after some layers": Sequential([Dense(6), Dense(6), RELU, RELU, Dense(5), LINEAR], (6,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_same_law_as_explicit_weights(name):
    net, trials = NETWORKS[name], 2000
    chain, dense = (f(net, trials, seed=s) for f, s in ((log_singular_values, 12), (dense_log_singular_values, 13)))
    assert chain.shape == dense.shape
    for logs in (chain, dense):
        logs[logs < -30] = -100  # exact zeros, which are rounding in the dense product
    views = [*np.eye(chain.shape[1]), np.ones(chain.shape[1])]  # every value, and their sum
    pairs = [(chain @ view, dense @ view) for view in views]
    for ours, theirs in [*pairs, ((chain > -100).sum(axis=1), (dense > -100).sum(axis=1))]:
        assert stats.ks_2samp(ours, theirs, method="asymp").pvalue > FALSE_ALARM / (len(pairs) + 1)
    ours, theirs = (np.exp(2 * logs).sum(1) for logs in (chain, dense))
    (mean, error), (reference, other) = mean_with_error(ours), mean_with_error(theirs)
    assert abs(mean - reference) < tolerance(np.hypot(error, other), FALSE_ALARM)


def test_one_unit():
    """Width 1: the sum of independent ln |N(0, 1)|."""
    logs = log_singular_values(linear(1, 1), trials=2000, seed=14)[:, 0]
    assert kolmogorov_distance(logs, lambda v: erf(np.exp(v) / np.sqrt(2))) < kolmogorov_tolerance(2000, FALSE_ALARM)
    mean, error = mean_with_error(log_singular_values(linear(7, 1), trials=2000, seed=15))
    assert abs(mean[0] - 3.5 * (psi(0.5) + np.log(2))) < tolerance(error[0], FALSE_ALARM)


def test_dead_networks():
    """Two units, four ReLU layers: dead unless every layer keeps one, with probability 1 − (3/4)⁴."""
    logs = log_singular_values(mlp(4, 2), trials=3000, seed=16)
    assert not np.isnan(logs).any() and logs.shape == (3000, 2)
    dead = int(np.isneginf(logs[:, 0]).sum())
    low, high = binomial_interval(dead, 3000, 1 - FALSE_ALARM)
    assert low < 1 - 0.75**4 < high


def second_moments(widths, masked):
    """E tr JᵀJ and E tr (JᵀJ)² of real Gaussian networks of variance σ²/fan_in, σ² = 2 with masks and 1 without.

    With d = E φ′² = E φ′⁴ the pair (E tr S², E (tr S)²) is multiplied by a 2×2 matrix in every layer.
    """
    d, variance = (0.5, 2.0) if masked else (1.0, 1.0)
    first, pair = float(widths[0]), np.array([widths[0], widths[0] ** 2.0])
    for n, m in zip(widths, widths[1:], strict=False):
        p, q = m * d, m * d + m * (m - 1) * d**2
        first *= variance * d * m / n
        pair = (variance / n) ** 2 * np.array([[q + p, p], [2 * p, q]]) @ pair
    return first, *pair


@pytest.mark.parametrize(
    ("net", "widths"),
    [
        (linear(1, 6), (6, 6)),
        (linear(3, 6), (6,) * 4),
        (linear(5, 10), (10,) * 6),
        (linear(2, 8, input_width=5, output_width=3), (5, 8, 8, 3)),
        (mlp(3, 8), (8,) * 4),
        (mlp(2, 12, input_width=4), (4, 12, 12)),
    ],
    ids=str,
)
def test_exact_moments(net, widths):
    squares = np.exp(2 * log_singular_values(net, trials=3000, seed=17))
    trace = squares.sum(axis=1)
    samples = np.stack([trace, (squares**2).sum(axis=1), trace**2], axis=1)
    masked = "relu" in str(net)
    mean, error = mean_with_error(samples)
    expected = second_moments(widths, masked)
    if widths == (6, 6):
        assert expected[1] / 6 == pytest.approx(13 / 6)  # E tr S² / N of one square matrix: 2 + 1/N
    assert (np.abs(mean - expected) < tolerance(error, FALSE_ALARM, comparisons=3)).all()


def test_lyapunov_exponents_at_ten_thousand_layers():
    """ln σ_i / M → ½[ψ((N−i+1)/2) + ln(2/N)], variance ψ′((N−i+1)/2)/4M (Newman 1986); their sum exactly so."""
    depth, width, trials = 10_000, 5, 4
    logs = log_singular_values(linear(depth, width), trials=trials, seed=18) / depth
    k = np.arange(width, 0, -1)
    exponents, variances = (psi(k / 2) + np.log(2 / width)) / 2, polygamma(1, k / 2) / 4 / depth
    allowed = tolerance(np.sqrt(variances / trials), FALSE_ALARM, comparisons=width)
    constant = 3 / depth  # ln σ_i = M · exponent + O(1)
    assert np.isfinite(logs).all() and (np.abs(logs.mean(axis=0) - exponents) < allowed + constant).all()
    total = tolerance(np.sqrt(variances.sum() / trials), FALSE_ALARM)
    assert abs(logs.sum(axis=1).mean() - exponents.sum()) < total
    assert (logs * depth).min() < -14_000


# ---------------------------------------------------------------- refusals


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
        (([[["a"]]],), r"matrix 0 must be an array of numbers, got \[\['a'\]\]"),
        (([[[1.0], [1.0, 2.0]]],), "matrix 0 must be"),
        (
            ([np.ones((3, 2)), np.ones((4, 2))],),
            r"matrix 1 must have as many columns as matrix 0 has rows, got shapes \(4, 2\) and \(3, 2\)",
        ),
        ((linear(2, 3), 0), "trials must be at least 1, got 0"),
        ((linear(2, 3), 1, -1), "seed must be at least 0, got -1"),
        (([np.eye(2)], 0), "trials must be at least 1, got 0"),
        ((Sequential([Dense(2)]),), "a network needs an input shape"),
        ((mlp(2, 3, "tanh"),), r"layer 1 \(tanh\) is not supported: .* takes Dense layers with normal weights"),
        ((mlp(2, 3, init="orthogonal"),), r"layer 0 \(Dense\(3, orthogonal\)\) is not supported"),
        ((mlp(2, 3, init="he_uniform"),), r"layer 0 \(Dense\(3, he_uniform\)\) is not supported"),
        ((Sequential([Dense(3), BatchNorm()], (3,)),), r"layer 1 \(BatchNorm\) is not supported"),
        ((Sequential([Conv(2)], (1, 4, 4)),), r"layer 0 \(Conv.*\) is not supported"),
        ((Sequential([RELU, Dense(3)], (3,)),), r"layer 0 \(relu\) is not supported"),
        ((Sequential([Residual(Sequential([Dense(3)]))], (3,)),), r"layer 0.sum \(sum\) is not supported"),
    ],
)
@pytest.mark.parametrize("route", [log_singular_values, dense_log_singular_values])
def test_refusals(route, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        route(*arguments)
    assert "\n" not in str(caught.value)


def test_dense_product_out_of_range():
    with pytest.raises(ValueError, match="left float64"):
        dense_log_singular_values([np.eye(2) * 1e200] * 2)
