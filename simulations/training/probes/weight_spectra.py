"""Probe: the singular values of every weight matrix, against the law of random ones and the test of randomness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bntheory import arguments
from bntheory.spectra.fuss_catalan import MarchenkoPastur
from simulations import streams
from simulations.graded import Floats
from simulations.products import log_singular_values
from simulations.randomness import randomness_test
from simulations.statistics import kolmogorov_distance
from simulations.training.modules import torch
from simulations.training.probes.evaluation import refuse_other_models
from simulations.training.probes.reporting import aligned, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

nn = torch.nn


@dataclass(frozen=True, eq=False)
class WeightSpectrum:
    """Singular values of one weight matrix.

    Attributes
    ----------
    name : str
    shape : (rows, columns)
        Output units, and what one of them reads: of convolutions channels in · k · k.
    size : float
        Root mean square of the entries.
    log_singular_values : ndarray, (smaller of the two,)
        Descending; −inf for exact zeros.
    edges : (lower, upper)
        ln of the ends of the law, √(columns) · size · |1 ∓ √(rows/columns)|.
    distance : float
        Kolmogorov distance of the singular values from the law.
    p_value : float
        Of `simulations.randomness_test`; NaN where `remark` says why there is none.
    outliers : (below, above)
        Singular values outside of the band of random ones.
    remark : str
    """

    name: str
    shape: tuple[int, int]
    size: float
    log_singular_values: Floats
    edges: tuple[float, float]
    distance: float
    p_value: float
    outliers: tuple[int, int]
    remark: str

    @property
    def excess(self) -> float:
        """ln of the largest singular value over the upper edge of the law."""
        return float(self.log_singular_values[0]) - self.edges[1]


@dataclass(frozen=True, eq=False)
class WeightSpectra:
    """Spectra of all weight matrices of a module.

    Attributes
    ----------
    matrices : tuple of WeightSpectrum
        In the order of the module's parameters.
    level : float
        Probability of a false alarm of each test.
    trials, seed : int
        Draws of each null, and their seed.
    """

    matrices: tuple[WeightSpectrum, ...]
    level: float
    trials: int
    seed: int

    @property
    def unlike(self) -> tuple[str, ...]:
        """Names of the matrices that fail the test: of n random ones level · n do."""
        return tuple(found.name for found in self.matrices if found.p_value <= self.level)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for strict JSON."""
        rows = [{**vars(found), "excess": found.excess} for found in self.matrices]
        return plain({"level": self.level, "trials": self.trials, "seed": self.seed, "matrices": rows})

    def table(self, most: int = 24) -> str:
        """Return a line for each matrix as aligned text; of many the first and last `most`/2."""
        lines = [
            (
                found.name,
                "×".join(map(str, found.shape)),
                found.size,
                math.exp(found.excess),
                found.distance,
                found.p_value,
                *found.outliers,
                found.remark,
            )
            for found in self.matrices
        ]
        heads = ("weight", "shape", "rms", "largest/edge", "distance", "p", "below", "above", "")
        return aligned(heads, lines, most)

    def __str__(self) -> str:
        tested = sum(not math.isnan(found.p_value) for found in self.matrices)
        return (
            f"{len(self.unlike)} of {tested} weight matrices are unlike random ones at level {self.level:g}, "
            f"where {self.level * tested:.2g} of as many random ones are."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the largest singular value of every matrix over the edge of its law; those unlike random ones in colour.

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
        unlike = np.array([found.p_value <= self.level for found in self.matrices])
        ratio = np.exp([found.excess for found in self.matrices])
        for part, color, text in ((~unlike, BLUE, "like random ones"), (unlike, ORANGE, "unlike random ones")):
            ax.plot(np.flatnonzero(part) + 1, ratio[part], "o", ms=3, color=color, label=f"{part.sum()} {text}")
        ax.axhline(1, color="black", lw=1, ls="--")
        ax.set_xlabel("weight matrix")
        ax.set_ylabel("largest singular value / edge of the law")
        ax.legend(fontsize="small")
        return ax


def weight_spectra(
    model: nn.Module, level: float = 0.05, trials: int = 1000, seed: int | np.random.Generator = 0
) -> WeightSpectra:
    """Compare the singular values of every weight matrix with those of random matrices of its shape and size.

    A parameter of shape (out, …) counts as a matrix with `out` rows: kernels of convolutions as (out, in · k · k), in
    being the channels of one group. With n columns and mean square v of the entries the law of s² is that of Marchenko
    and Pastur with ratio rows/n and scale n v.

    Parameters
    ----------
    model : torch.nn.Module
        Unchanged; parameters of two axes or more are looked at.
    level : float
        Probability of a false alarm of each test of randomness.
    trials : int
        Draws of its null, at least 100 and 1/level.
    seed : int or numpy.random.Generator
        Of these draws.

    Returns
    -------
    WeightSpectra

    Raises
    ------
    ValueError
        In one line, if the module has no weight matrix or one that is not finite, or an argument is out of range.

    Notes
    -----
    Cost: no pass through the model. A null for each shape (a matrix and its transpose have the same), kept for the next
    call: 1.5 · trials draws of random matrices with all their singular values; a decomposition of each matrix. The 112
    matrices of ResNet-110 have 9 shapes and take some seconds. Matrices of 1000 × 1000 take most of a second a draw:
    ask for trials=100 there.

    Matrices of one shape share the draws of their null. Entries that are not iid, such as orthogonal weights, are
    unlike random ones at initialization already; of random ones with a smaller side r the distance is about 2/r.

    References
    ----------
    Marchenko, Pastur 1967. Martin, Mahoney 2021 (spectra of trained weights).

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(4, 20, 3), nn.ReLU(), nn.Conv2d(20, 10, 3))
    >>> print(weight_spectra(model, trials=200))
    0 of 2 weight matrices are unlike random ones at level 0.05, where 0.1 of as many random ones are.
    """
    refuse_other_models(model)
    root = streams.root(seed)
    matrices = {
        name: own.detach().double().flatten(1).cpu().numpy() for name, own in model.named_parameters() if own.dim() > 1
    }
    if not matrices:
        raise ValueError(f"{type(model).__name__} has no parameter of two axes or more: there is no spectrum")
    for name, matrix in matrices.items():
        if not np.isfinite(matrix).all():
            raise ValueError(f"weights must be finite, got {matrix[~np.isfinite(matrix)][0]} in {name}")
    level = arguments.probability("level", level)
    found = tuple(_spectrum(name, matrix, level, trials, root) for name, matrix in matrices.items())
    return WeightSpectra(found, level, trials, root)


def _spectrum(name: str, matrix: Floats, level: float, trials: int, seed: int) -> WeightSpectrum:
    lying = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    largest = float(np.abs(matrix).max())
    size = largest * math.sqrt(np.mean((matrix / largest) ** 2)) if largest else 0.0
    logs, edges, distance = np.full(len(lying), -math.inf), (-math.inf, -math.inf), math.nan
    if size:
        logs = log_singular_values([lying / size])  # of entries of size 1: no square leaves the range
        law = MarchenkoPastur(len(lying) / lying.shape[1], lying.shape[1])
        distance = kolmogorov_distance(2 * logs, law.log.cdf)
        lower, upper = (0.5 * end + math.log(size) for end in law.log.support)
        edges, logs = (lower, upper), logs + math.log(size)
    p_value, outliers, remark = math.nan, (0, 0), ""
    try:
        test = randomness_test(lying, level, trials, seed)
    except ValueError as error:
        arguments.integer("trials", trials, at_least=math.ceil(max(100, 1 / level)))
        remark = f"no test: {str(error).split(':')[0]}"
    else:
        p_value = test.p_value
        outliers = tuple(sum((out.excess > 0) == above for out in test.outliers) for above in (False, True))
    return WeightSpectrum(name, matrix.shape, size, logs, edges, distance, p_value, outliers, remark)
