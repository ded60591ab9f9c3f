"""Layers without weights that put the numbers of a row into another shape, or choose some of them; see `layers`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bntheory import arguments
from bntheory.layers import Shape, Sides, _image, _sides, both, set_fields


@dataclass(frozen=True)
class Unflatten:
    """One vector ↦ (channels, height, width), as ``torch.nn.Unflatten``; the inverse of Flatten.

    Parameters
    ----------
    shape : (channels, height, width)
        Of the output, with as many entries as the vector has; (n, 1, 1) makes a vector the gate of an image.

    Raises
    ------
    ValueError
        If shape is not three numbers of at least 1; where the input is known, if it is no vector of so many entries.

    References
    ----------
    Hu, Shen, Sun 2018, "Squeeze-and-excitation networks", section 3 (the gate); Radford, Metz, Chintala 2016,
    "Unsupervised representation learning with deep convolutional generative adversarial networks", figure 1.

    Examples
    --------
    >>> Unflatten((16, 4, 4)).output_shape((256,))
    (16, 4, 4)
    """

    shape: Shape

    def __post_init__(self) -> None:
        if not isinstance(self.shape, (tuple, list)) or len(self.shape) != 3:
            raise ValueError(f"Unflatten: shape must be (channels, height, width), got {self.shape!r:.60}")
        set_fields(self, shape=tuple(arguments.integer("Unflatten: shape", side) for side in self.shape))

    @property
    def positions(self) -> int:
        """Of the map that is made."""
        return math.prod(self.shape[1:])

    def of(self, units: int) -> Unflatten:
        """The same for so many units of a vector."""
        return Unflatten((units // self.positions, *self.shape[1:]))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output; ValueError unless the input is a vector of as many entries."""
        if shape != (math.prod(self.shape),):
            raise ValueError(f"{self} needs an input of shape ({math.prod(self.shape)},), got {shape}")
        return self.shape

    def __str__(self) -> str:
        return f"Unflatten({'×'.join(map(str, self.shape))})"


@dataclass(frozen=True)
class Unroll:
    """(channels, height, width) ↦ (channels, height · width, 1): the positions of a map in one line, row after row.

    A map as a sequence of tokens, ``flatten(2)`` in torch.

    Raises
    ------
    ValueError
        Where the shape is known, unless it is that of an image.

    Examples
    --------
    >>> Unroll().output_shape((16, 4, 5))
    (16, 20, 1)
    """

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output."""
        channels, height, width = _image(self, shape)
        return channels, height * width, 1

    def __str__(self) -> str:
        return "Unroll"


@dataclass(frozen=True)
class Channels:
    """Some of the channels of an image, or units of a vector, as those of ``torch.chunk``, ``split`` or a slice.

    Parameters
    ----------
    start, stop : int
        The channels start, …, stop − 1.

    Raises
    ------
    ValueError
        Unless 0 ≤ start < stop; where the shape is known, if it has fewer channels.

    References
    ----------
    Dauphin, Fan, Auli, Grangier 2017, "Language modeling with gated convolutional networks", equation 1, the gate:
    ``Join(((Channels(0, n),), (Channels(n, 2 * n), sigmoid)), "product")``.

    Examples
    --------
    >>> Channels(8, 12).output_shape((16, 4, 5))
    (4, 4, 5)
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        set_fields(self, start=arguments.integer("Channels: start", self.start, at_least=0))
        set_fields(self, stop=arguments.integer("Channels: stop", self.stop))
        if self.start >= self.stop:
            raise ValueError(f"Channels: stop must be above start, got {self.start} and {self.stop}")

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output; ValueError if there are fewer channels."""
        if self.stop > shape[0]:
            raise ValueError(f"{self} needs at least {self.stop} channels, got shape {shape}")
        return (self.stop - self.start, *shape[1:])

    def __str__(self) -> str:
        return f"Channels({self.start}, {self.stop})"


@dataclass(frozen=True)
class Upsample:
    """Every position of an image repeated, as ``torch.nn.Upsample`` does with mode "nearest".

    Parameters
    ----------
    factor : int or (int, int)
        How often, at least 1; a pair is (down, across).

    Raises
    ------
    ValueError
        If factor is neither a number nor a pair, or below 1.

    Examples
    --------
    >>> Upsample(2).output_shape((16, 4, 5))
    (16, 8, 10)
    """

    factor: Sides = 2

    def __post_init__(self) -> None:
        set_fields(self, factor=_sides("Upsample: factor", self.factor))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output."""
        channels, height, width = _image(self, shape)
        down, across = both(self.factor)
        return channels, height * down, width * across

    def __str__(self) -> str:
        return f"Upsample({'×'.join(map(str, both(self.factor)))})"
