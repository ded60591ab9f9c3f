"""A network as a list of stretches, what its gradients are walked back through: a stream, operations, Dense layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from bntheory.activations import Activation
from bntheory.growth.finite_width import first_order, first_order_streams
from bntheory.growth.finite_width.first_order import Place
from bntheory.growth.finite_width.first_order_streams import Scalar
from bntheory.layers import Dense, LayerNorm, Shape
from bntheory.networks import Leaf, Residual, Sequential, output_shape


class Stretch(NamedTuple):
    """A stream, and what stands between it and the next: rows of operations, and the Dense layers that end them.

    place : where the operations have led;  rows : of the operations, from the stream's own row on, and what they did;
    dense : rows of the Dense layers and ln of their weight variance (branch first, then shortcut);
    u : ln variance of the next stream over this base; None at the end.
    block : the residual block between them, if it is one;  layer : the Dense layer, if it is none.
    """

    place: Place
    rows: tuple[tuple[int, str], ...]
    dense: tuple[tuple[int, float], ...] = ()
    u: Scalar | None = None
    block: Residual | None = None
    layer: Dense | None = None

    @property
    def identity(self) -> bool:
        """Whether the units go on."""
        return self.block is not None and len(self.dense) == 1


def stretches(net: Sequential, rows: Sequence[Leaf], log_start: float) -> list[Stretch] | None:
    """The whole network as a list of stretches; None if one of its layers has no rule."""
    if len(rows[0].shape) != 1:
        return None
    shape: Shape = rows[0].shape
    place, own = first_order.start(shape, log_start), [(0, "")]
    made: list[Stretch] = []
    row = 0
    for layer in _flat(net):
        stretch = None
        if isinstance(layer, Residual):
            stretch = _block(layer, place, shape, own, row) if place.plain else None
        elif isinstance(layer, Dense):
            after = first_order.through(layer, place, shape, inside=True)
            if after is not None and after.u is not None:
                dense = ((row + 1, math.log(layer.weight_variance(shape))),)
                stretch = Stretch(place, tuple(own), dense, after.u, layer=layer)
        elif isinstance(layer, (Activation, LayerNorm)):
            after = first_order.through(layer, place, shape, inside=False)
            if after is None:
                return None
            place, row = after, row + 1
            own.append((row, _word(layer)))
            continue
        if stretch is None:
            return None
        made.append(stretch)
        row += 1 if stretch.block is None else len(list(_rows_of(stretch.block)))
        shape, own = output_shape(layer, shape), [(row, "")]
        place = _next(stretch, shape[0])
    return [*made, Stretch(place, tuple(own))]


def _flat(sequence: Sequential) -> list[Any]:
    parts = ([layer] if not isinstance(layer, Sequential) else _flat(layer) for layer in sequence.layers)
    return [layer for part in parts for layer in part]


def _word(layer: Any) -> str:
    """What a layer does to a gradient: "norm", "phi" or "linear" (nothing)."""
    return "norm" if isinstance(layer, LayerNorm) else "linear" if str(layer) == "linear" else "phi"


def _rows_of(block: Residual) -> list[Any]:
    return [*_flat(block.branch), *_flat(block.shortcut), block]


def _block(block: Residual, place: Place, shape: Shape, own: list[tuple[int, str]], row: int) -> Stretch | None:
    """A branch of [LayerNorm,] φ, Dense and the identity or a Dense layer beside it."""
    branch, shortcut = _flat(block.branch), _flat(block.shortcut)
    if not branch or not all(isinstance(layer, (Activation, LayerNorm)) for layer in branch[:-1]):
        return None
    inner: Place | None = place
    for layer in branch[:-1]:
        inner = None if inner is None else first_order.through(layer, inner, shape, inside=True)
    ends = [(branch[-1], inner, row + len(branch))]
    if shortcut:
        ends.append((shortcut[0], place, row + len(branch) + 1))
    if len(shortcut) > 1 or inner is None or not all(isinstance(layer, Dense) for layer, _, _ in ends):
        return None
    dense = tuple((at, math.log(layer.weight_variance(shape))) for layer, _, at in ends)
    after = [first_order.through(layer, before, shape, inside=True) for layer, before, _ in ends if before is not None]
    scalars = [end.u for end in after if end is not None and end.u is not None]
    if len(scalars) < len(ends):
        return None
    across = scalars[1] if shortcut else first_order_streams.itself(place.base)
    u = first_order_streams.total(across, scalars[0], place.base, 2 * math.log(block.scale))
    inside = [(row + 1 + at, _word(layer)) for at, layer in enumerate(branch[:-1])]
    return Stretch(inner, (*((at, "") for at, _ in own), *inside), dense, u, block)


def _next(stretch: Stretch, units: int) -> Place:
    """The stream after a stretch."""
    base, u = stretch.place.base, stretch.u
    assert u is not None
    if stretch.identity:
        return Place(first_order_streams.continued(base, u, base.mean - u.mean), None, units)
    return Place(first_order_streams.fresh(units, base.weights, u.mean, u.variance(base)), None, units)
