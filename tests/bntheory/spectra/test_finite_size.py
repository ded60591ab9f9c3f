"""Exact moments against other derivations: zonal polynomials, quadrature, a recursion of pairs, the limiting laws."""

import itertools
import math

import mpmath
import numpy as np
import pytest

from bntheory import activations, finite_size_moments
from bntheory.architectures import mlp
from bntheory.initializations import initialization
from bntheory.layers import Dense
from bntheory.networks import Sequential
from bntheory.spectra.finite_size import PARTITIONS, _transfer
from bntheory.spectra.fuss_catalan import FussCatalan, MarchenkoPastur
from simulations.statistics import mean_with_error, tolerance

ALL = [partition for order in PARTITIONS.values() for partition in order]
FALSE_ALARM = 1e-6


def network(widths, names, gain=1.0):
    """Dense layers between these widths, each followed by the named activation."""
    law = initialization("lecun_normal", gain=gain)
    pairs = ((Dense(width, law), activations.activation(name)) for width, name in zip(widths[1:], names, strict=True))
    return Sequential(tuple(itertools.chain(*pairs)), (widths[0],))


def power_sums(gram):
    """Π tr S^{λ_i} of matrices (…, n, n), for all partitions."""
    powers = [gram]
    for _ in range(3):
        powers.append(powers[-1] @ gram)
    traces = [np.trace(power, axis1=-2, axis2=-1) for power in powers]
    return {partition: math.prod(traces[k - 1] for k in partition) for partition in ALL}


@pytest.mark.parametrize("order", PARTITIONS)
@pytest.mark.parametrize("rows", [1, 2, 5, 40])
def test_eigenvalues_are_those_of_zonal_polynomials(order, rows):
    """E C_κ(W A Wᵀ) = C_κ(A) Π_{(i,j) ∈ κ} (m + 2(j−1) − (i−1)) (Muirhead 1982, theorem 7.2.7)."""
    zonal = [
        math.prod(rows + 2 * j - i for i, length in enumerate(partition) for j in range(length))
        for partition in PARTITIONS[order]
    ]
    found = np.linalg.eigvals(_transfer(order, rows, 1.0, 1.0))
    assert np.sort(found.real) == pytest.approx(np.sort(zonal), rel=1e-9, abs=1e-9 * max(zonal))
    assert np.abs(found.imag).max() <= 1e-9 * max(zonal)


@pytest.mark.parametrize("slopes", [(1.0, 1.0), (1.0, 0.0), (1.0, -0.4)])
def test_quadrature_over_all_weights_and_coins(slopes):
    """Gauss–Hermite rules of 5 nodes are exact for the eighth powers; two layers 2 → 1 → 2, then 2 → 2."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    weights = weights / weights.sum()
    for widths in [(2, 1, 2), (2, 2)]:
        shapes = list(itertools.pairwise(widths))
        count, coins = sum(n * m for n, m in shapes), sum(widths[1:])
        grid = np.stack(np.meshgrid(*[nodes] * count, indexing="ij"), axis=-1).reshape(-1, count)
        mass = np.prod(np.stack(np.meshgrid(*[weights] * count, indexing="ij"), axis=-1), axis=-1).ravel()
        expected = dict.fromkeys(ALL, 0.0)
        for draw in itertools.product(slopes, repeat=coins):
            jacobian, left, masks = np.eye(widths[0]), grid, list(draw)
            for n, m in shapes:
                matrix, left = left[:, : n * m].reshape(-1, m, n), left[:, n * m :]
                mask, masks = np.array(masks[:m]), masks[m:]
                jacobian = mask[:, None] * matrix @ jacobian / math.sqrt(n)
            for partition, sums in power_sums(jacobian @ jacobian.swapaxes(1, 2)).items():
                expected[partition] += float(mass @ sums) / 2**coins
        name = {1.0: "linear", 0.0: "relu"}.get(slopes[1], f"leaky_relu({slopes[1]})")
        found = finite_size_moments(network(widths, [name] * len(shapes))).log_traces
        assert {key: math.exp(value) for key, value in found.items()} == pytest.approx(expected, rel=1e-11)


def test_recursion_of_pairs():
    """(E tr S², E (tr S)²) by hand, for changing widths, variances and slopes."""
    widths, gain, slopes = (7, 3, 11, 4, 6), 1.7, (0.0, 0.3, -2.0, 1.0)
    names = ["relu", "leaky_relu(0.3)", "leaky_relu(-2)", "linear"]
    second, square = widths[0], widths[0] ** 2
    for n, m, slope in zip(widths, widths[1:], slopes, strict=False):
        d2, d4 = (1 + slope**2) / 2, (1 + slope**4) / 2
        p, q = m * d4, m * d4 + m * (m - 1) * d2**2
        pair = (q + p) * second + p * square, 2 * p * second + q * square
        second, square = (gain**4 / n**2 * value for value in pair)
    found = finite_size_moments(network(widths, names, gain))
    assert found.log_trace(2) == pytest.approx(math.log(second), abs=1e-13)
    assert found.log_trace(1, 1) == pytest.approx(math.log(square), abs=1e-13)
    assert found.moment(2) == pytest.approx(second / 6, rel=1e-13)


def test_permuting_widths_of_linear_products():
    """Traces of J Jᵀ do not depend on the order of the sizes (Ipsen, Kieburg 2014), up to the fan-in in the scale."""
    reference = None
    for widths in itertools.permutations((2, 3, 5, 8)):
        found = finite_size_moments(network(widths, ["linear"] * 3)).log_traces
        scale = math.log(math.prod(widths[:-1]))
        traces = np.array([found[partition] + sum(partition) * scale for partition in ALL])
        reference = traces if reference is None else reference
        assert traces == pytest.approx(reference, abs=1e-12)


@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_real_networks_have_these_moments(slope):
    """Masks from a forward pass, 5 → 8 → 6 → 5; up to k = 2, whose estimates have light enough tails."""
    rng, widths, draws = np.random.default_rng(5), (5, 8, 6, 5), 100_000
    values, jacobian = np.array([1.0, -2.0, 0.5, 0.0, 3.0]), np.eye(5)
    for n, m in itertools.pairwise(widths):
        matrix = rng.standard_normal((draws, m, n)) / math.sqrt(n)
        values = (matrix @ values[..., None])[..., 0]
        mask = np.where(values > 0, 1.0, slope)
        values, jacobian = mask * values, mask[..., None] * (matrix @ jacobian)
    found, light = finite_size_moments(network(widths, [f"leaky_relu({slope})"] * 3)), [(1,), (2,), (1, 1)]
    sums = power_sums(jacobian @ jacobian.swapaxes(1, 2))
    for partition in light:
        mean, error = mean_with_error(sums[partition])
        assert abs(mean - math.exp(found.log_trace(*partition))) < tolerance(error, FALSE_ALARM, len(light))
        assert error < 0.02 * mean  # sees a tenth; at infinite width E tr S² is smaller by a third and more


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("order", [2, 3, 4])
def test_distance_to_the_limiting_law_falls_like_one_over_width(depth, order):
    widths = np.array([100, 1000, 10_000, 100_000])
    limit = FussCatalan(depth).moment(order)
    errors = [finite_size_moments(int(width), depth).moment(order) / limit - 1 for width in widths]
    slopes = np.diff(np.log(errors)) / np.diff(np.log(widths))
    assert slopes == pytest.approx(-1, abs=0.05)
    assert slopes[-1] == pytest.approx(-1, abs=1e-3)


def test_wide_networks_have_the_moments_of_free_probability():
    """Relu, He: (1+y)/y (1+2y)^L (moments by Lagrange inversion); one rectangular matrix: Marchenko–Pastur."""
    free = {1: (1, 3, 11, 45), 2: (1, 5, 33, 249), 3: (1, 7, 67, 741)}
    for depth, moments in free.items():
        found = finite_size_moments(mlp(depth, 10**8))
        assert [found.moment(k) for k in (1, 2, 3, 4)] == pytest.approx(moments, rel=1e-6)
    found = finite_size_moments(network((10**8, 3 * 10**8), ["linear"]))
    assert [found.moment(k) for k in (1, 2, 3, 4)] == pytest.approx(
        [MarchenkoPastur(3.0).moment(k) for k in (1, 2, 3, 4)], rel=1e-6
    )


def test_depth_of_ten_thousand():
    """Logarithms beyond float64, to 1e-15 a layer: width 1 in closed form, any width for k = 2 in 60 digits."""
    found = finite_size_moments(1, 10_000)
    for partition in ALL:
        odd = math.prod(range(1, 2 * sum(partition), 2))  # E g^2k
        assert found.log_trace(*partition) == pytest.approx(10_000 * math.log(odd), abs=1e-11, rel=1e-15)
    with mpmath.workdps(60):
        n = 100
        p, q = mpmath.mpf(n) / 2, mpmath.mpf(n) / 2 + mpmath.mpf(n * (n - 1)) / 4
        power = (mpmath.matrix([[q + p, p], [2 * p, q]]) * 4 / n**2) ** 10_000
        expected = [float(mpmath.log(value)) for value in power * mpmath.matrix([n, n**2])]
    found = finite_size_moments(mlp(10_000, n))
    assert [found.log_trace(2), found.log_trace(1, 1)] == pytest.approx(expected, abs=1e-11)
    assert found.moment(4) == math.inf
    assert finite_size_moments(mlp(10_000, n, init="lecun_normal")).moment(1) == 0.0


def test_known_values():
    n, m = 6, 4  # E tr W³ of a real Wishart matrix
    third = m * n * (m**2 + n**2 + 3 * m * n + 3 * m + 3 * n + 4) / n**3
    assert finite_size_moments(network((n, m), ["linear"])).log_trace(3) == pytest.approx(math.log(third), abs=1e-14)
    for (width, factors), value in {(6, 1): 2.166667, (6, 3): 5.356481, (10, 5): 8.181810}.items():
        assert finite_size_moments(width, factors).moment(2) == pytest.approx(value, abs=5e-7)


def test_extreme_slopes_stay_in_float64():
    steep = finite_size_moments(mlp(3, 2, "leaky_relu(1e200)"))
    flat = finite_size_moments(mlp(3, 2, "leaky_relu(1e-200)"))
    relu = finite_size_moments(mlp(3, 2))
    for partition in ALL:
        assert flat.log_traces[partition] == relu.log_traces[partition]
        scale = 2 * sum(partition) * 3 * 200 * math.log(10)
        assert steep.log_traces[partition] == pytest.approx(relu.log_traces[partition] + scale, rel=1e-14)


def test_powers_are_checked():
    found = finite_size_moments(3, 2)
    assert found.log_trace(1, 2) == found.log_trace(2, 1)
    assert found.log_moment(2) == found.log_trace(2) - math.log(3)
    for powers, message in {(): "got none", (5,): "got 5", (3, 2): "got 3, 2", (0,): "at least 1"}.items():
        with pytest.raises(ValueError, match=message):
            found.log_trace(*powers)
