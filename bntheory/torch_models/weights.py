"""The weights of a module as theory sees them: one variance a layer, and how far they are from what it assumes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from bntheory.initializations import Initialization


class Refused(ValueError):
    """Weights of which nothing can be predicted, with their row."""


class Weights(NamedTuple):
    """What is known of the weights of a row.

    row : its name;  entries : how many there are;  second_moment : mean of W²;
    mean_share : (mean of W)²/mean of W², which theory takes for 0;
    kurtosis : mean of (W − mean)⁴ over the variance squared: 3 for a Gaussian, 1.8 for a uniform law;
    bias : mean of b², 0 without one;  shared_with : an earlier row with the same weights, or "".
    """

    row: str
    entries: int
    second_moment: float
    mean_share: float
    kurtosis: float
    bias: float
    shared_with: str


def read(
    row: str, weight: torch.Tensor, bias: torch.Tensor | None, shared_with: str = "", replaced: bool = False
) -> Weights:
    """Moments of the weights of a row, in float64; `replaced`: by those of a law that was named.

    Raises
    ------
    Refused
        If a weight is not finite, or all are zero and not replaced.
    """
    values = weight.detach().double().flatten()
    for word, numbers in (("weights", values), ("biases", None if bias is None else bias.detach().double())):
        if numbers is not None and not bool(torch.isfinite(numbers).all()):
            bad = int((~torch.isfinite(numbers)).sum())
            raise Refused(f"row {row}: {word} must be finite, got {bad} of {numbers.numel()} that are NaN or infinite")
    largest = float(values.abs().max()) if values.numel() else 0.0
    if largest == 0 and not replaced:
        raise Refused(f"row {row}: all {values.numel()} weights are zero: initialize them, or name a law with init=")
    unit = values / (largest or 1.0)
    second, mean = float((unit**2).mean()), float(unit.mean())
    centred = (unit - mean) ** 2
    variance = float(centred.mean())
    kurtosis = float((centred**2).mean()) / variance**2 if variance > 0 else math.nan
    square = 0.0 if bias is None else float((bias.detach().double() ** 2).mean())
    share = mean**2 / second if second > 0 else math.nan
    return Weights(row, values.numel(), second * largest**2, share, kurtosis, square, shared_with)


def law(weights: Weights, fan_in: int) -> Initialization:
    """The initialization that gives weights of this second moment."""
    return Initialization("weights", math.sqrt(weights.second_moment * fan_in), "fan_in", "normal")


def constant(values: Any) -> float | tuple[float, ...]:
    """A number if all are the same, else one a channel."""
    numbers = values.detach().double().flatten().tolist()
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)
