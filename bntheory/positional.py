"""Layers that tell positions apart: constants of their own, weights between them; see `layers`."""

from __future__ import annotations

from dataclasses import dataclass

from bntheory import arguments
from bntheory.initializations import INITIALIZATIONS, Initialization
from bntheory.layers import Dense, Shape, set_fields


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
