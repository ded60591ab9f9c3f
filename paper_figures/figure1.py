"""Figure 1: accuracy in training, with and without BN, from runs whose results are kept as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures.checks import Check, at_most, between
from paper_figures.values import committed, paper_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Figure 1: training with and without BN (Fashion-MNIST, not the paper's CIFAR-10)"
TEXT = (
    "ResNet-110 (Xavier normal), to be trained for 15 epochs on Fashion-MNIST in batches of 128 with crops and flips, "
    "the learning rate divided by ten twice. With BN it trains at all three of the paper's rates, worst at 0.0001 as "
    "in the paper, though 0.003 ends no lower than 0.1. Without BN 0.1 diverges in the second step, and at 0.0001, at "
    "which the paper's network without BN trains, this one is thrown to a constant output in the first epoch, at "
    "0.00001 too: its loss begins at hundreds, where the paper's begins lower. One run each, on a GPU; three ended "
    "early (×)."
)
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
        "date", "runs": name, command, learning_rate, outcome, divergence, epochs, machines, data of each.
    """
    found = committed("fashion_training")
    names = ("name", "command", "learning_rate", "outcome", "divergence", "epochs", "machines", "data")
    return {"date": found["date"], "runs": [{name: run[name] for name in names} for run in found["runs"]]}


def run_of(data: dict[str, Any], norm: str, rate: float) -> dict[str, Any]:
    """Return the run "with" or "without" BN at a learning rate."""
    (found,) = (
        run for run in data["runs"] if run["name"] == f"ResNet-110 {norm} BatchNorm" and run["learning_rate"] == rate
    )
    return found


def at_end(data: dict[str, Any], norm: str, rate: float) -> float:
    """Return the accuracy on images held back after the last epoch of a run."""
    return run_of(data, norm, rate)["epochs"][-1]["test_accuracy"]


def check(data: dict[str, Any]) -> list[Check]:
    """Compare the runs with what the paper says of its own."""
    epochs = run_of(data, "with", 0.1)["epochs"]
    before = [epoch["train_accuracy"] for epoch in epochs if epoch["learning_rate"] == 0.1][-1]
    values = paper_values()["figure1"]
    paper = values["train_accuracy_before_first_cut_percent"]["bn_lr0.1"] / 100
    end = values["test_accuracy_end_percent"]
    lost = (end["bn_lr0.1"] - end["bn_lr0.0001"]) / 100
    text = f"with BN: test accuracy lost at a rate of 0.0001, from 0.1 (CIFAR-10 in the paper: {lost:.3f})"
    return [
        between("with BN, rate 0.1: test accuracy at the end", at_end(data, "with", 0.1), 0.85, 1),
        between(f"… training accuracy before the first cut (CIFAR-10 in the paper: {paper:.3f})", before, 0.8, 1),
        between(text, at_end(data, "with", 0.1) - at_end(data, "with", 0.0001), LOST, 1),
        at_most("without BN, rate 0.1: step at which the loss is 1000 times the first or not finite",
                run_of(data, "without", 0.1)["divergence"]["step"], 10),
    ]  # fmt: skip


def draw(data: dict[str, Any]) -> Figure:
    """Draw accuracies by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5))
    axes = figure.subplots()
    for colour, run in enumerate(data["runs"]):
        rate = np.format_float_positional(run["learning_rate"])
        label = f"{'with' if 'with B' in run['name'] else 'no'} BN, α = {rate}"
        if not run["epochs"]:
            label += f": diverged at step {run['divergence']['step']}"
        for part, style in (("test", "-"), ("train", ":")):
            values = [epoch[f"{part}_accuracy"] for epoch in run["epochs"]]
            name = label if part == "test" else None
            axes.plot(range(1, len(values) + 1), values, style, color=f"C{colour}", label=name)
        if run["outcome"] == "unfinished":
            axes.plot(len(run["epochs"]), run["epochs"][-1]["test_accuracy"], "x", color=f"C{colour}")
    axes.plot([], [], "k-", label="images held back")
    axes.plot([], [], "k:", label="in training")
    axes.plot([], [], "kx", label="run ended early")
    rates = [epoch["learning_rate"] for epoch in data["runs"][0]["epochs"]]
    for cut, epoch in enumerate(place for place in range(1, len(rates)) if rates[place] < rates[place - 1]):
        axes.axvline(epoch + 0.5, color="0.6", lw=1, zorder=0, label="α divided by 10" if cut == 0 else None)
    axes.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1))
    run = data["runs"][0]
    figure.supxlabel(
        "ResNet-110, Xavier normal; Fashion-MNIST at 32×32×3\n15 epochs, batches of 128, crops and flips\n"
        f"{run['machines'][0]['name']}, one run each",
        fontsize=10.5,
    )
    figure.legend(loc="outside upper center", ncols=2)
    return figure
