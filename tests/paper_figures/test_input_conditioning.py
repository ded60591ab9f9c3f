import copy
import math

import numpy as np
import pytest

from paper_figures import appendix_claims
from paper_figures import appendix_input_conditioning as figure
from paper_figures.input_scales import batch_norm_moments, effective_share, images, moments_by_layer, relu_moments

pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def data():
    return figure.compute(seed=3, depth=3, width=256, batch=24, networks=12)


def failures(data):
    return [check.what for check in figure.check(data) if not check.passed]


def test_drawn_networks_agree_with_theory(data):
    assert failures(data) == []


def test_spoiled_data_fail(data):
    wrong = copy.deepcopy(data)
    for spread, part in wrong["raw"].items():
        part["drawn_moment"][:, -1] *= 1.1
        part["drawn_share"] += 0.2
        wrong["batch"][spread]["drawn_moment"] *= 1.5
        wrong["batch"][spread]["drawn_distance"] *= 20
        wrong["sample"][spread]["drawn_moment"] += spread
    for run in wrong["training"]["runs"]:
        run["test_accuracy"] = 0.9 - 0.1 * run["spread"]
    assert len(failures(wrong)) == len(figure.check(data))


def test_moments_behind_batch_norm_are_those_of_drawn_units():
    """Two million units of five inputs whose sizes differ by 10⁴; six standard errors of each entry."""
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((5, 5)) * np.array([100.0, 10.0, 1.0, 0.1, 0.01])[:, None]
    units = rng.standard_normal((2_000_000, 5)) @ factor.T
    normalized = (units - units.mean(axis=1, keepdims=True)) / np.sqrt(units.var(axis=1, keepdims=True) + 0.5)
    active = np.maximum(normalized, 0)
    found = batch_norm_moments(factor @ factor.T, epsilon=0.5)
    squares = (active**2).T @ active**2 / len(active)
    error = np.sqrt((squares - found**2) / len(active))
    assert (np.abs(active.T @ active / len(active) - found) <= 6 * error).all()


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_equal_sizes_and_angles_are_the_exchangeable_batch(epsilon):
    from bntheory import Activation
    from bntheory.growth.infinite_width.batch_norm import normalized_moments

    found = batch_norm_moments(0.4 + 1.3 * np.eye(9), epsilon)
    known = normalized_moments(Activation("relu"), math.log(2.6), 9, epsilon)
    assert math.isclose(found[0, 0], math.exp(known.log_second), rel_tol=1e-11)
    assert math.isclose(2 * (found[0, 0] - found[0, 1]), math.exp(known.log_distance), rel_tol=1e-10)


def test_one_input_far_above_all_others_stands_alone():
    """It is ±√(B−1), the others ∓1/√(B−1): all but in a share of units of a few times 10⁻⁶, its size below theirs."""
    found = batch_norm_moments(np.diag([1e12, 1.0, 2.0, 3.0, 4.0]), epsilon=0.0)
    np.testing.assert_allclose(found[0], [2, 0, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(found[1:, 1:], 1 / 8, rtol=1e-4)


def test_relu_moments_are_those_of_the_package():
    from bntheory import mlp, predict_growth

    inputs = images(1.0, seed=1).learn[:4]
    growth = predict_growth(mlp(5, 64, input_width=64), inputs=inputs)
    found = moments_by_layer(inputs, 5, batch_norm=False)
    sizes = np.log(np.diagonal(found, axis1=1, axis2=2).mean(axis=1))
    np.testing.assert_allclose(sizes, growth.log_second_moment[::2], atol=1e-10)
    assert relu_moments(np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]


def test_gains_of_many_samples_leave_the_share_that_the_law_says():
    """σ = 0.4: e^(−4σ²); the relative standard error is √((e^(16σ²) − 1)/B)-like, 0.01 at a million."""
    gains = np.exp(0.4 * np.random.default_rng(5).standard_normal(1_000_000))
    assert math.isclose(effective_share(gains**2), math.exp(-4 * 0.4**2), rel_tol=0.05)
    assert effective_share(np.array([[3.0, 0, 0, 0], [2.0, 2, 2, 2]])).tolist() == [0.25, 1]


def test_gains_are_the_same_numbers_for_all_spreads():
    narrow, wide = images(0.0, seed=2), images(3.0, seed=2)
    ratio = np.log(np.mean(wide.learn**2, axis=1) / np.mean(narrow.learn**2, axis=1)) - 6 * wide.normals
    assert np.ptp(ratio) < 1e-9 and math.isclose(np.mean(wide.learn**2), 1)
    assert len(wide.learn) == 1437 and len(wide.test) == len(wide.test_labels) == 360


def test_claims_can_fail(data):
    assert [claim.verdict for claim in appendix_claims.input_conditioning(data)] == ["reproduced", "reproduced"]
    wrong = copy.deepcopy(data)
    for run in wrong["training"]["runs"]:
        run["test_accuracy"] = 0.5
    assert [claim.failed for claim in appendix_claims.input_conditioning(wrong)] == [True, True]


def test_draws_six_panels(data):
    assert len(figure.draw(data).axes) == 6
