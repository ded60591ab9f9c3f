"""Normalizations with their learned factors, and Dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bntheory.layers import BatchNorm, Dropout, GroupNorm, LayerNorm
from bntheory.torch_models import layouts, weights
from bntheory.torch_models.rules.registry import rule, scaled

if TYPE_CHECKING:
    from bntheory.torch_models.tracing import Call, Value


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
    """Over the batch, or with running statistics, then γ and β."""
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
    """Over channels, or over all that an example has."""
    value = call.value(input)
    if value is None:
        return None
    sizes = tuple(normalized_shape)
    if value.layout[-1:] == ("c",) and len(sizes) == 1:
        layer = LayerNorm(eps, over="channels")
    elif sizes == value.sizes:
        layer = LayerNorm(eps)
    else:
        return None
    scale, shift = (None if part is None else weights.constant(part) for part in (weight, bias))
    if len(sizes) > 1 and (isinstance(scale, tuple) or isinstance(shift, tuple)):
        return None
    return scaled(call, call.leaf(value, layer, value.layout), 1.0 if scale is None else scale, shift or 0.0)


@rule("group_norm")
def group_norm(
    call: Call, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Value | None:
    """Over groups of channels."""
    value = call.value(input)
    if value is None or value.layout not in (layouts.VECTOR, layouts.IMAGE, layouts.SEQUENCE):
        return None
    scale, shift = (None if part is None else weights.constant(part) for part in (weight, bias))
    after = call.leaf(value, GroupNorm(num_groups, eps), value.layout)
    return scaled(call, after, 1.0 if scale is None else scale, shift or 0.0)


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
    """Every channel by itself."""
    return group_norm(call, input, input.shape[1], weight, bias, eps) if use_input_stats else None


def _affine(call: Call, value: Value, gamma: Any, beta: Any, always: bool = False) -> Value:
    return scaled(call, value, weights.constant(gamma), weights.constant(beta), always)


@rule("dropout")
def dropout(call: Call, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value | None:
    """Nothing in evaluation mode."""
    value = call.value(input)
    if value is None or not training or p == 0:
        return value
    return call.leaf(value, Dropout(p), value.layout) if p < 1 else None


@rule("dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
def other_dropout(call: Call, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value | None:
    """No rule but in evaluation mode."""
    return None if training and p else call.value(input)
