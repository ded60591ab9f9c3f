"""Infinite width: weighted sums of covariances, of independent parts or of the channels of a concatenation.

Those of given images are the means over images, or pairs of them, so that sizes of their own are folded in before.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bntheory.growth.by_rows import by_rows
from bntheory.growth.infinite_width import positions
from bntheory.growth.infinite_width.sizes import Lost, added, of_blocks
from bntheory.growth.infinite_width.state import State, two


class Sum(NamedTuple):
    """Fields of a `State`."""

    log_q: np.ndarray
    log_d: np.ndarray | None
    log_cross: np.ndarray | None
    sizes: np.ndarray | None


def summed(states: Sequence[State], logs: Sequence[float]) -> Sum:
    """Σ_k e^log_k q_k and Σ_k e^log_k d_k; without distances where one has none."""
    log_q = [state.log_q + log for state, log in zip(states, logs, strict=True)]
    total, sizes = functools.reduce(np.logaddexp, log_q), states[0].sizes
    count = min(len(state.blocks) for state in states)
    if all(state.sizes is sizes for state in states):
        blocks = [[state.blocks[kind] + log for state, log in zip(states, logs, strict=True)] for kind in range(count)]
        return Sum(total, *two([functools.reduce(positions.log_sum, each) for each in blocks]), sizes)
    sizes = added(*zip([state.sizes for state in states], log_q, strict=True))
    lost = list(zip(*(of_blocks(state.sizes) for state in states), of_blocks(sizes), strict=True))
    folded = [_folded([state.blocks[kind] for state in states], logs, log_q, lost[kind]) for kind in range(count)]
    return Sum(total, *two(folded), sizes)


def _folded(
    blocks: Sequence[np.ndarray], logs: Sequence[float], log_q: Sequence[np.ndarray], lost: Sequence[Lost | None]
) -> np.ndarray:
    """One kind of distances, at the sizes of the last."""
    top = max(map(float, map(np.max, log_q)))
    top = top if math.isfinite(top) else 0.0
    q = [np.exp(each - top) for each in log_q]
    *before, after = lost
    assert after is not None

    def of_rows(rows: slice) -> np.ndarray:
        distances = np.zeros((1, 1))
        for block, log, size, each in zip(blocks, logs, q, before, strict=True):
            distance = np.exp(block[rows] + (log - top))
            distances = distances + (distance if each is None else each.add(distance, size[rows, None] + size, rows))
        return positions.log(after.taken(distances, whole, root, rows)) + top

    whole = functools.reduce(np.add, q)
    root = np.sqrt(whole)
    result = by_rows(of_rows, len(whole))
    if not after.between:
        np.fill_diagonal(result, -math.inf)
    return result
