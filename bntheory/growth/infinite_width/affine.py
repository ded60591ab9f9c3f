"""Infinite width: a factor for all units, and γ h + β with a pair (γ, β) for every unit; see `moments` for the rules.

Units with pairs of their own are a mixture, even where h is Gaussian. It is taken as sampled units, whose pairs are
drawn in turn: pairs are independent of h, and of those of other rows.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from bntheory.growth.infinite_width import population, positions, sizes
from bntheory.growth.infinite_width.population import GOLDEN, Population
from bntheory.growth.infinite_width.state import State, inexact, log_mean
from bntheory.layers import Affine, Shape


def affine(layer: Affine, state: State, shape: Shape) -> State:
    """γ h + β; a factor for all units keeps every law up to scale."""
    if layer.factor is not None:
        return scaled(state, 2 * math.log(abs(layer.factor)) if layer.factor else -math.inf, layer.factor < 0)
    gamma, beta = (np.array(part) for part in layer.pairs)
    # nothing but E γβ E h depends on the mean over units of h, and it grows with the size of an image
    cross = 0.0 if state.centred else float(2 * np.mean(gamma * beta))
    size = np.ones((1, state.points)) if state.sizes is None else state.sizes
    log_gain, log_shift = (log_mean(positions.log(part**2)) for part in (gamma, beta))
    top = max(float(np.max(state.log_q)) + log_gain, log_shift)
    top = top if math.isfinite(top) else 0.0
    q = size**2 * np.exp(state.log_q + log_gain - top) + math.exp(log_shift - top)
    if cross:
        units = population.drawn(state)
        mean = units.particles.mean(axis=0, dtype=float)
        q = np.maximum(q + cross * mean * size * math.exp(units.log_scale - top), 0)
    log_q = positions.log(q.mean(axis=0)) + top
    return dataclasses.replace(
        state.folded().mapped(lambda block: block + log_gain),
        log_q=log_q,
        method="population" if cross else state.method if state.centred else inexact(state.method),
        symmetric=state.symmetric and not beta.any(),
        gaussian=False,
        centred=state.centred and not beta.any(),
        sphere=math.inf,
        mixed=False,
        unlike=state.unlike or len(set(zip(*layer.pairs, strict=True))) > 1,
        population=functools.cache(lambda: population.matched(_in_turn(layer, population.drawn(state)), log_q)),
        features=None,
        divided=None,
        values=None,
    ).unfolded(None if state.sizes is None or state.mixed else sizes.roots(q))


def scaled(state: State, log_factor: float, negative: bool = False) -> State:
    """h times ± exp(log_factor / 2)."""
    return dataclasses.replace(
        state.mapped(lambda block: block + log_factor),
        log_q=state.log_q + log_factor,
        divided=state.divided and dataclasses.replace(state.divided, log_gain=state.divided.log_gain + log_factor),
        population=None
        if state.population is None
        else functools.partial(_scaled_units, state, log_factor / 2, negative),
        features=None,
        values=None,
    )


def at_points(state: State, log_factor: np.ndarray, **changes: Any) -> State:
    """h_p times f_p: d' = f f' [d + q (f/f' − 1) + q' (f'/f − 1)] of two points; other fields as given."""
    q, scale = positions.linear(state.log_q)

    def multiplied(block: np.ndarray) -> np.ndarray:
        ratio = log_factor[:, None] - log_factor
        total = np.exp(block - scale) + q[:, None] * np.expm1(ratio) + q * np.expm1(-ratio)
        return positions.log(np.maximum(total, 0)) + scale + log_factor[:, None] + log_factor

    def sampled() -> Population:
        particles, fields, units_scale, _ = population.drawn(state)
        factor, top = positions.linear(log_factor)
        fields = None if fields is None else fields * factor.astype(np.float32)
        return Population(particles * factor, fields, units_scale + top)

    return state.mapped(
        multiplied,
        log_q=state.log_q + 2 * log_factor,
        population=None if state.population is None else functools.cache(sampled),
        features=None,
        values=None,
        **changes,
    )


def _scaled_units(state: State, log_factor: float, negative: bool) -> Population:
    return population.scaled(population.drawn(state), log_factor, -1 if negative else 1)


def applied(layer: Affine, values: np.ndarray) -> np.ndarray:
    """γ h + β of given values, (batch, units, …)."""
    gamma, beta = (np.array(part).reshape(-1, *(1,) * (values.ndim - 2)) for part in layer.pairs)
    return gamma * values + beta


def in_turn(layer: Affine, count: int) -> tuple[np.ndarray, np.ndarray]:
    """γ and β of so many sampled units: the pairs evenly, and unrelated to the order of units.

    >>> in_turn(Affine((1.0, 2.0, 3.0)), 6)[0]
    array([1., 2., 1., 3., 2., 1.])
    """
    gamma, beta = (np.array(part) for part in layer.pairs)
    index = (np.arange(count) * GOLDEN % 1 * len(gamma)).astype(int)
    return gamma[index], beta[index]


def _in_turn(layer: Affine, units: Population) -> Population:
    largest = [max(map(abs, part)) for part in layer.pairs]
    logs = [math.log(size) if size else -math.inf for size in largest]
    scale = max(units.log_scale + logs[0], logs[1])
    scale = scale if math.isfinite(scale) else 0.0
    shrunk = math.exp(units.log_scale - scale)

    def changed(values: np.ndarray) -> np.ndarray:
        gamma, beta = (
            part.reshape(-1, *(1,) * (values.ndim - 1)).astype(values.dtype) for part in in_turn(layer, len(values))
        )
        return gamma * (values * values.dtype.type(shrunk)) + beta * values.dtype.type(math.exp(-scale))

    fields = None if units.fields is None else changed(units.fields)
    return Population(changed(units.particles), fields, scale)
