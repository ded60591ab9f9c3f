"""Unequal images: sizes folded into distances and taken out again, against sums over all pairs of images."""

import numpy as np
import pytest

from bntheory.growth.infinite_width import sizes
from bntheory.growth.infinite_width.positions import convolved
from bntheory.growth.infinite_width.state import State
from bntheory.layers import Conv

RNG = np.random.default_rng(3)
Q = RNG.gamma(1.0, size=(4, 9))  # second moments of four images at nine places
RHO = np.exp(-0.1 * np.abs(np.subtract.outer(np.arange(9), np.arange(9))))
ROOT = np.sqrt(Q.mean(axis=0))


def products(rho, between):
    """Mean of ρ √(q_i q_j')."""
    pairs = [(i, j) for i in range(4) for j in range(4) if (i != j) == between]
    return np.mean([rho * np.sqrt(np.outer(Q[i], Q[j])) for i, j in pairs], axis=0)


def distances(product, q):
    return q[:, None] + q - 2 * product


@pytest.mark.parametrize("between", [False, True])
def test_folded_is_the_mean_over_pairs_and_unfolded_the_reverse(between):
    """In single precision, in which sizes are kept."""
    rho = RHO * 0.7 if between else RHO
    q, alike = Q.mean(axis=0), distances(rho * np.outer(ROOT, ROOT), Q.mean(axis=0))
    lost = sizes.Lost(sizes.roots(Q), between)
    folded = lost.folded(alike, q)
    np.testing.assert_allclose(folded, distances(products(rho, between), q), atol=1e-6)
    np.testing.assert_allclose(lost.unfolded(folded, q), alike, atol=1e-6)


def test_a_convolution_adds_covariances_of_every_pair():
    """Its sums over the kernel are those of the folded distances, and its sizes those of every image by itself."""
    log_d, log_cross = (np.log(distances(r * np.outer(ROOT, ROOT), ROOT**2) + 1e-300) for r in (RHO, RHO * 0.7))
    np.fill_diagonal(log_d, -np.inf)
    state = State(np.log(ROOT**2), log_d, log_cross, 4, sizes.roots(Q))
    layer, bias = Conv(2, kernel=3), 0.3
    log_q, blocks, roots = convolved(layer, state, (2, 3, 3), np.log(bias))
    q = np.exp(log_q)
    window = np.abs(np.subtract.outer(np.arange(9) // 3, np.arange(9) // 3)) <= 1
    window &= np.abs(np.subtract.outer(np.arange(9) % 3, np.arange(9) % 3)) <= 1
    np.testing.assert_allclose(q, window @ ROOT**2)
    np.testing.assert_allclose(roots**2 * (q + bias), Q @ window + bias)
    after = State(np.log(q + bias), *blocks, 4, roots).folded()
    shifts = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    places = [(a, b) for a in range(3) for b in range(3)]
    for block, rho, between in ((after.log_d, RHO, False), (after.log_cross, RHO * 0.7, True)):
        product = products(rho, between)
        expected = np.full((9, 9), bias)
        for p, (a, b) in enumerate(places):
            for r, (c, d) in enumerate(places):
                read = [((a + s, b + t), (c + s, d + t)) for s, t in shifts]
                inside = [(3 * i[0] + i[1], 3 * j[0] + j[1]) for i, j in read if i in places and j in places]
                expected[p, r] += sum(product[i, j] for i, j in inside)
        off = ~np.eye(9, dtype=bool)
        np.testing.assert_allclose(np.exp(block)[off], distances(expected, q + bias)[off], atol=2e-5)


def test_images_that_are_alike_lose_nothing():
    lost = sizes.Lost(sizes.roots(np.ones((3, 5))), between=True)
    assert not lost(slice(0, 5)).any()


def test_sizes_of_a_sum_and_of_a_power():
    first, second = sizes.roots(Q), sizes.roots(Q[::-1])
    total = sizes.added((first, np.log(Q.mean(axis=0))), (second, np.log(Q.mean(axis=0))))
    np.testing.assert_allclose(total, sizes.roots(Q + Q[::-1]))
    np.testing.assert_allclose(sizes.powered(first, np.full(9, 0.5)), sizes.roots(np.sqrt(Q)))
    assert sizes.added((None, np.zeros(2)), (None, 0.0)) is None
