"""Infinite width: rows in another shape, or some of their channels; see `rearrangements`.

Unflatten    q' = q at every position;   d' = 2 (q − m²) between two of them, m the mean over units; as before for
             two images at one position
Unroll       nothing changes but the shape
Channels     nothing changes: units are alike, and those of different channels independent; the parts of a
             concatenation
Upsample     points several times, at no distance
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bntheory.growth.infinite_width import joins, population, positions, sizes
from bntheory.growth.infinite_width.population import Population
from bntheory.growth.infinite_width.state import MOST_POINTS, State, log_mean, rows_of, worse
from bntheory.layers import Shape, both
from bntheory.rearrangements import Channels, Unflatten, Unroll, Upsample


def unflatten(layer: Unflatten, state: State, shape: Shape) -> State | None:
    """Units of a vector are alike and independent, so each can be that of any channel and position.

    None where they may not be independent: those of a flattened image, and where given numbers are left in them.
    ValueError if there are too many positions to carry their distances.
    """
    count = layer.positions
    refuse_many(layer, count, state)
    given = 0 in rows_of(state.lineage) and (state.mixed or state.population is not None)
    if count > 1 and (state.flattened or given):
        return None
    log_apart = _log_apart(state) if count > 1 and state.log_d is not None else -math.inf
    state = _as_copies(state)

    def spread(block: np.ndarray) -> np.ndarray:
        apart = np.full((count, count), log_apart)
        np.fill_diagonal(apart, block[0, 0])
        return apart

    log_q = np.full(count, state.log_q[0])

    def sampled() -> Population:
        units = population.drawn(state)
        return units if count == 1 else population.matched(_at_positions(units, count), log_q)

    return dataclasses.replace(
        state.mapped(spread),
        log_q=log_q,
        sizes=None if state.sizes is None else np.repeat(state.sizes, count, axis=1),
        channel_method=worse(state.channel_method, "population")
        if math.isfinite(log_apart) and not state.centred
        else state.channel_method,
        # after a BatchNorm over a small batch, a point's inputs lie on a sphere, and two points on one each
        gaussian=state.gaussian and (count == 1 or state.population is None or math.isinf(state.sphere)),
        population=None if state.population is None else functools.cache(sampled),
        values=None,
    )


def refuse_many(layer: Any, count: int, state: State) -> None:
    """ValueError if there would be too many positions to carry their distances."""
    if count > MOST_POINTS and state.log_d is not None:
        raise ValueError(
            f"{layer}: distances between at most {MOST_POINTS} positions are carried, got {count}: use smaller images, "
            "or covariances=False for second moments only"
        )


def _log_apart(state: State) -> float:
    """ln 2 (q − m²), the mean over given vectors."""
    if state.centred:
        return state.log_second_moment + math.log(2)
    units = population.drawn(state)
    return float(positions.log(2 * units.particles.var(axis=0, dtype=float).mean())) + 2 * units.log_scale


def _as_copies(state: State) -> State:
    """Given vectors, points of a single copy, as copies of one point: their mean second moment and mean distance."""
    if state.points == 1:
        return state
    count, log_q = state.points, log_mean(state.log_q)
    cross = None
    if state.log_d is not None:
        cross = np.full((1, 1), log_mean(state.log_d) + math.log(count / (count - 1)))

    def sampled() -> Population:
        particles, fields, scale, _ = population.drawn(state)
        pooled = np.sort(particles.ravel())[count // 2 :: count]
        return Population(pooled[: len(particles), None], None if fields is None else fields.swapaxes(1, 2), scale)

    return dataclasses.replace(
        state,
        log_q=np.array([log_q]),
        log_d=None if state.log_d is None else np.full((1, 1), -math.inf),
        log_cross=cross,
        copies=count,
        population=None if state.population is None else functools.cache(sampled),
    ).unfolded(sizes.roots(np.exp(state.log_q - log_q)[:, None]) if log_q > -math.inf else None)


def _at_positions(units: Population, count: int) -> Population:
    """Other units at every position, so many of them that they fit into memory."""
    particles, fields, scale, _ = units
    kept, step = 1 if fields is None else fields.shape[1], max(1, len(particles) * count // population.MOST_NUMBERS)
    some = particles[step // 2 :: step]
    if fields is not None:
        most = max(population.FEWEST, 2 * population.MOST_NUMBERS // (kept * count))
        rng = np.random.default_rng((len(fields), kept, count))
        order = np.stack([rng.permutation(len(fields))[:most] for _ in range(count)], axis=1)
        fields = np.moveaxis(fields[order, :, 0], 2, 1)
    return Population(np.repeat(some, count, axis=1), fields, scale)


def channels(layer: Channels, state: State, shape: Shape) -> State | None:
    """Some of the channels; None where they may differ in a way that is not carried."""
    return joins.some(state, layer.start, layer.stop, shape[0])


def upsample(layer: Upsample, state: State, shape: Shape) -> State:
    """The same points several times."""
    index = repeated(layer, shape)
    refuse_many(layer, len(index), state)

    def sampled() -> Population:
        particles, fields, scale, _ = population.drawn(state)
        return Population(particles[:, index], None if fields is None else fields[..., index], scale)

    return dataclasses.replace(
        state.mapped(lambda block: block[np.ix_(index, index)]),
        log_q=state.log_q[index],
        sizes=None if state.sizes is None else state.sizes[:, index],
        population=None if state.population is None else functools.cache(sampled),
    )


def repeated(layer: Upsample, shape: Shape) -> np.ndarray:
    """Which position every output repeats.

    >>> repeated(Upsample((1, 2)), (1, 2, 2))
    array([0, 0, 1, 1, 2, 2, 3, 3])
    """
    down, across = both(layer.factor)
    return np.arange(math.prod(shape[1:])).reshape(shape[1:]).repeat(down, axis=0).repeat(across, axis=1).ravel()


def applied(layer: Any, values: np.ndarray) -> np.ndarray:
    """The same of given values."""
    if isinstance(layer, Channels):
        return values[:, layer.start : layer.stop]
    if isinstance(layer, Upsample):
        down, across = both(layer.factor)
        return values.repeat(down, axis=2).repeat(across, axis=3)
    return values.reshape(len(values), *layer.output_shape(values.shape[1:]))


def unroll(layer: Unroll, state: State, shape: Shape) -> State:
    """Positions are points in the same order."""
    return state


RULES: dict[type, Callable[[Any, State, Shape], State | None]] = {
    Unflatten: unflatten,
    Unroll: unroll,
    Channels: channels,
    Upsample: upsample,
}
