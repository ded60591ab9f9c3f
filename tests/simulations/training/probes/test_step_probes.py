"""Figures 3 and 4 at ResNet-110, from the file that `tests/benchmarks/step_probes.py` has written."""

import json
import math
import pathlib

import numpy as np
import pytest

RESULT = pathlib.Path(__file__).parents[4] / "paper_figures" / "results" / "step_probes.json"


@pytest.fixture(scope="module")
def result():
    return json.loads(RESULT.read_text(encoding="utf-8"))


def logs(run):
    """ln of the relative loss at every step; +inf where float64 ends."""
    return np.array([float(value) for value in run["log_relative_loss"]])


def test_what_was_run(result):
    steps = result["step_sizes"]
    assert (steps[0], steps[-1]) == pytest.approx((1e-5, 0.2)) and result["images"] == 128
    assert [len(runs) for runs in result["runs"].values()] == [5, 5] and set(result["runs"]) == {"bn", "nobn"}


def test_without_batch_norm_the_loss_diverges_at_small_steps(result):
    """The relative loss passes 10³ below a step of 1e-2, in every draw, and far beyond float32 later."""
    for run in result["runs"]["nobn"]:
        assert run["diverging_step"] is not None and run["diverging_step"] < 1e-2
        assert run["best_step"] < run["diverging_step"] and logs(run)[-1] > math.log(1e30)


def test_with_batch_norm_it_does_not(result):
    """It stays below 10 up to the largest step, 0.2, in every draw."""
    for run in result["runs"]["bn"]:
        assert logs(run).max() < math.log(10) and run["diverging_step"] is None


def test_the_best_step_is_larger_with_batch_norm(result):
    """In the paper by a factor of 100 and more; here in every draw larger than in any without."""
    best = {key: [run["best_step"] for run in runs] for key, runs in result["runs"].items()}
    assert min(best["bn"]) > max(best["nobn"])


def test_deeper_layers_grow_more_on_the_way(result):
    """As in figure 4, of the largest variance at the end of a step over that at its start.

    At a step of 1e-3 it rises from layer 8 to 44 to 80, in every draw. At the smallest diverging one layer 80 is ahead
    of layer 8, while layer 44 may still shrink.
    """
    for run in result["runs"]["nobn"]:
        smallest, larger = (
            np.log(moments["max_variance_at_full_step"]) - np.log(moments["max_variance_before_step"])
            for moments in run["moments"]
        )
        assert smallest[2] > smallest[0] and (np.diff(larger) > 0).all()
        assert run["moments"][0]["log_relative_loss"] > math.log(1e3) and run["moments"][1]["step"] == 1e-3


def test_medians_are_those_of_the_runs(result):
    """And with BN the loss at 0.2 is where the paper has it, between 10^-0.01 and 10^0.4."""
    for key in ("bn", "nobn"):
        found, runs = result["medians"][key], result["runs"][key]
        assert found["best_step"] == np.median([run["best_step"] for run in runs])
        assert found["draws_that_pass_1e3"] == (5 if key == "nobn" else 0)
        last = np.median([logs(run)[-1] for run in runs])
        assert found["log10_relative_loss_at_0.2"] == pytest.approx(last / math.log(10))
    assert -0.01 < result["medians"]["bn"]["log10_relative_loss_at_0.2"] < 0.4
