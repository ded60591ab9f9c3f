"""The same law without weights: given the batch that enters, a Gaussian layer's output is drawn directly.

For H of shape (n, B), weights of variance v and biases of variance v_b, both Gaussian, append the row √(v_b/v) 1ᵀ to H
and take H̃ = Q R. Then Z = W H + b 1ᵀ has the law of √v Γ R with Γ of shape (n_out, rank) and independent N(0, 1)
entries: each row of Z is N(0, v HᵀH + v_b 11ᵀ). The cost falls from n² B to n B²; the QR needs no rank decision, and
unlike a Cholesky factor of HᵀH it stays right when inputs nearly coincide.
"""

from __future__ import annotations

import math

import numpy as np

from bntheory.layers import Dense, Shape
from simulations.signal import Signal, scaled


def dense(layer: Dense, h: Signal, shape: Shape, rng: np.random.Generator) -> Signal:
    """Draw the layer's output on the batch, given its input on the batch."""
    variance, bias = layer.weight_variance(shape), layer.bias_variance(shape)
    columns, log_scale = h.values.T, h.log_scale
    if bias:
        log_row = 0.5 * (math.log(bias) - math.log(variance))
        top = max(log_scale, log_row)
        row = np.full((1, columns.shape[1]), math.exp(log_row - top))
        columns, log_scale = np.concatenate([columns * math.exp(log_scale - top), row]), top
    r = np.linalg.qr(columns, mode="r")
    gamma = rng.standard_normal((layer.features, len(r)))
    return scaled((gamma @ r).T, log_scale + 0.5 * math.log(variance))
