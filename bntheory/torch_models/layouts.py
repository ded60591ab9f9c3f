"""Where the axes of a torch tensor stand in a description, whose shapes are (n,) or (channels, height, width).

A layout names the axes of a tensor after the batch: ``n`` units of a vector, ``c`` channels, ``h`` and ``w`` the two
sides of a map, ``p`` all positions in one. A sequence is a map of width 1.
"""

from __future__ import annotations

import math

from bntheory.layers import Shape

Layout = tuple[str, ...]
VECTOR, IMAGE, TOKENS, SEQUENCE = ("n",), ("c", "h", "w"), ("p", "c"), ("c", "p")


def of_shape(sizes: Shape, like: tuple[Layout, Shape] | None = None) -> tuple[Layout, Shape]:
    """The layout and the description's shape of a tensor of those sizes after the batch, as far as sizes tell.

    Parameters
    ----------
    sizes : tuple of int
    like : (layout, sizes), optional
        Of a tensor it was made from, whose layout is kept if there are as many axes, and as many units.

    >>> of_shape((32, 19), (SEQUENCE, (32, 20))), of_shape((32, 19))
    ((('c', 'p'), (32, 19, 1)), (('p', 'c'), (19, 32, 1)))
    """
    if like is not None and like[0] and len(like[1]) == len(sizes):
        unit = next(axis for axis, word in enumerate(like[0]) if word in "nc")
        if sizes[unit] == like[1][unit] or like[1] == sizes:
            return like[0], described(like[0], sizes)
    layout: Layout = {1: VECTOR, 2: TOKENS, 3: IMAGE}.get(len(sizes), ())
    return layout, described(layout, sizes)


def described(layout: Layout, sizes: Shape) -> Shape:
    """The description's shape of a tensor.

    >>> described(TOKENS, (49, 96)), described(VECTOR, (8,)), described((), (2, 3, 4, 5))
    ((96, 49, 1), (8,), (120,))
    """
    if "c" not in layout:
        return (math.prod(sizes),)
    place = layout.index("c")
    positions = (*sizes[:place], *sizes[place + 1 :])
    return (sizes[place], *positions, *(1,) * (2 - len(positions)))


def merged(layout: Layout, before: Shape, after: Shape) -> Layout | None:
    """The layout after a reshape that puts both sides of a map into one axis; None for others.

    >>> merged(IMAGE, (96, 7, 7), (96, 49)), merged(("h", "w", "c"), (7, 7, 96), (49, 96))
    (('c', 'p'), ('p', 'c'))
    >>> merged(IMAGE, (96, 7, 7), (4704,))
    """
    if layout == IMAGE and after == (before[0], before[1] * before[2]):
        return SEQUENCE
    if layout == ("h", "w", "c") and after == (before[0] * before[1], before[2]):
        return TOKENS
    return None


def permuted(layout: Layout, order: tuple[int, ...]) -> Layout:
    """The layout after a permutation of the axes behind the batch, counted from 0."""
    return tuple(layout[axis] for axis in order)


def in_order(layout: Layout) -> bool:
    """Whether positions stand in their usual order: height before width."""
    return [axis for axis in layout if axis in "hw"] in (["h", "w"], [])


def channels_last(layout: Layout) -> bool:
    """Whether the last axis is that of units."""
    return bool(layout) and layout[-1] in "nc"
