"""Layers that tell positions apart: constants of their own, weights between them; see `layers`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bntheory import arguments
from bntheory.initializations import INITIALIZATIONS, Initialization, initialization
from bntheory.layers import Conv, Dense, Shape, Sides, _image, _sides, both, set_fields


@dataclass(frozen=True)
class Offset:
    """h ↦ h + c, c constants of their own for every channel and position, the same for all inputs.

    Learned position embeddings. The constants count as independent Gaussian numbers, which a drawn network draws.

    Parameters
    ----------
    variance : float
        Mean square of the constants, at least 0.

    Raises
    ------
    ValueError
        If variance is negative or not finite.

    References
    ----------
    Dosovitskiy et al. 2021, "An image is worth 16×16 words", section 3.1.

    Examples
    --------
    >>> print(Offset(0.02**2))
    Offset(0.0004)
    """

    variance: float

    def __post_init__(self) -> None:
        set_fields(self, variance=arguments.number("Offset: variance", self.variance, at_least=0))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output: the input's."""
        return shape

    def __str__(self) -> str:
        return f"Offset({self.variance:g})"


@dataclass(frozen=True)
class Mix:
    """Weights over positions, the same for all channels: (channels, positions, 1) ↦ (channels, features, 1).

    A Dense layer along the positions, with biases of their own for every output position; put `Unroll` before it for a
    map. Predictions behind an activation hold where many positions are read that are not alike.

    Parameters
    ----------
    features : int
        Number of output positions, at least 1.
    init, bias
        As in `Dense`, fan_in being the number of positions that are read.

    Raises
    ------
    ValueError
        Where the shape is known, unless it is (channels, positions, 1).

    References
    ----------
    Tolstikhin et al. 2021, "MLP-Mixer: an all-MLP architecture for vision", equation 1, token mixing.

    Examples
    --------
    >>> Mix(10).output_shape((32, 49, 1))
    (32, 10, 1)
    """

    features: int
    init: Initialization = INITIALIZATIONS["he_normal"]
    bias: float | None = None

    def __post_init__(self) -> None:
        dense = Dense(self.features, self.init, self.bias)
        set_fields(self, features=dense.features, init=dense.init, bias=dense.bias)

    @property
    def dense(self) -> Dense:
        """The same along one axis."""
        return Dense(self.features, self.init, self.bias)

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output."""
        if len(shape) != 3 or shape[2] != 1:
            raise ValueError(
                f"{self} needs an input of shape (channels, positions, 1), got {shape}: put Unroll() before it"
            )
        return shape[0], self.features, 1

    def weight_variance(self, shape: Shape) -> float:
        """Variance of one weight for that input shape."""
        return self.dense.weight_variance(shape[1:2])

    def bias_variance(self, shape: Shape) -> float:
        """Variance of one bias for that input shape."""
        return self.dense.bias_variance(shape[1:2])

    def __str__(self) -> str:
        return str(self.dense).replace("Dense", "Mix", 1)


@dataclass(frozen=True)
class ConvTranspose:
    """Transposed two-dimensional convolution, as ``torch.nn.ConvTranspose2d`` without dilation and groups.

    Position i of the input adds to the positions stride · i + β − padding of the output, β those of the kernel.

    Parameters
    ----------
    channels : int
        Number of output channels.
    kernel, stride : int or (int, int)
        At least 1; the defaults, with padding 1, double the sides.
    padding : int or (int, int)
        Positions that are cut off on every side, below the kernel.
    output_padding : int or (int, int)
        Positions that are added at the bottom and on the right, below the stride.
    init, bias
        As in `Dense`. fan_in is what ``torch.nn.init`` reads off the weight (in, out, height, width): the *output*
        channels times the area of the kernel.

    Raises
    ------
    ValueError
        If a number is out of range; where the shape is known, if nothing would be left of the map.

    References
    ----------
    Dumoulin, Visin 2016, "A guide to convolution arithmetic for deep learning", chapter 4.

    Examples
    --------
    >>> ConvTranspose(16).output_shape((32, 8, 8))
    (16, 16, 16)
    >>> print(ConvTranspose(16, kernel=3, output_padding=1))
    ConvTranspose(16, 3×3, stride=2, padding=1, output_padding=1, he_normal)
    """

    channels: int
    kernel: Sides = 4
    stride: Sides = 2
    padding: Sides = 1
    output_padding: Sides = 0
    init: Initialization = INITIALIZATIONS["he_normal"]
    bias: float | None = None

    def __post_init__(self) -> None:
        conv = Conv(self.channels, self.kernel, self.stride, self.padding, init=self.init, bias=self.bias)
        for name in ("channels", "kernel", "stride", "padding", "init", "bias"):
            set_fields(self, **{name: getattr(conv, name)})
        set_fields(self, output_padding=_sides("output_padding", self.output_padding, at_least=0))
        for word, least, most in (
            ("padding", self.padding, self.kernel),
            ("output_padding", self.output_padding, self.stride),
        ):
            if any(small >= large for small, large in zip(both(least), both(most), strict=True)):
                other = "kernel" if word == "padding" else "stride"
                raise ValueError(f"ConvTranspose: {word} must be below the {other}, got {least} and {most}")

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output."""
        spread = self.spread_shape(shape)
        sides = zip(spread[1:], both(self.kernel), both(self.padding), strict=True)
        down, across = (side + kernel - 1 - 2 * padding for side, kernel, padding in sides)
        if min(down, across) < 1:
            raise ValueError(f"{self} leaves nothing of shape {shape}: use less padding")
        return self.channels, down, across

    def spread_shape(self, shape: Shape) -> Shape:
        """Shape of the input with stride − 1 zeros between its positions, and the output's padding behind the last."""
        channels, *sides = _image(self, shape)
        more = zip(sides, both(self.stride), both(self.output_padding), strict=True)
        return (channels, *((side - 1) * stride + 1 + extra for side, stride, extra in more))

    def places(self, shape: Shape) -> tuple[slice, slice]:
        """Where the input is among those."""
        down, across = (
            slice(0, (side - 1) * step + 1, step) for side, step in zip(shape[1:], both(self.stride), strict=True)
        )
        return down, across

    def convolution(self, shape: Shape) -> Conv:
        """The convolution that reads the input with zeros in between, with weights and biases of the same variance."""
        down, across = (side - 1 - cut for side, cut in zip(both(self.kernel), both(self.padding), strict=True))
        fan_in = shape[0] * self.area
        law = initialization("lecun_normal", gain=math.sqrt(self.weight_variance(shape) * fan_in))
        return Conv(self.channels, self.kernel, 1, (down, across), init=law, bias=self.bias_variance(shape))

    @property
    def area(self) -> int:
        """Positions of the kernel."""
        return math.prod(both(self.kernel))

    def weight_variance(self, shape: Shape) -> float:
        """Variance of one weight for that input shape."""
        return self.init.variance(self.channels * self.area, shape[0] * self.area, self.area)

    def bias_variance(self, shape: Shape) -> float:
        """Variance of one bias for that input shape."""
        return self.init.bias_variance(self.channels * self.area) if self.bias is None else self.bias

    def __str__(self) -> str:
        words = [str(self.channels), "×".join(map(str, both(self.kernel))), f"stride={self.stride}"]
        words += [f"padding={self.padding}"] if self.padding != 0 else []
        words += [f"output_padding={self.output_padding}"] if self.output_padding != 0 else []
        bias = "" if self.bias is None else f", bias={self.bias:g}"
        return f"ConvTranspose({', '.join(words)}, {self.init}{bias})"
