"""Reading 1: predict how large the activations and gradients of a description are, row by row."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from bntheory import arguments
from bntheory.growth import walk
from bntheory.growth.diagnosis import table, verdict
from bntheory.growth.finite_width import bands
from bntheory.growth.infinite_width.state import start, worse
from bntheory.networks import Leaf, PerRow, Sequential, leaves, parts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bntheory.growth.diagnosis.findings import Findings


class Question(NamedTuple):
    """What was asked."""

    net: Sequential
    inputs: Any
    batch_size: int | None


METHODS = ("moment_method", "channel_method", "gradient_method", "band_method", "gradient_band_method")


@dataclass(frozen=True, eq=False)
class Growth(PerRow):
    """Predicted sizes of a network's rows, as natural logarithms; one entry a row, NaN where there is no rule.

    Attributes
    ----------
    rows : tuple of Leaf
        Row 0 is the input, then every leaf of the description in execution order. ``name``, ``operation`` and ``shape``
        are their columns.
    log_second_moment : array
        ln of the expectation, over weights, Dropout masks and inputs, of the mean of h² over units and positions.
    log_channel_mean_square, log_channel_variance : array
        Its two parts: ln of the mean over channels of (mean over inputs and positions)², and of the variance over
        inputs and positions. Of images the variance includes, to first order in 1/channels, what finite width adds.
    log_cosine_distance : array
        ln of the mean over pairs of inputs of 1 − cos, cos the uncentred cosine of their rows; NaN without pairs.
    log_gradient : array
        ln E ‖∂ℓ/∂h_l‖² − ln E ‖∂ℓ/∂h_L‖², sums over inputs, units and positions, L the last row, whose gradient is
        white and independent of the weights.
    log_weight_gradient : array
        ln E ‖∂ℓ/∂W‖² − ln E ‖∂ℓ/∂h_L‖² of rows with weights W, NaN at the others.
    log_growth_mean, log_growth_std : array
        Mean and standard deviation over weight draws of ln(mean of h²), given that the row is alive: of vectors for one
        input whose second moment is the batch's (over the batch from the first BatchNorm on), of images over the batch.
        The mean lies below ``log_second_moment`` (Jensen).
    log_gradient_mean, log_gradient_std : array
        The same of the logarithm of the squared gradient; vector networks only.
    log_growth_error, log_gradient_error : array
        Standard errors of these means: 0 where they are a law's, above where they were simulated.
    p_dead : array
        Probability that the row is exactly zero (of images an upper bound; the share of the draws in simulated rows).
    moment_method, channel_method, gradient_method, band_method, gradient_band_method : tuple of str
        "exact" (at any width), "mean-field" (infinite width), "population" (infinite width, from sampled units),
        "first-order" (to first order in 1/width), "measured" (predicted from values that were measured where a row
        before it had no rule), or "unsupported". Bands also "simulated", where there is no law and
        `simulations.simulate_bands` has drawn networks.
    question : Question
        What was asked: the network, its inputs and the batch size.
    networks : int
        Drawn for the simulated rows, 0 if there are none.
    """

    rows: tuple[Leaf, ...]
    log_second_moment: np.ndarray
    log_channel_mean_square: np.ndarray
    log_channel_variance: np.ndarray
    log_cosine_distance: np.ndarray
    log_gradient: np.ndarray
    log_weight_gradient: np.ndarray
    moment_method: tuple[str, ...]
    channel_method: tuple[str, ...]
    gradient_method: tuple[str, ...]
    question: Question = field(repr=False)
    _band_rule: Callable[[], bands.Bands] = field(repr=False)
    _gradient_band_rule: Callable[[], bands.Bands] = field(repr=False)
    networks: int = 0

    @functools.cached_property
    def _band(self) -> bands.Bands:
        return self._band_rule()

    @functools.cached_property
    def _gradient_band(self) -> bands.Bands:
        return self._gradient_band_rule()

    @property
    def log_growth_mean(self) -> np.ndarray:
        """Mean over weight draws of ln(mean of h²)."""
        return self._band.mean

    @property
    def log_growth_std(self) -> np.ndarray:
        """Standard deviation over weight draws of ln(mean of h²)."""
        return self._band.std

    @property
    def log_growth_error(self) -> np.ndarray:
        """Standard error of `log_growth_mean`: 0 where it is a law's."""
        return self._band.error

    @property
    def p_dead(self) -> np.ndarray:
        """Probability that the row is exactly zero."""
        return self._band.p_dead

    @property
    def band_method(self) -> tuple[str, ...]:
        """How mean, standard deviation and band were found."""
        return self._band.method

    @property
    def log_gradient_mean(self) -> np.ndarray:
        """Mean over weight draws of the logarithm of the squared gradient, less that of the last row."""
        return self._gradient_band.mean

    @property
    def log_gradient_std(self) -> np.ndarray:
        """Standard deviation over weight draws of the same."""
        return self._gradient_band.std

    @property
    def log_gradient_error(self) -> np.ndarray:
        """Standard error of `log_gradient_mean`: 0 where it is a law's."""
        return self._gradient_band.error

    @property
    def gradient_band_method(self) -> tuple[str, ...]:
        """How they were found."""
        return self._gradient_band.method

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
            NaN where ``band_method`` is "unsupported", or "simulated" from too few living draws for that level.

        Raises
        ------
        ValueError
            If level is not in (0, 1), or asks for more networks than were simulated.

        Examples
        --------
        >>> from bntheory import mlp, predict_growth
        >>> lower, upper = predict_growth(mlp(depth=100, width=128)).band(0.90)
        >>> print(f"{lower[-1]:.3f} {upper[-1]:.3f}")
        -5.292 1.306
        """
        return self._band.edges(arguments.probability("level", level))

    def gradient_band(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return the central band of the logarithm of the squared gradient over weight draws, as `band` does."""
        return self._gradient_band.edges(arguments.probability("level", level))

    @property
    def unsupported(self) -> Leaf | None:
        """The first row for which there is no rule of the second moment; None if there is one for all."""
        pairs = zip(self.rows, self.moment_method, strict=True)
        return next((row for row, method in pairs if method == "unsupported"), None)

    def findings(self) -> Findings:
        """Say what to expect, as data: facts, problems, their causes, and remedies that were predicted to help.

        Returns
        -------
        Findings
            Of the kinds "growth", "spread", "dead", "range", "gradients", "collapse", "unsupported", where known.

        Notes
        -----
        Problems: a second moment or squared gradient that changes by a factor above 10⁴; draws whose ln(mean of h²) has
        a standard deviation above 1; over 1% dead draws; activations out of the range of float16; outputs whose mean
        1 − cos is below 0.01 though that of the inputs was not. Every remedy costs a prediction; those that would take
        many seconds are not tried, and named.

        Examples
        --------
        >>> from bntheory import mlp, predict_growth
        >>> found = predict_growth(mlp(depth=50, width=256, batch_norm=True)).findings()
        >>> print(found["gradients"].problem, round(found["gradients"].numbers["log_per_layer"], 3))
        True 0.383
        """
        return self._findings

    @functools.cached_property
    def _findings(self) -> Findings:
        return verdict.find(self)

    def verdict(self) -> str:
        """Say in words what to expect: `findings`, a line a fact, where there is a problem with its cause and remedies.

        Examples
        --------
        >>> from bntheory import mlp, predict_growth
        >>> print(predict_growth(mlp(depth=15, width=256, init="lecun_normal")).verdict())
        The second moment shrinks by a factor 3.3e+04 over 15 layers (0.5 a layer; exact).
          Cause: σ_w² = 1 is below 2, the critical value of relu.
          Remedy: critical gain: factor 3.1e-05 → 1.
          Remedy: BatchNorm before activations: factor 3.1e-05 → 0.5.
        A typical draw is 1.2 times smaller still, and draws differ: standard deviation 0.55 of the logarithm (exact).
        Squared gradients shrink by a factor 1.6e+04 from the output back to row 1 (0.5 a layer; exact).
          Cause: σ_w² = 1 is below 2, the critical value of relu.
          Remedy: critical gain: factor 6.1e-05 → 1.
          Remedy: BatchNorm before activations: factor 6.1e-05 → 210.
        """
        return str(self.findings())

    def table(self, most: int = 24) -> str:
        """Return the rows as aligned text, at most `most` (see `bntheory.growth.table.table`)."""
        return table.table(self, most)

    def to_dict(self) -> dict[str, Any]:
        """Return all columns as plain lists, ready for JSON: NaN and infinities become None."""
        arrays = {
            key: [value if math.isfinite(value) else None for value in getattr(self, key).tolist()]
            for key in (
                "log_second_moment",
                "log_channel_mean_square",
                "log_channel_variance",
                "log_cosine_distance",
                "log_growth_mean",
                "log_growth_std",
                "log_growth_error",
                "p_dead",
                "log_gradient",
                "log_weight_gradient",
                "log_gradient_mean",
                "log_gradient_std",
                "log_gradient_error",
            )
        }
        words = {key: list(getattr(self, key)) for key in METHODS}
        rows = {"name": list(self.name), "operation": list(self.operation), "shape": [list(s) for s in self.shape]}
        return {**rows, **arrays, **words}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the prediction (see `bntheory.plot_growth`)."""
        from bntheory.plotting import plot_growth

        return plot_growth(self, ax=ax)


def predict_growth(
    net: Sequential, inputs: Any = None, batch_size: int | None = None, covariances: bool = True
) -> Growth:
    """Predict the size of every row of a network at initialization.

    Parameters
    ----------
    net : Sequential
        A description with an input shape, e.g. from `mlp`.
    inputs : array (B, *input shape), optional
        Inputs whose second moments and distances start the recursion; None: second moment 1, uncorrelated.
        Vectors count one by one; so do images up to the first ReLU after a convolution, if they are no more than make
        2²⁶ pairs of points (8 of 32×32), then by mean covariances and their own second moments at every position; from
        a maximum or a BatchNorm on they count as if all were alike.
    batch_size : int, optional
        Without inputs, the batch that BatchNorm, channel means and variances refer to; None: infinite.
    covariances : bool
        False: second moments and gradients only, without distances between inputs and positions, in a fraction of the
        time. BatchNorm and pooling then have no rule.

    Returns
    -------
    Growth

    Raises
    ------
    ValueError
        If net is not a description; if the inputs have another shape, are not finite or all zero; if a BatchNorm gets a
        single number, or given vectors of which two are smaller than another by more than 1e14; if images have more
        than 4096 positions, unless covariances is False. The row is named.

    Notes
    -----
    Second moments, distances and gradients: infinite width (`growth.infinite_width`, `growth.backward`), exact at any
    width for linear, ReLU and leaky ReLU layers with symmetric weights. Rows whose units are not Gaussian are sampled,
    from a fixed seed ("population"). BatchNorm: exact at infinite width for vectors that are alike, on maps of at most
    256 positions, and, with a linear, ReLU or leaky ReLU activation behind it, for up to 128 given vectors of any
    angles, and of sizes up to 1e14 apart but for one smaller. Else s² is taken as certain: an error of order 1/batch
    for inputs of equal size, and far off where some are much larger than others. Other activations behind it are
    sampled for fewer than 16 given vectors; for more they are a few percent off, and gradients in front of that
    BatchNorm by up to e^0.04 a layer for digits, and a factor of 2 for vectors of sizes e^(2ξ): what the slopes have to
    do with the units is taken from vectors that are alike.
    Fluctuations: exact for linear and ReLU MLPs with Gaussian weights (Hanin and Nica 2018), first order in 1/width for
    other MLPs (`first_order`) and for images (`kernel_noise`), where rows behind a BatchNorm have a band only if their
    own weights make most of what varies, and rows after a maximum only if they vary more than its mean is known.
    Orthogonal weights have no band. A `Join` has no band, nor what is behind it. Factors of a product are independent,
    or functions of the same units. Gradients stop at sums and products of functions of the same units; those of a gate
    in a residual block (a factor that counts at all positions) are shown for the last block only. A sum whose parts
    share weights without being functions of the same units has no rule. Layers without a rule give "unsupported" and
    NaN in their row and all that follow. Weight gradients behind a global average are up to e^0.5 too low at tens of
    channels, that of the first convolution of version-1 networks without BatchNorm up to e^1.2 at depth 20 and
    e^2.9 at 56, since gradients end up along activations (`backward.alignment.share_along_activations`).
    Gradients of an image are up to e^0.3 too high in front of a convolution with BatchNorm over few numbers, which
    takes away what its weights have made.
    Units of a depthwise convolution, of at most 32 weights each, are Gaussian given these: activations of them are
    sampled, and a BatchNorm divides each by a size of its own. Gradients in front of a BatchNorm over maps that hardly
    vary between positions are too low there, since units of small size vary in other ways than the rest. Without a
    BatchNorm, gradients in front of an activation that such a convolution reads are e^0.1 to e^0.3 too low, since its
    units go with what they read. Gradients in front of a LayerNorm or GroupNorm are of images of mean size: too low
    where given images differ much in size, as constant ones do, and those of weights there too high.

    References
    ----------
    Poole et al. 2016 (arXiv:1606.05340); Schoenholz et al. 2017 (arXiv:1611.01232); Xiao et al. 2018
    (arXiv:1806.05393); Yang et al. 2019 (arXiv:1902.08129); Hanin and Nica 2018 (arXiv:1812.05994).

    Examples
    --------
    >>> from bntheory import mlp
    >>> growth = predict_growth(mlp(depth=100, width=128))
    >>> print(f"{growth.log_growth_mean[-1]:.4f} {growth.log_growth_std[-1]:.4f}")
    -1.9786 2.0058
    """
    return predicted(net, tuple(leaves(net)), inputs, batch_size, covariances)


def predicted(
    net: Sequential,
    rows: tuple[Leaf, ...],
    inputs: Any,
    batch_size: int | None,
    covariances: bool,
    measured: walk.Measured | None = None,
) -> Growth:
    """Predict with rows under names of their own, and from `measured` values where there is no rule (`walk.forward`).

    Those are of the given inputs: without inputs, nothing can be measured.
    """
    first = start(inputs, rows[0].shape, batch_size, covariances)
    # products of a thousand positions gain nothing from more threads, and lose tenfold where cores are shared
    with threadpool_limits(1, "blas") if len(rows[0].shape) == 3 else nullcontext():
        taken, way, last = walk.forward(net, rows, first, measured)
        log_gradient, log_weight_gradient = walk.backward(way, rows, last).T
    columns = {name: np.array([getattr(row, name) for row in taken]) for name in walk.Moments._fields}
    methods = tuple(columns["method"].tolist())
    return Growth(
        rows,
        columns["log_second_moment"],
        columns["log_channel_mean_square"],
        columns["log_channel_variance"],
        columns["log_cosine_distance"],
        log_gradient,
        log_weight_gradient,
        methods,
        tuple(columns["channel_method"].tolist()),
        tuple(_gradient_methods(rows, methods, log_gradient)),
        Question(net, inputs, batch_size),
        functools.partial(bands.of_activations, net, rows, first.batch, columns, inputs is not None),
        functools.partial(bands.of_gradients, net, rows, first.log_second_moment, first.batch),
    )


def _gradient_methods(rows: tuple[Leaf, ...], methods: tuple[str, ...], log_gradient: np.ndarray) -> list[str]:
    """Exact only where every row up to the output is, and no sum keeps the given input."""
    worst, words = "exact", []
    for row, method, value in reversed(list(zip(rows, methods, log_gradient, strict=True))):
        joined = row.layer is not None and bool(parts(row.layer))
        worst = worse(worst, "mean-field" if joined or method == "unsupported" else "exact")
        worst = worst if method == "unsupported" else worse(worst, method)
        words.append("unsupported" if math.isnan(value) else worst)
    return words[::-1]
