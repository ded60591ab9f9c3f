"""Figures of training, from results that are kept as data: what they show, and that their checks can fail."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import bntheory as bn
from paper_figures import appendix_learning_rates, appendix_trained_networks, claims, figure1
from paper_figures.values import committed
from paper_figures.verdicts import NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED

TRAINING = Path(__file__).parents[2] / "docs" / "training.md"
FILES = sorted(path.name[:-5] for path in resources.files("paper_figures").joinpath("results").iterdir())


@pytest.mark.parametrize("name", FILES)
def test_results_say_when_and_how_they_were_made(name):
    found = committed(name)
    assert len(found["date"]) == 10 and found["date"] >= "2026-11-26"
    commands = [found["command"]] if "command" in found else [run["command"] for run in found["runs"]]
    assert all(command.split()[0] in ("bntheory", "python") for command in commands)
    assert len(json.dumps(found)) < 200_000
    assert "cifar" not in json.dumps(found).lower()


@pytest.mark.parametrize("script", [figure1, appendix_learning_rates, appendix_trained_networks])
def test_checks_pass_and_a_picture_is_drawn(script):
    data = script.compute()
    assert all(check.passed for check in script.check(data))
    assert len(script.draw(data).axes) >= 1


def test_figure_1_notices_a_network_that_does_not_learn():
    data = figure1.compute()
    figure1.run_of(data, "with", 0.1)["epochs"][-1]["test_accuracy"] = 0.1
    figure1.run_of(data, "without", 0.1)["divergence"]["step"] = 300
    assert [check.passed for check in figure1.check(data)][:4] == [False, True, False, False]


def test_figure_1_notices_a_seed_that_does_not_learn_the_digits():
    data = figure1.compute()
    for runs in (*data["digits"]["with"].values(), *data["digits"]["without"].values()):
        assert runs["train_accuracy"].shape == runs["test_accuracy"].shape == (3, 165)
        runs["train_accuracy"][1, -1] = runs["test_accuracy"][1, -1] = 0.8
    assert [check.passed for check in figure1.check(data)][4:] == [False] * 5


def test_figure_1_looks_at_the_last_epoch_before_the_learning_rate_is_cut():
    """Which is after 7.5 of 15 epochs: the rate that an epoch is listed with is that of its first step."""
    data = figure1.compute()
    epochs = figure1.run_of(data, "with", 0.1)["epochs"]
    assert figure1.check(data)[1].got == epochs[6]["train_accuracy"]
    assert epochs[8]["learning_rate"] == pytest.approx(epochs[7]["learning_rate"] / 10)


def test_figure_1_has_the_papers_four_runs_at_least_and_the_documentation_lists_them():
    data = figure1.compute()
    for norm, rate in (("with", 0.1), ("with", 0.003), ("with", 0.0001), ("without", 0.0001), ("without", 0.00001)):
        run = figure1.run_of(data, norm, rate)
        row = f"| {norm} BN | {np.format_float_positional(rate)} | {figure1.at_end(data, norm, rate):.1%} |"
        assert row in TRAINING.read_text(encoding="utf-8")
        assert len(run["epochs"]) == 15 and run["data"] == "fashion-mnist"
        assert run["epochs"][-1]["learning_rate"] == pytest.approx(rate / 100)  # both cuts are made


def test_the_documentation_names_the_block_from_which_on_nothing_is_finite():
    layer = int(figure1.run_of(figure1.compute(), "without", 0.1)["divergence"]["row"].split(".")[0])
    layers = bn.resnet(depth=110, image=(3, 32, 32)).layers[: layer + 1]
    block = sum(isinstance(one, bn.Residual) for one in layers)
    assert f"from the {block}th block on" in TRAINING.read_text(encoding="utf-8")


def test_learning_rates_are_complete_and_equal_ones_are_noticed():
    data = appendix_learning_rates.compute()
    assert data["depths"] == [20, 56, 110]
    for depth in data["depths"]:
        for norm in appendix_learning_rates.NORMS:
            counts = [len(found) for found in data[depth][norm]["accuracy"].values()]
            assert counts == 12 * [3]
    for norm, rates in (("none", 10), ("all", 6)):
        assert [len(found) for found in data["long"][110][norm]["accuracy"].values()] == rates * [3]
    data[110]["all"]["largest"] = data[110]["none"]["largest"]
    data["fashion"][20]["none"]["largest"][0.3] = [None]
    data["long"][110]["all"]["largest"][0.3] = 3 * [0.001]
    assert [check.passed for check in appendix_learning_rates.check(data)] == [False, False, True, False, False, False]


def test_the_documentation_lists_what_was_found_in_165_epochs():
    text, found = TRAINING.read_text(encoding="utf-8"), appendix_learning_rates.compute()["long"]
    means = [appendix_learning_rates.ratio(found, 110, level)[0] for level in appendix_learning_rates.LEVELS]
    assert f"on average {means[0]:.0f} (by half of the images {means[1]:.0f})" in text
    for norm, name in (("none", "without BN"), ("all", "with BN")):
        cells = dict.fromkeys(sorted(found[110]["none"]["accuracy"]), "")
        for rate, seeds in found[110][norm]["accuracy"].items():
            shares = ", ".join(f"{100 * share:.0f}" if share else "–" for share in seeds)
            cells[rate] = f"{shares}%" if any(seeds) else "–"
        assert f"| {name} | {' | '.join(cells.values())} |".replace("|  |", "| |").replace("|  |", "| |") in text


def test_trained_networks_that_still_follow_theory_are_noticed():
    data = appendix_trained_networks.compute()
    for found in data["networks"].values():
        found["gap_at_the_output"][0, -1] = 0.1
        found["rows_outside_of_95%"][:, 0] = 0.5
        found["gap_of_gradients"][1, 0] = -1.5
    assert not any(check.passed for check in appendix_trained_networks.check(data))


def test_single_matrices_of_relu_networks_without_batch_norm_stay_like_random_ones():
    networks = appendix_trained_networks.compute()["networks"]
    assert networks["ResNet-20 without BatchNorm"]["matrices_unlike_random"][:, -1].max() < 0.1
    assert networks["ResNet-20 with BatchNorm"]["matrices_unlike_random"][:, -1].min() > 0.7


def test_claims_about_training_are_judged_and_can_fail():
    data = {"figure1": figure1.compute(), "appendix_learning_rates": appendix_learning_rates.compute()}
    judged = [claim for claim in claims.claims(data) if claim.verdict != NOT_TESTABLE]
    digits = [*[REPRODUCED] * 3, NOT_REPRODUCED]
    expected = [*[REPRODUCED] * 2, *[NOT_REPRODUCED] * 2, *digits, *[REPRODUCED] * 3]
    assert [claim.verdict for claim in judged] == expected
    rates = data["appendix_learning_rates"]
    for sweep in (rates, rates["long"]):
        sweep[110]["all"]["largest"] = sweep[110]["none"]["largest"]
    rates[20]["none"]["largest"] = rates[110]["none"]["largest"]
    rates[20]["none"]["tested"][0.01] = [0.5, 0.5, 0.5]
    figure1.run_of(data["figure1"], "without", 0.1)["divergence"] = None
    figure1.run_of(data["figure1"], "with", 0.1)["epochs"][-1]["test_accuracy"] = 0.1
    data["figure1"]["digits"]["without"][0.0001]["test_accuracy"][2] = 0.1
    data["figure1"]["digits"]["with"][0.003]["train_accuracy"][0, -1] = 0.9
    data["figure1"]["digits"]["with"][0.003]["test_accuracy"][:, -1] = 0.99
    again = [claim for claim in claims.claims(data) if claim.verdict != NOT_TESTABLE]
    assert [claim.failed for claim in again] == [True, True, *[False] * 2, True, True, True, False, *[True] * 3]
    assert "inf epochs" in again[4].explanation


def test_what_the_documentation_says_of_rates_that_are_too_large():
    runs = [run for name in ("digits_sweep", "digits_sweep_110") for run in committed(name)["runs"]]
    most = {}
    for run in runs:
        if (run["train_accuracy"] or 0) >= 0.3:
            case = run["depth"], run["norm"], run["seed"]
            most[case] = max(run["learning_rate"], most.get(case, 0))
    beyond = [run for run in runs if run["learning_rate"] > most.get((run["depth"], run["norm"], run["seed"]), 3)]
    losses = [run["train_loss"] for run in beyond if run["divergence_step"] is None]
    text = TRAINING.read_text(encoding="utf-8")
    assert f"Of the {len(beyond)} runs" in text and f"seed {len(beyond) - len(losses)} diverge" in text
    assert f"losses from {min(losses):.1f} to {max(losses):.1f}" in text
