"""Two-dimensional convolution with given weights, there and back: a matrix product for each position of the kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bntheory.layers import Conv, Window, both
from simulations.signal import Signal, log_square_norm, scaled

Place = tuple[Any, ...]
Pullback = Callable[[Signal], tuple[Signal, float]]


def offsets(windows: tuple[Window, Window], output: Sequence[int]) -> Iterator[tuple[int, int, Place]]:
    """Yield every position (i, j) of a window and what it reads of a map as the window moves: an index for the map.

    Parameters
    ----------
    windows : pair of Window
        How it moves down and across a map that includes the padding.
    output : (height, width)
        Of the output, for which the map is large enough.

    Examples
    --------
    >>> for i, j, place in offsets((Window(1), Window(2, stride=2)), (1, 3)):
    ...     print(i, j, np.arange(6).reshape(1, 6)[place])
    0 0 [[0 2 4]]
    0 1 [[1 3 5]]
    """
    for offset in np.ndindex(*(window.kernel for window in windows)):
        spans = []
        for at, window, count in zip(offset, windows, output, strict=True):
            start = at * window.dilation
            spans.append(slice(start, start + window.stride * (count - 1) + 1, window.stride))
        yield *offset, (..., *spans)


def convolved(layer: Conv, h: Signal, weights: np.ndarray) -> tuple[Signal, Pullback]:
    """Return W ∗ h and its pullback.

    z_o(p) = Σ_{c, t} W_{oct} h_c(stride · p + dilation · t − padding), with c in the group of o.

    Parameters
    ----------
    layer : Conv
        Its initialization and bias are not used.
    h : Signal
        (batch, channels, height, width).
    weights : array (channels / groups · area of the kernel, output channels)
        Inputs ordered as (channel, row, column).

    Returns
    -------
    Signal
        (batch, output channels, height, width).
    callable
        Gradient with respect to z ↦ gradient with respect to h, and ln ‖gradient with respect to W‖².
    """
    batch, channels, *sides = h.values.shape
    outputs, *positions = layer.output_shape((channels, *sides))
    windows = layer.windows(h.values.shape[1:])
    top, left = (window.padding for window in windows)
    padded = _padded(h.values, top, left)
    taps = _taps(layer, weights)
    places = list(offsets(windows, positions))
    z = np.zeros((batch, layer.groups, outputs // layer.groups, positions[0] * positions[1]), h.values.dtype)
    for i, j, place in places:
        z += taps[i, j] @ _columns(padded[place], layer.groups)

    def pullback(gradient: Signal) -> tuple[Signal, float]:
        columns = _columns(gradient.values, layer.groups)
        back, tap_gradients = np.zeros_like(padded), np.empty_like(taps)
        for i, j, place in places:
            back[place] += (taps[i, j].swapaxes(-1, -2) @ columns).reshape(batch, channels, *positions)
            read = _columns(padded[place], layer.groups)
            tap_gradients[i, j] = (columns @ read.swapaxes(-1, -2)).sum(axis=0)
        inside = back[:, :, top : top + sides[0], left : left + sides[1]]
        log_weight_gradient = log_square_norm(tap_gradients) + 2 * (gradient.log_scale + h.log_scale)
        return scaled(inside, gradient.log_scale), log_weight_gradient

    return scaled(z.reshape(batch, outputs, *positions), h.log_scale), pullback


def _padded(values: np.ndarray, top: int, left: int) -> np.ndarray:
    if top == left == 0:
        return values
    batch, channels, height, width = values.shape
    padded = np.zeros((batch, channels, height + 2 * top, width + 2 * left), values.dtype)
    padded[:, :, top : top + height, left : left + width] = values
    return padded


def _taps(layer: Conv, weights: np.ndarray) -> np.ndarray:
    """(kernel's height, its width, groups, outputs of a group, inputs of a group)."""
    grouped = weights.T.reshape(layer.groups, layer.channels // layer.groups, -1, *both(layer.kernel))
    return np.ascontiguousarray(np.moveaxis(grouped, (3, 4), (0, 1)))


def _columns(values: np.ndarray, groups: int) -> np.ndarray:
    """(batch, groups, channels of a group, positions)."""
    batch, channels, height, width = values.shape
    return values.reshape(batch, groups, channels // groups, height * width)
