import importlib
import json
import pathlib

import numpy as np
import pytest

from bntheory import Sequential
from bntheory.layers import Conv
from paper_figures import table1

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "gradient_independence.py"
STUDY = json.loads(SCRIPT.with_suffix(".json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data():
    return table1.compute(seed=1, depth=8, images=5, draws=2, layers=(2, 4, 6))


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


def test_the_text_quotes_the_study():
    independent, same = (
        ", ".join(f"{value:.3g}" for value in STUDY[kind]["median"]) for kind in ("independent", "same")
    )
    theory = ", ".join(f"{value:.3g}" for value in STUDY["theory"])
    quoted = f"ratios are {independent}, in theory {theory}; with the same weights {same} ("
    assert quoted + f"{STUDY['images']} images, medians of {STUDY['draws']}; " in table1.TEXT


def test_independent_weights_follow_theory_and_the_same_do_not():
    """Medians within a factor of 1.3; with the same weights less than half of theory in layers 18 and 54."""
    assert STUDY["layers"] == list(table1.LAYERS) and STUDY["alike"] == table1.ALIKE
    independent, same = (np.array(STUDY[kind]["median"]) / STUDY["theory"] for kind in ("independent", "same"))
    assert np.abs(np.log(independent)).max() < np.log(1.3)
    assert np.all(same[:2] < 0.5)


def test_the_study_goes_back_through_other_weights(monkeypatch):
    """Values of one network, and gradients of a linear network with the other's weights."""
    from simulations.training.modules import build

    monkeypatch.syspath_prepend(SCRIPT.parent)
    study = importlib.import_module("gradient_independence")
    models = [build(Sequential((Conv(3), Conv(2)), (1, 4, 4)), seed, "float64") for seed in (0, 1)]
    image = torch.ones(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    values = [model(image) for model in models]
    gradients = [torch.autograd.grad(value[0, 0, 1, 2], image)[0] for value in values]
    study.go_back_through(*models)
    mixed = models[0](image)
    torch.testing.assert_close(mixed, values[0])
    torch.testing.assert_close(torch.autograd.grad(mixed[0, 0, 1, 2], image)[0], gradients[1])
    assert not torch.allclose(gradients[0], gradients[1])
