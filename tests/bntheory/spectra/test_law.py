"""What laws share: atoms anywhere, draws, refusals, comparisons, and the solver of monotone equations."""

import math
import pickle
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pytest

from bntheory.spectra.fuss_catalan import FussCatalan, MarchenkoPastur
from bntheory.spectra.law import SpectralLaw, solve_monotone


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
    for law in (FussCatalan(1), MarchenkoPastur(40, 0.01)):
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
