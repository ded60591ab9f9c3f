"""The paper's numbers, as read off its figures."""

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
    return json.loads(resources.files("paper_figures").joinpath("paper_values.json").read_text(encoding="utf-8"))
