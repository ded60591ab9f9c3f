"""Figure 7: the law of products of matrices for several numbers of factors; gradients of pairs of channels.

By the theorem the density of a product's singular values becomes more singular at the origin and longer-tailed with
every factor. In a network the gradient of a weight between channels i and o is likewise dominated by few channels:
without BN ln of its magnitude is nearly row_o + column_i, a matrix of rank one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures import networks
from paper_figures.checks import Check, at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Figure 7: density of the theorem; gradients of pairs of channels"
TEXT = (
    "Above, the theorem's density of singular values of products of M Gaussian matrices of mean square 1: the more "
    "factors, the more singular at 0 and the longer the tail (figure 8 compares it with matrices that are drawn). "
    "Below, magnitudes of the gradients between pairs of channels of a layer, summed over the kernel, in decades "
    "about their median: without BN rows and columns stand out, as some channels have large gradients with all "
    "others; with BN that structure is weaker. White: no gradient at all, of dead channels. The layer, 45, is from "
    "memory of the paper's text."
)
FACTORS = (1, 2, 3, 5, 10)
NEAR = 0.1  # of the edge of one matrix, 2: what counts as near the origin


def compute(
    seed: int = 0, device: str = "cpu", depth: int = 110, images: int = 128, draws: int = 2, layer: int = 45
) -> dict[str, Any]:
    """Evaluate the law, and measure the gradients of pairs of channels.

    Parameters
    ----------
    seed : int
    device : {"cpu", "cuda"}
    depth, images, draws, layer : int
        Of the networks, of a mini-batch, of both, and where along the main path.

    Returns
    -------
    dict
        "laws": for every number of factors grid, pdf, edge and mass below 0.1; "nobn", "bn": pairs, (channels,
        channels), of the first draw, and explained, see `explained`, of every draw.
    """
    from bntheory import FussCatalan
    from simulations import kernel_alignment

    laws = {}
    for factors in FACTORS:
        law = FussCatalan(factors).singular
        grid = law.support[1] * np.sin(np.linspace(1e-3, np.pi / 2, 800))  # denser at the edge
        laws[factors] = {"grid": grid, "pdf": law.pdf(grid), "edge": law.support[1], "near": float(law.cdf(NEAR))}

    def probe(_kind: str, model: Any, *batch: Any) -> np.ndarray:
        found = kernel_alignment(model, *batch)
        return found.magnitudes[found.numbers.index(layer)]

    found = networks.measured(probe, networks.alone(draws), depth, images, seed, device)
    data: dict[str, Any] = {"laws": laws, "layer": layer, "draws": draws}
    data["setting"] = networks.setting(depth, images, draws)
    for kind, pairs in found.items():
        data[kind] = {"pairs": pairs[0], "explained": np.array([explained(part) for part in pairs])}
    return data


def explained(pairs: np.ndarray) -> float:
    """Share of the variance of ln(pairs) that a sum of a row's and a column's number explains.

    Rows and columns without any gradient are left out, as are single zeros.

    Examples
    --------
    >>> round(explained(np.outer([1.0, 2.0, 5.0], [1.0, 3.0, 0.5])), 6)
    1.0
    """
    alive = pairs[pairs.any(axis=1)][:, pairs.any(axis=0)]
    logs = np.log(np.where(alive > 0, alive, np.nan))
    rows, columns = np.nanmean(logs, axis=1, keepdims=True), np.nanmean(logs, axis=0, keepdims=True)
    mean = np.nanmean(logs)
    return float(1 - np.nanvar(logs - rows - columns + mean) / np.nanvar(logs))


def check(data: dict[str, Any]) -> list[Check]:
    """Check that mass near the origin and the edge rise with the factors, and that BN weakens rows and columns."""
    near = [law["near"] for law in data["laws"].values()]
    edges = [law["edge"] for law in data["laws"].values()]
    difference = data["nobn"]["explained"].mean() - data["bn"]["explained"].mean()
    text = (
        f"variance of ln |gradient| of a pair that its two channels explain, without BN less with BN, {data['draws']}"
    )
    return [
        at_least(f"mass of the law below {NEAR}, least rise from M to the next", float(np.min(np.diff(near))), 0.01),
        at_least("edge of the law, least rise from M to the next", float(np.min(np.diff(edges))), 0.1),
        at_least(f"{text} draws", difference, 0),
    ]


def draw(data: dict[str, Any]) -> Figure:
    """Draw the densities, and a map of the pairs for each kind of network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 8))
    parts = figure.subplot_mosaic(
        [["law", "law", "law"], ["nobn", "bn", "bar"]], height_ratios=[1, 1], width_ratios=[1, 1, 0.06]
    )
    for index, (factors, law) in enumerate(data["laws"].items()):
        style = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))[index]
        parts["law"].plot(law["grid"], law["pdf"], ls=style, color=f"C{index}", label=f"M = {factors}")
    parts["law"].set(yscale="log", ylim=(3e-3, 30), xlabel="singular value s", ylabel="density of s")
    parts["law"].set_title("theorem: products of M matrices")
    parts["law"].legend(ncols=2)
    for kind, name in networks.KINDS.items():
        pairs, axes = data[kind]["pairs"], parts[kind]
        logs = np.log10(np.where(pairs > 0, pairs, np.nan))
        shown = axes.imshow(logs - np.nanmedian(logs), vmin=-1.5, vmax=1.5, cmap="cividis", aspect="auto")
        axes.grid(False)
        axes.set(xlabel="input channel", title=f"{name}, 1 of {data['draws']}")
    parts["nobn"].set_ylabel(f"output channel, layer {data['layer']}")
    figure.colorbar(shown, cax=parts["bar"], label="log₁₀ |gradient| / median", extend="both")
    figure.supxlabel(data["setting"], fontsize=10.5)
    return figure
