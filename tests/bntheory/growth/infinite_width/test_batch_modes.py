"""BatchNorm over images by modes, against sampled fields and the χ² law."""

import math

import numpy as np
import pytest

from bntheory.growth.infinite_width import batch_modes
from bntheory.growth.infinite_width.state import State
from simulations.statistics import mean_with_error, tolerance

RARE = 1e-5  # false alarm of a test's comparisons together


def state_of(within, cross, copies):
    """Images alike, from their covariances."""
    q = np.diagonal(within)
    with np.errstate(divide="ignore"):
        log_d, log_cross = (np.log(q[:, None] + q - 2 * block) for block in (within, cross))
    return State(np.log(q), log_d, log_cross if copies > 1 else None, copies)


def covariances(points):
    """A long-range part that images share, and their own, stronger at some points."""
    place = np.arange(points)
    size = 1 + 0.5 * np.cos(place)
    near = np.exp(-(np.subtract.outer(place, place) ** 2) / 8) * np.multiply.outer(size, size)
    return near + 0.2 * np.eye(points), 0.4 * near


@pytest.mark.parametrize("points, copies", [(1, 5), (3, 4), (4, 8), (12, 1), (9, 2)])
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_against_sampled_fields(points, copies, epsilon):
    """40,000 units normalized: E 1/(s² + ε) and every E y y', to 1e-5 false alarms together."""
    within, cross = covariances(points)
    state = state_of(within, cross, copies)
    rng = np.random.default_rng(points)
    whole = np.kron(np.eye(copies), within - cross) + np.kron(np.ones((copies, copies)), cross)
    z = rng.standard_normal((40_000, len(whole))) @ np.linalg.cholesky(whole).T
    z -= z.mean(axis=1, keepdims=True)
    scale = math.exp(state.log_channel_variance)
    square = np.mean(z**2, axis=1) / scale
    y = (z / np.sqrt(scale * (square + epsilon))[:, None]).reshape(-1, copies, points)
    blocks, log_inverse = batch_modes.normalized(batch_modes.centred(state), copies, epsilon)
    products = np.einsum("nip,niq->npq", y, y) / copies
    checks = [(products, blocks[0]), (1 / (square + epsilon), math.exp(log_inverse))]
    if copies > 1:
        total = y.sum(axis=1)
        between = np.einsum("np,nq->npq", total, total) - copies * products
        checks.append((between / (copies * (copies - 1)), blocks[1]))
    for sample, value in checks:
        mean, error = mean_with_error(sample)
        assert np.all(np.abs(mean - value) < tolerance(error, RARE, 3 * points**2) + 1e-9)


@pytest.mark.parametrize("copies", [4, 5, 8, 100])
def test_independent_numbers_by_the_chi_square_law(copies):
    """E 1/s² = (B − 1)/(B − 3) over E s², and y is on a sphere."""
    blocks, log_inverse = batch_modes.normalized((np.eye(1), np.full((1, 1), -1 / (copies - 1))), copies)
    assert math.exp(log_inverse) == pytest.approx((copies - 1) / (copies - 3), rel=1e-9)
    assert blocks[0][0, 0] == pytest.approx(1, rel=1e-9)
    assert blocks[1][0, 0] == pytest.approx(-1 / (copies - 1), rel=1e-9)


def test_limits():
    """Three numbers have no mean of 1/s²; infinitely many images with nothing in common, no spread of s²."""
    assert batch_modes.normalized((np.eye(1), np.full((1, 1), -0.5)), 3).log_inverse == math.inf
    blocks, log_inverse = batch_modes.normalized((np.eye(4), np.zeros((4, 4))), math.inf, 0.25)
    assert math.exp(log_inverse) == pytest.approx(1 / 1.25, rel=1e-9)
    np.testing.assert_allclose(blocks[0], np.eye(4) / 1.25, rtol=1e-9, atol=1e-12)


def test_many_points_by_two_moments(monkeypatch):
    """The law of many points agrees with the modes to the third order in their number."""
    within, cross = covariances(100)
    given = batch_modes.centred(state_of(within, cross, 8))
    exact = batch_modes.normalized(given, 8)
    monkeypatch.setattr(batch_modes, "MOST_POINTS", 10)
    fast = batch_modes.normalized(given, 8)
    assert 0 < exact.log_inverse < 0.05
    assert fast.log_inverse == pytest.approx(exact.log_inverse, rel=0.05)
    np.testing.assert_allclose(fast.covariances[0], exact.covariances[0], atol=0.1)


@pytest.mark.parametrize("copies", [1, 4])
def test_points_that_are_all_the_same_have_no_covariances(copies):
    given = batch_modes.centred(state_of(np.ones((3, 3)), np.ones((3, 3)), copies))
    assert all(not block.any() for block in given if block is not None)
    assert (given[1] is None) == (copies == 1)


@pytest.mark.parametrize("members", [1, 3])
def test_sizes_of_groups_of_channels(members):
    """E 1/(s² + ε) of GroupNorm by 200,000 drawn groups of correlated positions: it errs by 0.3%; five of that."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((6, 6)) + 1
    covariance = root @ root.T / 12
    q = np.diagonal(covariance)
    with np.errstate(divide="ignore"):
        log_d = np.log(np.maximum(q[:, None] + q - 2 * covariance, 0))
    np.fill_diagonal(log_d, -math.inf)
    state = State(np.log(q), log_d, None, 1)
    drawn = rng.standard_normal((200_000, members, 6)) @ root.T
    square = drawn.var(axis=(1, 2))
    square /= square.mean()
    found = batch_modes.log_inverse_of_group(state, members, 0.1)
    assert math.exp(found) == pytest.approx(np.mean(1 / (square + 0.1)), rel=0.015)
