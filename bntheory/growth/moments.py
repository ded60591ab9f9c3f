"""Infinite width: second moments and squared distances between inputs, layer by layer.

State, per input i of the batch and pair i < j, all in logarithms:

    q_i = mean over units of h_i²,   d_ij = mean over units of (h_i − h_j)²

    Dense        q' = σ_w² q + σ_b²            d' = σ_w² d           (the bias cancels)
    Activation   q' = E φ(u)²                  d' = E (φ(u) − φ(v))²  (u, v) Gaussian: variances q_i, q_j, distance d_ij
    BatchNorm    q' = (q_i − mean²)/(s + ε)    d' = d/(s + ε)         s = mean over units of the variance over the batch
    LayerNorm    q' = q_i/s_i²                 d' = [d − (s_i − s_j)² (1 + ε/(s_i s_j))]/(s_i s_j)    s_i² = q_i + ε
    Dropout      q' = q/(1 − p)                d' = d + (q_i + q_j) p/(1 − p)    a mask for every input, p the rate
    sum          q' = q_1 + α² q_2             d' = d_1 + α² d_2      the branch, times α, ends in Dense (and Dropout)

Over a batch of B, the mean over units of the variance is s = Σ_{i<j} d_ij / B²; that of the squared mean is the rest
of the second moment. Distances instead of covariances: nothing cancels when all inputs come to look the same.
LayerNorm's rule is for units whose mean over the layer is zero, as after a Dense layer.
Given inputs are carried as they are until the first random layer.
Poole et al. 2016, equations 3 to 5; Schoenholz et al. 2017; for BatchNorm, Yang et al. 2019 at large batch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import distance

from bntheory import arguments
from bntheory.activations import Activation
from bntheory.layers import BatchNorm, Dense, Dropout, Flatten, LayerNorm, Shape
from bntheory.networks import Residual, Sequential

RESOLUTION = 1e-11  # a mean square below this share of the second moment is what rounding leaves of zero
ALONE = "BatchNorm needs a batch of at least 2, got 1: every activation would become 0"
PARALLEL = 1e-13  # LayerNorm leaves less of the distance of two parallel inputs: what rounding leaves of zero
SMALL_BATCH = 16  # below, BatchNorm's outputs over a batch lie on a sphere too small to be taken for Gaussian


@dataclass(frozen=True)
class State:
    """Moments of one row.

    log_q : (B,);  log_d : (B (B − 1)/2,), pairs i < j in the order of ``np.triu_indices``;
    batch : number of inputs that channel moments and BatchNorm refer to, may be infinite;
    stand_ins : whether the two inputs of the arrays stand for a batch in which all pairs are alike;
    method : how the second moment was found;  symmetric : whether every unit's law is symmetric about zero;
    gaussian : whether units are Gaussian at infinite width, so that activations and BatchNorm have a closed rule;
    centred : whether the mean over units is zero at infinite width, so that LayerNorm has a rule;
    sphere : whether they come from a BatchNorm over a small batch, so that only a homogeneous activation has one;
    values : the batch itself, (B, *shape), as long as no layer was random.
    """

    log_q: np.ndarray
    log_d: np.ndarray
    batch: float
    stand_ins: bool
    method: str
    symmetric: bool
    gaussian: bool = True
    centred: bool = True
    sphere: bool = False
    values: np.ndarray | None = None

    @property
    def log_pairs(self) -> float:
        """ln of the factor that turns Σ d_ij into the channel variance."""
        if not self.stand_ins:
            return -2 * math.log(self.batch)
        return math.log((1 - 1 / self.batch) / 2) if self.batch > 1 else -math.inf

    @property
    def log_second_moment(self) -> float:
        """ln of the mean of q over the batch."""
        return float(np.logaddexp.reduce(self.log_q) - math.log(len(self.log_q)))

    @property
    def log_channel_variance(self) -> float:
        """ln of the mean over channels of the variance over batch and positions."""
        if self.values is not None:
            return _log_channel_variance(self.values)
        return float(np.logaddexp.reduce(self.log_d) + self.log_pairs) if len(self.log_d) else -math.inf

    @property
    def log_channel_mean_square(self) -> float:
        """ln of the mean over channels of the squared mean over batch and positions."""
        if self.log_second_moment == -math.inf:
            return -math.inf
        share = math.exp(min(0.0, self.log_channel_variance - self.log_second_moment))
        return self.log_second_moment + math.log1p(-share) if share < 1 - RESOLUTION else -math.inf


def start(inputs: np.ndarray | None, shape: Shape, batch_size: int | None) -> State:
    """Moments of the inputs, or of uncorrelated ones of second moment 1.

    Parameters
    ----------
    inputs : array (B, *shape) or None
    shape : tuple
    batch_size : int or None
        Without inputs: the batch that channel moments and BatchNorm refer to; None: infinite.

    Returns
    -------
    State

    Raises
    ------
    ValueError
        If the inputs have another shape, are empty, are not finite or all zero, or come with another batch size.
    """
    if inputs is None:
        size = math.inf if batch_size is None else arguments.integer("batch_size", batch_size)
        return State(np.zeros(2), np.array([math.log(2)]), size, True, "exact", False)
    batch = check_inputs(inputs, shape)
    if batch_size is not None and batch_size != len(batch):
        raise ValueError(f"batch_size must be left out or equal the number of inputs, {len(batch)}; got {batch_size}")
    return _of_values(batch)


def _of_values(values: np.ndarray) -> State:
    """Moments of a batch that is known, (B, *shape)."""
    flat = values.reshape(len(values), -1)
    scale = float(np.abs(flat).max()) or 1.0
    flat = flat / scale
    with np.errstate(divide="ignore"):  # a zero input, or two that are equal
        log_q, log_d = np.log(np.mean(flat**2, axis=1)), np.log(distance.pdist(flat, "sqeuclidean") / flat.shape[1])
    shift = 2 * math.log(scale)
    return State(log_q + shift, log_d + shift, len(flat), False, "exact", False, centred=False, values=values)


def _log_channel_variance(values: np.ndarray) -> float:
    scale = float(np.abs(values).max()) or 1.0
    rest = tuple(axis for axis in range(values.ndim) if axis != 1)
    with np.errstate(divide="ignore"):
        return float(np.log(np.mean(np.var(values / scale, axis=rest))) + 2 * math.log(scale))


def check_inputs(inputs: Any, shape: Shape) -> np.ndarray:
    """Return the batch as float64; ValueError in one line if a network of that input shape cannot take it."""
    try:
        batch = np.asarray(inputs)
    except ValueError:
        raise ValueError("inputs must be an array of real numbers, got a ragged sequence") from None
    except RuntimeError as error:  # a tensor that requires its gradient
        raise ValueError(f"inputs must be an array of real numbers, got {type(inputs).__name__}: {error}") from None
    if batch.dtype.kind not in "fiu":
        raise ValueError(f"inputs must be an array of real numbers, got dtype {batch.dtype}")
    if batch.shape[1:] != shape or batch.ndim == 0:
        raise ValueError(f"inputs must have shape (batch, {', '.join(map(str, shape))}), got {batch.shape}")
    if len(batch) == 0:
        raise ValueError("inputs must hold at least one example, got a batch of 0")
    batch = batch.astype(float)
    bad = np.count_nonzero(~np.isfinite(batch))
    if bad:
        raise ValueError(f"inputs must be finite, got {bad} of {batch.size} values that are NaN or infinite")
    silent = np.flatnonzero(~batch.reshape(len(batch), -1).any(axis=1))
    if len(silent):
        raise ValueError(f"inputs must not be all zero, got a zero example at index {silent[0]} of {len(batch)}")
    if batch.size > 1 and batch.min() == batch.max():
        raise ValueError(f"inputs must not be constant, got {batch.flat[0]:g} everywhere: standardise the data")
    return batch


def through(layer: Any, state: State, shape: Shape) -> State | None:
    """Moments after a leaf, given those before it and its input shape; None if there is no rule."""
    if isinstance(layer, Dense):
        return _dense(layer, state, shape)
    if isinstance(layer, Dropout) and len(shape) == 1:
        return _dropout(layer, state)
    if state.values is not None:
        return _known(layer, state.values)
    if isinstance(layer, Activation):
        return _activation(layer, state)
    if isinstance(layer, BatchNorm) and len(shape) == 1:
        return _batch_norm(layer, state)
    if isinstance(layer, LayerNorm) and len(shape) == 1:
        return _layer_norm(layer, state)
    if isinstance(layer, Flatten):
        return state
    return None


def _known(layer: Any, values: np.ndarray) -> State | None:
    """Apply a layer without random weights to the given inputs themselves."""
    if isinstance(layer, Activation):
        return _of_values(np.asarray(layer.phi(values)))
    if isinstance(layer, Flatten):
        return _of_values(values.reshape(len(values), -1))
    if isinstance(layer, (BatchNorm, LayerNorm)):
        per_channel = isinstance(layer, BatchNorm)
        if per_channel and values.ndim == 2 and len(values) == 1:
            raise ValueError(ALONE)
        rest = tuple(axis for axis in range(values.ndim) if axis != per_channel)
        variance = values.var(axis=rest, keepdims=True)
        if np.any(variance + layer.epsilon == 0):
            what = "a channel" if per_channel else "one"
            raise ValueError(f"{type(layer).__name__} with epsilon=0 divides by zero: {what} of the inputs is constant")
        return _of_values((values - values.mean(axis=rest, keepdims=True)) / np.sqrt(variance + layer.epsilon))
    return None


def _dense(layer: Dense, state: State, shape: Shape) -> State:
    log_gain = math.log(shape[0]) + math.log(layer.weight_variance(shape))
    bias = layer.bias_variance(shape)
    log_q = np.logaddexp(state.log_q + log_gain, math.log(bias) if bias else -math.inf)
    return State(log_q, state.log_d + log_gain, state.batch, state.stand_ins, state.method, symmetric=True)


def _activation(phi: Activation, state: State) -> State | None:
    if str(phi) == "linear":
        return state
    if not state.gaussian:  # after another activation, also through a shortcut: no rule
        return None
    if state.sphere and phi.homogeneous_slopes is None:
        return None
    mapped = _mapped if len(state.log_q) <= 64 else _mapped.__wrapped__
    log_q, log_d = mapped(phi, state.log_q.tobytes(), state.log_d.tobytes())
    exact = state.method == "exact" and state.symmetric and phi.homogeneous_slopes is not None
    method = "exact" if exact else "mean-field"
    after = dataclasses.replace(state, log_q=log_q, log_d=log_d, method=method)
    return dataclasses.replace(after, symmetric=False, gaussian=False, centred=False)


@functools.lru_cache(maxsize=256)
def _mapped(phi: Activation, log_q: bytes, log_d: bytes) -> tuple[np.ndarray, np.ndarray]:
    """ln E φ² and ln E (φ(u) − φ(v))²; remembered, because deep networks come to rest at a fixed point."""
    before = np.frombuffer(log_q)
    first, second = np.triu_indices(len(before), 1)
    after = phi.log_moments(before).log_second, phi.log_distance(before[first], before[second], np.frombuffer(log_d))
    for array in after:
        array.flags.writeable = False
    return after


def _batch_norm(layer: BatchNorm, state: State) -> State | None:
    if not state.gaussian:  # a unit's variance over the batch would depend on its mean
        return None
    if state.batch == 1:
        raise ValueError(ALONE)
    log_variance = state.log_channel_variance
    log_scale = np.logaddexp(log_variance, math.log(layer.epsilon) if layer.epsilon else -math.inf)
    if log_scale == -math.inf:
        raise ValueError("BatchNorm with epsilon=0 divides by zero: all inputs of the batch look the same here")
    size = len(state.log_q)
    first, second = np.triu_indices(size, 1)
    with np.errstate(divide="ignore"):
        if not state.stand_ins:  # |h_i − mean|² = mean_j d_ij − Σ_{j<k} d_jk / B²
            share = np.exp(state.log_d - log_variance) if log_variance > -math.inf else np.zeros(len(state.log_d))
            total = np.bincount(first, share, size) + np.bincount(second, share, size)
            log_q = np.log(np.maximum(total / size - 1, 0)) + log_variance - log_scale
        else:
            log_q = np.full(size, log_variance - log_scale)
    log_d, sphere = state.log_d - log_scale, state.batch < SMALL_BATCH
    return dataclasses.replace(state, log_q=log_q, log_d=log_d, method="mean-field", sphere=sphere)


def _layer_norm(layer: LayerNorm, state: State) -> State | None:
    """At infinite width h ↦ h/s_i. In logarithms: (s_i − s_j)²/(s_i s_j) = r (1 − 1/r)² with r = s_i/s_j ≥ 1."""
    if not state.centred:
        return None
    log_epsilon = math.log(layer.epsilon) if layer.epsilon else -math.inf
    log_s = np.logaddexp(state.log_q, log_epsilon) / 2
    if np.any(log_s == -math.inf):
        raise ValueError("LayerNorm with epsilon=0 divides by zero: every unit is 0 here for one of the inputs")
    first, second = np.triu_indices(len(log_s), 1)
    log_product, ratio = log_s[first] + log_s[second], np.abs(log_s[first] - log_s[second])
    log_d = state.log_d - log_product
    with np.errstate(all="ignore"):  # equal sizes, equal inputs
        lost = ratio + 2 * np.log(-np.expm1(-ratio)) + np.log1p(np.exp(log_epsilon - log_product))
        kept = -np.expm1(np.where(ratio > 0, lost - log_d, -math.inf))
        log_d = log_d + np.log(np.where(kept > PARALLEL, kept, 0))
    return dataclasses.replace(state, log_q=state.log_q - 2 * log_s, log_d=log_d, method="mean-field")


def _dropout(layer: Dropout, state: State) -> State:
    if layer.rate == 0:
        return state
    log_kept, odds = math.log1p(-layer.rate), math.log(layer.rate) - math.log1p(-layer.rate)
    first, second = np.triu_indices(len(state.log_q), 1)
    added_distance = np.logaddexp(state.log_q[first], state.log_q[second]) + odds
    return dataclasses.replace(
        state,
        log_q=state.log_q - log_kept,
        log_d=np.logaddexp(state.log_d, added_distance),
        gaussian=False,
        values=None,
    )


def added(block: Residual, shortcut: State, branch: State) -> State | None:
    """Moments after the sum; None unless the branch ends in fresh zero-mean weights, independent of the shortcut."""
    if not _ends_in_dense(block.branch):
        return None
    exact = shortcut.method == branch.method == "exact"
    log_scale = 2 * math.log(block.scale)
    return dataclasses.replace(
        shortcut,
        log_q=np.logaddexp(shortcut.log_q, branch.log_q + log_scale),
        log_d=np.logaddexp(shortcut.log_d, branch.log_d + log_scale),
        method="exact" if exact else "mean-field",
        symmetric=False,
        gaussian=shortcut.gaussian and branch.gaussian,
        sphere=False,
        values=None,  # given inputs on an identity shortcut count as Gaussian from here on
    )


def _ends_in_dense(sequence: Sequential) -> bool:
    """Whether the last layer, but for Dropout, is Dense: masks change neither the zero mean nor the independence."""
    layers = [layer for layer in sequence.layers if not isinstance(layer, Dropout)]
    if not layers:
        return False
    return _ends_in_dense(layers[-1]) if isinstance(layers[-1], Sequential) else isinstance(layers[-1], Dense)
