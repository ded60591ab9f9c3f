"""The way back through layers that put a row into another shape, or choose some of its channels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bntheory.growth.backward import covariances
from bntheory.growth.backward.covariances import Blocks
from bntheory.growth.backward.gradient_rows import Above, Gradient, averaged, of_moments, scaled, together
from bntheory.growth.backward.joins import Pullback
from bntheory.growth.infinite_width.state import State
from bntheory.layers import Shape, both
from bntheory.rearrangements import Channels, Unflatten, Unroll, Upsample


def unflatten(layer: Unflatten, before: State, after: State, shape: Shape, correlated: bool) -> Pullback:
    """Units are channels at positions: the mean over positions, with links between images at one position.

    Given vectors are points of a single copy, of which each gets its share. None of gradients of single units whose
    slopes are still to come: which of them was at which position is not kept.
    """
    points, copies, gaussian = before.points, before.copies, before.gaussian
    if layer.positions == 1 and points == 1:
        return lambda gradient: gradient

    def back(gradient: Gradient) -> Gradient | None:
        if gradient.values.ndim > 1 and not gaussian:
            return None
        made = of_moments(_of_vectors(gradient.moments(), points, copies), gradient.log_scale, gradient.evenness)
        links = made.links if gradient.links is not None else None
        above = _above_vectors(gradient, points, copies)
        kept = {"above": above, "tangled": gradient.tangled, "rough": gradient.rough}
        return scaled(made, 1.0, -math.log(points), links=links, **kept)

    return back


def _of_vectors(blocks: Blocks, points: int, copies: float) -> Blocks:
    """Blocks of the images that vectors became, as blocks of the vectors."""
    within, cross = (None if block is None else np.mean(np.diagonal(block), dtype=float) for block in blocks)
    if points == 1:
        one = np.ones((1, 1), np.float32)
        return one * np.float32(within), None if cross is None or copies == 1 else one * np.float32(cross)
    pairs = np.full((points, points), 0.0 if cross is None else cross / (points - 1), np.float32)
    np.fill_diagonal(pairs, within)
    return pairs, None


def _above_vectors(gradient: Gradient, points: int, copies: float) -> Above | None:
    """What a BatchNorm of the vectors must know."""
    above = gradient.above
    if above is None:
        return None

    def of_images(radial: Callable[[], Blocks]) -> Callable[[], Blocks]:
        def blocks() -> Blocks:
            sizes = covariances.times(radial(), np.sqrt(gradient.points))
            total = np.float32(covariances.inverse(np.mean(gradient.points, keepdims=True))[0])
            return covariances.each(lambda block: block * total, _of_vectors(sizes, points, copies))

        return blocks

    shortcut = above.shortcut and of_images(above.shortcut)
    return Above(of_images(above.radial), shortcut, larger=above.larger, rough=above.rough)


def unroll(layer: Unroll, before: State, after: State, shape: Shape, correlated: bool) -> Pullback:
    """Positions stay what they are."""
    return lambda gradient: gradient


def channels(layer: Channels, before: State, after: State, shape: Shape, correlated: bool) -> Pullback:
    """Nothing for all other channels. None of gradients of single units whose slopes are still to come, see `some`."""
    gaussian, numbers = before.gaussian, (layer.start, layer.stop - layer.start, shape[0] - layer.stop)

    def back(gradient: Gradient) -> Gradient | None:
        if gradient.values.ndim == 3 and not gaussian:
            return None
        if gradient.values.ndim == 3:
            gradient = averaged(gradient, above=gradient.above, parts=gradient.parts)
        zero = Gradient(np.zeros_like(gradient.points), gradient.log_scale)
        before, inside, behind = numbers
        own = gradient.parts or ((inside, gradient),)
        pieces = ((before, zero), *own, (behind, zero))
        return together((count, piece) for count, piece in pieces if count)

    return back


def upsample(layer: Upsample, before: State, after: State, shape: Shape, correlated: bool) -> Pullback:
    """Sums over the repetitions of a position."""
    (down, across), (height, width) = both(layer.factor), shape[1:]

    def sums(values: np.ndarray) -> np.ndarray:
        split = values.reshape(*values.shape[:-1], height, down, width, across)
        return split.sum(axis=(-3, -1)).reshape(*values.shape[:-1], -1)

    def both_ways(blocks: Blocks) -> Blocks:
        return covariances.each(lambda block: sums(np.ascontiguousarray(sums(block).T)).T, blocks)

    def back(gradient: Gradient) -> Gradient:
        if gradient.links is None:
            return scaled(dataclasses.replace(gradient, values=sums(gradient.values)), 1.0, tangled=gradient.tangled)
        made = of_moments(both_ways(gradient.moments()), gradient.log_scale, gradient.evenness)
        return dataclasses.replace(made, tangled=gradient.tangled, rough=gradient.rough)

    return back


RULES: dict[type, Callable[[Any, State, State, Shape, bool], Pullback | None]] = {
    Unflatten: unflatten,
    Unroll: unroll,
    Channels: channels,
    Upsample: upsample,
}
