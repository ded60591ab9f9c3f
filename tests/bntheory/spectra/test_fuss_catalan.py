"""The Fuss–Catalan and Marchenko–Pastur laws against arithmetic of 70 digits, closed forms, integers and matrices."""

import math
from functools import cache

import mpmath as mp
import numpy as np
import pytest
from scipy.stats import kstest

from bntheory.spectra.fuss_catalan import FussCatalan, MarchenkoPastur, log_gamma_ratio

DIGITS = 70
FACTORS = [1, 2, 5, 50, 1000, 100_000]


@pytest.fixture(autouse=True)
def digits():
    with mp.workdps(DIGITS):
        yield


@cache
def exact(factors, log_x):
    """(density of ln x, cdf, sf) at ln x < ln x_max, from the parametrisation in φ, found by bisection and secants."""
    m, n = factors, factors + 1
    edge = n * mp.log(n) - m * mp.log(m)

    def residual(w):  # with φ = π / (M+1) / (1 + e^-w); sin((M+1)φ) and sin(Mφ) by the complement of the angle
        phi, delta = mp.pi / n / (1 + mp.exp(-w)), mp.pi / (1 + mp.exp(w))
        depth = edge - n * mp.log(mp.sin(delta)) + mp.log(mp.sin(phi)) + m * mp.log(mp.sin(delta + phi))
        return mp.log(depth) - mp.log(edge - log_x)

    low, high = mp.mpf(-60), mp.mpf(60)
    while residual(high) < 0:
        high *= 2
    while high - low > mp.mpf("0.1"):
        middle = (low + high) / 2
        low, high = (middle, high) if residual(middle) < 0 else (low, middle)
    a, b, at_a, at_b = low, high, residual(low), residual(high)
    while abs(b - a) > mp.mpf(10) ** -28:  # the order of convergence is 1.6
        a, b, at_a = b, b - at_b * (b - a) / (at_b - at_a), at_b
        at_b = residual(b)
    assert abs(at_b) < mp.mpf(10) ** -40
    lost = int(abs(b) / mp.log(10)) + 1  # digits that 1 − … and sin((M+1)φ) cancel at the lower end, φ³ at the upper
    with mp.workdps(DIGITS + 3 * lost):
        phi = mp.pi / n / (1 + mp.exp(-b))
        density = mp.sin(phi) * mp.sin(n * phi) / (mp.pi * mp.sin(m * phi))
        sf = (n * phi - m * mp.sin(phi) * mp.sin(n * phi) / mp.sin(m * phi)) / mp.pi
        return density, 1 - sf, sf


def relative_error(got, want):
    return float(abs(mp.mpf(float(got)) / want - 1))


def below_edge(points, edge):
    """The floats below an edge known to many digits."""
    return [x for x in np.unique(points).tolist() if mp.mpf(x) < edge]


def exact_edge(factors, scale=1.0):
    return mp.mpf(scale) * mp.mpf(factors + 1) ** (factors + 1) / mp.mpf(factors) ** factors


def assert_accurate(law, points, log_points, jacobian):
    """pdf, cdf and sf of `law` at `points` to a relative 1e-12, wherever the density fits in a float."""
    factors = getattr(law, "law", law).factors
    densities = law.pdf(points).tolist(), law.logpdf(points).tolist()
    for point, log_x, pdf, logpdf, cdf, sf in zip(
        points, log_points, *densities, law.cdf(points).tolist(), law.sf(points).tolist(), strict=True
    ):
        density, below, above = exact(factors, log_x)
        density *= jacobian(mp.mpf(point))
        if density < mp.mpf(1e308):
            assert relative_error(pdf, density) < 1e-12, point
        assert abs(logpdf - float(mp.log(density))) < 1e-12, point
        assert relative_error(cdf, below) < 1e-12, point
        assert relative_error(sf, above) < 1e-12, point


@pytest.mark.parametrize("scale", [1.0, 0.37, 1e-280, 1e280])
@pytest.mark.parametrize("factors", FACTORS)
def test_x_and_singular_values_against_many_digits(factors, scale):
    """A relative 1e-12 everywhere; the edge and the scale cost nothing."""
    law, edge = FussCatalan(factors, scale), exact_edge(factors, scale)
    top, ends = law.support[1], 10.0 ** -np.arange(1, 16, 2)
    tails = [np.geomspace(1e-300, top, 8, endpoint=False), top * np.linspace(0.05, 0.95, 6)]
    points = below_edge(np.r_[*tails, top * (1 - ends), np.nextafter(top, 0)], edge)
    assert_accurate(law, points, [mp.log(mp.mpf(x) / mp.mpf(scale)) for x in points], lambda x: 1 / x)
    top = law.singular.support[1]
    points = below_edge(np.r_[top / 9, top * (1 - ends[1::2]), np.nextafter(top, 0)], mp.sqrt(edge))
    assert_accurate(law.singular, points, [mp.log(mp.mpf(s) ** 2 / mp.mpf(scale)) for s in points], lambda s: 2 / s)


@pytest.mark.parametrize("scale", [1.0, 0.37, 1e-280])
@pytest.mark.parametrize("factors", [*FACTORS, 1_000_000])
def test_logarithms_against_many_digits(factors, scale):
    """ln x far below anything plain x can hold, and up to the edge."""
    law, edge = FussCatalan(factors, scale).log, mp.log(exact_edge(factors, scale))
    top, tail = law.support[1], math.log(scale) - np.geomspace(0.1, 600 * (factors + 1), 9)
    points = below_edge(np.r_[tail, -1000.0, top - 10.0 ** -np.arange(0, 16, 3), np.nextafter(top, -np.inf)], edge)
    assert_accurate(law, points, [mp.mpf(u) - mp.log(mp.mpf(scale)) for u in points], lambda u: 1)


def test_neighbouring_floats_at_a_million_factors():
    law = FussCatalan(1_000_000)
    edge, top = exact_edge(1_000_000), law.support[1]
    for x in (1e-300, 1e-3, 2.5e3, top * 0.75, top * (1 - 1e-7), top * (1 - 4e-15)):
        points = below_edge([np.nextafter(x, 0), x, np.nextafter(x, np.inf)], edge)
        assert_accurate(law, points, [mp.log(mp.mpf(point)) for point in points], lambda x: 1 / x)
    last = [x for x in (np.nextafter(top, 0), top, np.nextafter(top, np.inf)) if mp.mpf(x) > edge]
    np.testing.assert_array_equal(law.pdf(last), 0)
    np.testing.assert_array_equal(law.sf(last), 0)


@pytest.mark.parametrize("factors", [*FACTORS, 1_000_000])
def test_quantiles_against_many_digits(factors):
    """cdf at the float the quantile returns, in many digits, is the level asked for, to what rounding x allows."""
    law = FussCatalan(factors).log
    for q in (5e-324, 1e-300, 1e-20, 1e-6, 0.1, 0.5, 0.9, 1 - 1e-3, 1 - 1e-7, 1 - 1e-12, 1 - 2.0**-53):
        u = float(law.ppf(q))
        density, cdf, sf = exact(factors, mp.mpf(u))
        slack = mp.mpf(1e-13) + 4 * mp.mpf(2) ** -53 * (abs(u) + law.support[1]) * density / min(cdf, sf)
        assert abs(cdf / q - 1 if q < 0.5 else sf / (1 - mp.mpf(q)) - 1) < slack


@pytest.mark.parametrize("factors", [1, 2, 1000])
def test_far_lower_tail_is_a_power(factors):
    """As x → 0, density of ln x ~ cdf/(M+1) ~ sin(π/(M+1)) x^(1/(M+1)) / π, in logarithms without end."""
    n = factors + 1
    u = -np.array([2e3, 1e5, 1e6, 1e9]) * n
    expected = u / n + math.log(math.sin(math.pi / n) / math.pi)
    np.testing.assert_allclose(FussCatalan(factors).log.logpdf(u), expected, rtol=4e-16)
    assert np.all(FussCatalan(factors).log.cdf(u) == 0)
    np.testing.assert_array_equal(FussCatalan(factors).log.sf(u), 1)


def test_median_of_many_factors_is_below_the_least_float():
    law = FussCatalan(1000)
    assert law.ppf(0.45) == 0 and law.cdf(5e-324) > 0.45
    assert law.log.ppf(0.5) == pytest.approx(1000 * math.log(0.5), rel=1e-3)
    draws = law.log.rvs(1000, seed=3)
    assert np.all(np.isfinite(draws)) and np.mean(draws < -745) > 0.4


def test_one_factor_is_the_quarter_circle():
    law = FussCatalan(1)
    s = np.linspace(0, 2, 41)
    np.testing.assert_allclose(law.singular.pdf(s), np.sqrt(4 - s**2) / math.pi, rtol=1e-14)
    half = np.arcsin(s / 2)
    np.testing.assert_allclose(law.singular.cdf(s), (2 * half + np.sin(2 * half)) / math.pi, rtol=1e-14)
    np.testing.assert_array_equal([law.pdf(0.0), law.logpdf(0.0), FussCatalan(2).singular.pdf(0)], np.inf)


def test_two_factors_closed_form():
    """Penson & Życzkowski (2011), in many digits because it cancels near both ends."""
    law = FussCatalan(2)
    for x in np.r_[np.geomspace(1e-100, 1, 7), np.linspace(1.5, 6.7, 6)].tolist():
        root = 27 + 3 * mp.sqrt(81 - 12 * mp.mpf(x))
        two, third = mp.mpf(2), mp.mpf(1) / 3
        bracket = two**third * root ** (2 * third) - 6 * mp.cbrt(x)
        density = two**third * mp.sqrt(3) / (12 * mp.pi) * bracket / (mp.cbrt(x) ** 2 * root**third)
        assert relative_error(law.pdf(x), density) < 1e-12


def test_edges():
    """(M+1)^(M+1)/M^M; singular values end at 2, 3.08, 3.86 for M = 1, 3, 5 (Liu, Wang, Zhang 2014)."""
    ends = [FussCatalan(factors).singular.support[1] for factors in (1, 3, 5)]
    np.testing.assert_allclose(ends, [2, 16 / math.sqrt(27), math.sqrt(6**6 / 5**5)], rtol=1e-15)
    assert FussCatalan(1_000_000).support[1] == float(exact_edge(1_000_000))
    assert FussCatalan(3).support[0] == 0 and FussCatalan(3).log.support[0] == -np.inf


@pytest.mark.parametrize(
    ("factors", "numbers"),
    [(1, [1, 1, 2, 5, 14, 42, 132]), (2, [1, 1, 3, 12, 55, 273, 1428]), (5, [1, 1, 6, 51, 506, 5481, 62832])],
)
def test_integer_moments_are_the_numbers_of_fuss(factors, numbers):
    """They count the plane trees whose inner vertices have M+1 children: C_{k+1} = Σ of (M+1)-fold products of C."""
    counted = [1]
    for k in range(6):
        power = [1] + [0] * k
        for _ in range(factors + 1):
            power = [sum(power[i] * counted[j - i] for i in range(j + 1)) for j in range(k + 1)]
        counted.append(power[k])
    assert counted == numbers
    np.testing.assert_allclose([FussCatalan(factors).moment(k) for k in range(7)], numbers, rtol=1e-14)
    scaled = [FussCatalan(factors, 0.25).moment(k) for k in range(7)]
    np.testing.assert_allclose(scaled, numbers * 0.25 ** np.arange(7), rtol=1e-14)


@pytest.mark.parametrize("factors", [*FACTORS, 1_000_000])
def test_real_moments(factors):
    """Γ((M+1)k+1) / (Γ(k+1) Γ(Mk+2)); beyond k = −1/(M+1), and where it overflows, inf."""
    law = FussCatalan(factors)
    for k in (-0.9 / (factors + 1), -0.1 / (factors + 1), 1e-9, 0.5, 1.0, 2.0, 2.5, 7.0, 40.3, 1500.0):
        log_moment = mp.loggamma((factors + 1) * mp.mpf(k) + 1) - mp.loggamma(mp.mpf(k) + 1)
        log_moment -= mp.loggamma(factors * mp.mpf(k) + 2)
        assert law.log_moment(k) == pytest.approx(float(log_moment), rel=2e-14, abs=2e-15)
    assert law.moment(-1 / (factors + 1)) == law.moment(-1) == law.moment(1e4) == np.inf
    assert law.moment(2) == pytest.approx(factors + 1, rel=1e-14)
    assert law.mean == 1 and law.var == factors


@pytest.mark.parametrize("factors", [*FACTORS, 1_000_000])
def test_mean_and_variance_of_logarithms(factors):
    """Derivatives of ln E x^k at k = 0: E ln x = −M, Var ln x = M² + Mπ²/3."""
    law = FussCatalan(factors, 2.0).log
    assert law.mean == pytest.approx(math.log(2) - factors, rel=1e-14)
    assert law.var == pytest.approx(factors**2 + factors * math.pi**2 / 3, rel=1e-13)


@pytest.mark.parametrize("y", [1.0, 3.7, 19.9, 20.1, 1e3, 1e8, 1e12])
def test_gamma_ratio(y):
    for shift in (-0.9, 0.3, 4.0, 50.5):
        expected = mp.loggamma(mp.mpf(y) + mp.mpf(shift)) - mp.loggamma(mp.mpf(y))
        assert log_gamma_ratio(y, shift) == pytest.approx(float(expected), rel=1e-13, abs=1e-14)


@pytest.mark.parametrize("factors", [1, 3, 60])
def test_product_of_betas(factors):
    """x = x_max Π Beta(j/(M+1), (j+1)/M − j/(M+1)) has the same moments; KS, false alarm 1e-6 a case, seed fixed.

    Drawn in logarithms, a small-shape gamma variate of shape a being that of shape a+1 times U^(1/a).
    """
    rng = np.random.default_rng(factors)
    j, size = np.arange(1, factors + 1)[:, None], 5000
    shapes = j / (factors + 1), (j + 1) / factors - j / (factors + 1)
    a, b = (np.log(rng.gamma(s + 1, size=(factors, size))) + np.log(rng.random((factors, size))) / s for s in shapes)
    u = np.sum(a - np.logaddexp(a, b), axis=0) + FussCatalan(factors).log.support[1]
    assert kstest(u, FussCatalan(factors).log.cdf).pvalue > 1e-6
    assert kstest(FussCatalan(factors).log.rvs(size, seed=7), u).pvalue > 1e-6


@pytest.mark.parametrize("factors", [1, 2, 4])
def test_eigenvalues_of_a_product_of_matrices(factors):
    """One draw at N = 120; eigenvalues repel, so the distance to the law is about ln N / N, far below 1/√N."""
    rng, n, variances = np.random.default_rng(0), 120, [0.5, 3.0, 1.0, 2.0]
    product = np.eye(n)
    for variance in variances[:factors]:
        product = rng.normal(0, math.sqrt(variance / n), (n, n)) @ product
    x = np.linalg.svd(product, compute_uv=False) ** 2
    assert kstest(x, FussCatalan(factors, math.prod(variances[:factors])).cdf).statistic < 2 * math.log(n) / n


@pytest.mark.parametrize(("rows", "columns"), [(60, 240), (150, 150), (250, 100)])
def test_eigenvalues_of_a_rectangular_matrix(rows, columns):
    """Eigenvalues of J Jᵀ, zeros included; entries of variance 1.7/n_in."""
    matrix = np.random.default_rng(1).normal(0, math.sqrt(1.7 / columns), (rows, columns))
    x = np.sort(np.linalg.eigvalsh(matrix @ matrix.T))
    law = MarchenkoPastur(rows / columns, 1.7)
    zeros = max(0, rows - columns)
    assert law.cdf(0.0) * rows == pytest.approx(zeros, abs=1e-9)
    grid = np.arange(zeros, rows) / rows
    assert np.max(np.abs(law.cdf(x[zeros:]) - grid)) < 3 * math.log(rows) / rows
    assert x.mean() == pytest.approx(law.mean, rel=0.03)


RATIOS = [1e-12, 1e-3, 0.3, 0.999, 1 - 1e-9, 1.0, 1 + 1e-9, 1.5, 40.0, 1e12]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_marchenko_pastur_against_many_digits(ratio, scale):
    """Density as printed, sf in closed form: a relative 1e-12 (1 + x/(x − x₋))."""
    law = MarchenkoPastur(ratio, scale)
    low, high = law.support
    steps = 10.0 ** -np.arange(1, 16, 2)
    points = np.r_[np.linspace(low, high, 9)[1:-1], high - (high - low) * steps, low + (high - low) * steps]
    with mp.workdps(150):
        c, unit = mp.mpf(ratio), mp.mpf(scale)
        ends = [(1 - mp.sqrt(c)) ** 2, (1 + mp.sqrt(c)) ** 2]
        r, mass = mp.sqrt(min(c, 1 / c)), min(mp.mpf(1), 1 / c)
        for point in np.unique(points).tolist():
            x = mp.mpf(point) / unit
            if not ends[0] < x < ends[1]:
                continue
            density = mp.sqrt((ends[1] - x) * (x - ends[0])) / (2 * mp.pi * c * x * unit)
            alpha = mp.acos((x / max(c, mp.mpf(1)) - 1 - r**2) / (2 * r))
            tail = (alpha - mp.sin(alpha) / r + (1 - r**2) / r**2 * mp.arg(1 + r * mp.expj(alpha))) / mp.pi
            bound = 1e-12 * float(1 + x / (x - ends[0]))
            assert relative_error(law.pdf(point), density) < bound
            assert relative_error(law.sf(point), mass * tail) < bound
            assert relative_error(law.cdf(point), 1 - mass * tail) < bound
            assert relative_error(law.nonzero.cdf(point), 1 - tail) < bound


def test_marchenko_pastur_of_a_square_is_fuss_catalan_of_one():
    square, one = MarchenkoPastur(1, 0.6), FussCatalan(1, 0.6)
    x = np.r_[0.0, np.geomspace(1e-300, 2.4, 50), 2.4 * (1 - 1e-13)]
    u = -np.geomspace(1, 1e9, 40)
    q = np.linspace(0, 1, 51)
    for method in ("pdf", "cdf", "sf"):
        np.testing.assert_allclose(getattr(square, method)(x), getattr(one, method)(x), rtol=4e-13)
        np.testing.assert_allclose(getattr(square.log, method)(u), getattr(one.log, method)(u), rtol=1e-12)
    np.testing.assert_allclose(square.log.logpdf(u), one.log.logpdf(u), rtol=1e-14)
    np.testing.assert_allclose(square.ppf(q), one.ppf(q), rtol=1e-13)
    np.testing.assert_allclose(square.log.ppf([1e-300, 1e-9]), one.log.ppf([1e-300, 1e-9]), rtol=1e-15)
    assert square.support == one.support and square.atoms == ()
    assert square.singular.pdf(0) == pytest.approx(one.singular.pdf(0), rel=1e-14)
    for k in (-0.49, -0.2, 0.5, 3, 120):
        assert square.log_moment(k) == pytest.approx(one.log_moment(k), rel=1e-13)
    assert square.moment(-0.5) == np.inf


@pytest.mark.parametrize("ratio", [1e-6, 0.3, 0.999, 1 - 1e-9, 1.0, 3.0])
def test_moments_of_marchenko_pastur(ratio):
    """Narayana's sum for integers, ₂F₁ for real orders, 1/(1−c) and 1/(1−c)³ for E 1/x and E 1/x²."""
    law, c = MarchenkoPastur(ratio, 2.0), mp.mpf(ratio)
    for k in (1, 2, 3, 8):
        narayana = mp.fsum(c**i * math.comb(k, i) * math.comb(k - 1, i) / mp.mpf(i + 1) for i in range(k))
        assert relative_error(law.moment(k), 2**k * narayana) < 1e-14
    small = min(c, 1 / c)
    for k in (-0.45, -0.2, 0.5, 7.7, 90.5):
        moment = mp.hyp2f1(-mp.mpf(k), 1 - mp.mpf(k), 2, small) * (2 * max(c, mp.mpf(1))) ** mp.mpf(k)
        assert relative_error(law.nonzero.moment(k), moment) < 1e-12
    if ratio < 1:
        assert law.moment(-1) == pytest.approx(float(1 / (1 - c) / 2), rel=1e-12)
        assert law.moment(-2) == pytest.approx(float(1 / (1 - c) ** 3 / 4), rel=1e-12)
    assert law.mean == 2 and law.var == 4 * ratio


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FussCatalan(0), "factors must be at least 1, got 0"),
        (lambda: FussCatalan(-3), "factors must be at least 1, got -3"),
        (lambda: FussCatalan(2.5), "factors must be an integer of at least 1, got 2.5"),
        (lambda: FussCatalan(2.0), "factors must be an integer of at least 1, got 2.0"),
        (lambda: FussCatalan(math.nan), "factors must be an integer of at least 1, got nan"),
        (lambda: FussCatalan(True), "factors must be an integer of at least 1, got True"),
        (lambda: FussCatalan("3"), "factors must be an integer of at least 1, got '3'"),
        (lambda: FussCatalan(3, 0), "scale must be finite and above 0, got 0"),
        (lambda: FussCatalan(3, -1.5), "scale must be finite and above 0, got -1.5"),
        (lambda: FussCatalan(3, math.nan), "scale must be finite and above 0, got nan"),
        (lambda: MarchenkoPastur(1, math.inf), "scale must be finite and above 0, got inf"),
        (lambda: MarchenkoPastur(0), "ratio must be finite and above 0, got 0"),
        (lambda: MarchenkoPastur(math.nan), "ratio must be finite and above 0, got nan"),
        (lambda: MarchenkoPastur(math.inf), "ratio must be finite and above 0, got inf"),
        (lambda: MarchenkoPastur("wide"), "ratio must be a number, finite and above 0, got 'wide'"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError) as refusal:
        make()
    assert str(refusal.value) == message


def test_numbers_of_numpy_are_accepted():
    law = FussCatalan(np.int64(3), np.float32(0.5))
    assert law == FussCatalan(3, 0.5) and type(law.factors) is int and type(law.scale) is float
    assert MarchenkoPastur(np.float64(0.5)) == MarchenkoPastur(0.5)
