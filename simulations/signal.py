"""A batch on its way through a network: values and one logarithmic scale, so that no depth overflows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bntheory.activations import Activation
from simulations.samples import moments

FAR = 150.0  # e^±150: there a non-homogeneous φ is a power of the scale, up to terms far below rounding
Axes = tuple[int, ...]


class Signal(NamedTuple):
    """h = exp(log_scale) · values, with values of shape (batch, *shape) and largest entry of order one."""

    values: np.ndarray
    log_scale: float

    def log_moments(self) -> tuple[float, float, float]:
        """ln second moment, ln channel mean square, ln channel variance."""
        second, mean_square, variance = moments(self.values)
        return second + 2 * self.log_scale, mean_square + 2 * self.log_scale, variance + 2 * self.log_scale

    def log_square_norm(self) -> float:
        """ln Σ h² over all entries; −inf if all are zero, +inf if one is infinite or NaN."""
        return log_square_norm(self.values) + 2 * self.log_scale


def log_square_norm(values: np.ndarray) -> float:
    """Return ln Σ x² over all entries, summed in float64; −inf for zeros, +inf if an entry is infinite or NaN.

    Examples
    --------
    >>> round(log_square_norm(np.array([3e200, 4e200])) / math.log(10), 6)  # 25e400
    401.39794
    """
    largest = _largest(values)
    if not math.isfinite(largest):
        return math.inf
    if largest == 0:
        return -math.inf
    unit = np.divide(values, largest, dtype=np.float64)
    return 2 * math.log(largest) + math.log(np.vdot(unit, unit))


def scaled(values: np.ndarray, log_scale: float = 0.0) -> Signal:
    """Move the size of the largest entry into the scale; zeros get the scale 0, so that a bias can revive them."""
    largest = _largest(values)
    if largest == 0 or not math.isfinite(largest):
        return Signal(values, log_scale if largest else 0.0)
    return Signal(values / largest, log_scale + math.log(largest))


def added(first: Signal, second: Signal) -> Signal:
    """first + second."""
    parts = [part for part in (first, second) if part.values.any()]  # the scale of zeros says nothing
    if not parts:
        return first
    top = max(part.log_scale for part in parts)
    return scaled(sum(part.values * math.exp(part.log_scale - top) for part in parts), top)


def weighted(h: Signal, log_weights: np.ndarray, axes: Axes) -> Signal:
    """h times exp(log_weights), one weight for each group of entries that differ in their place along `axes` only."""
    sizes = np.abs(h.values).max(axis=axes, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):  # groups of zeros; 0/0 that came in
        exponents = log_weights + np.log(sizes.astype(np.float64))
        finite = exponents[np.isfinite(exponents)]
        top = float(finite.max()) if finite.size else 0.0
        factors = np.exp(exponents - top).astype(h.values.dtype)
        return scaled(h.values / np.where(sizes == 0, 1, sizes) * factors, h.log_scale + top)


def activated(phi: Activation, h: Signal) -> Signal:
    """φ(h); the scale passes through a homogeneous φ as it is, through any other as a power once it is extreme."""
    if phi.homogeneous_slopes is not None:
        return scaled(phi.phi(h.values), h.log_scale)
    return at_scale(phi.phi, h)


def at_scale(function: Callable[[np.ndarray], np.ndarray], h: Signal) -> Signal:
    """An elementwise function of h that follows a power law wherever |ln h| is large; evaluated in float64."""
    values = h.values.astype(np.float64, copy=False)
    near = min(max(h.log_scale, -FAR), FAR)
    result = scaled(function(values * math.exp(near)))
    log_scale = result.log_scale
    if near != h.log_scale:
        nearer = scaled(function(values * math.exp(near / 2)))
        power = round((log_scale - nearer.log_scale) / (near / 2), 9)  # 0 where φ tends to a constant, mostly else 1
        log_scale += power * (h.log_scale - near)
    return Signal(result.values.astype(h.values.dtype, copy=False), log_scale)


class Standardized(NamedTuple):
    """u = (h − mean)/s of each group of entries, and the logarithms of τ = s²/(s² + ε) and of s² + ε.

    A group are the entries that differ in their place along the axes of `standardized` only.

    Where s = 0, u is 0, or NaN if ε = 0 too: 0/0, as PyTorch has it.
    """

    unit: np.ndarray
    log_share: np.ndarray
    log_total: np.ndarray


def standardized(h: Signal, epsilon: float, axes: Axes) -> Standardized:
    """Return what a normalization needs, there and back, with population variances."""
    first = tuple(slice(1) if axis in axes else slice(None) for axis in range(h.values.ndim))
    values = h.values - h.values[first]  # leaves exactly 0 of a constant, whatever the mean's rounding
    values -= values.mean(axis=axes, keepdims=True)
    sizes = np.abs(values).max(axis=axes, keepdims=True)
    values /= np.where(sizes == 0, 1, sizes)
    root = np.sqrt(np.mean(values**2, axis=axes, keepdims=True))
    log_epsilon = math.log(epsilon) if epsilon else -math.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        values /= np.where((root == 0) & (epsilon > 0), 1, root)
        log_variance = 2 * (np.log(sizes.astype(np.float64)) + np.log(root.astype(np.float64)) + h.log_scale)
        log_share = -np.logaddexp(0, log_epsilon - log_variance)
        return Standardized(values, log_share, np.logaddexp(log_variance, log_epsilon))


def _largest(values: np.ndarray) -> float:
    """Largest absolute value; NaN if there is one."""
    return max(float(values.max()), -float(values.min()))
