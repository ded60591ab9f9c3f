"""Mean products E h_i h_j over units of all pairs of a batch of vectors, of any sizes and angles, at infinite width.

Units are Gaussian over the batch, z ~ N(0, C), as behind random weights. `given_vectors` has the same in
distances.
"""

from __future__ import annotations

import math

import numpy as np

from bntheory import arguments
from bntheory.activations import Activation
from bntheory.gaussian import homogeneous_product
from bntheory.growth.infinite_width import positions
from bntheory.growth.infinite_width.given_vectors import Divided


def activated(phi: Activation, covariance: np.ndarray) -> np.ndarray:
    """Return E φ(z) φ(z)ᵀ for z ~ N(0, C), entry by entry.

    E φ(z_i) φ(z_j) = √(C_ii C_jj) (α β ρ + (α − β)² [sin θ + (π − θ) cos θ]/2π),    ρ = cos θ = C_ij/√(C_ii C_jj)

    Parameters
    ----------
    phi : Activation
        With a slope α on the right of 0 and β on the left: linear, relu or leaky_relu.
    covariance : ndarray, (…, B, B)
        C; a variance may be 0.

    Returns
    -------
    ndarray, (…, B, B)

    Raises
    ------
    ValueError
        For another activation.

    Notes
    -----
    Distances of nearly parallel inputs cancel in these products: use `Activation.log_distance` for them.

    References
    ----------
    Cho, Saul 2009, "Kernel methods for deep learning", equation 6.

    Examples
    --------
    >>> activated(Activation("relu"), np.eye(2)).round(6)
    array([[0.5     , 0.159155],
           [0.159155, 0.5     ]])
    """
    slopes = _slopes(phi)
    root = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    size = root[..., :, None] * root[..., None, :]
    cosine = np.clip(np.divide(covariance, size, out=np.zeros_like(size), where=size > 0), -1, 1)
    return size * homogeneous_product(slopes, cosine)


def normalized_and_activated(phi: Activation, covariance: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
    """Return E φ(y) φ(y)ᵀ behind BN over the batch, y = (z − mean)/√(s² + ε), s² the variance of z over the batch.

    z − mean ~ N(0, A), and 1/(s² + ε) = ∫ e^{−t (s² + ε)} dt. A Gaussian times e^{−t s²} is a Gaussian again:

        E φ(y) φ(y)ᵀ = ∫_0^∞ dt e^{−tε} det(1 + 2tA/B)^{−1/2} E φ(v) φ(v)ᵀ,    v ~ N(0, A (1 + 2tA/B)^{−1})

    Parameters
    ----------
    phi : Activation
        linear (BN by itself), relu or leaky_relu.
    covariance : ndarray, (B, B)
        C.
    epsilon : float
        Of BN, at least 0.

    Returns
    -------
    ndarray, (B, B)

    Raises
    ------
    ValueError
        For another activation or an epsilon out of range, and if epsilon and A are both 0.

    Notes
    -----
    Exact at infinite width; with rounding, 1e-12 relative to the largest entry.

    References
    ----------
    Yang et al. 2019, "A mean field theory of batch normalization" (arXiv:1902.08129), section on Laplace's method.

    Examples
    --------
    >>> sizes = np.diag(normalized_and_activated(Activation("relu"), np.diag([100.0, 1.0, 1.0, 1.0])))
    >>> print(sizes.round(3), round(float(sizes.sum()), 6))  # four times a half, whatever the sizes
    [1.263 0.246 0.246 0.246] 2.0
    """
    slopes, epsilon = _slopes(phi), arguments.number("epsilon", epsilon, at_least=0)
    size = np.diagonal(covariance)
    distance = positions.log(np.maximum(size[:, None] + size - 2 * covariance, 0))
    np.fill_diagonal(distance, -math.inf)
    log_q, log_d = Divided(distance, epsilon).activated(slopes)
    q = np.exp(log_q)
    return (q[:, None] + q - np.exp(log_d)) / 2


def _slopes(phi: Activation) -> tuple[float, float]:
    if phi.homogeneous_slopes is None:
        raise ValueError(f"products of a batch are known for linear, relu and leaky_relu, got {phi}")
    return phi.homogeneous_slopes
