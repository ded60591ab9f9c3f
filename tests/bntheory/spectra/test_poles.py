"""Densities that nothing smooths: the rule made right by its residues, the laws themselves, and products of few."""

import math
from itertools import pairwise

import mpmath as mp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from bntheory.activations import activation
from bntheory.architectures import mlp
from bntheory.growth.prediction import predict_growth
from bntheory.initializations import initialization
from bntheory.layers import Dense
from bntheory.networks import Sequential
from bntheory.spectra.densities import density_law, slope_law
from bntheory.spectra.fuss_catalan import FussCatalan
from bntheory.spectra.jacobian import jacobian_law
from bntheory.spectra.poles import polynomials

ROOT = 0.8  # of the variance of h


def orthogonal(widths, name, gain):
    """An MLP of orthogonal weights."""
    init = initialization("orthogonal", gain=gain)
    layers = (layer for width in widths[1:] for layer in (Dense(width, init=init), activation(name)))
    return Sequential(tuple(layers), input_shape=(widths[0],))


def test_polynomials_are_exact_up_to_their_degree():
    x = np.arange(20.0)
    found = polynomials((x / 10 - 1) ** 12)
    expected = [math.comb(12, k) * (0.5 - 1) ** (12 - k) / 10**k for k in range(13)]  # about x = 5
    np.testing.assert_allclose(found[5], expected, rtol=1e-2, atol=1e-15)
    np.testing.assert_allclose(found[5][:4], expected[:4], rtol=1e-8)


@pytest.mark.parametrize("u", [0.5 - 1e-3j, 0.01 - 1e-5j, 0.9 - 0.1j, 1.0001 + 0j, 1e-4 - 1e-7j])
def test_sums_next_to_the_density_are_integrals(u):
    """E u/(u − λ) and E arg(1 − u/λ), λ = tanh′(0.8 g)², in 25 digits with the path cut at the pole."""
    factor = slope_law("tanh", 2 * math.log(ROOT)).parts[0].factor
    with mp.workdps(25):
        size = abs(u) ** -0.25
        pole = float(mp.acosh(size)) / ROOT if size > 1 else 0.0
        distances = [s * d for d in (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5) for s in (-1, 1)]
        cuts = sorted({0.0, pole, 4.0, 12.0, *(pole + d for d in distances if pole + d > 0)})

        def ratio(g):
            return mp.mpc(u) * mp.cosh(ROOT * g) ** 4

        share = complex(2 * mp.quad(lambda g: mp.npdf(g) * ratio(g) / (ratio(g) - 1), cuts))
        angle = float(2 * mp.quad(lambda g: mp.npdf(g) * mp.arg(1 - ratio(g)), cuts))
    y, q, slope = (column[0] for column in factor._sums(np.array([u])))
    tolerance = 3e-10 + 1e-12 / abs(1 - u)  # next to the edge, where its place is a float
    assert abs(q - share) < tolerance * abs(share) and abs(y - (share - 1)) < tolerance * abs(share)
    assert factor.integral(None, np.array([[u]]))[0] == pytest.approx(angle, abs=2e-9)
    step = 1e-6 * (1 - 1j) * min(abs(u.imag) or 1e-4, 1)
    moved = factor._sums(np.array([u + step]))[0][0] - factor._sums(np.array([u - step]))[0][0]
    assert abs(moved / (2 * step) / slope - 1) < 1e-4


def tanh_places(x):
    return np.arccosh(x**-0.25) / ROOT


def erf_places(x):
    return np.sqrt(np.log(4 / np.pi / x) / 2) / ROOT


CLOSED = {  # law, sf, pdf and places
    "tanh": (
        slope_law("tanh", 2 * math.log(ROOT)),
        lambda x: 1 - 2 * stats.norm.sf(tanh_places(x)),
        lambda x: stats.norm.pdf(tanh_places(x)) / (2 * ROOT * np.tanh(ROOT * tanh_places(x)) * x),
        [1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999],
    ),
    "erf": (
        slope_law("erf", 2 * math.log(ROOT)),
        lambda x: 1 - 2 * stats.norm.sf(erf_places(x)),
        lambda x: stats.norm.pdf(erf_places(x)) / (2 * ROOT**2 * erf_places(x) * x),
        [1e-9, 1e-3, 0.1, 0.5, 0.9, 1.27],
    ),
    "elu": (
        slope_law("elu", 2 * math.log(ROOT)),
        lambda x: stats.norm.sf(np.log(x) / 2 / ROOT),
        lambda x: stats.norm.pdf(np.log(x) / 2 / ROOT) / (2 * ROOT * x),
        [1e-3, 0.1, 0.5, 0.9, 0.999],
    ),
    "uniform": (density_law(lambda x: np.ones_like(x), (1, 2)), lambda x: 2 - x, np.ones_like, [1.001, 1.5, 1.99]),
    "exponential": (density_law(lambda x: np.exp(-x)), lambda x: np.exp(-x), lambda x: np.exp(-x), [1e-6, 0.5, 3]),
    "Marchenko–Pastur": (
        density_law(FussCatalan(1).pdf, (0, 4)),
        FussCatalan(1).sf,
        FussCatalan(1).pdf,
        [1e-3, 0.5, 2, 3.9],
    ),
}


@pytest.mark.parametrize(("law", "sf", "pdf", "x"), CLOSED.values(), ids=CLOSED)
def test_laws_of_one_density(law, sf, pdf, x):
    """By change of variable, to 1e-8; the inverse, and moments by quadrature."""
    x = np.array(x)
    np.testing.assert_allclose(law.pdf(x), pdf(x), rtol=2e-8)
    np.testing.assert_allclose(law.sf(x), sf(x), rtol=1e-8)
    np.testing.assert_allclose(law.cdf(x), 1 - sf(x), rtol=1e-7)
    inside = law.cdf(x) < 1 - sum(mass for _, mass in law.atoms)
    np.testing.assert_allclose(law.ppf(law.cdf(x[inside])), x[inside], rtol=1e-8)
    with np.errstate(all="ignore"):
        assert law.mean == pytest.approx(law._expectation(lambda value: value), rel=1e-8)
    assert (2 * law).cdf(2 * x) == pytest.approx(law.cdf(x), rel=1e-12)


def test_the_far_tail_of_an_unbounded_density():
    """Errors of 1e-10 of the whole where e^−x falls from node to node, as `accuracy` says; small with more points."""
    x = np.array([8.0, 10.0, 12.0])
    for points, bound in ((8.0, 2e-10 * np.exp(x)), (16.0, 1e-8)):
        law = density_law(lambda x: np.exp(-x), points=points)
        error = np.abs(law.sf(x) * np.exp(x) - 1)
        assert np.all(error < bound)
        assert law.accuracy(x) > np.abs(law.pdf(x) * np.exp(x) - 1).max()


def test_a_constant_slope_is_an_atom():
    law = slope_law("elu")
    assert law.atoms == ((1.0, pytest.approx(0.5, abs=1e-12)),) and law.support[1] == 1.0
    assert law.cdf(1.0) == 1 and law.ppf(0.7) == 1 and law.cdf(1 - 1e-9) == pytest.approx(0.5, abs=1e-8)


def test_one_orthogonal_layer_is_its_slopes():
    """Square and narrowing: σ² φ′² itself, whatever follows of square matrices; widening: a compression."""
    slopes, x = slope_law("tanh", 2 * math.log(1.3)) * 1.3**2, np.array([0.01, 0.5, 1.6])
    square = orthogonal([64, 64], "tanh", 1.3)
    followed = Sequential((*square.layers, Dense(64, init="orthogonal")), (64,))
    for net in (square, followed, orthogonal([96, 64], "tanh", 1.3)):
        np.testing.assert_allclose(jacobian_law(net).cdf(x), slopes.cdf(x), rtol=1e-9)
    wide, less = jacobian_law(orthogonal([32, 64], "tanh", 1.3)), slope_law("tanh", math.log(1.3**2 / 2)) * 1.3**2
    assert wide.atoms == ((0.0, 0.5),) and wide.support[1] < less.support[1]
    assert wide.mean == pytest.approx(less.mean / 2, rel=1e-9)


def drawn(widths, name, gain, size, trials, seed):
    """Squared singular values of D_L W_L … D_1 W_1, W orthogonal and D of slopes at stratified g, in random order."""
    rng = np.random.default_rng(seed)
    phi, log_q = activation(name), predict_growth(orthogonal(widths, name, gain)).log_second_moment
    values = []
    for _ in range(trials):
        product = np.eye(widths[0] * size)
        for layer, width in enumerate(widths[1:]):
            rows, columns = width * size, len(product)
            q = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))[0]
            levels = (np.arange(rows) + rng.random(rows)) / rows
            slopes = phi.dphi(math.exp(log_q[1 + 2 * layer] / 2) * stats.norm.ppf(rng.permutation(levels)))
            product = gain * slopes[:, None] * ((q if rows >= columns else q.T) @ product)
        values.append(np.linalg.svd(product, compute_uv=False) ** 2)
    return np.sort(np.concatenate(values))


@pytest.mark.parametrize(
    ("widths", "name", "gain"),
    [
        ([1, 1, 1], "tanh", 1.5),
        ([2, 3], "erf", 1.2),
        ([3, 2, 2], "softplus", 1.5),
        ([1, 1, 1, 1], "selu", 1.0),
    ],
)
def test_products_against_simulation(widths, name, gain):
    """Eigenvalues are rigid and the slopes stratified: the Kolmogorov distance falls like 1/N, from N to 4 N.

    Seed fixed; 12 other seeds gave at most 1.24/N for tanh, 0.71/N for the others.
    """
    law = jacobian_law(orthogonal(widths, name, gain))
    share = min(1.0, min(widths) / widths[-1])
    distances = []
    for size in (30, 120):
        sample = drawn(widths, name, gain, size, 4, 7)
        levels = (law.cdf(sample) - (1 - share)) / share
        distances.append(np.max(np.abs(levels - (np.arange(sample.size) + 0.5) / sample.size)) * size)
    assert max(distances) < 2, distances


def test_the_moments_of_a_product_are_those_of_its_series():
    """Quadrature of the density against E x² = m₁² m₂′ + m₁′² m₂ − m₁² m₁′² of two free factors; accuracy as said."""
    first, second = (slope_law(name, 0.3) for name in ("tanh", "erf"))
    law = first @ second
    a, b = ([factor.moment(k) for k in (1, 2)] for factor in (first, second))
    expected = a[0] ** 2 * b[1] + b[0] ** 2 * a[1] - a[0] ** 2 * b[0] ** 2
    with np.errstate(all="ignore"):
        assert law._expectation(lambda value: value) == pytest.approx(a[0] * b[0], rel=1e-9)
        assert law._expectation(lambda value: value**2) == pytest.approx(expected, rel=1e-9)
    levels = np.r_[1e-9, 1e-4, np.linspace(0.05, 0.95, 10), 1 - 1e-6]
    np.testing.assert_allclose(law.cdf(law.ppf(levels)), levels, rtol=1e-10)
    assert law.accuracy(law.ppf([0.1, 0.5, 0.9])) < 1e-6


def test_orthogonal_weights_are_narrower_by_one_a_layer():
    """Var x/(E x)² adds up over free factors: 1 a square Gaussian matrix, 0 an orthogonal one, the slopes alike."""
    laws = [jacobian_law(mlp(3, 64, "tanh", initialization(name, gain=1.2))) for name in ("lecun_normal", "orthogonal")]
    spreads = [law.var / law.mean**2 for law in laws]
    assert laws[0].mean == pytest.approx(laws[1].mean, rel=1e-9)
    assert spreads[0] - spreads[1] == pytest.approx(3, rel=1e-8)


@pytest.mark.parametrize("log_variance", [-5.0, -4.0, -1.0, 0.7, 3.0])
@pytest.mark.parametrize(
    "name", ["gelu", "silu", "mish", "gelu_tanh", "elu", "relu6", "hardtanh", "hardsigmoid", "hardswish"]
)
def test_slopes_with_kinks_and_far_zeros_have_their_means(name, log_variance):
    """E φ′² and E φ′⁴ by adaptive quadrature, with kinks and with zeros of φ′ up to 18 deviations off."""
    phi, root = activation(name), math.exp(log_variance / 2)
    cuts = [k / root for k in phi.kinks if abs(k / root) < 12]
    cuts = sorted({*np.arange(-12.0, 13.0), *cuts})

    def moment(order):
        def integrand(g):
            return phi.dphi(np.array([root * g]))[0] ** (2 * order) * math.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)

        return math.fsum(quad(integrand, low, high, epsabs=0, epsrel=1e-11)[0] for low, high in pairwise(cuts))

    law = slope_law(name, log_variance)
    assert [law.moment(1), law.moment(2)] == pytest.approx([moment(1), moment(2)], rel=1e-10)


def test_slopes_that_are_0_or_1_are_a_mask():
    """Of hardtanh those |h| < 1: one layer of it has the law of a Gaussian matrix with so many rows."""
    share = math.erf(1 / math.sqrt(2 * 0.4))
    law = slope_law("hardtanh", math.log(0.4)) @ FussCatalan(1)
    assert dict(law.atoms)[0.0] == pytest.approx(1 - share, rel=1e-13)
    assert law.support == pytest.approx(((1 - math.sqrt(share)) ** 2, (1 + math.sqrt(share)) ** 2), rel=1e-12)
