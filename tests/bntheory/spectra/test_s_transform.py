"""Free products: what makes them laws, closed forms, and arithmetic of many digits."""

import math
import pickle
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest

from bntheory.initializations import initialization
from bntheory.networks import mlp
from bntheory.spectra.densities import density_law, slope_law
from bntheory.spectra.discrete import DiscreteLaw
from bntheory.spectra.fuss_catalan import FussCatalan, MarchenkoPastur
from bntheory.spectra.generating import generating_law
from bntheory.spectra.jacobian import jacobian_law
from bntheory.spectra.s_transform import STransformLaw

GAP = DiscreteLaw([0.0, 1.0, 8.0], [0.2, 0.5, 0.3]) @ MarchenkoPastur(0.05)
LAWS = {
    "relu": jacobian_law(mlp(5, 64)),
    "relu of three widths": jacobian_law(mlp(1, 300, input_width=200, output_width=400)),
    "deep, of fifty widths": STransformLaw([(0, -1), (1, 1), *((1 + Fraction(k, 50), 1) for k in range(50))], -30.0),
    "orthogonal relu: arcsine": jacobian_law(mlp(2, 64, init="orthogonal")),
    "projections, an atom at the top": STransformLaw([(0, -1), (Fraction(3, 5), 1), (Fraction(4, 5), 1), (1, -1)], 0.3),
    "leaky relu": jacobian_law(mlp(4, 64, "leaky_relu(0.2)", input_width=32, output_width=96)),
    "leaky relu, orthogonal": jacobian_law(mlp(2, 64, "leaky_relu(0.2)", init="orthogonal")),
    "tanh": jacobian_law(mlp(2, 64, "tanh", "lecun_normal")),
    "residual": jacobian_law(mlp(3, 64, residual=True)),
    "residual, slopes of tanh": jacobian_law(mlp(2, 64, "tanh", residual=True)),
    "three values, a gap": GAP,
    "by its moment generating function": generating_law(
        lambda z: -1 - np.log((1 - 2 * z) / (1 - z)) / z,
        1.5,
        (1, 2),  # uniform
    )
    @ MarchenkoPastur(0.5),
    "uniform density": density_law(lambda x: np.ones_like(x) / 3, (0, 3)) @ FussCatalan(2),
    "tanh, orthogonal": jacobian_law(mlp(2, 64, "tanh", initialization("orthogonal", gain=1.5))),
    "slopes of tanh": slope_law("tanh"),
    "slopes of elu, an atom at the top": slope_law("elu"),
    "a density alone": density_law(lambda x: 3 * x**2 / 7, (1, 2)),
    "two values, an atom at the bottom": DiscreteLaw([1.0, 2.0], [0.6, 0.4]) ** 2,
    "two values, an atom at the top": DiscreteLaw([1.0, 2.0], [0.4, 0.6]) ** 2,
}
NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)
all_laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def continuous(law, levels):
    """Levels of probability spread over the continuous part as `levels` are over (0, 1)."""
    low = sum(mass for x, mass in law.atoms if x <= law.support[0])
    return low + law._mass * np.asarray(levels)


def rounding(u):
    """Of ln x and what it is the difference of."""
    return 1e-15 * (2 + np.abs(u))


def panels(law):
    """Gauss nodes and weights in ln x between quantiles, without gaps."""
    tail = np.geomspace(1e-6, 0.01, 10)
    levels = np.r_[tail[:-1], np.linspace(0.01, 0.99, 41), 1 - tail[-2::-1]]
    edges = law.log.ppf(continuous(law, levels))
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    at = middle[:, None] + half[:, None] * NODES
    resolved = law.log.pdf(at).min(axis=1) > 1e-3 * law.log.pdf(at).max(axis=1)
    return edges, at, half[:, None] * WEIGHTS, resolved


@all_laws
def test_the_density_is_the_derivative_of_the_distribution(law):
    edges, at, weight, resolved = panels(law)
    assert resolved.sum() >= len(resolved) - 1  # at most one gap
    differences = np.where(law.log.cdf(edges[1:]) < 0.5, np.diff(law.log.cdf(edges)), -np.diff(law.log.sf(edges)))
    integrals = np.sum(law.log.pdf(at) * weight, axis=1)
    slack = rounding(edges).max() * law.log.pdf(at).max(axis=1)
    if law._alone:  # of which λ itself is known to rounding
        slack += 2e-12 / (law.log.support[1] - at.mean(axis=1)) * differences
    assert np.all(np.abs(integrals - differences)[resolved] < 1e-9 * differences[resolved] + slack[resolved])


@all_laws
def test_mass(law):
    _, at, _, _ = panels(law)
    np.testing.assert_allclose(law.log.cdf(at) + law.log.sf(at), 1, rtol=0, atol=1e-13)
    low, high = law.support
    top = max([high, *(x for x, _ in law.atoms)])
    assert law.cdf(top * (1 + 1e-14)) == 1 and law.sf(top * (1 + 1e-14)) == 0
    assert law.cdf(low * (1 - 1e-14)) == pytest.approx(sum(mass for x, mass in law.atoms if x <= low), abs=1e-14)
    assert law._mass + sum(mass for _, mass in law.atoms) == pytest.approx(1, abs=1e-14)
    np.testing.assert_array_equal(law.pdf([-1.0, top + 1]), 0)


@all_laws
def test_quantiles_invert_the_distribution(law):
    levels = continuous(law, np.r_[1e-12, 1e-4, np.linspace(0.011, 0.989, 50), 1 - 1e-6])
    u = law.log.ppf(levels)
    assert np.all(np.diff(u) > 0)
    inside = slice(1, -1)  # next to an edge of infinite density rounding decides
    density = law.log.pdf(u)[inside]
    assert np.all(
        np.abs(law.log.cdf(u)[inside] - levels[inside]) < 1e-11 * levels[inside] + rounding(u[inside]) * density
    )
    assert np.all(np.abs(law.log.ppf(law.log.cdf(u)) - u)[inside] < rounding(u[inside]) + 1e-13 / density)
    assert law.ppf(1.0) == max([law.support[1], *(x for x, _ in law.atoms)])


@all_laws
def test_moments_are_integrals_of_the_density(law):
    """Quantiles at Gauss nodes in (1 − cos πv)/2, at whose ends roots and divergences of the density are smooth."""
    jumps = [0.0, *([0.5 / 0.8] if law is GAP else []), 1.0]
    v, weight = (NODES + 1) / 2, WEIGHTS / 2
    expected = {k: sum(mass * x**k for x, mass in law.atoms) for k in (1, 2, 3)}
    for low, high in zip(jumps, jumps[1:], strict=False):
        for part in np.linspace(0, 0.875, 8):  # panels
            angle = np.pi * (part + v / 8)
            level = low + (high - low) * np.sin(angle / 2) ** 2
            x = law.ppf(continuous(law, level))
            for k in expected:
                dq = (high - low) * np.pi / 2 * np.sin(angle) * weight / 8
                expected[k] += law._mass * float(np.sum(x**k * dq))
    for k, value in expected.items():
        assert law.moment(k) == pytest.approx(value, rel=1e-6)
    assert law.mean == law.moment(1)
    assert law.var == pytest.approx(law.moment(2) - law.mean**2, rel=1e-12)


@all_laws
def test_views_and_scaling(law):
    x = law.ppf(continuous(law, [0.05, 0.3, 0.6, 0.9]))
    for got, want in (
        (law.singular.cdf(np.sqrt(x)), law.cdf(x)),
        (law.log.sf(np.log(x)), law.sf(x)),
        (law.singular.pdf(np.sqrt(x)), 2 * np.sqrt(x) * law.pdf(x)),
        ((3 * law).cdf(3 * x), law.cdf(x)),
        ((law * 3).pdf(3 * x), law.pdf(x) / 3),
        (law.nonzero.pdf(x) * float(law.rank), law.pdf(x)),
    ):
        np.testing.assert_allclose(got, want, rtol=1e-11)
    assert (3 * law).mean == pytest.approx(3 * law.mean, rel=1e-13)


@all_laws
def test_draws_follow_the_law(law):
    """Kolmogorov–Smirnov on the continuous part; false alarm 1e-6 a law, 19 laws, the seed fixed."""
    sample = law.rvs(3000, seed=11)
    drawn = np.sort(sample[~np.isin(sample, [x for x, _ in law.atoms])])
    low, high = law.cdf(law.support[0]), continuous(law, 1.0)
    levels = (law.cdf(drawn) - low) / (high - low)
    grid = np.arange(drawn.size) / drawn.size
    distance = max(np.max(levels - grid), np.max(grid + 1 / drawn.size - levels)) * math.sqrt(drawn.size)
    assert 2 * math.exp(-2 * distance**2) > 1e-6
    for location, mass in law.atoms:
        assert abs(np.mean(sample == location) - mass) <= 4.9 * math.sqrt(mass * (1 - mass) / 3000)


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
    law, square = LAWS["leaky relu, orthogonal"], 0.04
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


@pytest.mark.parametrize("name", ["relu", "relu of three widths", "deep, of fifty widths", "thousand"])
def test_against_many_digits(name):
    """Roots of x(y) followed in 40 digits from the negative axis, where they are real, to the curve: relative 1e-8."""
    thousand = STransformLaw([(0, -1), (1, 500), (Fraction(1, 2), 500), (2, 1)], 300.0)
    law = thousand if name == "thousand" else LAWS[name]
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
    law = LAWS["tanh"]
    assert LAWS["relu"].accuracy(1.0) == 0
    assert 0 < law.accuracy(law.ppf([0.1, 0.5, 0.9])) < 1e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: STransformLaw({0: 0, 1: 1}), "x(y) must have a simple pole at y = 0, got the power 0"),
        (lambda: STransformLaw({0: -2, 1: 3}), "x(y) must have a simple pole at y = 0, got the power -2"),
        (lambda: STransformLaw({0: -1, 1: 3, 0.5: -1}), "no law has this x(y): its pole at y = −0.5 lies nearer to 0"),
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
