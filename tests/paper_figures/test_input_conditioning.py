import copy
import math

import numpy as np
import pytest

from bntheory import predict_growth
from paper_figures import appendix_claims
from paper_figures import appendix_input_conditioning as figure
from paper_figures.input_scales import effective_share, images, moments_by_layer, network

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


def test_the_figure_is_what_a_network_is_predicted_to_do():
    """Mean 1 − cosine and the size of h, with BN, of the prediction and of the figure's own recursion."""
    for spread in (0.0, 3.0):
        inputs = images(spread).learn[:20]
        growth = predict_growth(network("batch", 3, 8, classes=None), inputs)
        for layer, products in enumerate(moments_by_layer(inputs, 3, batch_norm=True)):
            size, root = np.diagonal(products), np.sqrt(np.diagonal(products))
            cosines = (products / np.outer(root, root))[np.triu_indices(20, 1)]
            assert math.isclose(math.exp(growth.log_second_moment[3 * layer]), size.mean(), rel_tol=1e-11)
            assert math.isclose(math.exp(growth.log_cosine_distance[3 * layer]), np.mean(1 - cosines), rel_tol=1e-9)


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
