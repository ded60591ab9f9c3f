"""Results of training: small data, each with the date and the command that made it."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def training_results(name: str) -> dict[str, Any]:
    """Return one of the files of this folder.

    Parameters
    ----------
    name : str
        "fashion_training", "digits_sweep" (depths 20 and 56), "digits_sweep_110" or "trained_networks".

    Returns
    -------
    dict
        "date", "command" (of every run, or of all), and what that command wrote.

    Examples
    --------
    >>> training_results("digits_sweep_110")["command"].split()[:2]
    ['bntheory', 'sweep']
    """
    return json.loads(resources.files("paper_figures.results").joinpath(f"{name}.json").read_text(encoding="utf-8"))
