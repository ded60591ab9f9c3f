"""Layers of a random network, as plain data: what they are called, which shapes they take and give.

Shapes are (n,) for vectors and (channels, height, width) for images. Weights are independent with zero mean and the law
of the layer's `Initialization`; an `Activation` is a layer by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from bntheory import arguments
from bntheory.initializations import INITIALIZATIONS, Initialization, initialization

Shape = tuple[int, ...]
Sides = int | tuple[int, int]  # one number for both sides of a map, or (height, width)
MOST_UNITS = 10**9  # of one layer: beyond, use the limit of infinite width


class Window(NamedTuple):
    """How a window moves along one side of a map."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @property
    def reach(self) -> int:
        """Positions from its first to its last."""
        return self.dilation * (self.kernel - 1) + 1


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
    kernel, stride, dilation : int or (int, int)
        As in ``torch.nn.Conv2d``, at least 1; a pair is (height, width). A signal of one dimension is a map of width 1.
    padding : int or (int, int), optional
        Zeros added on every side; None: dilation · (kernel − 1) // 2, which keeps the size at stride 1 and odd kernels.
    groups : int
    init, bias
        As in `Dense`; fan_in = in channels / groups · area of the kernel.

    Examples
    --------
    >>> Conv(16, kernel=3, stride=2).output_shape((3, 32, 32))
    (16, 16, 16)
    >>> Conv(16, kernel=(7, 1), stride=(2, 1)).output_shape((1, 100, 1))
    (16, 50, 1)
    """

    channels: int
    kernel: Sides = 3
    stride: Sides = 1
    padding: Sides | None = None
    dilation: Sides = 1
    groups: int = 1
    init: Initialization = INITIALIZATIONS["he_normal"]
    bias: float | None = None

    def __post_init__(self) -> None:
        for name in ("channels", "groups"):
            set_fields(self, **{name: arguments.integer(name, getattr(self, name))})
        for name in ("kernel", "stride", "dilation"):
            set_fields(self, **{name: _sides(name, getattr(self, name))})
        if self.channels % self.groups:
            raise ValueError(f"groups must divide channels, got {self.groups} groups and {self.channels} channels")
        padding = self._keeping if self.padding is None else self.padding
        set_fields(self, padding=_sides("padding", padding, at_least=0))
        set_fields(self, init=initialization(self.init), bias=_bias(self.bias))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output; ValueError if the map is smaller than kernel or stride, or groups do not divide."""
        channels, *sides = _image(self, shape)
        if channels % self.groups:
            raise ValueError(f"{self}: groups must divide the input's channels, got {self.groups} and {channels}")
        return (self.channels, *(_places(self, *side) for side in zip(sides, self.windows(shape), strict=True)))

    def windows(self, shape: Shape) -> tuple[Window, Window]:
        """How the kernel moves down and across."""
        down, across = zip(*map(both, (self.kernel, self.stride, self.padding or 0, self.dilation)), strict=True)
        return Window(*down), Window(*across)

    @property
    def area(self) -> int:
        """Positions of the kernel."""
        return math.prod(both(self.kernel))

    @property
    def _keeping(self) -> Sides:
        """The padding that keeps the size at stride 1."""
        down, across = zip(both(self.kernel), both(self.dilation), strict=True)
        return down[1] * (down[0] - 1) // 2, across[1] * (across[0] - 1) // 2

    def _fans(self, shape: Shape) -> tuple[int, int, int]:
        area = self.area
        return shape[0] // self.groups * area, self.channels // self.groups * area, area

    def weight_variance(self, shape: Shape) -> float:
        """Variance of one weight for that input shape."""
        fan_in, fan_out, area = self._fans(shape)
        # torch.nn.init reads fan_out off the weight's own shape (channels, in/groups, h, w): groups do not divide it
        return self.init.variance(fan_in, fan_out * self.groups, area)

    def bias_variance(self, shape: Shape) -> float:
        """Variance of one bias for that input shape."""
        return self.init.bias_variance(self._fans(shape)[0]) if self.bias is None else self.bias

    def __str__(self) -> str:
        extras = [f"{key}={getattr(self, key)}" for key in ("stride", "dilation", "groups") if getattr(self, key) != 1]
        if self.padding != _sides("padding", self._keeping, at_least=0):
            extras.append(f"padding={self.padding}")
        words = [
            str(self.channels),
            "×".join(map(str, both(self.kernel))),
            *extras,
            f"{self.init}{_bias_text(self.bias)}",
        ]
        return f"Conv({', '.join(words)})"


@dataclass(frozen=True)
class BatchNorm:
    """γ (h − mean)/√(variance + epsilon), mean and variance of each channel over batch and positions; β = 0.

    Parameters
    ----------
    epsilon : float
        Added to the population variance; at least 0.
    gamma : float
        γ, the same for all channels; at least 0. With 0, as in the last BatchNorm of a residual branch, all is zero.
    training : bool
        False: as evaluated right after initialization, with running mean 0 and variance 1: h ↦ γ h/√(1 + epsilon).

    Raises
    ------
    ValueError
        If epsilon or gamma is negative or not finite, or training is not True or False.

    References
    ----------
    Ioffe, Szegedy 2015, algorithm 1; γ = 0: Goyal et al. 2017, section 5.1.

    Examples
    --------
    >>> print(BatchNorm(), BatchNorm(gamma=0), BatchNorm(training=False))
    BatchNorm BatchNorm(gamma=0) BatchNorm(training=False)
    """

    epsilon: float = 1e-5
    gamma: float = 1.0
    training: bool = True

    def __post_init__(self) -> None:
        set_fields(self, epsilon=_epsilon(self))
        set_fields(self, gamma=arguments.number("BatchNorm: gamma", self.gamma, at_least=0))
        arguments.flag("BatchNorm: training", self.training)

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output: the input's."""
        return shape

    def __str__(self) -> str:
        words = _epsilon_words(self)
        words += [f"gamma={self.gamma:g}"] if self.gamma != 1 else []
        words += [] if self.training else ["training=False"]
        return f"BatchNorm({', '.join(words)})" if words else "BatchNorm"


@dataclass(frozen=True)
class LayerNorm:
    """h ↦ (h − mean)/√(variance + epsilon) over entries of one input; γ = 1, β = 0.

    Parameters
    ----------
    epsilon : float
        Added to the population variance; at least 0.
    over : {"all", "channels"}
        All entries of an input together, or of an image the channels at every position by themselves, as in ConvNeXt
        and in transformers; ``torch.nn.LayerNorm(channels)`` with the channels last. On a vector both are the same.

    Raises
    ------
    ValueError
        If epsilon is negative or not finite, or over is another word; where the shape is known, if a position of an
        image has a single channel, which would become 0.

    References
    ----------
    Ba, Kiros, Hinton 2016 (arXiv:1607.06450); over channels: Liu et al. 2022 (arXiv:2201.03545), section 2.6.

    Examples
    --------
    >>> LayerNorm().output_shape((3, 32, 32))
    (3, 32, 32)
    >>> print(LayerNorm(1e-6, over="channels"))
    LayerNorm(epsilon=1e-06, over=channels)
    """

    epsilon: float = 1e-5
    over: str = "all"

    def __post_init__(self) -> None:
        set_fields(self, epsilon=_epsilon(self))
        arguments.choice("LayerNorm: over", self.over, ("all", "channels"))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output: the input's; ValueError for a single channel by itself."""
        if self.by_position(shape) and shape[0] == 1:
            raise ValueError(f"{self} of shape {shape} has a single number at each position, which would become 0")
        return shape

    def by_position(self, shape: Shape) -> bool:
        """Whether positions of that shape are normalized by themselves."""
        return self.over == "channels" and len(shape) == 3

    def __str__(self) -> str:
        words = [*_epsilon_words(self), *(["over=channels"] if self.over == "channels" else [])]
        return f"LayerNorm({', '.join(words)})" if words else "LayerNorm"


@dataclass(frozen=True)
class GroupNorm:
    """h ↦ (h − mean)/√(variance + epsilon) over each group of channels, at all positions of one input; γ = 1, β = 0.

    Parameters
    ----------
    groups : int
        Number of groups of adjacent channels, of one size; 1 is a LayerNorm. On a vector its entries are the channels.
    epsilon : float
        Added to the population variance; at least 0.

    Raises
    ------
    ValueError
        If groups is below 1, or epsilon is negative or not finite; where the shape is known, if groups does not divide
        the channels, or leaves a single number to each group, which would become 0.

    References
    ----------
    Wu, He 2018, "Group normalization", section 3.1.

    Examples
    --------
    >>> print(GroupNorm(8))
    GroupNorm(8)
    >>> GroupNorm(8).output_shape((12, 4, 4))
    Traceback (most recent call last):
    ValueError: GroupNorm(8): groups must divide the channels, got 8 groups and 12 channels
    """

    groups: int
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        set_fields(self, groups=arguments.integer("GroupNorm: groups", self.groups), epsilon=_epsilon(self))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output: the input's; ValueError if groups does not fit it."""
        channels, *sides = shape
        if channels % self.groups:
            raise ValueError(
                f"{self}: groups must divide the channels, got {self.groups} groups and {channels} channels"
            )
        if channels * math.prod(sides) == self.groups:
            raise ValueError(f"{self} of shape {shape} has groups of a single number, which would become 0: use fewer")
        return shape

    def __str__(self) -> str:
        return f"GroupNorm({', '.join([str(self.groups), *_epsilon_words(self)])})"


@dataclass(frozen=True)
class Affine:
    """h ↦ γ h + β: the same for all units, or a γ and a β of its own for every channel (unit of a vector).

    Parameters
    ----------
    gamma, beta : float or tuple of float
        γ and β, finite, of any sign: one number, or one for each channel of the input.

    Raises
    ------
    ValueError
        If a number is not finite, or γ and β are of different lengths; where the shape is known, if they do not have
        one number for each channel.

    Examples
    --------
    >>> print(Affine(0.5), Affine((1.0, 0.9, -1.0), beta=0.1))
    Affine(0.5) Affine((1, …, -1), beta=0.1)
    >>> Affine((1.0, 0.9)).output_shape((3, 8, 8))
    Traceback (most recent call last):
    ValueError: Affine((1, …, 0.9)) needs a number for each channel, got 2 numbers and 3 channels
    """

    gamma: float | tuple[float, ...] = 1.0
    beta: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        for name in ("gamma", "beta"):
            set_fields(self, **{name: _per_channel(f"Affine: {name}", getattr(self, name))})
        lengths = [len(part) for part in (self.gamma, self.beta) if isinstance(part, tuple)]
        if len(set(lengths)) > 1:
            raise ValueError(f"Affine: gamma and beta must be as many, got {lengths[0]} and {lengths[1]} numbers")

    @property
    def factor(self) -> float | None:
        """γ where it is the same for all units and β = 0, so that nothing but the scale changes; None elsewhere."""
        gammas, betas = self.pairs
        return gammas[0] if len(set(gammas)) == 1 and not any(betas) else None

    @property
    def pairs(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """γ and β as tuples of one length: that of the channels, or 1."""
        parts = [part if isinstance(part, tuple) else (part,) for part in (self.gamma, self.beta)]
        length = max(map(len, parts))
        gammas, betas = (part if len(part) == length else part * length for part in parts)
        return gammas, betas

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output: the input's; ValueError unless γ and β have a number for each of its channels."""
        numbers = len(self.pairs[0])
        if numbers != shape[0] and isinstance(self.gamma, tuple) | isinstance(self.beta, tuple):
            raise ValueError(f"{self} needs a number for each channel, got {numbers} numbers and {shape[0]} channels")
        return shape

    def of(self, start: int, stop: int) -> Affine:
        """The same for some of the channels."""
        gamma, beta = (part[start:stop] if isinstance(part, tuple) else part for part in (self.gamma, self.beta))
        return Affine(gamma, beta)

    def __str__(self) -> str:
        beta = "" if self.beta == 0 else f", beta={_few(self.beta)}"
        return f"Affine({_few(self.gamma)}{beta})"


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

    As ``torch.nn.AvgPool2d`` and ``MaxPool2d``: zeros of the padding count in averages, and a maximum leaves it out.

    Parameters
    ----------
    kind : {"average", "max"}
    kernel : int or (int, int), optional
        Side of the window, or (height, width); None: the whole map, leaving 1×1.
    stride : int or (int, int), optional
        None: the kernel.
    padding : int or (int, int)
        On every side of the map, at most half the kernel.

    Raises
    ------
    ValueError
        If kind is another word, a number is out of range, or a pool over the whole map has a stride or padding.

    Examples
    --------
    >>> print(Pool("max", 3, 2, padding=1))
    Pool(max, 3×3, stride=2, padding=1)
    >>> Pool("max", 3, 2, padding=1).output_shape((64, 112, 112))
    (64, 56, 56)
    """

    kind: str = "average"
    kernel: Sides | None = None
    stride: Sides | None = None
    padding: Sides = 0

    def __post_init__(self) -> None:
        arguments.choice("kind", self.kind, ("average", "max"))
        if self.kernel is None and self.stride is not None:
            raise ValueError(f"a pool over the whole map has no stride, got stride={self.stride}")
        set_fields(self, padding=_sides("padding", self.padding, at_least=0))
        if self.kernel is None and self.padding != 0:
            raise ValueError(f"a pool over the whole map has no padding, got padding={self.padding}")
        if self.kernel is not None:
            set_fields(self, kernel=_sides("kernel", self.kernel))
            if any(2 * pad > side for pad, side in zip(both(self.padding), both(self.kernel), strict=True)):
                raise ValueError(
                    f"padding of a pool must be at most half the kernel, got padding={self.padding} and {self.kernel}"
                )
            set_fields(self, stride=_sides("stride", self.kernel if self.stride is None else self.stride))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output; ValueError if the map is smaller than the window or the stride."""
        channels, *sides = _image(self, shape)
        return (channels, *(_places(self, *side) for side in zip(sides, self.windows(shape), strict=True)))

    def windows(self, shape: Shape) -> tuple[Window, Window]:
        """How the window moves down and across a map of that shape."""
        if self.kernel is None or self.stride is None:
            return Window(shape[1]), Window(shape[2])
        down, across = zip(*map(both, (self.kernel, self.stride, self.padding)), strict=True)
        return Window(*down), Window(*across)

    def __str__(self) -> str:
        if self.kernel is None:
            return f"Pool({self.kind}, whole map)"
        stride = "" if self.stride == self.kernel else f", stride={self.stride}"
        padding = f", padding={self.padding}" if self.padding != 0 else ""
        return f"Pool({self.kind}, {'×'.join(map(str, both(self.kernel)))}{stride}{padding})"


@dataclass(frozen=True)
class Pad:
    """Zeros around an image, as ``torch.nn.ZeroPad2d``.

    Parameters
    ----------
    padding : int or (left, right, top, bottom)
        How many on every side, at least 0.

    Raises
    ------
    ValueError
        If there are not one or four numbers, or one is below 0.

    Examples
    --------
    >>> Pad((1, 0, 2, 0)).output_shape((3, 8, 8))
    (3, 10, 9)
    """

    padding: int | tuple[int, int, int, int]

    def __post_init__(self) -> None:
        if not isinstance(self.padding, (tuple, list)):
            set_fields(self, padding=arguments.integer("Pad: padding", self.padding, at_least=0))
            return
        if len(self.padding) != 4:
            raise ValueError(f"Pad: padding must be (left, right, top, bottom), got {self.padding!r:.60}")
        sides = tuple(arguments.integer("Pad: padding", side, at_least=0) for side in self.padding)
        set_fields(self, padding=sides[0] if len(set(sides)) == 1 else sides)

    @property
    def sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(top, bottom), (left, right)."""
        left, right, top, bottom = self.padding if isinstance(self.padding, tuple) else (self.padding,) * 4
        return (top, bottom), (left, right)

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output."""
        channels, *sides = _image(self, shape)
        return (channels, *(side + sum(pads) for side, pads in zip(sides, self.sides, strict=True)))

    def __str__(self) -> str:
        return f"Pad({self.padding})"


@dataclass(frozen=True)
class Flatten:
    """(channels, height, width) ↦ one vector."""

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output: the number of entries."""
        return (math.prod(shape),)

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
        """Shape of the output; ValueError if channels would get fewer, or the map is smaller than the stride."""
        channels, *sides = _image(self, shape)
        if self.channels < channels:
            raise ValueError(f"{self} cannot reduce channels, got shape {shape}")
        return (self.channels, *(_places(self, side, Window(1, self.stride)) for side in sides))

    def __str__(self) -> str:
        return f"ZeroPad({self.channels}, stride={self.stride})"


@dataclass(frozen=True)
class Unknown:
    """What no reading has a rule for: of its output the shape is known, whatever goes in.

    Parameters
    ----------
    operation : str
        What it is, in words; the name under which it is refused.
    output : tuple of int
        (n,) or (channels, height, width).

    Raises
    ------
    ValueError
        If there are no words, or the shape is not one.

    Examples
    --------
    >>> print(Unknown("aten.sort", (8,)), Unknown("aten.sort", (8,)).output_shape((3, 4, 4)))
    aten.sort (8,)
    """

    operation: str
    output: Shape

    def __post_init__(self) -> None:
        if not isinstance(self.operation, str) or not self.operation.strip():
            raise ValueError(f"operation must be words, got {self.operation!r:.60}")
        if not isinstance(self.output, (tuple, list)) or len(self.output) not in (1, 3):
            raise ValueError(f"output must be (n,) or (channels, height, width), got {self.output!r:.60}")
        set_fields(self, output=tuple(arguments.integer("output", side) for side in self.output))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output: the one that was given."""
        return self.output

    def __str__(self) -> str:
        return self.operation


def set_fields(instance: object, **fields: Any) -> None:
    """Set checked values on a frozen dataclass while it is being made."""
    for name, value in fields.items():
        object.__setattr__(instance, name, value)


def _epsilon(layer: BatchNorm | LayerNorm | GroupNorm) -> float:
    return arguments.number(f"{type(layer).__name__}: epsilon", layer.epsilon, at_least=0)


def _epsilon_words(layer: BatchNorm | LayerNorm | GroupNorm) -> list[str]:
    return [] if layer.epsilon == 1e-5 else [f"epsilon={layer.epsilon:g}"]


def _per_channel(name: str, value: object) -> float | tuple[float, ...]:
    if not isinstance(value, (tuple, list)):
        return arguments.number(name, value)
    if not value:
        raise ValueError(f"{name} must have a number for each channel, got none")
    return tuple(arguments.number(name, number) for number in value)


def _few(value: float | tuple[float, ...]) -> str:
    if not isinstance(value, tuple):
        return f"{value:g}"
    return f"({value[0]:g}, …, {value[-1]:g})" if len(value) > 1 else f"({value[0]:g},)"


def _bias(variance: float | None) -> float | None:
    return None if variance is None else arguments.number("bias", variance, at_least=0)


def _bias_text(variance: float | None) -> str:
    return "" if variance is None else f", bias={variance:g}"


def _image(layer: object, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ValueError(f"{layer} needs an input of shape (channels, height, width), got {shape}")
    return shape


def both(value: Sides) -> tuple[int, int]:
    """(height, width)."""
    return value if isinstance(value, tuple) else (value, value)


def _sides(name: str, value: object, at_least: int = 1) -> Sides:
    """A number, or a pair where the two differ."""
    if not isinstance(value, (tuple, list)):
        return arguments.integer(name, value, at_least=at_least)
    if len(value) != 2:
        raise ValueError(f"{name} must be a number or a pair (height, width), got {value!r:.60}")
    height, width = (arguments.integer(name, side, at_least=at_least) for side in value)
    return height if height == width else (height, width)


def _places(layer: object, side: int, window: Window) -> int:
    """How many places a window takes along a side."""
    padded, given = side + 2 * window.padding, f"a side of {side} with padding {window.padding}"
    if padded < window.reach:
        raise ValueError(f"{layer} reaches over {window.reach} positions, got {given}")
    if window.stride > padded:
        raise ValueError(f"{layer} has stride {window.stride}, larger than {given}")
    return (padded - window.reach) // window.stride + 1
