"""Axes of tensors against shapes of descriptions."""

import itertools

import pytest
import torch

from bntheory.torch_models import layouts


@pytest.mark.parametrize(
    ("sizes", "layout", "shape"),
    [
        ((5,), ("n",), (5,)),
        ((7, 4), ("p", "c"), (4, 7, 1)),
        ((4, 7, 6), ("c", "h", "w"), (4, 7, 6)),
        ((2, 3, 4, 5), (), (120,)),
        ((), (), (1,)),
    ],
)
def test_sizes_tell_the_layout(sizes, layout, shape):
    assert layouts.of_shape(sizes) == (layout, shape)


def test_a_layout_is_kept_where_the_sizes_are():
    like = (("h", "w", "c"), (7, 6, 4))
    assert layouts.of_shape((7, 6, 4), like) == (("h", "w", "c"), (4, 7, 6))
    assert layouts.of_shape((7, 2, 4), like) == (("h", "w", "c"), (4, 7, 2))
    assert layouts.of_shape((7, 6, 3), like) == (("c", "h", "w"), (7, 6, 3))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_permutations_follow_torch(order):
    """The description's shape stays, whatever the order of the axes, as long as height comes before width."""
    tensor = torch.empty(2, 3, 4, 5)
    layout = layouts.permuted(layouts.IMAGE, order)
    sizes = tuple(tensor.permute(0, *(axis + 1 for axis in order)).shape[1:])
    if layouts.in_order(layout):
        assert layouts.described(layout, sizes) == (3, 4, 5)
    else:
        assert layout.index("w") < layout.index("h")


def test_only_positions_are_merged():
    assert layouts.merged(layouts.IMAGE, (3, 4, 5), (3, 20)) == layouts.SEQUENCE
    assert layouts.merged(("h", "w", "c"), (4, 5, 3), (20, 3)) == layouts.TOKENS
    assert layouts.merged(layouts.IMAGE, (3, 4, 5), (12, 5)) is None
    assert layouts.merged(layouts.VECTOR, (12,), (3, 4)) is None
