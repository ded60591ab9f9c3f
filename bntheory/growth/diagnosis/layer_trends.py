"""How a quantity changes from layer to layer: which rows count as layers, its total change and its factor a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bntheory.activations import Activation
from bntheory.networks import Leaf


def layer_rows(rows: Sequence[Leaf]) -> np.ndarray:
    """Indices of the rows that count as layers: the input, then sums of residual blocks, else activations, else all."""
    sums = [k for k, row in enumerate(rows) if row.operation == "sum"]
    nonlinear = [k for k, row in enumerate(rows) if isinstance(row.layer, Activation)]
    return np.array([0, *(sums or nonlinear or range(1, len(rows)))])


def unit(rows: Sequence[Leaf]) -> str:
    """What a layer is called: "block" in residual networks, else "layer"."""
    return "block" if any(row.operation == "sum" for row in rows) else "layer"


class Trend(NamedTuple):
    """The longest run of layers of one shape in which a logarithm is known, and its slope there."""

    first: int  #: row
    last: int  #: row
    layers: int  #: steps from the first to the last
    log_factor: float  #: a layer; NaN if there are fewer than two layers


def trend(rows: Sequence[Leaf], logs: np.ndarray) -> Trend:
    """Fit a straight line to a logarithm over the longest run of layers of one shape, the input left out.

    Parameters
    ----------
    rows : sequence of Leaf
    logs : array, one entry a row
        Runs end where it is not finite. The fit is by least squares.

    Returns
    -------
    Trend

    Examples
    --------
    >>> from bntheory import leaves, mlp
    >>> trend(tuple(leaves(mlp(4, 8))), 0.5 * np.arange(9))
    Trend(first=2, last=8, layers=3, log_factor=1.0)
    """
    runs: list[list[int]] = [[]]
    for row in layer_rows(rows)[1:].tolist():
        if not np.isfinite(logs[row]):
            runs.append([])
        elif runs[-1] and rows[runs[-1][-1]].shape != rows[row].shape:
            runs.append([row])
        else:
            runs[-1].append(row)
    run = max(runs, key=len) or [0]
    steps = np.arange(len(run)) - (len(run) - 1) / 2
    slope = float(steps @ logs[run] / (steps @ steps)) if len(run) > 1 else np.nan
    return Trend(run[0], run[-1], len(run) - 1, slope)
