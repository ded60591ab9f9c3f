"""There and back through a description: the moments of every row, their noise, and the gradients.

Forward, every leaf gives a `State`, the `Noise` of images, and the way back for gradients; the rest of a state is
forgotten once the next row has been read. Backward, a white gradient at the output takes these ways in reverse.
Where a row has no rule, what follows has none either, unless its values have been measured: then they start anew.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from bntheory.growth.backward import covariances as gradient_covariances
from bntheory.growth.backward import gradient_rows, gradients, joins
from bntheory.growth.backward.covariances import Blocks
from bntheory.growth.backward.gradient_rows import Gradient
from bntheory.growth.backward.joins import Pullback
from bntheory.growth.by_rows import by_rows
from bntheory.growth.finite_width import kernel_noise
from bntheory.growth.finite_width.noise import Noise
from bntheory.growth.infinite_width import moments, positions, transposed
from bntheory.growth.infinite_width.sizes import Lost, of_blocks
from bntheory.growth.infinite_width.state import MOST_POINTS, State, log_rest, of_values
from bntheory.layers import BatchNorm, Conv, Dense, Shape
from bntheory.networks import Join, Leaf, Residual, Sequential, output_shape
from bntheory.positional import ConvTranspose, Mix

Measured = Callable[[int], np.ndarray | None]


class Here(NamedTuple):
    """What is known of a row; None where there is no rule."""

    state: State | None
    noise: Noise | None


class Moments(NamedTuple):
    """The numbers that are kept of a row."""

    log_second_moment: float
    log_channel_mean_square: float
    log_channel_variance: float
    log_cosine_distance: float
    log_variance: float  # of the logarithm of the row's mean square, for images
    log_shift: float  # of the logarithm of its expectation, from infinite width
    mixed: bool  # whether given numbers are left in its units
    method: str
    channel_method: str


@dataclass
class Way:
    """The way back through a leaf, or through the parts of a block, between which `split` divides a gradient."""

    row: int
    back: Pullback | None = None
    weight_gradient: WeightGradient | None = None
    parts: list[list[Way]] = field(default_factory=list)
    split: joins.Split | None = None


Visit = Callable[[Way, Gradient], None]
UNKNOWN = Moments(*(math.nan,) * 6, False, "unsupported", "unsupported")


def forward(
    net: Sequential, rows: tuple[Leaf, ...], first: State, measured: Measured | None = None
) -> tuple[list[Moments], list[Way], State | None]:
    """Moments of every row, the way back, and the last state.

    Parameters
    ----------
    net : Sequential
    rows : tuple of Leaf
        Those of `leaves`, perhaps under other names.
    first : State
        Of the input.
    measured : callable, optional
        Row index ↦ array (B, *shape): values measured there, or None. Where a row has no rule, its own numbers stay
        unknown, and what follows is predicted from its values, with the method "measured" from there on.

    Raises
    ------
    ValueError
        If a layer cannot take what reaches it, or measured values have another shape or are not finite, with the row's
        name in front.
    """
    noise = kernel_noise.start(first) if len(rows[0].shape) == 3 and first.log_d is not None else None
    taken: list[Moments] = []
    trail = Trail(rows, taken, math.isfinite(first.copies))
    trail.measured, trail.distances = measured, first.log_d is not None
    taken.append(_moments(first, noise, trail.of_batch, len(rows[0].shape) == 3))
    way: list[Way] = []
    here = trail.through(net, Here(first, noise), rows[0].shape, way)
    return taken, way, here.state


class Trail:
    """The rows that have been taken, in the order of `leaves`.

    of_batch : whether fluctuations are those of the mean over the batch, as with a BatchNorm, or of one input;
    measured, distances : values to go on from where there is no rule, and whether with their distances;
    evenness : whether E|g| of gradients is needed, beside E g².
    """

    measured: Measured | None = None
    distances = True
    evenness = False

    def __init__(self, rows: tuple[Leaf, ...], taken: list[Moments], finite: bool = True) -> None:
        self.rows, self.taken = rows, taken
        self.of_batch = finite or any(isinstance(row.layer, BatchNorm) and row.layer.training for row in rows)
        self.correlated = any(gradients.correlate(row.layer) for row in rows)

    def through(self, sequence: Sequential, here: Here, shape: Shape, way: list[Way]) -> Here:
        for layer in sequence.layers:
            if isinstance(layer, Sequential):
                here = self.through(layer, here, shape, way)
            elif isinstance(layer, Residual):
                here = self._block(layer, here, shape, way)
            elif isinstance(layer, Join):
                here = self._join(layer, here, shape, way)
            else:
                here = self._leaf(layer, here, shape, way)
            shape = output_shape(layer, shape)
        return here

    def _leaf(self, layer: object, here: Here, shape: Shape, way: list[Way]) -> Here:
        row = len(self.taken)
        before = here.state
        try:
            after = None if before is None else moments.through(layer, before, shape, row)
        except ValueError as error:
            raise ValueError(f"row {self.rows[row].name}: {error}") from None
        if before is None or after is None:
            return self._take(Here(None, None), Way(row), way)
        noise = here.noise and kernel_noise.through(layer, here.noise, before, after, shape)
        weights: WeightGradient | None = None
        if isinstance(layer, ConvTranspose):
            conv, read = layer.convolution(shape), transposed.spread(layer, before, shape)
            weights = weight_gradient(conv, read, after, layer.spread_shape(shape), self.correlated)
        elif isinstance(layer, Mix):
            weights = weight_gradient_over_positions(layer, before, shape, row, self.correlated)
        elif isinstance(layer, Dense) or (isinstance(layer, Conv) and not (before.parts and layer.groups > 1)):
            weights = weight_gradient(layer, before, after, shape, self.correlated)
        back = gradients.pullback(layer, before, after, shape, self.correlated)
        return self._take(Here(after, noise), Way(row, back, weights), way)

    def _block(self, block: Residual, here: Here, shape: Shape, way: list[Way]) -> Here:
        branch_way: list[Way] = []
        shortcut_way: list[Way] = []
        branch = self.through(block.branch, _linked(here, None), shape, branch_way)
        shortcut = self.through(block.shortcut, _linked(here, branch.noise), shape, shortcut_way)
        row, total = len(self.taken), None
        if branch.state is not None and shortcut.state is not None:
            total = moments.added(block, shortcut.state, branch.state)
        split = None
        if total is not None and shortcut.state is not None and branch.state is not None:
            split = joins.of_sum(block, shortcut.state, branch.state)
        step = Way(row, parts=[branch_way, shortcut_way], split=split)
        noise = None
        if total is not None and shortcut.noise is not None and branch.noise is not None:
            assert shortcut.state is not None and branch.state is not None
            states = shortcut.state, branch.state, total
            noise = kernel_noise.added(block, shortcut.noise, branch.noise, states, self.rows[row].shape[0])
        return self._take(Here(total, noise), step, way)

    def _join(self, block: Join, here: Here, shape: Shape, way: list[Way]) -> Here:
        ways: list[list[Way]] = [[] for _ in block.branches]
        ends = [self.through(part, here, shape, way).state for part, way in zip(block.branches, ways, strict=True)]
        states = [state for state in ends if state is not None]
        channels = [part.output_shape(shape)[0] for part in block.branches]
        row, made, split = len(self.taken), None, None
        if len(states) == len(ends):
            made = moments.joined(block, states, channels, row)
        if made is not None and block.operation == "concatenate":
            split = joins.of_concatenation(made, channels)
        elif made is not None:
            first, second = states
            split = joins.of_product(first, second, self.evenness)
        return self._take(Here(made, None), Way(row, parts=ways, split=split), way)

    def _take(self, here: Here, step: Way, way: list[Way]) -> Here:
        image = len(self.rows[step.row].shape) == 3
        self.taken.append(UNKNOWN if here.state is None else _moments(here.state, here.noise, self.of_batch, image))
        way.append(step)
        if here.state is None and self.measured is not None:
            values = self.measured(step.row)
            return here if values is None else Here(self._anew(step.row, values), None)
        return here

    def _anew(self, row: int, values: np.ndarray) -> State:
        """Measured values, as given inputs are; they share weights with every row before, not with fresh ones after."""
        values, leaf = np.asarray(values, dtype=float), self.rows[row]
        if values.shape[1:] != leaf.shape or not np.isfinite(values).all():
            wanted = ", ".join(map(str, leaf.shape))
            found = values.shape if values.shape[1:] != leaf.shape else "values that are not finite"
            raise ValueError(f"row {leaf.name}: measured values must be finite, of shape (B, {wanted}), got {found}")
        state = of_values(values, self.distances and math.prod(leaf.shape[1:]) <= MOST_POINTS)
        lineage = frozenset(range(row + 1))
        return dataclasses.replace(state, method="measured", channel_method="measured", lineage=lineage)


def _linked(here: Here, outside: Noise | None) -> Here:
    """The start of a block's part: what it is linked to is the block's input, or the end of the other part."""
    if here.noise is None:
        return here
    sampled = kernel_noise.sampled_row(here.noise)
    blocks = sampled.within, sampled.cross
    if outside is not None and outside.linked is not None:
        first, second = outside.linked
        blocks = (first.T, None if second is None else second.T)
    return here._replace(noise=dataclasses.replace(sampled, linked=blocks))


def _moments(state: State, noise: Noise | None, of_batch: bool, image: bool) -> Moments:
    log_channel_variance = kernel_noise.log_channel_variance(state, noise)
    known = state.log_d is not None or state.values is not None
    return Moments(
        state.log_second_moment,
        log_rest(state.log_second_moment, log_channel_variance) if known else math.nan,
        log_channel_variance,
        state.log_cosine_distance if state.copies > 1 or not image else math.nan,  # positions are no inputs
        math.nan if noise is None else noise.variance(state, of_batch),
        math.nan if noise is None else noise.mean_shift(state),
        state.mixed,
        state.method,
        state.channel_method if known else "unsupported",
    )


class WeightGradient(NamedTuple):
    """E ‖∂ℓ/∂W‖² of a layer, given the gradient of its output, over one copy of the points.

    Σ over pairs of points, the second of all copies, of E g g' E h h', h all that a unit reads.
    """

    log_gain: float
    log_scale: float
    read: np.ndarray  # E h² over e^log_scale, for every output point
    log_variance: float  # of the output, over that of what is read
    after: State | None  # of the output, whose distances are those of h; None if gradients are uncorrelated

    def log_norm(self, gradient: Gradient) -> float:
        """Its logarithm."""
        total = own = float(gradient.points @ self.read)
        if gradient.links is not None and self.after is not None:
            moments = gradient.moments()
            np.fill_diagonal(moments[0], 0)
            products = gradient_covariances.each(np.multiply, moments, self._pairs(self.after))
            total += float(sum(block.sum(dtype=float) for block in products if block is not None))
        if total <= 0 and own > 0:  # what is left of large numbers that cancel is lost in their rounding
            return math.nan
        left = 0.0 if gradient.weights is None else gradient.weights.log_left
        return float(positions.log(np.array(total))) + self.log_gain + self.log_scale + gradient.log_scale + left

    def _pairs(self, after: State) -> Blocks:
        """E h h' over e^log_scale, of points within a copy and of two."""
        half, log_size = (self.read / 2).astype(np.float32), self.log_variance + self.log_scale
        whole = np.exp(np.minimum(after.log_q - log_size, 80.0)).astype(np.float32) / 2  # with the bias

        def products(block: np.ndarray, lost: Lost | None) -> np.ndarray:
            def of_rows(rows: slice) -> np.ndarray:
                distance = np.exp(block[rows] - log_size) / 2
                if lost is not None:
                    distance = lost.add(distance, whole[rows, None] + whole, rows)
                return half[rows, None] + half - distance

            return by_rows(of_rows, len(half))

        own, *other = map(products, after.blocks, of_blocks(after.sizes))
        return own, other[0] if other else None


def weight_gradient(layer: Dense | Conv, before: State, after: State, shape: Shape, correlated: bool) -> WeightGradient:
    """Read off what the gradient with respect to the weights needs of the forward pass."""
    q, scale = positions.linear(before.log_q)
    inputs = shape[0] // (layer.groups if isinstance(layer, Conv) else 1)
    log_inputs, outputs = math.log(inputs), layer.output_shape(shape)
    if isinstance(layer, Conv):
        q = positions.window_sums(layer, shape, q)
    kept = after.light if correlated and after.log_d is not None else None  # in distances the bias cancels
    log_variance = math.log(layer.weight_variance(shape)) + log_inputs
    return WeightGradient(log_inputs + math.log(outputs[0]), scale, q, log_variance, kept)


def weight_gradient_over_positions(
    layer: Mix, before: State, shape: Shape, row: int, correlated: bool
) -> WeightGradient | None:
    """The same of weights between positions: of each channel by itself, and of two inputs at one position.

    None of channels whose mean is not zero: it counts with the mean over channels of the gradient, which normalizations
    further on take away; and of channels of several laws.
    """
    if before.parts or not before.centred:
        return None
    q, scale = positions.linear(before.log_q)
    read, kept = np.full(layer.features, q.sum()), None
    if correlated and before.log_d is not None:
        kept = moments.through(dataclasses.replace(layer, bias=0.0), before, shape, row)
    return WeightGradient(math.log(shape[0]), scale, read, math.log(layer.weight_variance(shape)), kept and kept.light)


def backward(way: list[Way], rows: tuple[Leaf, ...], last: State | None) -> np.ndarray:
    """(rows, 2): ln ‖∂ℓ/∂h‖² and ln ‖∂ℓ/∂W‖², both less that of the last row; NaN where there is no rule."""
    norms = np.full((len(rows), 2), np.nan)
    if last is None:
        return norms
    output = gradient_rows.white(last)

    def visit(step: Way, gradient: Gradient) -> None:
        norms[step.row, 0] = gradient.log_total(rows[step.row].shape[0])
        if step.weight_gradient is not None:
            norms[step.row, 1] = step.weight_gradient.log_norm(gradient)

    first = back(way, output, visit)
    norms[0, 0] = math.nan if first is None else first.log_total(rows[0].shape[0])
    return norms - output.log_total(rows[-1].shape[0])


def back(way: list[Way], gradient: Gradient | None, visit: Visit) -> Gradient | None:
    """Take a gradient back, showing that of every row on the way; None from where there is no rule."""
    for step in reversed(way):
        if gradient is None:
            return None
        visit(step, gradient)
        if step.parts:
            shares = step.split(gradient) if step.split is not None else None
            gradient = None if shares is None else _through_parts(step.parts, shares, visit)
        else:
            gradient = None if step.back is None else step.back(gradient)
    return gradient


def _through_parts(parts: list[list[Way]], shares: list[Gradient], visit: Visit) -> Gradient | None:
    """Estimates are not shown."""
    ends = [back(part, share, _unseen if share.rough else visit) for part, share in zip(parts, shares, strict=True)]
    known = [end for end in ends if end is not None]
    return joins.merged(shares, known) if len(known) == len(ends) else None


def _unseen(step: Way, gradient: Gradient) -> None:
    """Of a visitor that is not to see a row."""
