"""Reading 1: walk a description and predict how large its activations are, row by row."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bntheory import arguments
from bntheory.growth import log_growth, moments
from bntheory.layers import Shape
from bntheory.networks import Leaf, PerRow, Residual, Sequential, leaves, output_shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLOAT32_MAX_LOG = 88.72  # ln of the largest float32


@dataclass(frozen=True, eq=False)
class Growth(PerRow):
    """Predicted sizes of a network's rows, as natural logarithms; one entry a row, NaN where there is no rule.

    Attributes
    ----------
    rows : tuple of Leaf
        Row 0 is the input, then every leaf of the description in execution order. ``name``, ``operation`` and ``shape``
        are their columns.
    log_second_moment : array
        ln of the expectation, over weights, Dropout masks and inputs, of the mean of h² over units.
    log_channel_mean_square, log_channel_variance : array
        Its two parts: ln of the mean over units of (mean over inputs)², and of the variance over inputs.
    log_growth_mean, log_growth_std : array
        Mean and standard deviation over weight draws of ln(mean of h² over units) for one input whose second moment is
        the batch's, given that the row is alive. The mean lies below ``log_second_moment`` (Jensen).
    p_dead : array
        Probability that the row is exactly zero.
    moment_method, channel_method, band_method : tuple of str
        "exact" (at any width), "mean-field" (infinite width), "first-order" (to first order in 1/width),
        or "unsupported".
    """

    rows: tuple[Leaf, ...]
    log_second_moment: np.ndarray
    log_channel_mean_square: np.ndarray
    log_channel_variance: np.ndarray
    log_growth_mean: np.ndarray
    log_growth_std: np.ndarray
    p_dead: np.ndarray
    moment_method: tuple[str, ...]
    channel_method: tuple[str, ...]
    band_method: tuple[str, ...]
    _chain: log_growth.Chain = field(repr=False)

    @property
    def second_moment(self) -> np.ndarray:
        """exp(log_second_moment): infinite where that leaves float64."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_second_moment)

    def band(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return the central band of ln(mean of h²) over weight draws, given alive.

        Parameters
        ----------
        level : float
            Probability inside the band, in (0, 1).

        Returns
        -------
        lower, upper : arrays, one entry a row
            NaN where ``band_method`` is "unsupported".

        Raises
        ------
        ValueError
            If level is not in (0, 1).

        Examples
        --------
        >>> from bntheory import mlp, predict_growth
        >>> lower, upper = predict_growth(mlp(depth=100, width=128)).band(0.90)
        >>> print(f"{lower[-1]:.3f} {upper[-1]:.3f}")
        -5.292 1.306
        """
        level = arguments.number("level", level, above=0)
        if level >= 1:
            raise ValueError(f"level must be in (0, 1), got {level}")
        levels = np.array([(1 - level) / 2, (1 + level) / 2])
        edges = np.full((len(self.rows), 2), np.nan)
        edges[0] = self._chain.start
        if self._chain.ends:
            edges[1 : len(self._chain.ends) + 1] = log_growth.quantiles(self._chain, levels)
        return edges[:, 0], edges[:, 1]

    @property
    def unsupported(self) -> Leaf | None:
        """The first row for which there is no rule of the second moment; None if there is one for all."""
        pairs = zip(self.rows, self.moment_method, strict=True)
        return next((row for row, method in pairs if method == "unsupported"), None)

    def verdict(self) -> str:
        """Say in words what to expect: growth, spread between draws, dead networks, overflow of float32.

        Examples
        --------
        >>> from bntheory import mlp, predict_growth
        >>> print(predict_growth(mlp(depth=100, width=128, init="lecun_normal")).verdict())
        The second moment shrinks by a factor 1.3e+30 over 100 layers (0.5 a layer; exact).
        A typical draw is 7.2 times smaller still, and draws differ: standard deviation 2.01 of the logarithm (exact).
        """
        if self.unsupported is not None:
            row = self.unsupported
            return f"No rule for {row.operation} (row {row.name}): nothing is predicted from there on."
        depth = sum(hasattr(row.layer, "weight_variance") for row in self.rows)
        total = self.log_second_moment[-1] - self.log_second_moment[0]
        lines = [_growth_sentence(total, depth, self.moment_method[-1])]
        if self.log_growth_std[-1] > 0:
            lines.append(self._spread_sentence())
        if self.p_dead[-1] > 0.01:
            share = "Over 99%" if self.p_dead[-1] > 0.99 else f"{self.p_dead[-1]:.0%}"
            lines.append(f"{share} of the draws are dead: their output is exactly zero.")
        over = np.flatnonzero(self.log_second_moment / 2 > FLOAT32_MAX_LOG)
        if len(over):
            lines.append(f"Activations leave the range of float32 at row {self.rows[over[0]].name}.")
        return "\n".join(lines)

    def _spread_sentence(self) -> str:
        gap, std = self.log_second_moment[-1] - self.log_growth_mean[-1], self.log_growth_std[-1]
        size = f"{_power(gap)} times smaller still" if gap > 0.05 else "as large"
        return (
            f"A typical draw is {size}, and draws differ: "
            f"standard deviation {std:.{2 if std > 0.1 else 4}f} of the logarithm ({self.band_method[-1]})."
        )

    def table(self, most: int = 24) -> str:
        """Return the rows as aligned text; of a long network the first and last `most`/2.

        Parameters
        ----------
        most : int
            Rows to show.
        """
        head = ("row", "operation", "ln E h²", "mean ln", "std ln", "p dead", "moment", "band")
        lines = []
        for index, row in enumerate(self.rows):
            logs = (self.log_second_moment, self.log_growth_mean, self.log_growth_std)
            cells = [_cell(round(float(values[index]), 9)) for values in logs]  # a zero with its rounding errors is 0
            cells.append(_cell(self.p_dead[index]))
            lines.append((row.name, row.operation, *cells, self.moment_method[index], self.band_method[index]))
        if len(lines) > most:
            half = max(1, most // 2)
            lines = [*lines[:half], ("…",) * len(head), *lines[-half:]]
        widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if 2 <= column < 6 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in (head, *lines)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain lists, ready for JSON: NaN and infinities become None."""
        arrays = {
            key: [value if math.isfinite(value) else None for value in getattr(self, key).tolist()]
            for key in (
                "log_second_moment",
                "log_channel_mean_square",
                "log_channel_variance",
                "log_growth_mean",
                "log_growth_std",
                "p_dead",
            )
        }
        words = {key: list(getattr(self, key)) for key in ("moment_method", "channel_method", "band_method")}
        rows = {"name": list(self.name), "operation": list(self.operation), "shape": [list(s) for s in self.shape]}
        return {**rows, **arrays, **words}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the prediction (see `bntheory.plot_growth`)."""
        from bntheory.plotting import plot_growth

        return plot_growth(self, ax=ax)


def predict_growth(net: Sequential, inputs: Any = None, batch_size: int | None = None) -> Growth:
    """Predict the size of every row of a network at initialization.

    Parameters
    ----------
    net : Sequential
        A description with an input shape, e.g. from `mlp`.
    inputs : array (B, *input shape), optional
        Inputs whose second moments and distances start the recursion; None: second moment 1, uncorrelated.
    batch_size : int, optional
        Without inputs, the batch that channel means and variances refer to; None: infinite.

    Returns
    -------
    Growth

    Raises
    ------
    ValueError
        If net is not a description, or the inputs have another shape, are not finite or all zero.

    Notes
    -----
    Second moments: infinite width (Poole et al. 2016), exact at any width for linear, ReLU and leaky ReLU layers with
    symmetric weights. Fluctuations: exact for linear and ReLU MLPs with Gaussian weights and biases at any width
    (Hanin and Nica 2018); with uniform ones right to first order in 1/width, unless the input is concentrated on few
    units. BatchNorm: large batch, with an error of order 1/batch; below 16 inputs only homogeneous activations have a
    rule after it. LayerNorm: infinite width, for given inputs and for units of zero mean (after a Dense layer, or a sum
    of such). Dropout, on vectors: exact in the mean over masks; an activation or BatchNorm has a rule only after
    another Dense layer. Layers without a rule give "unsupported" and NaN in their row and all rows that follow.

    Examples
    --------
    >>> from bntheory import mlp
    >>> growth = predict_growth(mlp(depth=100, width=128))
    >>> print(f"{growth.log_growth_mean[-1]:.4f} {growth.log_growth_std[-1]:.4f}")
    -1.9786 2.0058
    """
    rows = tuple(leaves(net))
    first = moments.start(inputs, rows[0].shape, batch_size)
    states: list[moments.State | None] = [first]
    walk = _walk(net, first, rows[0].shape)
    for row in rows[1:]:
        try:
            states.append(next(walk))
        except ValueError as error:
            raise ValueError(f"row {row.name}: {error}") from None
    chain = log_growth.chain(rows, first.log_second_moment)
    fluctuations = np.full((3, len(rows)), np.nan)
    fluctuations[:, 0] = first.log_second_moment, 0.0, 0.0
    if chain.ends:
        fluctuations[:, 1 : len(chain.ends) + 1] = log_growth.mean_std_dead(chain)
    known = len(chain.ends) * ("exact" if chain.gaussian else "first-order",)
    second_moment, mean_square, variance = _columns(states)
    return Growth(
        rows,
        second_moment,
        mean_square,
        variance,
        log_growth_mean=fluctuations[0],
        log_growth_std=fluctuations[1],
        p_dead=fluctuations[2],
        moment_method=tuple("unsupported" if state is None else state.method for state in states),
        channel_method=tuple(_channel_method(row, state) for row, state in zip(rows, states, strict=True)),
        band_method=("exact", *known, *("unsupported",) * (len(rows) - 1 - len(known))),
        _chain=chain,
    )


def _walk(
    sequence: Sequential, state: moments.State | None, shape: Shape
) -> Generator[moments.State | None, None, moments.State | None]:
    """Yield the state of every leaf in the order of `leaves`; return the last."""
    for layer in sequence.layers:
        if isinstance(layer, Residual):
            branch = yield from _walk(layer.branch, state, shape)
            shortcut = yield from _walk(layer.shortcut, state, shape)
            state = None if branch is None or shortcut is None else moments.added(layer, shortcut, branch)
            yield state
        elif isinstance(layer, Sequential):
            state = yield from _walk(layer, state, shape)
        else:
            state = None if state is None else moments.through(layer, state, shape)
            yield state
        shape = output_shape(layer, shape)
    return state


def _columns(states: list[moments.State | None]) -> list[np.ndarray]:
    names = ("log_second_moment", "log_channel_mean_square", "log_channel_variance")
    return [np.array([np.nan if state is None else getattr(state, name) for state in states]) for name in names]


def _channel_method(row: Leaf, state: moments.State | None) -> str:
    if state is None:
        return "unsupported"
    return "exact" if row.layer is None or state.values is not None else "mean-field"


def _growth_sentence(total: float, depth: int, method: str) -> str:
    layers = f"{depth} layer{'s' * (depth != 1)}"
    if abs(total) < 0.05:
        return f"The second moment keeps its size over {layers} ({method})."
    rate = f"{_power(total / depth, digits=3)} a layer; " if depth > 1 else ""
    verb, factor = "grows" if total > 0 else "shrinks", _power(abs(total))
    return f"The second moment {verb} by a factor {factor} over {layers} ({rate}{method})."


def _power(log: float, digits: int = 2) -> str:
    """exp(log) at any size, with two digits or, where it needs no exponent, as many as asked for."""
    exponent = math.floor(log / math.log(10))
    if -3 < exponent < 4:
        return f"{float(f'{math.exp(log):.{digits}g}'):g}"
    return f"{math.exp(log - exponent * math.log(10)):.1f}e{exponent:+03d}"


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value + 0.0:.4g}"  # + 0.0: no "-0"
