"""Why activations or gradients of a network explode, vanish or collapse, in words and with the numbers that say so."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bntheory.activations import Activation
from bntheory.growth.diagnosis.layer_trends import Trend
from bntheory.growth.infinite_width import batch_norm
from bntheory.growth.phase import critical_gain
from bntheory.layers import Affine, BatchNorm, Conv, Dense, GroupNorm, LayerNorm, Shape
from bntheory.networks import Join, Residual, Sequential, output_shape, parts

if TYPE_CHECKING:
    from bntheory.growth.prediction import Growth

NOTABLE = 0.01  # relative deviation of σ_w² from the critical value, and of a factor from 1


def of_growth(growth: Growth, line: Trend) -> str:
    """Why the second moment changes along the layers of a trend."""
    if not _changes(line):
        return ""
    inside = growth.rows[line.first : line.last + 1]
    if any(isinstance(row.layer, Join) for row in inside):  # of which none of these is the only one
        return ""
    if any(row.operation == "sum" for row in inside):
        factor = math.exp(line.log_factor)
        added = f"every block adds its branch to its shortcut, which multiplies the second moment by {factor:.3g}"
        return added if line.log_factor > 0 else ""
    return "; ".join(part for part in (_gain(growth), _padding(growth, line.log_factor)) if part)


def of_gradients(growth: Growth, line: Trend) -> str:
    """Why squared gradients change going back along the layers of a trend."""
    if not _changes(line):
        return ""
    inside = growth.rows[line.first : line.last + 1]
    if any(isinstance(row.layer, Join) for row in inside):
        return ""
    if any(row.operation == "sum" for row in inside):
        return "every block adds the gradient of its branch to that of its shortcut" if line.log_factor < 0 else ""
    phi = _activation(growth)
    norms = [row for row in inside if isinstance(row.layer, BatchNorm) and row.layer.training]
    if phi is not None and norms:
        batch = _batch(growth) * math.prod(norms[0].shape[1:])
        size = "in a large batch" if math.isinf(batch) else f"at {batch:.0f} numbers a unit"
        factor = batch_norm.growth_rate(phi, batch)
        if factor == 0 or math.isinf(factor):  # at 2 numbers a unit only ε lets a gradient through, at 3 only ε ends it
            return ""
        return f"BatchNorm without shortcuts multiplies squared gradients by λ = {factor:.3g} a layer {size}"
    return "; ".join(part for part in (_gain(growth), _padding(growth, -line.log_factor)) if part)


def of_spread(growth: Growth) -> str:
    """Why draws of the weights differ."""
    widths = [row.shape[0] for row in growth.rows if isinstance(row.layer, (Dense, Conv))]
    units = "channels" if any(isinstance(row.layer, Conv) for row in growth.rows) else "width"
    return f"few units for the depth, Σ 1/{units} = {sum(1 / width for width in widths):.2g} over {len(widths)} layers"


def of_death(growth: Growth) -> str:
    """Why rows are exactly zero."""
    narrowest = min((row.shape[0] for row in growth.rows if isinstance(row.layer, Activation)), default=0)
    return f"all {narrowest} units of a layer are off with probability 2^−{narrowest}" if narrowest else ""


def of_zero(growth: Growth, first: int) -> str:
    """Why everything is zero from a row on."""
    row = growth.rows[first]
    if isinstance(row.layer, BatchNorm) and row.layer.gamma == 0:
        return f"a BatchNorm with gamma=0 (row {row.name}) makes the output zero"
    if isinstance(row.layer, (BatchNorm, LayerNorm, GroupNorm)):
        return f"{row.operation} (row {row.name}) subtracts the mean of numbers that are all the same"
    return f"{row.operation} (row {row.name}) gives zero"


def of_collapse(growth: Growth) -> str:
    """Why outputs of different inputs come to point the same way."""
    phi, gain = _activation(growth), _gain(growth)
    biased = any(layer.bias_variance(shape) > 0 for shape, layer in _weights(growth))
    if biased and "below" in gain:
        return f"biases are the same for all inputs, and {gain}"
    if phi is not None and phi.homogeneous_slopes is not None and len(set(phi.homogeneous_slopes)) == 2:
        return f"{phi} brings the directions of inputs closer together in every layer"
    return gain if "below" in gain else ""


def _changes(line: Trend) -> bool:
    return math.isfinite(line.log_factor) and abs(line.log_factor) > NOTABLE / 10


def _batch(growth: Growth) -> float:
    """Inputs of a batch, may be infinite."""
    _, inputs, batch_size = growth.question
    return len(inputs) if inputs is not None else math.inf if batch_size is None else batch_size


def _activation(growth: Growth) -> Activation | None:
    """The network's only activation; None if there are several or none."""
    found = {row.layer for row in growth.rows if isinstance(row.layer, Activation)}
    return found.pop() if len(found) == 1 else None


def _weights(growth: Growth) -> list[tuple[Shape, Dense | Conv]]:
    """Layers with weights, each with the shape that it reads."""
    net = growth.question.net
    return list(_reading(net, growth.rows[0].shape))


def _reading(sequence: Sequential, shape: Shape) -> Iterator[tuple[Shape, Dense | Conv]]:
    for layer in sequence.layers:
        for part in parts(layer).values():
            yield from _reading(part, shape)
        if isinstance(layer, Sequential):
            yield from _reading(layer, shape)
        elif isinstance(layer, (Dense, Conv)):
            yield shape, layer
        shape = output_shape(layer, shape)


def _weight_variance(shape: Shape, layer: Dense | Conv) -> float:
    """σ_w² = fan_in · Var w."""
    fan_in = shape[0] if isinstance(layer, Dense) else shape[0] // layer.groups * layer.area
    return fan_in * layer.weight_variance(shape)


def _gain(growth: Growth) -> str:
    """The typical σ_w² beside the critical one, if they differ."""
    phi = _activation(growth)
    kinds = BatchNorm, LayerNorm, GroupNorm, Affine, Residual, Join
    other = any(isinstance(row.layer, kinds) for row in growth.rows)
    found = [_weight_variance(*pair) for pair in _weights(growth)]
    if phi is None or other or not found:
        return ""
    try:
        critical = critical_gain(phi) ** 2
    except ValueError:
        return ""
    variance = float(np.median(found))
    if abs(variance / critical - 1) < NOTABLE:
        return ""
    side = "above" if variance > critical else "below"
    return f"σ_w² = {variance:.3g} is {side} {critical:.3g}, the critical value of {phi}"


def _padding(growth: Growth, log_factor: float) -> str:
    """What zero padding takes a layer, in networks of convolutions and a homogeneous activation."""
    phi = _activation(growth)
    padded = [(shape, layer) for shape, layer in _weights(growth) if isinstance(layer, Conv) and layer.padding]
    found = [_weight_variance(*pair) for pair in padded]
    if phi is None or phi.homogeneous_slopes is None or not found:
        return ""
    without = float(np.median(found)) * sum(slope**2 for slope in phi.homogeneous_slopes) / 2
    kept = math.exp(log_factor) / without
    return f"zero padding keeps {kept:.3g} of the second moment a layer" if kept < 1 - NOTABLE / 2 else ""
