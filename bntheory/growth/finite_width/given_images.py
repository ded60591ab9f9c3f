"""Given images are not alike: what the spread of their pairs adds to the fluctuations of the first layers.

The theory of images knows the mean second moments and the mean covariances of a batch. Fluctuations need means of
squares of correlations, which exceed squares of means as long as images differ. The covariances of two points a fixed
shift apart, of one image or of two, are closed under convolutions and activations: they are carried exactly for a
sample of images and shifts, as far as the first sum, pool or normalization. From there on what is left of the excess
fades as layers bring all pairs together, with the slope of the map of correlations, q E φ′(u)φ′(v)/E φ².
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bntheory.activations import Activation
from bntheory.gaussian import homogeneous_product
from bntheory.growth.finite_width import innovations
from bntheory.growth.finite_width.innovations import Blocks
from bntheory.growth.infinite_width import hermite, positions
from bntheory.layers import Conv, Shape

NUMBERS = 2**18  # in all pairs, half of them within images
MOST_SHIFTS = 2**11  # of either kind
FEWEST = 16  # of either kind that a stride must leave
NEGLIGIBLE = 60.0  # of ln q below the least, for points at which all units are 0


class Places(NamedTuple):
    """Where the points of pairs are, (pairs, height, width), as indices into the sizes of all images; which are inside.

    The second points of those that are not are moved to the edge.
    """

    first: np.ndarray
    second: np.ndarray
    inside: np.ndarray


class Pairs(NamedTuple):
    """Covariances of points a shift apart at infinite width, times e^log_scale.

    size : (B, height, width), of points with themselves;
    product : (pairs, height, width), of a point of the first image with that a shift away in the second, 0 if outside;
    images, shifts : (pairs, 2);
    places : of the points.
    """

    size: np.ndarray
    product: np.ndarray
    images: np.ndarray
    shifts: np.ndarray
    places: Places
    log_scale: float

    def convolved(self, layer: Conv, shape: Shape) -> Pairs | None:
        """After a convolution; None if its stride leaves too few shifts."""
        sides, windows = layer.output_shape(shape)[1:], layer.windows(shape)
        strides = np.array([window.stride for window in windows])
        pads = [(window.padding, window.padding) for window in windows]
        kept = np.all((self.shifts % strides == 0) & (np.abs(self.shifts) < strides * np.array(sides)), axis=1)
        within = self.images[:, 0] == self.images[:, 1]
        if min(np.sum(kept & within), np.sum(kept & ~within) if len(self.size) > 1 else FEWEST) < FEWEST:
            return None
        window = list(positions.offsets(windows, sides))
        log_gain = math.log(layer.weight_variance(shape) * (shape[0] // layer.groups)) + self.log_scale
        bias = layer.bias_variance(shape) * math.exp(min(-log_gain, 700.0))

        def summed(maps: np.ndarray) -> np.ndarray:
            padded = np.pad(maps, ((0, 0), *pads))
            total = np.full((len(maps), *sides), bias)
            for place in window:
                total += padded[(slice(None), *place)]
            return total

        images, shifts, places = self.images[kept], self.shifts[kept] // strides, self.places
        if np.any(strides > 1) or sides != self.size.shape[1:]:
            places = _places(len(self.size), sides, images, shifts)
        product = np.where(places.inside, summed(self.product[kept]), 0)
        return Pairs(summed(self.size), product, images, shifts, places, log_gain)._rescaled()

    def activated(self, phi: Activation) -> Pairs:
        """After an activation of Gaussian units."""
        log_q = self._log_q()
        size, scale = positions.linear(_log_second(phi, log_q))
        first, second, inside = self.places
        if phi.homogeneous_slopes is not None:
            a, b = phi.homogeneous_slopes
            product = np.sqrt(size[first] * size[second])
            product *= homogeneous_product((a, b), self.correlation()) * 2 / (a**2 + b**2)
        else:
            q = self.size.ravel()
            apart = np.maximum(q[first] + q[second] - 2 * self.product, 0).ravel()
            log_d = hermite.log_distance(
                phi, log_q, first.ravel(), second.ravel(), positions.log(apart) + self.log_scale
            )
            product = (size[first] + size[second] - np.exp(log_d - scale).reshape(first.shape)) / 2
        product = np.where(inside, product, 0)
        return self._replace(size=size.reshape(self.size.shape), product=product, log_scale=scale)._rescaled()

    def less(self, relative: Blocks, log_q: np.ndarray) -> Pairs:
        """Without covariances that are the same for all images, given over the roots of both second moments."""
        size = np.exp(log_q - self.log_scale)
        root, sides = np.sqrt(size), self.size.shape[1:]
        within, cross = innovations.each(lambda block: block * root[:, None] * root, relative)
        here, there = np.arange(size.size).reshape(1, *sides), self.places.second % size.size
        lost = within[here, there]
        if cross is not None:
            between = (self.images[:, 0] != self.images[:, 1])[:, None, None]
            lost = np.where(between, cross[here, there], lost)
        product = np.where(self.places.inside, self.product - lost, 0)
        return self._replace(size=np.maximum(self.size - np.diagonal(within).reshape(sides), 0), product=product)

    def normalized(self, epsilon: float) -> Pairs:
        """Every image divided by the root of its mean square."""
        mean = self.size.mean(axis=(1, 2)) + epsilon * math.exp(min(-self.log_scale, 700.0))
        mean = np.where(mean > 0, mean, 1)[:, None, None]
        root = np.sqrt(mean)
        product = self.product / (root[self.images[:, 0]] * root[self.images[:, 1]])
        return self._replace(size=self.size / mean, product=product, log_scale=0.0)._rescaled()

    def shift(self, log_q: np.ndarray) -> np.ndarray:
        """Of ln q from that of mean images, log_q, at every point."""
        mean = positions.log(self.size.mean(axis=0).ravel()) + self.log_scale
        return np.subtract(mean, log_q, out=np.zeros_like(log_q), where=np.isfinite(mean) & np.isfinite(log_q))

    def _rescaled(self) -> Pairs:
        top = float(self.size.mean()) or 1.0
        return self._replace(size=self.size / top, product=self.product / top, log_scale=self.log_scale + math.log(top))

    def _log_q(self) -> np.ndarray:
        return positions.log(self.size.ravel()) + self.log_scale

    def correlation(self) -> np.ndarray:
        """Of every pair."""
        root = np.sqrt(self.size.ravel())
        product = root[self.places.first] * root[self.places.second]
        ratio = np.divide(self.product, product, out=np.zeros_like(product), where=product > 0)
        return np.clip(ratio, -1, 1)

    def square_covariance(self, phi: Activation, rest: bool = False) -> np.ndarray:
        """Cov(φ(u)², φ(v)²)/(E φ² E φ²) of every pair, or the rest of it beyond the first two Hermite terms."""
        rho = self.correlation()
        if phi.homogeneous_slopes is not None:
            return innovations.homogeneous_covariance(phi, rho, not rest, rho if rest else None)
        table, total = innovations.square_series(phi, self._log_q()), np.zeros_like(rho)
        for k in range(innovations.TERMS, 0, -1):
            if not rest or k > 2:
                total += table[:, k][self.places.first] * table[:, k][self.places.second]
            total *= rho
        return total

    def excess(self, covariance: np.ndarray, known: Blocks, log_q: np.ndarray) -> np.ndarray:
        """Of the mean over pairs of shares of two points times a covariance, within an image and between two.

        Parameters
        ----------
        covariance : array (pairs, height, width)
        known : pair of arrays (points, points)
            What the mean covariances say of it.
        log_q : array (points,)
            Second moments of points according to them.
        """
        sides = self.size.shape[1:]
        first, second, inside = self.places
        share = self.size.ravel() / (self.size.mean() or 1.0)
        mean, _ = positions.linear(log_q)
        mean = mean / (mean.mean() or 1.0)
        here = np.arange(mean.size).reshape(1, *sides)
        there = second % mean.size
        within = self.images[:, 0] == self.images[:, 1]
        result = np.zeros(2)
        for kind, (chosen, block) in enumerate(((within, known[0]), (~within, known[1]))):
            if block is None or not chosen.any():
                continue
            alike = mean[here] * mean[there[chosen]] * block[here, there[chosen]]
            exact = share[first[chosen]] * share[second[chosen]] * covariance[chosen]
            means = np.sum((exact - alike) * inside[chosen], axis=(1, 2)) / inside[chosen].sum(axis=(1, 2))
            result[kind] = means.mean()
        return result


def start(values: np.ndarray) -> Pairs:
    """Pairs of a given batch, (B, channels, height, width); shifts as often as pairs of points are so far apart."""
    sides = values.shape[2:]
    values = values[:: math.ceil(values.shape[0] * math.prod(sides) / NUMBERS)]  # of very many, some
    batch = len(values)
    scale = float(np.abs(values).max()) or 1.0
    unit = values / scale
    rng = np.random.default_rng(0)
    count = max(FEWEST, min(NUMBERS // (2 * math.prod(sides)), MOST_SHIFTS))
    shifts = rng.integers(sides, size=(2 * count, 2)) - rng.integers(sides, size=(2 * count, 2))
    image = np.arange(2 * count) % batch
    other = (image + rng.integers(1, max(batch, 2), size=2 * count)) % batch
    images = np.stack([image, np.where(np.arange(2 * count) < count, image, other)], axis=1)
    places = _places(batch, sides, images, shifts)
    points = np.moveaxis(unit, 1, -1).reshape(-1, values.shape[1])
    product = np.einsum("nhwc,nhwc->nhw", points[places.first], points[places.second]) / values.shape[1]
    product = np.where(places.inside, product, 0)
    return Pairs(np.mean(unit**2, axis=1), product, images, shifts, places, 2 * math.log(scale))


def _places(batch: int, sides: Shape, images: np.ndarray, shifts: np.ndarray) -> Places:
    index = np.arange(batch * math.prod(sides)).reshape(batch, *sides)
    rows, columns = (np.arange(side) + shift[:, None] for side, shift in zip(sides, shifts.T, strict=True))
    inside = [(there >= 0) & (there < side) for side, there in zip(sides, (rows, columns), strict=True)]
    rows, columns = (np.clip(there, 0, side - 1) for side, there in zip(sides, (rows, columns), strict=True))
    second = index[images[:, 1, None, None], rows[:, :, None], columns[:, None, :]]
    return Places(index[images[:, 0]], second, inside[0][:, :, None] & inside[1][:, None, :])


def _log_second(phi: Activation, log_q: np.ndarray) -> np.ndarray:
    """ln E φ² of many points, of a smooth φ interpolated between those of few."""
    if phi.homogeneous_slopes is not None:
        return np.asarray(phi.log_moments(log_q).log_second)
    finite = np.isfinite(log_q)
    least = log_q[finite].min() if finite.any() else 0.0
    nodes, weights = hermite.interpolation(np.where(finite, log_q, least - NEGLIGIBLE))
    return weights @ np.asarray(phi.log_moments(nodes).log_second)


class Unevenness(NamedTuple):
    """Excess of E ρ² over the mean pair, within an image and between two, and the pairs as long as they are carried."""

    squares: np.ndarray
    pairs: Pairs | None = None

    def faded(self, slope: float) -> Unevenness:
        """After an activation that maps correlations with that slope; E ρ² is at most 1."""
        return Unevenness(np.clip(self.squares * slope**2, -1, 1))

    def signed_excess(self, rho: float) -> np.ndarray:
        """Of E (G(ρ) − 2ρ²); ½ G″(ρ) = 4 (π − arccos ρ)/π."""
        return self.squares * (2 - 4 * math.acos(rho) / math.pi)


ALIKE = Unevenness(np.zeros(2))


def mixed(first: Unevenness, second: Unevenness, share: float) -> Unevenness:
    """Of a sum, to whose second moment the second part contributes that share."""
    return Unevenness(first.squares + share * (second.squares - first.squares))
