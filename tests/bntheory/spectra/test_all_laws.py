"""Every kind of law that the package makes, in one list, and what makes each of them a law, in every view."""

import functools
import math
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest

from bntheory.activations import activation
from bntheory.architectures import mlp
from bntheory.initializations import initialization
from bntheory.layers import BatchNorm, Dense, Dropout
from bntheory.networks import Residual, Sequential
from bntheory.spectra.densities import density_law, slope_law
from bntheory.spectra.discrete import DiscreteLaw
from bntheory.spectra.fuss_catalan import FussCatalan, MarchenkoPastur
from bntheory.spectra.generating import generating_law
from bntheory.spectra.jacobian import jacobian_law
from bntheory.spectra.law import SpectralLaw
from bntheory.spectra.s_transform import STransformLaw

WEIGHTS = Dense(64, init="lecun_normal")


class Case(NamedTuple):
    """A law; the share of its continuous part down to which it is looked at from every end; where its gaps are.

    Gaps are given by the share of the continuous part below them.
    """

    law: SpectralLaw
    tail: float = 1e-6
    gaps: tuple[float, ...] = ()


def blocks(*layers, scale, count=1):
    """The law of so many residual blocks."""
    block = Residual(Sequential(layers), scale=scale)
    return jacobian_law(Sequential((block,) * count, (64,)))


def uniform(z):
    """Moment generating function of the uniform density on (1, 2)."""
    return -1 - np.log((1 - 2 * z) / (1 - z)) / z


CLOSED = {
    "one square matrix": FussCatalan(1),
    "two, scaled": FussCatalan(2, 0.37),
    "five": FussCatalan(5),
    "fifty, scaled": FussCatalan(50, 3.0),
    "thousand": FussCatalan(1000),
    "hundred thousand": FussCatalan(100_000, 2.5),
    "very narrow": MarchenkoPastur(1e-4),
    "narrow": MarchenkoPastur(0.3, 5.0),
    "nearly square": MarchenkoPastur(0.999),
    "square": MarchenkoPastur(1.0, 0.2),
    "wide": MarchenkoPastur(1.7),
    "very wide": MarchenkoPastur(40, 0.01),
}
CASES = {
    **{name: Case(law, 1e-12 if law.support[0] else 1e-30) for name, law in CLOSED.items()},
    # powers: Gaussian and orthogonal matrices of any shapes, masks
    "linear": Case(jacobian_law(mlp(3, 64, "linear", "lecun_normal", input_width=48, output_width=96)), 1e-12),
    "relu": Case(jacobian_law(mlp(5, 64)), 1e-12),
    "relu of three widths": Case(jacobian_law(mlp(1, 300, input_width=200, output_width=400)), 1e-12),
    "relu, 1000 layers": Case(jacobian_law(mlp(1000, 64)), 1e-12),
    "of fifty widths": Case(
        STransformLaw([(0, -1), (1, 1), *((1 + Fraction(k, 50), 1) for k in range(50))], -30.0), 1e-12
    ),
    "orthogonal relu: arcsine": Case(jacobian_law(mlp(2, 64, init="orthogonal"))),
    "orthogonal relu": Case(jacobian_law(mlp(5, 64, init="orthogonal"))),
    "orthogonal, of many widths": Case(jacobian_law(mlp(2, 96, init="orthogonal", input_width=64, output_width=128))),
    "projections, an atom at the top": Case(
        STransformLaw([(0, -1), (Fraction(3, 5), 1), (Fraction(4, 5), 1), (1, -1)], 0.3)
    ),
    "dropout and batch norm": Case(
        jacobian_law(
            Sequential((BatchNorm(training=False, gamma=2.0), WEIGHTS, Dropout(0.25), *mlp(1, 64).layers), (64,))
        )
    ),
    # slopes of networks
    "leaky relu": Case(jacobian_law(mlp(4, 64, "leaky_relu(0.2)", input_width=32, output_width=96))),
    "leaky relu, 100 layers": Case(jacobian_law(mlp(100, 64, "leaky_relu(0.2)")), 1e-5),
    "leaky relu, orthogonal": Case(jacobian_law(mlp(2, 64, "leaky_relu(0.2)", init="orthogonal"))),
    "tanh": Case(jacobian_law(mlp(2, 64, "tanh", "lecun_normal"))),
    "tanh, orthogonal": Case(jacobian_law(mlp(1, 64, "tanh", initialization("orthogonal", gain=1.5), input_width=32))),
    # residual blocks
    "residual relu, as mlp makes it": Case(jacobian_law(mlp(3, 64, residual=True))),
    "weak I + aW": Case(blocks(WEIGHTS, scale=0.5, count=3)),
    "I + W": Case(blocks(WEIGHTS, scale=1.0, count=2)),
    "strong I + aW": Case(blocks(WEIGHTS, scale=1.4)),
    "I + aB of relu": Case(blocks(activation("relu"), WEIGHTS, scale=0.7, count=3)),
    "I + aB of leaky relu": Case(blocks(activation("leaky_relu(0.2)"), WEIGHTS, scale=1.0)),
    "I + aB of tanh": Case(jacobian_law(mlp(1, 64, "tanh", residual=True))),
    # given values, densities, moment generating functions
    "three values": Case(DiscreteLaw([0.0, 1.0, 3.0], [0.2, 0.3, 0.5])),
    "one value": Case(jacobian_law(mlp(3, 64, "linear", "orthogonal"))),
    "a mask": Case(jacobian_law(mlp(1, 8, init="orthogonal"))),
    "three values, a gap": Case(
        DiscreteLaw([0.0, 1.0, 8.0], [0.2, 0.5, 0.3]) @ MarchenkoPastur(0.05), gaps=(0.5 / 0.8,)
    ),
    "two values, an atom at the bottom": Case(DiscreteLaw([1.0, 2.0], [0.6, 0.4]) ** 2),
    "two values, an atom at the top": Case(DiscreteLaw([1.0, 2.0], [0.4, 0.6]) ** 2),
    "atoms at zero and inside": Case(DiscreteLaw([0.0, 1.0, 2.0], [0.1, 0.6, 0.3]) ** 2, gaps=(1 / 7,)),
    "slopes of tanh": Case(slope_law("tanh")),
    "slopes of elu, an atom at the top": Case(slope_law("elu")),
    "a density": Case(density_law(lambda x: 3 * x**2 / 7, (1, 2))),
    "exponential": Case(density_law(lambda x: np.exp(-x), points=16), 1e-5),
    "a density and matrices": Case(density_law(lambda x: np.ones_like(x) / 3, (0, 3)) @ FussCatalan(2)),
    "by its moment generating function": Case(generating_law(uniform, 1.5, (1, 2)) @ MarchenkoPastur(0.5)),
}
VIEWS = {
    "x": lambda law: law,
    "singular": lambda law: law.singular,
    "log": lambda law: law.log,
    "nonzero": lambda law: law.nonzero,
    "nonzero.singular": lambda law: law.nonzero.singular,
}
NODES, GAUSS = np.polynomial.legendre.leggauss(12)
SHARES = np.r_[0.001, 0.02, np.linspace(0.11, 0.89, 6), 0.98, 0.999]  # of the continuous part
all_laws = pytest.mark.parametrize("name", CASES)


class Panels(NamedTuple):
    """A law in ln x: intervals, Gauss's nodes and probabilities there; ends of stretches and what is beyond."""

    low: np.ndarray  # (panels,)
    high: np.ndarray
    at: np.ndarray  # (panels, nodes)
    mass: np.ndarray
    ends: np.ndarray  # (stretches, 2)
    lost: np.ndarray


@functools.cache
def panels(name):
    """Between shares that are geometric towards every end of the support and of gaps."""
    law, tail, gaps = CASES[name]
    rising, falling = towards(tail), towards(max(tail, 1e-12))[::-1]
    inside = np.linspace(0.1, 0.9, 10)[1:-1]
    below, above = np.r_[rising, inside, 1 - falling], np.r_[1 - rising, inside[::-1], falling]
    ends, edges = (0.0, *gaps, 1.0) if law._mass else (), []
    for first, last in pairwise(ends):
        with np.errstate(all="ignore"):
            depth = law._depth(first + (last - first) * below, 1 - last + (last - first) * above)
        edges.append(law.log._from_depth(depth))
    edges = np.reshape(edges, (-1, len(below)))
    low, high = edges[:, :-1].ravel(), edges[:, 1:].ravel()
    at = (low + high)[:, None] / 2 + (high - low)[:, None] / 2 * NODES
    lost = np.outer(np.diff(ends), [rising[0], falling[-1]]) * law._mass
    return Panels(low, high, at, (high - low)[:, None] / 2 * GAUSS * law.log.pdf(at), edges[:, [0, -1]], lost)


def towards(tail):
    """Shares from the tail to a tenth, so near to one another that a root or its inverse at the end is resolved."""
    return np.geomspace(tail, 0.1, 1 + math.ceil(math.log2(0.1 / tail)))


@functools.cache
def depths(name):
    """Depths at some shares of the continuous part."""
    law = CASES[name].law
    with np.errstate(all="ignore"):
        return law._depth(SHARES, 1 - SHARES) if law._mass else np.empty(0)


def rounding(law, v):
    """Of v in a view: some ulp of v and of the edge's logarithm, and for √x and x of the depth below it."""
    if not law.power:
        return 1e-15 * (2 + np.abs(v) + abs(law.log.support[1]))
    return 1e-15 * np.abs(v) * (2 + np.abs(np.log(law.support[1] / v)))


def mass_at(law, where=lambda x: True):
    """Of the atoms for which that is true."""
    return math.fsum(mass for x, mass in law.atoms if where(x))


@all_laws
def test_mass_and_atoms_make_one(name):
    """The density's integral, what its panels leave out, and atoms; cdf and sf at every node."""
    law, found = CASES[name].law, panels(name)
    assert law._mass + mass_at(law) == pytest.approx(1, abs=1e-14)
    assert found.mass.sum() + found.lost.sum() == pytest.approx(law._mass, abs=1e-12 if name in CLOSED else 1e-10)
    np.testing.assert_allclose(law.log.cdf(found.at) + law.log.sf(found.at), 1, rtol=0, atol=1e-13)
    low, high = law.support
    top = max([high, *(x for x, _ in law.atoms)])
    assert law.cdf(top * (1 + 1e-14)) == 1 and law.sf(top * (1 + 1e-14)) == 0
    below = low * (1 - 1e-14)
    assert law.cdf(below) == pytest.approx(mass_at(law, lambda x: x <= below), abs=1e-14)


@all_laws
def test_the_density_is_the_derivative_of_the_distribution(name):
    """In ln x: of cdf in the lower half and of −sf in the upper one, which does not cancel there."""
    law, found = CASES[name].law, panels(name)
    rise, fall = (function(found.high) - function(found.low) for function in (law.log.cdf, law.log.sf))
    expected = np.where(law.log.cdf(found.high) < 0.5, rise, -fall)
    edge = np.maximum(np.abs(found.low), np.abs(found.high))
    slack = rounding(law.log, edge) * law.log.pdf(found.at).max(axis=1, initial=0)
    slack += 1e-15 * bool(law.atoms) + 2e-16 * sum(part.factor.count for part in getattr(law, "parts", ()))
    if getattr(law, "_alone", None):  # λ itself is known to rounding
        slack += 2e-12 / (law.log.support[1] - found.at.mean(axis=1)) * expected
    precision = 1e-10 if name in CLOSED else 1e-9
    assert np.all(np.abs(found.mass.sum(axis=1) - expected) <= precision * expected + slack)


@all_laws
def test_moments_are_integrals_of_the_density(name):
    """To 1e-9 and what the probability left out may make of it, between the panels and the end of the support."""
    law, found = CASES[name].law, panels(name)
    x, mass = np.r_[found.at.ravel(), found.ends.ravel()], np.r_[found.mass.ravel(), found.lost.ravel()]
    for k in (0.5, 1, 2, 3):
        expected = np.sum(np.exp(k * x) * mass) + sum(weight * place**k for place, weight in law.atoms)
        reach = np.exp(k * np.array(law.log.support)) if law._mass else np.empty(0)
        bound = sum(np.abs(np.exp(k * ends) - reach) @ lost for ends, lost in zip(found.ends, found.lost, strict=True))
        assert law.moment(k) == pytest.approx(expected, rel=1e-9, abs=bound)
    expected = np.sum(x * mass) + sum(weight * math.log(place) for place, weight in law.atoms if place)
    fallen = np.sum(found.lost[:1, 0] ** 2 / law.log.pdf(found.ends[:1, 0]))  # of a power at zero: ∫ cdf d ln x
    kept = 1 - mass_at(law, lambda place: place == 0)
    size = np.sum(np.abs(x) * mass) + 1
    assert law.log.nonzero.mean * kept == pytest.approx(expected, abs=3 * fallen + 1e-8 * size)


@all_laws
def test_the_first_two_moments_are_mean_and_variance(name):
    law = CASES[name].law
    kept = 1 - mass_at(law, lambda x: x == 0)
    for view in (law, law.singular, law.nonzero):
        assert view.moment(0) == pytest.approx(1, rel=1e-14)
        assert view.mean == pytest.approx(view.moment(1), rel=1e-12)
        square = view.moment(2)
        assert view.var == pytest.approx(square - view.mean**2, rel=1e-10, abs=1e-11 * square)
        assert view.moment(-8) == math.inf or not (
            mass_at(view, lambda x: x == 0) or (name in CLOSED and view.support[0] == 0)
        )
    assert law.nonzero.mean == pytest.approx(law.mean / kept, rel=1e-13)
    assert law.singular.moment(3) == pytest.approx(law.moment(1.5), rel=1e-13)
    assert law.singular.log_moment(7) == pytest.approx(law.log_moment(3.5), rel=1e-13, abs=1e-13)
    assert np.isfinite(law.log_moment(1e5))
    assert np.isfinite(law.log.mean) or (kept < 1 and law.log.mean == -math.inf and math.isnan(law.log.var))


@all_laws
def test_quantiles_and_the_distribution_are_inverses(name):
    """Also of extreme levels, where nothing may leave the support or turn back."""
    for view, seen in VIEWS.items():
        law = seen(CASES[name].law)
        v = law._from_depth(depths(name))
        v = v[(v > 1e-300) | (law.power == 0)]
        assert np.all(np.diff(v) > 0), view
        q, density = law.cdf(v), law.pdf(v)
        slack = 1e-11 * q + rounding(law, v) * density
        assert np.all(np.abs(law.cdf(law.ppf(q)) - q) <= slack), view
        assert np.all(np.abs(law.ppf(q) - v) <= rounding(law, v) + 1e-13 / density), view
        assert np.all(np.abs(law.cdf(v) + law.sf(v) - 1) < 1e-13), view
        ends = [*(law.support if law._mass else ()), *(x for x, _ in law.atoms)]
        lowest, highest = min(ends), max(ends)
        assert law.ppf(0.0) == lowest and law.ppf(1.0) == highest, view
        x = law.ppf(np.r_[0.0, 5e-324, 1e-300, 1e-100, 1e-20, np.linspace(0.03, 0.97, 9), 1 - 2.0**-53, 1.0])
        assert np.all(x[1:] >= x[:-1]) and x.min() == lowest and x.max() == highest, view
        for place, mass in law.atoms:
            below = law.cdf(place) - mass
            assert np.all(law.ppf(below + mass * np.array([1e-6, 0.5, 1 - 1e-6])) == place), view


@all_laws
def test_views_are_one_law_in_three_variables(name):
    """Density, distribution and both tails by change of variable; without zeros by division."""
    law = CASES[name].law
    u = law.log._from_depth(depths(name))
    u, kept = u[u > -600], 1 - mass_at(law, lambda x: x == 0)
    x, s = np.exp(u), np.exp(u / 2)
    # the rounding of exp moves x by ε (1 + |u|) x; a root meets its edge with 1/distance of that
    low, high = law.log.support
    moved = 4e-13 + 4e-15 * (1 + np.abs(u)) / np.minimum(high - u, u - low) + 2 * rounding(law.log, u) * 1e2
    density, below, above = law.log.pdf(u), law.log.cdf(u), law.log.sf(u)
    for got, want in (
        (law.pdf(x) * x, density),
        (law.singular.pdf(s) * s, 2 * density),
        (law.nonzero.pdf(x) * x * kept, density),
        (law.log.nonzero.pdf(u) * kept, density),
        (law.nonzero.singular.pdf(s) * s * kept, 2 * density),
        (np.exp(law.logpdf(x)) * x, density),
        (np.exp(law.log.logpdf(u)), density),
        (law.cdf(x), below),
        (law.singular.cdf(s), below),
        (law.nonzero.cdf(x) * kept, below - (1 - kept)),
        (law.sf(x), above),
        (law.singular.sf(s), above),
        (law.nonzero.sf(x) * kept, above),
    ):
        assert np.all(np.abs(got / want - 1) <= moved)
    assert law.cdf(0.0) == law.log.cdf(-np.inf) == law.singular.cdf(0.0) == pytest.approx(1 - kept, abs=1e-15)
    with np.errstate(divide="ignore"):
        assert law.log.atoms == tuple((float(np.log(place)), mass) for place, mass in law.atoms)
    assert law.nonzero.log == law.log.nonzero and len(law.nonzero.atoms) == sum(place > 0 for place, _ in law.atoms)


@all_laws
def test_outside_the_support(name):
    for view, seen in VIEWS.items():
        law = seen(CASES[name].law)
        low, high = law.support
        atoms = [x for x, _ in law.atoms]
        beyond = [max(high, *atoms, high) + abs(high) + 1, np.inf]
        np.testing.assert_array_equal(law.pdf(beyond), 0, view)
        np.testing.assert_array_equal(law.logpdf(beyond), -np.inf, view)
        np.testing.assert_array_equal(law.cdf(beyond), 1, view)
        np.testing.assert_array_equal(law.sf(beyond), 0, view)
        before = np.array([-np.inf, -1e300] + ([-1.0, -1e-300] if law.power else []))
        zero = 0 if law.power else mass_at(law, lambda x: x == -np.inf)
        if np.isfinite(low):
            np.testing.assert_array_equal(law.pdf(before), 0, view)
            np.testing.assert_array_equal(law.logpdf(before), -np.inf, view)
        np.testing.assert_allclose(law.cdf(before), zero, rtol=1e-15, atol=1e-299, err_msg=view)
        np.testing.assert_allclose(law.sf(before), 1 - zero, rtol=1e-14, err_msg=view)
        if low > 0 and law.power:
            np.testing.assert_array_equal(law.pdf([0.0, low / 2]), 0, view)


@all_laws
def test_shapes_and_types(name):
    law = CASES[name].law
    levels = np.array([[0.3, 0.8]])
    values = law.ppf(levels)
    for method, given in (
        (law.ppf, levels),
        (law.pdf, values),
        (law.logpdf, values),
        (law.cdf, values),
        (law.sf, values),
    ):
        found, one = method(given), method(float(given[0, 0]))
        assert found.shape == (1, 2) and isinstance(one, np.float64)
        assert one == found[0, 0] or one == pytest.approx(found[0, 0], rel=1e-12, abs=1e-12)
        assert method(np.empty((0, 4))).shape == (0, 4)
        np.testing.assert_array_equal(np.isnan(method([given[0, 1], np.nan])), [False, True])


@all_laws
def test_draws_follow_the_law(name):
    """Kolmogorov–Smirnov on the continuous part, and the count of every atom: false alarms 3e-6 a law; seed fixed."""
    law, size = CASES[name].law.log, 1000
    sample = law.rvs(size, seed=11)
    for place, mass in law.atoms:
        assert abs(np.mean(sample == place) - mass) <= 4.9 * math.sqrt(mass * (1 - mass) / size)
    drawn = np.sort(sample[~np.isin(sample, [u for u, _ in law.atoms])])
    assert bool(drawn.size) == bool(law._mass)
    levels = law.cdf(drawn) - np.sum([mass * (drawn >= u) for u, mass in law.atoms], axis=0)
    grid = np.arange(drawn.size + 1) / max(1, drawn.size)
    distance = np.max(np.abs(levels / (law._mass or 1) - [grid[1:], grid[:-1]]), initial=0) * math.sqrt(drawn.size)
    assert distance < 2.7 and 2 * math.exp(-2 * 2.7**2) < 1e-6


@all_laws
def test_a_factor_multiplies_x(name):
    law, factor = CASES[name].law, 0.0725
    scaled = factor * law
    assert law * factor == scaled
    u, shift = law.log._from_depth(depths(name))[2:-2], math.log(factor)
    tolerance = 1e-11 if isinstance(law, STransformLaw) else 1e-9
    np.testing.assert_allclose(
        scaled.log.pdf(u + shift), law.log.pdf(u), rtol=tolerance * (1 + abs(law.log.support[1]))
    )
    np.testing.assert_allclose(
        scaled.log.cdf(u + shift), law.log.cdf(u), rtol=tolerance * (1 + abs(law.log.support[1]))
    )
    np.testing.assert_allclose([x for x, _ in scaled.atoms], [factor * x for x, _ in law.atoms], rtol=1e-14)
    for k in (1, 2):
        assert scaled.log_moment(k) == pytest.approx(law.log_moment(k) + k * shift, rel=1e-13, abs=1e-13)


@all_laws
def test_products_commute_and_powers_are_products(name):
    """With a Gaussian matrix on either side; E x and Var x/(E x)² multiply and add up over free factors."""
    law, other = CASES[name].law, FussCatalan(1, 0.7)
    one = law @ other
    assert other @ law == one
    levels = float(1 - one.rank) + float(one.rank) * np.array([0.03, 0.4, 0.9])
    np.testing.assert_allclose(one.log.cdf(one.log.ppf(levels)), levels, rtol=1e-10)
    assert one.log_moment(1) == pytest.approx(law.log_moment(1) + math.log(0.7), abs=1e-12)
    spread = math.expm1(law.log_moment(2) - 2 * law.log_moment(1))
    assert math.expm1(one.log_moment(2) - 2 * one.log_moment(1)) == pytest.approx(spread + 1, rel=1e-9)
    assert one @ one == one**2 and one @ one**2 == one**3 and hash(one**2) == hash(one @ one)
