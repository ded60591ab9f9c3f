"""Figure 1: accuracy in training, with and without BN, from runs whose results are kept as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paper_figures.checks import Check, at_most, between
from paper_figures.values import committed, paper_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Figure 1: training with and without BN (Fashion-MNIST, not the paper's CIFAR-10)"
TEXT = (
    "ResNet-110 (Xavier normal), trained for 15 epochs on Fashion-MNIST in batches of 128 with crops and flips, the "
    "learning rate divided by ten twice. With BN a rate of 0.1 trains at once. Without BN that rate diverges in the "
    "second step, and at 0.0001, at which the paper's network without BN trains, this one is thrown to a constant "
    "output in the first epoch: its loss begins at hundreds, where the paper's begins lower. One run each, on a GPU."
)


def compute(seed: int = 0, device: str = "cpu") -> dict[str, Any]:
    """Read the runs.

    Parameters
    ----------
    seed, device : not used
        The runs were made once; see ``paper_figures/results``.

    Returns
    -------
    dict
        "date", "runs": name, command, learning_rate, divergence, epochs.
    """
    found = committed("fashion_training")
    names = ("name", "command", "learning_rate", "outcome", "divergence", "epochs", "machines", "data")
    return {"date": found["date"], "runs": [{name: run[name] for name in names} for run in found["runs"]]}


def check(data: dict[str, Any]) -> list[Check]:
    """Compare the runs with what the paper says of its own."""
    bn, _, large = data["runs"]
    before = bn["epochs"][len(bn["epochs"]) // 2 - 1]["train_accuracy"]
    paper = paper_values()["figure1"]["train_accuracy_before_first_cut_percent"]["bn_lr0.1"] / 100
    return [
        between("with BN, rate 0.1: test accuracy at the end", bn["epochs"][-1]["test_accuracy"], 0.85, 1),
        between(f"… training accuracy before the first cut (CIFAR-10 in the paper: {paper:.3f})", before, 0.8, 1),
        at_most("without BN, rate 0.1: step at which the loss is 1000 times the first or not finite",
                large["divergence"]["step"], 10),
    ]  # fmt: skip


def draw(data: dict[str, Any]) -> Figure:
    """Draw accuracies by epoch."""
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    for colour, run in enumerate(data["runs"]):
        label = f"{'with' if 'with B' in run['name'] else 'no'} BN, α = {run['learning_rate']:g}"
        epochs = range(1, len(run["epochs"]) + 1)
        if not run["epochs"]:
            axes.plot([], [], "x", color=f"C{colour}", label=f"{label}: diverged at step {run['divergence']['step']}")
            continue
        for part, style in (("test", "-"), ("train", ":")):
            values = [epoch[f"{part}_accuracy"] for epoch in run["epochs"]]
            axes.plot(epochs, values, style, color=f"C{colour}", label=f"{label}, {part}")
    axes.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1))
    run = data["runs"][0]
    figure.supxlabel(
        f"ResNet-110, Xavier normal; Fashion-MNIST at 32×32×3\n{run['machines'][0]['name']}, one run each",
        fontsize=10.5,
    )
    figure.legend(loc="outside upper center", ncols=2)
    return figure
