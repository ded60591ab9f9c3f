"""Sums, products and concatenations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from bntheory.activations import Activation
from bntheory.positional import Offset
from bntheory.rearrangements import Channels
from bntheory.torch_models import weights
from bntheory.torch_models.graph import Sum
from bntheory.torch_models.layouts import Layout
from bntheory.torch_models.rules.registry import numbers, rule, scaled

if TYPE_CHECKING:
    from bntheory.torch_models.tracing import Call, Value


@rule("add", "__add__", "__radd__", "__iadd__")
def add(call: Call, input: Any, other: Any, *, alpha: float = 1) -> Value | None:
    """Two paths, or a path and a constant."""
    return _sum(call, input, other, 1.0, float(alpha))


@rule("sub", "subtract", "__sub__", "__isub__")
def subtract(call: Call, input: Any, other: Any, *, alpha: float = 1) -> Value | None:
    """The same with a sign."""
    return _sum(call, input, other, 1.0, -float(alpha))


@rule("rsub", "__rsub__")
def subtract_from(call: Call, input: Any, other: Any, *, alpha: float = 1) -> Value | None:
    """The same the other way round."""
    return _sum(call, input, other, -float(alpha), 1.0)


def _sum(call: Call, input: Any, other: Any, first: float, second: float) -> Value | None:
    parts = [(call.value(tensor), factor, tensor) for tensor, factor in ((input, first), (other, second))]
    if parts[0][0] is None:
        parts.reverse()
    (value, factor, _), (added, other_factor, constant) = parts
    if value is None or tuple(call.result.shape[1:]) != value.sizes:
        return None
    if added is None:
        shift = _per_channel(constant, call.result, value.layout)
        if shift is None:
            return _offset(call, value, constant) if factor == 1 else None
        shift = tuple(other_factor * part for part in shift) if isinstance(shift, tuple) else other_factor * shift
        return scaled(call, value, factor, shift)
    if (value.layout, value.sizes) != (added.layout, added.sizes) or not value.layout:
        return None
    if value.node == added.node:
        return scaled(call, value, factor + other_factor, 0.0) if factor + other_factor else None
    pair = [scaled(call, part, scale, 0.0) for part, scale in ((value, factor), (added, other_factor))]
    return call.join(pair, Sum(), value.layout)


def _offset(call: Call, value: Value, constant: Any) -> Value | None:
    """Numbers of every channel and position, the same for all examples."""
    if not isinstance(constant, torch.Tensor) or constant.shape.numel() != math.prod(value.sizes):
        return None
    if tuple(constant.shape)[-len(value.sizes) :] != value.sizes or "n" in value.layout:
        return None
    square = float(constant.detach().double().square().mean())
    return call.leaf(value, Offset(square), value.layout) if square else call.alias(value, value.layout)


@rule("mul", "multiply", "__mul__", "__rmul__", "__imul__")
def multiply(call: Call, input: Any, other: Any) -> Value | None:
    """Two paths, or a path and a factor."""
    value, factor = call.value(input), call.value(other)
    if value is not None and factor is not None:
        return _product(call, value, factor)
    value, constant = (value, other) if value is not None else (factor, input)
    if value is None or tuple(call.result.shape[1:]) != value.sizes:
        return None
    gamma = _per_channel(constant, call.result, value.layout)
    return None if gamma is None else scaled(call, value, gamma, 0.0)


def _product(call: Call, first: Value, second: Value) -> Value | None:
    """Elementwise, one of the two perhaps the same at all positions."""
    if first.node == second.node:
        return None
    pair = sorted((first, second), key=lambda value: -math.prod(value.sizes))
    if pair[0].sizes != tuple(call.result.shape[1:]) or not pair[0].layout:
        return None
    whole, gate = pair
    if (gate.layout, gate.sizes) == (whole.layout, whole.sizes):
        return call.join(pair, "product", whole.layout)
    units = tuple(size if word in "nc" else 1 for size, word in zip(whole.sizes, whole.layout, strict=True))
    return call.join(pair, "product", whole.layout) if gate.sizes == units else None


@rule("div", "divide", "true_divide", "__div__", "__truediv__", "__itruediv__")
def divide(call: Call, input: Any, other: Any, *, rounding_mode: Any = None) -> Value | None:
    """By a number, or one a channel."""
    value = call.value(input)
    if value is None or call.value(other) or rounding_mode is not None:
        return None
    divisor = _per_channel(other, call.result, value.layout)
    if divisor is None or tuple(call.result.shape[1:]) != value.sizes:
        return None
    gamma = tuple(1 / part for part in divisor) if isinstance(divisor, tuple) else 1 / divisor
    return scaled(call, value, gamma, 0.0)


@rule("neg", "negative", "__neg__")
def negative(call: Call, input: Any) -> Value | None:
    """The opposite sign."""
    value = call.value(input)
    return None if value is None else scaled(call, value, -1.0, 0.0)


def _per_channel(constant: Any, result: torch.Tensor, layout: Layout) -> float | tuple[float, ...] | None:
    """A constant as one number, or one a channel; None if it differs between positions or examples."""
    if numbers(constant):
        return float(constant)
    if not isinstance(constant, torch.Tensor) or not layout or not constant.is_floating_point():
        return None
    sizes = (1,) * (result.dim() - constant.dim()) + tuple(constant.shape)
    unit = 1 + next(axis for axis, word in enumerate(layout) if word in "nc")
    if any(size != 1 for axis, size in enumerate(sizes) if axis != unit):
        return None
    values = weights.constant(constant)
    return values if not isinstance(values, tuple) or len(values) == result.shape[unit] else None


@rule("cat", "concat", "concatenate")
def concatenate(call: Call, tensors: Any, dim: int = 0, *_: Any) -> Value | None:
    """Channels side by side."""
    values = [call.value(tensor) for tensor in tensors]
    first = values[0]
    if first is None or not first.layout or dim % call.result.dim() == 0:
        return None
    if first.layout[dim % call.result.dim() - 1] not in "nc":
        return None
    if any(value is None or value.layout != first.layout for value in values):
        return None
    return first if len(values) == 1 else call.join([value for value in values if value], "concatenate", first.layout)


@rule("glu")
def glu(call: Call, input: Any, dim: int = -1) -> Value | None:
    """Half of the channels times the sigmoid of the other half."""
    value = call.value(input)
    if value is None or not value.layout or value.layout[dim % input.dim() - 1] not in "nc":
        return None
    half = call.result.shape[dim]
    kept, gate = (call.leaf(value, Channels(start, start + half), value.layout) for start in (0, half))
    return call.join([kept, call.leaf(gate, Activation("sigmoid"), value.layout)], "product", value.layout)
