import numpy as np
import pytest

from paper_figures import growth

pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def data():
    return growth.compute(seed=1, depth=10, width=32, networks=150, modules=6)


def spoiled(data, init, key, shift):
    return {**data, init: {**data[init], key: data[init][key] + shift}}


def failures(data):
    return [check.what for check in growth.check(data) if not check.passed]


def test_law_simulation_and_torch_agree(data):
    checks = growth.check(data)
    assert len(checks) == 9
    assert failures(data) == []


@pytest.mark.parametrize("key", ["simulated", "measured"])
def test_another_mean_fails(data, key):
    assert f"He normal: mean of {len(data['he_normal'][key])} {key}" in failures(spoiled(data, "he_normal", key, 8.0))


def test_a_band_too_narrow_fails(data):
    assert any("share" in what for what in failures(spoiled(data, "xavier_normal", "lower", 1.2)))


def test_all_three_start_from_the_same_image(data):
    starts = [data[init][key].ravel()[0] for init in growth.INITS for key in ("mean", "simulated", "measured")]
    assert np.ptp(starts) < 1e-6  # torch's image is rounded to float32


def test_initializations_use_different_draws(data):
    he, xavier = (data[init]["simulated"][:, -1] - data[init]["mean"][-1] for init in ("he_normal", "xavier_normal"))
    assert np.abs(he - xavier).max() > 0.1


def test_draws_a_panel_an_initialization(data):
    assert [axes.get_ylabel() for axes in growth.draw(data).axes] == ["ln ⟨h²⟩"] * 3
