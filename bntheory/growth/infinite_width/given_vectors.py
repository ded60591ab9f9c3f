"""Given vectors behind a BatchNorm at infinite width, pair by pair: of unequal sizes, and at any angles.

Units are Gaussian over the batch, z ~ N(0, C), as behind random weights. Let z − mean ~ N(0, A), and s² be the variance
of z over the batch. 1/(s² + ε) = ∫ e^{−t (s² + ε)} dt, and a Gaussian times e^{−t s²} is a Gaussian again:

    E f(z − mean)/(s² + ε)^k = ∫_0^∞ dt t^{k−1}/(k−1)! e^{−tε} det(1 + 2tA/B)^{−1/2} E f(v),    v ~ N(0, A_t)

with A_t = A (1 + 2tA/B)^{−1}: a mode that is large makes s² large, and gains less than A/(E s² + ε) says. The integral
is a trapezoid rule in u, t = e^{u − e^{−u}}, dense where t is large, since few modes leave powers of t there, and
with few nodes where t is small. It errs by less than 1e-12. `batch_norm` has the law of inputs that are all alike,
`batch_modes` that of images.

Yang et al. 2019, "A mean field theory of batch normalization" (arXiv:1902.08129), section on Laplace's method.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bntheory.growth.infinite_width import given_pairs, positions
from bntheory.growth.infinite_width.state import State, log_mean
from bntheory.layers import BatchNorm, Shape

MOST_VECTORS = 128  # of a batch, whose pairs take some hundredths of a second a layer
STEP = 0.25
_NODES = np.arange(-3.75, 100, STEP)
TIMES = np.exp(_NODES - np.exp(-_NODES))  # t
LOG_WEIGHTS = np.log(STEP * TIMES * (1 + np.exp(-_NODES)))
NEGLIGIBLE = 40.0  # of logarithms of weights, below the largest
ROUNDING = 4e-16  # of modes of correlations, for every input
MOST_APART = 1e14  # largest size over the smallest but one: rounding cannot tell two smaller inputs apart


class Moments(NamedTuple):
    """ln E h² of every input, (B,), and ln E (h − h')² of every pair, (B, B)."""

    log_q: np.ndarray
    log_d: np.ndarray


@dataclass(frozen=True, eq=False)
class Divided:
    """Units over a batch of vectors, as a BatchNorm divides them.

    Distances below 1e-7 of the sizes of their inputs keep their size behind BN, but for a factor of order 1.

    Attributes
    ----------
    log_d : ndarray, (B, B)
        ln E (z_i − z_j)² before BN.
    epsilon : float
        Of BN.
    log_gain : float
        ln of the square by which all is multiplied after it.
    """

    log_d: np.ndarray
    epsilon: float = 0.0
    log_gain: float = 0.0

    @functools.cached_property
    def log_variance(self) -> float:
        """ln E s², over which z² is taken below."""
        return log_mean(self.log_d) - math.log(2)

    @functools.cached_property
    def log_scale(self) -> float:
        """ln (E s² + ε), over which s² and ε are taken; ValueError if it is 0."""
        log_scale = float(np.logaddexp(self.log_variance, self._log_epsilon))
        if log_scale == -math.inf:
            raise ValueError("BatchNorm with epsilon=0 divides by zero: all inputs of the batch look the same here")
        return log_scale

    @functools.cached_property
    def share(self) -> float:
        """E s²/(E s² + ε)."""
        return math.exp(self.log_variance - self.log_scale)

    @functools.cached_property
    def modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues of A/B, of sum 1, and the axes, (B, modes): a mode fewer than there are different inputs."""
        log_d = self._relative
        distinct, copies = np.unique(np.isneginf(log_d).argmax(axis=1), return_inverse=True)
        factor = _root(np.exp(log_d[np.ix_(distinct, distinct)]))[copies]
        axes, size, _ = np.linalg.svd(factor - factor.mean(axis=0), full_matrices=False)
        rank = len(distinct) - 1
        return size[:rank] ** 2 / len(log_d), axes[:, :rank]

    @functools.cached_property
    def log_weights(self) -> np.ndarray:
        """Of E 1/(s² + ε), at all `TIMES`."""
        damping = np.log1p(2 * self.share * np.multiply.outer(TIMES, self.modes[0])).sum(axis=1) / 2
        return LOG_WEIGHTS - math.exp(self._log_epsilon - self.log_scale) * TIMES - damping

    @property
    def _relative(self) -> np.ndarray:
        """ln of distances over E s²; of inputs that are all equal, as they are."""
        return self.log_d - self.log_variance if math.isfinite(self.log_variance) else self.log_d

    @property
    def _log_epsilon(self) -> float:
        return math.log(self.epsilon) if self.epsilon else -math.inf

    def damped(self, times: np.ndarray) -> np.ndarray:
        """Eigenvalues of A_t, (times, modes)."""
        modes = self.modes[0]
        return len(self.log_d) * modes / (1 + 2 * self.share * np.multiply.outer(times, modes))

    def activated(self, slopes: tuple[float, float]) -> Moments:
        """Moments of φ(y), φ with one slope on the right of 0 and one on the left; equal slopes: of y itself.

        Distances of v, and of φ of it, are integrated by themselves. Time and memory are those of B³ numbers.
        """
        damped, (_, axes), (first, second) = self.damped(TIMES), self.modes, np.triu_indices(len(self.log_d), 1)
        log_share = self.log_weights + positions.log(damped.sum(axis=1))
        kept = log_share >= log_share.max() - NEGLIGIBLE
        damped, weight = damped[kept], np.exp(self.log_weights[kept])
        squares, apart = axes.T**2, (axes[first] - axes[second]).T ** 2
        a, b = slopes
        q, d = ((a**2 + b**2) / 2 * (weight @ damped @ each) for each in (squares, apart))
        if a != b:
            root = np.sqrt(damped @ squares)
            bend = given_pairs.bend(damped @ apart, root[:, first], root[:, second])
            d = np.maximum(d - (a - b) ** 2 / math.pi * (weight @ bend), 0)
        log_d = np.full_like(self.log_d, -math.inf)
        log_d[first, second] = positions.log(d) + self._off(first, second, apart)
        log_gain = self.log_variance - self.log_scale + self.log_gain
        return Moments(positions.log(q) + log_gain, np.maximum(log_d, log_d.T) + log_gain)

    def _off(self, first: np.ndarray, second: np.ndarray, apart: np.ndarray) -> np.ndarray:
        """By how much distances are above those of the modes: small ones are known better than they are there."""
        known = self._relative[first, second]
        found = positions.log(self.damped(np.zeros(1))[0] @ apart)
        return np.subtract(known, found, out=np.zeros_like(known), where=np.isfinite(known) & np.isfinite(found))


def divided(layer: BatchNorm, state: State, shape: Shape) -> Divided | None:
    """What a BatchNorm of Gaussian units divides; None unless over given vectors, and not too many of them.

    Nor if it reads another one, whose variances are all the same. ValueError if two are smaller than another by more
    than 1e14.
    """
    given = len(shape) == 1 and state.copies == 1 and 1 < state.points <= MOST_VECTORS
    known = state.gaussian and state.divided is None and not (state.mixed or state.apart)
    if not given or not known or state.log_d is None:
        return None
    sizes = np.sort(state.log_q)[1:] / 2
    apart = float(sizes[-1] - sizes[np.isfinite(sizes)][0]) if math.isfinite(sizes[-1]) else 0.0
    if apart > math.log(MOST_APART):
        raise ValueError(
            f"inputs of a BatchNorm must not be smaller than the largest by more than a factor {MOST_APART:.0e}, all "
            f"but one, got a factor 10^{apart / math.log(10):.4g}: scale them alike, or normalize each before"
        )
    return Divided(state.log_d, layer.epsilon, 2 * math.log(layer.gamma) if layer.gamma else -math.inf)


def _root(distance: np.ndarray) -> np.ndarray:
    """F, (B, modes), with distances |F_i − F_j|², from the input that is nearest to most: small rows keep their digits.

    >>> factor = _root(np.array([[0.0, 1.0, 1e20], [1.0, 0.0, 1e20], [1e20, 1e20, 0.0]]))
    >>> ((factor[:2] - factor[0]) ** 2).sum(axis=1)
    array([0., 1.])
    """
    near = distance[np.median(distance, axis=0).argmin()]
    root = np.sqrt(near)
    size = 2 * np.multiply.outer(root, root)
    products = near[:, None] + near - distance
    modes, axes = np.linalg.eigh(np.divide(products, size, out=np.zeros_like(size), where=size > 0))
    return root[:, None] * axes * np.sqrt(np.where(modes > ROUNDING * len(modes), modes, 0))
