"""Appendix: BN of the outputs only, beside BN in all layers and in none, from sweeps whose results are kept as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures.appendix_learning_rates import swept, typical
from paper_figures.checks import Check, at_least

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "BN in the last layer only (digits, not the paper's CIFAR-10)"
TEXT = (
    "The sweeps of learning rates with and without BN, and one more with BN of the ten outputs and nowhere else. "
    "Accuracies are of images held back, as with BN of the outputs networks that a large rate has ruined still "
    "recognize a third of a training batch, normalized by itself, but no more than guessing would of the others. "
    "Lines: means of three seeds (dots; 0: diverged). Below: the largest rate at which half of them are recognized."
)
NORMS = {"none": "no BN", "last": "BN in the last layer", "all": "BN in all layers"}
COLORS = {"none": "C1", "last": "C2", "all": "C0"}
MARKERS = {"none": "s", "last": "^", "all": "o"}
HALF = 0.5  # of the images held back; guessing has 0.1
PAPER_RATE = 0.03


def compute(seed: int = 0, device: str = "cpu") -> dict[str, Any]:
    """Read the sweeps.

    Parameters
    ----------
    seed, device : not used
        The runs were made once; see ``paper_figures/results``.

    Returns
    -------
    dict
        As `appendix_learning_rates.compute`, with norm "last" beside "none" and "all".
    """
    names = ("digits_sweep", "digits_sweep_110", "digits_sweep_last", "digits_sweep_last_110")
    return swept(names, NORMS)


def largest(tested: Mapping[float, Sequence[float]], level: float = HALF) -> list[float | None]:
    """Largest learning rate with so many of the images held back recognized, one a seed, None where there is none.

    Examples
    --------
    >>> largest({0.01: [0.9, 0.8], 0.1: [0.7, 0.1], 1.0: [0.1, 0.1]})
    [0.1, 0.01]
    """
    (seeds,) = {len(each) for each in tested.values()}
    return [max((rate for rate, each in tested.items() if each[seed] >= level), default=None) for seed in range(seeds)]


def best(tested: Mapping[float, Sequence[float]]) -> tuple[float, float, float]:
    """Rate with the best mean accuracy of images held back, that accuracy, and its standard error over seeds."""
    rate = max(tested, key=lambda rate: np.mean(tested[rate]))
    values = np.array(tested[rate])
    return rate, float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def shares(data: Mapping[Any, Any], depth: int) -> tuple[float, float]:
    """What BN in the last layer has of the gain from none to BN in all: of the best accuracy, of ln(largest rate)."""
    accuracies = {norm: best(data[depth][norm]["tested"])[1] for norm in NORMS}
    rates = {norm: np.log(typical(largest(data[depth][norm]["tested"]))[0]) for norm in NORMS}
    of_accuracy, of_rate = (
        (each["last"] - each["none"]) / (each["all"] - each["none"]) for each in (accuracies, rates)
    )
    return float(of_accuracy), float(of_rate)


def check(data: dict[str, Any]) -> list[Check]:
    """Ask, at the greatest depth, for a larger rate and for half of the gain in accuracy."""
    depth = data["depths"][-1]
    rates = {norm: typical(largest(data[depth][norm]["tested"]))[0] for norm in NORMS}
    text = f"depth {depth}: largest rate with BN in the last layer over that without"
    gain = f"depth {depth}: share of the gain in accuracy, at the best rates (paper: about two thirds)"
    return [at_least(text, rates["last"] / rates["none"], 1), at_least(gain, shares(data, depth)[0], 0.5)]


def draw(data: dict[str, Any]) -> Figure:
    """Draw accuracies by learning rate, a panel a depth, and the largest learning rates by depth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 7.6))
    depths = data["depths"]
    parts = figure.subplot_mosaic([list(depths), ["rates"] * len(depths)], height_ratios=(1, 1))
    for depth in depths:
        for norm, name in NORMS.items():
            _accuracies(parts[depth], data[depth][norm]["tested"], norm, name)
        parts[depth].set(title=f"ResNet-{depth}", xscale="log", xlabel="learning rate α", ylim=(-0.03, 1.03))
        parts[depth].set_xticks([1e-5, 1e-3, 1e-1])
    parts[depths[0]].set_ylabel("accuracy, images held back")
    axes = parts["rates"]
    for place, norm in enumerate(NORMS):
        points = [
            (at, rate) for at, depth in enumerate(depths) for rate in largest(data[depth][norm]["tested"]) if rate
        ]
        across, up = np.transpose(points)
        axes.plot(across + 0.08 * (place - 1), up, MARKERS[norm], ms=7, mfc="none", color=COLORS[norm])
    axes.set(yscale="log", ylabel="largest α, half recognized", xlim=(-0.5, len(depths) - 0.5), ylim=(1e-5, 3))
    axes.set_xticks(range(len(depths)), [f"depth {depth}" for depth in depths])
    figure.legend(*parts[depths[0]].get_legend_handles_labels(), ncols=3, loc="outside upper center")
    figure.supxlabel("scikit-learn's digits, 8×8; 16 epochs, batches of 64, momentum 0.9, three seeds", fontsize=10.5)
    return figure


def _accuracies(axes: Axes, tested: Mapping[float, Sequence[float]], norm: str, name: str) -> None:
    rates, values = zip(*sorted(tested.items()), strict=True)
    label = {"label": name, "color": COLORS[norm], "marker": MARKERS[norm], "ms": 4}
    axes.plot(rates, [np.mean(each) for each in values], {"none": "--", "last": "-.", "all": "-"}[norm], **label)
    for rate, each in zip(rates, values, strict=True):
        axes.plot([rate] * len(each), each, ".", ms=3, color=COLORS[norm], alpha=0.6)
