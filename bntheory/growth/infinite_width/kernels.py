"""BatchNorm after a convolution, unit by unit: the weights of one unit decide how much it varies.

With w the m weights of a unit (a kernel for each of the channels that it reads), C the covariances over the batch and
all positions of the m numbers that it reads at once, and λ the eigenvalues of C, Σ λ = 1,

    s² = wᵀ C w = Σ λ_i g_i²,   g_i independent of variance 1,      L(t) = E e^{−t s²} = Π (1 + 2 λ_i t)^{−1/2}

    E 1/(s² + ε) = ∫ e^{−εt} L(t) dt,      E w wᵀ/(s² + ε) has the modes  b_i = ∫ e^{−εt} L(t)/(1 + 2 λ_i t) dt

along the axes of C, as `batch_modes` has them of the points of a batch. A unit of many weights has b_i = 1/(1 + ε).
Few are 9 of a depthwise kernel, fewer still where neighbours hardly differ: gradients in front of the BatchNorm are
larger by E 1/s², those of what is read by the b_i, and covariances behind it are Σ b_ββ' K of the kernel's offsets.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from scipy import sparse

from bntheory.growth.infinite_width import population, positions
from bntheory.growth.infinite_width.batch_modes import STEP, TIMES
from bntheory.growth.infinite_width.population import Population
from bntheory.growth.infinite_width.state import State
from bntheory.layers import Conv, Shape

FEW = 32  # weights of a unit, up to which units are sampled
MOST_WEIGHTS = 512  # of a unit that reads given images, whose channels are not independent
MOST_NUMBERS = 2**20  # in sampled units
SMALL = 0.01  # part of E w wᵀ/s² that is left out


class Convolution(NamedTuple):
    """What has made a row: a layer, the row that it reads, and the shape of that."""

    layer: Conv
    before: State
    shape: Shape
    row: int


class Read(NamedTuple):
    """Covariances of the numbers that a unit reads: their eigenvalues, each `times`, of sum 1 together.

    modes : (modes,);  axes : (channels, area, modes), channels 1 if they are independent and alike.
    """

    modes: np.ndarray
    axes: np.ndarray
    times: int


class Weighed(NamedTuple):
    """Means over weights before a BatchNorm.

    log_inverse : ln E 1/(s² + ε);  products : E w_β w_β'/(s² + ε) over E w² E 1/(s² + ε), (area, area), over channels;
    log_left : of the squared gradient by the weights, which is orthogonal to them.
    """

    log_inverse: float
    products: np.ndarray
    log_left: float


def covariances(source: Convolution) -> list[Read]:
    """Of what units read: one for all, of given images one for every group of channels; none where nothing is known."""
    layer, state, shape, _ = source
    channels = shape[0] // layer.groups
    places = positions.windows(layer, shape)
    if state.values is not None and channels * layer.area <= MOST_WEIGHTS:
        read = positions.read(state.values.reshape(*state.values.shape[:2], -1), places, 0.0)
        numbers = np.moveaxis(read, 1, 2).reshape(-1, layer.groups, channels * layer.area)
        numbers = numbers / (np.abs(numbers).max() or 1.0)
        found = [_along(np.atleast_2d(np.cov(part.T, bias=True)), layer, 1) for part in numbers.swapaxes(0, 1)]
    elif state.log_d is not None:
        found = [_along(_of_channels(layer, state, places), layer, channels)]
    else:
        return []
    return [part for part in found if part is not None]


def _along(covariance: np.ndarray, layer: Conv, times: int) -> Read | None:
    """None where nothing varies."""
    modes, axes = np.linalg.eigh(covariance)
    modes = np.maximum(modes, 0)
    total = times * modes.sum()
    return Read(modes / total, axes.reshape(-1, layer.area, len(modes)), times) if total > 0 else None


def _of_channels(layer: Conv, state: State, places: np.ndarray) -> np.ndarray:
    """Of one channel that has been read at all places, about its mean over the batch."""
    blocks, _ = products(state)
    mean = blocks[0]
    if len(blocks) > 1:
        mean = blocks[0] / state.copies + blocks[1] * (1 - 1 / state.copies)
    own = blocks[0][places[:, :, None], places[:, None, :]].mean(axis=0)
    shares = np.stack([np.bincount(place % len(mean), minlength=len(mean)) for place in places.T]) / len(places)
    return own - shares @ mean @ shares.T


def products(state: State) -> tuple[list[np.ndarray], float]:
    """E h h' of all pairs of points, within an image and between two, a last point of zeros, over e^scale."""
    state = state.folded()
    q, scale = positions.linear(state.log_q)
    blocks = [np.pad((q[:, None] + q - np.exp(block - scale)) / 2, (0, 1)) for block in state.blocks]
    return blocks, scale


def weighed(read: Read, epsilon: float = 0.0) -> Weighed:
    """Means over Gaussian weights.

    Parameters
    ----------
    read : Read
    epsilon : float
        Of BatchNorm, over the mean variance of its input.

    Examples
    --------
    >>> white = Read(np.full(9, 1 / 9), np.eye(9)[None], 1)  # s² is χ² of nine degrees of freedom over 9
    >>> found = weighed(white)
    >>> print(round(math.exp(found.log_inverse), 6), round(found.products[0, 0], 6))
    1.285714 0.777778
    """
    decay = np.log1p(2 * np.multiply.outer(TIMES, read.modes))
    terms = -0.5 * read.times * decay.sum(axis=1) - epsilon * TIMES + np.log(TIMES)
    if terms[-1] > terms.max() - 3:  # the integral does not end
        return Weighed(math.inf, np.eye(read.axes.shape[1]), 0.0)
    weight = np.exp(terms) * STEP
    inverse = float(weight.sum())
    gained = weight @ np.exp(-decay) / inverse
    lost = read.times * float(weight * TIMES @ (np.exp(-decay) @ read.modes**2)) / inverse
    products = np.einsum("cam,m,cbm->ab", read.axes, gained, read.axes) / len(read.axes)
    return Weighed(math.log(inverse), products, math.log1p(-lost))


def along(layer: Conv, shape: Shape, matrix: np.ndarray) -> tuple[float, list[tuple[float, sparse.csr_array]]]:
    """A symmetric (area, area) matrix as μ 1 + Σ δ v vᵀ, of each v the map (points read, and zeros ↦ outputs)."""
    values, axes = np.linalg.eigh(matrix)
    most = float(np.median(values))
    places, points = positions.windows(layer, shape), math.prod(shape[1:])
    rows = np.repeat(np.arange(len(places)), places.shape[1])
    maps = []
    for value, axis in zip(values, axes.T, strict=True):
        if abs(value - most) > SMALL * abs(values).max():
            entries = np.tile(axis, len(places))
            columns = places.ravel() % (points + 1)
            maps.append((float(value - most), sparse.csr_array((entries, (rows, columns)), (len(places), points + 1))))
    return most, maps


def reweighed(state: State, source: Convolution, matrix: np.ndarray) -> State:
    """A row of a convolution whose weights at two offsets have these products, at the same variance over the batch."""
    layer, before, shape, _ = source
    blocks, scale = products(before)
    most, maps = along(layer, shape, matrix)
    if not maps:
        return state
    log_gain = math.log(layer.weight_variance(shape)) + math.log(shape[0] // layer.groups) + scale
    plain, _ = products(state)
    changed = []
    for block, own in zip(blocks, plain, strict=True):
        made = own[:-1, :-1] * most * math.exp(positions.linear(state.log_q)[1] - log_gain)
        for factor, each in maps:
            made += factor * (each @ (each @ block).T)
        changed.append(made)
    q = np.maximum(np.diagonal(changed[0]), 0)
    logs = [positions.log(np.maximum(q[:, None] + q - 2 * block, 0)) for block in changed]
    np.fill_diagonal(logs[0], -math.inf)
    after = dataclasses.replace(
        state, log_q=positions.log(q), log_d=logs[0], log_cross=logs[1] if len(logs) > 1 else None, sizes=None
    )
    log_factor = state.folded().log_channel_variance - after.log_channel_variance
    return dataclasses.replace(after.mapped(lambda block: block + log_factor), log_q=after.log_q + log_factor)


def weights(state: State, epsilon: float) -> Weighed | None:
    """Of a row before BatchNorm, a mean over groups; None if it is no convolution's, or nothing in it varies."""
    reads = [] if state.source is None else covariances(state.source)
    log_variance = state.folded().log_channel_variance
    if not reads or log_variance == -math.inf:
        return None
    groups = [weighed(read, epsilon * math.exp(min(-log_variance, 700.0))) for read in reads]
    return _mean(groups) if len(groups) > 1 else groups[0]


def _mean(groups: list[Weighed]) -> Weighed:
    largest = max(groups, key=lambda group: group.log_inverse)
    if largest.log_inverse == math.inf:
        return largest
    inverses = np.exp([group.log_inverse for group in groups])
    shares, left = inverses / inverses.sum(), np.exp([group.log_left for group in groups])
    products = np.tensordot(shares, [group.products for group in groups], 1)
    return Weighed(math.log(inverses.mean()), products, math.log(shares @ left))


def normalized_apart(state: State, epsilon: float) -> State:
    """Units of variances of their own, before BatchNorm: as if of weights that it has divided, at the same variance."""
    found = weights(state, epsilon)
    return state if found is None or state.source is None else reweighed(state, state.source, found.products)


def drawn_weights(source: Convolution, many: int) -> np.ndarray:
    """Of sampled units, at variance 1: (many, channels, area), the same ones whenever they are asked for."""
    layer, _, shape, row = source
    rng = np.random.default_rng(row)
    return rng.standard_normal((many, shape[0] // layer.groups, layer.area), np.float32)


def drawn_sizes(source: Convolution, many: int, epsilon: float) -> np.ndarray:
    """√(s² + ε) of sampled units over its mean square; ε over the mean variance."""
    sizes, weights, reads = np.ones(many, np.float32), drawn_weights(source, many), covariances(source)
    for group, read in enumerate(reads):
        some = slice(group, None, len(reads))
        along = np.einsum("ucb,xbm->ucm", weights[some], read.axes.astype(np.float32), optimize=True)
        sizes[some] = np.sqrt(np.einsum("ucm,m->u", along**2, read.modes.astype(np.float32)) + np.float32(epsilon))
    return sizes


def sampled(source: Convolution, log_q: np.ndarray) -> Population:
    """Units with weights of their own, each of as many sampled units as it reads."""
    layer, state, shape, row = source
    units = population.drawn(state)
    assert units.fields is not None
    given = units.fields[:: max(1, units.fields.size // MOST_NUMBERS)]
    weights, rng = drawn_weights(source, len(given)), np.random.default_rng((row, len(given)))
    windows = layer.windows(shape)
    pads = (0, 0), (0, 0), *((window.padding, window.padding) for window in windows)
    sides = layer.output_shape(shape)[1:]
    fields = np.zeros((*given.shape[:2], *sides), np.float32)
    for channel in range(weights.shape[1]):
        some = rng.permutation(len(fields)) if channel else slice(None)
        maps = np.pad(given[some].reshape(*given.shape[:2], *shape[1:]), pads)
        for place, weight in zip(positions.offsets(windows, sides), weights[:, channel].T, strict=True):
            fields += weight[:, None, None, None] * maps[(..., *place)]
    log_size = math.log(layer.weight_variance(shape)) / 2 + units.log_scale
    if bias := layer.bias_variance(shape):
        shift = rng.standard_normal(len(fields), np.float32) * np.float32(math.exp(math.log(bias) / 2 - log_size))
        fields += shift[:, None, None, None]
    fields = fields.reshape(*fields.shape[:2], -1)
    drawn = Population(population.quantiles_of(fields, len(units.particles)), fields, log_size)
    return population.matched(drawn, log_q)


def few(layer: Conv, state: State, shape: Shape) -> bool:
    """Whether units have so few weights each that they are sampled; of given images, those that read one channel."""
    channels = shape[0] // layer.groups
    known = state.log_d is not None and (state.values is None or channels == 1)
    return known and layer.groups > 1 and channels * layer.area <= FEW
