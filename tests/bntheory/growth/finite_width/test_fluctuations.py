"""The law of ln χ²_K and of sums of such terms, against mpmath, quadrature of densities, and sampling."""

import itertools
import math

import mpmath
import numpy as np
import pytest
from scipy import integrate, optimize, stats

from bntheory.growth.finite_width import density_evolution, fluctuations
from bntheory.growth.finite_width.fluctuations import LogChi2, Step
from simulations.statistics import binomial_interval

RELU, LINEAR = (lambda n: LogChi2(n, True)), (lambda n: LogChi2(n, False))
SMALL = [RELU(1), RELU(2), RELU(3), RELU(7), LINEAR(1), LINEAR(2), LINEAR(3)]
LEVELS = np.array([1e-6, 0.001, 0.025, 0.05, 0.3, 0.5, 0.75, 0.95, 0.999, 1 - 1e-6])


def enumerated(law):
    """Values of K ≥ 1 and their exact probabilities."""
    if not law.halved:
        return [(law.units, mpmath.mpf(1))]
    return [(k, mpmath.binomial(law.units, k) / (mpmath.mpf(2) ** law.units - 1)) for k in range(1, law.units + 1)]


def exact_moments(law):
    """Mean and variance of ln χ²_K given K ≥ 1 by enumeration in 40 digits."""
    with mpmath.workdps(40):
        terms = [(p, mpmath.digamma(mpmath.mpf(k) / 2) + mpmath.log(2), k) for k, p in enumerated(law)]
        mean = sum(p * m for p, m, _ in terms)
        second = sum(p * (mpmath.psi(1, mpmath.mpf(k) / 2) + m**2) for p, m, k in terms)
        return float(mean), float(second - mean**2)


def alive_binomial(n):
    """P(K = k | K ≥ 1) for k = 0 … n."""
    p = stats.binom.pmf(np.arange(n + 1), n, 0.5)
    p[0] = 0
    return p / p.sum()


def cdf(law, x):
    """P(ln χ²_K ≤ x | K ≥ 1), an exact sum."""
    return sum(float(p) * stats.chi2.cdf(math.exp(x), k) for k, p in enumerated(law))


def pdf(law, x):
    return sum(float(p) * stats.chi2.pdf(np.exp(x), k) * np.exp(x) for k, p in enumerated(law))


@pytest.mark.parametrize("law", [*SMALL, RELU(100), RELU(1000), RELU(5_000), LINEAR(1000), LINEAR(10**6)], ids=str)
def test_mean_and_variance_equal_enumeration(law):
    mean, variance = fluctuations.mean_and_variance(law)
    exact_mean, exact_variance = exact_moments(law)
    assert mean == pytest.approx(exact_mean, rel=1e-14, abs=1e-14)
    assert variance == pytest.approx(exact_variance, rel=1e-10 if law.units >= 20_000 else 1e-12)


def test_a_unit_by_hand():
    """n = 1: K = 1 given alive; ψ(1/2) = −γ − 2 ln 2 and ψ′(1/2) = π²/2."""
    assert fluctuations.mean_and_variance(RELU(1)) == pytest.approx((-np.euler_gamma - math.log(2), math.pi**2 / 2))


@pytest.mark.parametrize(("law", "slopes"), [(RELU, (-2.5, 5.0)), (LINEAR, (-1.0, 2.0))])
def test_wide_layers_approach_the_expansion_in_one_over_n(law, slopes):
    """Mean of the log growth −5/(2n) and variance 5/n (linear −1/n, 2/n), with an error that falls as 1/n²."""
    errors = []
    for n in (10**3, 10**4, 10**5, 10**6):
        mean, variance = fluctuations.mean_and_variance(law(n))
        mean -= math.log(n / 2 if law(n).halved else n)
        errors.append((abs(mean - slopes[0] / n), abs(variance - slopes[1] / n)))
    rates = np.diff(np.log10(np.array(errors)), axis=0)[:2]  # beyond, rounding
    assert np.all(np.abs(rates + 2) < 0.05)
    assert errors[-1][0] < 2e-11 and errors[-1][1] < 2e-11


@pytest.mark.parametrize("n", [1, 2, 3, 10, 52, 60, 5000])
def test_survival(n):
    with mpmath.workdps(50):
        expected = mpmath.log1p(-(mpmath.mpf(2) ** -n))
        assert fluctuations.log_alive(RELU(n)) == pytest.approx(float(expected), rel=1e-15, abs=1e-320)
    assert fluctuations.log_alive(LINEAR(n)) == 0


@pytest.mark.parametrize("n", [1, 5, 37, 400, 3000, 10**6])
def test_degrees_are_the_binomial_law_given_alive(n):
    k, weights = fluctuations.degrees(RELU(n))
    expected = stats.binom.pmf(k, n, 0.5) / -np.expm1(-n * math.log(2))
    assert np.all(k >= 1) and np.all(k <= n)
    assert weights.sum() == pytest.approx(1, abs=1e-13)
    np.testing.assert_allclose(weights, expected, rtol=1e-7, atol=1e-17)
    if n <= 80:
        assert len(k) == n
    else:
        assert stats.binom.cdf(k[0] - 1, n, 0.5) + stats.binom.sf(k[-1], n, 0.5) < 1e-16


@pytest.mark.parametrize("law", SMALL, ids=str)
def test_characteristic_function(law):
    t = np.array([0.0, 0.3, -0.3, 1.7, 8.0])
    mean, variance = exact_moments(law)
    with mpmath.workdps(30):
        expected = []
        for s in t:
            halves = [(p, mpmath.mpf(k) / 2) for k, p in enumerated(law)]
            total = sum(p * mpmath.gamma(half + 1j * s) / mpmath.gamma(half) for p, half in halves)
            expected.append(complex(total * mpmath.exp(1j * s * (mpmath.log(2) - mean))))
    phi = np.exp(fluctuations.log_characteristic_function(law, t))
    np.testing.assert_allclose(phi, expected, rtol=0, atol=1e-13)
    assert phi[1] == pytest.approx(np.conj(phi[2]))
    small = np.array([1e-3])
    curvature = -2 * fluctuations.log_characteristic_function(law, small).real[0] / 1e-6
    assert curvature == pytest.approx(variance, rel=1e-4)


@pytest.mark.parametrize("law", [*SMALL, RELU(128)], ids=str)
def test_quantiles_of_one_term_equal_the_inverse_of_the_exact_distribution(law):
    mean, _ = exact_moments(law)
    quantiles = fluctuations.sum_quantiles([], [(0, law)], LEVELS)[0]
    for level, quantile in zip(LEVELS, quantiles, strict=True):
        expected = optimize.brentq(lambda x, p=level: cdf(law, x) - p, -80, 30, xtol=1e-13)
        assert quantile + mean == pytest.approx(expected, abs=1e-12 + 1e-14 / pdf(law, expected))


@pytest.mark.parametrize("first", [RELU(1), RELU(2), LINEAR(3)], ids=str)
@pytest.mark.parametrize("second", [RELU(1), RELU(3), LINEAR(1)], ids=str)
def test_quantiles_of_two_terms_equal_a_convolution(first, second):
    """P(X + Y ≤ q) = ∫ f_X(x) F_Y(q − x) dx must give back the levels."""
    centre = exact_moments(first)[0] + exact_moments(second)[0]
    levels = np.array([0.025, 0.5, 0.95])
    for level, quantile in zip(levels, fluctuations.sum_quantiles([first], [(1, second)], levels)[0], strict=True):
        total, _ = integrate.quad(
            lambda x, q=quantile: pdf(first, x) * cdf(second, q + centre - x),
            -60,
            8,
            points=[-10, -3, 0],
            limit=300,
            epsabs=1e-12,
        )
        assert total == pytest.approx(level, abs=1e-10)


LAYERS = {
    "width 1": [RELU(1)] * 6,
    "width 2": [RELU(2)] * 20,
    "widths 1, 1000, 3": [RELU(1), RELU(1000), RELU(3), LINEAR(7)],
    "width 128": [RELU(128)] * 100,
    "linear": [LINEAR(4)] * 10,
}


@pytest.mark.parametrize("laws", LAYERS.values(), ids=LAYERS)
def test_the_two_routes_to_quantiles_agree(laws):
    """Inversion of the characteristic function, and the density carried on a lattice with no bias."""
    levels = LEVELS[1:-1]
    centre = sum(fluctuations.mean_and_variance(law)[0] for law in laws)
    inverted = fluctuations.sum_quantiles(laws[:-1], [(len(laws) - 1, laws[-1])], levels)[0] + centre
    source, last = list(density_evolution.evolve(0.0, [Step(0.0, -math.inf, law) for law in laws]))[-1]
    carried = density_evolution.quantiles(source, Step(0.0, -math.inf, laws[-1]), laws[-1], levels)
    scale = math.sqrt(sum(fluctuations.mean_and_variance(law)[1] for law in laws))
    density = np.minimum(levels, 1 - levels) / scale  # about; both distribution functions are right to 1e-13
    assert np.all(np.abs(carried - inverted) < 1e-11 * max(1, scale) + 1e-13 / density)
    assert last.mean == pytest.approx(centre, abs=1e-11 * max(1, abs(centre)))
    assert last.variance == pytest.approx(scale**2, rel=1e-10)
    assert 1 - last.dead == pytest.approx(math.prod(1 - 2.0**-law.units for law in laws if law.halved), rel=1e-13)


@pytest.mark.parametrize("laws", LAYERS.values(), ids=LAYERS)
def test_quantiles_against_sampling(laws):
    """100,000 draws; 7 levels × 5 networks at a false-alarm rate of 1e-5 each."""
    rng, levels, draws = np.random.default_rng(1), LEVELS[2:-1], 100_000
    total = np.zeros(draws)
    for law in laws:
        k = np.full(draws, law.units)
        if law.halved:
            k = rng.choice(np.arange(law.units + 1), draws, p=alive_binomial(law.units))
        total += np.log(2 * rng.standard_gamma(k / 2))
    centre = sum(fluctuations.mean_and_variance(law)[0] for law in laws)
    quantiles = fluctuations.sum_quantiles(laws[:-1], [(len(laws) - 1, laws[-1])], levels)[0] + centre
    for level, quantile in zip(levels, quantiles, strict=True):
        lower, upper = binomial_interval(int(np.sum(total <= quantile)), draws, 1 - 1e-5)
        assert lower <= level <= upper


def test_many_ends_share_one_pass():
    laws = [RELU(3), LINEAR(2), RELU(50)]
    ends = [(0, RELU(3)), (1, LINEAR(2)), (1, RELU(5)), (3, RELU(1))]
    together = fluctuations.sum_quantiles(laws, ends, LEVELS[1:-1])
    for row, (count, last) in zip(together, ends, strict=True):
        alone = fluctuations.sum_quantiles(laws[:count], [(count, last)], LEVELS[1:-1])[0]
        np.testing.assert_allclose(row, alone, rtol=0, atol=1e-11)


def test_quantiles_increase_with_the_level():
    for n, depth in itertools.product((1, 10, 1000), (0, 30)):
        quantiles = fluctuations.sum_quantiles([RELU(n)] * depth, [(depth, RELU(n))], LEVELS)
        assert np.all(np.diff(quantiles) > 0)


def test_log_gamma_of_the_mean_growth_is_consistent():
    """E e^X = E χ²_K: the law integrates to the mean and second moment that the recursion of E h² uses."""
    for n in (1, 2, 5):
        law = RELU(n)
        source, _ = next(iter(density_evolution.evolve(0.0, [Step(0.0, -math.inf, law), Step(0.0, -math.inf, law)])))
        assert source.points.tolist() == [0.0]
        _, density = next(iter(density_evolution.evolve(0.0, [Step(0.0, -math.inf, law)])))
        alive = 1 - 2.0**-n
        assert alive * density.weights @ np.exp(density.points) == pytest.approx(n / 2, rel=1e-11)
        second = n / 2 * (n + 5) / 2  # E K(K + 2) = n(n + 1)/4 + n
        assert alive * density.weights @ np.exp(2 * density.points) == pytest.approx(second, rel=1e-10)
