"""Images whose scale varies from one to the next: how they are made, and three ways for a network to meet them.

After A. Borthakur, T. A. Cleland, "Signal conditioning for learning in the wild", NICE 2019: sensors in the wild see
the same thing at concentrations orders of magnitude apart, and each sample is brought to one scale before anything is
learned. Here samples are scikit-learn's digits, each times a gain e^(σ ξ), ξ ~ N(0, 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from bntheory.networks import Sequential

SPREADS = (0.0, 1.0, 2.0, 3.0)  # σ, in nats
TREATMENTS = {"raw": "no normalization", "sample": "each image normalized", "batch": "BN"}
HELD_BACK = 5  # one image in so many is tested on


class Images(NamedTuple):
    """Digits with gains; the first part to learn from, the other to test on.

    Attributes
    ----------
    learn, test : ndarray, (number, 64)
        Standardised images times their gains, over the root mean square of all those to learn from.
    learn_labels, test_labels : ndarray of int64, (number,)
    normals, test_normals : ndarray, (number,)
        ξ of every image.
    """

    learn: np.ndarray
    learn_labels: np.ndarray
    normals: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    test_normals: np.ndarray


def images(spread: float, seed: int = 0) -> Images:
    """Return the digits with gains of ln g ~ N(0, spread²).

    Parameters
    ----------
    spread : float
        σ, at least 0.
    seed : int
        Of ξ, the same for all spreads.

    Returns
    -------
    Images
    """
    from simulations import streams
    from simulations.training.datasets import load

    whole = load("digits")
    pixels = whole.standardised().reshape(len(whole), -1)
    normals = streams.input_stream(streams.root(seed)).standard_normal(len(whole))
    scaled = pixels * np.exp(spread * normals)[:, None]
    learn = np.arange(len(whole)) % HELD_BACK != 0
    scaled /= np.sqrt(np.mean(scaled[learn] ** 2))
    parts = ((scaled[part], whole.labels[part], normals[part]) for part in (learn, ~learn))
    return Images(*(array for part in parts for array in part))


def network(treatment: str, depth: int, width: int, classes: int | None = 10) -> Sequential:
    """Describe a ReLU network with He's weights, and how it meets scales: not at all, image by image, or by BN.

    Parameters
    ----------
    treatment : str
        A key of `TREATMENTS`. Normalization of each image has no ε, so that nothing is left of its scale.
    depth, width : int
    classes : int, optional
        None: no output layer.
    """
    from bntheory.architectures import mlp
    from bntheory.layers import LayerNorm
    from bntheory.networks import Sequential

    net = mlp(depth, width, batch_norm=treatment == "batch", input_width=64, output_width=classes)
    return Sequential((LayerNorm(epsilon=0), *net.layers), (64,)) if treatment == "sample" else net


def relu_moments(covariance: np.ndarray) -> np.ndarray:
    """Return E φ(u) φ(u)ᵀ of φ = ReLU for u ~ N(0, A), entry by entry, for a stack of A.

    E φ(u_i) φ(u_j) = √(a_ii a_jj) [sin θ + (π − θ) cos θ] / 2π,    cos θ = a_ij / √(a_ii a_jj).

    Parameters
    ----------
    covariance : ndarray, (…, B, B)

    Returns
    -------
    ndarray, (…, B, B)

    References
    ----------
    Cho, Saul 2009, "Kernel methods for deep learning", equation 6.

    Examples
    --------
    >>> relu_moments(np.eye(2)).round(6)
    array([[0.5     , 0.159155],
           [0.159155, 0.5     ]])
    """
    root = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    size = root[..., :, None] * root[..., None, :]
    cosine = np.clip(np.divide(covariance, size, out=np.zeros_like(size), where=size > 0), -1, 1)
    angle = np.arccos(cosine)
    return size * (np.sqrt(1 - cosine**2) + (np.pi - angle) * cosine) / (2 * np.pi)


def batch_norm_moments(covariance: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    """Return E φ(y) φ(y)ᵀ of φ = ReLU behind BN over a batch with any covariance, at infinite width.

    Over the batch z ~ N(0, C) in each unit, and u = z − mean ~ N(0, A). With 1/(s² + ε) = B ∫ e^{−t (|u|² + B ε)} dt,
    s² = |u|²/B, a Gaussian times e^{−t|u|²} is a Gaussian again:

        E φ(y) φ(y)ᵀ = B ∫_0^∞ dt e^{−tBε} det(1 + 2tA)^{−1/2} E φ(v) φ(v)ᵀ,    v ~ N(0, A (1 + 2tA)^{−1}).

    Parameters
    ----------
    covariance : ndarray, (B, B)
        C, of inputs of any sizes and angles; not all equal.
    epsilon : float
        Of BN.

    Returns
    -------
    ndarray, (B, B)
        The diagonal holds every input's second moment.

    Notes
    -----
    Trapezoid rule in ln t, where the integrand is analytic up to |Im ln t| < π: the error is of the order of rounding,
    1e-10 relative to the largest entry.

    References
    ----------
    Yang et al. 2019, "A mean field theory of batch normalization" (arXiv:1902.08129), section on Laplace's method.

    Examples
    --------
    >>> sizes = np.diag(batch_norm_moments(np.diag([100.0, 1.0, 1.0, 1.0])))
    >>> sizes.round(3), round(float(sizes.sum()), 4)  # four times a half, whatever the sizes
    (array([1.263, 0.246, 0.246, 0.246]), 2.0)
    """
    batch = len(covariance)
    centred = covariance - covariance.mean(axis=0)
    centred = centred - centred.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh((centred + centred.T) / 2)
    values = np.maximum(values, 0)
    log_t = _nodes(values)
    t = np.exp(log_t)[:, None]
    log_weight = np.log(batch * STEP) + log_t - batch * epsilon * t[:, 0] - 0.5 * np.log1p(2 * t * values).sum(axis=1)
    damped = np.einsum("ik,tk,jk->tij", vectors, values / (1 + 2 * t * values), vectors, optimize=True)
    return np.tensordot(np.exp(log_weight), relu_moments(damped), axes=1)


STEP = 0.5  # of the trapezoid rule in ln t: its error falls as e^{−2π²/step}


def _nodes(values: np.ndarray) -> np.ndarray:
    """ln t from where t |u|² is negligible to where e^{−t|u|²} has a negligible mean."""
    lowest = np.log(1e-14 / values.sum())
    grid = lowest + STEP * np.arange(400)
    log_determinant = 0.5 * np.log1p(2 * np.exp(grid)[:, None] * values).sum(axis=1)
    return grid[log_determinant < 40]


def moments_by_layer(inputs: np.ndarray, depth: int, batch_norm: bool) -> np.ndarray:
    """Return E h hᵀ over the batch after every layer of a ReLU network with He's weights, at infinite width.

    Parameters
    ----------
    inputs : ndarray, (B, units)
    depth : int
    batch_norm : bool

    Returns
    -------
    ndarray, (depth + 1, B, B)
        Means over units; entry 0 is of the inputs.
    """
    layers = [inputs @ inputs.T / inputs.shape[1]]
    for _ in range(depth):
        layers.append((batch_norm_moments if batch_norm else relu_moments)(2 * layers[-1]))
    return np.array(layers)


def effective_share(sizes: np.ndarray) -> np.ndarray:
    """Return (Σ n)² / (B Σ n²): which share of a batch carries it; 1 if all n are equal, 1/B if one has everything.

    For n = g², ln g ~ N(0, σ²), it tends to e^(−4σ²) as the batch grows.

    Parameters
    ----------
    sizes : ndarray, (…, B)
        Squared norms, at least 0.

    Examples
    --------
    >>> effective_share(np.array([1.0, 1.0, 0.0, 0.0]))
    np.float64(0.5)
    """
    relative = sizes / sizes.max(axis=-1, keepdims=True)
    return relative.sum(axis=-1) ** 2 / (relative**2).sum(axis=-1) / sizes.shape[-1]
