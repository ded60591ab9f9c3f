"""Figure 2: gradients of the weights of a layer in the middle of ResNet-110, at initialization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures import networks
from paper_figures.checks import Check, at_least
from paper_figures.values import committed, paper_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Figure 2: gradients of weights, with and without BN"
TEXT = (
    "Gradients of all weights of layer 55 of one network for one mini-batch, beside a Gaussian of their standard "
    "deviation: with BN a bell with heavier tails, about twice as wide as the paper's, without BN a sharp peak with "
    "long tails, over a range that is more than a thousand times wider. The paper finds about 100 times: without BN "
    "our gradients are some 35 times larger than in its picture, and the loss that they belong to is too (several "
    "hundred with Xavier normal weights and projection shortcuts), from which the largest step sizes differ in the "
    "same sense."
)
NAMES = ("std", "kurtosis", "half_width")


def compute(
    seed: int = 0, device: str = "cpu", depth: int = 110, images: int = 128, draws: int = 3, layer: int = 55
) -> dict[str, Any]:
    """Measure the gradients of the layer's weights.

    Parameters
    ----------
    seed : int
    device : {"cpu", "cuda"}
    depth, images, draws, layer : int
        Of the networks, of a mini-batch, of both, and where along the main path.

    Returns
    -------
    dict
        "nobn", "bn": std, kurtosis and half_width, (draws,) each; counts and edges of the first draw's histogram.
    """
    from simulations import gradient_histogram

    def probe(_kind: str, model: Any, *batch: Any) -> Any:
        return gradient_histogram(model, *batch, layer=layer)

    found = networks.measured(probe, networks.alone(draws), depth, images, seed, device)
    data: dict[str, Any] = {"layer": layer, "draws": draws, "setting": networks.setting(depth, images, draws)}
    for kind, results in found.items():
        at = results[0].numbers.index(layer)
        data[kind] = {name: np.array([getattr(result, name)[at] for result in results]) for name in NAMES}
        data[kind] |= {"counts": results[0].counts, "edges": results[0].edges}
    return data


def check(data: dict[str, Any]) -> list[Check]:
    """Compare the widths and kurtoses with and without BN: here, and as medians over the committed draws."""
    many = committed("initialization_probes")
    checks = []
    for name, text, limit in (
        ("half_width", "largest gradient", paper_ratio()),
        ("kurtosis", "kurtosis", 1.0),
    ):
        ours = np.median(data["nobn"][name]) / np.median(data["bn"][name])
        medians = [many[kind]["figure2"][name]["median"] for kind in networks.KINDS]
        checks.append(at_least(f"{text} without BN over that with BN, medians of {data['draws']}", ours, limit))
        text = f"{text} without BN over that with BN, layer 55, medians of {many['draws']}"
        checks.append(at_least(text, medians[0] / medians[1], limit))
    return checks


def paper_ratio() -> float:
    """How many times wider the gradients of the paper's figure are without BN."""
    paper = paper_values()["figure2"]
    return paper["nobn"]["support_half_width"] / paper["bn"]["support_half_width"]


def draw(data: dict[str, Any]) -> Figure:
    """Draw one histogram a kind, counts on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 7.2))
    for axes, (kind, name) in zip(figure.subplots(2), networks.KINDS.items(), strict=True):
        part = data[kind]
        edges, std = part["edges"], part["std"][0]
        centres, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
        gaussian = part["counts"].sum() * width / np.sqrt(2 * np.pi) / std * np.exp(-((centres / std) ** 2) / 2)
        axes.stairs(part["counts"], edges, fill=True, color=networks.COLORS[kind], alpha=0.6, label="measured")
        axes.plot(centres, gaussian, color="black", lw=1.2, ls="--", label="Gaussian of the same std")
        reach = paper_values()["figure2"][kind]["support_half_width"]
        for side in (-reach, reach):
            axes.axvline(side, color="C2", lw=1.2, ls=":", label="range in the paper" if side > 0 else None)
        axes.set(yscale="log", ylim=(0.5, 4 * part["counts"].max()), ylabel="weights")
        axes.set_title(
            f"{name}, first draw: std {std:.2g}, kurtosis {part['kurtosis'][0]:.1f}, largest "
            f"{part['half_width'][0]:.3g}",
            fontsize=11,
        )
        axes.set_xlabel(f"∂L/∂w of layer {data['layer']}")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), ncols=3, loc="outside upper center")
    figure.supxlabel(data["setting"], fontsize=10.5)
    return figure
