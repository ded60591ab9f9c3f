"""Sizes of rows against the plain NumPy functions, and rows that are zero, equal or out of range."""

import math

import numpy as np
import pytest

from simulations.kernels import blocks, moments
from simulations.samples import log_cosine_distance
from simulations.samples import moments as plain_moments


def measured(h, log_scale=0.0):
    batch, units = h.shape
    at_once = blocks.block_units(batch)
    row = np.concatenate([h[:, start : start + at_once].ravel() for start in range(0, units, at_once)])
    result = np.empty(6)
    moments.measure(row, units, batch, log_scale, result)
    return result[:4]


def expected(h, log_scale=0.0):
    return [*(value + 2 * log_scale for value in plain_moments(h)), log_cosine_distance(h)]


@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (3, 40), (130, 1300)], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_the_plain_functions(shape, offset):
    h = np.random.default_rng(0).standard_normal(shape) + offset
    found = [np.maximum(sizes, -2000) for sizes in (measured(h, -700.0), expected(h, -700.0))]
    found[0][3], found[1][3] = (max(distance, -70.0) for distance in (found[0][3], found[1][3]))  # rounding of zero
    np.testing.assert_allclose(*found, rtol=1e-9, atol=1e-8)


def test_float32_is_summed_in_float64():
    h = np.random.default_rng(1).standard_normal((3, 1000)).astype(np.float32)
    np.testing.assert_allclose(measured(h), expected(h.astype(float)), rtol=1e-12, atol=1e-12)


def test_dead_inputs_have_no_direction():
    h = np.random.default_rng(2).standard_normal((4, 7))
    h[[0, 2]] = 0
    np.testing.assert_allclose(measured(h), expected(h), rtol=1e-13)
    h[1] = 0
    assert math.isnan(measured(h)[3])
    np.testing.assert_array_equal(measured(0 * h), [-math.inf, -math.inf, -math.inf, math.nan])


def test_equal_inputs_have_distance_zero():
    h = np.tile(np.random.default_rng(3).standard_normal(600), (5, 1))
    found = measured(h)
    assert found[2] == found[3] == -math.inf


def test_nearly_equal_inputs():
    rng = np.random.default_rng(4)
    h = rng.standard_normal(300) * (1 + 1e-9 * rng.standard_normal((3, 300)))
    np.testing.assert_allclose(measured(h)[2:], expected(h)[2:], atol=1e-5)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_row_out_of_range(value, batch):
    h = np.ones((batch, 5))
    h[0, 3] = value
    np.testing.assert_array_equal(measured(h), [math.inf, math.inf, math.inf, math.nan])


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e-9, 1.0, 1e9, 1e150])
def test_rescaling_keeps_the_value(size):
    values = np.array([0.3, -1.0, 0.0]) * size
    log_scale = blocks.rescaled(values, 5.0)
    assert 1e-8 < np.abs(values).max() < 1e9
    assert values[1] < 0 and math.log(-values[1]) + log_scale == pytest.approx(math.log(size) + 5.0, abs=1e-12)
    zeros = np.zeros(3)
    assert blocks.rescaled(zeros, 5.0) == 0.0
