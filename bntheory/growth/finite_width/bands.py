"""Which law of the fluctuations a network gets, row by row: exact, first order, or of an image's noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from bntheory.growth.finite_width import first_order, first_order_gradients, log_growth, survival
from bntheory.layers import BatchNorm, Conv, Dense, Dropout, Flatten, Unknown
from bntheory.networks import Join, Leaf, Residual, Sequential
from bntheory.positional import ConvTranspose, Mix, Offset

RANDOM = (Dense, Conv, ConvTranspose, Mix, Offset, Dropout, Unknown)
FAR = 0.2  # of the law's mean from ln of the second moment, with BatchNorm: more is no effect of width

Columns = dict[str, np.ndarray]  # the numbers of `walk.Moments`
Edges = Callable[[float], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Bands:
    """Mean, standard deviation and quantiles of a logarithm over weight draws, given alive; one entry a row.

    `sampled_error` is the standard error of means that were sampled; None if all are of laws.
    """

    mean: np.ndarray
    std: np.ndarray
    p_dead: np.ndarray
    method: tuple[str, ...]
    edges: Edges
    sampled_error: np.ndarray | None = None

    @property
    def error(self) -> np.ndarray:
        """Standard error of the mean: 0 where it is a law's, NaN where there is none."""
        return np.where(np.isnan(self.mean), np.nan, 0.0) if self.sampled_error is None else self.sampled_error

    def without(self, rows: slice) -> Bands:
        """The same, some of the rows unsupported."""
        mean, std, method = self.mean.copy(), self.std.copy(), np.array(self.method, dtype=object)
        mean[rows] = std[rows] = np.nan
        method[rows] = "unsupported"

        def edges(level: float) -> tuple[np.ndarray, np.ndarray]:
            lower, upper = (side.copy() for side in self.edges(level))
            lower[rows] = upper[rows] = np.nan
            return lower, upper

        return Bands(mean, std, self.p_dead, tuple(method), edges, self.sampled_error)


def of_activations(net: Sequential, rows: Sequence[Leaf], batch: float, moments: Columns, given: bool) -> Bands:
    """Bands of ln(mean of h²).

    Vector networks: for one input, exactly where there is an exact law (`log_growth`), else to first order in 1/width
    (`first_order`). Images: a normal law of the logarithm, with variance and expectation from `kernel_noise`.
    """
    dead = survival.p_dead(net, rows[0].shape)
    if not of_one_input(net, rows):
        log_mean = moments["log_second_moment"] + moments["log_shift"]
        variance = np.where(np.isneginf(log_mean), 0.0, moments["log_variance"])  # zeros do not vary
        return _normal(log_mean - variance / 2, np.sqrt(variance), dead, _first_random(rows))
    return _of_vectors(net, rows, batch, moments, dead, given)


def _of_vectors(
    net: Sequential, rows: Sequence[Leaf], batch: float, moments: Columns, dead: np.ndarray, given: bool
) -> Bands:
    """Given inputs pass the layers before the first weights as they are, images as far as they are flattened."""
    first = _without_weights(net) if given or len(rows[0].shape) == 3 else 0
    of_batch = any(isinstance(layer, BatchNorm) and layer.training for layer in net.layers[:first])
    net, inner = Sequential(net.layers[first:], rows[first].shape), rows[first:]
    log_start = float(moments["log_second_moment"][first])
    chain = log_growth.chain(net, inner, log_start)
    exact = first + len(chain.ends) + 1
    mean, std = np.full((2, len(rows)), np.nan)
    mean[: first + 1], std[: first + 1] = moments["log_second_moment"][: first + 1], 0.0
    if chain.ends:
        mean[first + 1 : exact], std[first + 1 : exact], dead[first + 1 : exact] = log_growth.mean_std_dead(chain)
    methods = [*["exact"] * (first + 1), *["exact" if chain.gaussian else "first-order"] * len(chain.ends)]
    rest = None
    if exact < len(rows):
        rest = first_order.fluctuations(net, log_start, batch)
        known = _known(inner, rest, {name: column[first:] for name, column in moments.items()})[exact - first :]
        tail = rest.mean[exact - first :], rest.std[exact - first :]
        mean[exact:], std[exact:] = np.where(known, tail, np.nan)
        words = rest.method[exact - first :]
        methods += [word if here else "unsupported" for word, here in zip(words, known, strict=True)]
    if of_batch:  # which shares the weights: no law of one input
        mean[first + 1 :], std[first + 1 :], methods[first + 1 :] = np.nan, np.nan, ["unsupported"] * len(inner[1:])

    def edges(level: float) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = np.full((2, len(rows)), np.nan)
        if rest is not None:
            lower[first:], upper[first:] = rest.band(level)
        lower[: first + 1] = upper[: first + 1] = mean[: first + 1]
        if chain.ends:
            sides = np.array([(1 - level) / 2, (1 + level) / 2])
            lower[first + 1 : exact], upper[first + 1 : exact] = log_growth.quantiles(chain, sides).T
        lower[np.isnan(mean)] = upper[np.isnan(mean)] = np.nan
        return lower, upper

    return Bands(mean, std, dead, tuple(methods), edges)


def of_one_input(net: Sequential, rows: Sequence[Leaf]) -> bool:
    """Whether bands are those of one input: of vectors, and of images that are flattened before the first weights."""
    return len(rows[0].shape) == 1 or len(rows[_without_weights(net)].shape) == 1


def _without_weights(net: Sequential) -> int:
    """How many layers there are before the first that has weights, or parts."""
    plain = [not isinstance(layer, (*RANDOM, Sequential, Residual, Join)) for layer in net.layers]
    return plain.index(False) if False in plain else len(plain)


def _first_random(rows: Sequence[Leaf]) -> int:
    """The first row that differs from draw to draw, or that has no rule."""
    return next((place for place, row in enumerate(rows) if isinstance(row.layer, RANDOM)), len(rows))


def _known(rows: Sequence[Leaf], law: first_order.Fluctuations, moments: Columns) -> np.ndarray:
    """Whether a row's law holds: its moment is known, and no given numbers are left in the units of it or before it.

    With BatchNorm the law takes inputs for uncorrelated; given ones that are not come to differ from its mean.
    """
    log_second_moment = moments["log_second_moment"]
    known = np.isfinite(log_second_moment) & ~np.maximum.accumulate(moments["mixed"])
    if any(isinstance(row.layer, BatchNorm) for row in rows):
        with np.errstate(invalid="ignore"):
            far = np.abs(law.mean - log_second_moment) > FAR + 2 * law.std
        known &= ~np.maximum.accumulate(far)
    return known


def of_gradients(net: Sequential, rows: Sequence[Leaf], log_start: float, batch: float) -> Bands:
    """Bands of ln ‖∂ℓ/∂h‖² less that of the last row; vector networks only, perhaps behind a Flatten."""
    flat = len(rows[0].shape) == 3 and isinstance(next(iter(net.layers), None), Flatten)
    if len(rows[0].shape) == 3 and not flat:
        unknown = np.full(len(rows), np.nan)
        unknown[-1] = 0.0
        return _normal(unknown, np.where(np.isnan(unknown), np.nan, 0.0), np.full(len(rows), np.nan), len(rows))
    inner = Sequential(net.layers[1:], rows[1].shape) if flat else net
    law = first_order_gradients.gradient_fluctuations(inner, log_start, batch)
    own = [0, *range(len(law.mean))] if flat else range(len(law.mean))  # the image's is that of the vector
    method = tuple(law.method[row] for row in own)

    def edges(level: float) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = law.band(level)
        return lower[list(own)], upper[list(own)]

    return Bands(law.mean[list(own)], law.std[list(own)], np.full(len(rows), np.nan), method, edges)


def _normal(mean: np.ndarray, std: np.ndarray, dead: np.ndarray, first: int) -> Bands:
    """`first` is the first row that varies: before it all is exact, behind it a normalized row varies by its ε."""
    words = ["exact" if row < first else "first-order" for row in range(len(std))]
    method = ["unsupported" if math.isnan(value) else word for value, word in zip(std, words, strict=True)]

    def edges(level: float) -> tuple[np.ndarray, np.ndarray]:
        reach = float(special.ndtri((1 + level) / 2)) * std
        return mean - reach, mean + reach

    return Bands(mean, std, dead, tuple(method), edges)
