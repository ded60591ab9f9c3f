"""Functions with weights: matrices and convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bntheory.layers import Conv, Dense
from bntheory.positional import ConvTranspose, Mix
from bntheory.torch_models import layouts
from bntheory.torch_models.rules.registry import number, pair, rule

if TYPE_CHECKING:
    from bntheory.torch_models.tracing import Call, Value


@rule("linear")
def linear(call: Call, input: Any, weight: Any, bias: Any = None) -> Value | None:
    """A matrix and a bias."""
    value = call.value(input)
    if value is None or call.value(weight) or call.value(bias):
        return None
    return _weighted(call, value, weight, bias)


@rule("matmul", "mm", "__matmul__")
def matmul(call: Call, input: Any, other: Any) -> Value | None:
    """A matrix on the right."""
    value = call.value(input)
    if value is None or call.value(other) or other.dim() != 2:
        return None
    return _weighted(call, value, other.T, None, key=other)


@rule("einsum")
def einsum(call: Call, equation: Any, *operands: Any) -> Value | None:
    """A matrix on the last axis, in either orientation: "bi,oi->bo" or "...i,io->...o"."""
    sides, arrow, result = (str(equation).replace(" ", "").replace("...", ".")).partition("->")
    if not arrow or len(operands) != 2 or sides.count(",") != 1:
        return None
    (one, other), (input, weight) = sides.split(","), operands
    if call.value(input) is None:
        one, other, input, weight = other, one, weight, input
    value = call.value(input)
    if value is None or call.value(weight) or len(other) != 2 or one[-1:] != (set(other) - {result[-1:]}).pop():
        return None
    if len({*one, *other}) != len(one) + 1 or result[:-1] != one[:-1] or not layouts.channels_last(value.layout):
        return None
    matrix = weight if other == result[-1] + one[-1] else weight.T
    return _weighted(call, value, matrix, None, key=weight)


@rule("addmm")
def addmm(call: Call, input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Value | None:
    """A matrix on the right, and a bias."""
    value = call.value(mat1)
    if value is None or call.value(mat2) or call.value(input) or (beta, alpha) != (1, 1):
        return None
    return _weighted(call, value, mat2.T, input, key=mat2)


def _weighted(call: Call, value: Value, weight: Any, bias: Any, key: Any = None) -> Value | None:
    """Units times a matrix (out, in): Dense on a vector, a 1×1 convolution on what has positions; or over positions."""
    if not layouts.channels_last(value.layout) and value.layout != layouts.SEQUENCE:
        return None
    features, fan_in = weight.shape
    law, variance = call.law(weight, bias, fan_in, key)
    if value.layout == layouts.SEQUENCE:
        return call.leaf(value, Mix(features, law, variance), value.layout)
    if "n" in value.layout:
        layer: Any = Dense(features, law, variance)
    else:
        layer = Conv(features, 1, init=law, bias=variance)
    return call.leaf(value, layer, value.layout)


@rule("conv2d", "conv1d")
def convolution(
    call: Call,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value | None:
    """Over one or two sides."""
    value, sides = call.value(input), weight.dim() - 2
    if value is None or call.value(weight) or call.value(bias) or call.result.dim() != input.dim():
        return None
    if value.layout != (layouts.IMAGE if sides == 2 else layouts.SEQUENCE):
        return None
    kernel, stride, dilation = (pair(size, sides, 1) for size in (weight.shape[2:], stride, dilation))
    if padding == "same":
        total = [reach * (side - 1) for reach, side in zip(dilation, kernel, strict=True)]
        if any(side % 2 for side in total):
            return None
        padding = tuple(side // 2 for side in total)
    padding = (0, 0) if padding == "valid" else pair(padding, sides, 0)
    law, variance = call.law(weight, bias, weight[0].numel())
    sizes = number(kernel), number(stride), number(padding), number(dilation)
    return call.leaf(value, Conv(weight.shape[0], *sizes, groups, law, variance), value.layout)


@rule("conv_transpose2d")
def transposed_convolution(
    call: Call,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value | None:
    """From every position to several."""
    value = call.value(input)
    if value is None or call.value(weight) or call.value(bias) or value.layout != layouts.IMAGE:
        return None
    if groups != 1 or pair(dilation, 2, 1) != (1, 1):
        return None
    sizes = (number(pair(size, 2, 0)) for size in (weight.shape[2:], stride, padding, output_padding))
    law, variance = call.law(weight, bias, weight[0].numel())
    kernel, step, pad, extra = sizes
    layer = ConvTranspose(weight.shape[1], kernel, step, pad, extra, init=law, bias=variance)
    return call.leaf(value, layer, value.layout)


@rule("embedding")
def embedding(call: Call, input: Any, weight: Any, *_: Any, **__: Any) -> Value | None:
    """The first look-up of the module's own input."""
    value = call.value(input)
    if value is None or value.node or input.is_floating_point() or call.value(weight):
        return None
    return call.looked_up(weight)
