"""Figure 1: accuracy in training, with and without BN, from runs whose results are kept as data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures.checks import Check, at_most, between
from paper_figures.epochs import ACCURACIES
from paper_figures.values import committed, paper_values
from simulations.training.recipe import CUTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Figure 1: training with and without BN (Fashion-MNIST and digits, not the paper's CIFAR-10)"
TEXT = (
    "Accuracy of ResNet-110 (Xavier normal) after every epoch: with BN it trains at all three of the paper's rates, "
    "worst at 0.0001 as in the paper; without BN 0.1 diverges in the second step, and at 0.0001 every image of "
    "Fashion-MNIST is given one class after 15 epochs, while the digits are learned in as many as the paper has. "
    "Above, Fashion-MNIST in batches of 128 with crops and flips, 15 epochs, one run each on a GPU, three of which "
    "end on a CPU; below, scikit-learn's digits, 165 epochs, three seeds. The rate is divided by ten after one half "
    "and three quarters of the steps. On Fashion-MNIST 0.003 ends no lower than 0.1, unlike in the paper; without BN "
    "every image is given one class to the end at 0.00001 too, with the loss of guessing. On the digits 0.0001 "
    "without BN first stays near guessing. These networks are smaller than those of 32×32 images (see below, how "
    "large a network is drawn), so that they do not tell what those above would do."
)
NORMS = {"all": "with", "none": "without"}
COLORS = {  # of a run with BN or without it, at a learning rate
    ("with", 0.1): "C0",
    ("with", 0.003): "C2",
    ("with", 0.0001): "C4",
    ("without", 0.0001): "C1",
    ("without", 0.00001): "C3",
    ("without", 0.1): "C5",
}
BY_HEART = 0.99  # of the images, in training (the paper: 0.995)
LOST = 0.05  # of the accuracy at the end, at the least, that counts as "much lower"


def compute(seed: int = 0, device: str = "cpu") -> dict[str, Any]:
    """Read the runs.

    Parameters
    ----------
    seed, device : not used
        The runs were made once; see ``paper_figures/results``.

    Returns
    -------
    dict
        "runs": name, learning_rate, divergence, epochs, data, first_loss of each, on Fashion-MNIST;
        "digits": epochs, and in "with" and "without", by learning rate, accuracies (seeds, epochs).
    """
    found, digits = committed("fashion_training"), committed("digits_training")
    names = ("name", "learning_rate", "divergence", "epochs", "data")
    seeds: dict[str, dict[float, dict[str, np.ndarray]]] = {norm: {} for norm in NORMS.values()}
    for run in digits["runs"]:
        none = {name: np.empty((0, digits["epochs"])) for name in ACCURACIES}
        own = seeds[NORMS[run["norm"]]].setdefault(run["learning_rate"], none)
        own.update({name: np.vstack([rows, run[name]]) for name, rows in own.items()})
    return {
        "runs": [
            {**{name: run[name] for name in names}, "first_loss": run["losses_every_20_steps"][0]}
            for run in found["runs"]
        ],
        "digits": {"epochs": digits["epochs"], **seeds},
    }


def run_of(data: dict[str, Any], norm: str, rate: float) -> dict[str, Any]:
    """Return the run "with" or "without" BN at a learning rate."""
    (found,) = (
        run for run in data["runs"] if run["name"] == f"ResNet-110 {norm} BatchNorm" and run["learning_rate"] == rate
    )
    return found


def at_end(data: dict[str, Any], norm: str, rate: float) -> float:
    """Return the accuracy on images held back after the last epoch of a run, 0 if it diverged."""
    run = run_of(data, norm, rate)
    return 0.0 if run["divergence"] else run["epochs"][-1]["test_accuracy"]


def diverged_at(data: dict[str, Any], norm: str, rate: float) -> float:
    """Return the number of the step, from 1, in which a run diverged, infinite if it did not."""
    divergence = run_of(data, norm, rate)["divergence"]
    return divergence["step"] + 1 if divergence else math.inf


def check(data: dict[str, Any]) -> list[Check]:
    """Compare the runs with what the paper says of its own."""
    epochs = run_of(data, "with", 0.1)["epochs"]
    before = epochs[int(CUTS[0] * len(epochs)) - 1]["train_accuracy"] if epochs else 0.0
    values = paper_values()["figure1"]
    paper = values["train_accuracy_before_first_cut_percent"]["bn_lr0.1"] / 100
    end = values["test_accuracy_end_percent"]
    lost = (end["bn_lr0.1"] - end["bn_lr0.0001"]) / 100
    digits = data["digits"]
    slow = digits["without"][0.0001]
    text = f"with BN: test accuracy lost at a rate of 0.0001, from 0.1 (CIFAR-10 in the paper: {lost:.3f})"
    return [
        between("with BN, rate 0.1: test accuracy at the end", at_end(data, "with", 0.1), 0.85, 1),
        between(f"… training accuracy before the first cut (CIFAR-10 in the paper: {paper:.3f})", before, 0.8, 1),
        between(text, at_end(data, "with", 0.1) - at_end(data, "with", 0.0001), LOST, 1),
        at_most("without BN, rate 0.1: number of the step whose loss is 1000 times the first or not finite",
                diverged_at(data, "without", 0.1), 10),
        *(between(f"digits, with BN, rate {rate:g}: training accuracy at the end, least of the seeds",
                  runs["train_accuracy"][:, -1].min(), BY_HEART, 1) for rate, runs in digits["with"].items()),
        between("digits, without BN, rate 0.0001: the same", slow["train_accuracy"][:, -1].min(), BY_HEART, 1),
        between("… test accuracy at the end, least of the seeds", slow["test_accuracy"][:, -1].min(), 0.9, 1),
    ]  # fmt: skip


def draw(data: dict[str, Any]) -> Figure:
    """Draw accuracies by epoch, of Fashion-MNIST above and of digits below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 8.6))
    upper, lower = figure.subplots(2)
    for run in data["runs"]:
        _draw_run(upper, run)
    for norm in NORMS.values():
        for rate, runs in data["digits"][norm].items():
            _draw_seeds(lower, runs, COLORS[norm, rate])
    for line, words in (("k-", "images held back"), ("k:", "in training")):
        upper.plot([], [], line, label=words)
    _draw_cuts(upper, len(data["runs"][0]["epochs"]), "α divided by 10")
    _draw_cuts(lower, data["digits"]["epochs"], None)
    upper.set(xlabel="epoch (batches of 128, crops and flips; one run each)")
    lower.set(xlabel="epoch (batches of 64; means of three seeds; thin: each)")
    upper.set_title("Fashion-MNIST at 32×32×3, 15 epochs", fontsize=11)
    lower.set_title(f"scikit-learn's digits at 8×8×3, {data['digits']['epochs']} epochs as in the paper", fontsize=11)
    for axes in (upper, lower):
        axes.set(ylabel="accuracy", ylim=(0, 1.02))
        axes.xaxis.label.set_fontsize(9.5)
    figure.supxlabel("ResNet-110, Xavier normal", fontsize=10.5)
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _draw_run(axes: Axes, run: dict[str, Any]) -> None:
    """One run, test accuracies solid and those in training dotted."""
    norm = "with" if "with B" in run["name"] else "without"
    rate, color = np.format_float_positional(run["learning_rate"]), COLORS[norm, run["learning_rate"]]
    label = f"{'with' if norm == 'with' else 'no'} BN, α = {rate}"
    if run["divergence"]:
        label += f": diverged in step {run['divergence']['step'] + 1}"
    solid = "--" if run["learning_rate"] < 1e-4 else "-"  # it lies on that of 0.0001
    for part, style in (("test", solid), ("train", ":")):
        values = [epoch[f"{part}_accuracy"] for epoch in run["epochs"]]
        axes.plot(range(1, len(values) + 1), values, style, color=color, label=label if part == "test" else None)


def _draw_seeds(axes: Axes, runs: dict[str, np.ndarray], color: str) -> None:
    """The mean over seeds, and every seed's accuracy of images held back."""
    for part, style in (("test", "-"), ("train", ":")):
        values = runs[f"{part}_accuracy"]
        axes.plot(np.arange(1, values.shape[1] + 1), values.mean(axis=0), style, color=color)
        if part == "test":
            axes.plot(np.arange(1, values.shape[1] + 1), values.T, color=color, lw=0.5, alpha=0.5)


def _draw_cuts(axes: Axes, epochs: int, label: str | None) -> None:
    """Where the learning rate is divided by ten."""
    for cut in CUTS:
        axes.axvline(cut * epochs, color="0.6", lw=1, zorder=0, label=label if cut == CUTS[0] else None)
