"""Finite width: fluctuations of the size of every row, to first order in 1/width, for networks on vectors.

One input: ln(mean of h²) over the units of a row, over draws of the weights. Given everything before, the units that
a Dense layer makes are independent Gaussians of one variance, so that a plain network is a Markov chain of one number;
its law is carried as a mixture (`first_order_mixtures`), which may be broad. Along residual blocks the units persist
(`first_order_streams`). With BatchNorm the mean is over the batch too (`first_order_batch`).

The exact laws of linear and ReLU networks (`log_growth`) go before these, where they apply.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from bntheory import arguments
from bntheory.activations import Activation
from bntheory.growth.finite_width import first_order_batch, first_order_streams
from bntheory.growth.finite_width.first_order_mixtures import Mixture, point, regridded
from bntheory.growth.finite_width.first_order_streams import Base, Scalar
from bntheory.growth.finite_width.first_order_tables import squares
from bntheory.layers import Affine, BatchNorm, Dense, Dropout, LayerNorm, Shape
from bntheory.networks import Join, Leaf, PerRow, Residual, Sequential, leaves, output_shape

_UNIFORM = -1.2  # excess kurtosis of uniform biases


@dataclass(frozen=True, eq=False)
class Fluctuations(PerRow):
    """Law over weight draws of the logarithm of one size per row.

    Attributes
    ----------
    rows : tuple of Leaf
    mean, std : array, one entry a row
        NaN where there is no rule.
    method : tuple of str
        "exact", "first-order" or "unsupported".
    """

    rows: tuple[Leaf, ...]
    mean: np.ndarray
    std: np.ndarray
    method: tuple[str, ...]
    _laws: tuple[Mixture | None, ...] = field(repr=False)

    def band(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return the central band of the logarithm over weight draws.

        Parameters
        ----------
        level : float
            Probability inside the band, in (0, 1).

        Returns
        -------
        lower, upper : arrays, one entry a row
            NaN where there is no rule.

        Raises
        ------
        ValueError
            If level is not in (0, 1).

        Examples
        --------
        >>> from bntheory import mlp
        >>> lower, upper = fluctuations(mlp(50, 128, "tanh", "lecun_normal"), log_start=0.0).band(0.90)
        >>> print(f"{lower[-1]:.2f} {upper[-1]:.2f}")
        -5.75 -4.01
        """
        level = arguments.probability("level", level)
        edges = np.full((2, len(self.rows)), np.nan)
        for side, at in enumerate(((1 - level) / 2, (1 + level) / 2)):
            edges[side] = [np.nan if law is None else law.quantile(at) for law in self._laws]
        return edges[0], edges[1]


def of_laws(rows: tuple[Leaf, ...], laws: list[Mixture | None], method: str = "first-order") -> Fluctuations:
    """Fluctuations from the law of every row; None: there is no rule."""
    mean, std = ([np.nan if law is None else getattr(law, name) for law in laws] for name in ("mean", "std"))
    words = tuple("unsupported" if law is None else method for law in laws)
    return Fluctuations(rows, np.array(mean), np.array(std), words, tuple(laws))


def fluctuations(net: Sequential, log_start: float, batch: float = math.inf) -> Fluctuations:
    """Mean, standard deviation and bands of ln(mean of h²) for every row, to first order in 1/width.

    Parameters
    ----------
    net : Sequential
        A description with an input shape.
    log_start : float
        ln of the input's mean square.
    batch : float
        Inputs of a batch, uncorrelated and of that mean square; matters with BatchNorm only, may be infinite.

    Returns
    -------
    Fluctuations
        For one input; with a BatchNorm anywhere, of the mean over units and over the batch.

    Raises
    ------
    ValueError
        If net is not a description with an input shape, or log_start is not finite, or batch below 1.

    Notes
    -----
    Dense layers with independent weights of any law (not orthogonal), biases, any activation straight after a Dense
    layer, a sum or a normalization; LayerNorm after a Dense layer or a sum; Dropout before a Dense layer; residual
    blocks whose branch ends in a Dense layer and whose shortcut is the identity or ends in a Dense layer. The error of
    mean and variance is of order depth/n². An input that reaches an activation or a shortcut as it is counts as
    Gaussian. Uniform biases count by their kurtosis, right for homogeneous activations.

    References
    ----------
    Hanin and Nica 2018; Yaida 2020, "Non-Gaussian processes and neural networks at finite widths", section 2;
    Roberts, Yaida and Hanin 2022, "The principles of deep learning theory", chapter 5.

    Examples
    --------
    >>> from bntheory import mlp
    >>> law = fluctuations(mlp(50, 128, "tanh", "lecun_normal"), log_start=0.0)
    >>> print(f"{law.mean[-1]:.3f} {law.std[-1]:.3f}")
    -4.832 0.530
    """
    rows = tuple(leaves(net))
    log_start = arguments.number("log_start", log_start)
    if not batch >= 1:
        raise ValueError(f"batch must be at least 1, or infinite, got {batch!r}")
    walk: Iterator[Mixture | None] = _walk(net, start(rows[0].shape, log_start), rows[0].shape, inside=False)
    if any(isinstance(row.layer, BatchNorm) for row in rows):
        walk = first_order_batch.laws(net, rows[0].shape, log_start, batch)
    laws: list[Mixture | None] = [point(log_start)]
    for row, law in zip(rows[1:], walk, strict=False):
        laws.append(law if laws[-1] is not None and len(row.shape) == 1 else None)
    return of_laws(rows, laws)


class Place(NamedTuple):
    """Where the walk stands: units, and what has been done to them since they were Gaussian.

    u : their ln variance, if they are fresh given it; None: they are the units of the base themselves.
    excess : excess kurtosis of the units, which uniform biases cause.
    log_factor : ln of the square of a number by which all is multiplied in the end.
    """

    base: Base
    u: Scalar | None
    units: int
    epsilon: float | None = None
    phi: Activation | None = None
    kept: float = 1.0
    excess: np.ndarray | float = 0.0
    log_factor: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether nothing has been done."""
        return self.epsilon is None and self.phi is None and self.kept == 1 and self.log_factor == 0

    def reading(self) -> Scalar:
        """ln(mean square) of the row."""
        y = self._before_factor()
        return y._replace(mean=y.mean + self.log_factor)

    def _before_factor(self) -> Scalar:
        if self.u is None or self.epsilon is not None:
            y = self._of_stream()
            spread = self._spread(self.base.mean if self.u is None else self.u.mean) if self.kept < 1 else np.zeros(1)
            return _dropped(y, spread, self.kept, self.units)
        if self.phi is None:
            y, spread = self.u, np.full_like(self.u.mean, 2.0) + self.excess
        else:
            at = squares(self.phi).size(self.u.mean)
            y, spread = self.u.mapped(self.base, at.value, at.slope, at.curvature), at.spread
            spread = spread + (1 + spread) / 3 * self.excess
        return _dropped(y.noisy(spread, self.units), spread, self.kept, self.units)

    def _spread(self, u: np.ndarray) -> np.ndarray:
        if self.epsilon:
            u = -np.logaddexp(0.0, math.log(self.epsilon) - u)
        elif self.epsilon is not None:
            u = np.zeros_like(u)
        return np.full_like(u, 2.0) if self.phi is None else squares(self.phi).size(u).spread

    def _of_stream(self) -> Scalar:
        own = self.base
        if self.u is not None:
            own = first_order_streams.fresh(self.units, own.weights, self.u.mean, self.u.variance(own))
        if self.phi is None:
            y = first_order_streams.square(own)
            y = y if self.epsilon is None else first_order_streams.normalized(own, self.epsilon)
        elif self.epsilon is None:
            y = first_order_streams.read(own, squares(self.phi))
        else:
            y = first_order_streams.read_normalized(own, self.epsilon, squares(self.phi))
        if self.u is None:
            return y
        rest = np.sum(y.of_x**2, axis=1) / self.units + y.of_u**2 * self.u.rest
        return Scalar(y.mean, y.of_u * self.u.of_u, y.of_u[:, None] * self.u.of_x, rest)

    def law(self) -> Mixture:
        """Law of the row."""
        y = self.reading()
        return Mixture(self.base.weights, y.mean, y.variance(self.base))


def _dropped(y: Scalar, spread: np.ndarray, kept: float, units: int) -> Scalar:
    """After Dropout: each term divided by its probability to be kept, or 0."""
    if kept == 1:
        return y
    own = (1 + spread) * (1 / kept - 1) / units
    return y._replace(mean=y.mean - math.log(kept) - own / 2, rest=y.rest + own)


def start(shape: Shape, log_start: float) -> Place:
    """The input: its units are the same in every draw."""
    return Place(first_order_streams.fixed(shape[0], log_start), None, shape[0])


Walk = Generator[Mixture | None, None, Place | None]


def _walk(sequence: Sequential, place: Place | None, shape: Shape, inside: bool) -> Walk:
    """Yield the law of every leaf in the order of `leaves`, None where there is no rule; return the last place."""
    for layer in sequence.layers:
        if isinstance(layer, Residual):
            place = yield from _block(layer, place, shape, inside)
            yield None if place is None else place.law()
        elif isinstance(layer, Join):
            for branch in layer.branches:
                yield from _walk(branch, None, shape, inside)
            yield None
            place = None
        elif isinstance(layer, Sequential):
            place = yield from _walk(layer, place, shape, inside)
        else:
            place = None if place is None else through(layer, place, shape, inside)
            yield None if place is None else place.law()
        shape = output_shape(layer, shape)
    return place


def _block(block: Residual, place: Place | None, shape: Shape, inside: bool) -> Walk:
    """Branch and shortcut, then the place after the sum; None unless both are fresh or the shortcut is the identity."""
    start = None if place is None or inside or place.kept < 1 else _tracked(place)
    branch = yield from _walk(block.branch, start, shape, inside=True)
    shortcut = yield from _walk(block.shortcut, start, shape, inside=True)
    if start is None or branch is None or shortcut is None or branch.u is None or not branch.plain:
        return None
    identity, base = not block.shortcut.layers, start.base
    if not shortcut.plain or (shortcut.u is None and not identity):
        return None
    u = first_order_streams.itself(base) if shortcut.u is None else shortcut.u
    summed = first_order_streams.total(u, branch.u, base, 2 * math.log(block.scale))
    if identity:
        return Place(first_order_streams.continued(base, summed, base.mean - summed.mean), None, start.units)
    return _fresh(base, summed, branch.units)


def _tracked(place: Place) -> Place:
    """The same with units that later readings share."""
    if place.u is None:
        return place
    base = first_order_streams.fresh(place.units, place.base.weights, place.u.mean, place.u.variance(place.base))
    return place._replace(base=base, u=None)


def _fresh(base: Base, u: Scalar, units: int) -> Place:
    mixture = regridded(Mixture(base.weights, u.mean, u.variance(base)))
    own = first_order_streams.fresh(units, *mixture)
    return Place(own, first_order_streams.itself(own), units)


def through(layer: Any, place: Place, shape: Shape, inside: bool) -> Place | None:
    """The place after a leaf; None if there is no rule. `inside` a branch the base remains that of its start."""
    if isinstance(layer, Dense):
        return _dense(layer, place, shape, inside)
    if isinstance(layer, Activation):
        if str(layer) == "linear":
            return place
        straight = layer.homogeneous_slopes is not None or place.log_factor == 0
        return place._replace(phi=layer) if place.phi is None and place.kept == 1 and straight else None
    if isinstance(layer, Affine):
        return _times(layer, place)
    if isinstance(layer, LayerNorm):
        return place._replace(epsilon=layer.epsilon) if place.plain else None
    if isinstance(layer, Dropout):
        return place._replace(kept=place.kept * (1 - layer.rate))
    return None


def _times(layer: Affine, place: Place) -> Place | None:
    """Fresh units times a number are fresh units; what has been done to others is done before the factor."""
    fresh = place.plain and place.u is not None
    if not layer.factor or (layer.factor < 0 and place.phi is None and not fresh):
        return None
    log_factor = 2 * math.log(abs(layer.factor))
    if fresh and place.u is not None:
        return place._replace(u=place.u._replace(mean=place.u.mean + log_factor))
    return place._replace(log_factor=place.log_factor + log_factor)


def _dense(layer: Dense, place: Place, shape: Shape, inside: bool) -> Place | None:
    if layer.init.distribution == "orthogonal":
        return None
    bias = layer.bias_variance(shape)
    log_gain = math.log(shape[0]) + math.log(layer.weight_variance(shape))
    log_bias = math.log(bias) if bias else -math.inf
    u = first_order_streams.dense(place.reading(), place.base, log_gain, log_bias)
    after = Place(place.base, u, layer.features) if inside else _fresh(place.base, u, layer.features)
    if layer.bias is not None or not bias:
        return after
    of_units = u.mean if inside else after.base.mean
    return after._replace(excess=_UNIFORM * np.exp(2 * np.minimum(log_bias - of_units, 0.0)))
