"""A batch on its way through a network: values and one logarithmic scale, so that no depth overflows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bntheory.activations import Activation
from bntheory.layers import BatchNorm
from simulations.samples import moments


class Signal(NamedTuple):
    """h = exp(log_scale) · values, with values of shape (batch, units) and largest entry of order one."""

    values: np.ndarray
    log_scale: float

    def log_moments(self) -> tuple[float, float, float]:
        """ln second moment, ln channel mean square, ln channel variance."""
        second, mean_square, variance = moments(self.values)
        return second + 2 * self.log_scale, mean_square + 2 * self.log_scale, variance + 2 * self.log_scale


def scaled(values: np.ndarray, log_scale: float = 0.0) -> Signal:
    """Move the size of the largest entry into the scale."""
    largest = float(np.abs(values).max())
    if largest == 0 or not math.isfinite(largest):
        return Signal(values, log_scale)
    return Signal(values / largest, log_scale + math.log(largest))


def activated(phi: Activation, h: Signal) -> Signal:
    """φ(h); a homogeneous φ leaves the scale alone, any other needs the plain values."""
    if phi.homogeneous_slopes is not None:
        return h._replace(values=phi.phi(h.values))
    return scaled(phi.phi(plain(h)))


def normalized(layer: BatchNorm, h: Signal) -> Signal:
    """Batch normalization over the batch (population variance, γ = 1, β = 0)."""
    centred = h.values - h.values.mean(axis=0)
    variance = np.mean(centred**2, axis=0)
    epsilon = layer.epsilon * math.exp(min(-2 * h.log_scale, 700.0))
    with np.errstate(invalid="ignore"):  # ε = 0 and a constant unit: 0/0, which PyTorch also makes NaN
        return scaled(centred / np.sqrt(variance + epsilon))


def added(first: Signal, second: Signal) -> Signal:
    """first + second."""
    top = max(first.log_scale, second.log_scale)
    return scaled(sum(part.values * math.exp(part.log_scale - top) for part in (first, second)), top)


def plain(h: Signal) -> np.ndarray:
    """The values themselves; infinite where they leave float64."""
    if h.log_scale > 709:
        return np.where(h.values == 0, 0.0, np.copysign(np.inf, h.values))
    return h.values * math.exp(h.log_scale)
