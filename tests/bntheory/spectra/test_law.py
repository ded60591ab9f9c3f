"""Every law, in every view, obeys what makes it a law: one list of objects, the same tests for all of them."""

import math
import pickle
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pytest

from bntheory.spectra.fuss_catalan import FussCatalan, MarchenkoPastur
from bntheory.spectra.law import SpectralLaw, solve_monotone

LAWS = [
    FussCatalan(1),
    FussCatalan(2, 0.37),
    FussCatalan(5),
    FussCatalan(50, 3.0),
    FussCatalan(1000),
    FussCatalan(100_000, 2.5),
    MarchenkoPastur(1e-4),
    MarchenkoPastur(0.3, 5.0),
    MarchenkoPastur(0.999),
    MarchenkoPastur(1.0, 0.2),
    MarchenkoPastur(1.7),
    MarchenkoPastur(40, 0.01),
]
VIEWS = {
    "x": lambda law: law,
    "singular": lambda law: law.singular,
    "log": lambda law: law.log,
    "nonzero": lambda law: law.nonzero,
    "log.nonzero": lambda law: law.log.nonzero,
    "nonzero.singular": lambda law: law.nonzero.singular,
}
NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)
all_laws = pytest.mark.parametrize("law", LAWS, ids=str)
all_views = pytest.mark.parametrize("view", VIEWS)


def continuous_levels(law, levels):
    """Levels of probability spread over the continuous part as `levels` are over (0, 1)."""
    atoms = sum(mass for _, mass in law.atoms)
    return atoms + (1 - atoms) * np.asarray(levels)


def rounding(law, x):
    """How far rounding may move x: by some ulp of the upper edge's logarithm and of the depth below it."""
    high = law.support[1]
    if law.power == 0:
        return 4 * np.finfo(float).eps * (np.abs(x) + abs(high) + 1)
    return 4 * np.finfo(float).eps * np.abs(x) * (1 + np.log(high / x))


def panels(law):
    """Gauss nodes and weights in the law's own variable: in ln x where ln x is the variable, in ln v elsewhere.

    The panels lie between quantiles, so they resolve the density wherever the probability is; the last one ends at the
    upper edge. Values that underflow are left out. Returns the edges of the panels, the nodes and the weights.
    """
    levels = np.r_[10.0 ** -np.arange(30, 1, -1), np.linspace(0.03, 0.97, 48), 1 - 10.0 ** -np.arange(2, 15)]
    edges = np.unique(np.r_[law.ppf(continuous_levels(law, levels)), law.support[1]])
    edges = np.log(edges[edges > 1e-300]) if law.power else edges[np.isfinite(edges)]
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    at, weight = middle[:, None] + half[:, None] * NODES, half[:, None] * WEIGHTS
    return (np.exp(edges), np.exp(at), weight * np.exp(at)) if law.power else (edges, at, weight)


@all_views
@all_laws
def test_the_density_is_the_derivative_of_cdf_and_of_minus_sf(law, view):
    law = VIEWS[view](law)
    edges, at, weight = (array[:-1] for array in panels(law))  # Gauss's rule is poor at the root of the edge
    density = law.pdf(at)
    below = law.cdf(edges[1:]) < 0.5  # difference the one of cdf and sf that does not cancel
    expected = np.where(below, np.diff(law.cdf(edges)), -np.diff(law.sf(edges)))
    slack = rounding(law, edges[1:]) * density.max(axis=1) + (1e-15 if law.atoms else 0)
    assert np.all(np.abs(np.sum(density * weight, axis=1) - expected) <= 1e-10 * expected + slack)


@all_views
@all_laws
def test_continuous_mass_and_atoms_make_one(law, view):
    law = VIEWS[view](law)
    edges, at, weight = panels(law)
    atoms = sum(mass for _, mass in law.atoms)
    left_out = law.cdf(edges[0]) - atoms + law.sf(edges[-1])
    assert np.sum(law.pdf(at) * weight) + left_out + atoms == pytest.approx(1, abs=1e-12)
    assert law.cdf(law.support[1]) == pytest.approx(1, abs=1e-15)
    assert law.cdf(law.support[0]) == pytest.approx(atoms, abs=1e-15)


@all_views
@all_laws
def test_cdf_and_sf_make_one(law, view):
    law = VIEWS[view](law)
    _, at, _ = panels(law)
    np.testing.assert_allclose(law.cdf(at) + law.sf(at), 1, rtol=0, atol=4e-15)


@all_views
@all_laws
def test_ppf_inverts_cdf(law, view):
    law = VIEWS[view](law)
    q = continuous_levels(law, np.r_[1e-300, 1e-30, 1e-8, np.linspace(0.001, 0.999, 101), 1 - 1e-9])
    x = law.ppf(q)
    assert np.all(x[1:] >= x[:-1])
    reached = np.isfinite(x) & ((x > 1e-300) | (law.power == 0))
    q, x = q[reached], x[reached]
    assert np.all(law.cdf(x - rounding(law, x)) <= q * (1 + 1e-13))
    assert np.all(law.cdf(x + rounding(law, x)) >= q * (1 - 1e-13))


@all_views
@all_laws
def test_cdf_inverts_ppf(law, view):
    law = VIEWS[view](law)
    low, high = law.ppf(continuous_levels(law, [0.01, 1 - 1e-6]))
    x = np.linspace(low, high, 101)[1:]
    q = law.cdf(x)
    assert np.all(np.abs(law.ppf(q) - x) <= rounding(law, x) + 1e-14 * q / law.pdf(x))


@all_views
@all_laws
def test_ends_of_ppf(law, view):
    law = VIEWS[view](law)
    start = law.atoms[0][0] if law.atoms else law.support[0]
    assert law.ppf(0.0) == start
    assert law.ppf(1.0) == law.support[1]
    q = np.r_[0.0, 5e-324, 1e-300, 1e-100, 1e-20, 0.5, 1 - 2.0**-53, 1.0]
    x = law.ppf(q)
    assert np.all(x[1:] >= x[:-1])
    assert np.all((x == start) | ((x >= law.support[0]) & (x <= law.support[1])))


@all_laws
def test_atom_and_nonzero_part(law):
    at_zero = sum(mass for x, mass in law.atoms if x == 0)
    x = np.r_[0.0, law.ppf(continuous_levels(law, np.linspace(0.5, 0.99, 9)))]
    assert law.cdf(0.0) == at_zero
    assert law.log.cdf(-np.inf) == at_zero
    assert law.singular.cdf(0.0) == at_zero
    assert law.log.atoms == tuple((-math.inf, mass) for _, mass in law.atoms)
    assert law.nonzero.atoms == law.log.nonzero.atoms == ()
    np.testing.assert_allclose(law.nonzero.cdf(x), (law.cdf(x) - at_zero) / (1 - at_zero), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(law.nonzero.sf(x), law.sf(x) / (1 - at_zero), rtol=1e-13)
    np.testing.assert_allclose(law.nonzero.pdf(x), law.pdf(x) / (1 - at_zero), rtol=1e-13)
    if at_zero:
        np.testing.assert_array_equal(law.ppf([0, at_zero / 2, at_zero]), 0)
        np.testing.assert_array_equal(law.log.ppf([0, at_zero / 2, at_zero]), -np.inf)
        assert law.ppf(at_zero * (1 + 1e-12)) >= law.support[0]
    assert law.nonzero.log == law.log.nonzero
    assert law.nonzero.mean == pytest.approx(law.mean / (1 - at_zero), rel=1e-13)


@all_laws
def test_views_are_one_law_in_three_variables(law):
    u = np.r_[law.log.ppf(continuous_levels(law, [0.01, 0.3, 0.6, 0.9, 0.999]))]
    u = u[u > -600]
    x, s = np.exp(u), np.exp(u / 2)
    # the rounding of exp moves x by eps (1 + |u|) x; a square root meets its edge with 1/distance of that
    distance = np.minimum(law.log.support[1] - u, u - law.log.support[0])
    moved = 1e-13 + 1e-15 * (1 + np.abs(u)) / distance
    for got, want in (
        (law.cdf(x), law.log.cdf(u)),
        (law.singular.cdf(s), law.log.cdf(u)),
        (law.singular.sf(s), law.log.sf(u)),
        (law.sf(x), law.log.sf(u)),
        (law.pdf(x) * x, law.log.pdf(u)),
        (law.singular.pdf(s) * s, 2 * law.log.pdf(u)),
        (law.nonzero.singular.pdf(s) * s, 2 * law.nonzero.log.pdf(u)),
    ):
        assert np.all(np.abs(got / want - 1) <= 4 * moved)
    q = np.linspace(0, 1, 33)
    np.testing.assert_allclose(law.singular.ppf(q), np.sqrt(law.ppf(q)), rtol=1e-12, atol=1e-150)
    with np.errstate(divide="ignore"):
        reached = law.ppf(q) > 1e-290
        np.testing.assert_allclose(law.log.ppf(q)[reached], np.log(law.ppf(q))[reached], rtol=1e-13, atol=1e-13)
    assert law.singular.moment(3) == pytest.approx(law.moment(1.5), rel=1e-13)


@all_views
@all_laws
def test_logpdf_is_the_logarithm_of_pdf(law, view):
    law = VIEWS[view](law)
    _, at, _ = panels(law)
    np.testing.assert_allclose(np.exp(law.logpdf(at)), law.pdf(at), rtol=1e-12)


@all_laws
def test_scale_multiplies_x(law):
    factor = 0.0725
    scaled = type(law)(law.factors if isinstance(law, FussCatalan) else law.ratio, law.scale * factor)
    u = law.log.ppf(continuous_levels(law, [0.02, 0.2, 0.5, 0.8]))
    shifted = u + math.log(factor)
    np.testing.assert_allclose(scaled.log.pdf(shifted), law.log.pdf(u), rtol=1e-9)
    np.testing.assert_allclose(scaled.log.cdf(shifted), law.log.cdf(u), rtol=1e-9)
    q = np.linspace(0, 1, 11)
    np.testing.assert_allclose(scaled.ppf(q), factor * law.ppf(q), rtol=1e-12)
    assert scaled.mean == pytest.approx(factor * law.mean, rel=1e-15)
    assert scaled.var == pytest.approx(factor**2 * law.var, rel=1e-15)
    assert scaled.moment(2.5) == pytest.approx(factor**2.5 * law.moment(2.5), rel=1e-12)
    assert scaled.log.mean == pytest.approx(law.log.mean + math.log(factor), rel=1e-12, abs=1e-12)


@all_views
@all_laws
def test_moments_are_integrals_of_the_density(law, view):
    law = VIEWS[view](law)
    _, at, weight = panels(law)
    weight = weight * law.pdf(at)
    for k in (1, 2, 3) if law.power == 0 else (0.5, 1, 2, 3.3):
        expected = np.sum(at**k * weight) + sum(mass * x**k for x, mass in law.atoms)
        size = np.sum(np.abs(at) ** k * weight) if law.power == 0 else expected
        assert law.moment(k) == pytest.approx(expected, rel=0, abs=1e-11 * size)


@all_views
@all_laws
def test_mean_and_variance_are_the_first_two_moments(law, view):
    law = VIEWS[view](law)
    assert law.moment(0) == pytest.approx(1, rel=1e-14)
    assert law.mean == pytest.approx(law.moment(1), rel=1e-12)
    if np.isfinite(law.mean):
        assert law.var == pytest.approx(law.moment(2) - law.mean**2, rel=1e-10, abs=1e-11 * law.moment(2))
    else:
        assert law.mean == -np.inf and np.isnan(law.var)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_moments_that_diverge_or_overflow(law):
    if law.atoms or law.support[0] == 0:
        assert law.moment(-1) == np.inf
        assert law.log_moment(-1) == np.inf
    assert law.moment(1e5) == np.inf or law.support[1] <= 1.03
    assert np.isfinite(law.log_moment(1e5))
    assert law.singular.log_moment(7) == pytest.approx(law.log_moment(3.5), rel=1e-13, abs=1e-13)


@all_views
@all_laws
def test_shapes_and_types(law, view):
    law = VIEWS[view](law)
    for method in (law.pdf, law.logpdf, law.cdf, law.sf, law.ppf):
        assert isinstance(method(0.3), np.float64)
        assert method(0.3) == method(np.array([0.3]))[0]
        assert method([[0.1, 0.2, 0.3]]).shape == (1, 3)
        assert method(np.array(0.5, dtype=np.float32)).shape == ()
        assert method(np.empty((0, 4))).shape == (0, 4)
        assert method(1) == method(1.0)
        pattern = np.linspace(0.05, 0.95, 24).reshape(2, 3, 4)
        np.testing.assert_array_equal(method(pattern).ravel(), method(pattern.ravel()))
        np.testing.assert_array_equal(np.isnan(method([0.5, np.nan, 0.5])), [False, True, False])


@all_views
@all_laws
def test_outside_the_support(law, view):
    law = VIEWS[view](law)
    low, high = law.support
    atoms = sum(mass for _, mass in law.atoms)
    beyond = [high + abs(high), np.inf]
    np.testing.assert_array_equal(law.pdf(beyond), 0)
    np.testing.assert_array_equal(law.logpdf(beyond), -np.inf)
    np.testing.assert_array_equal(law.cdf(beyond), 1)
    np.testing.assert_array_equal(law.sf(beyond), 0)
    before = [-np.inf, -1e300] + ([-1.0, -1e-300] if law.power else [])
    if np.isfinite(low) or law.power:
        np.testing.assert_array_equal(law.pdf(before), 0)
        np.testing.assert_array_equal(law.logpdf(before), -np.inf)
    np.testing.assert_array_equal(law.cdf(before), 0 if law.power else atoms)
    np.testing.assert_allclose(law.sf(before), 1 if law.power else 1 - atoms, rtol=1e-14)
    if low > 0 and law.power:
        between = [0.0, low / 2]
        np.testing.assert_array_equal(law.pdf(between), 0)
        np.testing.assert_allclose(law.cdf(between), atoms, rtol=1e-15)


@all_views
@all_laws
def test_samples_follow_the_cdf(law, view):
    """Kolmogorov–Smirnov over the continuous part; false alarm 1e-6 per case, 72 cases, the seed fixed."""
    law = VIEWS[view](law)
    sample = law.rvs(4000, seed=20)
    start = law.atoms[0][0] if law.atoms else None
    drawn = np.sort(sample[sample != start])
    if law.atoms:
        sd = math.sqrt(4000 * law.atoms[0][1] * (1 - law.atoms[0][1]))
        assert abs(4000 - drawn.size - 4000 * law.atoms[0][1]) <= 4.9 * sd
    drawn = drawn[drawn != 0] if law.power else drawn  # underflow
    levels = (law.cdf(drawn) - law.cdf(drawn[0])) / (1 - law.cdf(drawn[0]))
    grid = np.arange(drawn.size) / drawn.size
    distance = max(np.max(levels - grid), np.max(grid + 1 / drawn.size - levels)) * math.sqrt(drawn.size)
    assert 2 * math.exp(-2 * distance**2) > 1e-6


class UniformWithAtoms(SpectralLaw):
    """Half the mass uniform on (0, 4), a quarter at 0, an eighth at 1 inside the support and an eighth at its top."""

    atoms = ((0.0, 0.25), (1.0, 0.125), (4.0, 0.125))
    _zero_exponent = 1.0

    def _log_support(self):
        return Decimal("-Infinity"), Decimal(4).ln()

    def _continuous(self, depth):
        return -depth, -depth, np.log(-np.expm1(-depth))

    def _depth(self, below, above):
        return np.where(below < 0.5, -np.log(below), -np.log1p(-above))


def test_atoms_anywhere():
    law = UniformWithAtoms()
    x = np.array([-1, 0, 0.5, 1, 2, 4, 5])
    cdf = np.array([0, 0.25, 0.3125, 0.5, 0.625, 1, 1])
    np.testing.assert_allclose(law.cdf(x), cdf, rtol=1e-15)
    np.testing.assert_allclose(law.sf(x), 1 - cdf, rtol=1e-15, atol=0)
    np.testing.assert_allclose(law.pdf([0, 0.5, 2, 5]), [0.125, 0.125, 0.125, 0], rtol=1e-14)
    q = np.array([0, 0.1, 0.25, 0.3125, 0.375, 0.45, 0.5, 0.625, 0.874, 0.876, 1])
    np.testing.assert_allclose(law.ppf(q), [0, 0, 0, 0.5, 1, 1, 1, 2, 3.992, 4, 4], rtol=1e-14)
    assert law.mean == pytest.approx(1 + 0.125 + 0.5, rel=1e-14)
    assert law.var == pytest.approx(0.5 * 16 / 3 + 0.125 + 2 - 1.625**2, rel=1e-13)
    kept = law.nonzero
    np.testing.assert_allclose(kept.atoms, [[1, 1 / 6], [4, 1 / 6]], rtol=1e-15)
    np.testing.assert_allclose(kept.cdf(x[1:]), (cdf[1:] - 0.25) / 0.75, rtol=1e-14)
    np.testing.assert_allclose(kept.ppf((q[3:] - 0.25) / 0.75), law.ppf(q[3:]), rtol=1e-13)
    assert kept.mean == pytest.approx(law.mean / 0.75, rel=1e-14)
    assert [a for a, _ in law.singular.atoms] == [0, 1, 2]
    assert [a for a, _ in law.log.atoms] == [-np.inf, 0, math.log(4)]
    assert law.log.nonzero.mean == pytest.approx((0.5 * (math.log(4) - 1) + 0.125 * math.log(4)) / 0.75, rel=1e-13)
    assert law.singular.pdf(0) == 0 and law.moment(-0.5) == np.inf == kept.moment(-1)
    assert kept.moment(-0.5) == pytest.approx((0.5 + 0.125 + 0.0625) / 0.75, rel=1e-12)
    sample = law.rvs(4000, seed=5)
    for location, mass in law.atoms:  # three counts, five standard deviations each: false alarm 2e-6
        assert abs(np.mean(sample == location) - mass) < 5 * math.sqrt(mass * (1 - mass) / 4000)


def test_scales_at_the_ends_of_the_floats():
    big, small = FussCatalan(1, 1e308), FussCatalan(5, 1e300)
    assert big.support == (0, np.inf) and big.cdf(1.7e308) == pytest.approx(FussCatalan(1).cdf(1.7), rel=1e-12)
    assert big.ppf(0.5) == pytest.approx(1e308 * FussCatalan(1).ppf(0.5), rel=1e-12)
    q = np.geomspace(1e-100, 0.1, 30)
    reached = small.ppf(q) > 1e-300
    np.testing.assert_allclose(np.log(small.ppf(q[reached])), small.log.ppf(q[reached]), rtol=1e-13)
    assert FussCatalan(2, 5e-324).cdf(0) == 0 and FussCatalan(2, 5e-324).cdf(1e-300) == 1


def test_seeds():
    law = FussCatalan(3)
    np.testing.assert_array_equal(law.rvs(5, seed=1), law.rvs(5, seed=np.random.default_rng(1)))
    assert not np.array_equal(law.rvs(5, seed=1), law.rvs(5, seed=2))
    generator = np.random.default_rng(1)
    assert not np.array_equal(law.rvs(5, generator), law.rvs(5, generator))
    np.testing.assert_allclose(law.rvs(8, seed=1)[:5], law.rvs(5, seed=1), rtol=1e-15)
    np.testing.assert_allclose(law.singular.rvs((2, 3), seed=1) ** 2, law.rvs((2, 3), seed=1), rtol=1e-14)
    assert law.rvs(seed=1).shape == () and law.rvs(0, seed=1).shape == (0,)
    assert law.rvs(np.int64(4), seed=1).shape == (4,)
    state = str(np.random.get_state())  # noqa: NPY002
    law.rvs(5)
    assert str(np.random.get_state()) == state  # noqa: NPY002


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda law: law.ppf(1.5), "q must lie between 0 and 1, got 1.5"),
        (lambda law: law.ppf([0.5, -0.25]), "q must lie between 0 and 1, got -0.25"),
        (lambda law: law.ppf(np.inf), "q must lie between 0 and 1, got inf"),
        (lambda law: law.rvs(-1), "size must be at least 0, got -1"),
        (lambda law: law.rvs((2, -3)), "size must be at least 0, got -3"),
        (lambda law: law.rvs(2.5), "size must be an integer of at least 0, got 2.5"),
        (lambda law: law.rvs(2, seed=-1), "seed must be a non-negative integer or a numpy Generator, got -1"),
        (lambda law: law.rvs(2, seed="a"), "seed must be a non-negative integer or a numpy Generator, got 'a'"),
        (lambda law: law.moment(np.nan), "k must be finite, got nan"),
        (lambda law: law.log.moment(0.5), "k must be a non-negative integer for ln x, got 0.5"),
        (lambda law: law.log.moment(-1), "k must be a non-negative integer for ln x, got -1"),
        (lambda law: law.log.log_moment(1), "log_moment is not defined for ln x"),
    ],
)
def test_refusals(call, message):
    for law in LAWS[:1] + LAWS[-1:]:
        with pytest.raises(ValueError) as refusal:
            call(law)
        assert str(refusal.value).startswith(message)
        assert "\n" not in str(refusal.value)


def test_laws_and_views_compare_hash_and_pickle():
    law = FussCatalan(3, 2.0)
    assert law == FussCatalan(3, 2.0) and law != FussCatalan(3)
    assert law.log == FussCatalan(3, 2.0).log and law.log != law.singular
    assert len({law, law.log, law.singular, law.nonzero, law.log.log}) == 4
    law.var, law.log.mean  # fills the caches  # noqa: B018
    copy = pickle.loads(pickle.dumps(law.log))
    assert copy == law.log and copy.cdf(-1.0) == law.log.cdf(-1.0)
    with pytest.raises(AttributeError):
        law.factors = 4


def test_solver_brackets_where_newton_alone_diverges():
    root = solve_monotone(lambda y: (np.arctan(y), 1 / (1 + y**2)), np.array([0.0, 1.0]), np.array([9.0, -8.0]), 10.0)
    np.testing.assert_allclose(root, [0, math.tan(1)], atol=1e-14)


def test_solver_treats_every_element_as_if_alone():
    def rounded(y):  # its own rounding keeps Newton's method moving by an ulp
        return y * y * y - 3 * y * y + 4 * y, 3 * y * y - 6 * y + 4

    target, guess = np.linspace(1, 50, 200), np.geomspace(1e-3, 1e3, 200)
    together = solve_monotone(rounded, target, guess, 1e6)
    alone = [solve_monotone(rounded, target[i : i + 1], guess[i : i + 1], 1e6)[0] for i in range(200)]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_allclose(rounded(together)[0], target, rtol=1e-14)


def test_solver_says_when_it_does_not_converge():
    with pytest.raises(ArithmeticError, match="did not converge"):
        solve_monotone(lambda y: (np.full_like(y, -1.0), np.ones_like(y)), np.array([0.0]), np.array([0.0]), 1e300)


def test_import_is_light():
    code = "import sys, bntheory.spectra.fuss_catalan; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"matplotlib", "sympy", "mpmath", "numba", "torch"} & set(loaded)
