"""Sampled singular values of products against the Fuss–Catalan law, in part from a recorded study of four sizes."""

import json
import pathlib

import numpy as np
import pytest

from bntheory.architectures import mlp
from bntheory.spectra.fuss_catalan import FussCatalan
from simulations.products import log_singular_values
from simulations.statistics import kolmogorov_distance, tolerance

STUDY = pathlib.Path(__file__).parents[1] / "benchmarks" / "product_sizes.json"
FALSE_ALARM = 1e-6
LAW = FussCatalan(factors=5)
TRACY_WIDOM = -1.2065336, 1.2680  # mean and standard deviation of the real law (Bornemann 2010)


@pytest.fixture(scope="module")
def thousand():
    """Ten products of five 1000×1000 Gaussian matrices."""
    return log_singular_values(mlp(5, 1000, "linear", "lecun_normal"), trials=10, seed=0)


def test_products_of_five_thousand_by_thousand(thousand):
    assert kolmogorov_distance(np.exp(2 * thousand), LAW.cdf) < 0.003
    assert kolmogorov_distance(np.exp(thousand), LAW.singular.cdf) < 0.003
    wrong = FussCatalan(factors=4), FussCatalan(factors=6), FussCatalan(factors=5, scale=1.05)
    assert min(kolmogorov_distance(np.exp(2 * thousand), law.cdf) for law in wrong) > 0.005


def edge_scale(width):
    """s(N) in x_max ≈ edge + s·TW: (π a N)^(−2/3), where pdf ≈ a √(edge − x)."""
    edge = LAW.support[1]
    distance = 1e-6 * edge
    return (np.pi * width * float(LAW.pdf(edge - distance)) / np.sqrt(distance)) ** (-2 / 3)


def test_largest_of_a_thousand(thousand):
    """The edge is at 3.864; at N = 1000 Tracy–Widom fluctuations put the largest singular value 0.051 ± 0.054 below."""
    edge, scale = LAW.support[1], edge_scale(1000)
    largest = np.exp(2 * thousand[:, 0])
    assert np.sqrt(edge) == pytest.approx(3.8639, abs=1e-4)
    expected, error = edge + scale * TRACY_WIDOM[0], scale * TRACY_WIDOM[1] / np.sqrt(len(largest))
    assert abs(largest.mean() - expected) < tolerance(error, FALSE_ALARM)
    assert np.sqrt(expected) == pytest.approx(3.8127, abs=1e-3)
    assert (np.abs(largest - expected) < tolerance(scale * TRACY_WIDOM[1], FALSE_ALARM, comparisons=10)).all()


SIZES = json.loads(STUDY.read_text(encoding="utf-8"))
WIDTHS = np.array(SIZES["width"])


def slope(x, y, errors):
    """Slope of a weighted straight line, and its standard error."""
    coefficients, covariance = np.polyfit(x, y, 1, w=1 / errors, cov="unscaled")
    return coefficients[0], np.sqrt(covariance[0, 0])


def test_distance_shrinks_like_log_n_over_n():
    """N sup |F_N − F| of one matrix grows like (√(2/β)/π) (ln N − ¾ ln ln N), β = 1.

    The eigenvalues are as rigid as they can be; of independent points the distance would shrink like N^(−1/2). Leading
    term proved for one Hermitian matrix (Claeys, Fahs, Lambert, Webb, Duke Math. J. 170, 2085, 2021), the second
    conjectured for logarithmically correlated fields (Fyodorov, Le Doussal, Phys. Rev. Lett. 124, 210602, 2020).
    """
    mean, error = np.array(SIZES["distance"]).T
    logs = np.log(WIDTHS)
    growth, growth_error = slope(logs - 0.75 * np.log(logs), WIDTHS * mean, WIDTHS * error)
    assert abs(growth - np.sqrt(2) / np.pi) < tolerance(growth_error, FALSE_ALARM)
    assert tolerance(growth_error, FALSE_ALARM) < 0.08
    exponent, _ = slope(logs, np.log(mean), error / mean)
    assert -0.95 < exponent < -0.75  # what a fit of a power sees of ln N / N between 50 and 400


def test_edge_is_approached_like_n_to_minus_two_thirds():
    """Edge − E x_max ∝ N^(−2/3), with corrections of order N^(−1)."""
    largest, error = np.array(SIZES["largest"]).T
    mean = LAW.support[1] - largest
    exponent, exponent_error = slope(np.log(WIDTHS), np.log(mean), error / mean)
    assert abs(exponent + 2 / 3) < tolerance(exponent_error, FALSE_ALARM)
    assert tolerance(exponent_error, FALSE_ALARM) < 0.15
    scales = np.array([edge_scale(width) for width in WIDTHS])
    allowed = tolerance(error / scales, FALSE_ALARM, comparisons=len(WIDTHS)) + WIDTHS ** (-1 / 3)
    assert (np.abs(mean / scales + TRACY_WIDOM[0]) < allowed).all()
