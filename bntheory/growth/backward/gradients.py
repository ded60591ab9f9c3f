"""Infinite width: the squared gradient of every row, on the way back from a white one at the output.

γ_p is the mean over units of E (∂ℓ/∂h_p)². Weights above a row are fresh: its gradient is independent of it.

    Dense, Conv  γ_a = n v Σ γ_P over the outputs P that read a        n v: outputs of a unit (and offset) times Var w
    Activation   γ E φ′²
    BatchNorm    on vectors by `batch_norm.pullback`, or `given_vectors`, with the activation after it; on images by
                 `covariances`
    Norms        1/(s² + ε), up to one part in the number of units; of groups of channels E 1/(s² + ε) and less what the
                 group's mean and its part along the output take away
    Affine       γ E γ², the factors of units independent of what reads them where they are not sampled
    Pool         shares squared, or the position of the maximum
    sum          the gradient to both, times α² to the branch

Gradients of different points are uncorrelated until an average or a BatchNorm has mixed them; from there on down their
`links` are carried (`gradient_covariances`). Rows that are sampled (`population`) keep γ unit by unit, since φ′ depends
on what the unit was before.
Schoenholz et al. 2017, section 4; Yang et al. 2019.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bntheory.activations import Activation
from bntheory.growth.backward import covariances, gradient_rows, joins, rearranged
from bntheory.growth.backward import kernels as few
from bntheory.growth.backward.covariances import SAMPLED, Blocks
from bntheory.growth.backward.given_vectors import pulled_back
from bntheory.growth.backward.gradient_rows import Above, Gradient, averaged, of_moments, scaled
from bntheory.growth.backward.joins import Pullback
from bntheory.growth.infinite_width import (
    affine,
    batch_modes,
    batch_norm,
    given_vectors,
    kernels,
    population,
    positions,
    transposed,
)
from bntheory.growth.infinite_width.given_vectors import Divided
from bntheory.growth.infinite_width.state import State, log_mean
from bntheory.layers import (
    Affine,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GroupNorm,
    LayerNorm,
    Pad,
    Pool,
    Shape,
    ZeroPad,
)
from bntheory.positional import ConvTranspose, Mix, Offset
from bntheory.rearrangements import Channels, Unflatten

MOST_SAMPLED = 2**18  # points of units for means over sampled ones


def correlate(layer: Any) -> bool:
    """Whether a layer makes gradients of different points correlated."""
    if isinstance(layer, Pool):
        return layer.kind == "average"
    return isinstance(layer, BatchNorm) and layer.training


def pullback(layer: Any, before: State, after: State, shape: Shape, correlated: bool = True) -> Pullback | None:
    """The way back through a leaf, from the states of its input and output; None where there is no rule.

    `correlated`: whether gradients of different points can be, so that their links need to be known.
    """
    rule, groups = RULES[type(layer)], layer.groups if isinstance(layer, Conv) else 1
    if isinstance(layer, (Dense, Channels, ConvTranspose)) or (isinstance(layer, Conv) and groups == 1):
        return rule(layer, before, after, shape, correlated)
    made = layer.output_shape(shape)[0] if isinstance(layer, (Conv, Flatten, Unflatten)) else shape[0]
    if isinstance(layer, ZeroPad) or not before.parts:
        back = None if before.parts else rule(layer, before, after, shape, correlated)
        if isinstance(layer, (Conv, ZeroPad)):
            return back and joins.of_all_channels(back)
        return joins.by_channels([joins.Channels(shape[0], made, back)])
    if isinstance(layer, (LayerNorm, GroupNorm)):  # which divides all units by the same
        known = before.centred and not isinstance(layer, GroupNorm)
        back = rule(layer, before, after, shape, correlated) if known else None
        return joins.by_channels([joins.Channels(part.channels, part.channels, back) for part in before.parts])
    parts, start = [], 0
    for channels, state in before.parts:
        own = layer.of(start, start + channels) if isinstance(layer, Affine) else layer
        read = shape if groups > 1 else (channels, *shape[1:])
        after = dataclasses.replace(state, divided=None)  # what the layer itself makes of it is not at hand
        back, start = rule(own, state, after, read, correlated), start + channels
        parts.append(joins.Channels(channels, channels * made // shape[0], back))
    return joins.by_channels(parts)


def _dense(layer: Dense, before: State, after: State, shape: Shape, correlated: bool) -> Pullback:
    log_gain = math.log(layer.features) + math.log(layer.weight_variance(shape))
    return lambda gradient: averaged(gradient, 1.0, log_gain, evenness=1.0)


def _conv(layer: Conv, before: State, after: State, shape: Shape, correlated: bool) -> Pullback:
    log_gain = math.log(layer.channels // layer.groups) + math.log(layer.weight_variance(shape))
    windows, outputs = layer.windows(shape), layer.output_shape(shape)[1:]
    padded = [side + 2 * window.padding for side, window in zip(shape[1:], windows, strict=True)]
    top, left = (window.padding for window in windows)
    source = after.source if after.apart and correlated else None

    def back(gradient: Gradient) -> Gradient:
        if gradient.links is not None:
            read = covariances.each(functools.partial(few.read, layer, shape, gradient.weights), gradient.moments())
            units = gradient.units
            if units is None and source is not None:
                units = few.sampled(gradient, source)
            if units is not None and source is not None:
                more = few.excess(units, source, gradient.weights)
                read = read[0] + more * np.trace(read[0]), read[1]
            return of_moments(read, gradient.log_scale + log_gain)
        total = np.zeros(padded)
        for place in positions.offsets(windows, outputs):
            total[place] += gradient.points.reshape(outputs)
        inside = total[top : top + shape[1], left : left + shape[2]].ravel()
        return scaled(Gradient(inside, gradient.log_scale), 1.0, log_gain)

    return back


def _activation(phi: Activation, before: State, after: State, shape: Shape, correlated: bool) -> Pullback:
    if str(phi) == "linear":
        return lambda gradient: gradient
    if not before.gaussian or before.mixed or before.apart:
        return _sampled_activation(phi, before, correlated)
    if before.values is not None:
        slopes = np.square(phi.dphi(before.values))
        known = slopes.reshape(*slopes.shape[:2], -1).mean(axis=(0, 1)) if slopes.ndim > 2 else slopes.mean(axis=1)
        return lambda gradient: scaled(dataclasses.replace(gradient, values=gradient.points), known)
    slope, before = np.exp(phi.log_moments(before.log_q).log_derivative), before.light
    small = math.isfinite(before.sphere) and before.sphere >= 2 and phi.homogeneous_slopes is None
    if small:
        slope = np.full(before.points, batch_norm.sphere_moments(phi, before.sphere, before.log_second_moment).slope)

    def back(gradient: Gradient) -> Gradient:
        if gradient.values.ndim > 1:
            return _unit_by_unit(phi, before, gradient)
        links = gradient.links
        if links is not None and small:
            sphere = batch_norm.sphere_moments(phi, before.sphere, before.log_second_moment)
            links = covariances.shared(links, sphere.slope_pair / sphere.slope)
        elif links is not None:
            links = covariances.each(np.multiply, links, covariances.slopes(phi, covariances.field(before)))

        def radial() -> Blocks:
            points = gradient.links or covariances.diagonal(before.points)
            return covariances.each(np.multiply, points, covariances.radial(phi, covariances.field(before)))

        above = Above(radial, None, phi, gradient)
        return scaled(gradient, slope, links=links, above=above, evenness=_evenness(phi, before.log_second_moment))

    return back


@functools.lru_cache(maxsize=256)
def _evenness(phi: Activation, log_q: float) -> float:
    """E|φ′|/√(E φ′²)."""
    slopes = np.abs(_slopes(phi, population.normal_quantiles(population.ENOUGH), log_q / 2))
    size = math.sqrt(float(np.mean(slopes**2)))
    return float(slopes.mean()) / size if size > 0 else 1.0


def _unit_by_unit(phi: Activation, before: State, gradient: Gradient) -> Gradient:
    """Slopes of chosen units hardly differ: their links remain. Two activations in turn count as one."""
    units = population.drawn(before)
    if gradient.values.ndim == 2:
        values = _slopes(phi, units.particles, units.log_scale) ** 2 * gradient.values
        links = gradient.links
        if links is not None and units.fields is not None and gradient.above and gradient.above.slopes:
            above, _, behind = gradient.above.slopes()
            both = above * _slopes(phi, units.fields[: len(above)], units.log_scale)
            links = covariances.each(np.multiply, behind, covariances.normalized(population.products(both))[1])
        return averaged(dataclasses.replace(gradient, values=values, links=links))
    assert units.fields is not None
    fields = units.fields[: len(gradient.values)]
    values = _slopes(phi, fields, units.log_scale) ** 2 * gradient.values

    def radial() -> Blocks:
        size = np.sqrt(values)
        factors = covariances.ratio(population.products(size * fields), population.products(size))
        links = gradient.links or covariances.diagonal(before.points)
        share = np.float32(1 / np.mean(fields**2))
        return covariances.each(lambda link, factor: link * factor * share, links, factors)

    return averaged(dataclasses.replace(gradient, values=values), above=Above(radial))


def _slopes(phi: Activation, values: np.ndarray, log_scale: float) -> np.ndarray:
    factor = 1.0 if phi.homogeneous_slopes is not None else math.exp(min(max(log_scale, -80.0), 80.0))
    return phi.dphi(values * values.dtype.type(factor))


def _sampled_activation(phi: Activation, before: State, correlated: bool) -> Pullback:
    units = population.drawn(before)
    squares = (_slopes(phi, units.particles, units.log_scale) ** 2).astype(np.float32)
    some = slice(0, max(SAMPLED, MOST_SAMPLED // before.points) if correlated else SAMPLED)
    fields = units.fields[some].copy() if units.fields is not None else None
    branch = None
    if correlated and fields is not None and units.parts is not None and units.parts[1].fields is not None:
        branch = units.parts[1].fields[some] * np.float32(math.exp(units.parts[1].log_scale - units.log_scale))
    log_scale, points = units.log_scale, before.points
    del units, before  # more than a deep network can keep

    def back(gradient: Gradient) -> Gradient:
        if gradient.values.ndim == 3 and fields is not None:
            values = gradient.values * _slopes(phi, fields[: len(gradient.values)], log_scale) ** 2
        else:
            values = (gradient.values if gradient.values.ndim < 3 else gradient.points) * squares
        if fields is None or not correlated:
            return scaled(dataclasses.replace(gradient, values=values), 1.0, tangled=False)
        slopes, links = _slopes(phi, fields, log_scale), gradient.links or covariances.diagonal(points)
        size, factors = covariances.normalized(population.products(slopes))

        def of_part(part: np.ndarray) -> Blocks:
            moments = covariances.times(population.products(slopes * part), covariances.inverse(np.sqrt(size)))
            square = float(np.mean(part**2))
            share = np.float32(1 / square if square else 0)  # a branch of zeros
            return covariances.each(lambda link, moment: link * moment * share, links, moments)

        above = Above(
            lambda: of_part(fields),
            slopes=lambda: (slopes, fields * np.float32(math.exp(log_scale)), links),
            given=gradient,
        )
        if branch is not None:
            above = Above(lambda: of_part(branch), lambda: of_part(fields - branch), rough=gradient.tangled)
        changed = None if gradient.links is None else covariances.each(np.multiply, links, factors)
        return scaled(dataclasses.replace(gradient, values=values), 1.0, links=changed, above=above, tangled=False)

    return back


def _batch_norm(layer: BatchNorm, before: State, after: State, shape: Shape, correlated: bool) -> Pullback | None:
    if not layer.training:
        log_factor = _log_square(layer.gamma) - math.log1p(layer.epsilon)
        return lambda gradient: scaled(gradient, 1.0, log_factor)
    if before.values is not None or not before.gaussian:
        return None
    points, copies, batch = before.points, before.copies, before.batch
    log_variance = before.folded().log_channel_variance
    log_distance = log_variance + math.log(2) - math.log1p(-1 / batch)
    image = points > 1 and len(shape) == 3
    epsilon = layer.epsilon * math.exp(min(-log_variance, 700.0))
    weights = kernels.weights(before, layer.epsilon) if image else None
    if weights is not None and before.apart and before.source is not None:
        before = kernels.reweighed(before, before.source, weights.products)
    source = before.source if before.apart else None
    given = before.source is not None and before.source.before.values is not None
    divided = after.divided or given_vectors.divided(layer, before, shape)
    before = before.light

    def back(gradient: Gradient) -> Gradient:
        above = gradient.above
        if image or (above is not None and above.phi is None):
            y, log_inverse = batch_modes.normalized(batch_modes.centred(before), copies, epsilon)
            lost = 1 - (epsilon / (1 + epsilon)) ** 2
            if weights is not None:  # which are all that units of given images differ by
                log_inverse = weights.log_inverse + (0.0 if given else log_inverse + math.log1p(epsilon))
            log_factor = _log_square(layer.gamma) + log_inverse - log_variance
            units = few.sampled(gradient, source, epsilon) if source is not None else None
            through = _on_a_field(gradient, covariances.single(y), copies, log_factor, lost)
            return dataclasses.replace(through, weights=weights, units=units)
        return _over_vectors(layer, gradient, divided, log_distance, before)

    return back


def _over_vectors(
    layer: BatchNorm, gradient: Gradient, divided: Divided | None, log_distance: float, before: State
) -> Gradient:
    """With the activation behind it: pair by pair, or of vectors that are alike."""
    above, batch = gradient.above, before.batch
    phi, past = (above.phi, above.given) if above is not None else (Activation("linear"), gradient)
    assert phi is not None and past is not None
    gamma = layer.gamma * (above.factor if above is not None else 1.0)

    def alike(phi: Activation, past: Gradient) -> Gradient:
        rule = batch_norm.pullback(phi, log_distance, batch, layer.epsilon, gamma)
        value = rule.on_total * float(np.mean(past.points)) + rule.on_mean * past.mean_part / batch
        links = covariances.zero_sum(before.points, before.copies)
        made = Gradient(np.full(before.points, value), past.log_scale, links, evenness=gradient.evenness)
        return scaled(made, 1.0, rule.log_scale)

    if divided is None or batch == 2:
        return alike(phi, past)
    if (slopes := phi.homogeneous_slopes) is not None:
        return pulled_back(past, divided, slopes, _log_square(gamma))
    # what y has to do with φ′(y) is taken from vectors that are alike
    bent, straight = (one.log_total(1) for one in (alike(phi, past), alike(Activation("linear"), gradient)))
    beside = bent - straight if math.isfinite(bent) and math.isfinite(straight) else 0.0
    return pulled_back(gradient, divided, (1.0, 1.0), _log_square(gamma) + beside)


def _on_a_field(gradient: Gradient, y: Blocks, copies: float, log_factor: float, lost: float) -> Gradient:
    """Through a BatchNorm over points that are not alike, `lost` the share of the part along y that it removes."""
    links = gradient.links or covariances.diagonal(len(y[0]))
    radial = gradient.above.radial() if gradient.above is not None else covariances.each(np.multiply, links, y)
    radial = covariances.times(radial, np.sqrt(gradient.points * lost))
    moments = covariances.projected(gradient.moments(), radial, y, copies)
    return of_moments(moments, gradient.log_scale + log_factor, gradient.evenness)


def _log_square(factor: float) -> float:
    return 2 * math.log(factor) if factor else -math.inf


def _normalization(
    layer: LayerNorm | GroupNorm, before: State, after: State, shape: Shape, correlated: bool
) -> Pullback | None:
    if before.values is not None:
        return None
    log_s = _log_sizes(layer, before, shape)
    same_units = before.centred and before.population is not None
    times = scaled if same_units else averaged
    top = float(log_s.min())
    if not isinstance(layer, GroupNorm) or len(shape) < 3:
        return lambda gradient: times(gradient, np.exp(top - log_s), -top)
    if not correlated or after.log_d is None:
        return lambda gradient: times(gradient, np.exp(top - log_s), -top)
    blocks, scale = kernels.products(after)
    members, y = shape[0] // layer.groups, (blocks[0][:-1, :-1] * math.exp(scale)).astype(np.float32)
    return lambda gradient: times(_projected(gradient, members, y), np.exp(top - log_s), -top)


def _projected(gradient: Gradient, members: int, y: np.ndarray) -> Gradient:
    """Less its mean over positions and a group of channels, and its part along the output, of covariances y.

    One channel of the group counts 1/members; what is taken of two images are means.
    """
    if gradient.links is None:
        return gradient
    within, cross = gradient.moments()
    left, _ = covariances.projected((within, None), (within * y, None), (y, None), members)
    if cross is not None:
        means = cross.mean(axis=1, dtype=float)
        cross = cross - (means[:, None] + means - means.mean()) / members
    return of_moments((left, cross), gradient.log_scale, gradient.evenness)


def _log_sizes(layer: LayerNorm | GroupNorm, before: State, shape: Shape) -> np.ndarray:
    """ln(s² + ε) of every point: s² over units, of images over their positions too unless these are by themselves."""
    together = len(shape) == 3 and not (isinstance(layer, LayerNorm) and layer.by_position(shape))
    log_square = before.log_q
    if not before.centred:
        units = population.drawn(before)
        mean = units.particles.mean(axis=0, dtype=float)
        variance = units.particles.var(axis=0, dtype=float) + ((mean - mean.mean()) ** 2 if together else 0)
        log_square = positions.log(variance) + 2 * units.log_scale
    if together:
        log_square = np.full(before.points, log_mean(log_square))
    if isinstance(layer, GroupNorm) and together and (log_d := before.folded().log_d) is not None:
        share = math.exp(min(float(log_mean(log_d)) - math.log(2) - float(log_square[0]), 0.0))
        log_square = log_square + math.log1p((share - 1) * layer.groups / shape[0])  # the group's mean is taken away
        if before.gaussian and before.points <= batch_modes.MOST_POINTS and math.isfinite(log_square[0]):
            epsilon = layer.epsilon * math.exp(min(-float(log_square[0]), 700.0))
            log_inverse = batch_modes.log_inverse_of_group(before, shape[0] // layer.groups, epsilon)
            return log_square - (log_inverse if log_inverse < math.inf else 0.0)
    return np.logaddexp(log_square, math.log(layer.epsilon) if layer.epsilon else -math.inf)


def _affine(layer: Affine, before: State, after: State, shape: Shape, correlated: bool) -> Pullback:
    gamma = np.array(layer.pairs[0])
    log_square = float(positions.log(np.mean(gamma**2)))
    if (factor := layer.factor) is not None:
        return lambda gradient: scaled(gradient, 1.0, log_square, above=_past_a_factor(gradient.above, factor))
    mean = float(np.mean(np.abs(gamma)))
    evenness = mean * math.exp(-log_square / 2) if mean else 1.0

    def back(gradient: Gradient) -> Gradient:
        values, log_factor = gradient.values, log_square
        if values.ndim > 1 and before.values is None:
            own = affine.in_turn(layer, len(values))[0] ** 2
            values, log_factor = values * own.reshape(-1, *(1,) * (values.ndim - 1)), 0.0
        gradient = dataclasses.replace(gradient, values=values, evenness=gradient.evenness * evenness)
        return averaged(gradient, 1.0, log_factor, above=_past_pairs(layer, gradient.above))

    return back


def _past_a_factor(above: Above | None, factor: float) -> Above | None:
    """Of units without the factor, whose sign is lost on a symmetric law."""
    return above and above._replace(factor=above.factor * abs(factor), slopes=None)


def _past_pairs(layer: Affine, above: Above | None) -> Above | None:
    """Of units y of mean variance 1 before γ y + β; None where the slopes of what reads it are not sampled."""
    if above is None or above.slopes is None:
        return None
    sampled = above.slopes

    def radial() -> Blocks:
        slopes, units, links = sampled()
        gamma, beta = (part.astype(np.float32)[:, None, None] for part in affine.in_turn(layer, len(units)))
        y = np.divide(units - beta, gamma, out=np.zeros_like(units), where=gamma != 0)
        size, _ = covariances.normalized(population.products(slopes * gamma))
        moments = population.products(slopes * gamma * y)
        share = np.float32(covariances.inverse(np.mean(y**2)))
        factors = covariances.times(moments, covariances.inverse(np.sqrt(size)))
        return covariances.each(lambda link, moment: link * moment * share, links, factors)

    return Above(radial)


def _dropout(layer: Dropout, before: State, after: State, shape: Shape, correlated: bool) -> Pullback:
    def back(gradient: Gradient) -> Gradient:
        links = gradient.links and covariances.shared(gradient.links, 1 - layer.rate)
        return averaged(gradient, 1.0, -math.log1p(-layer.rate), links=links)

    return back


def _flatten(layer: Flatten, before: State, after: State, shape: Shape, correlated: bool) -> Pullback:
    if len(shape) == 1:
        return lambda gradient: gradient

    together = math.log(before.copies / after.copies) if before.values is not None else 0.0  # copies that become points

    def back(gradient: Gradient) -> Gradient:
        mean, links = float(gradient.points.mean()), None
        if gradient.links is not None and mean > 0:
            own = covariances.diagonal(before.points)[0]
            links = own, own * np.float32(gradient.mean_part / mean - 1) if before.copies > 1 else None
        log_scale, values = gradient.log_scale + together, np.full(before.points, mean)
        return dataclasses.replace(gradient, values=values, log_scale=log_scale, links=links, above=None)

    return back


def _pool(layer: Pool, before: State, after: State, shape: Shape, correlated: bool) -> Pullback | None:
    if layer.kind == "average":
        matrix = positions.averaging(layer, shape).astype(np.float32)
        return lambda gradient: of_moments(
            covariances.each(lambda block: matrix.T @ (block @ matrix), gradient.moments()), gradient.log_scale
        )
    places = positions.windows(layer, shape)
    fields = population.drawn(before).fields
    if fields is None:
        return None
    fields, points = fields[:SAMPLED].copy(), before.points
    chosen = positions.read(fields, places, -math.inf).argmax(axis=-1)
    del before

    def back(gradient: Gradient) -> Gradient:
        values = np.zeros((fields.size // points, points), np.float32)
        index = np.take_along_axis(np.broadcast_to(places, (*chosen.shape, places.shape[1])), chosen[..., None], -1)
        units = np.repeat(np.arange(len(values)), len(places))
        np.add.at(values, (units, index.ravel()), np.tile(gradient.points.astype(np.float32), len(values)))
        links = None
        if gradient.links is not None:
            gamma, links = covariances.normalized(covariances.maxima(gradient.moments(), places, fields))
            values = values * (gamma * covariances.inverse(values.mean(axis=0)))  # windows that overlap choose the same
        return scaled(dataclasses.replace(gradient, values=values.reshape(fields.shape)), 1.0, links=links)

    return back


def _pad(layer: Pad, before: State, after: State, shape: Shape, correlated: bool) -> Pullback:
    inside = positions.within(shape[1:], layer.sides)

    def back(gradient: Gradient) -> Gradient:
        links = gradient.links and covariances.each(lambda block: block[np.ix_(inside, inside)], gradient.links)
        return scaled(dataclasses.replace(gradient, values=gradient.values[..., inside]), 1.0, links=links)

    return back


def _zero_pad(layer: ZeroPad, before: State, after: State, shape: Shape, correlated: bool) -> Pullback:
    index = np.arange(before.points).reshape(shape[1:])[:: layer.stride, :: layer.stride].ravel()

    def back(gradient: Gradient) -> Gradient:
        values = gradient.values if gradient.values.ndim < 3 else gradient.points
        if values.ndim == 2:
            values = values[: round(len(values) * shape[0] / layer.channels)]
        spread = np.zeros((*values.shape[:-1], before.points))
        spread[..., index] = values
        links = gradient.links and covariances.spread(gradient.links, index, before.points)
        return scaled(dataclasses.replace(gradient, values=spread), 1.0, links=links)

    return back


def _conv_transpose(layer: ConvTranspose, before: State, after: State, shape: Shape, correlated: bool) -> Pullback:
    """Through the convolution of the map with zeros between its positions, of which the positions are kept."""
    through = _conv(layer.convolution(shape), before, after, layer.spread_shape(shape), correlated)
    inside = transposed.inside(layer, shape)

    def back(gradient: Gradient) -> Gradient | None:
        read = through(gradient)
        if read is None:
            return None
        links = read.links and covariances.each(lambda block: block[np.ix_(inside, inside)], read.links)
        return scaled(dataclasses.replace(read, values=read.values[..., inside]), 1.0, links=links)

    return back


def _mix(layer: Mix, before: State, after: State, shape: Shape, correlated: bool) -> Pullback:
    """Uncorrelated between positions, as their weights are; n v times the mean over the n that read them."""
    log_gain, points = math.log(layer.features) + math.log(layer.weight_variance(shape)), before.points

    def back(gradient: Gradient) -> Gradient:
        links = None
        if gradient.links is not None:
            own, cross = (None if b is None else np.mean(np.diagonal(b)) for b in gradient.moments())
            unit = covariances.diagonal(points)[0]
            links = unit, None if cross is None else unit * np.float32(covariances.inverse(np.array([own]))[0] * cross)
        values = np.full(points, gradient.points.mean())
        return scaled(dataclasses.replace(gradient, values=values), 1.0, log_gain, links=links)

    return back


def _offset(layer: Offset, before: State, after: State, shape: Shape, correlated: bool) -> Pullback:
    return gradient_rows.to_shortcut


RULES: dict[type, Callable[[Any, State, State, Shape, bool], Pullback | None]] = {
    Dense: _dense,
    Conv: _conv,
    Activation: _activation,
    BatchNorm: _batch_norm,
    LayerNorm: _normalization,
    GroupNorm: _normalization,
    Affine: _affine,
    Dropout: _dropout,
    Flatten: _flatten,
    Pool: _pool,
    Pad: _pad,
    ZeroPad: _zero_pad,
    ConvTranspose: _conv_transpose,
    Mix: _mix,
    Offset: _offset,
    **rearranged.RULES,
}
