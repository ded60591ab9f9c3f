"""ResNet-110 at initialization: what `tests/benchmarks/initialization_probes.py` measured, beside the paper's figures.

Judged on medians over draws.
"""

import json
import pathlib

import numpy as np
import pytest

FILE = pathlib.Path(__file__).parents[3] / "paper_figures" / "results" / "initialization_probes.json"
FOUND = json.loads(FILE.read_text(encoding="utf-8"))


def median(kind, figure, name):
    return np.array(FOUND[kind][figure][name]["median"])


def test_the_setting():
    assert FOUND["draws"] >= 5 and "128 of Fashion-MNIST, padded to 32×32" in FOUND["images"]
    assert FOUND["paper"]["table1"]["layers"] == [18, 54, 90]
    assert FOUND["peak_memory_gb"] < 3  # of the whole script, table 1's probe included


def test_table_1_contributions_add_up_without_and_cancel_with_batch_norm():
    """mean(a)/mean(b) of order 1 to 3 without BN, one to two orders of magnitude with it."""
    assert np.all((median("nobn", "table1", "ratio") >= 1) & (median("nobn", "table1", "ratio") <= 3))
    assert np.all(median("bn", "table1", "ratio") > 10)


def test_figure_6_one_class_takes_all_images_without_batch_norm():
    assert median("nobn", "figure6", "share") > 0.95


def test_figure_6_a_column_near_1_over_the_batch_without_batch_norm_only():
    """Its brightness: the probability given to one class. With BN one class may be the most likely, but not surely."""
    assert median("nobn", "figure6", "column") > 0.95
    assert median("bn", "figure6", "column") < 0.75


def test_figure_2_gradients_without_batch_norm_are_wide_and_heavy_tailed():
    """The paper: a support about 100 times wider, a sharp peak with long tails."""
    widths = median("nobn", "figure2", "half_width"), median("bn", "figure2", "half_width")
    assert widths[0] > 100 * widths[1]
    assert median("nobn", "figure2", "kurtosis") > median("bn", "figure2", "kurtosis")


@pytest.mark.parametrize("name, deviations", [("log_std", [0.055] * 9), ("log_mean", np.repeat([0.29, 0.2, 0.15], 3))])
def test_figure_5_with_batch_norm(name, deviations):
    """The paper's nine points before the classifier are of one network.

    Three standard deviations over draws, which 368 networks gave for ln |mean| by stage; of ln std at most 0.055, as
    the range of 11 draws says. And 0.07 for reading the figure.
    """
    paper = np.array(FOUND["paper"]["figure5"]["bn"][name])
    assert np.all(np.abs(median("bn", "figure5", name) - paper)[:-1] < 3 * np.array(deviations) + 0.07)


@pytest.mark.parametrize("name", ["log_std", "log_mean"])
def test_figure_5_without_batch_norm_grows_along_the_network(name):
    values = median("nobn", "figure5", name)
    assert values[-2] - values[0] > 3
