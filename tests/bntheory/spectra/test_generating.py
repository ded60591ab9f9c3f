"""Laws by their moment generating functions against closed forms, and what is refused."""

import math

import numpy as np
import pytest

from bntheory.spectra.densities import density_law, slope_law
from bntheory.spectra.discrete import DiscreteLaw
from bntheory.spectra.fuss_catalan import FussCatalan, MarchenkoPastur
from bntheory.spectra.generating import generating_law

LEVELS = np.r_[1e-6, 1e-3, np.linspace(0.05, 0.95, 10), 0.999, 1 - 1e-6]


def gaussian(z):
    """Of one square Gaussian matrix: y = z (1 + y)²."""
    return (1 - np.sqrt(1 - 4 * z)) ** 2 / (4 * z)


def uniform(z):
    """Of the uniform density on (1, 2): ∫ zx/(1 − zx) dx."""
    return -1 - np.log((1 - 2 * z) / (1 - z)) / z


def values(z):
    """Of 0, 0.2 and 3 with probabilities 0.1, 0.3 and 0.6."""
    return 0.3 * 0.2 * z / (1 - 0.2 * z) + 0.6 * 3 * z / (1 - 3 * z)


PAIRS = {  # a law by ψ and the same by other means
    "Marchenko–Pastur": (generating_law(gaussian, 1.0, (0, 4)), FussCatalan(1)),
    "uniform": (generating_law(uniform, 1.5, (1, 2)), density_law(np.ones_like, (1, 2))),
    "three values": (
        generating_law(values, 1.86, (0.2, 3), zero=0.1),
        DiscreteLaw([0, 0.2, 3], [0.1, 0.3, 0.6]),
    ),
}
OTHERS = {
    "a square matrix": FussCatalan(1),
    "a hundred": FussCatalan(100),
    "a wide one": MarchenkoPastur(0.3),
    "a tall one": MarchenkoPastur(3.0),
    "slopes": slope_law("tanh") @ FussCatalan(1),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_products_with_gaussian_matrices(pair, other):
    """pdf, cdf, sf to 1e-9, where an edge is not nearer than 1e-3: the densities by quadrature are right to that."""
    law, expected = (one @ other for one in pair)
    np.testing.assert_allclose(law.atoms, expected.atoms, rtol=1e-12)
    np.testing.assert_allclose(law.log.support, expected.log.support, rtol=1e-10, atol=1e-10)
    low = sum(mass for _, mass in expected.atoms)
    u = expected.log.ppf(low + (1 - low) * LEVELS)
    distance = np.minimum(u - expected.log.support[0], expected.log.support[1] - u)
    for method in ("pdf", "cdf", "sf"):
        got, want = getattr(law.log, method)(u), getattr(expected.log, method)(u)
        assert np.all(np.abs(got / want - 1) < 1e-9 + 1e-11 / distance), method
    for k in (1, 2, 5):
        assert law.moment(k) == pytest.approx(expected.moment(k), rel=1e-9)


def test_products_and_powers():
    """Two of them, in either order; a power; a multiple: Fuss–Catalan, and what a discrete law gives."""
    (one, _), (two, discrete) = PAIRS["Marchenko–Pastur"], PAIRS["three values"]
    x = FussCatalan(4).ppf(LEVELS)
    assert (one**3 @ FussCatalan(1)).moment(0.5) == pytest.approx(FussCatalan(4).moment(0.5), rel=1e-9)
    np.testing.assert_allclose((one**3 @ FussCatalan(1)).cdf(x), FussCatalan(4).cdf(x), rtol=1e-9)
    law, expected = one @ two @ FussCatalan(1) * 0.3, discrete @ FussCatalan(2) * 0.3
    x = expected.ppf(0.1 + 0.9 * LEVELS)
    np.testing.assert_allclose(law.pdf(x), expected.pdf(x), rtol=1e-8)
    np.testing.assert_allclose((two @ FussCatalan(1) @ one * 0.3).cdf(x), law.cdf(x), rtol=1e-11)
    np.testing.assert_allclose((two**2 @ FussCatalan(1)).cdf(x), (discrete**2 @ FussCatalan(1)).cdf(x), rtol=1e-9)


def test_gaps():
    """Between three values that a matrix of ratio 0.05 hardly smooths the density vanishes: masses to 1e-9."""
    law, expected = (one @ MarchenkoPastur(0.05) for one in PAIRS["three values"])
    x = np.geomspace(*expected.support, 40)[1:-1]
    np.testing.assert_allclose(law.cdf(x), expected.cdf(x), rtol=1e-9)
    assert law.cdf(0.5) == pytest.approx(0.4, abs=1e-9)


def test_far_below_it_is_a_power():
    """The rest of ψ + 1 in rounding: at a cdf of 1e-15 right to 1e-6, of an order that is found to 1e-7."""
    law, expected = PAIRS["Marchenko–Pastur"][0] @ FussCatalan(1), FussCatalan(2)
    x = expected.ppf([1e-8, 1e-15])
    np.testing.assert_allclose(law.pdf(x), expected.pdf(x), rtol=1e-6)
    assert law.curve.order == pytest.approx(3, abs=1e-7)


def test_accuracy_is_reported():
    law = PAIRS["Marchenko–Pastur"][0] @ FussCatalan(2)
    x = FussCatalan(3).ppf([0.01, 0.5, 0.99])
    true = np.max(np.abs(law.cdf(x) / FussCatalan(3).cdf(x) - 1))
    assert true < 1e-11 and true < law.accuracy(x) < 1e-5


@pytest.mark.parametrize("ask", [lambda law: law.pdf(1.0), lambda law: law.mean, lambda law: law.atoms])
def test_without_a_gaussian_matrix_there_is_none(ask):
    law = PAIRS["Marchenko–Pastur"][0]
    for product in (law, law @ DiscreteLaw([1, 2], [0.5, 0.5])):
        with pytest.raises(ValueError, match="not available because nothing smooths a law given by its generating"):
            ask(product)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: generating_law("psi", 1.0, (0, 4)), "psi must be a function of arrays of complex numbers, got 'psi'"),
        (lambda: generating_law(lambda z: math.log(z), 1.0, (0, 4)), "psi must take arrays of complex numbers, got"),
        (lambda: generating_law(lambda z: 1.0, 1.0, (0, 4)), "psi must return an array of the shape of z, got ()"),
        (
            lambda: generating_law(lambda z: z * np.nan, 1.0, (0, 4)),
            "psi must be finite off the cut, got nan+nanj at z = ",
        ),
        (lambda: generating_law(lambda z: -gaussian(z), 1.0, (0, 4)), "psi must have an imaginary part of the sign"),
        (lambda: generating_law(lambda z: gaussian(z) * (1 + 0.1j), 1.0, (0, 4)), "psi must"),
        (lambda: generating_law(gaussian, 1.1, (0, 4)), "psi(z)/z must tend to the mean 1.1 as z → 0, got psi = "),
        (lambda: generating_law(gaussian, 1.0, (0, 3)), "psi must be conjugate at conjugate z, and real"),
        (lambda: generating_law(uniform, 1.5, (1.2, 2)), "psi must be conjugate at conjugate z, and real"),
        (lambda: generating_law(gaussian, 1.0, (0, 4), 0.2), "psi must lie between zero − 1 = -0.8 and 0 for z < 0"),
        (lambda: generating_law(values, 1.86, (0.2, 3), 0.05), "psi must tend to zero − 1 = -0.95 as z → −∞, got -0.9"),
        (lambda: generating_law(values, 1.86, (0, 3), 0.05), "psi must tend to zero − 1 = -0.95 as z → −∞, got -0.9"),
        (lambda: generating_law(gaussian, 1.0, (0, math.inf)), "ends must increase from at least 0 to a finite number"),
        (lambda: generating_law(gaussian, 1.0, (4, 0)), "ends must increase from at least 0 to a finite number, got"),
        (lambda: generating_law(gaussian, 1.0, 4.0), "ends must be two numbers, got 4.0"),
        (lambda: generating_law(gaussian, -1.0, (0, 4)), "mean must be finite and above 0, got -1.0"),
        (lambda: generating_law(gaussian, 1.0, (0, 4), 1.0), "zero must be below 1, got 1.0"),
        (lambda: generating_law(gaussian, 1.0, (0, 4), points=3), "points must be at least 16, got 3"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError) as refusal:
        make()
    assert str(refusal.value).startswith(message) and "\n" not in str(refusal.value)
