"""Images that are given differ in size, place by place: what that does to mean distances.

With r_i(p) the root of image i's second moment at p over the mean of all, and ρ the correlation of two points, the mean
over images, or over pairs of different ones, of

    E h_i(p) h_j(p') = ρ r_i(p) r_j(p') √(q_p q_p')        is        (1 − lost) ρ √(q_p q_p')

Layers bring directions together, but not sizes: maps of correlations act on ρ, convolutions and sums on the mean
covariances. To *fold* the sizes into a distance is to go from q + q' − 2ρ√(qq') to that of the means, which is larger.
"""

from __future__ import annotations

import functools

import numpy as np

from bntheory.growth.by_rows import by_rows

LEFT = 1e-9  # of a mean product, below which there is no pair of images that are both not zero


class Lost:
    """1 − mean of r r' over images or, `between` them, over pairs: for a few points with all, without cancellation."""

    def __init__(self, sizes: np.ndarray, between: bool) -> None:
        self.apart, self.copies, self.between = (sizes - 1).astype(np.float32), len(sizes), between
        self.half = np.mean(self.apart**2, axis=0) / 2  # 1 − mean r, as mean r² = 1

    def __call__(self, rows: slice) -> np.ndarray:
        """(rows, points)."""
        half, own = self.half[rows, None], self.apart[:, rows].T @ self.apart / self.copies
        if self.between:
            return half + self.half + (own - self.copies * half * self.half) / (self.copies - 1)
        return half + self.half - own

    def folded(self, distance: np.ndarray, q: np.ndarray) -> np.ndarray:
        """Mean squared distances from those at equal sizes, (points, points)."""
        folded = by_rows(lambda rows: self.add(distance[rows], q[rows, None] + q, rows), len(q))
        return folded if self.between else _without_diagonal(folded)

    def add(self, distance: np.ndarray, both: np.ndarray, rows: slice) -> np.ndarray:
        """The same of a few rows, `both` the sums of the two second moments."""
        lost = self(rows).astype(distance.dtype, copy=False)
        return np.maximum(distance + (both - distance) * lost, 0)

    def unfolded(self, distance: np.ndarray, q: np.ndarray) -> np.ndarray:
        """The reverse."""
        root = np.sqrt(q)
        unfolded = by_rows(lambda rows: self.taken(distance[rows], q, root, rows), len(q))
        return unfolded if self.between else _without_diagonal(unfolded)

    def taken(self, distance: np.ndarray, q: np.ndarray, root: np.ndarray, rows: slice) -> np.ndarray:
        """Of a few rows, `root` that of q."""
        both, lost = q[rows, None] + q, self(rows).astype(distance.dtype, copy=False)  # as when it is folded in
        kept = 1 - lost
        alike = np.divide(distance - both * lost, kept, out=both.copy(), where=kept > LEFT)
        return np.clip(alike, (root[rows, None] - root) ** 2, (root[rows, None] + root) ** 2)


def roots(q: np.ndarray) -> np.ndarray:
    """r of the second moments of all images, (images, points); 1 where all are zero.

    >>> roots(np.array([[1.0, 0.0], [3.0, 0.0]]))**2
    array([[0.5, 1. ],
           [1.5, 1. ]])
    """
    mean = q.mean(axis=0)
    return np.sqrt(np.divide(q, mean, out=np.ones_like(q), where=mean > 0))


def powered(sizes: np.ndarray | None, exponent: np.ndarray) -> np.ndarray | None:
    """Where second moments change by a power of themselves."""
    return None if sizes is None else roots(sizes ** (2 * exponent))


def added(*parts: tuple[np.ndarray | None, np.ndarray | float]) -> np.ndarray | None:
    """Of a sum of independent parts, each with its sizes and its ln q; None if no part's images differ."""
    if all(sizes is None for sizes, _ in parts):
        return None
    top = functools.reduce(np.maximum, (log_q for _, log_q in parts))
    top = np.where(np.isfinite(top), top, 0.0)
    shares = [(1.0 if sizes is None else sizes**2) * np.exp(log_q - top) for sizes, log_q in parts]
    return roots(functools.reduce(np.add, shares))


def times(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a product of factors: what its second moments grow by, as both grow with an image, and its sizes.

    >>> both = np.sqrt(np.array([[0.5], [1.5]]))
    >>> growth, after = times(both, both)
    >>> growth, after**2
    (array([1.25]), array([[0.2],
           [1.8]]))
    """
    q = (first * second) ** 2
    return q.mean(axis=0), roots(q)


def averaged(matrix: np.ndarray, sizes: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Of means over windows, from the shares of points and covariances at equal sizes."""
    squares = [np.einsum("ia,ab,ib->i", matrix * r, covariances, matrix * r, optimize=True) for r in sizes]
    return roots(np.maximum(squares, 0))


def folded(distance: np.ndarray, q: np.ndarray, lost: Lost | None) -> np.ndarray:
    """Mean squared distances, of images that may be alike."""
    return distance if lost is None else lost.folded(distance, q)


def of_blocks(sizes: np.ndarray | None) -> list[Lost | None]:
    """What is lost within images and between them; None if they are alike."""
    return [None, None] if sizes is None else [Lost(sizes, between=False), Lost(sizes, between=True)]


def _without_diagonal(distances: np.ndarray) -> np.ndarray:
    np.fill_diagonal(distances, 0)
    return distances
