"""Sweeps: runs as a study, what they say, and what is refused."""

import json
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from simulations.study import Study  # noqa: E402
from simulations.study_run import run_study  # noqa: E402
from simulations.training.sweep import (  # noqa: E402
    KIND,
    SweepResult,
    has_learned,
    is_stable,
    recipe_of,
    sweep,
    sweep_study,
    trained,
)

SMALL = {"depth": 8, "image": (3, 8, 8), "epochs": 1, "batch_size": 256}


def invented(parameters, seed):
    """Outcomes with known largest learning rates: 0.01 and 0.02 without BatchNorm, 0.3 with it."""
    limit = 0.3 if parameters["norm"] == "all" else 0.01 * (1 + parameters["seed"])
    good = parameters["learning_rate"] <= limit
    accuracy = 0.9 + 0.01 * parameters["seed"] if good else math.inf
    return {
        "test_accuracy": accuracy,
        "train_accuracy": accuracy,
        "train_loss": 0.1 if good else math.inf,
        "first_loss": 2.3,
        "largest_relative_loss": 1.5 if good else math.inf,
        "divergence_step": math.inf if good else 5.0,
    }


@pytest.fixture
def result(tmp_path, monkeypatch):
    monkeypatch.setattr("simulations.training.sweep.trained", invented)
    grid = {"norm": ["none", "all"], "learning_rate": [0.001, 0.01, 0.02, 0.3], "seed": [0, 1]}
    study = sweep_study(grid, "cpu", **SMALL)
    run_study(study, tmp_path)
    return SweepResult.read(tmp_path)


def test_the_largest_learning_rates_and_their_ratio(result):
    none, every = result.largest()
    assert none.case == {"norm": "none"} and none.rates == (0.01, 0.02) and not none.beyond
    assert every.rates == (0.3, 0.3) and every.beyond and every.geometric_mean == pytest.approx(0.3)
    ((case, ratios),) = result.ratios()
    assert case == {} and ratios == pytest.approx([30, 15])


@pytest.mark.parametrize("missing", [("all", 0.3, 1), ("none", 0.02, 0), ("none", 0.001, 0)])
def test_an_interrupted_sweep_says_what_may_lie_above_and_gives_no_ratio(result, missing):
    norm, rate, _ = missing
    result.runs = [run for run in result.runs if (run["norm"], run["learning_rate"], run["seed"]) != missing]
    none, every = result.largest()
    assert (none.beyond, every.beyond) == (rate == 0.02, True)
    assert every.rates == ((0.3, 0.02) if norm == "all" else (0.3, 0.3)) and none.rates == (0.01, 0.02)
    assert result.ratios() == [] and "with BatchNorm ×" not in result.table()


def test_where_no_rate_will_do_it_is_said_whether_all_were_tried(result):
    none, _ = result.largest(lambda run: run["norm"] == "all")
    assert str(none) == "–  (none, none)"
    result.runs = [run for run in result.runs if run["learning_rate"] < 0.02]
    none, every = result.largest(lambda run: run["norm"] == "all")
    assert str(none) == "–  (none, none; may be larger)" and str(every) == "≥ 0.01  (0.01, 0.01)"


def test_what_is_printed_and_written(result):
    text = result.table()
    assert "BN none" in text and "≥ 0.3" in text and "with BatchNorm × 21.2" in text
    assert "0.9050 ± 0.0050   stable 2, learned 2 of 2" in text and "diverged" in text
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert len(written["runs"]) == 16 and written["study"]["kind"] == KIND
    lost = [run for run in written["runs"] if run["test_accuracy"] is None]
    assert len(lost) == 3 and all(run["divergence_step"] == 5 for run in lost)


def test_the_picture_has_every_case(result):
    ax = result.plot()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["BN none", "BN all"]
    assert ax.get_xscale() == "log"


def test_a_real_sweep_is_repeated_to_the_bit(tmp_path):
    """In a process of its own, and here."""
    study = sweep_study({"norm": ["last"], "learning_rate": [0.05], "seed": [3]}, "cpu", **SMALL)
    found = sweep(study, tmp_path, workers=1)
    (run,) = found.runs
    here = trained(study.parameters(0), seed=0)
    assert {name: run[name] for name in here} == here
    assert found.results.complete and run["test_accuracy"] <= 1


def test_a_diverged_run_has_no_accuracy():
    threads = torch.get_num_threads()
    found = trained({**SMALL, "norm": "none", "learning_rate": 1e8, "epochs": 2}, seed=1)
    assert found["test_accuracy"] == found["largest_relative_loss"] == math.inf
    assert not is_stable(found) and not has_learned(found)
    assert 0 < found["divergence_step"] < 10
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("norm, where", [("none", 0), ("all", 9), ("last", 1)])
def test_norms(norm, where):
    net = recipe_of({"norm": norm, "depth": 8, "learning_rate": 0.1}).net
    assert str(net.to_json()).count('"BatchNorm"') == where


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"norm must be one of none, all, last; got 'al'"):
        sweep_study({"norm": ["al"], "learning_rate": [0.1]}, "cpu")
    with pytest.raises(ValueError, match=r"a parameter must be one of .* got 'learning_rates'"):
        sweep_study({"learning_rates": [0.1]}, "cpu")
    with pytest.raises(ValueError, match="learning_rate must be finite and above 0, got -1"):
        sweep_study({"learning_rate": [-1]}, "cpu")
    with pytest.raises(ValueError, match="the grid needs learning_rate, got depth"):
        sweep_study({"depth": [8]}, "cpu", learning_rate=0.1)
    with pytest.raises(ValueError, match="a sweep is a study made by sweep_study, got one of kind 'growth'"):
        sweep(Study("growth", {"width": [4]}, 1, {"depth": 2}), tmp_path / "sweep")
    run_study(Study("growth", {"width": [4]}, 1, {"depth": 2}), tmp_path / "growth")
    with pytest.raises(ValueError, match="is not the folder of a sweep but of a study of growth"):
        SweepResult.read(tmp_path / "growth")


def test_seeds_are_shared_by_learning_rates():
    one, other = (recipe_of({"seed": 5, "learning_rate": rate, "depth": 8}) for rate in (0.1, 0.2))
    assert one.seed == other.seed and np.isclose(other.learning_rate, 0.2)
