"""Elementwise functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bntheory.activations import KNOWN, Activation
from bntheory.torch_models import weights
from bntheory.torch_models.rules.registry import numbers, rule

if TYPE_CHECKING:
    from bntheory.torch_models.tracing import Call, Value


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
    return pointwise(call, input, min=min, max=max) if numbers(min, max) else None


@rule("clamp_min")
def clamp_min(call: Call, input: Any, min: Any) -> Value | None:
    return clamp(call, input, min=min)


@rule("pow")
def power(call: Call, input: Any, exponent: Any) -> Value | None:
    return pointwise(call, input, exponent=exponent) if numbers(exponent) else None


@rule(
    *("relu6", "hardtanh", "hardswish", "hardsigmoid", "mish", "softsign", "logsigmoid", "tanhshrink", "hardshrink"),
    *("softshrink", "threshold", "abs", "absolute", "square", "sin", "cos", "atan", "arctan", "asinh", "sqrt"),
)
def pointwise(call: Call, input: Any, *args: Any, inplace: bool = False, **options: Any) -> Value | None:
    """Any elementwise function, by its own values and derivative."""
    if not numbers(*args) or not all(isinstance(value, (float, int, str, type(None))) for value in options.values()):
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
