"""States of given batches, against the arrays themselves."""

import math

import numpy as np
import pytest

from bntheory.growth.infinite_width.state import log_mean, log_rest, of_values, start

RNG = np.random.default_rng(2)
VECTORS = RNG.standard_normal((5, 7)) * [[0.5], [1], [1], [2], [1.5]]
IMAGES = RNG.standard_normal((4, 3, 2, 5)) + 0.4


@pytest.mark.parametrize("values", [VECTORS, IMAGES], ids=["vectors", "images"])
@pytest.mark.parametrize("scale", [1.0, 1e-150, 1e150])
def test_moments_of_a_batch(values, scale):
    state = start(values * scale, values.shape[1:], None)
    rest = tuple(axis for axis in range(values.ndim) if axis != 1)
    shift = 2 * math.log(scale)
    assert state.log_second_moment == pytest.approx(math.log(np.mean(values**2)) + shift, rel=1e-12, abs=1e-12)
    variance, mean_square = np.mean(values.var(axis=rest)), np.mean(values.mean(axis=rest) ** 2)
    assert state.log_channel_variance == pytest.approx(math.log(variance) + shift, rel=1e-12, abs=1e-10)
    rest = log_rest(state.log_second_moment, state.log_channel_variance)
    assert rest == pytest.approx(math.log(mean_square) + shift, rel=1e-12, abs=1e-10)
    assert state.batch == values[:, 0].size


def test_distances_of_images_are_means_over_them():
    """Within an image exactly; between images with their unequal sizes folded in, which a few pairs would overdo."""
    state = start(IMAGES, IMAGES.shape[1:], None).folded()
    flat = IMAGES.reshape(4, 3, 10)
    within = np.mean((flat[..., :, None] - flat[..., None, :]) ** 2, axis=(0, 1))
    np.testing.assert_allclose(np.exp(state.log_d), within, atol=1e-12)
    pairs = [
        np.mean((flat[i][:, :, None] - flat[j][:, None, :]) ** 2, axis=0) for i in range(4) for j in range(4) if i != j
    ]
    q = np.exp(state.log_q)
    q_of_pairs = np.mean([np.mean(flat[i] ** 2, axis=0) for i in range(4)], axis=0)
    np.testing.assert_allclose(q, q_of_pairs)
    np.testing.assert_allclose(np.exp(state.log_cross), np.mean(pairs, axis=0), rtol=2e-3)


def test_mean_cosine_distance():
    state = start(VECTORS, (7,), None)
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(5, 1)]
    assert math.exp(state.log_cosine_distance) == pytest.approx(np.mean(1 - cosines), rel=1e-12)
    assert math.isnan(start(VECTORS[:1], (7,), None).log_cosine_distance)


def test_without_inputs():
    for shape, points in (((7,), 1), ((3, 2, 5), 10)):
        state = start(None, shape, 4)
        assert state.points == points and state.batch == 4 * points
        assert state.log_channel_variance == pytest.approx(math.log(1 - 1 / state.batch))
        assert start(None, shape, None, covariances=False).log_d is None


def test_log_mean_far_outside_float64():
    logs = np.array([[-2000.0, -2000.0], [5000.0, 4000.0]])
    assert log_mean(logs) == pytest.approx(5000 - math.log(4))
    assert log_mean(logs, axis=1) == pytest.approx([-2000, 5000 - math.log(2)])
    assert log_mean(np.full((1, 1), -np.inf)) == -math.inf and log_mean(np.full((1, 1), 3.0), axis=1).tolist() == [3.0]


def test_an_image_of_zeros_has_no_distances():
    """A LayerNorm over a single number makes them."""
    state = of_values(np.zeros((3, 1, 1, 1)))
    assert state.log_cross == state.log_second_moment == -math.inf


@pytest.mark.parametrize("values", [VECTORS, IMAGES], ids=["vectors", "images"])
@pytest.mark.parametrize("base", [1.0, 1e-100])
def test_inputs_of_too_different_sizes_are_refused(values, base):
    """The factor that counts is that of the root mean squares; at most 10¹⁵⁰ keeps their squares in float64."""
    size = np.sqrt(np.mean(values**2, axis=tuple(range(1, values.ndim)), keepdims=True))
    unit = base * values / size
    for exponent in (150.5, 200.0):
        apart = unit.copy()
        apart[0] *= 10**exponent
        with pytest.raises(ValueError, match=rf"1e\+150 in size, got 10\^{exponent:g}: .*covariances=False"):
            start(apart, values.shape[1:], None)
        assert start(apart, values.shape[1:], None, covariances=False).log_d is None
    unit[0] *= 10**149.9
    assert np.isfinite(start(unit, values.shape[1:], None).log_cosine_distance)
