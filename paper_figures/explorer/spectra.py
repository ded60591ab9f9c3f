"""Tables of the Jacobian's spectrum: where the density of ln s ends, how far down it is drawn, and the density between.

A curve is drawn from the edge, ln s = e, to the level above which 99% of the nonzero singular values lie, ln s = e − r,
at points e − r u² with u from 0 to 1: dense at the edge, where the density falls as a square root. Widths are infinite,
and the gain shifts the curves of linear and ReLU networks without shortcuts: two nodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bntheory import jacobian_law
from paper_figures.explorer.choices import DEPTHS, GAINS, upto
from paper_figures.explorer.growth import HOMOGENEOUS, Kind
from paper_figures.explorer.tables import Table

PLACES = np.linspace(0, 1, 61) ** 2
LOWEST = 0.01  # share of the nonzero singular values that lie below the picture
WIDTH = 512  # any: only proportions of widths count
# deepest network of a table, and the gains: laws of smooth activations take seconds
MOST = {"tanh": (8, GAINS), "gelu": (5, (GAINS[0], GAINS[2], GAINS[4]))}


def curve(kind: Kind, gain: float, depth: int) -> tuple[np.ndarray, float, str]:
    """Edge, reach and density of ln s at the places (2 + places,), the share of zeros, and the law's method.

    Raises
    ------
    ValueError
        "not available because …", as `jacobian_law`.
    """
    law = jacobian_law(kind.net("normal", gain, depth, WIDTH))
    zeros = sum(mass for x, mass in law.atoms if x == 0)
    log = law.nonzero.log  # of ln x = 2 ln s
    edge = float(log.support[1])
    reach = edge - float(log.ppf(LOWEST))
    numbers = np.array([edge / 2, reach / 2, *2 * log.pdf(edge - reach * PLACES)])
    return numbers, zeros, law.method


def spectrum_tables(kind: Kind, gains: tuple[float, ...], depth: int) -> dict[str, Any]:
    """Table of one kind of network over gains and depths, or why there is none.

    Returns
    -------
    dict
        "why": "" or a sentence; if that is empty "curves", a Table of (2 + places,); "zeros", the share of singular
        values that are zero; "method"; "stops", whether only the table's own gains will do.
    """
    if kind.batch_norm:
        try:
            curve(kind, gains[-1], 1)
        except ValueError as error:
            return {"why": str(error).split(";")[0].replace("row 0.branch.0", "a row").replace("row 1", "a row")}
    options = f"--activation {kind.activation}{' --residual' * kind.residual}"
    costly = "this page has no table of such laws, which take time: `bntheory spectrum {options}` computes one"
    if kind.residual and kind.activation not in HOMOGENEOUS:
        return {"why": f"not available because {costly.format(options=f'{options} --depth 10 --width 512')}"}
    deepest, own = MOST.get(kind.activation, (10 if kind.residual else depth, gains))
    if kind.activation in HOMOGENEOUS and not kind.residual:
        own = (gains[0], gains[-1])
    own = tuple(gain for gain in own if gain in gains)
    depths = upto(DEPTHS, min(deepest, depth))
    made = [[curve(kind, gain, d) for d in depths] for gain in own]
    numbers = np.array([[found[0] for found in row] for row in made])
    return {
        "why": "",
        "curves": Table({"gain": own, "depth": tuple(map(float, depths))}, numbers),
        "zeros": made[-1][-1][1],
        "methods": [made[-1][0][2], made[-1][-1][2]],  # of one layer, and of several
        "elsewhere": f"not available because {costly.format(options=f'{options} --gain G --depth D --width 512')}",
    }
