"""The same law without weights: given the batch that enters, a Gaussian layer's output is drawn directly, and so is
what the gradient becomes on its way back, given that output.

For H (n, B) = Q R with Q orthogonal, weights of variance s² and biases of variance v, all Gaussian:

    forward    Z = W H + b 1ᵀ = s Γ R + b 1ᵀ,   Γ with independent N(0, 1) entries
    backward   Wᵀ g given Z = Q [s Γᵀ g; ξ],    rows of ξ independent N(0, s² gᵀ g)

because W Q has the law of W, its first columns are s Γ, and the others are independent of all that the forward pass
has seen. The cost falls from n² B to n B², and everything the batch sees has the same joint law as with explicit
weights. No rank decision is made (`kernels.orthogonal`): inputs may coincide, and B may exceed n. Layers without
weights act on the batch as they are.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bntheory.activations import Activation
from bntheory.layers import BatchNorm, Dense, Dropout, Flatten, GroupNorm, LayerNorm
from bntheory.networks import Residual
from simulations.kernels import blocks, network
from simulations.kernels.activations import SMOOTH
from simulations.samples import COLUMNS, log_cosine_distance
from simulations.signal import Signal, at_scale
from simulations.steps import Step

Trial = Callable[[np.random.Generator], np.ndarray]


def obstacle(steps: list[Step]) -> tuple[Step, str] | None:
    """The first step whose conditional law this engine does not have, and why; None if it has all."""
    for step in steps:
        layer = step.layer
        if isinstance(layer, Dense):
            own_bias = layer.bias is None and layer.bias_variance(step.input_shape) > 0
            if layer.init.distribution != "normal" or own_bias:
                return step, f"needs Gaussian weights and biases, got {layer}"
        elif not isinstance(layer, (BatchNorm, LayerNorm, GroupNorm, Dropout, Activation, Flatten, Residual)):
            return step, f"has no {layer}"
        elif len(step.shape) != 1:
            return step, f"has {layer} on vectors only, got shape {step.shape}"
    return None


@dataclass(frozen=True)
class Layout:
    """The tables that the kernels read, and where everything lies in one piece of memory."""

    table: np.ndarray
    numbers: np.ndarray
    places: np.ndarray
    gradient_places: np.ndarray
    size: int


def prepare(steps: list[Step], inputs: Signal, gradients: bool, dtype: type = np.float64) -> Trial:
    """Return the function that draws one network.

    Parameters
    ----------
    steps : list of Step
        Without an `obstacle`.
    inputs : Signal
        Values (B, *input shape).
    gradients : bool
        Whether to send a white gradient back.
    dtype : float64 or float32
        Of the arithmetic; random numbers are drawn in float64.

    Returns
    -------
    callable
        From a Generator to an array (rows, columns of `samples.COLUMNS`). Any number of threads may call it: each has
        a memory of its own, which is reused.
    """
    batch = len(inputs.values)
    layout = lay_out(steps, batch, gradients)
    flat = _blocked(inputs.values.reshape(batch, -1), dtype)
    sizes = *inputs.log_moments(), log_cosine_distance(inputs.values)  # which may be images; all other rows are vectors
    own = threading.local()

    def trial(rng: np.random.Generator) -> np.ndarray:
        if not hasattr(own, "workspace"):
            own.workspace = Workspace(layout, batch, dtype)
        result = own.workspace.draw(steps, flat, inputs.log_scale, gradients, rng)
        result[0, : len(sizes)] = sizes
        return result

    return trial


def memory(steps: list[Step], batch: int, gradients: bool) -> int:
    """How many numbers one thread keeps."""
    return lay_out(steps, batch, gradients).size + len(steps) * batch**2


class Workspace:
    """One thread's memory for one network."""

    def __init__(self, layout: Layout, batch: int, dtype: type) -> None:
        count = len(layout.table)
        self.layout, self.batch = layout, batch
        self.memory = np.empty(layout.size, dtype)
        self.triangles = np.empty((count, batch, batch), dtype)
        self.scratch = np.empty((3, batch * blocks.block_units(batch)), dtype)
        self.small = np.empty((3, batch, batch), dtype)
        self.scales, self.kept_scales = np.zeros(count + 1), np.zeros(count)

    def draw(
        self, steps: list[Step], inputs: np.ndarray, log_scale: float, gradients: bool, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw one network: (rows, COLUMNS)."""
        table, numbers, places = self.layout.table, self.layout.numbers, self.layout.places
        result = np.full((len(steps) + 1, len(COLUMNS)), np.nan)
        self._row(0, len(inputs))[:] = inputs
        self.scales[0] = log_scale
        done = 0
        while True:
            done = network.forward(
                table, numbers, places, self.batch, gradients, self.memory, self.triangles, self.scratch,
                self.scales, self.kept_scales, result, rng, done,
            )  # fmt: skip
            if done == len(steps):
                break
            self._activate(steps[done], gradients)
            done += 1
        if gradients:
            network.backward(
                table, numbers, places, self.layout.gradient_places, self.batch, self.memory, self.triangles,
                self.scratch, self.small, self.scales, self.kept_scales, result, rng,
            )  # fmt: skip
        return result

    def _row(self, row: int, size: int) -> np.ndarray:
        place = self.layout.places[row]
        return self.memory[place : place + size]

    def _activate(self, step: Step, gradients: bool) -> None:
        """Apply an activation by the description's own functions: a user's, or any at an extreme scale."""
        size = math.prod(step.shape) * self.batch
        source = step.sources[0]
        h = Signal(self._row(source, size), float(self.scales[source]))
        with np.errstate(all="ignore"):  # what a user's functions overflow in on their way to a finite value
            result = at_scale(step.layer.phi, h)
            slope = at_scale(step.layer.dphi, h) if gradients else None
        self._row(step.row, size)[:] = result.values
        self.scales[step.row] = result.log_scale
        if slope is not None:
            place = self.layout.table[step.row - 1, network.FACTORS]
            self.memory[place : place + size] = slope.values
            self.kept_scales[step.row - 1] = slope.log_scale


def lay_out(steps: list[Step], batch: int, gradients: bool) -> Layout:
    """Write the tables, and give every array a place for as long as it is needed.

    Step k runs at time k and, backwards, at time 2 S − 1 − k; a row made at one time is kept until it was last read.
    """
    count = len(steps)
    table = np.full((count, network.COLUMNS), network.NOWHERE, dtype=np.int64)
    numbers = np.array([_numbers(step) for step in steps])
    spans: list[tuple[int, int, int]] = []
    owners: list[tuple[np.ndarray, int]] = []

    def span(owner: np.ndarray, entry: int, birth: int, death: int, size: int) -> None:
        spans.append((birth, death, size))
        owners.append((owner, entry))

    places, gradient_places = np.full(count + 1, network.NOWHERE), np.full(count + 2, network.NOWHERE)
    sizes = [math.prod(steps[0].input_shape) * batch, *(math.prod(step.shape) * batch for step in steps)]
    read = _last_reads(steps, gradients)
    for row, size in enumerate(sizes):
        span(places, row, row - 1, read[row], size)
    for k, step in enumerate(steps):
        words = _words(step)
        table[k, : len(words)] = words
        back = 2 * count - 1 - k if gradients else k
        for column, size in _kept(step, batch, gradients).items():
            span(table[k], column, k, back, size)
    if gradients:
        last_reader = {source: step.row for step in steps for source in step.sources}
        for row, size in enumerate(sizes):
            span(gradient_places, row, 2 * count - last_reader.get(row, count), 2 * count - row, size)
        span(gradient_places, count + 1, count, 2 * count, max(sizes))
    offsets, total = arrange(spans)
    for (owner, entry), offset in zip(owners, offsets, strict=True):
        owner[entry] = offset
    return Layout(table, numbers, places, gradient_places, total)


def arrange(spans: list[tuple[int, int, int]]) -> tuple[list[int], int]:
    """Give each span (birth, death, size) an offset, so that no two alive at one time overlap; and the size in all.

    Places are handed on among spans of one size, which is what networks have.

    Examples
    --------
    >>> arrange([(0, 1, 5), (1, 2, 5), (2, 3, 5)])
    ([0, 8, 0], 16)
    """
    offsets, total = [0] * len(spans), 0
    free: dict[int, list[int]] = {}
    alive: list[tuple[int, int, int]] = []
    for index in sorted(range(len(spans)), key=lambda k: spans[k][0]):
        birth, death, size = spans[index]
        while alive and alive[0][0] < birth:
            _, place, old_size = heapq.heappop(alive)
            free.setdefault(old_size, []).append(place)
        if free.get(size):
            offsets[index] = free[size].pop()
        else:
            offsets[index], total = total, total + -(-size // 8) * 8  # whole lines of the cache
        heapq.heappush(alive, (death, offsets[index], size))
    return offsets, total


def _last_reads(steps: list[Step], gradients: bool) -> list[int]:
    """Time at which each row's values are read for the last time; the last row's when it is made."""
    count = len(steps)
    read = [row - 1 for row in range(count + 1)]
    for k, step in enumerate(steps):
        times = dict.fromkeys(step.sources, k)
        if gradients and _kind(step) == network.HOMOGENEOUS:
            times[step.sources[0]] = 2 * count - 1 - k
        elif gradients and _kind(step) in (network.BATCH_NORM, network.GROUP_NORM):
            times[step.row] = 2 * count - 1 - k
        for row, time in times.items():
            read[row] = max(read[row], time)
    return read


def _kind(step: Step) -> int:
    if isinstance(step.layer, Activation):
        if step.layer.homogeneous_slopes is not None:
            return network.HOMOGENEOUS
        return network.SMOOTH if _compiled(step.layer) else network.FUNCTION
    if isinstance(step.layer, BatchNorm) and step.layer.gamma == 0:
        return network.HOMOGENEOUS  # both slopes 0
    if isinstance(step.layer, BatchNorm):
        return network.BATCH_NORM if step.layer.training else network.COPY
    kinds = {
        Dense: network.DENSE,
        LayerNorm: network.GROUP_NORM,
        GroupNorm: network.GROUP_NORM,
        Dropout: network.DROPOUT,
        Flatten: network.COPY,
        Residual: network.SUM,
    }
    return kinds[type(step.layer)]


def _compiled(phi: Activation) -> bool:
    """Whether φ is among the kernels, as it is and not with a slope of its own."""
    return phi.name in SMOOTH and phi.slope is None


def _words(step: Step) -> list[int]:
    """The first columns of the table: KIND, SOURCE, SECOND, UNITS, FEATURES."""
    first, *second = step.sources
    return [_kind(step), first, *(second or [network.NOWHERE]), math.prod(step.input_shape), math.prod(step.shape)]


def _numbers(step: Step) -> tuple[float, float]:
    layer = step.layer
    if isinstance(layer, Dense):
        variance, bias = layer.weight_variance(step.input_shape), layer.bias_variance(step.input_shape)
        return 0.5 * math.log(variance), math.sqrt(bias)
    if isinstance(layer, Activation):
        return layer.homogeneous_slopes or (SMOOTH.index(layer.name) if _compiled(layer) else 0, 0)
    if isinstance(layer, BatchNorm) and layer.gamma > 0:
        log_gamma = math.log(layer.gamma)
        return (layer.epsilon, log_gamma) if layer.training else (log_gamma - 0.5 * math.log1p(layer.epsilon), 0.0)
    if isinstance(layer, (LayerNorm, GroupNorm)):
        return layer.epsilon, layer.groups if isinstance(layer, GroupNorm) else 1
    if isinstance(layer, Dropout):
        return layer.rate, 0.0
    return (layer.scale, 0.0) if isinstance(layer, Residual) else (0.0, 0.0)


def _kept(step: Step, batch: int, gradients: bool) -> dict[int, int]:
    """What a step keeps beside its row: columns of the table, and sizes."""
    kind, units, features = _kind(step), math.prod(step.input_shape), math.prod(step.shape)
    if kind == network.BATCH_NORM:
        return {network.FACTORS: units}
    if kind == network.GROUP_NORM:
        return {network.FACTORS: batch * int(_numbers(step)[1])}
    if not gradients:
        return {}
    if kind == network.DENSE:
        triangles = blocks.blocks(units, batch) * batch**2
        sizes = {network.REFLECTIONS: units * batch, network.TRIANGLES: triangles, network.GAMMA: features * batch}
        return sizes
    return {network.FACTORS: units * batch} if kind in (network.DROPOUT, network.SMOOTH, network.FUNCTION) else {}


def _blocked(values: np.ndarray, dtype: type) -> np.ndarray:
    """(B, n) in the kernels' order: flat, block after block."""
    batch, units = values.shape
    at_once = blocks.block_units(batch)
    parts = [values[:, start : start + at_once].ravel() for start in range(0, units, at_once)]
    return np.concatenate(parts).astype(dtype)
