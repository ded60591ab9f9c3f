"""Infinite width: transposed convolutions, as convolutions of a map with zeros between its positions.

    q'_P = v C Σ_β q_i,   P = s i + β − p,       d'_PP' = v C Σ_β d_ii'

over the kernel, with s and p stride and padding, v the variance of a weight, C the channels that are read; where β does
not meet a position there is a zero, whose distance from point a is q_a. See `positions`.
"""

from __future__ import annotations

import math

import numpy as np

from bntheory.growth.infinite_width.rearranged import refuse_many
from bntheory.growth.infinite_width.state import State
from bntheory.layers import Shape
from bntheory.positional import ConvTranspose


def inside(layer: ConvTranspose, shape: Shape) -> np.ndarray:
    """Where the positions of a map are among those of the map with zeros between them.

    >>> inside(ConvTranspose(1, kernel=2, stride=2, padding=0), (1, 2, 2))
    array([0, 2, 6, 8])
    """
    _, *sides = layer.spread_shape(shape)
    index = np.arange(math.prod(sides)).reshape(sides)
    return index[layer.places(shape)].ravel()


def spread(layer: ConvTranspose, state: State, shape: Shape) -> State:
    """The map with zeros between its positions; ValueError if there would be too many to carry distances."""
    index, count = inside(layer, shape), math.prod(layer.spread_shape(shape)[1:])
    for positions in (count, math.prod(layer.output_shape(shape)[1:])):
        refuse_many(layer, positions, state)
    log_q = np.full(count, -math.inf)
    log_q[index] = state.log_q

    def with_zeros(block: np.ndarray) -> np.ndarray:
        full = np.full((count, count), -math.inf)
        full[index], full[:, index] = state.log_q[:, None], state.log_q
        full[np.ix_(index, index)] = block
        return full

    sizes = None
    if state.sizes is not None:
        sizes = np.ones((len(state.sizes), count))
        sizes[:, index] = state.sizes
    return state.mapped(with_zeros, log_q=log_q, sizes=sizes, population=None, parts=(), values=None)
