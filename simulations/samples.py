"""What every measurement returns: the sizes of a network's rows, over trials, as logarithms.

For h of shape (batch, channels, positions …): the second moment is the mean of h² over all entries; the channel mean
square is the mean over channels of (mean over batch and positions)²; the channel variance is the mean over channels of
the population variance over batch and positions. The last two sum to the first.
A dead row (all zeros) has the logarithm −inf; a row that left the floating-point range (any entry infinite or NaN) has
+inf in all three.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from bntheory import arguments
from bntheory.networks import Leaf, PerRow
from simulations.statistics import QuantileInterval, quantile_with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTITIES = ("log_second_moment", "log_channel_mean_square", "log_channel_variance")
COLUMNS = (*QUANTITIES, "log_cosine_distance", "log_gradient", "log_weight_gradient")  # of what an engine records
_BLOCK = 2**16  # numbers reduced at a time: a block of channels that stays in the processor's cache


def moments(h: np.ndarray) -> tuple[float, float, float]:
    """Return the logarithms of the second moment, the channel mean square and the channel variance.

    ln E h² = ln( mean_c m_c² + mean_c v_c ),  m_c, v_c the mean and the population variance of channel c.

    Parameters
    ----------
    h : array of shape (batch, channels, *positions)
        Real; reduced in float64 whatever its type. Values up to the ends of the float64 range are in order: they are
        divided by a power of two near the largest before they are squared.

    Returns
    -------
    tuple of three floats
        −inf for an exact zero, +inf (all three) if any entry is infinite or NaN.

    Raises
    ------
    ValueError
        If h has fewer than two axes or no entries.

    Examples
    --------
    >>> second, mean_square, variance = moments(np.array([[3e200], [1e200]]))
    >>> print(f"{second:.4f} {mean_square:.4f} {variance:.4f}")
    922.6435 922.4203 921.0340
    """
    h = np.asarray(h)
    if h.ndim < 2 or h.size == 0:
        raise ValueError(f"h must have shape (batch, channels, *positions) and entries, got shape {h.shape}")
    largest = max(float(h.max()), -float(h.min()))
    if not math.isfinite(largest):
        return math.inf, math.inf, math.inf
    if largest == 0:
        return -math.inf, -math.inf, -math.inf
    scale = math.ldexp(1, math.frexp(largest)[1] - 1)  # a power of two: dividing by it rounds nothing
    h = h.reshape(*h.shape[:2], -1)
    at_once = max(1, _BLOCK // (h.shape[0] * h.shape[2]))
    blocks = [_sums(h[:, start : start + at_once], scale) for start in range(0, h.shape[1], at_once)]
    mean_square, variance = (float(total) / h.shape[1] for total in np.sum(blocks, axis=0))
    return tuple(_log(value) + 2 * math.log(scale) for value in (mean_square + variance, mean_square, variance))


def _sums(h: np.ndarray, scale: float) -> tuple[float, float]:
    """Sums over channels of (mean of h / scale)² and of its population variance."""
    scaled = np.divide(h, scale, dtype=np.float64)
    # Subtracting an entry first makes the variance of a constant channel exactly zero, whatever the mean's rounding.
    first = scaled[0, :, 0].copy()
    scaled -= first[:, None]
    shifted_mean = scaled.mean(axis=(0, 2))
    scaled -= shifted_mean[:, None]
    variances = np.einsum("bcp,bcp->", scaled, scaled) / (h.shape[0] * h.shape[2])
    return float(np.sum((first + shifted_mean) ** 2)), float(variances)


def log_cosine_distance(h: np.ndarray) -> float:
    """Return the logarithm of the mean, over pairs of inputs, of 1 − cos, cos the uncentred cosine of their rows.

    mean_{i<j} (1 − h_i·h_j/(‖h_i‖‖h_j‖)) = Σ_i ‖u_i − mean u‖² / (B − 1), u_i = h_i/‖h_i‖: nothing cancels where all
    inputs point the same way.

    Parameters
    ----------
    h : array of shape (batch, ...)
        Inputs whose row is all zeros have no direction and are left out.

    Returns
    -------
    float
        −inf where all directions are equal; NaN with fewer than two of them, or an infinite or NaN entry.

    Examples
    --------
    >>> log_cosine_distance(np.array([[1.0, 0.0], [0.0, 2.0]]))
    0.0
    """
    flat = np.asarray(h, dtype=np.float64).reshape(len(h), -1)
    if not np.isfinite(flat).all():
        return math.nan
    flat = flat[flat.any(axis=1)]
    if len(flat) < 2:
        return math.nan
    flat = flat / np.abs(flat).max(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    flat -= flat[0].copy()
    return _log(float(np.sum((flat - flat.mean(axis=0)) ** 2)) / (len(flat) - 1))


@dataclass(frozen=True, eq=False)
class Samples(PerRow):
    """Logarithms of the sizes of a network's activations and gradients, row by row, over trials.

    Parameters
    ----------
    rows : tuple of Leaf
        As ``bntheory.networks.leaves`` gives them: name, operation, shape, layer.
    log_second_moment, log_channel_mean_square, log_channel_variance : array, (trials, rows)
        Natural logarithms, see the module's first lines; −inf for zero, +inf for a row out of range; NaN in all trials
        of a row that was not seen.
    log_cosine_distance : array (trials, rows), optional
        ln of the mean over pairs of inputs of 1 − cos, see the function of that name; NaN without a pair.
    log_gradient : array (trials, rows), optional
        ln ‖∂ℓ/∂h_l‖² − ln ‖∂ℓ/∂h_L‖², sums over batch and units, L the last row, whose gradient is white Gaussian and
        independent of the weights; −inf for zero, +inf out of range. None: not sampled.
    log_weight_gradient : array (trials, rows), optional
        ln ‖∂ℓ/∂W‖² − ln ‖∂ℓ/∂h_L‖² of the rows with weights W, NaN at the others. None: not sampled.
    method : str
        How they were obtained: "conditional", "weights" or "measured".
    seed : int, optional
        Root seed of the trials; None where nothing was drawn.
    dtype : str
        Of the arithmetic.
    rounding : array (rows, 6), optional
        Of other types than float64: largest difference from float64 of each quantity, in the order of the parameters,
        over the first trials; None if that did not fit into memory.

    Raises
    ------
    ValueError
        If an array is not (trials, rows) with at least one of each, or one of the first three holds NaN in some
        trials.

    Examples
    --------
    >>> samples = Samples((Leaf("input", "input", (2,), None),), *np.zeros((3, 5, 1)), method="measured", seed=0)
    >>> samples.trials, samples.name, bool(samples.alive.all())
    (5, ('input',), True)
    """

    rows: tuple[Leaf, ...]
    log_second_moment: np.ndarray
    log_channel_mean_square: np.ndarray
    log_channel_variance: np.ndarray
    log_cosine_distance: np.ndarray | None = None
    log_gradient: np.ndarray | None = None
    log_weight_gradient: np.ndarray | None = None
    method: str = dataclasses.field(kw_only=True)
    seed: int | None = None
    dtype: str = "float64"
    rounding: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows))
        for quantity in self.quantities:
            values = np.asarray(getattr(self, quantity), dtype=np.float64)
            if values.ndim != 2 or values.shape[1] != len(self.rows) or values.size == 0:
                raise ValueError(f"{quantity} must have shape (trials, {len(self.rows)} rows), got {values.shape}")
            if quantity in QUANTITIES and np.any(np.isnan(values) & ~np.isnan(values).all(axis=0)):
                raise ValueError(f"{quantity} must not be NaN, got {np.isnan(values).sum()} of {values.size}")
            object.__setattr__(self, quantity, values)

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of the quantities that were sampled."""
        return tuple(name for name in COLUMNS if getattr(self, name) is not None)

    @property
    def trials(self) -> int:
        """Number of trials."""
        return len(self.log_second_moment)

    @property
    def alive(self) -> np.ndarray:
        """(trials, rows): whether the row is anything but zeros."""
        return self.log_second_moment > -np.inf

    @property
    def p_dead(self) -> np.ndarray:
        """(rows,): share of the trials in which the row is all zeros."""
        return 1 - self.alive.mean(axis=0)

    @property
    def cosine(self) -> np.ndarray:
        """(trials, rows): mean over pairs of inputs of the uncentred cosine; NaN without a pair."""
        if self.log_cosine_distance is None:
            raise ValueError("cosines were not sampled: simulate_growth records them")
        return 1 - np.exp(self.log_cosine_distance)

    @property
    def overflowed(self) -> np.ndarray:
        """(trials, rows): whether the row left the floating-point range."""
        return self.log_second_moment == np.inf

    def quantiles(
        self, levels: ArrayLike, confidence: float = 0.95, quantity: str = "log_second_moment"
    ) -> QuantileInterval:
        """Return quantiles over the trials and their confidence intervals, row by row.

        Parameters
        ----------
        levels : array_like
            Probabilities in (0, 1), one or several.
        confidence : float
            In (0, 1), of each interval by itself.
        quantity : str
            One of `quantities`.

        Returns
        -------
        QuantileInterval
            quantile, lower and upper, of the shape of `levels` followed by (rows,). Trials whose row is zero (−inf) or
            has no value (NaN) are left out: given the others, the intervals hold. NaN where none is left.

        Raises
        ------
        ValueError
            If the quantity was not sampled, or a level or the confidence is not between 0 and 1.

        Examples
        --------
        >>> logs = np.array([[0.0, -np.inf], [0.0, 3.0]])
        >>> rows = (Leaf("input", "input", (2,), None), Leaf("1", "relu", (2,), None))
        >>> Samples(rows, logs, logs, logs, method="measured").quantiles(0.5).quantile
        array([0., 3.])
        """
        values = getattr(self, arguments.choice("quantity", quantity, self.quantities))
        values = np.sort(np.where(np.isnan(values), -np.inf, values), axis=0)
        counts = (values > -np.inf).sum(axis=0)
        result = np.full((3, *np.shape(levels), len(self.rows)), np.nan)
        for count in np.unique(counts[counts > 0]):
            alive = values[self.trials - count :, counts == count]
            result[..., counts == count] = quantile_with_interval(alive, levels, confidence)
        return QuantileInterval(*result)

    def plot(self, ax: Axes | None = None, quantity: str = "activations") -> Axes:
        """Draw medians, quantiles and their confidence intervals (see `bntheory.plot_growth`)."""
        from bntheory.plotting import plot_growth

        return plot_growth(samples=self, ax=ax, quantity=quantity)

    @classmethod
    def stack(cls, parts: Iterable[Samples], seed: int | None = None) -> Samples:
        """Join samples of the same network into one, trials after trials.

        Parameters
        ----------
        parts : iterable of Samples
        seed : int, optional
            The seed they share; None: the first one's.

        Raises
        ------
        ValueError
            If there are none, or their rows or methods differ; the first difference is named.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("stack needs at least one Samples, got none")
        first = parts[0]
        for part in parts[1:]:
            if part.method != first.method:
                raise ValueError(f"samples to stack must share their method, got {first.method!r} and {part.method!r}")
            if (part.name, part.shape) != (first.name, first.shape):
                raise ValueError(f"samples to stack must share their rows, got {_difference(first, part)}")
            if part.quantities != first.quantities:
                both = f"{first.quantities} and {part.quantities}"
                raise ValueError(f"samples to stack must share their quantities, got {both}")
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in first.quantities}
        roundings = [part.rounding for part in parts if part.rounding is not None]
        rounding = np.max(roundings, axis=0) if roundings else None
        return dataclasses.replace(first, **arrays, seed=first.seed if seed is None else seed, rounding=rounding)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for strict JSON: −inf is written as None, +inf as "inf", NaN as "nan"."""
        rows = [{"name": row.name, "operation": row.operation, "shape": list(row.shape)} for row in self.rows]
        arrays = {quantity: [_plain(line) for line in getattr(self, quantity)] for quantity in self.quantities}
        return {"method": self.method, "seed": self.seed, "trials": self.trials, "rows": rows, **arrays}

    def table(self) -> str:
        """Return a plain-text table: each row's logarithms, mean ± standard error over the trials where it is alive.

        Trials with a dead (−inf) or overflowed (+inf) row are left out of the means and counted in the last columns.
        """
        shown = {"log_second_moment": "ln second moment", "log_channel_mean_square": "ln mean²"}
        shown |= {"log_channel_variance": "ln variance", "log_gradient": "ln gradient²"}
        shown = {name: head for name, head in shown.items() if name in self.quantities}
        first, *others = shown.values()
        heads = ("row", "operation", "shape", first, "s.d.", *others, "dead", "overflow")
        lines = [heads]
        for index, row in enumerate(self.rows):
            sizes = [_estimate(getattr(self, name)[:, index]) for name in shown]
            counts = (int((~self.alive[:, index]).sum()), int(self.overflowed[:, index].sum()))
            shape = "×".join(map(str, row.shape))
            sizes.insert(1, _deviation(self.log_second_moment[:, index]))
            lines.append((row.name, row.operation, shape, *sizes, *map(str, counts)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        body = ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([self._title(), *(line.rstrip() for line in body)])

    def _title(self) -> str:
        title = f"{self.method}, {self.trials} trial{'s' * (self.trials > 1)}"
        title += "" if self.seed is None else f", seed {self.seed}"
        if self.dtype != "float64" and self.rounding is None:
            title += f", {self.dtype} (its error is not known: float64 did not fit into memory)"
        elif self.rounding is not None:
            title += f", {self.dtype} (off by at most {self.rounding[:, 0].max():.1g} in ln second moment"
            title += ")" if self.log_gradient is None else f", {self.rounding[:, 4].max():.1g} in ln gradient²)"
        return title


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _plain(values: np.ndarray) -> list[float | str | None]:
    special = {-math.inf: None, math.inf: "inf"}
    return ["nan" if math.isnan(value) else special.get(value, value) for value in values.tolist()]


def _estimate(values: np.ndarray) -> str:
    """Mean ± standard error of the finite values."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return "–"
    error = f" ± {finite.std(ddof=1) / math.sqrt(finite.size):.4f}" if finite.size > 1 else ""
    return f"{finite.mean():.4f}{error}"


def _deviation(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    return f"{finite.std(ddof=1):.4f}" if finite.size > 1 else "–"


def _difference(one: Samples, other: Samples) -> str:
    for left, right in zip(one.rows, other.rows, strict=False):
        if (left.name, left.shape) != (right.name, right.shape):
            return f"{left.name} {left.shape} and {right.name} {right.shape}"
    return f"{len(one.rows)} and {len(other.rows)} rows"
