"""A batch on its way through a network: values and one logarithmic scale, so that no depth overflows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bntheory.activations import Activation
from bntheory.layers import BatchNorm
from simulations.samples import moments

FAR = 150.0  # e^±150: there a non-homogeneous φ is a power of the scale, up to terms far below rounding


class Signal(NamedTuple):
    """h = exp(log_scale) · values, with values of shape (batch, units) and largest entry of order one."""

    values: np.ndarray
    log_scale: float

    def log_moments(self) -> tuple[float, float, float]:
        """ln second moment, ln channel mean square, ln channel variance."""
        second, mean_square, variance = moments(self.values)
        return second + 2 * self.log_scale, mean_square + 2 * self.log_scale, variance + 2 * self.log_scale


def scaled(values: np.ndarray, log_scale: float = 0.0) -> Signal:
    """Move the size of the largest entry into the scale; zeros get the scale 0, so that a bias can revive them."""
    largest = float(np.abs(values).max())
    if largest == 0 or not math.isfinite(largest):
        return Signal(values, log_scale if largest else 0.0)
    return Signal(values / largest, log_scale + math.log(largest))


def activated(phi: Activation, h: Signal) -> Signal:
    """φ(h); the scale passes through a homogeneous φ as it is, through any other as a power once it is extreme."""
    if phi.homogeneous_slopes is not None:
        values = phi.phi(h.values)
        return h._replace(values=values) if values.any() else scaled(values)
    near = min(max(h.log_scale, -FAR), FAR)
    result = scaled(phi.phi(h.values * math.exp(near)))
    if near == h.log_scale:
        return result
    nearer = scaled(phi.phi(h.values * math.exp(near / 2)))
    power = round((result.log_scale - nearer.log_scale) / (near / 2), 9)  # 0 where φ tends to a constant, mostly else 1
    return result._replace(log_scale=result.log_scale + power * (h.log_scale - near))


def normalized(layer: BatchNorm, h: Signal) -> Signal:
    """Batch normalization over the batch (population variance, γ = 1, β = 0)."""
    centred = h.values - h.values.mean(axis=0)
    half_log_epsilon = math.log(layer.epsilon) / 2 if layer.epsilon else -math.inf
    top = max(h.log_scale, half_log_epsilon)
    share, epsilon = math.exp(2 * (h.log_scale - top)), math.exp(2 * (half_log_epsilon - top))
    root = np.sqrt(np.mean(centred**2, axis=0) * share + epsilon)
    with np.errstate(invalid="ignore"):  # ε = 0 and a constant unit: 0/0, which PyTorch also makes NaN
        values = centred / np.where((root == 0) & (layer.epsilon > 0), 1.0, root)
    return scaled(values, h.log_scale - top)


def added(first: Signal, second: Signal) -> Signal:
    """first + second."""
    parts = [part for part in (first, second) if part.values.any()]  # the scale of zeros says nothing
    if not parts:
        return first
    top = max(part.log_scale for part in parts)
    return scaled(sum(part.values * math.exp(part.log_scale - top) for part in parts), top)
