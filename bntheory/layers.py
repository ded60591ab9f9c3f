"""Layers of a random network, as plain data: what they are called, which shapes they take and give.

Shapes are (n,) for vectors and (channels, height, width) for images. Weights are independent with zero mean and the law
of the layer's `Initialization`; an `Activation` is a layer by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bntheory import arguments
from bntheory.initializations import INITIALIZATIONS, Initialization, initialization

Shape = tuple[int, ...]
MOST_UNITS = 10**9  # of one layer: beyond, use the limit of infinite width


@dataclass(frozen=True)
class Dense:
    """h ↦ W h + b on a flat input.

    Parameters
    ----------
    features : int
        Number of outputs, at least 1.
    init : Initialization or str
        Law of the weights.
    bias : float, optional
        Variance of the Gaussian biases; None: the initialization's own (torch's default has one, the others none).

    Examples
    --------
    >>> Dense(10, "lecun_normal").output_shape((64,))
    (10,)
    """

    features: int
    init: Initialization = INITIALIZATIONS["he_normal"]
    bias: float | None = None

    def __post_init__(self) -> None:
        set_fields(self, features=arguments.integer("features", self.features, at_most=MOST_UNITS))
        set_fields(self, init=initialization(self.init), bias=_bias(self.bias))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output; ValueError unless the input is flat."""
        if len(shape) != 1:
            raise ValueError(f"{self} needs a flat input, got shape {shape}: put Flatten() before it")
        return (self.features,)

    def weight_variance(self, shape: Shape) -> float:
        """Variance of one weight for that input shape."""
        return self.init.variance(shape[0], self.features)

    def bias_variance(self, shape: Shape) -> float:
        """Variance of one bias for that input shape."""
        return self.init.bias_variance(shape[0]) if self.bias is None else self.bias

    def __str__(self) -> str:
        return f"Dense({self.features}, {self.init}{_bias_text(self.bias)})"


@dataclass(frozen=True)
class Conv:
    """Two-dimensional convolution with zero padding on (channels, height, width).

    Parameters
    ----------
    channels : int
        Number of output channels.
    kernel, stride, dilation, groups : int
        As in ``torch.nn.Conv2d``, at least 1.
    padding : int, optional
        Zeros added on every side; None: dilation · (kernel − 1) // 2, which keeps the size at stride 1 and odd kernels.
    init, bias
        As in `Dense`; fan_in = in channels / groups · kernel².

    Examples
    --------
    >>> Conv(16, kernel=3, stride=2).output_shape((3, 32, 32))
    (16, 16, 16)
    """

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int | None = None
    dilation: int = 1
    groups: int = 1
    init: Initialization = INITIALIZATIONS["he_normal"]
    bias: float | None = None

    def __post_init__(self) -> None:
        for name in ("channels", "kernel", "stride", "dilation", "groups"):
            set_fields(self, **{name: arguments.integer(name, getattr(self, name))})
        if self.channels % self.groups:
            raise ValueError(f"groups must divide channels, got {self.groups} groups and {self.channels} channels")
        padding = self.dilation * (self.kernel - 1) // 2 if self.padding is None else self.padding
        set_fields(self, padding=arguments.integer("padding", padding, at_least=0))
        set_fields(self, init=initialization(self.init), bias=_bias(self.bias))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output; ValueError if the map is smaller than the kernel or groups do not divide."""
        channels, *sides = _image(self, shape)
        if channels % self.groups:
            raise ValueError(f"{self}: groups must divide the input's channels, got {self.groups} and {channels}")
        reach = self.dilation * (self.kernel - 1) + 1
        return (self.channels, *(_window(self, side, reach, self.stride, self.padding or 0) for side in sides))

    def _fans(self, shape: Shape) -> tuple[int, int, int]:
        area = self.kernel**2
        return shape[0] // self.groups * area, self.channels // self.groups * area, area

    def weight_variance(self, shape: Shape) -> float:
        """Variance of one weight for that input shape."""
        fan_in, fan_out, area = self._fans(shape)
        # torch.nn.init reads fan_out off the weight's own shape (channels, in/groups, k, k): groups do not divide it
        return self.init.variance(fan_in, fan_out * self.groups, area)

    def bias_variance(self, shape: Shape) -> float:
        """Variance of one bias for that input shape."""
        return self.init.bias_variance(self._fans(shape)[0]) if self.bias is None else self.bias

    def __str__(self) -> str:
        extras = [f"{key}={getattr(self, key)}" for key in ("stride", "dilation", "groups") if getattr(self, key) > 1]
        if self.padding != self.dilation * (self.kernel - 1) // 2:
            extras.append(f"padding={self.padding}")
        words = [str(self.channels), f"{self.kernel}×{self.kernel}", *extras, f"{self.init}{_bias_text(self.bias)}"]
        return f"Conv({', '.join(words)})"


@dataclass(frozen=True)
class BatchNorm:
    """Subtract each channel's mean over batch and positions, divide by √(variance + epsilon); γ = 1, β = 0.

    Parameters
    ----------
    epsilon : float
        Added to the population variance; at least 0.
    """

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        set_fields(self, epsilon=arguments.number("epsilon", self.epsilon, at_least=0))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output: the input's."""
        return shape

    def __str__(self) -> str:
        return "BatchNorm" if self.epsilon == 1e-5 else f"BatchNorm(epsilon={self.epsilon:g})"


@dataclass(frozen=True)
class LayerNorm:
    """h ↦ (h − mean)/√(variance + epsilon) over all entries of one input; γ = 1, β = 0.

    Parameters
    ----------
    epsilon : float
        Added to the population variance; at least 0.

    Raises
    ------
    ValueError
        If epsilon is negative or not finite.

    Examples
    --------
    >>> LayerNorm().output_shape((3, 32, 32))
    (3, 32, 32)
    """

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        set_fields(self, epsilon=arguments.number("epsilon", self.epsilon, at_least=0))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output: the input's."""
        return shape

    def __str__(self) -> str:
        return "LayerNorm" if self.epsilon == 1e-5 else f"LayerNorm(epsilon={self.epsilon:g})"


@dataclass(frozen=True)
class Dropout:
    """Training mode: each entry is divided by 1 − rate with probability 1 − rate, else 0; independent masks.

    Parameters
    ----------
    rate : float
        Probability of 0, in [0, 1).

    Raises
    ------
    ValueError
        If rate is not in [0, 1).

    Examples
    --------
    >>> print(Dropout(0.1))
    Dropout(0.1)
    """

    rate: float

    def __post_init__(self) -> None:
        rate = arguments.number("rate", self.rate, at_least=0)
        if rate >= 1:
            raise ValueError(f"rate must be at least 0 and below 1, got {self.rate!r:.60}")
        set_fields(self, rate=rate)

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output: the input's."""
        return shape

    def __str__(self) -> str:
        return f"Dropout({self.rate:g})"


@dataclass(frozen=True)
class Pool:
    """Average or maximum over windows of an image; over the whole map if kernel is None.

    Parameters
    ----------
    kind : {"average", "max"}
    kernel : int, optional
        Side of the window; None: the whole map, leaving 1×1.
    stride : int, optional
        None: the kernel.
    """

    kind: str = "average"
    kernel: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        arguments.choice("kind", self.kind, ("average", "max"))
        if self.kernel is None and self.stride is not None:
            raise ValueError(f"a pool over the whole map has no stride, got stride={self.stride}")
        if self.kernel is not None:
            set_fields(self, kernel=arguments.integer("kernel", self.kernel))
            set_fields(self, stride=arguments.integer("stride", self.kernel if self.stride is None else self.stride))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output; ValueError if the map is smaller than the window."""
        channels, *sides = _image(self, shape)
        if self.kernel is None or self.stride is None:
            return (channels, 1, 1)
        return (channels, *(_window(self, side, self.kernel, self.stride, 0) for side in sides))

    def __str__(self) -> str:
        if self.kernel is None:
            return f"Pool({self.kind}, whole map)"
        stride = "" if self.stride == self.kernel else f", stride={self.stride}"
        return f"Pool({self.kind}, {self.kernel}×{self.kernel}{stride})"


@dataclass(frozen=True)
class Flatten:
    """(channels, height, width) ↦ one vector."""

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output: the number of entries."""
        size = 1
        for side in shape:
            size *= side
        return (size,)

    def __str__(self) -> str:
        return "Flatten"


@dataclass(frozen=True)
class ZeroPad:
    """The parameter-free shortcut of He et al. 2016: every stride-th position, new channels filled with zeros.

    Parameters
    ----------
    channels : int
        Channels of the output, at least the input's; the new ones are split evenly before and after.
    stride : int
    """

    channels: int
    stride: int = 1

    def __post_init__(self) -> None:
        set_fields(self, channels=arguments.integer("channels", self.channels))
        set_fields(self, stride=arguments.integer("stride", self.stride))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output; ValueError if there would be fewer channels than before."""
        channels, *sides = _image(self, shape)
        if self.channels < channels:
            raise ValueError(f"{self} cannot reduce channels, got shape {shape}")
        return (self.channels, *(_window(self, side, 1, self.stride, 0) for side in sides))

    def __str__(self) -> str:
        return f"ZeroPad({self.channels}, stride={self.stride})"


def set_fields(instance: object, **fields: Any) -> None:
    """Set checked values on a frozen dataclass while it is being made."""
    for name, value in fields.items():
        object.__setattr__(instance, name, value)


def _bias(variance: float | None) -> float | None:
    return None if variance is None else arguments.number("bias", variance, at_least=0)


def _bias_text(variance: float | None) -> str:
    return "" if variance is None else f", bias={variance:g}"


def _image(layer: object, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ValueError(f"{layer} needs an input of shape (channels, height, width), got {shape}")
    return shape


def _window(layer: object, side: int, reach: int, stride: int, padding: int) -> int:
    if side + 2 * padding < reach:
        raise ValueError(f"{layer} reaches over {reach} positions, got a side of {side} with padding {padding}")
    return (side + 2 * padding - reach) // stride + 1
