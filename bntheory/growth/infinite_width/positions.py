"""Positions of an image as points: windows, zero padding and means over windows, for moments and distances.

A convolution maps moments of the points it reads, one offset β of the kernel at a time,

    q'_P = v (C/groups) Σ_β q_{sP+δβ−p},      d'_PP' = v (C/groups) Σ_β d_{sP+δβ−p, sP'+δβ−p}

with v the variance of a weight, s, δ, p stride, dilation and padding. A point of the padding is 0: its distance from
point a is q_a, and 0 from another point of the padding. Everything is done in logarithms with one scale an array.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np

from bntheory.growth.by_rows import by_rows
from bntheory.growth.infinite_width.sizes import Lost, folded, of_blocks, roots
from bntheory.growth.infinite_width.state import State
from bntheory.layers import Conv, Pool, Shape, Window

Slices = tuple[slice, slice]
Pads = tuple[tuple[int, int], ...]  # before and after, of every side


def convolved(
    layer: Conv, state: State, shape: Shape, log_bias: float = -math.inf
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray | None]:
    """Logarithms of the sums over the kernel of second moments and of each matrix of distances, weights apart; sizes.

    The bias, over the variance of a sum, is in the sizes alone.
    """
    positions = layer.output_shape(shape)[1:]
    windows, sides = layer.windows(shape), shape[1:]
    pads = tuple((window.padding, window.padding) for window in windows)
    padded = any(window.padding for window in windows)
    q, q_scale = linear(state.log_q)
    sums, sizes = window_sums(layer, shape, q), None
    if state.sizes is not None:
        bias = math.exp(min(log_bias - q_scale, 700.0))
        sizes = roots(window_sums(layer, shape, state.sizes**2 * q) + bias)

    def of_block(block: np.ndarray, before: Lost | None, after: Lost | None) -> np.ndarray:
        scale = max(float(block.max()), q_scale if padded or before is not None else -math.inf)
        scale = scale if math.isfinite(scale) else 0.0
        distance, size = np.exp(block - scale), np.exp(state.log_q - scale)
        total = _padded(folded(distance, size, before), size, sides, pads)
        for axis, (window, count) in enumerate(zip(windows, positions, strict=True)):
            total = _summed(window, count, total, (axis, axis + 2))
        total = total.reshape(math.prod(positions), -1)
        if after is not None:
            total = after.unfolded(total, sums * math.exp(q_scale - scale) + math.exp(min(log_bias - scale, 700.0)))
        logs = log(total)
        logs += scale
        return logs

    blocks = zip(state.blocks, of_blocks(state.sizes), of_blocks(sizes), strict=False)
    return log(sums) + q_scale, [of_block(*block) for block in blocks], sizes


def window_sums(layer: Conv, shape: Shape, values: np.ndarray) -> np.ndarray:
    """Sums over the kernel, (…, input points) → (…, output points): along one side of the map, then the other.

    >>> window_sums(Conv(1, kernel=2, padding=0), (1, 2, 3), np.arange(6.0))
    array([ 8., 12.])
    """
    lead, windows, (height, width) = values.shape[:-1], layer.windows(shape), shape[1:]
    top, left = (window.padding for window in windows)
    sums = np.zeros((math.prod(lead), height + 2 * top, width + 2 * left), values.dtype)
    sums[:, top : top + height, left : left + width] = values.reshape(-1, height, width)
    for side, (window, count) in enumerate(zip(windows, layer.output_shape(shape)[1:], strict=True)):
        sums = _summed(window, count, sums, (side + 1,))
    return sums.reshape(*lead, -1)


def _summed(window: Window, count: int, values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The sum over the offsets of one side, of `count` outputs, at the same offset along all these axes."""
    parts = []
    for span in spans(window, count):
        parts.append(values[tuple(span if axis in axes else slice(None) for axis in range(values.ndim))])
    return functools.reduce(np.add, parts)


def offsets(windows: tuple[Window, Window], places: Shape) -> Iterator[Slices]:
    """For every offset of a window, the places of a padded map that it reads there in all its own."""
    down, across = (spans(window, count) for window, count in zip(windows, places, strict=True))
    return itertools.product(down, across)


def spans(window: Window, count: int) -> list[slice]:
    """The same along one side."""
    starts = range(0, window.kernel * window.dilation, window.dilation)
    return [slice(start, start + window.stride * (count - 1) + 1, window.stride) for start in starts]


def _padded(d: np.ndarray, q: np.ndarray, sides: Shape, pads: Pads) -> np.ndarray:
    """Distances as (h, w, h, w) with padding: the distance of a point from one outside is its second moment."""
    d = d.reshape(*sides, *sides)
    if not any(map(any, pads)):
        return d
    full = np.zeros(_sizes(sides, pads) * 2)
    inside = tuple(slice(pad[0], pad[0] + side) for side, pad in zip(sides, pads, strict=True))
    full[inside] = q.reshape(*sides, 1, 1)
    full[(slice(None), slice(None), *inside)] = q.reshape(sides)
    full[inside + inside] = d  # both outside: 0
    return full


def _sizes(sides: Shape, pads: Pads) -> Shape:
    return tuple(side + sum(pad) for side, pad in zip(sides, pads, strict=True))


def averaging(layer: Pool, shape: Shape) -> np.ndarray:
    """Matrix (output positions, input positions) of the shares of every position in every window."""
    places = windows(layer, shape)
    matrix = np.zeros((len(places), math.prod(shape[1:]) + 1))
    np.put_along_axis(matrix, places, 1 / places.shape[1], axis=1)
    return matrix[:, :-1]  # the last is the padding


def windows(layer: Pool | Conv, shape: Shape) -> np.ndarray:
    """Positions that every window of a layer reads, (output positions, window); −1 for those of the padding."""
    pads = [(window.padding, window.padding) for window in layer.windows(shape)]
    index = np.pad(np.arange(math.prod(shape[1:])).reshape(shape[1:]), pads, constant_values=-1)
    places = offsets(layer.windows(shape), layer.output_shape(shape)[1:])
    return np.stack([index[place].ravel() for place in places], axis=1)


def read(values: np.ndarray, places: np.ndarray, padding: float) -> np.ndarray:
    """What windows read of (…, positions): (…, output positions, window)."""
    if places.min() < 0:
        outside = np.full((*values.shape[:-1], 1), padding, values.dtype)
        values = np.concatenate([values, outside], axis=-1)
    return values[..., places]


def padded(state: State, sides: Shape, pads: Pads) -> tuple[np.ndarray, list[np.ndarray]]:
    """Moments of an image with zeros around it."""
    q, top = linear(state.log_q)
    blocks = [
        log(_padded(np.exp(block - top), q, sides, pads).reshape([math.prod(_sizes(sides, pads))] * 2)) + top
        for block in state.blocks
    ]
    return log(np.pad(q.reshape(sides), pads).ravel()) + top, blocks


def within(sides: Shape, pads: Pads) -> np.ndarray:
    """Where the points of an image are among those of the image with padding."""
    index = np.arange(math.prod(_sizes(sides, pads))).reshape(_sizes(sides, pads))
    return index[tuple(slice(pad[0], pad[0] + side) for side, pad in zip(sides, pads, strict=True))].ravel()


def averaged(matrix: np.ndarray, state: State) -> tuple[np.ndarray, list[np.ndarray]]:
    """Moments of means over windows, A the matrix of shares, whose sum r is less than 1 where the rest is padding.

    |mean_a h|² = r mean_a q_a − ½ mean_ab d_ab, and the distance of two means is mean_ab d_ab less ½ that within each,
    plus (r − r')(mean q − mean q').
    """
    assert state.log_d is not None
    scale = max(float(state.log_d.max()), float(state.log_q.max()))
    scale = scale if math.isfinite(scale) else 0.0
    within = np.exp(state.log_d - scale)
    own = np.einsum("ia,ab,ib->i", matrix, within, matrix, optimize=True) / 2
    share, mean = matrix.sum(axis=1), matrix @ np.exp(state.log_q - scale)
    full = bool(np.ptp(share) < 1e-9)
    logs = [log(np.maximum((mean if full else share * mean) - own, 0)) + scale]
    for block in state.blocks:
        between = matrix @ np.exp(block - scale) @ matrix.T - own[:, None] - own
        if not full:
            between += (share[:, None] - share) * (mean[:, None] - mean)
        logs.append(log(np.maximum(between, 0)) + scale)
        if block is state.log_d:
            np.fill_diagonal(logs[-1], -math.inf)
    return logs[0], logs[1:]


def linear(logs: np.ndarray) -> tuple[np.ndarray, float]:
    """Return exp(logs − top) and top, the largest of them, 0 if all are −inf."""
    top = float(np.max(logs))
    top = top if math.isfinite(top) else 0.0
    return np.exp(logs - top), top


def log_sum(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """ln(e^first + e^second), as np.logaddexp has it, of large arrays in a quarter of the time.

    >>> log_sum(np.array([-1000.0, -math.inf]), np.array([-1000.0, -math.inf])) + 1000
    array([0.69314718,       -inf])
    """

    def sums(rows: slice) -> np.ndarray:
        top, rest = np.maximum(first[rows], second[rows]), np.minimum(first[rows], second[rows])
        with np.errstate(invalid="ignore"):
            return np.fmax(top + np.log1p(np.exp(rest - top)), top)  # the top where both are −inf

    return by_rows(sums, len(first))


def log(values: np.ndarray) -> np.ndarray:
    """ln, −inf for zeros."""
    with np.errstate(divide="ignore"):
        return np.log(values)
