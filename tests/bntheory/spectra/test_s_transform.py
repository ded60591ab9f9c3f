"""Free products: closed forms, arithmetic of many digits, and refusals."""

import math
import pickle
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest

from bntheory.architectures import mlp
from bntheory.spectra.discrete import DiscreteLaw
from bntheory.spectra.fuss_catalan import FussCatalan, MarchenkoPastur
from bntheory.spectra.jacobian import jacobian_law
from bntheory.spectra.s_transform import STransformLaw
from bntheory.spectra.series import _determinant, negative_hankel

RELU = jacobian_law(mlp(5, 64))
MANY_DIGITS = {
    "relu": RELU,
    "relu of three widths": jacobian_law(mlp(1, 300, input_width=200, output_width=400)),
    "deep, of fifty widths": STransformLaw([(0, -1), (1, 1), *((1 + Fraction(k, 50), 1) for k in range(50))]),
    "thousand": STransformLaw([(0, -1), (1, 500), (Fraction(1, 2), 500), (2, 1)], 300.0),
}


def continuous(law, levels):
    """Levels of probability spread over the continuous part as `levels` are over (0, 1)."""
    low = sum(mass for x, mass in law.atoms if x <= law.support[0])
    return low + law._mass * np.asarray(levels)


def test_products_commute_and_powers_are_products():
    a, b = DiscreteLaw([1.0, 4.0], [0.5, 0.5]), MarchenkoPastur(2.0, 0.7)
    x = np.linspace(0.5, 9, 7)
    np.testing.assert_allclose((a @ b).cdf(x), (b @ a).cdf(x), rtol=1e-13)
    np.testing.assert_allclose((b**3).pdf(x), (b @ b @ b).pdf(x), rtol=1e-13)
    np.testing.assert_allclose(((a @ b) @ b).pdf(x), (a @ (b**2)).pdf(x), rtol=1e-13)
    assert (a @ b) @ b == a @ (b @ b) and hash(b**2) == hash(b @ b)
    assert FussCatalan(2) ** 3 == FussCatalan(6).s_transform()
    assert pickle.loads(pickle.dumps(a @ b)).cdf(2.0) == (a @ b).cdf(2.0)
    with pytest.raises(TypeError):
        a @ 2


# -- closed forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factors", [1, 2, 50, 1000, 100_000])
def test_square_matrices_are_fuss_catalan(factors):
    """pdf, cdf, sf to 1e-12 · factors, at least 1e-11; next to the edge 1e-12/(1 − x/x_max) more."""
    law, exact = FussCatalan(factors, 0.4).s_transform(), FussCatalan(factors, 0.4)
    assert law.log.support[1] == pytest.approx(exact.log.support[1], rel=1e-12)
    u = np.r_[exact.log.ppf(np.r_[1e-30, 1e-9, np.linspace(0.01, 0.99, 40), 1 - 10.0 ** -np.arange(3, 9)])]
    bound = max(1e-11, 1e-12 * factors) + 1e-12 / -np.expm1(u - exact.log.support[1])
    for method in ("pdf", "cdf", "sf"):
        got, want = getattr(law.log, method)(u), getattr(exact.log, method)(u)
        assert np.all(np.abs(got / want - 1) < bound), method
    q = np.r_[1e-300, 1e-20, np.linspace(0.05, 0.95, 19)]
    np.testing.assert_allclose(law.log.ppf(q), exact.log.ppf(q), rtol=1e-12, atol=1e-13)
    assert [law.moment(k) for k in (1, 2, 3)] == pytest.approx([exact.moment(k) for k in (1, 2, 3)], rel=1e-12)


@pytest.mark.parametrize("ratio", [1e-3, 0.3, 1.0, 1.7, 40.0])
def test_one_rectangular_matrix_is_marchenko_pastur(ratio):
    law, exact = MarchenkoPastur(ratio, 2.0).s_transform(), MarchenkoPastur(ratio, 2.0)
    np.testing.assert_allclose(law.support, exact.support, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(law.atoms, exact.atoms, rtol=1e-14)
    u = exact.nonzero.log.ppf(np.r_[1e-4, np.linspace(0.01, 0.99, 40), 1 - 1e-6])
    for method in ("pdf", "cdf", "sf"):
        np.testing.assert_allclose(getattr(law.log, method)(u), getattr(exact.log, method)(u), rtol=1e-9)
    assert law.var == pytest.approx(exact.var, rel=1e-13)
    assert law.moment(0.5) == pytest.approx(exact.moment(0.5), rel=1e-11)


def test_arcsine_law_of_orthogonal_relu():
    """Two layers of √2 times orthogonal weights: the arcsine law on (0, 4), and an atom ½ at zero."""
    law = jacobian_law(mlp(2, 64, init="orthogonal")) * 4
    assert law.support == pytest.approx((0, 4), abs=1e-12) and law.atoms == ((0.0, 0.5),)
    x = np.r_[1e-8, 0.1, 1, 2, 3, 3.9, 4 - 1e-5]
    np.testing.assert_allclose(law.pdf(x), 0.5 / (np.pi * np.sqrt(x * (4 - x))), rtol=1e-9)
    np.testing.assert_allclose(law.cdf(x), 0.5 + np.arcsin(np.sqrt(x) / 2) / np.pi, rtol=1e-12)


def test_two_projections():
    """Free projections of ranks α, β: density √((x₊−x)(x−x₋))/(2πx(1−x)), atoms max(0, α+β−1) at 1, 1 − min(α, β)."""
    a, b = Fraction(3, 5), Fraction(4, 5)
    law = STransformLaw([(0, -1), (a, 1), (b, 1), (1, -1)])
    roots = [float(a + b - 2 * a * b) + s * 2 * math.sqrt(a * b * (1 - a) * (1 - b)) for s in (-1, 1)]
    np.testing.assert_allclose(law.support, roots, rtol=1e-12)
    np.testing.assert_allclose(law.atoms, [(0, 0.4), (1, 0.4)], rtol=1e-14)
    x = np.linspace(*roots, 21)[1:-1]
    expected = np.sqrt((roots[1] - x) * (x - roots[0])) / (2 * np.pi * x * (1 - x))
    np.testing.assert_allclose(law.pdf(x), expected, rtol=1e-11)
    assert law.ppf(0.599) < roots[1] and law.ppf(0.601) == law.ppf(1.0) == 1


def test_leaky_relu_of_two_orthogonal_layers():
    """x_1 x_2 = α⁴ for eigenvalue pairs and x_1 + x_2 = 2α² + (1 − α²)² cos²θ, θ uniform; α = 0.2."""
    law, square = jacobian_law(mlp(2, 64, "leaky_relu(0.2)", init="orthogonal")), 0.04
    angle = np.linspace(0.02, 1.55, 25)
    half_sum = square + (1 - square) ** 2 * np.cos(angle) ** 2 / 2
    upper = half_sum + np.sqrt(half_sum**2 - square**2)
    np.testing.assert_allclose(law.support, [square**2, 1], rtol=1e-12)
    np.testing.assert_allclose(law.sf(upper), angle / np.pi, rtol=1e-10)
    np.testing.assert_allclose(law.cdf(square**2 / upper), angle / np.pi, rtol=1e-10)


def test_atoms_only():
    one = jacobian_law(mlp(1, 8, init="orthogonal"))
    assert one.atoms == ((0.0, 0.5), (1.0, 0.5)) and one.mean == 0.5 and one.moment(-1) == math.inf
    np.testing.assert_array_equal(one.cdf([-1, 0, 0.5, 1]), [0, 0.5, 0.5, 1])
    np.testing.assert_array_equal(one.ppf([0.2, 0.5, 0.6, 1]), [0, 0, 1, 1])
    np.testing.assert_array_equal(one.pdf([0.0, 0.5, 1.0]), 0)
    point = DiscreteLaw([2.0, 3.0], [0.25, 0.75]) @ DiscreteLaw([5.0], [1.0])
    np.testing.assert_allclose(point.atoms, [(10, 0.25), (15, 0.75)], rtol=1e-14)
    assert set(np.unique(point.rvs(50, seed=0)).round(9)) == {10, 15}


# -- many digits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", MANY_DIGITS.values(), ids=MANY_DIGITS)
def test_against_many_digits(law):
    """Roots of x(y) followed in 40 digits from the negative axis, where they are real, to the curve: relative 1e-8."""
    law = STransformLaw(law.powers)
    for level in (1e-6, 0.03, 0.5, 0.97, 1 - 1e-6):
        x = float(law.log.ppf(continuous(law, level)))
        density, cdf = followed(law.powers, x, law.rank)
        assert law.log.pdf(x) == pytest.approx(density, rel=1e-8)
        assert law.log.cdf(x) == pytest.approx(cdf, rel=1e-8)


def followed(powers, log_x, rank):
    """(density of ln x, cdf) in 40 digits, the argument of x turned from −π to 0 in small steps."""
    with mp.workdps(40):
        terms = [(mp.mpf(c.numerator) / c.denominator, k) for c, k in powers]
        share = mp.mpf(rank.numerator) / rank.denominator

        def log_of(y):
            return mp.fsum(k * mp.log(c + y) for c, k in terms)

        low, high = mp.mpf(-100), mp.mpf(100)  # logit of 1 + y/r
        for _ in range(150):
            middle = (low + high) / 2
            y = -share / (1 + mp.exp(middle))
            low, high = (middle, high) if log_of(y).real < log_x else (low, middle)
        y = mp.mpc(y)
        for angle in -mp.pi * np.linspace(1, 0, 61)[1:]:
            for _ in range(60):
                error = log_of(y) - log_x - 1j * angle
                error -= 2j * mp.pi * mp.nint(error.imag / (2 * mp.pi))
                step = error / mp.fsum(k / (c + y) for c, k in terms)
                y -= step
                if abs(step) < mp.mpf(10) ** -30 * abs(y):
                    break
        cdf = 1 + (y.imag * sum(k for _, k in terms) - mp.fsum(k * c * mp.arg(c + y) for c, k in terms)) / mp.pi
        return float(y.imag / mp.pi), float(cdf)


@pytest.mark.parametrize(
    ("layers", "edge", "moments"),
    [(1, 3 + 2 * math.sqrt(2), [1, 3, 11, 45]), (2, 11.090170, [1, 5, 33, 249]), (3, None, [1, 7, 67, 741])],
)
def test_relu_edges_and_moments(layers, edge, moments):
    law = jacobian_law(mlp(layers, 64))
    assert [law.moment(k) for k in (1, 2, 3, 4)] == pytest.approx(moments, rel=1e-13)
    assert edge is None or law.support[1] == pytest.approx(edge, abs=1e-6)


@pytest.mark.parametrize(
    ("layers", "init", "edge"),
    [
        (5, "he_normal", 27.272773),
        (20, "he_normal", 108.753915),
        (5, "orthogonal", 12.20703125),
        (20, "orthogonal", 53.000687),
    ],
)
def test_edges_of_deep_relu_networks(layers, init, edge):
    law = jacobian_law(mlp(layers, 64, init=init)) * (2**layers if init == "orthogonal" else 1)
    assert law.support[1] == pytest.approx(edge, abs=1e-6)
    assert law.mean == pytest.approx(1, rel=1e-12)


def test_far_lower_tail_is_a_power():
    law = jacobian_law(mlp(20, 64))
    u = -np.array([1e3, 1e5, 1e7])
    slopes = np.diff(law.nonzero.log.logpdf(u)) / np.diff(u)
    np.testing.assert_allclose(slopes, 1 / law.curve.order, rtol=1e-12)
    assert law.moment(-1 / law.curve.order) == math.inf > law.nonzero.moment(-0.5 / law.curve.order)


def test_accuracy_is_reported():
    """Of half the nodes; against four times as many the law is far better."""
    law = jacobian_law(mlp(2, 64, "tanh", "lecun_normal"))
    assert RELU.accuracy(1.0) == 0
    assert 0 < law.accuracy(law.ppf([0.1, 0.5, 0.9])) < 1e-6


def test_no_network_is_refused():
    """Chains of matrices of any shapes, orthogonal or not, and masks are possible laws, also with widths as floats."""
    rng = np.random.default_rng(3)
    for _ in range(80):
        width, powers = int(rng.integers(1, 40)), [(0, -1)]
        powers.append((width, 1))
        for _ in range(rng.integers(1, 8)):
            following = int(rng.integers(1, 40))
            powers += [(following, 1)] if rng.random() < 0.4 else [(min(width, following), 1), (width, -1)]
            width = following
            if rng.random() < 0.5:
                powers += [(width * Fraction(int(rng.integers(1, 8)), 8), 1), (width, -1)]
        exact = STransformLaw([(Fraction(c) / width, k) for c, k in powers])
        assert STransformLaw([(float(c) / width, k) for c, k in powers]).mean == pytest.approx(exact.mean, rel=1e-9)


def test_moments_that_no_law_has():
    """The determinants are those of moments of known laws: positive; of two points, zero from three rows on."""
    powers = [(Fraction(0), -1), (Fraction(1), 2)]  # Catalan numbers: all determinants are 1
    for order in (0, 1):
        rows = [[Fraction(math.comb(2 * k, k), k + 1) for k in range(i + order, i + order + 5)] for i in range(5)]
        assert _determinant(rows) == 1
    assert negative_hankel(powers, Fraction(1)) is None
    mask = [(Fraction(0), -1), (Fraction(1, 3), 1)]  # 0 and 1
    assert negative_hankel(mask, Fraction(1, 3)) is None
    assert negative_hankel(mask, Fraction(1, 3) - Fraction(1, 10**6)) == (0, 2)  # E x² < (E x)²/P(x > 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: STransformLaw({0: 0, 1: 1}), "x(y) must have a simple pole at y = 0, got the power 0"),
        (lambda: STransformLaw({0: -2, 1: 3}), "x(y) must have a simple pole at y = 0, got the power -2"),
        (lambda: STransformLaw({0: -1, 1: 3, 0.5: -1}), "no law has this x(y): its pole at y = −0.5 lies nearer to 0"),
        (lambda: STransformLaw({0: -1, 2: 2}), "no law has this x(y): its least c of a positive power, the rank, is 2"),
        (lambda: STransformLaw({0: -1, 1: 1, 2: -1}), "no law has this x(y): no law on x ≥ 0 has its moments, got STr"),
        (lambda: STransformLaw({0: -1, 1: 2, 0.5: -1, 0.25: 1}), "no law has this x(y): no law on x ≥ 0 has its mom"),
        (
            lambda: STransformLaw({0: -1}),
            "no law has this x(y): no law on x ≥ 0 has its moments, got STransformLaw({0:",
        ),
        (lambda: STransformLaw({0: -1, -1: 3}), "c must be finite and at least 0, got -1"),
        (lambda: STransformLaw({0: -1, math.nan: 3}), "c must be finite and at least 0, got nan"),
        (lambda: STransformLaw({0: -1, 1: 2.5}), "k must be an integer, got 2.5"),
        (lambda: STransformLaw({0: -1, 1: "many"}), "k must be an integer, got 'many'"),
        (lambda: STransformLaw({0: -1, 1: math.nan}), "k must be an integer, got nan"),
        (lambda: STransformLaw({0: -1, 1: None}), "k must be an integer, got None"),
        (lambda: STransformLaw({0: -1, 1: 2}, math.inf), "log_scale must be finite, got inf"),
        (lambda: FussCatalan(2) * -1.0, "factor must be finite and above 0, got -1.0"),
        (lambda: FussCatalan(2) ** 0, "count must be at least 1, got 0"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError) as refusal:
        make()
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)
