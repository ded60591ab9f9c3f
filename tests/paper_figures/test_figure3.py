import numpy as np
import pytest

from paper_figures import figure3

pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def data():
    return figure3.compute(seed=1, depth=8, images=8)


def failures(data):
    return [check.what for check in figure3.check(data) if not check.passed]


def paper_like(data, step=0.002, logs=(0.0, 0.9)):
    """Diverging without BN at a step, as the outputs do, with BN at most at a relative loss."""
    nobn = {**data["nobn"], "batches": [{**run, "diverging_step": step} for run in data["nobn"]["batches"]]}
    bn = {**data["bn"], "batches": [{**run, "log_relative_loss": np.array(logs)} for run in data["bn"]["batches"]]}
    return {**data, "nobn": nobn, "bn": bn, "outputs": data["nobn"]["batches"][0]["log_relative_loss"]}


def test_small_networks_are_measured_along_their_gradients(data):
    for kind in ("nobn", "bn"):
        runs = data[kind]["batches"]
        assert len(runs) == 3 and all(np.isfinite(run["log_relative_loss"]).all() for run in runs)
        assert len({run["loss"] for run in runs}) == 3  # other mini-batches
        assert all(run["log_relative_loss"].min() < 0 for run in runs)  # downhill at first


def test_the_quadratic_is_that_of_small_steps(data):
    """ln ℓ(θ − αg)/ℓ(θ) → −α‖g‖²/ℓ: exact slope at the smallest step, to what the curvature leaves."""
    curved, step = data["curved"], data["nobn"]["steps"][0]
    assert curved["loss"] == pytest.approx(data["nobn"]["batches"][0]["loss"], rel=1e-5)
    change = -step * curved["squared_gradient"] + step**2 * curved["curvature"] / 2
    expected = np.log1p(change / curved["loss"])
    assert data["nobn"]["batches"][0]["log_relative_loss"][0] == pytest.approx(expected, rel=0.05, abs=1e-6)


def test_what_the_paper_shows_passes(data):
    assert failures(paper_like(data)) == []


@pytest.mark.parametrize("changes", [{"step": 0.02}, {"step": None}, {"logs": (0.0, 2.4)}, {"logs": (0.0, np.inf)}])
def test_other_steps_and_losses_fail(data, changes):
    assert len(failures(paper_like(data, **changes))) == 1


def test_a_loss_that_does_not_follow_the_outputs_fails(data):
    paper = paper_like(data)
    (found,) = failures({**paper, "outputs": 1.2 * paper["outputs"]})
    assert "not growth of outputs" in found


def test_outputs_are_those_of_the_step(data):
    """A step so small that outputs change in proportion: half of it, half the change."""
    change = data["outputs"][:2] / data["nobn"]["steps"][:2]
    assert change[0] == pytest.approx(change[1], rel=0.01) and change[0] != 0


def test_draws_a_curve_a_mini_batch(data):
    labels = figure3.draw(data).axes[0].get_legend_handles_labels()[1]
    assert len([label for label in labels if "mini-batch" in label]) == 8
