"""Batch normalization over a finite batch, at infinite width, forward and backward.

The pre-activations z_1 … z_B of a unit over the batch are exchangeable Gaussian variables with E (z_i − z_j)² = d, and
units are independent. With s² their population variance,

    y = γ √τ x,    x = (z − mean)/s,    τ = s²/(s² + ε),    s² ~ (d/2) χ²_{B−1} / B  independent of x.

x is uniform on the sphere of radius √B in the B − 1 dimensions orthogonal to 1 = (1 … 1): nothing depends on the
common part of the z. Two of its entries, of correlation −1/(B − 1) = cos α, are seen in the plane in polar coordinates,

    x_1 = R cos θ,  x_2 = R cos(θ − α),   θ uniform,   R = √(B−1) sin χ,   density of χ  ∝ sin χ cos^{B−4} χ.

Gradients g over the batch are exchangeable and independent of the forward pass, because the weights above are fresh:
they are described by t = E ‖g‖² and m = E ⟨g, 1⟩²/B, the part along 1, so 0 ≤ m ≤ t, and m = t/B if uncorrelated.
The maps are linear in (t, m). Through BN, with x/√B a unit vector,

    t_z = E γ²/(s² + ε) [ t − m − (1 − (1−τ)²) E ⟨g, x⟩²/B ],    m_z = 0.

Yang, Pennington, Rao, Sohl-Dickstein, Schoenholz 2019, "A mean field theory of batch normalization"
(arXiv:1902.08129); Santurkar et al. 2018 (arXiv:1805.11604) for the pullback.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from bntheory import arguments
from bntheory.activations import Activation
from bntheory.gaussian import homogeneous_product

LARGEST_GAMMA = 1e6  # of a smooth activation: the quadrature is graded down to 1/γ
LOW = -60.0  # ln of the mean square of y from which φ counts as straight on either side of 0, up to e^{−30}
_SMALL = -14.0  # and from which φ(y_1) − φ(y_2) is taken from φ′, by Gauss's rule: up to (9 e^{−7})⁴/4320 = 2e-12
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_PARTS = 12  # into which panels are cut where φ has kinks other than 0
_BLOCK = 65_536  # nodes that are summed at a time, so that what is made of them stays in the processor's cache
_LEVELS = 3  # panels halve this often towards R = 0 and towards the kinks at y = 0, and more where γ > 1
_REACH = 9.0  # in standard deviations: e^{−40} is left out
_LOG_NEGLIGIBLE = 38.0


class SphereMoments(NamedTuple):
    """Expectations over the sphere, y = √a x."""

    log_second: float  #: ln E φ(y)²
    log_distance: float  #: ln E (φ(y_1) − φ(y_2))²
    slope: float  #: E φ′(y)²
    slope_pair: float  #: E φ′(y_1) φ′(y_2)
    radial: float  #: E φ′(y)² x²
    radial_pair: float  #: E φ′(y_1) φ′(y_2) x_1 x_2


class BatchMoments(NamedTuple):
    """Second moment of an input and mean squared distance of two, in logarithms."""

    log_second: float
    log_distance: float


class Pullback(NamedTuple):
    """Linear maps of a gradient's (t, m) after φ: to (t, m) between BN and φ, and to t before BN, where m = 0."""

    activation: np.ndarray  #: (2, 2): (t, m) between BN and φ is this times (t, m)
    log_scale: float  #: t before BN is e^log_scale (on_total · t + on_mean · m); −inf if it is 0
    on_total: float
    on_mean: float


@lru_cache(maxsize=8192)
def sphere_moments(phi: Activation, batch: float, log_scale: float = 0.0) -> SphereMoments:
    """Return expectations of φ(y) over the sphere, y = √a x, x what BN makes of a batch of B.

    Parameters
    ----------
    phi : Activation
    batch : int or math.inf
        B, at least 2; infinite: x_1 and x_2 are independent standard Gaussian variables.
    log_scale : float
        ln a; −inf gives the limit.

    Returns
    -------
    SphereMoments

    Raises
    ------
    ValueError
        If batch is not an integer of at least 2 nor infinite, or √a is above 1e6 and φ not homogeneous.

    Notes
    -----
    Closed for linear, relu and leaky_relu: Gaussian variables of the same covariance have the same moments, since
    all six are homogeneous of degree 0 or 2. Otherwise Gauss–Legendre panels in (χ, θ) that end at a kink at 0, with a
    relative error below 1e-10, of the sixth moment relative to the fifth; with kinks elsewhere 1e-5 of the first two
    and 1e-3 of the slopes. Below a = e^−60, φ counts as straight on either side of 0.

    References
    ----------
    Yang et al. 2019 (arXiv:1902.08129); Cho, Saul 2009 (relu).

    Examples
    --------
    >>> moments = sphere_moments(Activation("tanh"), 8)
    >>> print(f"{math.exp(moments.log_second):.6f} {moments.slope:.6f}")
    0.420169 0.432523
    """
    _checked_batch(batch)
    if phi.homogeneous_slopes is not None:
        return _straight(phi.homogeneous_slopes, 0.0, batch, log_scale)
    if log_scale < LOW:
        slopes = tuple(float(phi.dphi(side * math.exp(LOW / 2))) for side in (1, -1))
        return _straight(slopes, float(phi.phi(0.0)), batch, log_scale)
    if log_scale > 2 * math.log(LARGEST_GAMMA) + 1e-9:
        raise ValueError(f"gamma must be at most {LARGEST_GAMMA:g} with {phi}, got {math.exp(log_scale / 2):g}")
    return _by_quadrature(phi, batch, log_scale)


def normalized_moments(
    phi: Activation, log_distance: float, batch: float, epsilon: float = 0.0, gamma: float = 1.0
) -> BatchMoments:
    """Return E φ(y)² and E (φ(y_1) − φ(y_2))² after BN over a batch and an activation.

    Parameters
    ----------
    phi : Activation
        The activation after BN; ``Activation("linear")`` for BN by itself.
    log_distance : float
        ln d, d = E (z_1 − z_2)² before BN. The second moment before BN does not matter.
    batch : int or math.inf
        B, at least 2.
    epsilon, gamma : float
        Of BN, at least 0.

    Returns
    -------
    BatchMoments

    Raises
    ------
    ValueError
        If an argument is out of range, or epsilon and d are both 0.

    Notes
    -----
    Exact at infinite width. For ε = 0 nothing depends on d; otherwise the law of s² is integrated by the trapezoid rule
    in ln s², with an error below 1e-12 beside that of `sphere_moments`.

    References
    ----------
    Yang et al. 2019 (arXiv:1902.08129), forward dynamics.

    Examples
    --------
    >>> after = normalized_moments(Activation("relu"), log_distance=3.0, batch=8)
    >>> print(f"{math.exp(after.log_second):.6f} {math.exp(after.log_distance):.6f}")
    0.500000 0.749865
    """
    omega, log_weight, _, log_gamma2 = _scales(log_distance, batch, epsilon, gamma)
    moments = [sphere_moments(phi, batch, log_a) for log_a in (log_gamma2 - np.logaddexp(0, -omega)).tolist()]
    second, distance = np.array([moment[:2] for moment in moments]).T
    return BatchMoments(*(float(np.logaddexp.reduce(log_weight + logs)) for logs in (second, distance)))


def pullback(phi: Activation, log_distance: float, batch: float, epsilon: float = 0.0, gamma: float = 1.0) -> Pullback:
    """Return what BN over a batch and an activation make of a gradient on its way back.

    With (t, m) of the gradient at φ(y), in the notation of `sphere_moments` and κ = 1 − (1−τ)²,

        t_y = t E φ′²,    m_y = t (E φ′² − E φ′_1 φ′_2)/B + m E φ′_1 φ′_2
        t_z = E γ²/(s² + ε) [ t_y − m_y − κ (t (E φ′² x² − E φ′_1 φ′_2 x_1 x_2)/B + m E φ′_1 φ′_2 x_1 x_2) ],    m_z = 0

    Parameters
    ----------
    phi : Activation
        The activation after BN; ``Activation("linear")`` where BN is read by something linear.
    log_distance : float
        ln d, d = E (z_1 − z_2)² before BN.
    batch : int or math.inf
        B, at least 2. Where it is infinite, m is still the finite part along 1.
    epsilon, gamma : float
        Of BN, at least 0.

    Returns
    -------
    Pullback
        For ε = 0: E 1/s² = B/((B−3) d/2), so that ``log_scale`` is infinite at B = 3; at B = 2, y = ±γ whatever z is,
        and the gradient is 0.

    Raises
    ------
    ValueError
        If an argument is out of range, or epsilon and d are both 0.

    Notes
    -----
    Exact at infinite width, for a gradient that is independent of the forward pass. At small B the mean over s² comes
    from rare units: E 1/s⁴ is infinite for B ≤ 5 and ε = 0.

    References
    ----------
    Yang et al. 2019 (arXiv:1902.08129), backward dynamics; Santurkar et al. 2018 (arXiv:1805.11604), theorem 4.1.

    Examples
    --------
    >>> back = pullback(Activation("linear"), math.log(2), batch=8)
    >>> print(f"{math.exp(back.log_scale) * back.on_total:.6f}")  # B (B − 2)/((B − 1)(B − 3))
    1.371429
    """
    omega, log_weight, log_inverse, log_gamma2 = _scales(log_distance, batch, epsilon, gamma)
    moments = [sphere_moments(phi, batch, log_a) for log_a in (log_gamma2 - np.logaddexp(0, -omega)).tolist()]
    slope, slope_pair, radial, radial_pair = np.array([moment[2:] for moment in moments]).T
    weight = np.exp(log_weight)
    activation = np.array([[weight @ slope, 0.0], [weight @ (slope - slope_pair) / batch, weight @ slope_pair]])
    lost = np.exp(-2 * np.logaddexp(0, omega))  # (1 − τ)²
    if batch == 2:  # all that is left is what ε lets through
        on_total, on_mean = lost * (radial - radial_pair) / 2, lost * radial_pair
    else:
        on_total = slope - (slope - slope_pair) / batch - (1 - lost) * (radial - radial_pair) / batch
        on_mean = -slope_pair - (1 - lost) * radial_pair
    log_share = log_weight + log_inverse
    peak = float(log_share.max())
    share = np.exp(np.subtract(log_share, peak, out=np.zeros_like(log_share), where=log_share < peak))
    total, mean = float(share @ on_total), float(share @ on_mean)
    return Pullback(activation, peak + log_gamma2 if gamma and (total or mean) else -math.inf, total, mean)


def growth_rate(phi: Activation, batch: float) -> float:
    """Return the factor by which the squared gradient norm grows per Dense, BN and φ, deep inside a network.

    λ = B/((B−3) D/2) [ E φ′² − (E φ′² − E φ′_1 φ′_2)/B − (E φ′² x² − E φ′_1 φ′_2 x_1 x_2)/B ]

    with D = E (φ(x_1) − φ(x_2))²: the weights' variance cancels.

    Parameters
    ----------
    phi : Activation
    batch : int or math.inf
        B, at least 2.

    Returns
    -------
    float
        Infinite at B = 3; 0 at B = 2, where BN lets no gradient through.

    Raises
    ------
    ValueError
        If batch is not an integer of at least 2 nor infinite.

    Notes
    -----
    Infinite width, ε = 0, γ = 1. Linear: (B − 2)/(B − 3); ReLU, B → ∞: π/(π − 1).

    References
    ----------
    Yang et al. 2019 (arXiv:1902.08129), gradient explosion.

    Examples
    --------
    >>> print(round(growth_rate(Activation("relu"), 8), 5), round(growth_rate(Activation("linear"), 8), 5))
    1.78819 1.2
    """
    back = pullback(phi, sphere_moments(phi, batch).log_distance, batch)
    return back.on_total * math.exp(back.log_scale) if back.on_total else 0.0


def _scales(
    log_distance: float, batch: float, epsilon: float, gamma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The law of s² on nodes: ω = ln(s²/ε), ln of the weights, ln E[1/(s² + ε)] at the node; and ln γ².

    The nodes are multiples of a step that depends on B alone, so that different d meet the same τ = 1/(1 + e^{−ω}).
    """
    _checked_batch(batch)
    epsilon = arguments.number("epsilon", epsilon, at_least=0)
    gamma = arguments.number("gamma", gamma, at_least=0)
    if math.isnan(log_distance) or log_distance == math.inf:
        raise ValueError(f"log_distance must be a number below infinity, got {log_distance!r}")
    log_gamma2 = 2 * math.log(gamma) if gamma else -math.inf
    log_variance = log_distance - math.log(2)
    if epsilon == 0:
        if log_distance == -math.inf:
            raise ValueError("BatchNorm with epsilon=0 divides by zero: log_distance must be above -inf, got -inf")
        log_inverse = (math.inf if batch <= 3 else -math.log1p(-3 / batch)) - log_variance
        return np.array([math.inf]), np.zeros(1), np.array([log_inverse]), log_gamma2
    log_epsilon = math.log(epsilon)
    if batch == math.inf or log_distance == -math.inf:
        omega, log_weight = np.array([log_variance - log_epsilon]), np.zeros(1)
    else:
        omega, log_weight = _chi_square(batch - 1, log_variance + math.log1p(-1 / batch) - log_epsilon)
    return omega, log_weight, -log_epsilon - np.logaddexp(0, omega), log_gamma2


def _chi_square(freedom: float, centre: float) -> tuple[np.ndarray, np.ndarray]:
    """Trapezoid rule for ω = centre + ℓ, e^ℓ ~ χ²_k/k: analytic for |Im ℓ| < π/2, and near a Gaussian at large k.

    The nodes reach down to where nothing is left of the law, nor of the law times 1/(s² + ε), which falls as
    e^{ℓ(k/2 − 1)} while s² > ε and as e^{ℓk/2} below.
    """
    spread = math.sqrt(2 / freedom)
    step = min(0.22, 0.6 * spread)
    above_epsilon = -2 * _LOG_NEGLIGIBLE / (freedom - 2) if freedom > 2 else -math.inf
    lowest = max(above_epsilon, min(0.0, -centre) - 2 * _LOG_NEGLIGIBLE / freedom) - _REACH * spread
    highest = min(_REACH * spread, math.log(6 + 4 * _LOG_NEGLIGIBLE / freedom))
    omega = step * np.arange(math.floor((centre + lowest) / step), math.ceil((centre + highest) / step) + 1)
    ell = omega - centre
    log_weight = freedom / 2 * (ell - np.expm1(ell))
    return omega, log_weight - np.logaddexp.reduce(log_weight)


def _straight(slopes: tuple[float, ...], origin: float, batch: float, log_scale: float) -> SphereMoments:
    """φ(y) = φ(0) + α max(y, 0) + β min(y, 0), from the orthant probability P and E x_1 x_2 over the orthant."""
    alpha, beta = slopes
    cosine = -1 / (batch - 1)
    angle = math.acos(cosine)
    both = (math.pi - angle) / (2 * math.pi)
    slope = (alpha**2 + beta**2) / 2
    slope_pair = (alpha - beta) ** 2 * both + alpha * beta
    radial_pair = float(homogeneous_product((alpha, beta), cosine))
    log_second = 2 * _log(abs(origin)) if origin else log_scale + _log(slope)
    return SphereMoments(log_second, log_scale + _log(2 * (slope - radial_pair)), slope, slope_pair, slope, radial_pair)


def _by_quadrature(phi: Activation, batch: float, log_scale: float) -> SphereMoments:
    levels = _LEVELS + max(0, math.ceil(log_scale / (2 * math.log(2))))
    nodes = _pairs(batch, levels, _PARTS if phi.kinks else 1)
    blocks = ([column[at : at + _BLOCK] for column in nodes] for at in range(0, len(nodes[0]), _BLOCK))
    second, distance, *slopes = np.sum([_expectations(phi, log_scale, *block) for block in blocks], axis=0).tolist()
    return SphereMoments(_log(second), _log(distance), *slopes)


def _expectations(
    phi: Activation, log_scale: float, x1: np.ndarray, x2: np.ndarray, weight: np.ndarray
) -> tuple[float, ...]:
    """The share of these nodes in the six expectations, not their logarithms."""
    root = math.exp(log_scale / 2)
    h1, h2 = phi.phi(root * x1), phi.phi(root * x2)
    f1, f2 = phi.dphi(root * x1), phi.dphi(root * x2)
    square1, square2, product = f1**2, f2**2, f1 * f2
    difference = h1 - h2 if log_scale > _SMALL else _rise(phi, root * x1) - _rise(phi, root * x2)
    return (
        float(weight @ (h1**2 + h2**2)) / 2,
        float(weight @ difference**2),
        float(weight @ (square1 + square2)) / 2,
        float(weight @ product),
        float(weight @ (square1 * x1**2 + square2 * x2**2)) / 2,
        float(weight @ (product * x1 * x2)),
    )


def _rise(phi: Activation, y: np.ndarray) -> np.ndarray:
    """φ(y) − φ(0) for small y, free of the rounding of φ(0), by the two-point Gauss rule."""
    inner = 0.5 - 0.5 / math.sqrt(3)
    return y / 2 * (phi.dphi(inner * y) + phi.dphi((1 - inner) * y))


@lru_cache(maxsize=64)
def _pairs(batch: float, levels: int, parts: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes (x_1, x_2) and weights for functions that are symmetric in x_1 and x_2.

    The angle is counted from the ray x_1 = 0, to either side, as far as the axes of symmetry x_1 = ±x_2. That quarter
    turn and its image under x → −x stand for the whole.
    """
    if batch == 2:
        return np.ones(1), -np.ones(1), np.ones(1)
    radius, radius_weight = _radii(batch, levels, parts)
    angle = math.acos(-1 / (batch - 1))
    outer, outer_weight = _graded(math.pi / 2 - angle / 2, levels, parts)
    inner, inner_weight = _graded(angle / 2, levels, parts)
    first = np.concatenate([np.sin(outer), -np.sin(inner)])
    second = np.concatenate([np.sin(angle + outer), np.sin(angle - inner)])
    x1, x2 = np.outer(radius, first).ravel(), np.outer(radius, second).ravel()
    weight = np.outer(radius_weight, np.concatenate([outer_weight, inner_weight]) / math.pi).ravel()
    return np.concatenate([x1, -x1]), np.concatenate([x2, -x2]), np.concatenate([weight, weight])


def _radii(batch: float, levels: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """The law of R: fixed at B = 3, R e^{−R²/2} for an infinite batch."""
    if batch == 3:
        return np.array([math.sqrt(2)]), np.ones(1)
    if batch == math.inf:
        radius, weight = _graded(_REACH, levels, parts)
        weight = weight * radius * np.exp(-(radius**2) / 2)
    else:
        chi, weight = _graded(min(math.pi / 2, _REACH / math.sqrt(max(batch - 4, 1))), levels, parts)
        sine = np.sin(chi)
        radius = math.sqrt(batch - 1) * sine
        weight = weight * sine * np.exp((batch - 4) / 2 * np.log1p(-(sine**2)))
    return radius, weight / weight.sum()


def _graded(length: float, levels: int, parts: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre panels on (0, length) that halve towards 0, each cut into parts."""
    edges = length * np.concatenate([[0.0], 2.0 ** np.arange(-levels, 1)])
    edges = np.interp(np.arange(parts * (len(edges) - 1) + 1) / parts, np.arange(len(edges)), edges)
    width = np.diff(edges)[:, None]
    return (edges[:-1, None] + width * (_NODES + 1) / 2).ravel(), (width * _WEIGHTS / 2).ravel()


def _checked_batch(batch: float) -> None:
    if batch != math.inf:
        arguments.integer("batch", batch, at_least=2)


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf
