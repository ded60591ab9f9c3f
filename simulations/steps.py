"""A description as a list of steps, one a row, each with the rows it reads: what every engine walks, there and back."""

from __future__ import annotations

from typing import NamedTuple

from bntheory.layers import Shape
from bntheory.networks import Layer, Sequential, leaves, parts, refuse_unknown


class Step(NamedTuple):
    """Row `row` is `layer` applied to the rows `sources`: one, or the ends of the parts of a block."""

    row: int
    layer: Layer
    sources: tuple[int, ...]
    input_shape: Shape
    shape: Shape


def steps(net: Sequential) -> list[Step]:
    """Return the steps of a network in the order of its rows; ``steps(net)[k]`` makes row k + 1.

    Raises
    ------
    ValueError
        If an operation is `Unknown`; it is named.

    Examples
    --------
    >>> from bntheory import mlp
    >>> [(step.row, str(step.layer), step.sources) for step in steps(mlp(1, 4, residual=True))]
    [(1, 'relu', (0,)), (2, 'Dense(4, he_normal)', (1,)), (3, 'Residual([relu, Dense(4, he_normal)])', (2, 0))]
    """
    refuse_unknown(net, "simulated")
    shapes = [row.shape for row in leaves(net)]
    made: list[Step] = []
    _walk(net, 0, shapes, made)
    return made


def _walk(sequence: Sequential, source: int, shapes: list[Shape], made: list[Step]) -> int:
    """Append the steps of a sequence that reads row `source`; return the row it ends in."""
    for layer in sequence.layers:
        if isinstance(layer, Sequential):
            source = _walk(layer, source, shapes, made)
            continue
        sources = tuple(_walk(part, source, shapes, made) for part in parts(layer).values()) or (source,)
        row = len(made) + 1
        made.append(Step(row, layer, sources, shapes[sources[0]], shapes[row]))
        source = row
    return source
