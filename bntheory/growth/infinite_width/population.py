"""Population dynamics: sampled units, for rows whose law over units is not Gaussian.

Units of a wide layer are independent draws of one law. Where it has no closed map (the activation after the sum of a
version-1 block, the maximum over a window, a normalization after an activation) it is carried as a sample:

    particles   (n, points): every column follows the law of a unit at that point; second moments come from them
    fields      (m, kept, points): whole units, over points and some copies of the batch; correlations come from them

Particles are points of a low-discrepancy sequence: a Gaussian variable is given to the sorted particles by van der
Corput's sequence (array-RQMC, L'Ecuyer, Lécot and Tuffin 2008), so that 1024 of them err by about 1e-3 in a second
moment. All points of a particle receive the same quantile, which leaves each column's law what it is. Fields are drawn
with the right covariance, from a fixed seed, in single precision; their second moments are set to the particles'.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import linalg, special

from bntheory.activations import Activation
from bntheory.growth.by_rows import by_rows
from bntheory.growth.infinite_width import positions
from bntheory.growth.infinite_width.state import State, two, worse

MOST_NUMBERS = 2**19  # in particles; fields may have twice as many
FEWEST, MOST, ENOUGH = 2**9, 2**16, 2**11  # particles or fields; as many fields are enough for means over an image
FAR = 30.0  # |ln size| from which a smooth φ is a power law, well inside single precision
MANY = 2**13  # particles, which err by 1e-5 in a second moment; fields, drawn at random, take more
GOLDEN = (math.sqrt(5) - 1) / 2
MODES = 64  # of a matrix of covariances that is none, as of images at equal sizes
NEARLY = 0.9  # of its trace
LARGE = 512  # points, from which fields are drawn in single precision
IMAGE = 16  # points from which means over points help
NEAR, FEWEST_COLUMNS = 2**16, 64  # particles at a time, as many as stay near the processor, and their points
KEPT_POINTS = 128  # as many copies are kept as give so many points: enough for a BatchNorm over fields


class Population(NamedTuple):
    """h = exp(log_scale) · values; fields are None if distances are not carried; of a sum, its two parts as paired."""

    particles: np.ndarray
    fields: np.ndarray | None
    log_scale: float
    parts: tuple[Population, Population] | None = None


def drawn(state: State, like: Population | None = None) -> Population:
    """Sample the units of a row: its own population, the given units, or Gaussian ones; `like` says how many.

    Particles of a Gaussian row are its quantiles in increasing order.
    """
    if state.population is not None:
        return state.population()
    count = min(MANY, _power_of_two(MOST_NUMBERS // state.points)) if like is None else len(like.particles)
    many, kept = _field_shape(state) if like is None or like.fields is None else like.fields.shape[:2]
    if state.values is not None:
        return _given(state.values, count, (many, kept) if state.log_d is not None else None)
    scale = _scale(state)
    size = np.exp(state.log_q / 2 - scale)
    fields = _gaussian_fields(state, scale, many, kept) if state.log_d is not None else None
    return Population(np.multiply.outer(normal_quantiles(count), size), fields, scale)


def _given(values: np.ndarray, count: int, shape: tuple[int, int] | None) -> Population:
    """Units of the given batch, (B, units, *positions), in turn; of images one after another."""
    scale = float(np.abs(values).max()) or 1.0
    unit = values.reshape(*values.shape[:2], -1) / scale
    unit = np.moveaxis(unit, 1, 0) if values.ndim > 2 else unit.transpose(1, 2, 0)  # (units, copies, points)
    channels, copies = unit.shape[:2]

    def chosen(many: int, offset: int) -> np.ndarray:
        index = np.arange(many)
        return unit[index % channels, (index // channels + offset) % copies]

    fields = None
    if shape is not None:
        fields = np.stack([chosen(shape[0], offset) for offset in range(shape[1])], axis=1).astype(np.float32)
    return Population(chosen(count, 0), fields, math.log(scale))


def applied(function: Callable[[np.ndarray], np.ndarray], population: Population) -> Population:
    """Apply an elementwise function to every unit."""
    factor = math.exp(population.log_scale)
    particles = function(population.particles * factor)
    fields = None if population.fields is None else function(population.fields * np.float32(factor))
    return _rescaled(Population(particles, fields, 0.0))


def activated(phi: Activation, population: Population) -> Population:
    """φ of every unit; a homogeneous φ leaves the scale alone, others at sizes beyond e^±FAR follow a power law."""
    if phi.homogeneous_slopes is None:
        near = min(max(population.log_scale, -FAR), FAR)
        units = applied(phi.phi, population._replace(log_scale=near))
        if near == population.log_scale:
            return units
        there, here = (float(phi.log_moments(2 * scale).log_second) for scale in (population.log_scale, near))
        return units._replace(log_scale=units.log_scale + (there - here) / 2)
    fields = None if population.fields is None else phi.phi(population.fields)
    return Population(phi.phi(population.particles), fields, population.log_scale)


def scaled(population: Population, log_factor: float, sign: float = 1.0) -> Population:
    """± exp(log_factor) times every unit, the parts of a sum included."""
    sign = sign if log_factor > -math.inf else 0.0
    shift = log_factor if sign else 0.0
    particles, fields = population.particles * sign, population.fields
    fields = None if fields is None else fields * np.float32(sign)
    parts = population.parts and (scaled(population.parts[0], shift, sign), scaled(population.parts[1], shift, sign))
    return Population(particles, fields, population.log_scale + shift, parts)


def added(first: Population, second: Population, factor: float, independent_of: int | None) -> Population:
    """first + factor · second, unit by unit; a part that is independent, drawn by that row, is paired by ranks."""
    scale = max((part.log_scale for part in (first, second) if part.particles.any()), default=first.log_scale)
    first, second = (part if part.particles.any() else part._replace(log_scale=scale) for part in (first, second))
    ratio, other = math.exp(first.log_scale - scale), factor * math.exp(second.log_scale - scale)
    particles = second.particles
    if independent_of is not None:
        particles = particles[pairing(first.particles, independent_of)]
        width = max(FEWEST_COLUMNS, NEAR // len(particles))
        for columns in (slice(start, start + width) for start in range(0, particles.shape[1], width)):
            particles[:, columns] = _uncorrelated(first.particles[:, columns], particles[:, columns])
    fields = None
    if first.fields is not None and second.fields is not None:
        fields = first.fields * np.float32(ratio) + second.fields * np.float32(other)
    paired = second._replace(particles=particles, log_scale=second.log_scale + math.log(factor))
    return _rescaled(Population(first.particles * ratio + particles * other, fields, scale, (first, paired)))


def pairing(particles: np.ndarray, row: int) -> np.ndarray:
    """Which of a second part's sorted particles each of these gets: van der Corput's sequence along their ranks.

    The sequence is shifted from row to row, since unshifted it gives the largest to the largest.
    """
    count = len(particles)
    size = np.sqrt(np.mean(particles**2, axis=0))
    order = np.argsort(np.sum(particles[:, size > 0] / size[size > 0], axis=1), kind="stable")
    bits = max(1, (count - 1).bit_length())
    ranks = np.arange(2**bits)
    reversed_bits = np.zeros_like(ranks)
    for bit in range(bits):
        reversed_bits |= ((ranks >> bit) & 1) << (bits - 1 - bit)
    shifted = (reversed_bits[:count] + int(row * GOLDEN % 1 * 2**bits)) % 2**bits
    partner = np.empty(count, int)
    partner[order] = np.argsort(np.argsort(shifted, kind="stable"), kind="stable")
    return partner


def _uncorrelated(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The second part without what correlation the pairing has left, at its own mean and variance.

    Exact zeros stay: where both parts have one, a ReLU of the sum has slope 0. Of the other entries, m + u with their
    mean m, what is along the first part's deviation t there goes, and what the zeros' places have to do with it is
    made up for: m + α w − k t, w the rest of u, α such that the variance remains.
    """
    inside, deviation = second != 0, _unit(first - first.mean(axis=0))
    share = np.maximum(inside.mean(axis=0), 1 / len(second))
    mean, along = second.mean(axis=0) / share, np.where(inside, deviation, 0)
    placed = along.mean(axis=0)
    along -= np.where(inside, placed / share, 0)
    own = np.where(inside, second - mean, 0)
    square = np.mean(along**2, axis=0)
    rest = own - along * _ratio(np.mean(along * own, axis=0), square)
    made_up = mean * _ratio(placed, square)
    kept = 1 - _ratio(made_up * np.sqrt(square), _size(own)) ** 2
    factor = np.sqrt(np.maximum(kept, 0)) * _ratio(_size(own), _size(rest), 1.0)
    return np.where(inside, mean + factor * rest - made_up * along, 0)


def _ratio(one: np.ndarray, other: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
    """One over the other, but where that is 0."""
    return np.divide(one, other, out=np.full_like(other, otherwise), where=other > 0)


def _size(values: np.ndarray) -> np.ndarray:
    """Root mean square of columns of any size."""
    return np.sqrt(np.mean(_unit(values) ** 2, axis=0)) * np.abs(values).max(axis=0)


def _unit(values: np.ndarray) -> np.ndarray:
    """Columns over their largest entry, so that squares stay numbers."""
    largest = np.abs(values).max(axis=0)
    return values / np.where(largest > 0, largest, 1)


def _rescaled(population: Population) -> Population:
    size = float(np.abs(population.particles).max())
    if size == 0 or not math.isfinite(size):
        return population
    fields = None if population.fields is None else population.fields / np.float32(size)
    log_scale = population.log_scale + math.log(size)
    return population._replace(particles=population.particles / size, fields=fields, log_scale=log_scale)


def moments(population: Population) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, Population]:
    """ln q of every point, the distances within and between copies, and the population with fields matched to q."""
    population, q = _fitted(population), np.mean(population.particles**2, axis=0, dtype=float)
    log_q = positions.log(q) + 2 * population.log_scale
    if population.fields is None:
        return log_q, None, None, population
    return log_q, *distances(population.fields, population.log_scale), population


def _fitted(population: Population) -> Population:
    """With the particles' second moments in its fields."""
    fields, q = population.fields, np.mean(population.particles**2, axis=0, dtype=float)
    if fields is None:
        return population
    own = np.einsum("mkp,mkp->p", fields, fields).astype(float) / (fields.shape[0] * fields.shape[1])
    factor = np.sqrt(np.divide(q, own, out=np.zeros_like(q), where=own > 0))
    return population._replace(fields=fields * factor.astype(np.float32))


def sampled_state(state: State, change: Callable[[Population], Population]) -> State:
    """A row whose units are sampled and changed."""
    log_q, log_d, log_cross, after = moments(change(drawn(state)))
    return dataclasses.replace(
        state,
        log_q=log_q,
        log_d=log_d,
        log_cross=log_cross,
        method=worse(state.method, "population"),
        channel_method=worse(state.channel_method, "population"),
        symmetric=False,
        gaussian=False,
        centred=False,
        sphere=math.inf,
        mixed=False,
        population=lambda: after,
        sizes=None if state.mixed or state.values is not None else state.sizes,
        features=None,
        divided=None,
        parts=(),
        values=None,
    )


def activated_state(phi: Activation, state: State) -> State:
    """φ of a row whose units are sampled.

    Of a sum the distances of given images are known better than those of the sample, whose units do not tell one image
    from another: what these are off by passes on, times what of the covariances of the first part does, E (φ′(h) x)²
    over E x² at coinciding points.
    """
    before = drawn(state)
    after = sampled_state(state, lambda units: activated(phi, units))
    if after.sizes is None or before.parts is None or before.fields is None:
        return after
    sampled = [block for block in moments(before)[1:3] if block is not None]
    passed = _passed(phi, before)
    top = max(float(np.max(state.log_q)), float(np.max(after.log_q)))

    def corrected(known: np.ndarray, found: np.ndarray, changed: np.ndarray) -> np.ndarray:
        def of_rows(rows: slice) -> np.ndarray:
            exact, off, passed_on = (np.exp((logs[rows] - top).astype(np.float32)) for logs in (known, found, changed))
            return positions.log(np.maximum(passed_on + passed * (exact - off), 0)) + np.float64(top)

        return by_rows(of_rows, state.points)

    log_d, log_cross = two([corrected(*blocks) for blocks in zip(state.blocks, sampled, after.blocks, strict=True)])
    assert log_d is not None
    np.fill_diagonal(log_d, -math.inf)
    return dataclasses.replace(after, log_d=log_d, log_cross=log_cross)


def _passed(phi: Activation, units: Population) -> np.float32:
    """E (φ′(h) x)²/E x² of a sum h = x + f."""
    assert units.parts is not None
    factor = 1.0 if phi.homogeneous_slopes is not None else math.exp(min(max(units.log_scale, -FAR), FAR))
    first = _unit(units.parts[0].particles)
    square = float(np.mean(first**2))
    return np.float32(np.mean((phi.dphi(units.particles * factor) * first) ** 2) / square if square > 0 else 1.0)


def matched(sampled: Population, log_q: np.ndarray) -> Population:
    """A population with the second moments that are known of its row."""
    particles, fields, scale, _ = sampled
    with np.errstate(divide="ignore", invalid="ignore"):  # a point at which every unit is 0
        log_factor = log_q / 2 - np.log(np.mean(particles**2, axis=0)) / 2 - scale
    log_factor = np.where(np.isfinite(log_factor), log_factor, -math.inf)
    factor, top = positions.linear(log_factor)
    return _fitted(Population(particles * factor, fields, scale + top))


def distances(fields: np.ndarray, log_scale: float) -> tuple[np.ndarray, np.ndarray | None]:
    """ln of the mean squared distances of points, within a copy and between two, of sampled units."""
    within, between = products(fields - fields.mean(axis=(1, 2), keepdims=True))  # what a unit's points share cancels
    square, shift = np.diagonal(within), np.float64(2 * log_scale)  # single precision is enough for the logarithm only

    def log_distance(block: np.ndarray) -> np.ndarray:
        def of_rows(rows: slice) -> np.ndarray:
            return positions.log(np.maximum(square[rows, None] + square - 2 * block[rows], 0)) + shift

        return by_rows(of_rows, len(block))

    log_d = log_distance(within)
    np.fill_diagonal(log_d, -math.inf)
    return log_d, None if between is None else log_distance(between)


def products(first: np.ndarray, second: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Means of products of points of sampled units (m, kept, points), within a copy and between two."""
    second = first if second is None else second
    many, kept, points = first.shape
    within = first.reshape(-1, points).T @ second.reshape(-1, points)
    within /= many * kept
    if kept == 1:
        return within, None
    whole = first.sum(axis=1)
    between = whole.T @ (whole if second is first else second.sum(axis=1))  # half the time, of one matrix with itself
    between /= many * kept
    between -= within
    between /= kept - 1
    return within, between


def normal_quantiles(count: int) -> np.ndarray:
    """Quantiles of N(0, 1) at the midpoints of `count` equal shares, scaled to variance 1.

    >>> normal_quantiles(2)
    array([-1.,  1.])
    """
    quantiles = special.ndtri((np.arange(count) + 0.5) / count)
    return quantiles / np.sqrt(np.mean(quantiles**2)) if count > 1 else quantiles


def quantiles_of(fields: np.ndarray, count: int) -> np.ndarray:
    """Sorted particles of every point, from sampled units."""
    many, kept, points = fields.shape
    sample = np.sort(fields.reshape(many * kept, points), axis=0)
    return sample[((np.arange(count) + 0.5) * len(sample) / count).astype(int)]


def _gaussian_fields(state: State, scale: float, many: int, kept: int) -> np.ndarray:
    """Units (many, kept, points) with the covariances of the state: a common mode of the copies, and the others.

    They come in pairs f, −f, whose even parts vary less.
    """
    assert state.log_d is not None
    dtype = np.float32 if state.points > LARGE else np.float64  # rounding of 1e-6 is worth half the time
    half, within, *cross = (np.exp((logs - 2 * scale).astype(dtype)) / 2 for logs in (state.log_q, *state.blocks))
    common = kept * (half[:, None] + half) - within  # within + (kept − 1) between
    if kept > 1:
        common -= (kept - 1) * cross[0]
    rng = np.random.default_rng((int(many), int(kept), state.points, *_seed(state)))
    white = rng.standard_normal((kept, many // 2, state.points), dtype=np.float32)
    modes = np.empty_like(white)
    jitters: tuple[float, ...] = (1e-6, 1e-5, 1e-4) if dtype == np.float32 else (1e-12, 1e-9, 1e-6)
    if state.sizes is not None:  # what is negative then is seldom due to rounding
        jitters = jitters[::2]
    shared = root(common, jitters)
    modes[0] = white[0][:, : shared.shape[1]] @ shared.T
    if kept > 1:
        single = root(cross[0] - within, jitters)
        modes[1:] = white[1:, :, : single.shape[1]] @ single.T
    fields = np.tensordot(linalg.helmert(kept, full=True).astype(np.float32), modes, (0, 0)).swapaxes(0, 1)
    return np.concatenate([fields, -fields])


def _seed(state: State) -> tuple[int, ...]:
    """Of the last row of weights, and of which of its channels."""
    sources = [
        (source, 0, 1) if isinstance(source, int) else (source[0], *source[1].as_integer_ratio())
        for source in state.lineage
    ]
    row, start, of = max(sources, default=(0, 0, 1))
    return (row, start, of) if start else (row,)


def root(covariance: np.ndarray, jitters: Sequence[float]) -> np.ndarray:
    """A matrix R with R Rᵀ = covariance, up to rounding; its leading modes where some are negative."""
    size = np.sqrt(np.maximum(np.diagonal(covariance), 0))
    safe = np.where(size > 0, size, 1)
    correlation = covariance / safe[:, None]
    correlation /= safe
    for jitter in jitters:
        try:
            np.fill_diagonal(correlation, 1 + jitter)
            factor = linalg.cholesky(correlation.T, lower=True, check_finite=False)  # in the order that LAPACK takes
            return (factor * size[:, None]).astype(np.float32)
        except linalg.LinAlgError:
            continue
    return (_leading(correlation) * size[:, None]).astype(np.float32)


def _leading(correlation: np.ndarray) -> np.ndarray:
    """A root of its positive part, or, by subspace iteration, of leading modes that make up nearly all of it."""
    points = len(correlation)
    basis = np.random.default_rng(points).standard_normal((points, min(points, MODES))).astype(correlation.dtype)
    for _ in range(2):
        basis, _ = linalg.qr(correlation @ basis, mode="economic", check_finite=False)
    values, vectors = linalg.eigh(basis.T @ (correlation @ basis))
    if np.sum(np.maximum(values, 0)) < NEARLY * points:
        values, basis = linalg.eigh(correlation, driver="evd", check_finite=False)
        vectors = np.eye(points, dtype=correlation.dtype)
    return (basis @ vectors) * np.sqrt(np.maximum(values, 0))


def _field_shape(state: State) -> tuple[int, int]:
    kept = int(min(state.copies, max(2, KEPT_POINTS // state.points)))
    many = _power_of_two(2 * MOST_NUMBERS // (kept * state.points))
    return (many if state.points < IMAGE else min(many, ENOUGH)), kept


def _power_of_two(most: int) -> int:
    return 2 ** min(max(most, FEWEST).bit_length() - 1, MOST.bit_length() - 1)


def _scale(state: State) -> float:
    top = float(state.log_q.max()) / 2
    return top if math.isfinite(top) else 0.0
