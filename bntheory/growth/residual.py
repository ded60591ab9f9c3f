"""Residual networks with batch normalization: the reflected random walk and Spitzer's closed form.

In a version-1 block with a batch-normalized branch, x' = max(0, x + g) per channel with g ~ N(0, 1) independent of x.
The stem gives max(0, g): after n − 1 blocks x is the reflected walk W_n. After a batch-normalized projection it starts
anew from max(0, √2 g), because shortcut and branch both have variance 1.
"""

from __future__ import annotations

import math

import numpy as np

from bntheory import arguments


def reflected_walk_moments(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and second moment of W_n = max(0, W_{n−1} + g_n), W_0 = 0, for n = 0 … steps.

    Spitzer's identity: E W_n = Σ_{k≤n} E S_k⁺ / k = Σ_{k≤n} 1/√(2πk), and
    E W_n² = n/2 + (1/2π) Σ_{j,k≥1, j+k≤n} 1/√(jk).

    Parameters
    ----------
    steps : int
        At least 0.

    Returns
    -------
    mean, second_moment : arrays (steps + 1,)

    Raises
    ------
    ValueError
        If steps is negative or not an integer.

    References
    ----------
    Spitzer 1956, "A combinatorial lemma and its application to probability theory", theorem 3.

    Examples
    --------
    >>> mean, second = reflected_walk_moments(15)
    >>> print(np.log(np.sqrt(second - mean**2)[[3, 9, 15]]).round(3))
    [0.026 0.585 0.843]
    """
    steps = arguments.integer("steps", steps, at_least=0)
    k = np.arange(1, steps + 1)
    root = 1 / np.sqrt(k)
    mean = np.concatenate([[0.0], np.cumsum(root) / math.sqrt(2 * math.pi)])
    pairs = np.convolve(root, root)[: steps - 1] if steps else root  # Σ_{j+k=m} for m = 2 … steps
    double_sum = np.concatenate([[0.0, 0.0], np.cumsum(pairs)])[: steps + 1]
    return mean, np.arange(steps + 1) / 2 + double_sum / (2 * math.pi)


def walk_moments(steps: int, first_variance: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and second moment of the walk x_1 = max(0, √v g_1), x_n = max(0, x_{n−1} + g_n), for n = 1 … steps.

    The law is an atom at 0 and a density on (0, ∞), f_n(x) = P(x_{n−1} = 0) N(x) + ∫ f_{n−1}(y) N(x − y) dy, carried on
    Gauss-Legendre panels; for v = 1 it is Spitzer's walk (`reflected_walk_moments`), for v = 2 the walk after a
    batch-normalized projection.

    Parameters
    ----------
    steps : int
        At least 1.
    first_variance : float
        v > 0.

    Returns
    -------
    mean, second_moment : arrays (steps,)

    Raises
    ------
    ValueError
        If steps is below 1 or first_variance not positive.

    Examples
    --------
    >>> mean, second = walk_moments(14, first_variance=2.0)
    >>> print(np.log(np.sqrt(second - mean**2)[[1, 7, 13]]).round(3))
    [-0.001  0.57   0.834]
    """
    steps = arguments.integer("steps", steps)
    first_variance = arguments.number("first_variance", first_variance, above=0)
    width = min(1.0, math.sqrt(first_variance))
    panels = math.ceil(9 * math.sqrt(steps - 1 + first_variance) / width)
    nodes, rule = np.polynomial.legendre.leggauss(12)
    x = (width * (np.arange(panels)[:, None] + (nodes + 1) / 2)).ravel()
    weights = np.tile(rule * width / 2, panels)
    transition = _normal(x[:, None] - x, 1.0) * weights
    density = _normal(x, first_variance)
    moments = np.empty((2, steps))
    for n in range(steps):
        moments[:, n] = (weights * density) @ x, (weights * density) @ x**2
        density = (1 - weights @ density) * _normal(x, 1.0) + transition @ density
    return moments[0], moments[1]


def _normal(x: np.ndarray, variance: float) -> np.ndarray:
    return np.exp(-(x**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
