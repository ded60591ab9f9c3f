"""The way back through blocks, and through layers on channels whose units follow several laws.

Of the gradient of a sum the branch gets α², of that of a concatenation every branch its own channels. Of a product
f = u v of independent factors

    γ_u = γ q_v, links times the correlations of v;     of a v that counts at all positions, E Σ g_p g_p' u_p u_p'

The last is large where an activation after the next sum makes g depend on u: there it is E g_p g_p' f_p f_p' over
E v_p v_p', as if v² were independent of the rest. Where activations after further sums do so too it is an estimate,
too small by a factor of about 2 after 8 blocks: it is not shown, and only used as a small share of the gradient of what
u and v read.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bntheory.growth.backward import covariances
from bntheory.growth.backward.gradient_rows import (
    Above,
    Gradient,
    added,
    cut,
    of_moments,
    scaled,
    to_branch,
    to_shortcut,
    together,
)
from bntheory.growth.infinite_width import joins, population, positions
from bntheory.growth.infinite_width.state import State
from bntheory.networks import Residual

MOST_ROUGH = 0.1  # share of an estimate in the gradient of a row
Split = Callable[[Gradient], list[Gradient] | None]
Pullback = Callable[[Gradient], Gradient | None]


def of_sum(block: Residual, shortcut: State, branch: State) -> Split | None:
    """What goes into branch and shortcut; None unless they are independent: g and g φ′(x) do not add up in squares."""
    if not joins.independent(shortcut, branch):
        return None
    return lambda gradient: [to_branch(block, gradient), to_shortcut(gradient)]


def merged(shares: Sequence[Gradient], ends: Sequence[Gradient]) -> Gradient | None:
    """The gradient of a row that all parts of a block read, from what went into them and what came out."""
    logs = [end.log_total(1) for end in ends]
    sizes = [math.exp(log - max(logs)) if math.isfinite(log) else 0.0 for log in logs]
    rough = sum(size for size, share in zip(sizes, shares, strict=True) if share.rough)
    return functools.reduce(added, ends) if rough <= MOST_ROUGH * sum(sizes) else None


def of_concatenation(total: State, channels: Sequence[int]) -> Split:
    """What goes into every branch, by its channels; nothing is known of units that were sampled from all of them."""

    def split(gradient: Gradient) -> list[Gradient] | None:
        unclear = total.parts and not gradient.parts and gradient.values.ndim > 1
        return None if unclear else cut(gradient, channels)

    return split


def of_product(first: State, second: State, evenness: bool) -> Split | None:
    """What goes into both factors; None unless they are independent. `evenness`: whether it is needed."""
    if not joins.independent(first, second):
        return None
    if first.parts or second.parts:
        return _of_pieces(first, second, evenness)
    points = max(first.points, second.points)
    factors = [joins.everywhere(state, points) for state in (first, second)]
    gates = [state.points < points for state in (first, second)]
    even = [_evenness(state) if evenness else 1.0 for state in reversed(factors)]

    def split(gradient: Gradient) -> list[Gradient] | None:
        above = gradient.above
        if gradient.values.ndim > 1 or (above is not None and (above.larger or not any(gates))):
            return None  # slopes of sampled units, which depend on both factors
        own_above = above and Above(above.radial, rough=above.rough)
        made = [
            _gate(gradient, other, own) if gate else _times(gradient, other, even=share, above=own_above)
            for own, other, gate, share in zip(factors, reversed(factors), gates, even, strict=True)
        ]
        known = [each for each in made if each is not None]
        return known if len(known) == 2 else None

    return split


def _of_pieces(first: State, second: State, evenness: bool) -> Split | None:
    pieces = joins.pieces(first, second)
    splits = None if pieces is None else [of_product(one, other, evenness) for _, one, other in pieces]
    if pieces is None or splits is None or None in splits:
        return None
    sizes = [channels for channels, _, _ in pieces]

    def split(gradient: Gradient) -> list[Gradient] | None:
        shares = [each and each(part) for each, part in zip(splits, cut(gradient, sizes), strict=True)]
        known = [share for share in shares if share is not None]
        if len(known) < len(shares):
            return None
        return [together(zip(sizes, parts, strict=True)) for parts in zip(*known, strict=True)]

    return split


def _times(gradient: Gradient, other: State, even: float = 1.0, above: Above | None = None) -> Gradient | None:
    """g v, v an independent factor; None where its correlations are needed and not carried."""
    q, scale = positions.linear(other.log_q)
    links = gradient.links
    if links is not None:
        if other.log_d is None:
            return None
        links = covariances.each(np.multiply, links, covariances.field(other.folded()).correlation)
    return scaled(gradient, q, scale, links=links, evenness=gradient.evenness * even, above=above)


def _gate(gradient: Gradient, other: State, own: State) -> Gradient | None:
    """The sum of g u over all positions, u the factor that is there."""
    product = _times(gradient, other)
    if product is None:
        return None
    moments = product.moments()
    if gradient.above is not None:
        if own.log_d is None:
            return None
        size = other.log_second_moment + gradient.log_scale - product.log_scale
        radial = covariances.times(gradient.above.radial(), np.sqrt(gradient.points * math.exp(size)))
        moments = covariances.ratio(radial, covariances.field(own.folded()).correlation)
    sums = covariances.each(lambda block: block.sum(dtype=float, keepdims=True), moments)
    rough = gradient.above is not None and gradient.above.rough
    return dataclasses.replace(of_moments(sums, product.log_scale, gradient.evenness), rough=rough)


def _evenness(state: State) -> float:
    """E|v|/√(E v²)."""
    particles = population.drawn(state).particles
    size = math.sqrt(float(np.mean(particles**2)))
    return float(np.abs(particles).mean()) / size if size > 0 else 1.0


# --- layers on channels ----------------------------------------------------------------------------------------------


class Channels(NamedTuple):
    """Channels of one law that a layer reads, how many it makes of them, and the way back."""

    read: int
    made: int
    back: Pullback | None


def by_channels(parts: Sequence[Channels]) -> Pullback | None:
    """The way back through a layer that acts on channels one by one."""
    backs = [part.back for part in parts if part.back is not None]
    if len(backs) < len(parts):
        return None

    def back(gradient: Gradient) -> Gradient | None:
        if len(parts) > 1 and not gradient.parts and gradient.values.ndim > 1:
            return None
        pieces = cut(gradient, [part.made for part in parts])
        return _together(
            (part.read, _of_one_law(part, rule, piece)) for part, rule, piece in zip(parts, backs, pieces, strict=True)
        )

    return back


def of_all_channels(back: Pullback) -> Pullback:
    """A way back that is only known where the gradient is the same for all channels."""
    return lambda gradient: None if gradient.parts else back(gradient)


def _of_one_law(part: Channels, back: Pullback, gradient: Gradient) -> Gradient | None:
    """Gradients that differ between channels of one law."""
    if not gradient.parts:
        return back(gradient)
    return _together((size * part.read // part.made, back(piece)) for size, piece in gradient.parts)


def _together(parts: Iterable[tuple[int, Gradient | None]]) -> Gradient | None:
    made = [(channels, part) for channels, part in parts]
    known = [(channels, part) for channels, part in made if part is not None]
    return together(known) if len(known) == len(made) else None
