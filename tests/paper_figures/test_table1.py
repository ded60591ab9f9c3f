import numpy as np
import pytest

from paper_figures import table1

pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def data():
    return table1.compute(seed=1, depth=8, images=8, draws=2, layers=(2, 4, 6))


def failures(data):
    return [check.what for check in table1.check(data) if not check.passed]


def paper_like(data, **changes):
    """Ratios as the paper's claim has them."""
    ratios = {"nobn": 2.0, "bn": 100.0, **changes}
    return {**data, **{k: {"ratio": np.full((2, 8), v), "predicted": np.full(8, 100.0)} for k, v in ratios.items()}}


def test_every_layer_is_measured_and_predicted(data):
    for kind in ("nobn", "bn"):
        assert data[kind]["ratio"].shape == (2, 8) and data[kind]["predicted"].shape == (8,)
        assert np.all(data[kind]["ratio"] >= 1) and np.all(data[kind]["predicted"] >= 1)


def test_theory_with_bn_is_near_small_networks(data):
    """Infinite width against 16 to 64 channels, 2 networks: within a factor of 2, layers 2 to 7."""
    ratio = np.log(data["bn"]["predicted"] / np.median(data["bn"]["ratio"], axis=0))
    assert np.abs(ratio[1:-1]).max() < np.log(2)


def test_what_the_paper_says_passes(data):
    assert failures(paper_like(data)) == []


def test_contributions_that_cancel_without_bn_or_add_up_with_it_fail(data):
    assert len(failures(paper_like(data, nobn=50.0))) == 3
    assert len(failures(paper_like(data, bn=2.0))) == 6  # theory is not near either


def test_other_committed_medians_fail(data, monkeypatch):
    many = table1.committed("initialization_probes")
    many["nobn"]["table1"]["ratio"]["median"][0] = 3.5
    monkeypatch.setattr(table1, "committed", lambda name: many)
    assert failures(paper_like(data)) == ["without BN, layer 18: mean(a)/mean(b), median of 11"]


def test_draws_both_kinds(data):
    assert len(table1.draw(data).axes) == 1
