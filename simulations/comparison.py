"""Theory beside measurement for one network, with a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bntheory import arguments, predict_growth
from bntheory.growth.prediction import Growth
from bntheory.networks import Sequential
from simulations import statistics
from simulations.samples import Samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FALSE_ALARM = 1e-3  # of the whole comparison, where theory is exact
TENTH_OF_A_DECADE = 0.1 * math.log(10)  # granted to mean-field predictions, whose error falls as depth/width


@dataclass(frozen=True)
class Crosscheck:
    """Predicted beside measured ln mean squares.

    Attributes
    ----------
    predicted : Growth
    measured : Samples
    lower, upper : array (rows,)
        The mean of ln(mean of h²) over draws must lie between: both are the predicted mean for a single input where its
        law is known; for a batch, that mean and ln of the expectation (Jensen's inequality, both ways).
    mean, standard_error : array (rows,)
        Measured over the draws that are alive.
    z : array (rows,)
        Distance of the mean from the interval, in standard errors; NaN without prediction.
    allowed : array (rows,)
        Distance at which a row disagrees: the Student quantile at a false-alarm rate of 0.001 for all rows together
        where theory is exact; 0.1 decades and 3 standard errors elsewhere.
    coverage : float
        Share of draws inside the 90% band at the last row that has one, for a single input; else NaN.
    counted : int
        Draws that are alive there.
    """

    predicted: Growth
    measured: Samples
    lower: np.ndarray
    upper: np.ndarray
    mean: np.ndarray
    standard_error: np.ndarray
    z: np.ndarray
    allowed: np.ndarray
    coverage: float
    counted: int

    @property
    def compared(self) -> np.ndarray:
        """(rows,): whether theory speaks about the row."""
        return np.isfinite(self.lower)

    @property
    def disagreeing(self) -> np.ndarray:
        """(rows,): whether the measured mean lies further out than allowed, or is not finite where theory is."""
        gap = np.maximum(self.lower - self.mean, self.mean - self.upper)
        return self.compared & ~(gap <= self.allowed)

    @property
    def agrees(self) -> bool:
        """Whether no row disagrees and the band covers what it should."""
        return not self.disagreeing.any() and self._covered()

    def _covered(self) -> bool:
        if math.isnan(self.coverage):
            return True
        hits = round(self.coverage * self.counted)
        low, high = statistics.binomial_interval(hits, self.counted, 1 - FALSE_ALARM)
        return low <= 0.9 <= high

    def verdict(self) -> str:
        """One sentence: agreement or the first row that disagrees."""
        count, trials = int(self.compared.sum()), self.measured.trials
        scope = f"{count} of {len(self.compared)} rows, {trials} networks"
        if self.disagreeing.any():
            row = int(np.flatnonzero(self.disagreeing)[0])
            return (
                f"Theory and measurement DISAGREE from row {self.predicted.name[row]} "
                f"({self.predicted.operation[row]}): measured {self.mean[row]:.4g} ± {self.standard_error[row]:.2g}, "
                f"predicted {_range(self.lower[row], self.upper[row])} ({scope})."
            )
        if not self._covered():
            return f"Theory and measurement DISAGREE: the 90% band holds {self.coverage:.1%} of the draws ({scope})."
        if math.isnan(self.coverage):
            gap = np.maximum(np.maximum(self.lower - self.mean, self.mean - self.upper), 0)[self.compared]
            return f"Theory and measurement agree within {gap.max() / math.log(10):.3f} decades ({scope})."
        exact = [method == "exact" for method in self.predicted.band_method]
        largest, held = np.abs(self.z[exact]).max(), f"the 90% band holds {self.coverage:.1%} of them"
        return f"Theory and measurement agree: largest |z| {largest:.2f} ({scope}); {held}."

    def table(self, most: int = 24) -> str:
        """Return the rows as aligned text; of a long network the first and last `most`/2."""
        lines = []
        for row in range(len(self.mean)):
            measured = f"{self.mean[row]:9.4f} ± {self.standard_error[row]:.4f}"
            predicted = _range(self.lower[row], self.upper[row])
            flag = "DISAGREES" if self.disagreeing[row] else ""
            z = "" if math.isnan(self.z[row]) else f"{self.z[row]:.2f}"
            name, operation = self.predicted.name[row], self.predicted.operation[row]
            lines.append(f"{name:<14.14} {operation:<28.28} {predicted:>20} {measured:>20} {z:>7}  {flag}".rstrip())
        if len(lines) > most:
            lines = [*lines[: most // 2], "…", *lines[-(most // 2) :]]
        head = f"{'row':<14} {'operation':<28} {'predicted ln':>20} {'measured ln':>20} {'z':>7}"
        return "\n".join([head, *lines])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain lists, ready for JSON: NaN and infinities become None."""
        names = ("lower", "upper", "mean", "standard_error", "z", "allowed")
        arrays = {name: [_plain(value) for value in getattr(self, name)] for name in names}
        rows = {"name": list(self.predicted.name), "operation": list(self.predicted.operation)}
        outcome = {"coverage": _plain(self.coverage), "agrees": self.agrees, "verdict": self.verdict()}
        return {**rows, **arrays, **outcome, "trials": self.measured.trials, "seed": self.measured.seed}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw prediction, band and measured networks (see `bntheory.plot_growth`)."""
        from bntheory.plotting import plot_growth

        return plot_growth(self.predicted, measured=self.measured, ax=ax)


def crosscheck(net: Sequential, batch: Any, trials: int = 100, seed: int | np.random.Generator = 0) -> Crosscheck:
    """Predict a network's growth on a batch, build and measure it in PyTorch `trials` times, and compare every row.

    Parameters
    ----------
    net : Sequential
        A description with an input shape.
    batch : array (B, *input shape)
        The same in prediction and measurement. A single input is compared with the exact law where there is one.
    trials : int
        Networks to build, at least 2.
    seed : int or numpy.random.Generator

    Returns
    -------
    Crosscheck

    Raises
    ------
    ValueError
        If theory has no rule for the network's first layer, or an argument is out of range.
    ImportError
        Without PyTorch.

    Examples
    --------
    >>> from bntheory import mlp
    >>> result = crosscheck(mlp(depth=3, width=16), np.array([[1.0, -1.0] * 8]), trials=20)
    >>> result.agrees
    True
    """
    trials = arguments.integer("trials", trials, at_least=2)
    predicted = predict_growth(net, inputs=batch)
    first = predicted.unsupported
    if first is not None and first is predicted.rows[1]:
        raise ValueError(f"nothing to compare: theory has no rule for {first.operation} (row {first.name})")
    from simulations.training.probes.channel_moments import measure_draws

    measured = measure_draws(net, np.asarray(batch, dtype=float), trials, seed, dtype="float64")
    return compare(predicted, measured, single=len(np.asarray(batch)) == 1)


def compare(predicted: Growth, measured: Samples, single: bool) -> Crosscheck:
    """Hold a prediction against measured networks; `single` says that one input was measured.

    Parameters
    ----------
    predicted : Growth
    measured : Samples
        The same rows.
    single : bool

    Returns
    -------
    Crosscheck

    Raises
    ------
    ValueError
        If the rows differ.
    """
    if predicted.name != measured.name:
        raise ValueError(f"prediction has rows {predicted.name[:3]} …, measurement {measured.name[:3]} …")
    law = np.isfinite(predicted.log_growth_mean)
    lower = np.where(law, predicted.log_growth_mean, predicted.log_second_moment)
    upper = np.where(law & single, predicted.log_growth_mean, predicted.log_second_moment)
    mean, error, count = _mean_and_error(measured)
    exact = np.array([method == "exact" for method in predicted.band_method]) & single
    comparisons = max(1, int(exact.sum()))
    allowed = np.where(exact, 0.0, TENTH_OF_A_DECADE + 3 * error)
    for row in np.flatnonzero(exact):
        rounding = 1e-9 * (1 + abs(lower[row]))
        freedom = max(1, count[row] - 1)
        allowed[row] = rounding + statistics.tolerance(error[row], FALSE_ALARM, comparisons, freedom)
    gap = np.maximum(np.maximum(lower - mean, mean - upper), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(gap > 1e-9, gap / error, np.where(np.isfinite(lower), 0.0, np.nan)) * np.sign(mean - lower)
    coverage, counted = _coverage(predicted, measured, law) if single else (math.nan, 0)
    return Crosscheck(predicted, measured, lower, upper, mean, error, z, allowed, coverage, counted)


def _mean_and_error(measured: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and standard error of the logarithm over the draws that are alive, and how many are."""
    alive = np.where(measured.alive, measured.log_second_moment, 0.0)
    count = measured.alive.sum(axis=0)
    some = np.maximum(count, 1)
    with np.errstate(invalid="ignore"):  # a row that overflowed has mean +inf and no error
        mean = np.where(count > 0, alive.sum(axis=0) / some, -np.inf)
        squares = np.where(measured.alive, (measured.log_second_moment - mean) ** 2, 0.0).sum(axis=0)
    return mean, np.sqrt(squares / np.maximum(count - 1, 1) / some), count


def _coverage(predicted: Growth, measured: Samples, law: np.ndarray) -> tuple[float, int]:
    """Share of the living draws inside the 90% band at the last row with an exact law, and how many they are."""
    last = int(np.flatnonzero(law)[-1])
    values = measured.log_second_moment[measured.alive[:, last], last]
    if last == 0 or predicted.band_method[last] != "exact" or not len(values):
        return math.nan, 0
    lower, upper = predicted.band(0.9)
    return float(np.mean((values >= lower[last]) & (values <= upper[last]))), len(values)


def _range(lower: float, upper: float) -> str:
    if math.isnan(lower):
        return "unsupported"
    return f"{lower:.4f}" if upper - lower < 5e-5 else f"{lower:.4f} … {upper:.4f}"


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
