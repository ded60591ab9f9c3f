"""What infinite width knows of one row: second moments of points, and squared distances between them.

A *point* is one input of a vector network, or one position of an image. Over units (channels), and in logarithms,

    q_p = mean of h_p²,   d_pp' = mean of (h_p − h_p')²

Distances instead of covariances: nothing cancels when all points come to look the same. A batch is `copies` of one set
of points: given vectors are points of a single copy; given images are alike in law, each a copy, and enter through
their mean second moments and mean distances, of positions of the same image (`log_d`) and of different ones
(`log_cross`). Without inputs there is one point a position, and distances are those of uncorrelated numbers.

Over all pairs of points of the batch, the mean over channels of the variance is ½ mean d; that of the squared mean is
the rest of the second moment.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.spatial import distance

from bntheory import arguments
from bntheory.growth.by_rows import by_rows
from bntheory.growth.infinite_width.sizes import of_blocks, roots
from bntheory.layers import Shape

if TYPE_CHECKING:
    from bntheory.growth.infinite_width.given_vectors import Divided
    from bntheory.growth.infinite_width.kernels import Convolution
    from bntheory.growth.infinite_width.population import Population

RESOLUTION = 1e-11  # a mean square below this share of the second moment is what rounding leaves of zero
MOST_APART = 1e150  # largest over smallest size of given inputs, whose squares are still numbers
MANY_POINTS = 256  # whose distances are not kept in double precision
MOST_POINTS = 4096  # a matrix of distances of more points would not fit into memory


ZERO, ONE = Fraction(0), Fraction(1)
NOWHERE = -1  # in place of a row
METHODS = ("exact", "mean-field", "population", "measured")  # from the best known to what no rule gave


class Some(NamedTuple):
    """The channels of a row between two shares of them: units as if of weights of their own."""

    row: int
    start: Fraction
    stop: Fraction


Lineage = frozenset[int | Some]


def rows_of(lineage: Lineage) -> set[int]:
    """The rows, whether all of their channels or some."""
    return {source.row if isinstance(source, Some) else source for source in lineage}


def within(lineage: Lineage, start: Fraction, stop: Fraction) -> Lineage:
    """Of units between two shares of the channels.

    Channels of one row of weights are told apart. Those of several rows, whose channels need not be in the same order,
    count as all of them, and a `Some` of no row says which they are.
    """
    sources = {each if isinstance(each, Some) else Some(each, ZERO, ONE) for each in lineage}
    if len(sources) > 1:
        sources = {each for each in sources if each.row == NOWHERE} or {Some(NOWHERE, ZERO, ONE)}
    inside = {Some(row, first + start * (last - first), first + stop * (last - first)) for row, first, last in sources}
    return frozenset(inside if len(lineage) == 1 else {*(each for each in lineage if each not in sources), *inside})


def disjoint(first: Lineage, second: Lineage) -> bool:
    """Whether no channels of any row are common to both.

    >>> half = Fraction(1, 2)
    >>> disjoint(frozenset((Some(3, 0 * half, half),)), frozenset((Some(3, half, 2 * half), 4)))
    True
    >>> disjoint(frozenset((Some(3, 0 * half, half),)), frozenset((3,)))
    False
    """
    wholes = [[each if isinstance(each, Some) else Some(each, ZERO, ONE) for each in side] for side in (first, second)]
    return not any(
        one.row == other.row >= 0 and one.start < other.stop and other.start < one.stop
        for one, other in itertools.product(*wholes)
    )


class Part(NamedTuple):
    """Channels of a concatenation whose units have a law of their own."""

    channels: int
    state: State


@dataclass(frozen=True, eq=False)
class State:
    """Moments of one row.

    log_q : (points,);  log_d, log_cross : (points, points) within a copy and between two, None if not carried;
    log_cross is None with one copy as well;  copies : of the points in a batch, may be infinite;
    sizes : of given images, (copies, points), see `sizes`: distances are those at equal sizes; None if all are alike;
    method : how the second moment was found;  channel_method : how the distances were;
    symmetric : whether every unit's law is symmetric about zero, whatever the width;
    gaussian : whether units are Gaussian at infinite width, so that activations have a closed rule;
    centred : whether the mean over units is zero at infinite width;
    sphere : inputs over which a BatchNorm was just taken, if they are few: its outputs lie on a sphere, not Gaussian;
    lineage : rows of weights that units depend on, or `Some` of their channels, 0 for the input; states with none in
    common are independent;
    beside : rows whose channels the units act on one by one, with weights that all channels share: uncorrelated with
    these, so that sums are those of independent units, but not products;
    windows : rows of pools since the last weights, after which units are no longer functions of those before;
    population : draws sampled units of a row that is not Gaussian, None if it is;
    mixed : whether they are Gaussian plus given numbers (an identity shortcut from the input): activations are sampled;
    parts : of a concatenation, in the order of the channels, if their units have different laws;
    flattened : whether units are those of several positions, so that those of one channel may be correlated;
    apart : whether units are Gaussian given few weights of their own; activations are sampled, from `population`;
    source : of a row of a convolution, that, for a BatchNorm of it;
    divided : of a BatchNorm over given vectors, what it has divided, for the activation behind it;
    unlike : whether channels have numbers of their own that are not carried: γ and β, or zeros;
    features : (copies, points, features), whose products are the covariances of all images; None if not known;
    values : the given batch itself, (B, *shape), as long as no layer was random.
    """

    log_q: np.ndarray
    log_d: np.ndarray | None
    log_cross: np.ndarray | None
    copies: float
    sizes: np.ndarray | None = None
    method: str = "exact"
    channel_method: str = "exact"
    symmetric: bool = False
    gaussian: bool = True
    centred: bool = True
    sphere: float = math.inf
    lineage: Lineage = frozenset((0,))
    beside: Lineage = frozenset()
    windows: frozenset[int] = frozenset()
    population: Callable[[], Population] | None = None
    mixed: bool = False
    parts: tuple[Part, ...] = ()
    flattened: bool = False
    apart: bool = False
    source: Convolution | None = None
    divided: Divided | None = None
    unlike: bool = False
    features: np.ndarray | None = None
    values: np.ndarray | None = None

    @property
    def points(self) -> int:
        """Points of one copy."""
        return len(self.log_q)

    @property
    def batch(self) -> float:
        """Points of the whole batch: those over which a BatchNorm takes its statistics."""
        return self.points * self.copies

    @property
    def blocks(self) -> list[np.ndarray]:
        """The matrices of distances that there are."""
        return [block for block in (self.log_d, self.log_cross) if block is not None]

    @functools.cached_property
    def log_second_moment(self) -> float:
        """ln of the mean of q over points."""
        return log_mean(self.log_q)

    @functools.cached_property
    def log_channel_variance(self) -> float:
        """ln of the mean over channels of the variance over batch and positions; NaN if distances are not carried."""
        if self.values is not None:
            return _log_channel_variance(self.values)
        if self.log_d is None:
            return math.nan
        return log_mean(self.log_row_means) - math.log(2)

    @functools.cached_property
    def log_row_means(self) -> np.ndarray:
        """ln of the mean of d from every point to all points of the batch."""
        assert self.log_d is not None

        def means(block: np.ndarray) -> np.ndarray:
            return by_rows(lambda rows: log_mean(block[rows], axis=1), self.points)

        if self.log_cross is None:
            return means(self.log_d)
        other = math.log1p(-1 / self.copies)
        return np.logaddexp(means(self.log_d) - math.log(self.copies), means(self.log_cross) + other)

    @property
    def log_cosine_distance(self) -> float:
        """ln of the mean, over pairs of inputs, of 1 − cos, cos the uncentred cosine of their rows; NaN without pairs.

        For two rows it is (d − (√q − √q')²)/(2√(qq')), for images with q and d averaged over positions.
        """
        if self.log_cross is not None:
            return log_mean(np.diagonal(self.log_cross)) - self.log_second_moment - math.log(2)
        if self.log_d is None or self.points < 2 or (self.values is not None and self.values.ndim > 2):
            return math.nan
        first, second = np.triu_indices(self.points, 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            gap = np.abs(self.log_q[first] - self.log_q[second]) / 2
            log_product = (self.log_q[first] + self.log_q[second]) / 2
            parallel = gap + 2 * np.log(-np.expm1(-gap))
            ratio = self.log_d[first, second] - log_product
            kept = -np.expm1(np.minimum(parallel - ratio, 0))
            return log_mean(ratio + np.log(np.where(kept > 1e-13, kept, 0))) - math.log(2)

    @functools.cached_property
    def light(self) -> State:
        """The same state with the distances of many points in single precision, for keeping many."""
        if self.points <= MANY_POINTS:
            forgotten = self.source is None and self.divided is None
            return self if forgotten else dataclasses.replace(self, source=None, divided=None)
        return self.mapped(lambda block: block.astype(np.float32), source=None, divided=None)

    def folded(self) -> State:
        """The same state with the images' unequal sizes in its distances."""
        return self if self.sizes is None else self._resized(self.sizes, None)

    def unfolded(self, sizes: np.ndarray | None) -> State:
        """The reverse, with these sizes."""
        return self if sizes is None else self._resized(sizes, sizes)

    def _resized(self, sizes: np.ndarray, after: np.ndarray | None) -> State:
        top = self.log_q.max() if np.isfinite(self.log_q.max()) else 0.0
        q, blocks = np.exp(self.log_q - top), []
        for lost, block in zip(of_blocks(sizes), self.blocks, strict=False):
            assert lost is not None
            change = lost.folded if after is None else lost.unfolded
            with np.errstate(divide="ignore"):
                blocks.append(np.log(change(np.exp(block - top), q)) + top)
        log_d, log_cross = two(blocks)
        return dataclasses.replace(self, log_d=log_d, log_cross=log_cross, sizes=after)

    def mapped(self, pairs: Callable[[np.ndarray], np.ndarray], **changes: Any) -> State:
        """Another state whose distances are a function of these; other fields as given."""
        blocks = [None if block is None else pairs(block) for block in (self.log_d, self.log_cross)]
        return dataclasses.replace(self, log_d=blocks[0], log_cross=blocks[1], **changes)


def two(blocks: list[np.ndarray]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Distances within a copy and between two, of the matrices that there are."""
    within, cross, *_ = *blocks, None, None
    return within, cross


def inexact(method: str) -> str:
    """What a rule that holds at infinite width only leaves of a method."""
    return worse(method, "mean-field")


def worse(*methods: str) -> str:
    """The least exact of some methods.

    >>> worse("exact", "population", "mean-field")
    'population'
    """
    return max(methods, key=METHODS.index)


def log_rest(log_whole: float, log_part: float) -> float:
    """ln(whole − part), −inf where rounding leaves nothing else.

    >>> round(log_rest(0.0, -0.6931471805599453), 6)
    -0.693147
    """
    if log_whole == -math.inf:
        return -math.inf
    share = math.exp(min(0.0, log_part - log_whole))
    return log_whole + math.log1p(-share) if not share >= 1 - RESOLUTION else -math.inf


def log_mean(logs: np.ndarray, axis: int | None = None) -> Any:
    """Return ln mean exp(logs), over everything or along an axis.

    >>> round(float(log_mean(np.array([-1000.0, -1000.0]))), 6)
    -1000.0
    """
    if logs.size == 1:
        return float(logs.item()) if axis is None else logs[0]
    top = np.max(logs, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        result = np.log(np.mean(np.exp(logs - top), axis=axis)) + np.squeeze(top, axis=axis)
    return result if axis is not None else float(result)


def start(inputs: Any, shape: Shape, batch_size: int | None, covariances: bool = True) -> State:
    """Moments of the inputs, or of uncorrelated ones of second moment 1.

    Parameters
    ----------
    inputs : array (B, *shape) or None
    shape : tuple
    batch_size : int or None
        Without inputs: the batch that channel moments and BatchNorm refer to; None: infinite.
    covariances : bool
        Whether to carry distances.

    Returns
    -------
    State

    Raises
    ------
    ValueError
        If the inputs have another shape, are empty, are not finite or all zero, or come with another batch size; if
        there are too many positions, or inputs of too different sizes, to carry their distances.
    """
    points = math.prod(shape[1:])
    if covariances and points > MOST_POINTS:
        raise ValueError(
            f"distances between {points} positions are too many, at most {MOST_POINTS} are carried: "
            "use smaller images, or covariances=False for second moments only"
        )
    if inputs is not None:
        batch = check_inputs(inputs, shape)
        if batch_size is not None and batch_size != len(batch):
            raise ValueError(
                f"batch_size must be left out or equal the number of inputs, {len(batch)}; got {batch_size}"
            )
        if covariances:
            _check_sizes(batch)
        return of_values(batch, covariances)
    copies = math.inf if batch_size is None else arguments.integer("batch_size", batch_size)
    if not covariances:
        return State(np.zeros(points), None, None, copies)
    apart = np.full((points, points), math.log(2))
    within = apart.copy()
    np.fill_diagonal(within, -math.inf)
    return State(np.zeros(points), within, apart if copies > 1 else None, copies)


def of_values(values: np.ndarray, covariances: bool = True) -> State:
    """Moments of a batch that is known, (B, *shape)."""
    scale = float(np.abs(values).max()) or 1.0
    unit, shift = values / scale, 2 * math.log(scale)
    batch, units = unit.shape[:2]
    images = unit.ndim > 2
    by_point = np.moveaxis(unit.reshape(batch, units, -1), 1, 2) if images else unit[None]  # (copies, points, units)
    with np.errstate(divide="ignore"):  # a zero input, or two that are equal
        log_q = np.log(np.mean(by_point**2, axis=(0, 2))) + shift
        sizes = roots(np.mean(by_point**2, axis=2)) if images and batch > 1 else None
        if not covariances:
            return State(log_q, None, None, len(by_point), sizes, centred=False, values=values)
        if not images:
            squares = distance.squareform(distance.pdist(unit, "sqeuclidean"))
            return State(log_q, np.log(squares / units) + shift, None, 1, centred=False, values=values)
        within, cross = _mean_distances(by_point)
        np.fill_diagonal(within, 0)
        log_cross = None if cross is None else np.log(cross / units) + shift
        state = State(log_q, np.log(within / units) + shift, log_cross, batch, centred=False, values=values)
        return state.unfolded(sizes)


def _mean_distances(by_point: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean over images of |h_p − h_p'|², and over pairs of different images."""
    copies = len(by_point)
    products = sum(image @ image.T for image in by_point) / copies
    square = np.diagonal(products)
    within = np.maximum(square[:, None] + square - 2 * products, 0)
    if copies == 1:
        return within, None
    total = by_point.sum(axis=0)
    between = (total @ total.T - copies * products) / (copies * (copies - 1))
    return within, np.maximum(square[:, None] + square - 2 * between, 0)


def _log_channel_variance(values: np.ndarray) -> float:
    scale = float(np.abs(values).max()) or 1.0
    rest = tuple(axis for axis in range(values.ndim) if axis != 1)
    with np.errstate(divide="ignore"):
        return float(np.log(np.mean(np.var(values / scale, axis=rest))) + 2 * math.log(scale))


def _check_sizes(batch: np.ndarray) -> None:
    examples = batch.reshape(len(batch), -1)
    top = np.abs(examples).max(axis=1)  # before squares, which could leave the range of float64
    log_sizes = np.log(top) + np.log(np.mean((examples / top[:, None]) ** 2, axis=1)) / 2
    apart = float(np.ptp(log_sizes))
    if apart > math.log(MOST_APART):
        raise ValueError(
            f"inputs of one batch must not differ by more than a factor {MOST_APART:.0e} in size, "
            f"got 10^{apart / math.log(10):.4g}: scale them alike, or use covariances=False for second moments only"
        )


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
