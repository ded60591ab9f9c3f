"""Infinite width: weights over positions, the same for all channels.

    Mix    K'_tt' = 0 but on the diagonal,   K'_tt = σ_w² mean_s K_ss + σ_b²;   so for two images

with K the mean over channels of products at two positions (of one image, or of two): expectations over weights, exact.
A channel's output is Gaussian given its input, with a variance that is the quadratic form of the weights with K: it
settles at its expectation where K has many modes of about one size, over many positions that are not alike. After tanh
of independent positions the mean of ln⟨h²⟩ is 0.022 lower at 16 of them, and 0.006 at 64.
"""

from __future__ import annotations

import math

import numpy as np

from bntheory.growth.infinite_width import joins, positions, sizes
from bntheory.growth.infinite_width.state import State, inexact, log_mean
from bntheory.layers import Shape
from bntheory.positional import Mix


def mix(layer: Mix, state: State, shape: Shape, row: int) -> State | None:
    """Moments after the weights; channels stay what they are: uncorrelated with the input, not independent of it."""
    if state.parts:
        return joins.by_parts(
            lambda part, channels: mix(layer, part, (channels, *shape[1:]), row), state, frozenset((row,))
        )
    roots, state = state.sizes, state.folded()
    count, bias = layer.features, layer.bias_variance(shape)
    log_gain = math.log(layer.weight_variance(shape)) + math.log(shape[1])
    log_mean_q = state.log_second_moment + log_gain
    log_bias = math.log(bias) if bias else -math.inf
    log_q = np.logaddexp(log_mean_q, log_bias)
    apart = np.full((count, count), log_q + math.log(2))

    def on_the_diagonal(value: float) -> np.ndarray:
        block = apart.copy()
        np.fill_diagonal(block, value)
        return block

    log_cross = None
    if state.log_cross is not None:
        log_cross = on_the_diagonal(log_mean(np.diagonal(state.log_cross)) + log_gain)
    if roots is not None:
        own = log_mean(state.log_q + 2 * positions.log(roots), axis=1) + log_gain
        own_q, _ = positions.linear(np.logaddexp(own, log_bias))
        roots = np.repeat(sizes.roots(own_q[:, None]), count, axis=1)
    after = State(
        np.full(count, log_q),
        None if state.log_d is None else on_the_diagonal(-math.inf),
        log_cross,
        state.copies,
        method=state.method,
        channel_method=inexact(state.channel_method),
        symmetric=True,
        lineage=frozenset((row,)),
        beside=state.lineage | state.beside,
        unlike=state.unlike or state.values is not None,
    )
    return after.unfolded(roots)
