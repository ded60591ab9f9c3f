import numpy as np
import pytest

from paper_figures import figure2

pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def data():
    return figure2.compute(seed=1, depth=8, images=8, draws=2, layer=4)


def failures(data):
    return [check.what for check in figure2.check(data) if not check.passed]


def paper_like(data):
    """Widths and tails as the paper has them."""
    bn, nobn = ({"std": [1.0], "kurtosis": [k], "half_width": [w]} for k, w in ((3.5, 0.04), (20.0, 4.1)))
    return {**data, "bn": bn, "nobn": nobn}


def test_histograms_hold_all_weights_of_the_layer(data):
    for kind in ("nobn", "bn"):
        part = data[kind]
        assert part["counts"].sum() == 16 * 32 * 9
        assert part["std"].shape == part["kurtosis"].shape == part["half_width"].shape == (2,)
        assert np.all(part["half_width"] > part["std"]) and part["edges"][-1] == pytest.approx(part["half_width"][0])


def test_what_the_paper_shows_passes(data):
    assert failures(paper_like(data)) == []


@pytest.mark.parametrize("name", ["half_width", "kurtosis"])
def test_gradients_as_narrow_or_as_light_tailed_without_bn_fail(data, name):
    like = paper_like(data)
    like["nobn"][name] = [0.9 * like["bn"][name][0]]
    assert len(failures(like)) == 1


def test_draws_a_panel_a_kind_and_says_on_what(data):
    figure = figure2.draw(data)
    assert len(figure.axes) == 2 and "ResNet-8" in figure.get_supxlabel() and "2 draws" in figure.get_supxlabel()
