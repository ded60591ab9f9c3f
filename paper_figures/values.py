"""The paper's numbers, as read off its figures, and results of ours that take too long to compute anew."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

RESULTS = {  # that a figure shows, or holds its own beside
    "figure1": ("fashion_training", "digits_training"),
    **dict.fromkeys(("figure2", "figure6", "table1"), ("initialization_probes",)),
    **dict.fromkeys(("figure3", "figure4"), ("step_probes",)),
    "appendix_learning_rates": (
        "digits_sweep",
        "digits_sweep_110",
        "fashion_sweep",
        "fashion_sweep_bn",
        "digits_training",
        "digits_sweep_165",
        "digits_sweep_165_bn",
    ),
    "appendix_last_layer": ("digits_sweep", "digits_sweep_110", "digits_sweep_last", "digits_sweep_last_110"),
    "appendix_draws": ("draws_without_bn",),
    "appendix_trained_networks": ("trained_networks",),
    "appendix_input_conditioning": ("input_conditioning",),
}


def paper_values() -> dict[str, Any]:
    """Return what the paper's figures, table and text say, figure by figure.

    Returns
    -------
    dict
        "source", "figure1" … "figure8", "table1", "text_claims". Each but the first has "where" (what it shows),
        "provenance" (how the numbers were obtained) and "tolerance" (reading error, None where none was estimated).

    References
    ----------
    Bjorck, Gomes, Selman, Weinberger 2018, "Understanding batch normalization", arXiv:1806.02375v4.

    Examples
    --------
    >>> paper_values()["figure8"]["matrices"]
    [1, 3, 5]
    """
    return _content("paper_values.json")


def committed(name: str) -> dict[str, Any]:
    """Return results that were computed once, by the script, settings and date that they name.

    Parameters
    ----------
    name : str
        "initialization_probes", "step_probes", "draws_without_bn": many draws of ResNet-110 at initialization;
        "fashion_training", "digits_training" (figure 1), "fashion_sweep" and "fashion_sweep_bn" (depth 20, the latter
        with BN at 0.01 and above), "digits_sweep" (depths 20 and 56), "digits_sweep_110", "digits_sweep_165" and
        "digits_sweep_165_bn" (depth 110, 165 epochs, large rates), "digits_sweep_last" and "digits_sweep_last_110"
        (BN in the last layer), "trained_networks", "input_conditioning": runs of training.

    Returns
    -------
    dict
        "command" (of all, or of every run), "date", and what the command wrote.

    Examples
    --------
    >>> committed("initialization_probes")["draws"]
    11
    """
    return _content(f"results/{name}.json")


def runs_of(figure: str) -> list[dict[str, str]]:
    """Return "date" and "command" of every run whose results a figure takes from the committed ones.

    Examples
    --------
    >>> [run["command"] for run in runs_of("appendix_trained_networks")]
    ['python tests/benchmarks/trained_networks.py']
    >>> runs_of("figure8")
    []
    """
    found = []
    for result in map(committed, RESULTS.get(figure, ())):
        runs = [result] if "command" in result else result["runs"]
        found += [{"date": result["date"], "command": run["command"]} for run in runs]
    return found


def _content(name: str) -> dict[str, Any]:
    return json.loads(resources.files("paper_figures").joinpath(name).read_text(encoding="utf-8"))
