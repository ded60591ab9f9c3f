"""The paper's numbers, as read off its figures, and results of ours that take too long to compute anew."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


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
    name : {"initialization_probes", "step_probes"}
        Medians over many draws of ResNet-110 at initialization, by tests/benchmarks/NAME.py.

    Returns
    -------
    dict
        "command", "date", "draws", versions, and the numbers of "bn" and "nobn".

    Examples
    --------
    >>> committed("initialization_probes")["draws"]
    11
    """
    return _content(f"results/{name}.json")


def _content(name: str) -> dict[str, Any]:
    return json.loads(resources.files("paper_figures").joinpath(name).read_text(encoding="utf-8"))
