"""Theory beside measurement for one network, with a verdict."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bntheory import arguments, predict_growth
from bntheory.growth.finite_width import bands
from bntheory.growth.prediction import Growth
from bntheory.layers import Dense
from bntheory.networks import Sequential
from simulations import statistics
from simulations.samples import Samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FALSE_ALARM = 1e-3  # of the whole comparison, where theory is exact: a third each for means, dead rows and the band
FEWEST = 5  # living draws from which a mean is judged
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}  # relative, of one operation
TENTH_OF_A_DECADE = 0.1 * math.log(10)  # granted to mean-field predictions, with Σ 1/width over the layers before


@dataclass(frozen=True, eq=False)
class Crosscheck:
    """Predicted beside measured ln mean squares.

    Attributes
    ----------
    predicted : Growth
    measured : Samples
    lower, upper : array (rows,)
        The estimate must lie between. A single input with a known law: both are the predicted mean of ln(mean of h²). A
        batch: that mean and ln of the expectation (Jensen's inequality, both ways). No law: both are the latter.
    estimate, standard_error : array (rows,)
        Measured mean of the logarithm over the draws that are alive; where there is no law, the logarithm of the mean
        over all draws.
    compared : array (rows,)
        Whether theory speaks about the row and the draws can judge it: at least 5 are alive, and where only the
        expectation is predicted, the variance of the logarithm is at most 1 (a mean of wilder draws says little).
    z : array (rows,)
        Distance of the estimate from the interval, in standard errors; NaN where nothing is judged.
    allowed : array (rows,)
        Distance at which a row disagrees. Exact law: such that all means together raise a false alarm with probability
        0.001/3 (the standard error is the law's or the sample's, whichever is larger). Elsewhere: 0.1 decades, plus
        Σ 1/width over the layers before (the order of what infinite width leaves out), plus 3 standard errors.
    strange_deaths : array (rows,)
        Whether the number of dead draws contradicts the predicted probability, false alarms 0.001/3 in all.
    coverage : float
        Share of living draws inside the 90% band at the last row that has one, for a single input; else NaN.
    counted : int
        Draws that are alive there.
    row_coverage : array (rows,)
        The same of every row that has a band of what was measured; NaN elsewhere. Not judged: bands of first order hold
        90% up to some percent.
    """

    predicted: Growth
    measured: Samples
    lower: np.ndarray
    upper: np.ndarray
    estimate: np.ndarray
    standard_error: np.ndarray
    compared: np.ndarray
    z: np.ndarray
    allowed: np.ndarray
    strange_deaths: np.ndarray
    coverage: float
    counted: int
    row_coverage: np.ndarray

    @property
    def disagreeing(self) -> np.ndarray:
        """(rows,): whether the estimate lies further out than allowed, or too many or too few draws are dead."""
        gap = np.maximum(self.lower - self.estimate, self.estimate - self.upper)
        return (self.compared & ~(gap <= self.allowed)) | self.strange_deaths

    @property
    def agrees(self) -> bool:
        """Whether no row disagrees and the band covers what it should."""
        return not self.disagreeing.any() and self._covered()

    def _covered(self) -> bool:
        if math.isnan(self.coverage):
            return True
        hits = round(self.coverage * self.counted)
        low, high = statistics.binomial_interval(hits, self.counted, 1 - FALSE_ALARM / 3)
        return low <= 0.9 <= high

    def verdict(self) -> str:
        """One sentence: agreement or the first row that disagrees."""
        scope = f"{self.compared.sum()} of {len(self.compared)} rows, {self.measured.trials} networks"
        if self.predicted.unsupported is not None:
            reach = "at" if "measured" in self.predicted.moment_method else "from"
            scope += f", no rule {reach} row {self.predicted.unsupported.name}{' on' if reach == 'from' else ''}"
        if self.disagreeing.any():
            return f"Theory and measurement DISAGREE from row {self._first_disagreement()} ({scope})."
        if not self._covered():
            return f"Theory and measurement DISAGREE: the 90% band holds {self.coverage:.1%} of the draws ({scope})."
        first = self.predicted.unsupported
        if first is not None and first is self.predicted.rows[1] and not self.compared[1:].any():
            return f"Nothing to compare: theory has no rule for {first.operation} (row {first.name})."
        if not self.counted and not self.compared[1:].any():
            return f"Theory and measurement cannot be compared: too few draws live, or they differ too much ({scope})."
        if math.isnan(self.coverage):
            gap = np.maximum(np.maximum(self.lower - self.estimate, self.estimate - self.upper), 0)
            share = (gap / self.allowed)[self.compared].max()
            held = self.row_coverage[np.isfinite(self.row_coverage)]
            bands = f"; the 90% bands of {len(held)} rows hold {held.mean():.1%} of them" if len(held) else ""
            return f"Theory and measurement agree: largest deviation {share:.0%} of the allowed ({scope}){bands}."
        exact = np.array(self.predicted.band_method) == "exact"
        largest, held = np.nanmax(np.abs(self.z[exact])), f"the 90% band holds {self.coverage:.1%} of them"
        return f"Theory and measurement agree: largest |z| {largest:.2f} ({scope}); {held}."

    def _first_disagreement(self) -> str:
        row = int(np.flatnonzero(self.disagreeing)[0])
        name = f"{self.predicted.name[row]} ({self.predicted.operation[row]})"
        if self.strange_deaths[row]:
            dead = self.measured.trials - int(self.measured.alive[:, row].sum())
            return f"{name}: {dead} dead draws, predicted probability {self.predicted.p_dead[row]:.3g}"
        measured = f"{self.estimate[row]:.4g} ± {self.standard_error[row]:.2g}"
        return f"{name}: measured {measured}, predicted {_range(self.lower[row], self.upper[row])}"

    def table(self, most: int = 24) -> str:
        """Return the rows as aligned text; of a long network the first and last `most`/2."""
        lines = []
        width = min(30, max(14, *map(len, self.predicted.name)))
        for row in range(len(self.estimate)):
            measured = f"{self.estimate[row]:9.4f} ± {self.standard_error[row]:.4f}"
            measured = "not seen" if math.isnan(self.estimate[row]) else measured
            predicted = _range(self.lower[row], self.upper[row])
            flag = "DISAGREES" if self.disagreeing[row] else ""
            z = "" if math.isnan(self.z[row]) else f"{self.z[row]:.2f}"
            name, operation = self.predicted.name[row], self.predicted.operation[row]
            lines.append(
                f"{name[-width:]:<{width}} {operation:<28.28} {predicted:>20} {measured:>20} {z:>7}  {flag}".rstrip()
            )
        if len(lines) > most:
            lines = [*lines[: most // 2], "…", *lines[-(most // 2) :]]
        head = f"{'row':<{width}} {'operation':<28} {'predicted ln':>20} {'measured ln':>20} {'z':>7}"
        return "\n".join([head, *lines])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain lists, ready for JSON: NaN and infinities become None."""
        names = ("lower", "upper", "estimate", "standard_error", "z", "allowed", "row_coverage")
        arrays = {name: [_plain(value) for value in getattr(self, name)] for name in names}
        rows = {"name": list(self.predicted.name), "operation": list(self.predicted.operation)}
        outcome = {"coverage": _plain(self.coverage), "agrees": self.agrees, "verdict": self.verdict()}
        return {**rows, **arrays, **outcome, "trials": self.measured.trials, "seed": self.measured.seed}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw prediction, band and measured networks (see `bntheory.plot_growth`)."""
        from bntheory.plotting import plot_growth

        return plot_growth(self.predicted, measured=self.measured, ax=ax)


def crosscheck(
    net: Any,
    batch: Any,
    trials: int = 100,
    seed: int | np.random.Generator = 0,
    redraw: Any = "theory",
    init: Any = None,
) -> Crosscheck:
    """Predict a network's growth on a batch, measure `trials` draws of it in PyTorch, and compare every row.

    Parameters
    ----------
    net : Sequential or torch.nn.Module
        A description with an input shape, or a module, which is left unchanged.
    batch : array (B, *input shape)
        The same in prediction and measurement. A single input is compared with the exact law where there is one.
    trials : int
        Networks to measure, at least 2.
    seed : int or numpy.random.Generator
    redraw : str or callable
        Of a module: how its weights are drawn, as `measure_module` takes it.
    init : str or Initialization, optional
        Of a module: the law of all weights, instead of the second moments that they have.

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
    if not isinstance(net, Sequential):
        return _of_module(net, batch, trials, seed, redraw, init)
    predicted = predict_growth(net, inputs=batch)
    _check_first_rule(predicted)
    from simulations.training.probes.measured_growth import measure_draws

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of overflow, which is refused below
        measured = measure_draws(net, np.asarray(batch, dtype=float), trials, seed, dtype="float64")
    _check_range(measured)
    return compare(predicted, measured, single=len(np.asarray(batch)) == 1)


def _of_module(module: Any, batch: Any, trials: int, seed: Any, redraw: Any, init: Any) -> Crosscheck:
    from bntheory import predict_module
    from simulations.training.redraws import measure_module

    predicted = predict_module(module, batch, init)
    _check_first_rule(predicted)
    measured = measure_module(module, batch, trials, redraw, init, seed, gradients=False)
    _check_range(measured, np.isfinite(predicted.log_second_moment))  # a mask of −∞ is a row without a rule
    return compare(predicted, measured, single=len(batch) == 1)


def _check_first_rule(predicted: Growth) -> None:
    first = predicted.unsupported
    if first is not None and first is predicted.rows[1] and "measured" not in predicted.moment_method:
        raise ValueError(f"nothing to compare: theory has no rule for {first.operation} (row {first.name})")


def _check_range(measured: Samples, rows: np.ndarray | bool = True) -> None:
    beyond = measured.overflowed.any(axis=0) & rows
    if beyond.any():
        row = int(np.flatnonzero(beyond)[0])
        raise ValueError(
            f"activations leave {measured.dtype} in PyTorch at row {measured.name[row]} ({measured.operation[row]}): "
            "simulate_growth, which works in logarithms, can follow them"
        )


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
    exact = np.array([method == "exact" for method in predicted.band_method]) & law & single
    lower = np.where(law, predicted.log_growth_mean, predicted.log_second_moment)
    upper = np.where(law & single, predicted.log_growth_mean, predicted.log_second_moment)
    estimate, error, count = _mean_log(measured)
    log_mean, log_mean_error, tame = _log_mean(measured)
    estimate, error = np.where(law, estimate, log_mean), np.where(law, error, log_mean_error)
    comparisons = max(1, int(exact.sum()))
    with np.errstate(invalid="ignore"):
        scale = np.maximum(error, predicted.log_growth_std / np.sqrt(np.maximum(count, 1)))
    slack = 1e-9 * (1 + np.abs(lower)) + _rounding(measured)
    narrow = statistics.tolerance(scale, FALSE_ALARM / 3, comparisons) + slack
    wide = TENTH_OF_A_DECADE + _inverse_widths(predicted) + 3 * error
    restarted = np.array([method == "measured" for method in predicted.moment_method])
    deviation = np.where(restarted, _mean_log(measured)[1] * np.sqrt(count), 0.0)  # one network's numbers are taken on
    allowed = np.where(exact, narrow, wide + 3 * deviation)
    judged = np.isfinite(lower) & np.isfinite(upper) & (count >= min(FEWEST, measured.trials)) & (law | tame)
    gap = np.maximum(np.maximum(lower - estimate, estimate - upper), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(gap > slack, gap / np.where(exact, scale, error) * np.sign(estimate - lower), 0.0)
    strange = [
        bool(exact[row]) and _strange(measured.trials - count[row], measured.trials, predicted.p_dead[row], comparisons)
        for row in range(len(exact))
    ]
    coverage, counted = _coverage(predicted, measured, law) if single else (math.nan, 0)
    verdicts = judged, np.where(judged, z, np.nan), allowed, np.array(strange)
    held = _row_coverage(predicted, measured, single)
    return Crosscheck(predicted, measured, lower, upper, estimate, error, *verdicts, coverage, counted, held)


def _rounding(measured: Samples) -> np.ndarray | float:
    """What the numbers of the measurement may be off by: known of its rows, or that of single operations in PyTorch."""
    if measured.rounding is not None:
        return 10 * measured.rounding[:, 0]
    return 10 * ROUNDING.get(measured.dtype, 0.0) if measured.method == "measured" else 0.0


def _mean_log(measured: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of the logarithm over the living draws, its standard error, and how many they are."""
    count = measured.alive.sum(axis=0)
    some, freedom = np.maximum(count, 1), np.maximum(count - 1, 1)
    with np.errstate(invalid="ignore"):  # a row that overflowed has mean +inf and no error
        logs = np.where(measured.alive, measured.log_second_moment, 0.0)
        mean = np.where(count > 0, logs.sum(axis=0) / some, -np.inf)
        mean[np.isnan(measured.log_second_moment).all(axis=0)] = np.nan  # a row that was not seen
        variance = np.where(measured.alive, (measured.log_second_moment - mean) ** 2, 0.0).sum(axis=0) / freedom
    return mean, np.sqrt(variance / some), count


def _log_mean(measured: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ln of the mean of h² over all draws, its standard error, and whether the draws are tame enough to trust it."""
    logs, trials = measured.log_second_moment, measured.trials
    top = np.where(np.isfinite(logs.max(axis=0)), logs.max(axis=0), 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # all dead, or overflowed
        shares = np.exp(logs - top)
        mean = shares.mean(axis=0)
        error = shares.std(axis=0) / mean / math.sqrt(max(1, trials - 1))
        spread = _mean_log(measured)[1] ** 2 * measured.alive.sum(axis=0)
        return np.log(mean) + top, error, ~(spread > 1)


def _inverse_widths(predicted: Growth) -> np.ndarray:
    """Σ 1/width over the Dense layers up to every row."""
    return np.cumsum([1 / row.layer.features if isinstance(row.layer, Dense) else 0.0 for row in predicted.rows])


def _strange(dead: int, trials: int, probability: float, comparisons: int) -> bool:
    low, high = statistics.binomial_interval(int(dead), trials, 1 - FALSE_ALARM / 3 / comparisons)
    return not low <= probability <= high


def _coverage(predicted: Growth, measured: Samples, law: np.ndarray) -> tuple[float, int]:
    """Share of the living draws inside the 90% band at the last row with an exact law, and how many they are."""
    last = int(np.flatnonzero(law)[-1])
    values = measured.log_second_moment[measured.alive[:, last], last]
    varies = predicted.band_method[last] == "exact" and predicted.log_growth_std[last] > 0
    if not varies or not len(values):
        return math.nan, 0
    lower, upper = predicted.band(0.9)
    return float(np.mean((values >= lower[last]) & (values <= upper[last]))), len(values)


def _row_coverage(predicted: Growth, measured: Samples, single: bool) -> np.ndarray:
    """Share of the living draws inside the 90% band of every row; bands of vectors are of one input."""
    held = np.full(len(predicted.rows), np.nan)
    if not single and bands.of_one_input(predicted.question.net, predicted.rows):
        return held
    lower, upper = predicted.band(0.9)
    for row in np.flatnonzero((upper > lower) & measured.alive.any(axis=0)):
        values = measured.log_second_moment[measured.alive[:, row], row]
        held[row] = np.mean((values >= lower[row]) & (values <= upper[row]))
    return held


def _range(lower: float, upper: float) -> str:
    if math.isnan(lower):
        return "unsupported"
    return f"{lower:.4f}" if upper - lower < 5e-5 else f"{lower:.4f} … {upper:.4f}"


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
