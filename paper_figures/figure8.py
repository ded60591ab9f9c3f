"""Figure 8: singular values of products of 1, 3, 5 Gaussian matrices, and the Fuss–Catalan law over them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures.checks import Check, at_most, near
from paper_figures.values import paper_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Figure 8: singular values of products of Gaussian matrices"
TEXT = (
    "Histograms of the singular values of products of 1, 3 and 5 square Gaussian matrices, entries of variance 1/N, "
    "under the density of the law for N → ∞: the more factors, the more singular values near zero and the larger "
    "the largest. Only matrices are drawn, there is no data set; for several factors the density diverges at 0 and "
    "bars are cut off."
)
BINS = 60
TRACY_WIDOM_MEAN, TRACY_WIDOM_STD = -1.2065336, 1.2679816  # of the largest eigenvalue, real matrices (β = 1)


def compute(seed: int = 0, device: str = "cpu", width: int = 1000, draws: int = 10) -> dict[str, Any]:
    """Sample products and evaluate the law.

    Parameters
    ----------
    seed : int
    device : str
        Not used: this runs on the CPU.
    width : int
        N.
    draws : int
        Products of every length.

    Returns
    -------
    dict
        For every number of factors M: histogram and bin edges, the law's density on a grid, the Kolmogorov distance,
        largest singular values and the law's edge.
    """
    from bntheory import mlp
    from bntheory.spectra.fuss_catalan import FussCatalan
    from simulations.products import log_singular_values
    from simulations.statistics import kolmogorov_distance

    data: dict[str, Any] = {"width": width, "draws": draws, "products": {}}
    for factors, count in _paper_first_bins().items():
        net = mlp(factors, width, activation="linear", init="lecun_normal")
        values = np.exp(log_singular_values(net, draws, seed))
        law = FussCatalan(factors).singular
        density, edges = np.histogram(values, bins=BINS, range=(0, 1.02 * values.max()), density=True)
        grid = law.support[1] * np.sin(np.linspace(0.02, np.pi / 2, 400))  # denser at the edge
        data["products"][factors] = {
            "density": density,
            "bin_edges": edges,
            "grid": grid,
            "law": law.pdf(grid),
            "kolmogorov_distance": kolmogorov_distance(values, law.cdf),
            "largest": values.max(axis=1),
            "edge": law.support[1],
            # the paper's histograms hold 10 × 1000 values: so many bins make the law's first one as high as theirs
            "paper_bins": law.support[1] / float(law.ppf(count / 10_000)),
        }
    return data


def _paper_first_bins() -> dict[int, int]:
    paper = paper_values()["figure8"]
    return dict(zip(paper["matrices"], paper["first_bin_counts"].values(), strict=True))


def edge_fluctuation(factors: int, width: int) -> tuple[float, float]:
    """Mean shift and standard deviation of the largest singular value of a product at finite N.

    Near its edge x₊ the law of x = s² has density (C/π) √(x₊ − x), C = (M+1)/(M x₊) · √(2/(x₊ M (M+1))), so that the
    largest x is x₊ + (N C)^(−2/3) TW with Tracy and Widom's variable (β = 1); s follows by ds = dx / 2√x₊.

    Parameters
    ----------
    factors, width : int
        M and N.

    Returns
    -------
    shift, std : float

    References
    ----------
    Tracy, Widom 1996, "On orthogonal and symplectic matrix ensembles"; universality at the edge of products of real
    matrices is assumed, terms of order 1/N are left out.

    Examples
    --------
    >>> shift, std = edge_fluctuation(1, 1000)
    >>> print(f"{shift:.4f} {std:.4f}")
    -0.0076 0.0080
    """
    log_edge = (factors + 1) * math.log(factors + 1) - factors * math.log(factors)
    edge = math.exp(log_edge)
    slope = (factors + 1) / (factors * edge) * math.sqrt(2 / (edge * factors * (factors + 1)))
    scale = (width * slope) ** (-2 / 3) / (2 * math.sqrt(edge))
    return scale * TRACY_WIDOM_MEAN, scale * TRACY_WIDOM_STD


def check(data: dict[str, Any]) -> list[Check]:
    """Compare the histograms with the law, the largest values with the edge at finite N, the edge with the paper's."""
    from simulations.statistics import tolerance

    checks = []
    largest = paper_values()["figure8"]["largest_singular_value_after_scaling_entries_by_1_over_sqrt_N"]
    paper = dict(zip(_paper_first_bins(), largest, strict=True))
    for factors, part in data["products"].items():
        name = f"M = {factors}"
        # eigenvalues repel: the distance falls as ln N/N; 3/N is about twice what is seen at N = 1000
        distance = part["kolmogorov_distance"]
        checks.append(at_most(f"{name}: Kolmogorov distance to the law", distance, 3 / data["width"]))
        checks.append(near(f"{name}: edge of the law, against the paper's", part["edge"], paper[factors], 0.006))
        shift, std = edge_fluctuation(factors, data["width"])
        # beside chance, a quarter of the shift for the terms of order 1/N
        allowed = float(tolerance(std / math.sqrt(data["draws"]), 1e-4)) + abs(shift) / 4
        text = f"{name}: largest value, mean of {data['draws']}, against edge + Tracy–Widom shift"
        checks.append(near(text, np.mean(part["largest"]), part["edge"] + shift, allowed))
    bins = [part["paper_bins"] for part in data["products"].values()]
    text = "number of bins implied by the paper's first-bin counts, largest over smallest of its panels"
    return [*checks, near(text, max(bins) / min(bins), 1, 0.1)]


def draw(data: dict[str, Any]) -> Figure:
    """Draw one panel a number of factors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 8.4))
    panels = figure.subplots(len(data["products"]))
    for axes, (factors, part) in zip(panels, data["products"].items(), strict=True):
        label = f"{data['draws']} draws, N = {data['width']}"
        axes.stairs(part["density"], part["bin_edges"], fill=True, color="C5", alpha=0.6, label=label)
        axes.plot(part["grid"], part["law"], color="C1", label="Fuss–Catalan law")
        axes.axvline(part["edge"], color="black", lw=1, ls=":", label="edge of the law")
        axes.set(xlim=(0, None), ylim=(0, 1.1 * np.sort(part["density"])[-2]), ylabel="density of s")
        axes.set_title(f"M = {factors} " + ("matrix" if factors == 1 else "matrices") + f", edge {part['edge']:.2f}")
    figure.legend(*panels[0].get_legend_handles_labels(), ncols=3, loc="outside upper center")
    panels[-1].set_xlabel("singular value s")
    figure.supxlabel("no data: Gaussian matrices", fontsize=10.5)
    return figure
