"""Infinite width: branches side by side, and their products.

    concatenate  q' = Σ_i c_i q_i     d' = Σ_i c_i d_i     c_i the share of the channels
    product      q' = q_1 q_2         d' = ½ [(q_1 − q_1')(q_2 − q_2') + (q_1 + q_1') d_2 + (q_2 + q_2') d_1 − d_1 d_2]

The units of a concatenation follow several laws. They are kept part by part, since layers that act on channels one by
one act on the parts: a BatchNorm divides every unit by its own deviation. What reads all channels needs the means only.
The factors of a product are independent if no weights are common to them: as those of squeeze-and-excitation are, since
its gate reads means over all channels, of which one counts for nothing. Factors that are functions of the same units
are sampled; others have no rule. Where given images are not alike, both factors grow with an image's sizes r: q' has
the mean of r_1² r_2² over images as a factor.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from bntheory.growth.infinite_width import affine, mixtures, population, positions, sizes
from bntheory.growth.infinite_width.population import Population
from bntheory.growth.infinite_width.state import Lineage, Part, State, disjoint, of_values, rows_of, within, worse

LEAST_GROWTH = 1e-300  # of factors of which one is 0 in every image


def concatenated(channels: Sequence[int], states: Sequence[State], row: int) -> State | None:
    """Moments of states side by side; None if they are of different points."""
    return _side_by_side(list(map(Part, channels, states)), _lineage(states) | {row})


def by_parts(
    function: Callable[[State, int], State | None], state: State, lineage: Lineage, units: int = 1, of: int = 1
) -> State | None:
    """A layer that acts on channels one by one, as a function of every part and its channels; None if one has none.

    It makes `units` out of `of` channels.
    """
    after = [function(part.state, part.channels) for part in state.parts]
    made = [each for each in after if each is not None]
    if len(made) < len(after):
        return None
    channels = [part.channels * units // of for part in state.parts]
    return _side_by_side(list(map(Part, channels, made)), lineage)


def pairwise(function: Callable[[State, State], State | None], first: State, second: State) -> State | None:
    """A function of two states, one of them with parts at least, piece by piece of their channels."""
    made = [(channels, function(one, other)) for channels, one, other in pieces(first, second) or ()]
    known = [Part(channels, state) for channels, state in made if state is not None]
    if not made or len(known) < len(made):
        return None
    return _side_by_side(known, first.lineage | second.lineage)


def pieces(first: State, second: State) -> list[tuple[int, State, State]] | None:
    """Two states, one of them with parts at least, cut into the same channels; None if they cannot be."""
    if first.lineage == second.lineage and cuts(first) != cuts(second):
        return None
    ends = sorted({*cuts(first), *cuts(second)})
    made = []
    for start, end in itertools.pairwise([0, *ends]):
        one, other = (_piece(state, start, end, ends[-1]) for state in (first, second))
        if one is None or other is None:
            return None
        made.append((end - start, one, other))
    return made


def cuts(state: State) -> list[int]:
    """Channels up to the end of every part; none if there are no parts."""
    return list(itertools.accumulate(part.channels for part in state.parts))


def between(state: State, start: int, stop: int) -> State | None:
    """Some channels of a concatenation, part by part; None if one of them is not known."""
    made = []
    for end, part in zip(cuts(state), state.parts, strict=True):
        before = end - part.channels
        first, last = max(start, before), min(stop, end)
        if first < last:
            made.append((last - first, some(part.state, first - before, last - before, part.channels)))
    known = [Part(channels, state) for channels, state in made if state is not None]
    return _side_by_side(known, _lineage(part.state for part in known)) if len(known) == len(made) else None


def some(state: State, start: int, stop: int, channels: int) -> State | None:
    """Some of the channels of a row, all of one law; None if they may differ in a way that is not known.

    Different channels of one row of weights are different units, as if they were of different rows.
    """
    if stop - start == channels:
        return state
    if state.parts:
        return between(state, start, stop)
    given = 0 in rows_of(state.lineage) and (state.mixed or state.population is not None)
    if state.unlike or state.flattened or given:
        return None
    share = Fraction(start, channels)
    lineage = within(state.lineage, share, Fraction(stop, channels))

    def sampled() -> Population:
        units = population.drawn(state)
        if units.fields is None or share == 0:
            return units._replace(parts=None)
        order = np.random.default_rng((*share.as_integer_ratio(),)).permutation(len(units.fields))
        return units._replace(fields=units.fields[order], parts=None)

    return dataclasses.replace(
        state, lineage=lineage, population=None if state.population is None else functools.cache(sampled)
    )


def _piece(state: State, start: int, end: int, channels: int) -> State | None:
    """The units of some channels; None if they may differ from the others in a way that is not known."""
    for stop, part in zip(cuts(state), state.parts, strict=True):
        if stop >= end:
            inside = start - (stop - part.channels)
            return _piece(part.state, inside, inside + end - start, part.channels)
    if end - start == channels:
        return state
    if state.values is not None:
        return known(state.values[:, start:end], [state])
    return None if 0 in rows_of(state.lineage) or state.unlike else state  # 0: given numbers may be left in them


def known(values: np.ndarray, states: Iterable[State]) -> State:
    """A batch that is made of others."""
    states = list(states)
    made = of_values(values, all(state.log_d is not None for state in states))
    return dataclasses.replace(made, **_words(states), lineage=_lineage(states))


def _words(states: Sequence[State]) -> dict[str, Any]:
    return {
        "method": worse(*(state.method for state in states)),
        "channel_method": worse(*(state.channel_method for state in states)),
    }


def _lineage(states: Iterable[State]) -> Lineage:
    return frozenset(source for state in states for source in state.lineage)


def alike(first: State, second: State) -> bool:
    """Whether two states are of the same points."""
    return first.points == second.points and first.copies == second.copies


# --- concatenation ---------------------------------------------------------------------------------------------------


def _side_by_side(pieces: list[Part], lineage: Lineage) -> State | None:
    first, states = pieces[0].state, [piece.state for piece in pieces]
    if not all(alike(first, state) for state in states):
        return None
    values = [state.values for state in states if state.values is not None]
    if len(values) == len(states):
        return dataclasses.replace(known(np.concatenate(values, axis=1), states), lineage=lineage)
    if all(_same_law(first, state) for state in states):
        return dataclasses.replace(first, **_words(states), lineage=lineage)
    parts = tuple(part for piece in pieces for part in piece.state.parts or (piece,))
    total = sum(part.channels for part in parts)
    logs = [math.log(piece.channels / total) for piece in pieces]
    whole = mixtures.summed(states, logs)
    return State(
        **whole._asdict(),
        copies=first.copies,
        **_words(states),
        symmetric=all(state.symmetric for state in states),
        gaussian=False,
        centred=all(state.centred for state in states),
        lineage=lineage,
        population=functools.cache(lambda: population.matched(_drawn(parts, total), whole.log_q)),
        mixed=any(state.mixed for state in states),
        parts=parts,
    )


def _same_law(first: State, other: State) -> bool:
    """Whether the units of two states have one law: then nothing tells them apart."""
    if first is other:
        return not first.parts and first.values is None
    plain = all(
        state.gaussian and state.population is None and not state.mixed and state.values is None
        for state in (first, other)
    )
    flags = [(state.sphere, state.symmetric, state.centred, state.sizes is None) for state in (first, other)]
    one, two = (
        [each for each in (state.log_q, *state.blocks, state.sizes) if each is not None] for state in (first, other)
    )
    same = len(one) == len(two) and all(map(np.array_equal, one, two))
    return plain and flags[0] == flags[1] and same


def _drawn(parts: Sequence[Part], channels: int) -> Population:
    """Sampled units of all parts, as many of each as it has channels."""
    drawn = [population.drawn(part.state) for part in parts]
    shares = [part.channels / channels for part in parts]
    scale = max(units.log_scale for units in drawn)
    factors = [math.exp(units.log_scale - scale) for units in drawn]
    count = min(len(units.particles) for units in drawn)
    particles = [
        factor * _some(units.particles, count * share)
        for units, factor, share in zip(drawn, factors, shares, strict=True)
    ]
    fields = [units.fields for units in drawn if units.fields is not None]
    if len(fields) < len(drawn):
        return Population(np.concatenate(particles), None, scale)
    many, kept = (min(units.shape[axis] for units in fields) for axis in (0, 1))
    some = [
        np.float32(factor) * _some(units[:, :kept], many * share)
        for units, factor, share in zip(fields, factors, shares, strict=True)
    ]
    return Population(np.concatenate(particles), np.concatenate(some), scale)


def _some(units: np.ndarray, count: float) -> np.ndarray:
    """About that many units, evenly spread."""
    some = max(1, round(count))
    return units[((np.arange(some) + 0.5) * len(units) / some).astype(int)]


# --- product ---------------------------------------------------------------------------------------------------------


def independent(first: State, second: State) -> bool:
    """Whether no weights are common to two states."""
    return disjoint(first.lineage, second.lineage)


def product(first: State, second: State, row: int) -> State | None:
    """Moments of the product of two rows, one of them at a single position, perhaps; None if there is no rule."""
    if first.copies != second.copies or (not alike(first, second) and min(first.points, second.points) > 1):
        return None
    if first.values is not None and second.values is not None:
        return known(first.values * second.values, [first, second])
    if not independent(first, second) and not alike(first, second):
        return None
    apart = disjoint(first.lineage | first.beside, second.lineage | second.beside)
    if not apart and (first.lineage, first.windows) != (second.lineage, second.windows):
        return None
    points = max(first.points, second.points)
    first, second = everywhere(first, points), everywhere(second, points)
    if first.parts or second.parts:
        made = pairwise(functools.partial(product, row=row), first, second)
    else:
        made = _independent(first, second, row) if independent(first, second) else _same(first, second)
    return made and dataclasses.replace(made, lineage=made.lineage | {row})


def everywhere(state: State, points: int) -> State:
    """A row of one position, at all positions of a map."""
    if state.points == points:
        return state
    index = np.zeros(points, int)

    def sampled() -> Population:
        particles, fields, scale, _ = population.drawn(state)
        return Population(particles[:, index], None if fields is None else fields[..., index], scale)

    return dataclasses.replace(
        state.mapped(lambda block: block[np.ix_(index, index)]),
        log_q=state.log_q[index],
        sizes=None if state.sizes is None else state.sizes[:, index],
        population=sampled,
        features=None,
        parts=tuple(part._replace(state=everywhere(part.state, points)) for part in state.parts),
        values=None if state.values is None else np.broadcast_to(state.values, (*state.values.shape[:2], 1, points)),
    )


def _independent(first: State, second: State, row: int) -> State:
    grown, roots = _grown(first, first.sizes, second.sizes)
    log_q = grown.log_q + second.log_q
    log_d, log_cross = (
        None if one is None or other is None else _distances(grown.log_q, second.log_q, one, other)
        for one, other in ((grown.log_d, second.log_d), (grown.log_cross, second.log_cross))
    )

    def sampled() -> Population:
        one, other = _of_one_size(population.drawn(first), population.drawn(second))
        paired = other.particles[population.pairing(one.particles, row)]
        return population.matched(_times(one, other._replace(particles=paired)), log_q)

    made = State(
        log_q,
        log_d,
        log_cross,
        first.copies,
        roots,
        method=worse(first.method, second.method, "mean-field"),
        channel_method=worse(first.channel_method, second.channel_method, "mean-field"),
        gaussian=False,
        centred=first.centred or second.centred,
        lineage=first.lineage | second.lineage,
        flattened=first.flattened or second.flattened,
        unlike=first.unlike or second.unlike,
        beside=first.beside | second.beside,
        population=functools.cache(sampled),
    )
    return made.folded() if _given(first, second) else made


def _given(*factors: State) -> bool:
    """Whether sampled units have the sizes of given images, as these are left in them."""
    return any(state.mixed or state.values is not None for state in factors)


def _grown(state: State, first: np.ndarray | None, second: np.ndarray | None) -> tuple[State, np.ndarray | None]:
    """A state of images that grow by both their sizes, with second moments of its own, and the sizes of the product."""
    if first is None or second is None:
        return state, second if first is None else first
    growth, roots = sizes.times(first, second)
    return affine.at_points(state, positions.log(np.maximum(growth, LEAST_GROWTH)) / 2), roots


def _distances(log_q: np.ndarray, log_p: np.ndarray, log_d: np.ndarray, log_e: np.ndarray) -> np.ndarray:
    """Of products, from the second moments and distances of the factors."""
    (q, q_scale), (p, p_scale) = positions.linear(log_q), positions.linear(log_p)
    d, e = np.exp(log_d - q_scale), np.exp(log_e - p_scale)
    sizes = (q[:, None] - q) * (p[:, None] - p)
    total = sizes + (q[:, None] + q) * e + (p[:, None] + p) * d - d * e
    return positions.log(np.maximum(total / 2, 0)) + (q_scale + p_scale)


def _of_one_size(first: Population, second: Population) -> tuple[Population, Population]:
    """As many units, and copies of the points, as the smaller of two samples has."""
    count = min(len(first.particles), len(second.particles))
    fields = [units.fields for units in (first, second) if units.fields is not None]
    many, kept = (min(units.shape[axis] for units in fields) for axis in (0, 1)) if fields else (0, 0)
    made = [
        Population(
            _some(units.particles, count),
            None if units.fields is None else _some(units.fields[:, :kept], many),
            units.log_scale,
        )
        for units in (first, second)
    ]
    return made[0], made[1]


def _times(first: Population, second: Population) -> Population:
    fields = None
    if first.fields is not None and second.fields is not None:
        fields = first.fields * second.fields
    return Population(first.particles * second.particles, fields, first.log_scale + second.log_scale)


def _same(first: State, second: State) -> State | None:
    """Of functions of the same units, from a sample of them."""
    one = population.drawn(first)
    other = population.drawn(second, like=one)
    shapes = [(units.particles.shape, None if units.fields is None else units.fields.shape) for units in (one, other)]
    if shapes[0] != shapes[1]:
        return None
    units = _times(one, other)
    if units.fields is not None:  # whole units are paired as they are, particles by their ranks
        units = units._replace(particles=population.quantiles_of(units.fields, len(units.particles)))
    made, roots = population.sampled_state(first, lambda _: units), None
    if not _given(first, second):
        made, roots = _grown(made, first.sizes, second.sizes)
    unlike = first.unlike or second.unlike
    return dataclasses.replace(made, **_words([made, second]), sizes=roots, unlike=unlike)
