"""The torch reading of a description: a real module with the same rows, weights drawn from the description's laws.

Every leaf module and every block carries the layer it was made from as `module.description`, the root the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bntheory import arguments
from bntheory.activations import Activation
from bntheory.layers import Affine as AffineLayer
from bntheory.layers import BatchNorm, Conv, Dense, Dropout, Flatten, GroupNorm, LayerNorm, Pad, Pool, Shape
from bntheory.layers import ZeroPad as ZeroPadLayer
from bntheory.networks import Join as JoinLayer
from bntheory.networks import Layer, Sequential, output_shape, refuse_unknown
from bntheory.networks import Residual as ResidualLayer
from bntheory.positional import ConvTranspose
from bntheory.positional import Mix as MixLayer
from bntheory.positional import Offset as OffsetLayer
from bntheory.rearrangements import Channels as ChannelsLayer
from bntheory.rearrangements import Unflatten, Upsample
from bntheory.rearrangements import Unroll as UnrollLayer
from simulations import streams
from simulations.weights import draw_bias, draw_weights

try:
    import torch
    from torch import nn
except ModuleNotFoundError:
    raise ModuleNotFoundError('this needs PyTorch: pip install "bntheory[train]"') from None

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def build(
    net: Sequential, seed: int | np.random.Generator = 0, dtype: str | torch.dtype | None = None, draw: int = 0
) -> nn.Sequential:
    """Build the torch module of a description, with weights drawn from its laws.

    Parameters
    ----------
    net : Sequential
        A description with an input shape.
    seed : int or numpy.random.Generator
        Root of the weights' stream; torch's global generator is neither read nor advanced.
    dtype : {"float32", "float64"} or torch.dtype, optional
        None: float32, whatever torch's default is. Weights are drawn in float64 and rounded, so that both types hold
        the same network. Deep networks with large gains leave the range of float32 (3e38): use float64 there.
    draw : int
        Index of the network among independent ones from the same seed, as in `measure_draws`.

    Returns
    -------
    torch.nn.Sequential
        On the CPU, in training mode; its input has shape (batch, *net.input_shape). Names of modules are those of the
        rows of `bntheory.networks.leaves` ("3.branch.0"), so that ``state_dict`` has "3.branch.0.weight". Layers whose
        bias has variance 0 have no bias parameter. BatchNorm has its γ, β = 0 and torch's running statistics, the other
        normalizations γ = 1, β = 0; all can be trained, and so can the γ and β of an Affine that are given channel by
        channel, while a single number stays as it is. A BatchNorm with training=False is in evaluation mode, until
        ``model.train()`` says otherwise. Dropout draws its masks from torch's global generator, when the module runs.

    Raises
    ------
    ValueError
        If `net` has no input shape or an `Unknown` operation, or seed, dtype or draw is not allowed.
    ImportError
        On import of this file, if PyTorch is missing.

    Examples
    --------
    >>> from bntheory.architectures import mlp
    >>> build(mlp(depth=1, width=3, bias=0.1), seed=1)
    Sequential(
      (0): Linear(in_features=3, out_features=3, bias=True)
      (1): ReLU()
    )
    """
    refuse_unknown(net, "built")
    kind = _dtype(dtype)
    # NumPy's stream: torch's CPU generator reads only 32 bits of its seed
    rng = streams.stream(streams.root(seed), arguments.integer("draw", draw, at_least=0))
    model = _sequential(net, net.input_shape, rng).to(kind)
    model.description = net
    return model


class Residual(nn.Module):
    """h ↦ scale · branch(h) + shortcut(h).

    Parameters
    ----------
    branch, shortcut : torch.nn.Sequential
        An empty shortcut is the identity.
    scale : float
    """

    def __init__(self, branch: nn.Sequential, shortcut: nn.Sequential, scale: float = 1.0) -> None:
        super().__init__()
        self.branch, self.shortcut, self.scale = branch, shortcut, scale

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return the sum; the branch runs first."""
        branch = self.branch(h)
        return (branch if self.scale == 1 else self.scale * branch) + self.shortcut(h)

    def extra_repr(self) -> str:
        """Return the scale for ``repr``, unless it is 1."""
        return "" if self.scale == 1 else f"scale={self.scale:g}"


class Join(nn.Module):
    """Branches side by side on the same input, concatenated along channels or multiplied.

    Parameters
    ----------
    branches : sequence of torch.nn.Sequential
        An empty one is the identity.
    operation : {"concatenate", "product"}
    """

    def __init__(self, branches: Sequence[nn.Sequential], operation: str) -> None:
        super().__init__()
        self.branches, self.operation = nn.ModuleList(branches), operation

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return the concatenation or the product; branches run in their order."""
        outputs = [branch(h) for branch in self.branches]
        return outputs[0] * outputs[1] if self.operation == "product" else torch.cat(outputs, dim=1)

    def extra_repr(self) -> str:
        """Return the operation for ``repr``."""
        return self.operation


class ZeroPad(nn.Module):
    """Every stride-th position of an image, and new channels of zeros, half of them before and half after the old.

    Parameters
    ----------
    channels : int
        Channels of the output.
    stride : int

    References
    ----------
    He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition", section 4.2 (option A).
    """

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return (batch, channels, …) from (batch, fewer channels, …)."""
        new = self.channels - h.shape[1]
        sampled = h[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(sampled, (0, 0, 0, 0, new // 2, new - new // 2))

    def extra_repr(self) -> str:
        """Return the arguments for ``repr``."""
        return f"{self.channels}, stride={self.stride}"


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of images at every position.

    Parameters
    ----------
    channels : int
    epsilon : float
    """

    def __init__(self, channels: int, epsilon: float) -> None:
        super().__init__(channels, eps=epsilon)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return (batch, channels, …) from the same shape."""
        return super().forward(h.movedim(1, -1)).movedim(-1, 1)


class Affine(nn.Module):
    """h ↦ γ h + β, of what is given channel by channel as parameters `weight` and `bias`, and of constants.

    Parameters
    ----------
    gamma, beta : float or tuple of float
    """

    def __init__(self, gamma: float | tuple[float, ...], beta: float | tuple[float, ...]) -> None:
        super().__init__()
        self.gamma, self.beta = gamma, beta
        for name, value in (("weight", gamma), ("bias", beta)):
            channels = isinstance(value, tuple)
            parameter = nn.Parameter(torch.tensor(value, dtype=torch.float64)) if channels else None
            self.register_parameter(name, parameter)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return γ h + β, channels along the second axis."""
        ones = (1,) * (h.ndim - 2)
        gamma = self.gamma if self.weight is None else self.weight.view(-1, *ones)
        beta = self.beta if self.bias is None else self.bias.view(-1, *ones)
        return gamma * h + beta

    def extra_repr(self) -> str:
        """Return the arguments for ``repr``."""
        words = [f"{len(part)} numbers" if isinstance(part, tuple) else f"{part:g}" for part in (self.gamma, self.beta)]
        return f"gamma={words[0]}, beta={words[1]}"


class Unroll(nn.Module):
    """(batch, channels, height, width) ↦ (batch, channels, height · width, 1)."""

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return the positions in one line."""
        return h.flatten(2).unsqueeze(-1)


class Channels(nn.Module):
    """The channels (units of a vector) from `start` to `stop`.

    Parameters
    ----------
    start, stop : int
    """

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return some of the channels."""
        return h[:, self.start : self.stop]

    def extra_repr(self) -> str:
        """Return the arguments for ``repr``."""
        return f"{self.start}, {self.stop}"


class Offset(nn.Module):
    """h ↦ h + c, the constants c a parameter `weight`.

    Parameters
    ----------
    constants : array, of the shape of one input
    """

    def __init__(self, constants: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(constants))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return h + c."""
        return h + self.weight


class Mix(nn.Linear):
    """A Linear along the positions of (batch, channels, positions, 1)."""

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return (batch, channels, features, 1)."""
        return super().forward(h.squeeze(-1)).unsqueeze(-1)


class Erf(nn.Module):
    """h ↦ erf(h)."""

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return erf(h)."""
        return torch.erf(h)


class Hardsigmoid(nn.Module):
    """h ↦ relu6(h + 3)/6: torch's own has a 1/6 of single precision in its derivative."""

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return relu6(h + 3)/6."""
        return nn.functional.relu6(h + 3) / 6


class Pointwise(nn.Module):
    """A user's activation, given as NumPy functions φ and φ′.

    Its values go through the CPU, and it can be differentiated once (also by ``torch.func.jacrev``).

    Parameters
    ----------
    activation : Activation
        Made by ``Activation.from_function``.
    """

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return φ(h)."""
        return _NumpyFunction.apply(h, self.activation.phi, self.activation.dphi)

    def extra_repr(self) -> str:
        """Return the name for ``repr``."""
        return self.activation.name


class _NumpyFunction(torch.autograd.Function):
    @staticmethod
    def forward(h: torch.Tensor, phi: Callable[..., Any], dphi: Callable[..., Any] | None) -> torch.Tensor:
        values = np.asarray(phi(h.detach().cpu().numpy()))
        return torch.from_numpy(values).to(h)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.derivative = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        if ctx.derivative is None:
            raise RuntimeError("an activation made from functions has no second derivative")
        return gradient * _NumpyFunction.apply(*ctx.saved_tensors, ctx.derivative, None), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[torch.Tensor, Any]:
        return _NumpyFunction.apply(*inputs), in_dims[0]  # elementwise: the axis stays where it is


_ACTIVATIONS: dict[str, Callable[[Activation], nn.Module]] = {
    "linear": lambda _: nn.Identity(),
    "relu": lambda _: nn.ReLU(),
    "leaky_relu": lambda activation: nn.LeakyReLU(activation.slope),
    "tanh": lambda _: nn.Tanh(),
    "erf": lambda _: Erf(),
    "sigmoid": lambda _: nn.Sigmoid(),
    "gelu": lambda _: nn.GELU(),
    "silu": lambda _: nn.SiLU(),
    "elu": lambda activation: nn.ELU(1.0 if activation.slope is None else activation.slope),
    "selu": lambda _: nn.SELU(),
    # torch turns linear at the threshold: at its 20 that is off by 2e-9, at 40 below the rounding of float64
    "softplus": lambda _: nn.Softplus(threshold=40),
    "softsign": lambda _: nn.Softsign(),
    "mish": lambda _: nn.Mish(),
    "gelu_tanh": lambda _: nn.GELU("tanh"),
    "logsigmoid": lambda _: nn.LogSigmoid(),
    "tanhshrink": lambda _: nn.Tanhshrink(),
    "relu6": lambda _: nn.ReLU6(),
    "hardtanh": lambda _: nn.Hardtanh(),
    "hardsigmoid": lambda _: Hardsigmoid(),
    "hardswish": lambda _: nn.Hardswish(),
}


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    name = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    return DTYPES[arguments.choice("dtype", name, DTYPES)]


def _sequential(net: Sequential, shape: Shape, rng: np.random.Generator) -> nn.Sequential:
    modules = []
    for layer in net.layers:
        modules.append(_module(layer, shape, rng))
        shape = output_shape(layer, shape)
    return nn.Sequential(*modules)


def _module(layer: Layer, shape: Shape, rng: np.random.Generator) -> nn.Module:
    if isinstance(layer, Sequential):
        return _sequential(layer, shape, rng)
    if isinstance(layer, ResidualLayer):
        branch, shortcut = (_sequential(part, shape, rng) for part in (layer.branch, layer.shortcut))
        module: nn.Module = Residual(branch, shortcut, layer.scale)
    elif isinstance(layer, JoinLayer):
        module = Join([_sequential(branch, shape, rng) for branch in layer.branches], layer.word)
    elif isinstance(layer, (Dense, Conv, ConvTranspose)):
        module = _linear(layer, shape, rng)
    elif isinstance(layer, Activation):
        module = _ACTIVATIONS[layer.name](layer) if layer.functions is None else Pointwise(layer)
    elif isinstance(layer, BatchNorm):
        module = _batch_norm(layer, shape)
    elif isinstance(layer, LayerNorm):
        by_position = layer.by_position(shape)
        module = ChannelNorm(shape[0], layer.epsilon) if by_position else nn.LayerNorm(shape, eps=layer.epsilon)
    elif isinstance(layer, GroupNorm):
        module = nn.GroupNorm(layer.groups, shape[0], eps=layer.epsilon)
    elif isinstance(layer, AffineLayer):
        module = Affine(layer.gamma, layer.beta)
    elif isinstance(layer, Dropout):
        module = nn.Dropout(layer.rate)
    elif isinstance(layer, Pool):
        module = _pool(layer)
    elif isinstance(layer, Pad):
        module = nn.ZeroPad2d(layer.padding)
    elif isinstance(layer, Flatten):
        module = nn.Flatten()
    elif isinstance(layer, Unflatten):
        module = nn.Unflatten(1, layer.shape)
    elif isinstance(layer, UnrollLayer):
        module = Unroll()
    elif isinstance(layer, Upsample):
        module = nn.Upsample(scale_factor=layer.factor)
    elif isinstance(layer, MixLayer):
        module = _linear(layer.dense, shape[1:2], rng, Mix)
    elif isinstance(layer, OffsetLayer):
        module = Offset(rng.standard_normal(shape) * math.sqrt(layer.variance))
    elif isinstance(layer, ChannelsLayer):
        module = Channels(layer.start, layer.stop)
    elif isinstance(layer, ZeroPadLayer):
        module = ZeroPad(layer.channels, layer.stride)
    else:
        raise ValueError(f"no torch module for {layer!r}")
    module.description = layer
    return module


def _batch_norm(layer: BatchNorm, shape: Shape) -> nn.Module:
    kind = nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d
    module = kind(shape[0], eps=layer.epsilon, dtype=torch.float64)
    nn.init.constant_(module.weight, layer.gamma)
    return module.train(layer.training)


def _pool(layer: Pool) -> nn.Module:
    average = layer.kind == "average"
    if layer.kernel is None:
        return nn.AdaptiveAvgPool2d(1) if average else nn.AdaptiveMaxPool2d(1)
    return (nn.AvgPool2d if average else nn.MaxPool2d)(layer.kernel, layer.stride, layer.padding)


def _linear(
    layer: Dense | Conv | ConvTranspose, shape: Shape, rng: np.random.Generator, kind: type[nn.Linear] = nn.Linear
) -> nn.Module:
    # skip_init: torch's own initialization would draw from the global generator
    bias_variance = layer.bias_variance(shape)
    common: dict[str, Any] = {"bias": bias_variance > 0, "dtype": torch.float64}
    if isinstance(layer, Dense):
        module = nn.utils.skip_init(kind, shape[0], layer.features, **common)
    elif isinstance(layer, ConvTranspose):
        sizes = {name: getattr(layer, name) for name in ("stride", "padding", "output_padding")}
        module = nn.utils.skip_init(nn.ConvTranspose2d, shape[0], layer.channels, layer.kernel, **sizes, **common)
    else:
        names = ("stride", "padding", "dilation", "groups")
        sizes = {name: getattr(layer, name) for name in names}
        module = nn.utils.skip_init(nn.Conv2d, shape[0], layer.channels, layer.kernel, **sizes, **common)
    rows, *columns = module.weight.shape
    weights = draw_weights(layer.init, layer.weight_variance(shape), (math.prod(columns), rows), rng)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(weights.T.reshape(module.weight.shape)))
        if bias_variance > 0:
            module.bias.copy_(torch.from_numpy(draw_bias(layer, shape, rng)))
    return module
