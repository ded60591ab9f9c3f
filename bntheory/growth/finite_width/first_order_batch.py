"""Fluctuations with BatchNorm: ln of the mean of h² over units and over a batch of B inputs, to first order in 1/width.

At infinite width the kernel of a batch of uncorrelated inputs is exchangeable, K = q [s 1 + (1 − s) 11ᵀ], and so

    before BN   mean h² is tr K/B, of relative variance 2 tr K²/(tr K)²/n over n units
    after BN    a unit is uniform on the sphere of radius √B in the B − 1 dimensions without the mean
    after φ     the mean over units of M = mean over the batch of φ², of relative variance Var M/(E M)²/n

By symmetry a fluctuation of K that keeps its trace acts on the mean of M at second order only, and BN takes the trace
away: the noise of plain networks does not accumulate. That of K does, and it is not small unless n ≫ B (see
`first_order_kernel`): it raises tr K², and makes the sphere smaller and uneven. Along residual blocks a unit keeps its
direction on the sphere, and with it M: as in `first_order_streams`, with n B for n and without two Hermite orders.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from bntheory.activations import Activation, activation
from bntheory.growth.finite_width import first_order_kernel, first_order_streams
from bntheory.growth.finite_width.first_order_kernel import Kernel
from bntheory.growth.finite_width.first_order_mixtures import Mixture
from bntheory.growth.finite_width.first_order_streams import Base, Scalar
from bntheory.growth.finite_width.first_order_tables import ORDERS, squares
from bntheory.layers import BatchNorm, Dense, Shape
from bntheory.networks import Join, Residual, Sequential, output_shape

_LINEAR = activation("linear")


class Place(NamedTuple):
    """Where the walk stands; one component, and `base.units` is n B.

    u : ln(tr K/B) of fresh units; None: that of the base itself.   share : s of K.   kernel : its fluctuation.
    log_fixed : ln of the part of q that a given input keeps.   log_share, phi : BN and the activation after it.
    """

    base: Base
    u: Scalar | None
    units: int
    batch: float
    share: float
    kernel: Kernel
    log_fixed: float = -math.inf
    log_share: float | None = None
    phi: Activation | None = None

    @property
    def plain(self) -> bool:
        """Whether the row is before BN."""
        return self.log_share is None

    def reading(self) -> Scalar:
        """ln of the mean square of the row."""
        nothing, zero = np.zeros((1, ORDERS)), np.zeros(1)
        if self.log_share is None:
            u = first_order_streams.itself(self.base) if self.u is None else self.u
            still = first_order_kernel.still(self.batch)
            lost = math.exp(2 * min(self.log_fixed - float(u.mean[0]), 0.0)) * still.concentration(1.0)
            return u.noisy(np.full(1, 2 * max(self.kernel.concentration(self.share) - lost, 0.0)), self.units)
        if self.phi is None:
            u = first_order_streams.itself(self.base) if self.u is None else self.u
            degrees = 1 / self.kernel.size if self.kernel.size > 0 else math.inf
            left, variance = first_order_kernel.kept(degrees, self.log_share)
            y = u.mapped(self.base, np.full(1, left), np.full(1, -math.expm1(self.log_share)), zero)
            return y._replace(rest=y.rest + variance / self.units)
        size, spread = first_order_kernel.sizes(self.phi, self.kernel, self.log_share)
        mean = np.full(1, size)
        if self.u is not None:
            return Scalar(mean, zero, nothing, zero).noisy(np.full(1, spread), self.units)
        b = squares(self.phi).hermite(np.full(1, self.log_share))[0]
        b[:, :2] = 0.0
        weight = float(np.sum(b**2)) / min(self.batch, 1e300)
        b *= math.sqrt(spread / weight) if weight > 0 else 0.0
        own = np.sum(b * self.base.drift - 0.5 * b**2 * self.base.omega / self.base.units, axis=1)
        return Scalar(mean + own, zero, b, zero)

    def law(self) -> Mixture:
        """Law of the row."""
        y = self.reading()
        return Mixture(self.base.weights, y.mean, y.variance(self.base))


LEAST_SHARE = -30.0  # below, ε is all that BN divides by

Walk = Generator[Mixture | None, None, Place | None]


def laws(net: Sequential, shape: Shape, log_start: float, batch: float) -> Walk:
    """Yield the law of every row but the input's, None where there is no rule.

    Parameters
    ----------
    net : Sequential
    shape : tuple
        The input's.
    log_start : float
        ln mean square of the inputs, which are uncorrelated.
    batch : float
        B, may be infinite; below 4 there is no rule.
    """
    base = first_order_streams.fixed(shape[0] * batch, log_start)
    start = Place(base, None, shape[0], batch, 1.0, first_order_kernel.still(batch), log_start) if batch >= 4 else None
    return _walk(net, start, shape, inside=False)


def _walk(sequence: Sequential, place: Place | None, shape: Shape, inside: bool) -> Walk:
    for layer in sequence.layers:
        if isinstance(layer, Residual):
            place = yield from _block(layer, place, shape, inside)
            yield None if place is None else place.law()
        elif isinstance(layer, Join):
            for branch in layer.branches:
                yield from _walk(branch, None, shape, inside)
            yield None
            place = None
        elif isinstance(layer, Sequential):
            place = yield from _walk(layer, place, shape, inside)
        else:
            place = None if place is None else _through(layer, place, shape, inside)
            yield None if place is None else place.law()
        shape = output_shape(layer, shape)
    return place


def _through(layer: Any, place: Place, shape: Shape, inside: bool) -> Place | None:
    if isinstance(layer, Dense) and layer.init.distribution != "orthogonal":
        return _dense(layer, place, shape, inside)
    if isinstance(layer, BatchNorm) and layer.training and layer.gamma == 1 and place.plain:
        log_share = _log_share(layer, place)
        return place._replace(log_share=log_share) if log_share > LEAST_SHARE else None
    if isinstance(layer, Activation) and str(layer) == "linear":
        return place
    if isinstance(layer, Activation) and not place.plain and place.phi is None:
        return place._replace(phi=layer)
    return None


def _log_share(layer: BatchNorm, place: Place) -> float:
    """ln of s²/(s² + ε), s² the mean over units of the variance over the batch."""
    u = place.base.mean if place.u is None else place.u.mean
    log_variance = float(u[0]) + math.log(place.share) + math.log1p(-1 / place.batch)
    return -float(np.logaddexp(0.0, math.log(layer.epsilon) - log_variance)) if layer.epsilon else 0.0


def _dense(layer: Dense, place: Place, shape: Shape, inside: bool) -> Place | None:
    bias = layer.bias_variance(shape)
    log_gain = math.log(shape[0]) + math.log(layer.weight_variance(shape))
    y = place.reading()
    u = first_order_streams.dense(y, place.base, log_gain, math.log(bias) if bias else -math.inf)
    share, kernel = place.share, place.kernel
    if place.log_share is not None:
        law = first_order_kernel.sphere(place.phi or _LINEAR, place.batch, place.log_share)
        share, kernel = 1 - law.cosine, kernel.through(law, place.units)
    if kernel.lost:
        return None
    share *= math.exp(min(float(y.mean[0]) + log_gain - float(u.mean[0]), 0.0))
    after = Place(place.base, u, layer.features, place.batch, share, kernel)
    return after if inside else _fresh(after)


def _fresh(place: Place) -> Place:
    """The same units on a base of their own."""
    assert place.u is not None
    own = place.base.weights, place.u.mean, place.u.variance(place.base)
    base = first_order_streams.fresh(place.units * place.batch, *own)
    return place._replace(base=base, u=first_order_streams.itself(base), kernel=place.kernel.settled())


def _block(block: Residual, place: Place | None, shape: Shape, inside: bool) -> Walk:
    start = None if place is None or inside or not place.plain else place._replace(u=None)
    branch = yield from _walk(block.branch, start, shape, inside=True)
    shortcut = yield from _walk(block.shortcut, start, shape, inside=True)
    if start is None or branch is None or shortcut is None or branch.u is None or not branch.plain:
        return None
    identity, base, scale = not block.shortcut.layers, start.base, 2 * math.log(block.scale)
    if not shortcut.plain or (shortcut.u is None and not identity):
        return None
    u = first_order_streams.itself(base) if shortcut.u is None else shortcut.u
    summed = first_order_streams.total(u, branch.u, base, scale)
    p = float(special.expit(branch.u.mean + scale - u.mean)[0])
    share = (1 - p) * shortcut.share + p * branch.share
    centred = p * branch.share / share
    if not identity:
        mixed = shortcut.kernel.mixed(branch.kernel, centred)
        return _fresh(Place(base, summed, branch.units, start.batch, share, mixed))
    log_ratio = base.mean - summed.mean + math.log(start.share / share)
    kernel = start.kernel.continued(branch.kernel, centred, float(np.exp(np.minimum(log_ratio, 0.0))[0]))
    if kernel.lost:
        return None
    own = first_order_streams.continued(base, summed, log_ratio)
    return Place(own, None, start.units, start.batch, share, kernel, start.log_fixed)
