"""Moments in logarithms over the whole float64 range, and the record of a measurement."""

import json
import math

import numpy as np
import pytest

from bntheory.architectures import mlp
from bntheory.networks import Leaf, leaves
from simulations.samples import QUANTITIES, Samples, log_cosine_distance, moments

SHAPES = [(1, 1), (7, 3), (5, 300), (4, 3, 6), (128, 24, 16, 16), (300, 2, 40, 40)]


def direct(h):
    axes = (0, *range(2, h.ndim))
    return np.mean(h**2), np.mean(h.mean(axis=axes) ** 2), np.mean(h.var(axis=axes))


def samples_of(*lines, method="measured", seed=None, width=4):
    """One trial a line: the log second moments of the rows of an mlp; the other quantities half of it."""
    second = np.array(lines, dtype=float)
    rows = tuple(leaves(mlp(1, width)))
    return Samples(rows, second, second - math.log(2), second - math.log(2), method=method, seed=seed)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_moments_are_the_plain_formulas(shape, offset):
    h = np.random.default_rng(0).standard_normal(shape) + offset
    with np.errstate(divide="ignore"):
        expected = np.log(direct(h))
    np.testing.assert_allclose(moments(h), expected, rtol=1e-11, atol=1e-12)
    assert np.logaddexp(*moments(h)[1:]) == pytest.approx(moments(h)[0], abs=1e-12)


@pytest.mark.parametrize("exponent", [-300, -160, -30, 30, 160, 300])
def test_moments_scale_with_the_square(exponent):
    h = np.random.default_rng(1).standard_normal((6, 4, 5))
    expected = np.array(moments(h)) + 2 * exponent * math.log(10)
    np.testing.assert_allclose(moments(h * 10.0**exponent), expected, rtol=1e-13)


def test_moments_of_other_types_and_layouts():
    h = np.random.default_rng(2).standard_normal((6, 4, 5))
    np.testing.assert_allclose(moments(h.astype(np.float32)), moments(h), atol=1e-6)
    np.testing.assert_allclose(moments(np.asfortranarray(h)), moments(h), rtol=1e-13)
    assert moments(np.array([[3, -3], [3, -3]])) == pytest.approx((math.log(9), math.log(9), -math.inf))


def test_a_small_variance_beside_a_large_mean():
    """Entries 1e8 ± 1 and 1e8 ± 3: the mean of h² minus the mean's square would be off by 1."""
    signs = np.array([1.0, -1.0] * 8)[:, None]
    h = 1e8 + signs * np.array([1.0, 3.0])
    assert moments(h)[2] == pytest.approx(math.log(5), abs=1e-12)


@pytest.mark.parametrize("value", [0.1, -7.3, 5e-324, 1.7e308])
def test_a_constant_channel_has_no_variance(value):
    second, mean_square, variance = moments(np.full((9, 3, 7), value))
    assert variance == -math.inf and second == mean_square == pytest.approx(2 * math.log(abs(value)))


def test_zero_is_minus_infinity_and_overflow_plus_infinity():
    assert moments(np.zeros((2, 3))) == (-math.inf,) * 3
    for value in (math.inf, -math.inf, math.nan):
        assert moments(np.array([[1.0, 2.0], [value, 0.0]])) == (math.inf,) * 3


@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (3, 0)])
def test_moments_need_a_batch_of_channels(shape):
    with pytest.raises(ValueError, match="h must have shape"):
        moments(np.zeros(shape))


def test_samples_say_what_is_alive_and_what_overflowed():
    samples = samples_of([0, 1, -np.inf], [0, np.inf, 2])
    assert samples.alive.tolist() == [[True, True, False], [True, True, True]]
    assert samples.overflowed.tolist() == [[False, False, False], [False, True, False]]
    assert samples.trials == 2
    assert samples.name == ("input", "0", "1")
    assert samples.operation == ("input", "Dense(4, he_normal)", "relu")
    assert samples.shape == ((4,),) * 3


def test_to_dict_is_strict_json():
    data = samples_of([0, 1, -np.inf], [0, np.inf, 2], seed=3).to_dict()
    again = json.loads(json.dumps(data, allow_nan=False))
    assert again == data
    assert again["log_second_moment"] == [[0, 1, None], [0, "inf", 2]]
    assert again["rows"][1] == {"name": "0", "operation": "Dense(4, he_normal)", "shape": [4]}
    assert (again["trials"], again["seed"], again["method"]) == (2, 3, "measured")


def test_table_means_over_the_living_and_counts_the_others():
    table = samples_of([0, 1, -np.inf], [0, 3, 2], [0, np.inf, 4], seed=3).table().splitlines()
    assert table[0] == "measured, 3 trials, seed 3"
    dense, relu = table[3].split(), table[4].split()
    assert " ".join(dense[3:8]) == "4 2.0000 ± 1.0000 1.4142" and dense[-2:] == ["0", "1"]
    assert " ".join(relu[2:7]) == "4 3.0000 ± 1.0000 1.4142" and relu[-2:] == ["1", "0"]
    one = samples_of([0, 1, -np.inf]).table().splitlines()
    assert one[0] == "measured, 1 trial" and one[4].split()[3:] == ["–", "–", "–", "–", "1", "0"]


def test_stack_joins_trials():
    parts = [samples_of([0, 1, 2], seed=5), samples_of([3, 4, 5], [6, 7, 8])]
    stacked = Samples.stack(iter(parts))
    assert stacked.trials == 3 and stacked.seed == 5 and stacked.rows == parts[0].rows
    for quantity in QUANTITIES:
        assert np.array_equal(getattr(stacked, quantity), np.concatenate([getattr(part, quantity) for part in parts]))
    assert Samples.stack(parts, seed=9).seed == 9


def test_stack_refuses_what_does_not_belong_together():
    with pytest.raises(ValueError, match="at least one"):
        Samples.stack([])
    with pytest.raises(ValueError, match="share their method, got 'measured' and 'weights'"):
        Samples.stack([samples_of([0, 1, 2]), samples_of([0, 1, 2], method="weights")])
    with pytest.raises(ValueError, match=r"share their rows, got input \(4,\) and input \(5,\)"):
        Samples.stack([samples_of([0, 1, 2]), samples_of([0, 1, 2], width=5)])


def test_arrays_must_fit_the_rows():
    row = (Leaf("input", "input", (2,), None),)
    with pytest.raises(ValueError, match=r"log_second_moment must have shape \(trials, 1 rows\), got \(3, 2\)"):
        Samples(row, *np.zeros((3, 3, 2)), method="measured")
    with pytest.raises(ValueError, match="must have shape"):
        Samples(row, *np.zeros((3, 0, 1)), method="measured")
    with pytest.raises(ValueError, match="log_channel_variance must not be NaN, got 1 of 2"):
        Samples(row, np.zeros((2, 1)), np.zeros((2, 1)), np.array([[0], [np.nan]]), method="measured")


def test_quantiles_of_the_living():
    """Dead trials are left out; a row where none lives has no quantile; few trials leave ends open."""
    rng = np.random.default_rng(0)
    lines = rng.standard_normal((200, 3))
    lines[:40, 1], lines[:, 2] = -np.inf, -np.inf
    found = samples_of(*lines).quantiles([0.5, 0.9])
    assert found.quantile.shape == (2, 3)
    for k, level in enumerate((0.5, 0.9)):
        expected = np.quantile(lines[:, 0], level, method="inverted_cdf")
        assert found.quantile[k, 0] == expected and found.lower[k, 0] < expected < found.upper[k, 0]
        assert found.quantile[k, 1] == np.quantile(lines[40:, 1], level, method="inverted_cdf")
    assert np.isnan(found.quantile[:, 2]).all()
    assert not np.isfinite(samples_of(*lines[:5]).quantiles(0.9).upper[0])
    with pytest.raises(ValueError, match="log_gradient"):
        samples_of(*lines).quantiles(0.5, quantity="log_gradient")


def test_cosine_distances():
    h = np.random.default_rng(1).standard_normal((4, 3, 2, 2))
    flat = h.reshape(4, -1)
    units = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    pairs = (units @ units.T)[np.triu_indices(4, 1)]
    assert log_cosine_distance(h) == pytest.approx(math.log(np.mean(1 - pairs)), abs=1e-13)
    near = flat[0] * (1 + 1e-9 * flat)  # 1 − cos about 1e-18, which a cosine cannot show
    angle = np.linalg.norm(near[0] / np.linalg.norm(near[0]) - near[1] / np.linalg.norm(near[1]))
    assert log_cosine_distance(near[:2]) == pytest.approx(math.log(angle**2 / 2), abs=1e-6)
    h[1:] = 0
    assert math.isnan(log_cosine_distance(h)) and math.isnan(log_cosine_distance(flat[:1]))
    assert log_cosine_distance(np.ones((3, 5))) == -math.inf
