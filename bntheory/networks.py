"""Random networks described once, as plain data.

A network is a `Sequential` of layers with an input shape: (n,) for vectors, (channels, height, width) for images.
What a description *means* is said by its readings, not here; all of them share the rows that `leaves` yields.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from bntheory import arguments
from bntheory.activations import Activation
from bntheory.layers import (
    Affine,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GroupNorm,
    LayerNorm,
    Pad,
    Pool,
    Shape,
    Unknown,
    ZeroPad,
    set_fields,
)
from bntheory.positional import ConvTranspose, Mix, Offset
from bntheory.rearrangements import Channels, Unflatten, Unroll, Upsample


@dataclass(frozen=True)
class Sequential:
    """Layers one after another.

    Parameters
    ----------
    layers : tuple of layers
    input_shape : tuple of int, optional
        (n,) or (channels, height, width). A network has one; a residual block's branch takes what it is given.

    Raises
    ------
    ValueError
        If a layer does not fit the shape that reaches it; the layer is named.

    Examples
    --------
    >>> from bntheory import activations
    >>> net = Sequential((Dense(8), activations.activation("relu")), input_shape=(4,))
    >>> net.output_shape((4,))
    (8,)
    >>> from bntheory import from_json
    >>> from_json(net.to_json()) == net
    True
    """

    layers: tuple[Layer, ...]
    input_shape: Shape | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.layers, (tuple, list)):
            raise ValueError(f"layers must be a tuple of layers, got {self.layers!s:.60}")
        set_fields(self, layers=tuple(self.layers))
        for layer in self.layers:
            if not isinstance(layer, (*LAYERS.values(), Activation)):
                raise ValueError(f"a layer must be one of {', '.join(LAYERS)} or an Activation, got {layer!r}")
        if self.input_shape is not None:
            if not isinstance(self.input_shape, (tuple, list)):
                raise ValueError(f"input_shape must be (n,) or (channels, height, width), got {self.input_shape!r}")
            shape = tuple(arguments.integer("input_shape", side) for side in self.input_shape)
            if len(shape) not in (1, 3):
                raise ValueError(f"input_shape must be (n,) or (channels, height, width), got {shape}")
            set_fields(self, input_shape=shape)
            for _ in leaves(self):  # every shape is checked where the description is made
                pass

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output for that input shape."""
        for layer in self.layers:
            shape = output_shape(layer, shape)
        return shape

    def to_json(self) -> str:
        """Return the description as JSON text; ValueError for a user's own activation."""
        from bntheory import serialization  # which imports this file

        return json.dumps(serialization.to_data(self))

    def __str__(self) -> str:
        body = _grouped([str(layer) for layer in self.layers])
        return body if self.input_shape is None else f"input {'×'.join(map(str, self.input_shape))}; {body}"


@dataclass(frozen=True)
class Residual:
    """h ↦ shortcut(h) + scale · branch(h).

    Parameters
    ----------
    branch : Sequential
    shortcut : Sequential
        Empty: the identity.
    scale : float
        Constant in front of the branch, above 0; the branch's own rows are those before it.

    Raises
    ------
    ValueError
        If a part has an input shape of its own, or scale is not finite and above 0.

    Examples
    --------
    >>> print(Residual((Dense(8),), scale=0.1))
    Residual([Dense(8, he_normal)], scale=0.1)
    """

    branch: Sequential
    shortcut: Sequential = Sequential(())
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("branch", "shortcut"):
            part = getattr(self, name)
            part = part if isinstance(part, Sequential) else Sequential(part)
            if part.input_shape is not None:
                raise ValueError(f"a block's {name} takes the shape it is given, got input_shape={part.input_shape}")
            set_fields(self, **{name: part})
        set_fields(self, scale=arguments.number("scale", self.scale, above=0))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output; ValueError if branch and shortcut differ."""
        branch, shortcut = self.branch.output_shape(shape), self.shortcut.output_shape(shape)
        if branch != shortcut:
            raise ValueError(f"Residual: branch gives shape {branch}, shortcut {shortcut}, for input {shape}")
        return branch

    def __str__(self) -> str:
        shortcut = f" + [{self.shortcut}]" if self.shortcut.layers else ""
        scale = f", scale={self.scale:g}" if self.scale != 1 else ""
        return f"Residual([{self.branch}]{shortcut}{scale})"


@dataclass(frozen=True)
class Join:
    """Branches side by side on the same input, and what is made of their outputs.

    Parameters
    ----------
    branches : tuple of Sequential
        At least two; an empty one is the identity.
    operation : {"concatenate", "product"} or Unknown
        "concatenate": channels one after another, in the order of the branches. "product": of two branches, entry by
        entry; one of shape (channels, 1, 1) counts at every position of the other. Unknown: what has no rule.

    Raises
    ------
    ValueError
        For another operation, fewer than two branches, a product of more, or a branch with an input shape of its own.

    References
    ----------
    Huang, Liu, van der Maaten, Weinberger 2017, "Densely connected convolutional networks"; Hu, Shen, Sun 2018,
    "Squeeze-and-excitation networks", section 3.

    Examples
    --------
    >>> print(Join(((), (Dense(8),))), Join(((), (Dense(8),))).output_shape((4,)))
    Join(concatenate: [identity], [Dense(8, he_normal)]) (12,)
    """

    branches: tuple[Sequential, ...]
    operation: str | Unknown = "concatenate"

    def __post_init__(self) -> None:
        if not isinstance(self.branches, (tuple, list)) or len(self.branches) < 2:
            raise ValueError(f"branches must be a tuple of at least two, got {self.branches!s:.60}")
        parts = tuple(part if isinstance(part, Sequential) else Sequential(part) for part in self.branches)
        for part in parts:
            if part.input_shape is not None:
                raise ValueError(f"a branch takes the shape it is given, got input_shape={part.input_shape}")
        set_fields(self, branches=parts)
        if not isinstance(self.operation, Unknown):
            arguments.choice("operation", self.operation, ("concatenate", "product"))
        if self.operation == "product" and len(parts) != 2:
            raise ValueError(f"a product is of two branches, got {len(parts)}: put one product into another")

    @property
    def word(self) -> str:
        """The operation as one word."""
        return self.operation if isinstance(self.operation, str) else "unknown"

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output; ValueError if those of the branches do not go together."""
        shapes = [part.output_shape(shape) for part in self.branches]
        if isinstance(self.operation, Unknown):
            return self.operation.output_shape(shape)
        if self.operation == "concatenate" and len({part[1:] for part in shapes}) == 1:
            return (sum(part[0] for part in shapes), *shapes[0][1:])
        small, large = sorted(shapes, key=math.prod)
        if self.operation == "product" and (small == large or small == (large[0], 1, 1)):
            return large
        raise ValueError(f"Join: branches to {self.operation} give shapes {shapes}, for input {shape}")

    def __str__(self) -> str:
        branches = ", ".join(f"[{part}]" if part.layers else "[identity]" for part in self.branches)
        return f"Join({self.operation}: {branches})"


Normalization = BatchNorm | LayerNorm | GroupNorm
Rearrangement = Unflatten | Unroll | Channels | Upsample
Block = Residual | Join
Layer = (
    Dense
    | Conv
    | Normalization
    | Affine
    | Dropout
    | Pool
    | Pad
    | Flatten
    | ZeroPad
    | Rearrangement
    | Offset
    | Mix
    | ConvTranspose
    | Unknown
    | Activation
    | Sequential
    | Block
)
LAYERS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        *(Dense, Conv, BatchNorm, LayerNorm, GroupNorm, Affine, Dropout, Pool, Pad, Flatten, ZeroPad, Unknown),
        *(Unflatten, Unroll, Channels, Upsample, Offset, Mix, ConvTranspose),
        *(Sequential, Residual, Join),
    )
}


class Leaf(NamedTuple):
    """One row of every reading: a leaf of the description, or what a block makes of its parts."""

    name: str
    operation: str
    shape: Shape
    layer: Layer | None  # None for the input


class PerRow:
    """What has one entry a row: the columns that describe the rows."""

    rows: tuple[Leaf, ...]

    @property
    def name(self) -> tuple[str, ...]:
        """Names of the rows."""
        return tuple(row.name for row in self.rows)

    @property
    def operation(self) -> tuple[str, ...]:
        """What each row does."""
        return tuple(row.operation for row in self.rows)

    @property
    def shape(self) -> tuple[Shape, ...]:
        """Output shape of each row, without the batch."""
        return tuple(row.shape for row in self.rows)


def leaves(net: Sequential) -> Iterator[Leaf]:
    """Yield the rows of a network in execution order: the input, every leaf, and what a block makes of its parts.

    Parameters
    ----------
    net : Sequential
        A description with an input shape.

    Yields
    ------
    Leaf
        name (dotted path, as in the torch module's ``state_dict``), operation, output shape, layer.

    Raises
    ------
    ValueError
        If the description has no input shape.

    Examples
    --------
    >>> from bntheory import activations
    >>> [leaf.name for leaf in leaves(Sequential((Dense(8), activations.activation("relu")), input_shape=(4,)))]
    ['input', '0', '1']
    """
    if not isinstance(net, Sequential) or net.input_shape is None:
        raise ValueError(f"a network needs an input shape: Sequential(layers, input_shape=(n,)), got {net!s:.80}")
    yield Leaf("input", "input", net.input_shape, None)
    yield from _leaves(net, net.input_shape, "")


def _leaves(sequence: Sequential, shape: Shape, prefix: str) -> Iterator[Leaf]:
    if sequence.input_shape not in (None, shape):
        raise ValueError(f"layers {prefix}*: made for input_shape={sequence.input_shape}, got {shape}")
    for index, layer in enumerate(sequence.layers):
        name = f"{prefix}{index}"
        for word, part in parts(layer).items():
            yield from _leaves(part, shape, f"{name}.{word}.")
        if isinstance(layer, Sequential):
            yield from _leaves(layer, shape, f"{name}.")
        try:
            shape = output_shape(layer, shape)
        except ValueError as error:
            raise ValueError(f"layer {name}: {error}") from None
        if not isinstance(layer, Sequential):
            yield leaf(name, layer, shape)


def leaf(name: str, layer: Layer, shape: Shape) -> Leaf:
    """The row of a layer at that path; a block's is called "sum", or as what it makes of its branches."""
    if isinstance(layer, Residual):
        return Leaf(f"{name}.sum", "sum", shape, layer)
    if isinstance(layer, Join):
        return Leaf(f"{name}.{layer.word}", str(layer.operation), shape, layer)
    return Leaf(name, str(layer), shape, layer)


def parts(layer: Layer) -> dict[str, Sequential]:
    """The sequences that a block is made of, in execution order, by their names in paths; none of other layers.

    Examples
    --------
    >>> [name for block in (Residual(()), Join(((), ()))) for name in parts(block)]
    ['branch', 'shortcut', 'branches.0', 'branches.1']
    """
    if isinstance(layer, Residual):
        return {"branch": layer.branch, "shortcut": layer.shortcut}
    if isinstance(layer, Join):
        return {f"branches.{index}": part for index, part in enumerate(layer.branches)}
    return {}


def refuse_unknown(net: Sequential, done: str) -> None:
    """ValueError that names the first operation without a rule, which cannot be `done`."""
    for row in leaves(net):
        if isinstance(row.layer, Unknown) or (isinstance(row.layer, Join) and row.layer.word == "unknown"):
            raise ValueError(
                f"row {row.name} ({row.operation}) cannot be {done}: only the shape of its output is known; "
                "put layers in its place"
            )


def output_shape(layer: Layer, shape: Shape) -> Shape:
    """Shape that a layer gives for an input shape; ValueError if it does not fit."""
    return shape if isinstance(layer, Activation) else layer.output_shape(shape)


def _grouped(words: list[str]) -> str:
    """Join words, writing a pattern that repeats as "3 × [a, b]"."""
    parts, start = [], 0
    while start < len(words):
        period, repeats = 1, 1
        for length in range(1, 5):
            pattern, count = words[start : start + length], 1
            while words[start + count * length : start + (count + 1) * length] == pattern:
                count += 1
            if count > 1 and count * length > period * repeats:
                period, repeats = length, count
        group = ", ".join(words[start : start + period])
        parts.append(f"{repeats} × [{group}]" if repeats > 1 else group)
        start += period * repeats
    return ", ".join(parts)
