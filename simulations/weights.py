"""Brute force: explicit weights, drawn anew for every layer of every trial. The reference."""

from __future__ import annotations

import math

import numpy as np

from bntheory.initializations import Initialization
from bntheory.layers import Conv, Dense, Shape
from simulations.signal import Signal, scaled


def dense(layer: Dense, h: Signal, shape: Shape, rng: np.random.Generator) -> Signal:
    """W h + b with W and b drawn from the layer's law."""
    weights = draw_weights(layer.init, layer.weight_variance(shape), (shape[0], layer.features), rng)
    z = h.values @ weights
    if layer.bias_variance(shape) == 0:
        return scaled(z, h.log_scale)
    return scaled(*_with_bias(z, draw_bias(layer, shape, rng), h.log_scale))


def draw_weights(law: Initialization, variance: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return a matrix (inputs, outputs) of independent entries, or with orthonormal rows or columns up to a factor."""
    if law.distribution == "orthogonal":
        tall = rng.standard_normal((max(shape), min(shape)))
        q, r = np.linalg.qr(tall)
        q *= law.gain * np.sign(np.diag(r))  # makes Q Haar distributed (Mezzadri 2007)
        return q if shape[0] >= shape[1] else q.T
    if law.distribution == "uniform":
        return _unit_uniform(shape, rng) * math.sqrt(variance)
    weights = rng.standard_normal(shape)
    weights *= math.sqrt(variance)
    return weights


def draw_bias(layer: Dense | Conv, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Return the biases of a layer: Gaussian if the layer states their variance, uniform if the initialization does."""
    outputs = layer.features if isinstance(layer, Dense) else layer.channels
    draws = _unit_uniform(outputs, rng) if layer.bias is None else rng.standard_normal(outputs)
    return draws * math.sqrt(layer.bias_variance(shape))


def _unit_uniform(shape: int | tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-math.sqrt(3), math.sqrt(3), shape)


def _with_bias(z: np.ndarray, bias: np.ndarray, log_scale: float) -> tuple[np.ndarray, float]:
    """exp(log_scale) z + bias, written with a scale that keeps both in range."""
    if log_scale >= 0:
        return z + bias * math.exp(-log_scale), log_scale
    return z * math.exp(log_scale) + bias, 0.0
