"""How far the contributions of images and positions to a weight's gradient cancel: the ratio a/b of table 1.

The gradient of a weight is a sum over images i and positions P of d_iP = g_iP h_i(P + β), and

    a = Σ |d_iP|,   b = |Σ d_iP|,   E a/E b = B Σ_P E|g_P| mean_β E|h(P + β)| / √(2/π · E (Σ d)²)

with E|g| that of a Gaussian variable times slopes, as a gradient is at infinite width, and E|h| from the units' law.
Bjorck, Gomes, Selman, Weinberger 2018, section 3.3 and table 1.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bntheory import arguments
from bntheory.growth import walk
from bntheory.growth.backward import covariances as gradient_covariances
from bntheory.growth.backward import gradient_rows
from bntheory.growth.backward.covariances import SAMPLED
from bntheory.growth.backward.gradient_rows import Gradient
from bntheory.growth.infinite_width import population, positions
from bntheory.growth.infinite_width.state import State, start
from bntheory.growth.prediction import Growth
from bntheory.layers import Conv, Dense, Shape
from bntheory.networks import Sequential, leaves


def kernel_alignment(
    net: Sequential, inputs: Any = None, batch_size: int | None = None, alike: float = 0.0
) -> np.ndarray:
    """Return E a/E b of every layer's weights: 1 if all contributions have one sign, large if they cancel.

    Parameters
    ----------
    net : Sequential
    inputs : array (B, *input shape), optional
    batch_size : int, optional
        B, without inputs.
    alike : float
        Correlation, in [0, 1], of the gradients of two images at the output, which are otherwise white: near 1 for a
        loss to which all images look the same.

    Returns
    -------
    array (rows,)
        NaN where a row has no weights, or no rule.

    Raises
    ------
    ValueError
        If alike is not in [0, 1], batch_size and inputs are both missing, or as `predict_growth` does.

    Notes
    -----
    Infinite width. Given the unit that is read Σ d is taken for Gaussian over weights; its variance is averaged over
    sampled units. Gradients are taken for independent of activations: without BatchNorm that ends in deep networks,
    at any width, where `share_along_activations` is no longer small; a/b then is of order 1.

    References
    ----------
    Bjorck, Gomes, Selman, Weinberger 2018 (arXiv 1806.02375), table 1.

    Examples
    --------
    >>> net = Sequential((Dense(5),), (5,))
    >>> print([round(float(kernel_alignment(net, batch_size=16, alike=alike)[1]), 2) for alike in (0, 1)])
    [3.24, 4.0]
    """
    alike = arguments.number("alike", alike, at_least=0)
    if alike > 1:
        raise ValueError(f"alike must be at most 1, got {alike:g}")
    if inputs is None and batch_size is None:
        raise ValueError("contributions are summed over a batch: give inputs or batch_size, got neither")
    rows = tuple(leaves(net))
    first = start(inputs, rows[0].shape, batch_size)
    trail, way = _Sizes(rows, [walk.UNKNOWN]), list[walk.Way]()
    trail.correlated = True
    last = trail.through(net, walk.Here(first, None), rows[0].shape, way).state
    ratios = np.full(len(rows), math.nan)

    def visit(step: walk.Way, gradient: Gradient) -> None:
        if step.weight_gradient is not None and step.row in trail.read:
            ratios[step.row] = _ratio(step.weight_gradient, trail.read[step.row], gradient)

    if last is not None:
        walk.back(way, _output(last, alike), visit)
    return ratios


def share_along_activations(growth: Growth) -> np.ndarray:
    """Return the share that a gradient's part along the activations should have in its square, at first order.

    Networks of ReLUs without biases and normalizations are homogeneous: by Euler's theorem ⟨∂ℓ/∂h, h⟩ is the same in
    every row that all paths cross, ⟨δ, o⟩ of the output o and its gradient δ. With δ white,

        E ⟨∂ℓ/∂h, h⟩² / (E ‖∂ℓ/∂h‖² E ‖h‖²) = q_o / (n q · E ‖∂ℓ/∂h‖²/E ‖δ‖²),    n numbers of mean square q.

    Infinite width has gradients independent of activations, so that it holds while this is small: it is of order
    1/width at the output, and grows with every residual block on the way back, as products of sizes shrink. A
    BatchNorm takes this part of a gradient away.

    Parameters
    ----------
    growth : Growth

    Returns
    -------
    array (rows,)
        May exceed 1, where infinite width does not hold at all. Of no meaning with biases or normalizations, and in the
        parts of blocks; NaN where growth has no gradient.

    References
    ----------
    Yang 2019 (arXiv:1902.04760), on the independence of gradients.

    Examples
    --------
    A linear network, whose gradient on a random input has a component 1/n along it:

    >>> from bntheory import predict_growth
    >>> net = Sequential((Dense(50), Dense(50)), (50,))
    >>> print(share_along_activations(predict_growth(net)).round(4))
    [0.02 0.02 0.02]
    """
    units = np.array([math.prod(row.shape) for row in growth.rows])
    log_second = growth.log_second_moment
    return np.exp(log_second[-1] - log_second - growth.log_gradient) / units


class _Read(NamedTuple):
    """What the weights of a row read."""

    root: float  # √(images/weights)
    size: np.ndarray  # mean of E|h| over the kernel, (points,)
    units: np.ndarray  # a sample of them, (m, kept, points that are read)
    pulled: Callable[[np.ndarray], np.ndarray]  # a matrix of output points as one of the points that are read


class _Sizes(walk.Trail):
    """Also keeps what every row of weights reads."""

    evenness = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.read: dict[int, _Read] = {}

    def _leaf(self, layer: object, here: walk.Here, shape: Shape, way: list[walk.Way]) -> walk.Here:
        if isinstance(layer, (Dense, Conv)) and here.state is not None:
            self.read[len(self.taken)] = _read(layer, here.state, shape)
        return super()._leaf(layer, here, shape, way)


def _read(layer: Dense | Conv, state: State, shape: Shape) -> _Read:
    size, units = _units(state)
    if isinstance(layer, Dense):
        return _Read(math.sqrt(state.copies * shape[0] * layer.features), size, units, lambda block: block)
    mean = positions.window_sums(layer, shape, size) / layer.area
    weights = layer.channels * shape[0] // layer.groups * layer.area
    pulled = functools.partial(gradient_covariances.convolved, layer, shape)
    return _Read(math.sqrt(state.copies * weights), mean, units, pulled)


def _units(state: State) -> tuple[np.ndarray, np.ndarray]:
    """E|h| of every point, and sampled units."""
    if state.values is not None:
        units = np.moveaxis(state.values.reshape(*state.values.shape[:2], -1), 1, 0).astype(np.float32)
        units = units if state.values.ndim > 2 else units.swapaxes(1, 2)
        return np.abs(units).mean(axis=(0, 1), dtype=float), units
    drawn = population.drawn(state)
    assert drawn.fields is not None
    size = np.abs(drawn.particles).mean(axis=0) * math.exp(drawn.log_scale)
    alike = 1.0 if state.sizes is None else state.sizes.mean(axis=0)  # E|h| is that of an image of mean square
    return size * alike, drawn.fields[:SAMPLED].copy()


def _output(last: State, alike: float) -> Gradient:
    """White at the output, or with that share in common to all images."""
    white = gradient_rows.white(last)
    if alike == 0 or last.batch == 1:
        return white
    own, share = np.eye(last.points, dtype=np.float32), np.float32(alike)
    if last.copies > 1:
        return dataclasses.replace(white, links=(own, own * share * np.float32(last.copies - 1)))
    return dataclasses.replace(white, links=(own + share * (1 - own), None))


def _ratio(weights: walk.WeightGradient, read: _Read, gradient: Gradient) -> float:
    """E a/E b, both over √(2/π)."""
    log_square = weights.log_norm(gradient) - gradient.log_scale
    total = gradient.evenness * float(np.sqrt(gradient.values).reshape(-1, len(read.size)).mean(axis=0) @ read.size)
    return read.root * total * math.exp(-log_square / 2) / _evenness(read, gradient)


def _evenness(read: _Read, gradient: Gradient) -> float:
    """E √V/√(E V), V the variance of Σ d given the unit that is read."""
    within, cross = gradient_covariances.each(read.pulled, gradient.moments())
    units, kept = read.units, read.units.shape[1]
    variance = np.einsum("mkp,mkp->m", units, units @ within) / kept
    if cross is not None and kept > 1:
        total = units.sum(axis=1)
        both = np.einsum("mp,mp->m", total, total @ cross) - np.einsum("mkp,mkp->m", units, units @ cross)
        variance = variance + both / (kept * (kept - 1))
    variance = np.maximum(variance, 0)
    mean = float(variance.mean())
    return float(np.sqrt(variance).mean()) / math.sqrt(mean) if mean > 0 else 1.0
