"""Graphs of calls and the descriptions they amount to."""

import pytest

from bntheory.activations import Activation
from bntheory.layers import Conv, Unknown
from bntheory.networks import Join, Residual, Sequential, leaves
from bntheory.torch_models.graph import Node, Sum, description, unused

SHAPE = (4, 3, 3)
RELU, CONV = Activation("relu"), Conv(4)


def graph(*rows):
    """Nodes of (parents, layer) rows, the input first; concatenations add channels."""
    nodes = [Node("input", (), None, SHAPE)]
    for parents, layer in rows:
        channels = sum(nodes[parent].shape[0] for parent in parents) if layer == "concatenate" else 4
        nodes.append(Node(f"row {len(nodes)}", parents, layer, (channels, 3, 3)))
    return nodes


def test_a_chain():
    found = description(graph(((0,), CONV), ((1,), RELU)), 2)
    assert found.net == Sequential((CONV, RELU), SHAPE)
    assert found.nodes == (0, 1, 2)


def test_a_block_has_its_branch_first_whatever_the_order_of_the_sum():
    expected = Sequential((RELU, Residual(Sequential((CONV, RELU, CONV)))), SHAPE)
    for parents in ((1, 4), (4, 1)):
        found = description(graph(((0,), RELU), ((1,), CONV), ((2,), RELU), ((3,), CONV), (parents, Sum())), 5)
        assert found.net == expected
        assert found.nodes == (0, 1, 2, 3, 4, 5)


def test_a_projection_is_the_shortcut():
    rows = ((0,), CONV), ((0,), CONV), ((2,), RELU), ((3,), CONV), ((1, 4), Sum())
    found = description(graph(*rows), 5)
    assert found.net.layers == (Residual(Sequential((CONV, RELU, CONV)), Sequential((CONV,))),)
    assert found.nodes == (0, 2, 3, 4, 1, 5)


def test_blocks_in_branches():
    """x + f(y + g(y)), y = relu(x)."""
    rows = ((0,), RELU), ((1,), CONV), ((1, 2), Sum()), ((3,), CONV), ((0, 4), Sum())
    inner = Residual(Sequential((CONV,)))
    assert description(graph(*rows), 5).net.layers == (Residual(Sequential((RELU, inner, CONV))),)


def test_rows_of_a_description_are_its_nodes():
    """One node for each leaf, whatever the nesting."""
    rows = (((0,), CONV), ((1,), RELU), ((2,), CONV), ((1, 3), "concatenate"), ((4,), RELU), ((4, 5), "concatenate"),
            ((6,), CONV), ((0, 7), "product"))  # fmt: skip
    found = description(graph(*rows), 8)
    names = [leaf.layer for leaf in leaves(found.net)]
    nodes = graph(*rows)
    for layer, node in zip(names, found.nodes, strict=True):
        if not isinstance(nodes[node].layer, str):
            assert layer == nodes[node].layer
        else:
            assert isinstance(layer, Join)


def test_concatenations_of_all_before_are_nested():
    """[x, f(x)], [x, f(x), g([x, f(x)])] is a chain of blocks, not paths that cross."""
    rows = ((0,), CONV), ((0, 1), "concatenate"), ((2,), CONV), ((0, 1, 3), "concatenate")
    found = description(graph(*rows), 4)
    first = Join((Sequential(()), Sequential((CONV,))), "concatenate")
    assert found.net.layers == (first, first)
    assert found.nodes == (0, 1, 2, 3, 4)
    assert found.nested == {2}


def test_paths_that_cross_have_no_rule():
    """a = f(x), b = g(x) + a, c = b + h(a): a is read on both paths of the last sum."""
    rows = ((0,), CONV), ((0,), CONV), ((1, 2), Sum()), ((1,), RELU), ((3, 4), Sum())
    found = description(graph(*rows), 5)
    last = found.net.layers[-1]
    assert isinstance(last, Join) and isinstance(last.operation, Unknown)
    assert str(last.operation) == "sum of paths that cross"
    assert sorted(set(found.nodes)) == [0, 1, 2, 3, 4, 5]


def test_what_does_not_lead_to_the_output_is_left_out():
    nodes = graph(((0,), CONV), ((1,), RELU), ((1,), CONV))
    assert unused(nodes, 2) == [3]
    assert description(nodes, 2).nodes == (0, 1, 2)


def test_too_many_crossings_are_refused():
    """Ladders double their rows with every rung."""
    rows = [((0,), CONV), ((0,), RELU)]
    for rung in range(30):
        left, right = 2 * rung + 1, 2 * rung + 2
        rows += [((left, right), Sum()), ((left, right), Sum())]
    rows.append(((61, 62), Sum()))
    with pytest.raises(ValueError, match="cross too often: more than 100000 rows"):
        description(graph(*rows), 63)
