"""What each torch function is in a description: one rule a function, named as torch names its arguments.

A rule takes the `Call` and the call's own arguments and returns what its result is, or None where it has no layer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bntheory.activations import KNOWN, Activation
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
    ZeroPad,
)
from bntheory.torch_models import layouts, weights
from bntheory.torch_models.graph import Sum
from bntheory.torch_models.layouts import Layout

if TYPE_CHECKING:
    from bntheory.torch_models.tracing import Call, Value

Rule = Callable[..., "Value | None"]
RULES: dict[str, Rule] = {}
Pair = int | tuple[int, int]


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a rule under the names of its functions, without the underscore of those that work in place."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


# weights


@rule("linear")
def linear(call: Call, input: Any, weight: Any, bias: Any = None) -> Value | None:
    value = call.value(input)
    if value is None or call.value(weight) or call.value(bias):
        return None
    return _weighted(call, value, weight, bias)


@rule("matmul", "mm", "__matmul__")
def matmul(call: Call, input: Any, other: Any) -> Value | None:
    value = call.value(input)
    if value is None or call.value(other) or other.dim() != 2:
        return None
    return _weighted(call, value, other.T, None, key=other)


@rule("addmm")
def addmm(call: Call, input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Value | None:
    value = call.value(mat1)
    if value is None or call.value(mat2) or call.value(input) or (beta, alpha) != (1, 1):
        return None
    return _weighted(call, value, mat2.T, input, key=mat2)


def _weighted(call: Call, value: Value, weight: Any, bias: Any, key: Any = None) -> Value | None:
    """Units times a matrix (out, in): Dense on a vector, a 1×1 convolution on what has positions."""
    if not layouts.channels_last(value.layout) and value.layout[:1] != ("n",):
        return None
    features, fan_in = weight.shape
    law, variance = call.law(weight, bias, fan_in, key)
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
    value, sides = call.value(input), weight.dim() - 2
    if value is None or call.value(weight) or call.value(bias) or call.result.dim() != input.dim():
        return None
    if value.layout == ("n", "1", "1") and weight.shape[2:].numel() == 1 and groups == 1:
        law, variance = call.law(weight, bias, weight.shape[1])
        return call.leaf(value, Dense(weight.shape[0], law, variance), value.layout)
    if value.layout != (layouts.IMAGE if sides == 2 else layouts.SEQUENCE) or call.has_merged_positions(value):
        return None
    kernel, stride, dilation = (_pair(size, sides, 1) for size in (weight.shape[2:], stride, dilation))
    if padding == "same":
        total = [reach * (side - 1) for reach, side in zip(dilation, kernel, strict=True)]
        if any(side % 2 for side in total):
            return None
        padding = tuple(side // 2 for side in total)
    padding = (0, 0) if padding == "valid" else _pair(padding, sides, 0)
    law, variance = call.law(weight, bias, weight[0].numel())
    sizes = [_number(pair) for pair in (kernel, stride, padding, dilation)]
    return call.leaf(value, Conv(weight.shape[0], *sizes, groups, law, variance), value.layout)


def _pair(size: Any, sides: int, alone: int) -> tuple[int, int]:
    """(height, width) of a size given as torch takes it; a sequence is a map of width 1."""
    sizes = tuple(size) if isinstance(size, Sequence) else (size,) * sides
    if len(sizes) < sides:
        sizes = sizes * sides
    return (int(sizes[0]), int(sizes[1]) if sides == 2 else alone)


def _number(pair: tuple[int, int]) -> Pair:
    return pair[0] if pair[0] == pair[1] else pair


# normalizations


@rule("batch_norm")
def batch_norm(
    call: Call,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value | None:
    value = call.value(input)
    if value is None or value.layout not in (layouts.VECTOR, layouts.IMAGE, layouts.SEQUENCE):
        return None
    gamma = torch.ones(input.shape[1], dtype=torch.float64) if weight is None else weight.detach().double().cpu()
    beta = torch.zeros_like(gamma) if bias is None else bias.detach().double().cpu()
    if not training:
        call.note("eval", "BatchNorm in evaluation mode: the running statistics are used as they are")
        mean, variance = running_mean.double().cpu(), running_var.double().cpu()
        if bool((mean == 0).all()) and bool((variance == 1).all()):
            return _affine(call, call.leaf(value, BatchNorm(eps, training=False), value.layout), gamma, beta)
        gamma = gamma / torch.sqrt(variance + eps)
        return _affine(call, value, gamma, beta - gamma * mean, always=True)
    if bool((gamma == gamma[0]).all()) and gamma[0] >= 0:
        after = call.leaf(value, BatchNorm(eps, float(gamma[0])), value.layout)
        return _affine(call, after, torch.ones_like(gamma), beta)
    return _affine(call, call.leaf(value, BatchNorm(eps), value.layout), gamma, beta)


@rule("layer_norm")
def layer_norm(
    call: Call, input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Value | None:
    value = call.value(input)
    if value is None:
        return None
    sizes = tuple(normalized_shape)
    if value.layout[-1:] == ("c",) and len(sizes) == 1:
        layer = LayerNorm(eps, axes="channels")
    elif sizes == value.sizes:
        layer = LayerNorm(eps)
    else:
        return None
    scale, shift = (None if part is None else weights.constant(part) for part in (weight, bias))
    if len(sizes) > 1 and (isinstance(scale, tuple) or isinstance(shift, tuple)):
        return None
    return _scaled(call, call.leaf(value, layer, value.layout), 1.0 if scale is None else scale, shift or 0.0)


@rule("group_norm")
def group_norm(
    call: Call, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Value | None:
    value = call.value(input)
    if value is None or value.layout not in (layouts.VECTOR, layouts.IMAGE, layouts.SEQUENCE):
        return None
    scale, shift = (None if part is None else weights.constant(part) for part in (weight, bias))
    after = call.leaf(value, GroupNorm(num_groups, eps), value.layout)
    return _scaled(call, after, 1.0 if scale is None else scale, shift or 0.0)


@rule("instance_norm")
def instance_norm(
    call: Call,
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value | None:
    return group_norm(call, input, input.shape[1], weight, bias, eps) if use_input_stats else None


def _affine(call: Call, value: Value, gamma: Any, beta: Any, always: bool = False) -> Value:
    return _scaled(call, value, weights.constant(gamma), weights.constant(beta), always)


def _scaled(call: Call, value: Value, gamma: Any, beta: Any, always: bool = False) -> Value:
    """γ h + β, a row of its own unless it changes nothing."""
    if (gamma, beta) == (1.0, 0.0) and not always:
        return value
    return call.leaf(value, Affine(gamma, beta), value.layout)


@rule("dropout")
def dropout(call: Call, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value | None:
    value = call.value(input)
    if value is None or not training or p == 0:
        return value
    return call.leaf(value, Dropout(p), value.layout) if p < 1 else None


@rule("dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
def other_dropout(call: Call, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value | None:
    return None if training and p else call.value(input)


# activations


@rule("relu", "tanh", "sigmoid", "erf", "silu", "selu")
def named(call: Call, input: Any, inplace: bool = False) -> Value | None:
    return _activation(call, input, Activation(call.function))


@rule("leaky_relu")
def leaky_relu(call: Call, input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Value | None:
    return _activation(call, input, Activation("leaky_relu", negative_slope))


@rule("prelu")
def prelu(call: Call, input: Any, weight: Any) -> Value | None:
    slope = weights.constant(weight)
    return None if isinstance(slope, tuple) else _activation(call, input, Activation("leaky_relu", slope))


@rule("gelu")
def gelu(call: Call, input: Any, approximate: str = "none") -> Value | None:
    return named(call, input) if approximate == "none" else pointwise(call, input, approximate=approximate)


@rule("elu", "celu")
def elu(call: Call, input: Any, alpha: float = 1.0, scale: float = 1, input_scale: float = 1, **_: Any) -> Value | None:
    if (scale, input_scale) != (1, 1):
        return None
    return _activation(call, input, Activation("elu")) if alpha == 1 else pointwise(call, input, alpha=alpha)


@rule("softplus")
def softplus(call: Call, input: Any, beta: float = 1, threshold: float = 20) -> Value | None:
    return named(call, input) if beta == 1 else pointwise(call, input, beta=beta, threshold=threshold)


@rule("clamp", "clip")
def clamp(call: Call, input: Any, min: Any = None, max: Any = None) -> Value | None:
    if min == 0 and max is None:
        return _activation(call, input, Activation("relu"))
    return pointwise(call, input, min=min, max=max) if _numbers(min, max) else None


@rule("clamp_min")
def clamp_min(call: Call, input: Any, min: Any) -> Value | None:
    return clamp(call, input, min=min)


@rule("pow")
def power(call: Call, input: Any, exponent: Any) -> Value | None:
    return pointwise(call, input, exponent=exponent) if _numbers(exponent) else None


@rule(
    *("relu6", "hardtanh", "hardswish", "hardsigmoid", "mish", "softsign", "logsigmoid", "tanhshrink", "hardshrink"),
    *("softshrink", "threshold", "abs", "absolute", "square", "sin", "cos", "atan", "arctan", "asinh", "sqrt"),
)
def pointwise(call: Call, input: Any, *args: Any, inplace: bool = False, **options: Any) -> Value | None:
    """Any elementwise function, by its own values and derivative."""
    if not _numbers(*args) or not all(isinstance(value, (float, int, str, type(None))) for value in options.values()):
        return None
    words = [*map(str, args), *(f"{key}={value}" for key, value in options.items() if value is not None)]
    name = f"{call.function}({', '.join(words)})" if words else call.function
    try:
        phi = _from_torch(
            name,
            getattr(torch.nn.functional, call.function, None) or getattr(torch, call.function),
            args,
            tuple(options.items()),
        )
    except ValueError:  # a kink or a jump away from 0
        return None
    return _activation(call, input, phi)


@functools.lru_cache(maxsize=64)
def _from_torch(name: str, function: Callable[..., Any], args: tuple[Any, ...], options: tuple[Any, ...]) -> Activation:
    def phi(x: Any) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(function(torch.as_tensor(np.asarray(x, float)), *args, **dict(options)))

    def dphi(x: Any) -> np.ndarray:
        with torch.enable_grad():
            point = torch.as_tensor(np.array(x, float)).requires_grad_()
            return np.asarray(torch.autograd.grad(function(point, *args, **dict(options)).sum(), point)[0])

    return Activation.from_function(name, phi, dphi) if name not in KNOWN else Activation(name)


def _activation(call: Call, input: Any, phi: Activation) -> Value | None:
    value = call.value(input)
    return None if value is None else call.leaf(value, phi, value.layout)


# pools and shapes


@rule("max_pool2d", "max_pool1d")
def max_pool(
    call: Call,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value | None:
    plain = not ceil_mode and not return_indices and dilation in (1, (1, 1), (1,))
    return _pool(call, input, "max", kernel_size, stride, padding) if plain else None


@rule("avg_pool2d", "avg_pool1d")
def average_pool(
    call: Call,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Value | None:
    unpadded = padding in (0, (0,), (0, 0))
    plain = not ceil_mode and divisor_override is None and (count_include_pad or unpadded)
    return _pool(call, input, "average", kernel_size, stride, padding) if plain else None


def _pool(call: Call, input: Any, kind: str, kernel: Any, stride: Any, padding: Any) -> Value | None:
    value, sides = call.value(input), input.dim() - 2
    if value is None or value.layout != (layouts.IMAGE if sides == 2 else layouts.SEQUENCE):
        return None
    if call.has_merged_positions(value):
        return None
    window = _pair(kernel, sides, 1)
    step = window if stride is None or stride == [] else _pair(stride, sides, 1)
    pad = _pair(padding, sides, 0)
    return call.leaf(value, Pool(kind, *(_number(pair) for pair in (window, step, pad))), value.layout)


@rule("adaptive_avg_pool2d", "adaptive_avg_pool1d")
def adaptive_average_pool(call: Call, input: Any, output_size: Any) -> Value | None:
    return _adaptive(call, input, output_size, "average")


@rule("adaptive_max_pool2d", "adaptive_max_pool1d")
def adaptive_max_pool(call: Call, input: Any, output_size: Any, return_indices: bool = False) -> Value | None:
    return None if return_indices else _adaptive(call, input, output_size, "max")


def _adaptive(call: Call, input: Any, size: Any, kind: str) -> Value | None:
    value, sides = call.value(input), input.dim() - 2
    if value is None or value.layout != (layouts.IMAGE if sides == 2 else layouts.SEQUENCE):
        return None
    if all(side == 1 for side in call.result.shape[2:]):
        return call.leaf(value, Pool(kind), value.layout)
    windows = [side / new for side, new in zip(input.shape[2:], call.result.shape[2:], strict=True)]
    if any(side != int(side) for side in windows) or call.has_merged_positions(value):
        return None
    return call.leaf(value, Pool(kind, _number(_pair(tuple(map(int, windows)), sides, 1))), value.layout)


@rule("mean", "amax")
def mean(call: Call, input: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Value | None:
    """Over all positions: a pool of the whole map, and a vector unless the axes are kept."""
    value = call.value(input)
    if value is None or dim is None or "c" not in value.layout:
        return None
    axes = {axis % input.dim() - 1 for axis in (dim if isinstance(dim, (tuple, list)) else (dim,))}
    if axes != {axis for axis, word in enumerate(value.layout) if word != "c"}:
        return None
    pooled = call.leaf(value, Pool("max" if call.function == "amax" else "average"), value.layout)
    return pooled if keepdim else call.leaf(pooled, Flatten(), layouts.VECTOR)


@rule("flatten", "reshape", "view", "_unsafe_view", "squeeze", "unsqueeze", "unflatten", "view_as", "reshape_as")
def reshape(call: Call, input: Any, *_: Any, **__: Any) -> Value | None:
    value, sizes = call.value(input), tuple(call.result.shape[1:])
    if value is None or call.result.shape[:1] != input.shape[:1]:
        return None
    layout = layouts.merged(value.layout, value.sizes, sizes)
    if layout is not None:
        return call.alias(value, layout)
    if len(sizes) == 1 and value.layout and "c" in value.layout and layouts.in_order(value.layout):
        return call.leaf(value, Flatten(), layouts.VECTOR)
    positions = [size for size, word in zip(value.sizes, value.layout, strict=False) if word != "c"]
    if len(value.layout) > 1 and "c" in value.layout and set(positions) == {1} and len(sizes) < len(value.sizes):
        return call.leaf(value, Flatten(), layouts.VECTOR) if len(sizes) == 1 else None
    return None


@rule("transpose", "swapaxes", "permute", "movedim")
def permute(call: Call, input: Any, *args: Any, **options: Any) -> Value | None:
    value = call.value(input)
    if value is None or not value.layout:
        return None
    order = _order(call.function, input.dim(), args, options)
    if order is None or order[0] != 0:
        return None
    layout = layouts.permuted(value.layout, tuple(axis - 1 for axis in order[1:]))
    return call.alias(value, layout) if layouts.in_order(layout) else None


def _order(function: str, axes: int, args: Any, options: dict[str, Any]) -> list[int] | None:
    """Which axis of the input each axis of the result is."""
    marker = torch.empty(tuple(range(2, axes + 2)), device="meta")
    try:
        return [size - 2 for size in getattr(torch.Tensor, function)(marker, *args, **options).shape]
    except (TypeError, RuntimeError):
        return None


@rule(
    *("contiguous", "clone", "detach", "float", "double", "half", "bfloat16", "to", "type_as", "cpu", "cuda"),
    *("requires_grad", "alias", "__get__"),
)
def unchanged(call: Call, input: Any, *_: Any, **__: Any) -> Value | None:
    value = call.value(input)
    same = value is not None and call.result.shape == input.shape
    kept = call.function != "__get__" or call.qualified.endswith(".data.__get__")
    return call.alias(value, value.layout) if value is not None and same and kept else None


@rule("pad")
def pad(call: Call, input: Any, pad: Any, mode: str = "constant", value: Any = None) -> Value | None:
    """Zeros around the map, or channels of zeros."""
    before = call.value(input)
    if before is None or mode != "constant" or value not in (None, 0) or before.layout != layouts.IMAGE:
        return None
    sides = (*pad, *(0,) * (6 - len(pad)))
    if min(sides) < 0:
        return None
    after = before
    if any(sides[:4]):
        after = call.leaf(after, Pad(tuple(sides[:4])), before.layout)
    if any(sides[4:]):
        after = call.leaf(after, ZeroPad(input.shape[1] + sum(sides[4:6])), before.layout)
    return after


@rule("__getitem__")
def getitem(call: Call, input: Any, index: Any) -> Value | None:
    """Every stride-th position of a map, from the first."""
    value = call.value(input)
    if value is None or value.layout != layouts.IMAGE:
        return None
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(part is Ellipsis for part in parts):
        place = next(axis for axis, part in enumerate(parts) if part is Ellipsis)
        parts[place : place + 1] = [slice(None)] * (5 - len(parts))
    parts += [slice(None)] * (4 - len(parts))
    if len(parts) != 4 or not all(isinstance(part, slice) for part in parts):
        return None
    steps = [1 if part.step is None else part.step for part in parts]
    if steps[:2] != [1, 1] or any(part.start or part.stop is not None for part in parts):
        return None
    if steps == [1] * 4:
        return call.alias(value, value.layout)
    return call.leaf(value, Pool("average", 1, _number((steps[2], steps[3]))), value.layout)


# sums, products, concatenations


@rule("add", "__add__", "__radd__", "__iadd__")
def add(call: Call, input: Any, other: Any, *, alpha: float = 1) -> Value | None:
    return _sum(call, input, other, 1.0, float(alpha))


@rule("sub", "subtract", "__sub__", "__isub__")
def subtract(call: Call, input: Any, other: Any, *, alpha: float = 1) -> Value | None:
    return _sum(call, input, other, 1.0, -float(alpha))


@rule("rsub", "__rsub__")
def subtract_from(call: Call, input: Any, other: Any, *, alpha: float = 1) -> Value | None:
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
            return None
        shift = tuple(other_factor * part for part in shift) if isinstance(shift, tuple) else other_factor * shift
        return _scaled(call, value, factor, shift)
    if (value.layout, value.sizes) != (added.layout, added.sizes) or not value.layout:
        return None
    if value.node == added.node:
        return _scaled(call, value, factor + other_factor, 0.0) if factor + other_factor else None
    pair = [_scaled(call, part, scale, 0.0) for part, scale in ((value, factor), (added, other_factor))]
    return call.join(pair, Sum(), value.layout)


@rule("mul", "multiply", "__mul__", "__rmul__", "__imul__")
def multiply(call: Call, input: Any, other: Any) -> Value | None:
    value, factor = call.value(input), call.value(other)
    if value is not None and factor is not None:
        return _product(call, value, factor)
    value, constant = (value, other) if value is not None else (factor, input)
    if value is None or tuple(call.result.shape[1:]) != value.sizes:
        return None
    gamma = _per_channel(constant, call.result, value.layout)
    return None if gamma is None else _scaled(call, value, gamma, 0.0)


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
    value = call.value(input)
    if value is None or call.value(other) or rounding_mode is not None:
        return None
    divisor = _per_channel(other, call.result, value.layout)
    if divisor is None or tuple(call.result.shape[1:]) != value.sizes:
        return None
    gamma = tuple(1 / part for part in divisor) if isinstance(divisor, tuple) else 1 / divisor
    return _scaled(call, value, gamma, 0.0)


@rule("neg", "negative", "__neg__")
def negative(call: Call, input: Any) -> Value | None:
    value = call.value(input)
    return None if value is None else _scaled(call, value, -1.0, 0.0)


def _per_channel(constant: Any, result: torch.Tensor, layout: Layout) -> float | tuple[float, ...] | None:
    """A constant as one number, or one a channel; None if it differs between positions or examples."""
    if _numbers(constant):
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
    values = [call.value(tensor) for tensor in tensors]
    first = values[0]
    if first is None or not first.layout or dim % call.result.dim() == 0:
        return None
    if first.layout[dim % call.result.dim() - 1] not in "nc":
        return None
    if any(value is None or value.layout != first.layout for value in values):
        return None
    return first if len(values) == 1 else call.join([value for value in values if value], "concatenate", first.layout)


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, (int, float)) or value is None for value in values) and values[:1] != (None,)
