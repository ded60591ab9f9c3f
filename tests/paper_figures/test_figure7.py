import numpy as np
import pytest
from scipy.integrate import trapezoid

from paper_figures import figure7

pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def data():
    return figure7.compute(seed=1, depth=8, images=8, draws=1, layer=5)


def failures(data):
    return [check.what for check in figure7.check(data) if not check.passed]


def test_densities_have_mass_one_and_second_moment_one(data):
    for factors, law in data["laws"].items():
        s, pdf = law["grid"], law["pdf"]
        assert trapezoid(pdf * s**2, s) == pytest.approx(1, abs=2e-3), factors  # E x = 1 for every M
        assert law["edge"] == pytest.approx(np.sqrt((factors + 1.0) ** (factors + 1) / float(factors) ** factors))


def test_mass_near_the_origin_of_one_matrix_is_the_quarter_circles(data):
    near = figure7.NEAR
    expected = (near / 2 * np.sqrt(1 - near**2 / 4) + np.arcsin(near / 2)) * 2 / np.pi
    assert data["laws"][1]["near"] == pytest.approx(expected, rel=1e-9)


def test_what_two_channels_explain():
    rng = np.random.default_rng(3)
    pairs = np.exp(rng.standard_normal((400, 400)) + 2 * rng.standard_normal((400, 1)))
    assert figure7.explained(pairs) == pytest.approx(4 / 5, abs=0.05)  # 4 of rows, 1 of single pairs; error 0.02
    pairs[0, 0], pairs[1] = 0.0, 0.0  # a single zero, a dead row
    assert figure7.explained(pairs) == pytest.approx(4 / 5, abs=0.05)


def with_explained(data, nobn, bn):
    return {**data, **{k: {**data[k], "explained": np.array([v])} for k, v in (("nobn", nobn), ("bn", bn))}}


def test_rows_and_columns_must_weaken_with_bn(data):
    assert failures(with_explained(data, 0.9, 0.4)) == []
    assert len(failures(with_explained(data, 0.4, 0.9))) == 1


def test_laws_that_do_not_spread_fail(data):
    laws = {factors: {**law, "near": 0.1, "edge": 2.0} for factors, law in data["laws"].items()}
    assert len(failures({**with_explained(data, 0.9, 0.4), "laws": laws})) == 2


def test_draws_the_law_and_two_maps(data):
    assert data["nobn"]["pairs"].shape == data["bn"]["pairs"].shape
    assert len(figure7.draw(data).axes) == 4
