"""What BatchNorm and φ make of a batch's kernel, and how its fluctuations go on: averages over a sphere.

After BN a unit ĥ is uniform on the sphere of radius √B in B − 1 dimensions. Of the centred kernel C, relative to its
mean, the trace-free fluctuations are of two kinds under permutations of the batch: P diag(ε) P, the inputs' scales, and
the rest, their angles. Each is mapped by a number of its own, and gets fresh noise from n units, so that its variance
settles at noise/(1 − λ²):

    λ_W = (d/2B) E[φ̃ᵀWφ̃ · ĥᵀWĥ] / (‖W‖² s_c),   d = B − 1,   φ̃ = φ − mean over the batch,   s_c = E|φ̃|²/d

for any W of the kind. λ = (B − 1)/(B + 1) for both if φ is linear. Scales are nearly conserved by ReLU (λ → 1 for large
batches), and unstable with gelu at batches above about 64: there the kernel does not stay exchangeable.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from scipy import special

from bntheory.activations import Activation
from bntheory.growth.finite_width.first_order_tables import squares

_LARGE = 512  # batch from which 1/B is small enough for an expansion
_PANEL, _RULE = np.polynomial.legendre.leggauss(48)
_GAUSS, _GAUSS_WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_MOST_UNEVEN = 0.7  # variance of ln scale, beyond which inputs of one batch are no longer alike


class Sphere(NamedTuple):
    """φ of a unit that is uniform on the sphere.

    log_second : ln E φ².   cosine : E φ(h_1)φ(h_2)/E φ².   spread : Var M/(E M)².   scale_gain, angle_gain : λ.
    scale_noise : n times the relative variance that C's diagonal gets.
    """

    log_second: float
    cosine: float
    spread: float
    scale_gain: float
    angle_gain: float
    scale_noise: float


@functools.lru_cache(maxsize=1024)
def sphere(phi: Activation, batch: float, log_share: float) -> Sphere:
    """Averages of φ on the sphere of radius √(B e^log_share).

    Parameters
    ----------
    phi : Activation
    batch : float
        B ≥ 4, may be infinite.
    log_share : float
        ln of the mean square that BatchNorm leaves.

    Returns
    -------
    Sphere

    References
    ----------
    Yang et al. 2019, "A mean field theory of batch normalization", sections 3 and 4.

    Examples
    --------
    >>> from bntheory import activation
    >>> law = sphere(activation("relu"), 8, 0.0)
    >>> print(f"{math.exp(law.log_second):.6f} {law.scale_gain:.4f} {law.angle_gain:.4f}")
    0.500000 0.7436 0.5386
    """
    size = min(batch, _LARGE)
    one, two, weights = _pairs(size)
    root = math.exp(log_share / 2)
    first, second = (np.asarray(phi.phi(root * h), dtype=float) for h in (one, two))
    mean = float(weights @ first**2)
    first, second = first / math.sqrt(mean), second / math.sqrt(mean)
    product = float(weights @ (first * second))
    square, cross = float(weights @ first**4) - 1, float(weights @ (first**2 * second**2)) - 1
    gains = _gains(first, second, one, two, weights, size)
    centre = float(weights @ first)
    variance = max(1 - centre**2, 1e-300)
    noise = float(weights @ (first - centre) ** 4) / variance**2 - 1
    if batch <= _LARGE:
        spread = max(square / size + (1 - 1 / size) * cross, 0.0)
        return Sphere(math.log(mean), product, spread, *gains, noise)
    log_second, b = _expanded(phi, batch, log_share)
    return Sphere(log_second, centre**2, float(b[2:] @ b[2:]) / batch, *gains, noise)


def _expanded(phi: Activation, batch: float, log_share: float) -> tuple[float, np.ndarray]:
    """ln E φ² to first order in 1/B, of the kurtosis 3 − 6/B, and b_k."""
    at = squares(phi).size(np.full(1, log_share))
    shift = (at.curvature + at.slope**2 - at.slope) / batch
    return float((at.value - shift)[0]), squares(phi).hermite(np.full(1, log_share))[0][0]


def _gains(
    first: np.ndarray, second: np.ndarray, one: np.ndarray, two: np.ndarray, weights: np.ndarray, size: float
) -> tuple[float, float]:
    """λ of scales and of angles; the latter from Σ_W (φ̃ᵀWφ̃)(ĥᵀWĥ) = (φ̃·ĥ)² over all W of norm 1."""
    d, alone = size - 1, 1 / size
    square, product = float(weights @ first**2), float(weights @ (first * second))
    total = size * (1 - alone) * (square - product)  # E|φ̃|²
    excess = one**2 - 1
    own, pair = float(weights @ (first**2 * excess)), float(weights @ (first * second * excess))
    pattern = (1 - 2 * alone) * own - 2 * (1 - alone) * pair
    scale = 0.5 * d**2 / size * pattern / ((1 - 2 * alone) * (1 - alone) * total)
    overlap = size * float(weights @ (first * one) ** 2) + size * d * float(weights @ (first * second * one * two))
    angles = size * (size - 3) / 2
    unit = 2 * size / d * total / d  # of λ, per pattern
    return scale, (overlap - size / d * total - d * scale * unit) / (angles * unit)


@functools.lru_cache(maxsize=32)
def _pairs(batch: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes (h_1, h_2) and weights: h_1 = √(B−1) sin θ, h_2 from θ and a second angle; panels end where one is 0."""
    rho = -1 / (batch - 1)
    theta, outer = (part[0] for part in _angles(np.zeros(1), batch - 3))
    side = math.sqrt(1 - rho**2) * np.cos(theta)
    psi, inner = _angles(np.arcsin(np.clip(-rho * np.sin(theta) / side, -1, 1)), batch - 4)
    two = rho * np.sin(theta)[:, None] + side[:, None] * np.sin(psi)
    one = np.broadcast_to(np.sin(theta)[:, None], two.shape)
    radius = math.sqrt(batch - 1)
    return radius * one.ravel(), radius * two.ravel(), (outer[:, None] * inner).ravel()


def _angles(kinks: np.ndarray, power: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the density ∝ cos^power on (−π/2, π/2), two panels that meet at a kink, a row for each."""
    end = min(math.pi / 2, 9 / math.sqrt(power + 1))
    kinks = np.clip(kinks, -end, end)[:, None]
    low, high = (kinks + end) / 2, (end - kinks) / 2
    angles = np.concatenate([low * (_PANEL + 1) - end, kinks + high * (_PANEL + 1)], axis=1)
    weights = np.concatenate([low * _RULE, high * _RULE], axis=1) * np.cos(angles) ** power
    return angles, weights / weights.sum(axis=1, keepdims=True)


@functools.lru_cache(maxsize=1024)
def kept(degrees: float, log_share: float) -> tuple[float, float]:
    """ln E f and Var f/(E f)² of what BN leaves of a unit, f = s²/(s² + ε), s² a multiple of χ² of so many degrees.

    log_share : ln f at the mean of s². By 1024 quantiles of χ².
    """
    if log_share == 0:
        return 0.0, 0.0
    epsilon, levels = math.expm1(-log_share), (np.arange(1024) + 0.5) / 1024
    s2 = special.gammaincinv(degrees / 2, levels) * 2 / degrees if degrees < 1e12 else np.ones(1)
    lost = epsilon / (s2 + epsilon)
    return math.log1p(-float(lost.mean())), float(lost.var()) / (1 - float(lost.mean())) ** 2


class Kernel(NamedTuple):
    """Fluctuation of the centred kernel C, relative to its mean.

    variance : of ln of an input's scale, and of the angles: E‖δC‖²/(tr C)² without the scales'.
    memory : covariance with the noise that the units now at hand will add once more along a residual network.
    gain, noise : of what was done since the units were Gaussian.   crossed : 1/n of the last units, 0 for given inputs.
    """

    batch: float
    variance: np.ndarray
    memory: np.ndarray
    gain: np.ndarray
    noise: np.ndarray
    crossed: float = 0.0

    @property
    def size(self) -> float:
        """tr C²/(tr C)²."""
        d = max(self.batch - 1, 1.0)
        scales = self.variance[0] / d * self.batch / d if self.batch < math.inf else 0.0
        return 1 / d + scales + float(self.variance[1])

    @property
    def lost(self) -> bool:
        """Whether the kernel is far from exchangeable."""
        return bool(self.variance[0] > _MOST_UNEVEN or self.size > 0.5)

    def concentration(self, share: float) -> float:
        """tr K²/(tr K)² for K = q [s 1 + (1 − s) 11ᵀ] and its fluctuation."""
        centred = share * (1 - 1 / self.batch)
        return centred**2 * self.size + (1 - centred) ** 2 + 2 * centred * (1 - centred) * self.crossed

    def through(self, law: Sphere, units: int) -> Kernel:
        """After BN, φ and Dense."""
        gain = np.array([law.scale_gain, law.angle_gain])
        d = max(self.batch - 1, 1.0)
        scales = law.scale_noise / units
        noise = np.array([scales, max(1 - 1 / d, 0.0) / units - (scales / d if d < math.inf else 0.0)])
        noise = np.maximum(noise, 0.0)
        moved = self._replace(gain=self.gain * gain, noise=gain**2 * self.noise + noise, crossed=1 / units)
        return moved._replace(variance=gain**2 * self.variance + noise)

    def settled(self) -> Kernel:
        """The same, of fresh units."""
        return self._replace(memory=np.zeros(2), gain=np.ones(2), noise=np.zeros(2))

    def mixed(self, branch: Kernel, share: float) -> Kernel:
        """The sum with an independent branch whose part of C is `share`."""
        variance = (1 - share) ** 2 * self.variance + share**2 * branch.variance
        return self._replace(variance=variance + 2 * share * (1 - share) * np.sqrt(self.variance * branch.variance))

    def continued(self, branch: Kernel, share: float, kept: float) -> Kernel:
        """After a residual block: δ' = (1 − p + p λ) δ + p η, η the noise of units that keep r² = `kept` of it."""
        gain = 1 - share + share * branch.gain
        variance = gain**2 * self.variance + 2 * gain * share * self.memory + share**2 * branch.noise
        memory = kept * (gain * self.memory + share * branch.noise)
        return self.settled()._replace(variance=variance, memory=memory, crossed=branch.crossed)


def still(batch: float) -> Kernel:
    """Of a batch of given, uncorrelated inputs."""
    return Kernel(batch, np.zeros(2), np.zeros(2), np.ones(2), np.zeros(2))


def sizes(phi: Activation, kernel: Kernel, log_share: float) -> tuple[float, float]:
    """ln E M and Var M/(E M)² over a batch with that kernel.

    Angles leave a sphere of fewer dimensions, 1/size; scales make its inputs uneven, h_b = σ_b g_b. Of M only what BN
    leaves fluctuates: not what is proportional to Σ σ_b g_b or Σ σ_b² g_b².
    """
    law = sphere(phi, kernel.batch, log_share)
    scale = kernel.variance[0]
    log_second = _shrunk(phi, kernel, log_share)
    if scale == 0:
        return log_second, law.spread
    u = log_share + math.sqrt(scale) * _GAUSS - scale / 2
    weights = _GAUSS_WEIGHTS / _GAUSS_WEIGHTS.sum()
    base, b = squares(phi).size(np.full(1, log_share)), squares(phi).hermite(u)[0]
    f = np.exp(squares(phi).size(u).value - base.value)
    even, uneven = squares(phi).hermite(np.full(1, log_share))[0][0], f[:, None] * b
    sigma = np.exp((u - log_share) / 2)
    total = float(np.sum(weights @ uneven**2))
    for k in (1, 2):
        total -= float(weights @ (uneven[:, k - 1] * sigma**k)) ** 2 / float(weights @ sigma ** (2 * k))
    mean = float(weights @ f)
    ratio = max(total, 0.0) / mean**2 / max(float(even[2:] @ even[2:]), 1e-300)
    return log_second + math.log(mean), law.spread * ratio


def _shrunk(phi: Activation, kernel: Kernel, log_share: float) -> float:
    """ln E φ² on a sphere of as many dimensions as give ĥ its kurtosis.

    With E s⁻⁴ = ∫ t e^{−t s²} dt the kurtosis is 3/(1 + 2/d) for equal eigenvalues, and for unequal ones, to first
    order in y = d tr C²/(tr C)² − 1, less by 6 y d/((d + 4)(d + 6)).
    """
    d = kernel.batch - 1
    shrinking = (d + 2) ** 2 / ((d + 4) * (d + 6)) if d < math.inf else 1.0
    batch = 1 + 1 / (1 / d + (kernel.size - 1 / d) * shrinking) if kernel.size > 0 else math.inf
    if batch > _LARGE:
        return _expanded(phi, batch, log_share)[0]
    theta, weights = (part[0] for part in _angles(np.zeros(1), max(batch - 3, 0.0)))
    h = math.exp(log_share / 2) * math.sqrt(batch - 1) * np.sin(theta)
    return math.log(float(weights @ np.asarray(phi.phi(h), dtype=float) ** 2))
