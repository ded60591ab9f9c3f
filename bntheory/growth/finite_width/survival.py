"""How likely a row is to be exactly zero: all units of a ReLU layer negative at once, and nothing that revives it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from bntheory.activations import Activation
from bntheory.layers import BatchNorm, Conv, Dense, Dropout, GroupNorm, LayerNorm, Shape
from bntheory.networks import Residual, Sequential, output_shape


def p_dead(net: Sequential, shape: Shape) -> np.ndarray:
    """Probability over weight draws that each row is exactly zero, for one input that is not.

    A ReLU layer of n units dies with probability 2^−n, given that what it reads lives; biases revive it; a sum is dead
    where both its parts are. Of images this is an upper bound: the positions of a channel need not agree.

    Parameters
    ----------
    net : Sequential
    shape : tuple
        Of the input.

    Returns
    -------
    array, one entry a row

    Examples
    --------
    >>> from bntheory import mlp
    >>> p_dead(mlp(2, 4), (4,)).tolist()
    [0.0, 0.0, 0.0625, 0.0625, 0.12109375]
    """
    return np.array([0.0, *_rows(net, shape, [0.0, False])])


def _rows(sequence: Sequential, shape: Shape, here: list[Any]) -> Iterator[float]:
    """Probabilities row by row; `here` holds the last one, and whether a BatchNorm has just centred every unit."""
    for layer in sequence.layers:
        if isinstance(layer, Residual):
            branch, shortcut = list(here), list(here)
            yield from _rows(layer.branch, shape, branch)
            yield from _rows(layer.shortcut, shape, shortcut)
            here[:] = [min(branch[0], shortcut[0]), False]
            yield here[0]
        elif isinstance(layer, Sequential):
            yield from _rows(layer, shape, here)
        else:
            here[:] = _after(layer, shape, *here)
            yield here[0]
        shape = output_shape(layer, shape)


def _after(layer: Any, shape: Shape, dead: float, centred: bool) -> tuple[float, bool]:
    if isinstance(layer, (Dense, Conv)):
        return (0.0 if layer.bias_variance(shape) > 0 else dead), False
    if isinstance(layer, BatchNorm):
        return (dead if layer.gamma else 1.0), layer.training
    if isinstance(layer, Dropout):
        return _either(dead, layer.rate ** math.prod(shape)), centred
    if isinstance(layer, Activation):
        if layer.homogeneous_slopes is None:
            return (dead if float(layer.phi(0.0)) == 0 else 0.0), False
        silent = layer.homogeneous_slopes.count(0)
        return _either(dead, 0.0 if centred or not silent else (silent / 2) ** shape[0]), False
    return dead, centred and not isinstance(layer, (LayerNorm, GroupNorm))


def _either(first: float, second: float) -> float:
    return first + (1 - first) * second
