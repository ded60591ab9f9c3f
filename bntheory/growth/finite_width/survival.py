"""How likely a row is to be exactly zero: all units of a ReLU layer negative at once, and nothing that revives it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from bntheory.activations import Activation
from bntheory.layers import Affine, BatchNorm, Conv, Dense, Dropout, GroupNorm, LayerNorm, Shape, Unknown
from bntheory.networks import Join, Sequential, output_shape, parts
from bntheory.positional import ConvTranspose, Mix, Offset
from bntheory.rearrangements import Channels


def p_dead(net: Sequential, shape: Shape) -> np.ndarray:
    """Probability over weight draws that each row is exactly zero, for one input that is not.

    A ReLU layer of n units dies with probability 2^−n, given that what it reads lives; biases revive it. Sums and
    concatenations are dead where all their parts are, products where one is. After an Affine with β ≠ 0 how likely a
    unit is to be negative is not known, and p NaN from the next activation to the next bias. Of products and of images
    this is an upper bound: the positions of a channel need not agree. NaN behind what has no rule, until biases revive
    it.

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
        if sequences := parts(layer):
            ends = [list(here) for _ in sequences]
            for part, end in zip(sequences.values(), ends, strict=True):
                yield from _rows(part, shape, end)
            here[:] = [_joined(layer, [end[0] for end in ends]), False]
            yield here[0]
        elif isinstance(layer, Sequential):
            yield from _rows(layer, shape, here)
        else:
            here[:] = _after(layer, shape, *here)
            yield here[0]
        shape = output_shape(layer, shape)


def _joined(block: Any, dead: list[float]) -> float:
    """Of a sum or a concatenation, dead where all parts are; of a product, where one is; NaN where nothing is known."""
    if isinstance(block, Join) and block.word == "unknown":
        return math.nan
    one_is_enough = isinstance(block, Join) and block.operation == "product"
    return float(np.minimum(1.0, np.sum(dead)) if one_is_enough else np.min(dead))


def _after(layer: Any, shape: Shape, dead: float, centred: bool | None) -> tuple[float, bool | None]:
    if isinstance(layer, Unknown):
        return math.nan, False
    if isinstance(layer, (Dense, Conv, ConvTranspose, Mix)):
        return (0.0 if layer.bias_variance(shape) > 0 else dead), False
    if isinstance(layer, BatchNorm):
        return (dead if layer.gamma else 1.0), layer.training
    if isinstance(layer, Affine):
        gammas, betas = layer.pairs
        return (0.0, None) if any(betas) else (dead if any(gammas) else 1.0, centred)
    if isinstance(layer, Offset):
        return (0.0 if layer.variance else dead), False
    if isinstance(layer, Channels):  # after a ReLU some channels are dead more often than all
        return (dead if dead in (0, 1) or layer.output_shape(shape) == shape else math.nan), centred
    if isinstance(layer, Dropout):
        return _either(dead, layer.rate ** math.prod(shape)), centred
    if isinstance(layer, Activation):
        if layer.homogeneous_slopes is None:
            return (dead if float(layer.phi(0.0)) == 0 else 0.0), False
        silent = layer.homogeneous_slopes.count(0)
        if centred is None and silent:
            return math.nan, False
        return _either(dead, 0.0 if centred or not silent else (silent / 2) ** shape[0]), False
    return dead, centred and not isinstance(layer, (LayerNorm, GroupNorm))


def _either(first: float, second: float) -> float:
    return first + (1 - first) * second
