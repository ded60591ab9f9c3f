"""A prediction as aligned text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bntheory.growth.prediction import Growth

HEAD = ("row", "operation", "ln E h²", "mean ln", "std ln", "p dead", "ln grad²", "moment", "band", "gradient")
NUMBERS = range(2, 7)  # columns set flush right


def table(growth: Growth, most: int = 24) -> str:
    """Return the rows as aligned text; of a long network the first and last `most`/2.

    Parameters
    ----------
    growth : Growth
    most : int
        Rows to show.

    Returns
    -------
    str
        Logarithms empty where there is no rule, the probability of a dead row "·" where it is unknown. A last line says
        how many networks simulated bands are from.

    Examples
    --------
    >>> from bntheory import mlp, predict_growth
    >>> print(table(predict_growth(mlp(1, 8))))
    row    operation            ln E h²  mean ln  std ln    p dead  ln grad²  moment  band   gradient
    input  input                      0        0       0         0         0  exact   exact  exact
    0      Dense(8, he_normal)   0.6931    0.563  0.5328         0   -0.6931  exact   exact  exact
    1      relu                       0  -0.3988   1.117  0.003906         0  exact   exact  exact
    """
    lines = [_line(growth, row) for row in range(len(growth.rows))]
    if len(lines) > most:
        half = max(1, most // 2)
        lines = [*lines[:half], ("…",) * len(HEAD), *lines[-half:]]
    widths = [max(map(len, column)) for column in zip(HEAD, *lines, strict=True)]
    text = [_aligned(line, widths) for line in (HEAD, *lines)]
    if "simulated" in growth.band_method:
        error = np.nanmax(growth.log_growth_error)
        text.append(f"simulated: {growth.networks} networks, standard errors of the mean up to {error:.2g}")
    return "\n".join(text)


def _line(growth: Growth, row: int) -> tuple[str, ...]:
    logs = (growth.log_second_moment, growth.log_growth_mean, growth.log_growth_std)
    cells = [_log(values[row]) for values in logs]
    dead = "·" if math.isnan(growth.p_dead[row]) else _number(growth.p_dead[row])
    methods = (growth.moment_method[row], growth.band_method[row], growth.gradient_method[row])
    return (growth.name[row], growth.operation[row], *cells, dead, _log(growth.log_gradient[row]), *methods)


def _aligned(line: tuple[str, ...], widths: list[int]) -> str:
    cells = []
    for column, (text, width) in enumerate(zip(line, widths, strict=True)):
        cells.append(text.rjust(width) if column in NUMBERS else text.ljust(width))
    return "  ".join(cells).rstrip()


def _log(value: float) -> str:
    """Empty if unknown; a zero with its rounding errors is 0."""
    return "" if math.isnan(value) else _number(round(float(value), 9))


def _number(value: float) -> str:
    return f"{value + 0.0:.4g}"  # + 0.0: no "-0"
