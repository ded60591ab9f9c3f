"""Pools, padding, and functions that only arrange axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from bntheory.layers import Flatten, Pad, Pool, ZeroPad
from bntheory.rearrangements import Channels, Unflatten, Unroll, Upsample
from bntheory.torch_models import layouts
from bntheory.torch_models.rules.registry import number, pair, rule, scaled

if TYPE_CHECKING:
    from bntheory.torch_models.tracing import Call, Value


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
    """Maxima over windows."""
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
    """Means over windows."""
    unpadded = padding in (0, (0,), (0, 0))
    plain = not ceil_mode and divisor_override is None and (count_include_pad or unpadded)
    return _pool(call, input, "average", kernel_size, stride, padding) if plain else None


def _pool(call: Call, input: Any, kind: str, kernel: Any, stride: Any, padding: Any) -> Value | None:
    value, sides = call.value(input), input.dim() - 2
    if value is None or value.layout != (layouts.IMAGE if sides == 2 else layouts.SEQUENCE):
        return None
    window = pair(kernel, sides, 1)
    step = window if stride is None or stride == [] else pair(stride, sides, 1)
    pad = pair(padding, sides, 0)
    return call.leaf(value, Pool(kind, *(number(pair) for pair in (window, step, pad))), value.layout)


@rule("adaptive_avg_pool2d", "adaptive_avg_pool1d")
def adaptive_average_pool(call: Call, input: Any, output_size: Any) -> Value | None:
    """Windows of one size, if they divide the map."""
    return _adaptive(call, input, output_size, "average")


@rule("adaptive_max_pool2d", "adaptive_max_pool1d")
def adaptive_max_pool(call: Call, input: Any, output_size: Any, return_indices: bool = False) -> Value | None:
    """The same of maxima."""
    return None if return_indices else _adaptive(call, input, output_size, "max")


def _adaptive(call: Call, input: Any, size: Any, kind: str) -> Value | None:
    value, sides = call.value(input), input.dim() - 2
    if value is None or value.layout != (layouts.IMAGE if sides == 2 else layouts.SEQUENCE):
        return None
    if all(side == 1 for side in call.result.shape[2:]):
        return call.leaf(value, Pool(kind), value.layout)
    windows = [side / new for side, new in zip(input.shape[2:], call.result.shape[2:], strict=True)]
    if any(side != int(side) for side in windows):
        return None
    return call.leaf(value, Pool(kind, number(pair(tuple(map(int, windows)), sides, 1))), value.layout)


@rule("mean", "sum", "amax", "max")
def mean(call: Call, input: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Value | None:
    """Over all positions: a pool of the whole map, and a vector unless the axes are kept."""
    value = None if isinstance(dim, torch.Tensor) else call.value(input)
    if value is None or dim is None or "c" not in value.layout:
        return None
    axes = {axis % input.dim() - 1 for axis in (dim if isinstance(dim, (tuple, list)) else (dim,))}
    if axes != {axis for axis, word in enumerate(value.layout) if word != "c"}:
        return None
    pooled = call.leaf(value, Pool("max" if call.function in ("amax", "max") else "average"), value.layout)
    if call.function == "sum":
        pooled = scaled(call, pooled, float(math.prod(value.sizes[axis] for axis in axes)), 0.0)
    return pooled if keepdim else call.leaf(pooled, Flatten(), layouts.VECTOR)


@rule("flatten", "reshape", "view", "_unsafe_view", "squeeze", "unsqueeze", "unflatten", "view_as", "reshape_as")
def reshape(call: Call, input: Any, *_: Any, **__: Any) -> Value | None:
    """To a vector, to an image, or both sides of a map in one."""
    value, sizes = call.value(input), tuple(call.result.shape[1:])
    if value is None or call.result.shape[:1] != input.shape[:1]:
        return None
    if sizes == value.sizes:
        return call.alias(value, value.layout)
    layout = layouts.merged(value.layout, value.sizes, sizes)
    if layout is not None:
        return call.leaf(value, Unroll(), layout)
    if len(sizes) == 1 and "c" in value.layout and layouts.in_order(value.layout):
        return call.leaf(value, Flatten(), layouts.VECTOR)
    if len(sizes) == 3 and value.layout == layouts.VECTOR:
        return call.leaf(value, Unflatten(sizes), layouts.IMAGE)
    return None


@rule("transpose", "swapaxes", "permute", "movedim")
def permute(call: Call, input: Any, *args: Any, **options: Any) -> Value | None:
    """Axes in another order, height before width."""
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
    """The same numbers."""
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
    """Some of the channels, or every stride-th position of a map from the first."""
    value, axes = call.value(input), input.dim()
    if value is None or not value.layout:
        return None
    parts = list(index) if isinstance(index, tuple) else [index]
    if None in parts and all(part in (None, Ellipsis, slice(None)) for part in parts):
        return reshape(call, input)  # axes of length one
    if any(part is Ellipsis for part in parts):
        place = next(axis for axis, part in enumerate(parts) if part is Ellipsis)
        parts[place : place + 1] = [slice(None)] * (axes + 1 - len(parts))
    parts += [slice(None)] * (axes - len(parts))
    if len(parts) != axes or not all(isinstance(part, slice) for part in parts) or parts[0] != slice(None):
        return None
    ends = [part.indices(size) for part, size in zip(parts, input.shape, strict=True)][1:]
    steps, after = {}, value
    for word, size, (start, stop, step) in zip(value.layout, value.sizes, ends, strict=True):
        if word in "nc" and step == 1 and stop > start:
            after = after if (start, stop) == (0, size) else call.leaf(after, Channels(start, stop), value.layout)
        elif (start, stop) == (0, size) and step >= 1 and word in "hw":
            steps[word] = step
        elif (start, stop, step) != (0, size, 1):
            return None
    if set(steps.values()) <= {1}:
        return after if after is not value else call.alias(value, value.layout)
    return call.leaf(after, Pool("average", 1, number((steps["h"], steps["w"]))), value.layout)


@rule("chunk", "split", "split_with_sizes", "tensor_split")
def split(call: Call, input: Any, *args: Any, dim: int = 0, **_: Any) -> Value | None:
    """One of several pieces, which are channels one after another."""
    value = call.value(input)
    dim = (args[1] if len(args) > 1 else dim) % input.dim()
    if value is None or dim == 0 or not value.layout or value.layout[dim - 1] not in "nc":
        return None
    start = sum(part.shape[dim] for part in call.results[: call.place])
    return call.leaf(value, Channels(start, start + call.result.shape[dim]), value.layout)


@rule("narrow")
def narrow(call: Call, input: Any, dim: int, start: int, length: int) -> Value | None:
    """A slice along one axis."""
    index = [slice(None)] * input.dim()
    index[dim] = slice(start, start + length)
    return getitem(call, input, tuple(index))


@rule("interpolate", "upsample")
def interpolate(
    call: Call, input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *_: Any, **__: Any
) -> Value | None:
    """Every position repeated, a whole number of times."""
    value = call.value(input)
    if value is None or mode not in ("nearest", "nearest-exact") or value.layout != layouts.IMAGE:
        return None
    height, width = (new / old for new, old in zip(call.result.shape[2:], input.shape[2:], strict=True))
    if (height, width) == (1, 1):
        return call.alias(value, value.layout)
    if height != int(height) or width != int(width):
        return None
    return call.leaf(value, Upsample(number((int(height), int(width)))), value.layout)
