"""Where activations leave the range of a floating-point format.

Given the mean square e^u of a row, its N = units · positions entries are taken as independent N(0, e^u), so that

    P(some |h| > M | u) = 1 − (1 − P(|g| > M e^{−u/2}))^N,    g ~ N(0, 1),

averaged over u from one draw of the weights to the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from bntheory.growth.prediction import Growth

OVERFLOW = 0.01  # probability from which a row counts as overflowing
_REACH = float(special.ndtri(0.99))
_SCORES = np.linspace(-6, 6, 121)  # of u, in standard deviations
_WEIGHTS = np.exp(-(_SCORES**2) / 2) / np.exp(-(_SCORES**2) / 2).sum()


class Range(NamedTuple):
    """Natural logarithms of the largest number and of the smallest that has all its digits."""

    log_largest: float
    log_smallest: float


FORMATS = {
    "float16": Range(math.log(65504), -14 * math.log(2)),
    "bfloat16": Range(127 * math.log(2) + math.log(2 - 2**-7), -126 * math.log(2)),
    "float32": Range(127 * math.log(2) + math.log(2 - 2**-23), -126 * math.log(2)),
}


def overflow_probability(growth: Growth, log_limits: Any) -> np.ndarray:
    """Return, row by row, the probability over draws of the weights that an entry of one input exceeds a limit.

    Parameters
    ----------
    growth : Growth
    log_limits : float or array_like
        ln of one or several limits on |h|.

    Returns
    -------
    array of shape (*limits, rows)
        0 for the input, which is given; NaN where nothing is predicted.

    Raises
    ------
    ValueError
        If a limit is not finite.

    Notes
    -----
    Approximate. ln of the row's mean square is normal on either side of its mean, with the law's own 1% and 99%
    quantiles, or the standard deviation if it was simulated; where there is no band it is ``log_second_moment`` itself.
    The entries count as Gaussian of one variance, as they are right before an activation. Those after ReLU are no
    larger than those before it; sums of residual blocks of version 1 have heavier tails, and positions of an image are
    neither of one variance nor independent.

    Examples
    --------
    >>> from bntheory import mlp, predict_growth
    >>> growth = predict_growth(mlp(depth=20, width=64, init="lecun_normal"))
    >>> print(overflow_probability(growth, 0.0)[[1, 3, 5, 7, 9]].round(3))
    [1.    0.991 0.757 0.284 0.052]
    """
    limits = np.asarray(log_limits, dtype=float)
    if not np.isfinite(limits).all():
        raise ValueError(f"log_limits must be finite, got {log_limits!r:.60}")
    centre, below, above = _law(growth, float(limits.min()))
    half_u = (centre[:, None] + np.where(_SCORES < 0, below[:, None], above[:, None]) * _SCORES) / 2
    alive = 1 - np.nan_to_num(growth.p_dead)
    entries = np.array([math.prod(shape) for shape in growth.shape], dtype=float)
    exceeded = np.empty((*limits.shape, len(growth.rows)))
    for place, log_limit in np.ndenumerate(limits):
        limit = np.exp(np.clip(log_limit - half_u, -50, 5))  # in standard deviations of an entry
        tail = np.minimum(2 * special.ndtr(-limit), 1 - 1e-16)
        exceeded[place] = -np.expm1(entries[:, None] * np.log1p(-tail)) @ _WEIGHTS * alive
    exceeded[..., 0] = 0.0
    return exceeded


def _law(growth: Growth, log_limit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre of u and its standard deviations below and above; quantiles only where it comes near the limit."""
    known = np.isfinite(growth.log_growth_mean)
    centre, std = _typical(growth), np.where(known, growth.log_growth_std, 0.0)
    near = 2 * log_limit - 2 * math.log(10)  # no row has an entry of 10 standard deviations
    if not np.any(centre + 6 * std > near) or "simulated" in growth.band_method:  # from too few draws for quantiles
        return centre, std, std
    lower, upper = growth.band(0.98)
    below, above = np.zeros_like(centre), np.zeros_like(centre)
    np.subtract(centre, lower, out=below, where=known)
    np.subtract(upper, centre, out=above, where=known)
    return centre, below / _REACH, above / _REACH


def _typical(growth: Growth) -> np.ndarray:
    """Mean of ln(mean of h²) over draws, or ln of the expectation where that is all there is."""
    return np.where(np.isfinite(growth.log_growth_mean), growth.log_growth_mean, growth.log_second_moment)


def first_overflow(growth: Growth, log_limits: Sequence[float]) -> list[int | None]:
    """Return, for each limit, the first row whose probability of exceeding it is above 1%; None if there is none."""
    return [_first(probability > OVERFLOW) for probability in overflow_probability(growth, log_limits)]


def first_underflow(growth: Growth, log_limits: Sequence[float]) -> list[int | None]:
    """Return, for each limit, the first row whose typical |h|, the root of its mean square, is below it, but not 0."""
    typical = _typical(growth)
    return [_first((typical / 2 < limit) & (typical > -math.inf)) for limit in log_limits]


def _first(where: np.ndarray) -> int | None:
    return int(np.argmax(where)) if where.any() else None
