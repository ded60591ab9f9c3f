"""Is this matrix still random? A test of its singular values against those of matrices with iid entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from bntheory import arguments
from simulations import iid_null, streams
from simulations.graded import Floats
from simulations.matrices import checked_matrices
from simulations.products import log_singular_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Outlier:
    """A singular value outside of the band: its index (0 is the largest), its logarithm, and how far it is beyond."""

    index: int
    log_singular_value: float
    excess: float  # of the centred logarithm: above the upper edge, or minus how far below the lower one


@dataclass(frozen=True, eq=False)
class RandomnessTest:
    """What `randomness_test` found.

    Attributes
    ----------
    shapes : tuple of (rows, columns)
        Of the factors, first applied first.
    level : float
        Probability of a false alarm: of p_value ≤ level, and of any outlier, each.
    trials, seed : int
        Draws of the null, and their seed.
    p_value : float
        Of all statistics together; at least 1 / (1 + trials).
    p_values : dict
        Of each statistic alone: "largest", "extreme", "bulk".
    kurtosis : tuple of float
        Excess kurtosis of the entries of each factor, 6 if larger.
    log_singular_values : ndarray, (r,)
        Of the product, descending.
    centred : ndarray, (r,)
        y_i: what is compared with the null.
    median, lower, upper : ndarray, (r,)
        The null's median of every y_i, and its band, which all of them leave with probability level.
    outliers : tuple of Outlier
        The y_i outside of the band.
    """

    shapes: tuple[tuple[int, int], ...]
    level: float
    trials: int
    seed: int
    p_value: float
    p_values: dict[str, float]
    kurtosis: tuple[float, ...]
    log_singular_values: Floats
    centred: Floats
    median: Floats
    lower: Floats
    upper: Floats
    outliers: tuple[Outlier, ...]

    @property
    def random(self) -> bool:
        """Whether the matrix passes: p_value > level."""
        return self.p_value > self.level

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for strict JSON."""
        arrays = ("log_singular_values", "centred", "median", "lower", "upper")
        return {
            "shapes": [list(shape) for shape in self.shapes],
            **{name: getattr(self, name) for name in ("level", "trials", "seed", "p_value", "random")},
            "p_values": dict(self.p_values),
            "kurtosis": list(self.kurtosis),
            "outliers": [asdict(outlier) for outlier in self.outliers],
            **{name: getattr(self, name).tolist() for name in arrays},
        }

    def __str__(self) -> str:
        several = f"a product of {len(self.shapes)} matrices" if len(self.shapes) > 1 else "a matrix"
        parts = ", ".join(f"{name} {value:.2g}" for name, value in self.p_values.items())
        verdict = f"{'Like' if self.random else 'Unlike'} {several} with iid entries: p = {self.p_value:.2g} ({parts})."
        share = f"of {len(self.centred)} singular values"
        if not self.outliers:
            return f"{verdict}\nNone {share} is an outlier."
        named = [f"number {o.index + 1} by a factor {_factor(abs(o.excess))}{_side(o)}" for o in self.outliers[:5]]
        more = f", and {len(self.outliers) - 5} more" if len(self.outliers) > 5 else ""
        return f"{verdict}\n{len(self.outliers)} {share} outside of the {100 * (1 - self.level):.4g}% band: " + (
            f"{', '.join(named)}{more}."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the share of singular values above each size with the null's band, and a histogram behind it.

        Parameters
        ----------
        ax : Axes, optional
            None: a new figure.

        Returns
        -------
        Axes
        """
        from matplotlib import pyplot

        from bntheory.plotting import BLUE, ORANGE

        ax = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        share = (np.arange(len(self.centred)) + 0.5) / len(self.centred)
        counts, edges = np.histogram(self.centred, bins="auto")
        ax.stairs(counts / counts.max(), edges, fill=True, color="0.85", label="histogram, its top at 1")
        text = f"iid entries: median, {100 * (1 - self.level):.4g}% band of all ordered values"
        ax.fill_betweenx(share, self.lower, self.upper, color=BLUE, alpha=0.3, lw=0)
        ax.plot(self.median, share, color=BLUE, lw=1, label=text)
        ax.plot(self.centred, share, ".", color="black", ms=3, label=f"given, p = {self.p_value:.2g}")
        out = [outlier.index for outlier in self.outliers]
        if out:
            ax.plot(self.centred[out], share[out], "o", color=ORANGE, mfc="none", label=f"{len(out)} outside")
        ax.set_xlabel(r"$y_i$: $\ln s_i$, centred")
        ax.set_ylabel("share of larger singular values")
        ax.set_ylim(0, 1.05)
        ax.legend(fontsize="small")
        return ax


def randomness_test(
    matrix_or_matrices: ArrayLike | Sequence[ArrayLike],
    level: float = 0.05,
    trials: int = 1000,
    seed: int | np.random.Generator = 0,
) -> RandomnessTest:
    """Test whether a matrix, or a product of matrices, still has the singular values of iid zero-mean entries.

    The scales of the factors are unknown. With s_1 ≥ … ≥ s_r the singular values of the product X_M … X_1 of
    n_l × n_{l−1} matrices, κ_l the excess kurtosis of the entries of X_l (at most 6 counts), x_i the null's medians of
    s_i², the test sees

        y_i = z_i − median_j z_j,   z_i = ln s_i − ½ T_i Σ_l κ_l / (n_l n_{l−1}),   T_i = Σ_{j≠i} 1 / (x_i/x_j − 1).

    The second term is what kurtosis does to singular values at first order in 1/n. Each y_i is measured from the null's
    median, in units of the distance to the null's quantiles 0.975 above and 0.025 below: d_i. Three statistics,

        largest  d_1            a direction stronger than the edge of the bulk
        extreme  max_i |d_i|    any singular value where none should be; those beyond are named as outliers
        bulk     mean_i d_i²    another shape of the whole spectrum

    and the smallest of their p-values, itself compared with that of the draws of the null.

    Parameters
    ----------
    matrix_or_matrices : array_like, or sequence of array_like
        One array with two axes (weights, also of torch; a Jacobian as one matrix), or matrices X_1, …,
        X_M in order of application. Real, finite, no singular value exactly zero, smallest dimension at least 2. Each
        factor of a list is not tested on its own: call this once a factor, with level / M.
    level : float
        Probability of a false alarm, in (0, 1).
    trials : int
        Draws of the null, at least 100 and 1/level, and half as many for the units. Kept for the next test of the same
        shapes.
    seed : int or numpy.random.Generator
        Of the null's draws.

    Returns
    -------
    RandomnessTest
        p_value = (1 + draws at least as extreme) / (1 + trials), outliers, the null's band; ``str``, ``to_dict``,
        ``plot``.

    Raises
    ------
    ValueError
        In one line, for any other input; singular values that are exactly zero are counted.

    Notes
    -----
    For Gaussian entries data and draws are exchangeable, but for O(1/n²) in κ; for others the level holds as n grows.
    `tests/benchmarks/randomness_study.json` counts false alarms at level 5% for 10 to 300 rows and 1 to 50 factors:
    4.1% to 5.5% with Gaussian and uniform entries, 6.8% with Laplace entries. One null, that is one seed, has a level
    of its own: ± √(level (1 − level) / trials) around the nominal one.

    Rejected because not iid: orthogonal factors; the Jacobian of a ReLU network as one matrix, where masks of units
    leave smaller blocks; rows whose sizes differ by 30%; entries of mean 2σ/√n; heavy tails (κ above 6: 9 of 10
    Student t of 3 degrees at n = 100). Not rejected: weights set to zero one by one at random, which are iid still. Of
    a square matrix, a spike of rank one below σ √n, half the edge, cannot be seen in large singular values.

    References
    ----------
    Wigner 1957; Edelman 1988 (repulsion, the smallest singular value). Bai, Silverstein, Ann. Probab. 32, 553 (2004),
    and Pan, Zhou, Ann. Appl. Probab. 18, 1232 (2008) (kurtosis in linear statistics). Baik, Ben Arous, Péché, Ann.
    Probab. 33, 1643 (2005) (spikes). Myllymäki et al., J. R. Stat. Soc. B 79, 381 (2017) (bands from deviations in
    units of two quantiles). Westfall, Young 1993 (smallest p-value). Martin, Mahoney, JMLR 22, 165 (2021) (spectra of
    trained weights, by eye and fit).

    Examples
    --------
    >>> weights = np.random.default_rng(0).uniform(-1, 1, (40, 30))
    >>> print(randomness_test(weights))
    Like a matrix with iid entries: p = 0.31 (largest 0.89, extreme 0.16, bulk 0.16).
    None of 30 singular values is an outlier.
    >>> weights += 0.5 * np.outer(np.linspace(-1, 1, 40), np.ones(30))
    >>> print(randomness_test(weights))
    Unlike a matrix with iid entries: p = 0.002 (largest 0.001, extreme 0.001, bulk 0.008).
    1 of 30 singular values outside of the 95% band: number 1 by a factor 1.36 above.
    """
    level = arguments.probability("level", level)
    needed = math.ceil(max(100, 1 / level))
    if arguments.integer("trials", trials) < needed:
        raise ValueError(f"trials must be at least {needed} for level {level:g}, got {trials}")
    factors = checked_matrices(_listed(matrix_or_matrices))
    logs = _finite(log_singular_values(factors))
    root = streams.root(seed)
    null = iid_null.null_of((factors[0].shape[1], *(len(factor) for factor in factors)), trials, root)
    kurtosis = [iid_null.excess_kurtosis(factor) for factor in factors]
    values = iid_null.centred(
        logs - null.bend * sum(k / factor.size for k, factor in zip(kurtosis, factors, strict=True))
    )
    found = iid_null.p_values(
        iid_null.statistics(iid_null.deviations(values, null.median, null.below, null.above)), null
    )
    lower, upper = null.median - null.edge(level) * null.below, null.median + null.edge(level) * null.above
    excess = np.where(values > upper, values - upper, np.where(values < lower, values - lower, 0.0))
    return RandomnessTest(
        shapes=tuple(factor.shape for factor in factors),
        level=level,
        trials=trials,
        seed=root,
        p_value=found[-1],
        p_values=dict(zip(iid_null.STATISTICS, found, strict=False)),
        kurtosis=tuple(kurtosis),
        log_singular_values=logs,
        centred=values,
        median=null.median,
        lower=lower,
        upper=upper,
        outliers=tuple(Outlier(int(i), float(logs[i]), float(excess[i])) for i in np.flatnonzero(excess)),
    )


def _listed(given: Any) -> list[ArrayLike]:
    if getattr(given, "ndim", None) == 2:
        return [given]
    try:
        return list(given)
    except TypeError:
        raise ValueError(f"a matrix or a list of matrices is needed, got {given!r:.80}") from None


def _finite(logs: Floats) -> Floats:
    """Log singular values that can be tested; ValueError otherwise."""
    if len(logs) < 2:
        raise ValueError("the smallest dimension must be at least 2, got 1: one singular value has nothing but a scale")
    zeros = int(np.isneginf(logs).sum())
    if zeros:
        raise ValueError(
            f"{zeros} of {len(logs)} singular values are zero to working precision, as never with continuous "
            "iid entries: not random; or leave out rows and columns of zeros first"
        )
    return logs


def _factor(logarithm: float) -> str:
    """e^logarithm in three digits, whatever its size."""
    return f"{math.exp(logarithm):.3g}" if logarithm < 700 else f"e^{logarithm:.4g}"


def _side(outlier: Outlier) -> str:
    return " above" if outlier.excess > 0 else " below"
