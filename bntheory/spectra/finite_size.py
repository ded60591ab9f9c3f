"""Exact moments of J Jᵀ at finite width: how far a network is from the limiting laws of its spectrum.

For a real Gaussian matrix W with entries of variance 1, a symmetric A and a diagonal D with independent slopes, the
expectation of a product of traces of S = D W A Wᵀ D is a linear map on the products of traces of A (Wick's theorem):

    E p_λ(S) = Σ_π  f_ν(D) p_μ(A),      p_λ(S) = Π_i tr S^{λ_i},      λ a partition of k,

over the (2k − 1)!! pairings π of the 2k factors W. Two more pairings join them, α across the A's and β across the
D²'s; μ and ν are half the lengths of the cycles of α ∪ π and of β ∪ π, and f_ν = E Π_b Σ_i D_ii^{2ν_b}.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from bntheory import arguments
from bntheory.networks import Sequential
from bntheory.spectra.gaussian_chain import GaussianLayer, gaussian_chain

Floats = NDArray[np.float64]
Partition = tuple[int, ...]  # in decreasing order

ORDERS = 4  # moments up to this: 105 pairings
PARTITIONS: dict[int, tuple[Partition, ...]] = {
    1: ((1,),),
    2: ((2,), (1, 1)),
    3: ((3,), (2, 1), (1, 1, 1)),
    4: ((4,), (3, 1), (2, 2), (2, 1, 1), (1, 1, 1, 1)),
}


@dataclass(frozen=True)
class FiniteSizeMoments:
    """Exact moments of the eigenvalues of S = J Jᵀ over the draws of a network's weights, as logarithms.

    Attributes
    ----------
    outputs : int
        The size n_out of S: per eigenvalue means over all n_out of them, zeros included, as in the limiting laws.
    log_traces : dict
        ln E Π_i tr S^{λ_i} of every partition λ of 1, …, 4: of E tr S² under (2,), of E (tr S)² under (1, 1).
    """

    outputs: int
    log_traces: dict[Partition, float]

    def log_trace(self, *powers: int) -> float:
        """ln E Π tr S^power, powers at least 1 that add up to at most 4, in any order.

        Examples
        --------
        >>> found = finite_size_moments(6, factors=1)
        >>> round(found.log_trace(2) - 2 * found.log_trace(1), 6)  # E tr S² / (E tr S)²
        -1.01857
        """
        key = tuple(sorted((arguments.integer("power", power) for power in powers), reverse=True))
        if key not in self.log_traces:
            raise ValueError(f"powers must add up to 1, …, {ORDERS}, got {', '.join(map(str, powers)) or 'none'}")
        return self.log_traces[key]

    def log_moment(self, k: int) -> float:
        """ln of the expected mean of x^k over the n_out eigenvalues x, k = 1, …, 4."""
        return self.log_trace(k) - math.log(self.outputs)

    def moment(self, k: int) -> float:
        """exp(log_moment(k)): infinite where that leaves float64."""
        with np.errstate(over="ignore", under="ignore"):
            return float(np.exp(self.log_moment(k)))


def finite_size_moments(net_or_width: Sequential | int, factors: int | None = None) -> FiniteSizeMoments:
    """Return the exact moments of the squared singular values of a random Jacobian, at any width and depth.

    With the linear map of this module, k = 1, …, 4, every layer multiplies the vector of all E p_λ(J Jᵀ) by a matrix;
    it starts from p_λ(1) = n_0^{length of λ}. For k = 2, layers of n → m units and d_j = E φ′^j (½ for relu) it is

        (E tr S², E (tr S)²)  ←  v² [[Q + P, P], [2P, Q]] (E tr S², E (tr S)²),   P = m d_4,  Q = m d_4 + m (m−1) d_2².

    Parameters
    ----------
    net_or_width : Sequential or int
        A network of Dense layers with normal weights of any variance, each followed by relu, leaky_relu, linear or
        nothing, of any widths; biases do not matter, whether zero or independent and symmetric, nor does the input
        unless it is zero. Or the width N of a product of square real Gaussian matrices of entries of variance 1/N.
    factors : int, optional
        The number of these matrices; only with a width.

    Returns
    -------
    FiniteSizeMoments

    Raises
    ------
    ValueError
        If width or factors is below 1, or for another network; the row is named.

    Notes
    -----
    As N → ∞ at fixed depth, moments of square linear networks tend to those of `FussCatalan`, with an error of order
    1/N; at fixed N they grow exponentially faster with depth. The logarithms are right to 1e-15 a layer, and to the
    rounding of their own size.

    References
    ----------
    Hanin, Nica 2020 (masks as coins; k ≤ 2). Collins, Śniady, Commun. Math. Phys. 264, 773 (2006), and Matsumoto,
    arXiv:1004.4717 (2010), section 3 (pairings and the real Wishart law).

    Examples
    --------
    >>> print(*(f"{finite_size_moments(n, m).moment(2):.6f}" for n, m in [(6, 1), (6, 3), (10, 5)]))
    2.166667 5.356481 8.181810
    >>> from bntheory import mlp
    >>> f"{finite_size_moments(mlp(depth=10_000, width=100)).log_moment(4):.2f}"
    '2828.37'
    """
    layers = gaussian_chain(net_or_width, factors, "finite_size_moments")
    log_traces: dict[Partition, float] = {}
    for order in range(1, ORDERS + 1):
        log_traces |= dict(zip(PARTITIONS[order], _log_traces(order, layers).tolist(), strict=True))
    return FiniteSizeMoments(layers[-1].outputs, log_traces)


def _log_traces(order: int, layers: list[GaussianLayer]) -> Floats:
    """ln E p_λ(J Jᵀ) for the partitions of `order`; products of positive numbers, the largest of them kept near 1."""
    traces = np.array([float(layers[0].inputs) ** len(partition) for partition in PARTITIONS[order]])
    log_scales = []
    for layer in layers:
        steep = max(1.0, abs(layer.slope))  # keeps the powers of the slopes in float64
        traces = _transfer(order, layer.outputs, 1 / steep, layer.slope / steep) @ traces
        largest = traces.max()
        traces /= largest
        log_scales.append(math.log(largest) + order * (layer.log_variance + 2 * math.log(steep)))
    return np.log(traces) + math.fsum(log_scales)


@lru_cache(maxsize=4096)
def _transfer(order: int, rows: int, *slopes: float) -> Floats:
    """The map from (p_μ(A)) to (E p_λ(D W A Wᵀ D)), W with `rows` rows, the slopes in D equally likely."""
    factors = np.array([_coins(partition, rows, slopes) for partition in PARTITIONS[order]])
    return np.asarray(np.einsum("lnm,n->lm", _pairing_counts(order), factors))


def _coins(powers: Partition, size: int, slopes: tuple[float, ...]) -> float:
    """E Π_b Σ_i D_ii^{2 powers_b}: sums over i that coincide, or not, make one term for every partition of the set."""
    total = 0.0
    for blocks in _set_partitions(powers):
        moments = [sum(slope ** (2 * sum(block)) for slope in slopes) / len(slopes) for block in blocks]
        total += math.prod(size - j for j in range(len(blocks))) * math.prod(moments)
    return total


def _set_partitions(items: Partition) -> Iterator[list[Partition]]:
    """All ways to put the items into unordered blocks.

    >>> list(_set_partitions((3, 1)))
    [[(3, 1)], [(3,), (1,)]]
    """
    if not items:
        yield []
        return
    for blocks in _set_partitions(items[1:]):
        for j, block in enumerate(blocks):
            yield [*blocks[:j], (items[0], *block), *blocks[j + 1 :]]
        yield [(items[0],), *blocks]


@cache
def _pairing_counts(order: int) -> Floats:
    """Number of pairings of types (ν, μ) that λ has, as an array [λ, ν, μ]; factors W are the points 0, …, 2k − 1."""
    index = {partition: i for i, partition in enumerate(PARTITIONS[order])}
    counts = np.zeros((len(index),) * 3)
    across_a = {point: point ^ 1 for point in range(2 * order)}
    for powers, row in index.items():
        across_d: dict[int, int] = {}
        start = 0
        for power in powers:  # a trace: W A Wᵀ D² W A Wᵀ D² …, and around
            for j in range(power):
                end, begin = 2 * (start + j) + 1, 2 * (start + (j + 1) % power)
                across_d |= {end: begin, begin: end}
            start += power
        pairs = Counter((_type(across_d, pairing), _type(across_a, pairing)) for pairing in _pairings(2 * order))
        for (nu, mu), count in pairs.items():
            counts[row, index[nu], index[mu]] = count
    return counts


def _pairings(points: int) -> Iterator[dict[int, int]]:
    """All ways to pair 0, …, points − 1.

    >>> sum(1 for _ in _pairings(8))
    105
    """

    def pair(left: tuple[int, ...]) -> Iterator[dict[int, int]]:
        if not left:
            yield {}
        for partner in left[1:]:
            for rest in pair(tuple(point for point in left[1:] if point != partner)):
                yield {left[0]: partner, partner: left[0], **rest}

    return pair(tuple(range(points)))


def _type(first: dict[int, int], second: dict[int, int]) -> Partition:
    """Half the lengths of the cycles that two pairings make together."""
    left, lengths = set(first), []
    while left:
        start = point = min(left)
        length = 0
        while point != start or not length:
            left -= {point, first[point]}
            point, length = second[first[point]], length + 1
        lengths.append(length)
    return tuple(sorted(lengths, reverse=True))
