import json
import re
from importlib import resources

from paper_figures.report import FIGURES as SCRIPTS
from paper_figures.values import RESULTS, paper_values, runs_of

FIGURES = {*(f"figure{number}" for number in range(1, 9)), "table1", "text_claims"}


def test_every_entry_says_where_its_numbers_come_from():
    values = paper_values()
    assert set(values) == {"source", *FIGURES}
    assert "1806.02375v4" in values["source"]["version"]
    for name in FIGURES:
        assert {"where", "provenance", "tolerance"} <= set(values[name]), name
        tolerance = values[name]["tolerance"]
        assert tolerance is None or tolerance > 0


def test_only_what_the_paper_shows_is_stored():
    text = json.dumps(paper_values()).lower()
    assert not [word for word in ("our_", "simulated_", "theory_bn", "trial_run") if word in text]


def test_figure5_has_four_curves_of_ten_points():
    figure = paper_values()["figure5"]
    assert figure["layers"] == [6, 18, 30, 42, 54, 66, 78, 90, 102, 110]
    curves = [figure[f"{name}_{kind}"] for name in ("log_std", "log_mean") for kind in ("bn", "nobn")]
    assert [len(curve) for curve in curves] == [10] * 4
    assert figure["log_std_bn"][:3] == [0.1, 0.6, 0.9]
    assert figure["tolerance"] == 0.07


def test_figure8_and_figure1_values():
    values = paper_values()
    assert values["figure8"]["first_bin_counts"] == {"one": 270, "three": 2150, "five": 3830}
    assert values["figure1"]["test_accuracy_end_percent"]["bn_lr0.1"] == 93.2


def test_results_are_named_where_they_are_used_with_date_and_command():
    files = resources.files("paper_figures")
    names = {path.name.removesuffix(".json") for path in files.joinpath("results").iterdir()}
    for script in SCRIPTS:
        used = names & set(re.findall(r'"(\w+)"', files.joinpath(f"{script}.py").read_text(encoding="utf-8")))
        assert used == set(RESULTS.get(script, ())), script
    commands = [run["command"] for run in runs_of("figure1")]
    *trained, digits = commands
    assert len(trained) == 6 and all(command.startswith("bntheory train --preset standard") for command in trained)
    assert digits == "python tests/benchmarks/digits_training.py FOLDER"
    assert {run["date"] for run in runs_of("appendix_learning_rates")} == {"2026-11-26"}
