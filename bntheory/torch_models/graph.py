"""The calls of one forward pass as a graph, and the description it amounts to.

A call with one parent is a leaf; a sum, a concatenation or a product of two paths that part at a common ancestor is a
block of two branches. Paths that cross are unfolded: what two branches share appears in both, and what becomes of
their outputs then has no rule. Neither has a sum or product of paths with weights that an earlier row has: they need
not be independent.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from bntheory.activations import Activation
from bntheory.layers import Shape, Unknown
from bntheory.networks import Join, Residual, Sequential

MOST_ROWS = 100_000  # of a description, which crossing paths may make larger than the graph


class Sum(NamedTuple):
    """h_1 + h_2."""


@dataclass(frozen=True)
class Node:
    """One row of the network.

    name : of the module or function that was called;  parents : of what it reads, in order;
    layer : a leaf, or `Sum`, "concatenate", "product" or an `Unknown` of several parents; None for the input;
    shape : of its output, as a description has it.
    """

    name: str
    parents: tuple[int, ...]
    layer: Any
    shape: Shape


class Description(NamedTuple):
    """A description and, for each of its rows, the node that it is.

    nested : concatenations that are read by further ones in the description, but not in the pass: gradients of their
    tensors lack what flows through those.
    """

    net: Sequential
    nodes: tuple[int, ...]
    nested: frozenset[int]


class _Part(NamedTuple):
    layers: list[Any]
    nodes: list[int]


def description(nodes: list[Node], output: int, tied: Collection[str] = ()) -> Description:
    """The description of everything that leads from node 0, the input, to the output.

    Parameters
    ----------
    nodes : list of Node
    output : int
    tied : collection of str
        Names of the rows with weights that an earlier one has.

    Raises
    ------
    ValueError
        If unfolding crossing paths takes too many rows.
    """
    changed = _with_common_prefixes(nodes)
    part = _Reduction(changed, output, tied).between(0, output)
    anew = {new.parents[0] for old, new in zip(nodes, changed, strict=True) if old.parents != new.parents}
    return Description(Sequential(tuple(part.layers), nodes[0].shape), (0, *part.nodes), frozenset(anew))


def unused(nodes: list[Node], output: int) -> list[int]:
    """Nodes that do not lead to the output."""
    seen, waiting = {0}, [output]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting.extend(nodes[node].parents)
    return [node for node in range(len(nodes)) if node not in seen]


def _with_common_prefixes(nodes: list[Node]) -> list[Node]:
    """Concatenations of what an earlier one has already put together read that one: [a, b, c] is [[a, b], c]."""
    known: dict[tuple[int, ...], int] = {}
    changed = list(nodes)
    for index, node in enumerate(nodes):
        if node.layer != "concatenate":
            continue
        for length in range(len(node.parents) - 1, 1, -1):
            if (earlier := known.get(node.parents[:length])) is not None:
                changed[index] = Node(node.name, (earlier, *node.parents[length:]), node.layer, node.shape)
                break
        known[node.parents] = index
    return changed


class _Reduction:
    """Series and parallel parts of the graph of what leads to the output."""

    def __init__(self, nodes: list[Node], output: int, tied: Collection[str]) -> None:
        self.nodes, self.tied = nodes, tied
        self.rows = 0
        self.above = self._dominators(output)

    def _dominators(self, output: int) -> list[int]:
        """The nearest node through which every path from the input to a node goes."""
        depth, above = [0] * (output + 1), [0] * (output + 1)
        for index in range(1, output + 1):
            parents = self.nodes[index].parents
            nearest = parents[0]
            for other in parents[1:]:
                while nearest != other:
                    if depth[nearest] >= depth[other]:
                        nearest = above[nearest]
                    else:
                        other = above[other]
            above[index], depth[index] = nearest, depth[nearest] + 1
        return above

    def between(self, first: int, last: int) -> _Part:
        """What leads from one node to another that it dominates."""
        pieces: list[_Part] = []
        here = last
        while here != first:
            node = self.nodes[here]
            self.rows += 1
            if self.rows > MOST_ROWS:
                raise ValueError(f"paths of the network cross too often: more than {MOST_ROWS} rows at {node.name}")
            if len(node.parents) == 1:
                pieces.append(_Part([node.layer], [here]))
                here = node.parents[0]
            else:
                pieces.append(self._block(here))
                here = self.above[here]
        pieces.reverse()
        return _Part(
            [layer for piece in pieces for layer in piece.layers], [index for piece in pieces for index in piece.nodes]
        )

    def _block(self, join: int) -> _Part:
        node, start = self.nodes[join], self.above[join]
        parts = [self.between(start, parent) for parent in node.parents]
        inner = [index for part in parts for index in part.nodes]
        layer = node.layer
        if len(set(inner)) < len(inner):
            layer = Unknown(f"{_word(layer)} of paths that cross", node.shape)
        elif (isinstance(layer, Sum) or layer == "product") and any(self.nodes[row].name in self.tied for row in inner):
            layer = Unknown(f"{_word(layer)} of paths with shared weights", node.shape)
        if isinstance(layer, Sum):
            parts.sort(key=_nonlinear, reverse=True)
            branch, shortcut = (Sequential(tuple(part.layers)) for part in parts)
            block: Any = Residual(branch, shortcut)
        else:
            block = Join(tuple(Sequential(tuple(part.layers)) for part in parts), layer)
        return _Part([block], [index for part in parts for index in part.nodes] + [join])


def _nonlinear(part: _Part) -> int:
    """A shortcut has less of it than its branch: 0 for the identity, 1 for what is linear."""
    curved = any(isinstance(layer, (Activation, Residual, Join)) for layer in part.layers)
    return 2 if curved else bool(part.layers)


def _word(layer: Any) -> str:
    return "sum" if isinstance(layer, Sum) else str(layer)
