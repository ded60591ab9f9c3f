"""Networks with explicit weights, linearized at one input: the Jacobian as factors that are not multiplied out.

Forward: tangents T, a batch of n_0 of them, go through each layer's Jacobian beside the input that decides on it. They
start anew, as the unit matrix, before every Dense, Conv or residual block outside of other blocks: one factor each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from bntheory.activations import Activation
from bntheory.layers import Affine, Conv, Dense, Dropout, Pool
from bntheory.networks import Join, Layer, Normalization, Residual, Sequential, leaves
from bntheory.positional import ConvTranspose, Mix, Offset
from simulations import pullbacks, weights
from simulations.convolution import convolved
from simulations.graded import Factor
from simulations.signal import Signal, added, scaled
from simulations.steps import Step, steps

Tangent = Callable[[Signal], Signal]


def factors(net: Sequential, h: Signal, rng: np.random.Generator, *, whole: bool = False) -> Iterator[Factor]:
    """Draw a network and yield the factors of its Jacobian at one input, in order of application.

    Parameters
    ----------
    net : Sequential
        Without BatchNorm in training mode.
    h : Signal
        The input, (1, *net.input_shape).
    rng : numpy.random.Generator
        Draws weights, biases and masks of Dropout, as `simulations.weights.prepare` does.
    whole : bool
        One factor for the whole network: multiplied out, so that its small singular values are rounding.

    Yields
    ------
    Factor
        (entries of the factor's output, entries of its input).

    Raises
    ------
    ValueError
        If a factor is not finite; the last row in it is named.

    Examples
    --------
    >>> from bntheory import mlp
    >>> net = mlp(2, 3, residual=True, output_width=2)
    >>> [factor.matrix.shape for factor in factors(net, Signal(np.ones((1, 3)), 0.0), np.random.default_rng(0))]
    [(3, 3), (3, 3), (2, 3)]
    """
    names = [leaf.name for leaf in leaves(net)]
    walk = steps(net)
    for group in grouped(walk) if walk and not whole else [walk]:
        h, tangents = _through(group, h, rng)
        matrix = tangents.values.reshape(len(tangents.values), -1).T
        if not np.isfinite(matrix).all():
            raise ValueError(f"the Jacobian up to layer {names[group[-1].row]} is not finite at this input")
        yield Factor(matrix, tangents.log_scale)


def memory(net: Sequential) -> int:
    """How many numbers the largest factor needs with what makes it and its QR factorization, about."""
    walk = steps(net)
    sizes = [math.prod(leaf.shape) for leaf in leaves(net)]
    inputs = [sizes[group[0].row - 1] for group in grouped(walk)]
    rows = [max(sizes[step.row] for step in group) for group in grouped(walk)]
    return max((4 * columns * (columns + most) for columns, most in zip(inputs, rows, strict=True)), default=0)


def passages(walk: list[Step]) -> list[int]:
    """Rows that everything after them depends on alone, the input and the output among them: not inside a block.

    Examples
    --------
    >>> from bntheory import mlp
    >>> passages(steps(mlp(2, 3, residual=True)))
    [0, 3, 6]
    """
    rows, earliest = [len(walk)], len(walk)
    for step in reversed(walk):
        earliest = min(earliest, *step.sources)
        if earliest == step.row - 1:
            rows.append(earliest)
    return rows[::-1]


def grouped(walk: list[Step]) -> list[list[Step]]:
    """Cut a walk into factors: a Dense, Conv or residual block, with the layers without weights that follow it.

    Examples
    --------
    >>> from bntheory import mlp
    >>> [[str(step.layer) for step in group] for group in grouped(steps(mlp(2, 3, output_width=3)))]
    [['Dense(3, he_normal)', 'relu'], ['Dense(3, he_normal)', 'relu'], ['Dense(3, he_normal)']]
    """
    groups: list[list[Step]] = []
    for start, stop in pairwise(passages(walk)):
        passed = walk[start:stop]
        if groups and stop == start + 1 and not isinstance(passed[0].layer, (*weights.WEIGHTED, Residual, Join)):
            groups[-1] += passed
        else:
            groups.append(passed)
    return groups


def _through(group: list[Step], h: Signal, rng: np.random.Generator) -> tuple[Signal, Signal]:
    """Return the output of some steps, and its derivatives by each entry of what they read: (entries, *shape)."""
    readers = Counter(source for step in group for source in step.sources)
    unit = np.eye(h.values.size).reshape(-1, *h.values.shape[1:])
    first, last = (group[0].row - 1, group[-1].row) if group else (0, 0)
    rows = {first: (h, Signal(unit, 0.0))}
    for step in group:
        sources = [rows[source] for source in step.sources]
        if isinstance(step.layer, Residual):
            rows[step.row] = tuple(pullbacks.residual(step.layer, *parts)[0] for parts in zip(*sources, strict=True))
        elif isinstance(step.layer, Join):
            rows[step.row] = _joined(step.layer, sources)
        else:
            output, tangent = linearized(step.layer, sources[0][0], rng)
            rows[step.row] = output, tangent(sources[0][1])
        readers.subtract(step.sources)
        for source in set(step.sources):
            if not readers[source]:
                del rows[source]
    return rows[last]


def _joined(layer: Join, sources: list[tuple[Signal, Signal]]) -> tuple[Signal, Signal]:
    """What a block makes of its branches, and of their tangents."""
    outputs, tangents = zip(*sources, strict=True)
    output = pullbacks.join(layer, *outputs)[0]
    if layer.operation != "product":
        return output, pullbacks.join(layer, *tangents)[0]
    first, second = ((outputs[0], tangents[1]), (tangents[0], outputs[1]))
    return output, added(pullbacks.join(layer, *first)[0], pullbacks.join(layer, *second)[0])


def linearized(layer: Layer, h: Signal, rng: np.random.Generator) -> tuple[Signal, Tangent]:
    """Return a layer's output for one input, and what takes any number of tangents at that input through it."""
    if isinstance(layer, (Dense, Conv)):
        shape = h.values.shape[1:]
        product = _product(layer, weights.drawn(layer, shape, rng))
        return weights.biased(layer, product(h), shape, rng), product
    if isinstance(layer, ConvTranspose):
        return _transposed(layer, h, rng)
    if isinstance(layer, Mix):
        return _mixed(layer, h, rng)
    if isinstance(layer, Dropout):
        return pullbacks.dropout(layer, h, rng)
    if isinstance(layer, Offset):
        return pullbacks.offset(layer, h, rng)
    if isinstance(layer, Pool) and layer.kind == "max":
        return pullbacks.pool(layer, h)[0], _chosen(layer, h)
    rule = pullbacks.RULES[type(layer)]
    output, pullback = rule(layer, h)
    if isinstance(layer, (Activation, Normalization, Affine)):
        return output, pullback  # a symmetric Jacobian
    return output, lambda tangents: rule(layer, tangents)[0]  # a linear layer


def _product(layer: Dense | Conv, drawn: np.ndarray) -> Tangent:
    if isinstance(layer, Dense):
        return lambda tangents: scaled(tangents.values @ drawn, tangents.log_scale)
    return lambda tangents: convolved(layer, tangents, drawn)[0]


def _transposed(layer: ConvTranspose, h: Signal, rng: np.random.Generator) -> tuple[Signal, Tangent]:
    shape = h.values.shape[1:]
    conv, drawn = layer.convolution(shape), weights.flipped(layer, shape, rng)

    def product(tangents: Signal) -> Signal:
        return convolved(conv, weights.spread(layer, tangents), drawn)[0]

    return weights.biased(layer, product(h), shape, rng), product


def _mixed(layer: Mix, h: Signal, rng: np.random.Generator) -> tuple[Signal, Tangent]:
    shape = h.values.shape[1:2], h.values.shape[2:3]
    drawn = weights.drawn(layer.dense, shape[1], rng)

    def product(tangents: Signal) -> Signal:
        return scaled(np.einsum("bcto,tf->bcfo", tangents.values, drawn), tangents.log_scale)

    z = product(h)
    bias = weights.biased(layer.dense, z._replace(values=z.values[..., 0].reshape(-1, layer.features)), shape[1], rng)
    return bias._replace(values=bias.values.reshape(z.values.shape)), product


def _chosen(layer: Pool, h: Signal) -> Tangent:
    """The entries of a tangent where the input has the maxima of its windows."""

    def entries(values: np.ndarray) -> np.ndarray:
        windows = pullbacks.windows(layer, values)
        return windows.reshape(*windows.shape[:4], -1)

    first = entries(h.values).argmax(axis=-1)[..., None]

    def tangent(tangents: Signal) -> Signal:
        return scaled(np.take_along_axis(entries(tangents.values), first, axis=-1)[..., 0], tangents.log_scale)

    return tangent
