"""Elementwise functions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bntheory.activations import Activation
from bntheory.torch_models import weights
from bntheory.torch_models.rules.registry import numbers, rule

if TYPE_CHECKING:
    from bntheory.torch_models.tracing import Call, Value


@rule(
    *("relu", "tanh", "sigmoid", "erf", "silu", "selu", "mish", "softsign", "tanhshrink", "relu6"),
    *("hardsigmoid", "hardswish"),
)
def named(call: Call, input: Any, inplace: bool = False) -> Value | None:
    """Activations that go by the same name."""
    return _activation(call, input, Activation(call.function))


@rule("log_sigmoid")
def log_sigmoid(call: Call, input: Any) -> Value | None:
    """The logarithm of a sigmoid, by its other name."""
    return _activation(call, input, Activation("logsigmoid"))


@rule("leaky_relu")
def leaky_relu(call: Call, input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Value | None:
    """With its slope."""
    return _activation(call, input, Activation("leaky_relu", negative_slope))


@rule("prelu")
def prelu(call: Call, input: Any, weight: Any) -> Value | None:
    """A leaky ReLU, if all channels have one slope."""
    slope = weights.constant(weight)
    return None if isinstance(slope, tuple) else _activation(call, input, Activation("leaky_relu", slope))


@rule("gelu")
def gelu(call: Call, input: Any, approximate: str = "none") -> Value | None:
    """Exact, or by tanh."""
    return _activation(call, input, Activation({"none": "gelu", "tanh": "gelu_tanh"}[approximate]))


@rule("elu", "celu")
def elu(call: Call, input: Any, alpha: float = 1.0, scale: float = 1, input_scale: float = 1, **_: Any) -> Value | None:
    """With its α; a CELU is the same at α = 1."""
    if (scale, input_scale) != (1, 1):
        return None
    return _activation(call, input, Activation("elu", alpha)) if call.function == "elu" or alpha == 1 else None


@rule("softplus")
def softplus(call: Call, input: Any, beta: float = 1, threshold: float = 20) -> Value | None:
    """At any β, by its own values."""
    return named(call, input) if beta == 1 else pointwise(call, input, beta=beta, threshold=threshold)


@rule("clamp", "clip")
def clamp(call: Call, input: Any, min: Any = None, max: Any = None) -> Value | None:
    """A ReLU, or kinks at both ends."""
    if (min, max) == (0, None):
        return _activation(call, input, Activation("relu"))
    ends = [end for end in (min, max) if end is not None]
    return pointwise(call, input, kinks=ends, min=min, max=max) if numbers(*ends) else None


@rule("clamp_min")
def clamp_min(call: Call, input: Any, min: Any) -> Value | None:
    """Without an upper end."""
    return clamp(call, input, min=min)


@rule("hardtanh")
def hardtanh(
    call: Call, input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Value | None:
    """Between any two ends."""
    word = {(-1.0, 1.0): "hardtanh", (0.0, 6.0): "relu6"}.get((min_val, max_val))
    if word is not None:
        return _activation(call, input, Activation(word))
    return pointwise(call, input, kinks=(min_val, max_val), min_val=min_val, max_val=max_val)


@rule("pow")
def power(call: Call, input: Any, exponent: Any) -> Value | None:
    """Of a number that is given."""
    return pointwise(call, input, exponent=exponent) if numbers(exponent) else None


@rule(
    *("hardshrink", "threshold", "abs", "absolute", "square", "sin", "cos", "atan", "arctan", "asinh", "sqrt"),
)
def pointwise(
    call: Call, input: Any, *args: Any, kinks: Sequence[float] = (), inplace: bool = False, **options: Any
) -> Value | None:
    """Any elementwise function, by its own values and derivative."""
    if not all(isinstance(value, (float, int, str, type(None))) for value in (*args, *options.values())):
        return None
    words = [*map(str, args), *(f"{key}={value}" for key, value in options.items() if value is not None)]
    name = f"{call.function}({', '.join(words)})" if words else call.function
    function = getattr(torch.nn.functional, call.function, None) or getattr(torch, call.function)
    try:
        phi = _from_torch(name, function, args, tuple(options.items()), tuple(map(float, kinks)))
    except ValueError:  # a jump, an oscillation, a kink that was not named
        return None
    return _activation(call, input, phi)


@functools.lru_cache(maxsize=64)
def _from_torch(
    name: str, function: Callable[..., Any], args: tuple[Any, ...], options: tuple[Any, ...], kinks: tuple[float, ...]
) -> Activation:
    def phi(x: Any) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(function(torch.as_tensor(np.asarray(x, float)), *args, **dict(options)))

    def dphi(x: Any) -> np.ndarray:
        with torch.enable_grad():
            point = torch.as_tensor(np.array(x, float)).requires_grad_()
            return np.asarray(torch.autograd.grad(function(point, *args, **dict(options)).sum(), point)[0])

    return Activation.from_function(name, phi, dphi, kinks)


def _activation(call: Call, input: Any, phi: Activation) -> Value | None:
    value = call.value(input)
    return None if value is None else call.leaf(value, phi, value.layout)
