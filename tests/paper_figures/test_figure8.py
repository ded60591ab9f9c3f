import math

import numpy as np
import pytest

from paper_figures import figure8


@pytest.fixture(scope="module")
def data():
    return figure8.compute(seed=1, width=100, draws=5)


def spoiled(data, factors, **changes):
    part = {**data["products"][factors], **changes}
    return {**data, "products": {**data["products"], factors: part}}


def failures(data):
    return [check.what for check in figure8.check(data) if not check.passed]


def test_histograms_follow_the_law(data):
    assert failures(data) == []
    for part in data["products"].values():
        np.testing.assert_allclose(part["density"] @ np.diff(part["bin_edges"]), 1)


@pytest.mark.parametrize(
    "changes", [{"kolmogorov_distance": 0.2}, {"edge": 3.1}, {"largest": np.full(5, 3.5)}, {"paper_bins": 60.0}]
)
def test_spoiled_data_fail(data, changes):
    assert failures(spoiled(data, 3, **changes))


def test_edge_of_one_matrix_fluctuates_as_tracy_and_widom_say():
    # x = s² of an N×N Gaussian matrix: 4 + 2^(4/3) N^(−2/3) TW; s = √x
    shift, std = figure8.edge_fluctuation(1, 8000)
    assert math.isclose(shift, 2 ** (4 / 3) / 400 * -1.2065336 / 4)
    assert math.isclose(std, 2 ** (4 / 3) / 400 * 1.2679816 / 4)


def test_draws_a_panel_a_product(data):
    assert len(figure8.draw(data).axes) == 3
