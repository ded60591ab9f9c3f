"""Tables of numbers over named axes, and how what lies between their nodes is read.

One rule, here and in explorer.js: along each axis Lagrange's polynomial through the four nearest nodes (fewer if there
are fewer), in the variable in which theory is smooth,

    gain, depth   logarithm          width   1/√width          place   itself

and between the two nodes next to the value, linearly, where one of the four has no number. Values on a node are the
table's own. An axis with a single node is one on which nothing depends.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

NEIGHBOURS = 4
VARIABLES: dict[str, Callable[[float], float]] = {
    "gain": math.log,
    "depth": math.log,
    "width": lambda width: -(width**-0.5),
    "place": float,
}


@dataclass(frozen=True, eq=False)
class Table:
    """Numbers over nodes of some axes; what is tabulated at a node may be an array.

    Attributes
    ----------
    axes : dict
        Increasing nodes by the axis' name, one of `VARIABLES`.
    values : array (nodes of the first axis, …, *shape of what is tabulated)
    """

    axes: dict[str, tuple[float, ...]]
    values: np.ndarray

    def at(self, **point: float) -> np.ndarray:
        """Interpolate.

        Parameters
        ----------
        **point
            A coordinate for every axis, within its nodes; others are not looked at.

        Examples
        --------
        >>> squares = Table({"place": (0.0, 1.0, 2.0, 3.0)}, np.array([0.0, 1.0, 4.0, 9.0]))
        >>> print(squares.at(place=1.5), squares.at(place=2))
        2.25 4.0
        """
        values = self.values
        for axis, nodes in self.axes.items():
            values = _along(VARIABLES[axis](point[axis]), [VARIABLES[axis](node) for node in nodes], values)
        return values

    def plain(self) -> dict[str, Any]:
        """For JSON: axes, shape, and the numbers as base64 of little-endian float32, row by row."""
        data = base64.b64encode(self.values.astype("<f4").tobytes()).decode()
        axes = {axis: list(nodes) for axis, nodes in self.axes.items()}
        return {"axes": axes, "shape": list(self.values.shape[len(self.axes) :]), "data": data}


def _along(x: float, nodes: list[float], values: np.ndarray) -> np.ndarray:
    """Interpolate along the first axis."""
    if len(nodes) == 1 or x in nodes:
        return values[nodes.index(x) if x in nodes else 0]
    above = sum(node < x for node in nodes)
    first = max(0, min(above - NEIGHBOURS // 2, len(nodes) - NEIGHBOURS))
    cubic = _lagrange(x, nodes[first : first + NEIGHBOURS], values[first : first + NEIGHBOURS])
    linear = _lagrange(x, nodes[above - 1 : above + 1], values[above - 1 : above + 1])
    return np.where(np.isfinite(cubic), cubic, linear)


def _lagrange(x: float, nodes: list[float], values: np.ndarray) -> np.ndarray:
    weights = [math.prod((x - other) / (node - other) for other in nodes if other != node) for node in nodes]
    return np.tensordot(weights, values, axes=1)
