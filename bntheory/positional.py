"""Layers that tell positions apart: constants of their own, weights between them; see `layers`."""

from __future__ import annotations

from dataclasses import dataclass

from bntheory import arguments
from bntheory.layers import Shape, set_fields


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
