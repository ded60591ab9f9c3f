"""Appendix: the largest learning rates with and without BN, by depth, from sweeps whose results are kept as data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures.checks import Check, between
from paper_figures.epochs import ACCURACIES
from paper_figures.values import committed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Learning rates by depth, with and without BN (digits and Fashion-MNIST, not the paper's CIFAR-10)"
TEXT = (
    "Accuracy in training at the end (left; 0: diverged), and right the largest learning rate at which three of ten "
    "images (large) or half of them (small, ★) are recognized, of ResNets with and without BN: without it the rates "
    "that still train fall with depth, by a factor of a hundred from depth 20 to 110. Xavier normal, digits (8×8, "
    "batches of 64), 16 epochs, three seeds each; ★: 165 epochs at depth 110; dotted, ◆: depth 20 on Fashion-MNIST "
    "(32×32, batches of 128, 15 epochs, one seed). In 16 epochs they fall with BN too, to 0.03 at depth 110, where "
    "one of three seeds without BN recognizes three of ten images at no rate; in 165, as many as the paper has, the "
    "largest rates there are 0.3 to 1 with BN, a thousand times those without. On digits and on Fashion-MNIST the "
    "largest rate at depth 20 is 0.1 or near it without BN, and 0.3 to 1 with it."
)
LEVELS = (0.3, 0.5)  # accuracies in training that count as learned; guessing has 0.1
RATIOS = (100, 1e4)  # of the largest rates at the greatest depth, where the paper has 1000
FALL = 10  # what from the shallowest to the deepest networks the ratio must grow, and the rate without BN fall by
NORMS = {"none": "no BN", "all": "BN"}


def compute(seed: int = 0, device: str = "cpu") -> dict[str, Any]:
    """Read the sweeps.

    Parameters
    ----------
    seed, device : not used
        The runs were made once; see ``paper_figures/results``.

    Returns
    -------
    dict
        "depths"; for each depth and norm "accuracy": rates → accuracies in training, one a seed, 0 for runs
        that diverged; "tested": the same on images held back; "largest": level → largest learning rate, one a seed,
        None where there is none. "fashion": the same for Fashion-MNIST at its one depth; "long": the same for digits
        at the greatest depth in as many epochs as the paper's.
    """
    data = swept(("digits_sweep", "digits_sweep_110"), NORMS)
    fashion = swept(("fashion_sweep", "fashion_sweep_bn"), NORMS)
    long = swept(("digits_training", "digits_sweep_165", "digits_sweep_165_bn"), NORMS)
    return {**data, "fashion": fashion, "long": long}


def swept(names: Iterable[str], norms: Iterable[str]) -> dict[str, Any]:
    """Read sweeps of those names, for networks with BN in these places; see `compute` for what is returned."""
    runs = [run for name in names for run in _ended(committed(name))]
    data: dict[str, Any] = {"depths": sorted({run["depth"] for run in runs})}
    for depth in data["depths"]:
        data[depth] = {
            norm: _case([run for run in runs if (run["depth"], run["norm"]) == (depth, norm)]) for norm in norms
        }
    return data


def _ended(sweep: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The runs of a sweep as they ended, those too whose accuracies are kept epoch by epoch."""
    for run in sweep["runs"]:
        ends = {} if "depth" in run else {"depth": sweep["depth"], **{name: run[name][-1] for name in ACCURACIES}}
        yield {**run, **ends}


def _case(runs: list[dict[str, Any]]) -> dict[str, Any]:
    accuracy: dict[float, list[float]] = {}
    tested: dict[float, list[float]] = {}
    largest: dict[float, dict[int, float]] = {level: {} for level in LEVELS}
    for run in sorted(runs, key=lambda run: run["seed"]):
        reached, rate = run["train_accuracy"] or 0.0, run["learning_rate"]
        accuracy.setdefault(rate, []).append(reached)
        tested.setdefault(rate, []).append(run["test_accuracy"] or 0.0)
        for level, found in largest.items():
            if reached >= level:
                found[run["seed"]] = max(rate, found.get(run["seed"], 0.0))
    seeds = sorted({run["seed"] for run in runs})
    return {
        "accuracy": accuracy,
        "tested": tested,
        "largest": {level: [found.get(seed) for seed in seeds] for level, found in largest.items()},
    }


def typical(largest: Iterable[float | None]) -> tuple[float, int]:
    """Geometric mean of the largest learning rates, and over how many seeds: those that have one.

    Examples
    --------
    >>> typical([0.25, 1.0, None])
    (0.5, 2)
    """
    found = [rate for rate in largest if rate is not None]
    return (float(np.exp(np.mean(np.log(found)))) if found else float("nan")), len(found)


def ratio(data: dict[str, Any], depth: int, level: float) -> tuple[float, int]:
    """Geometric mean of the largest rate with BN over that without, and over how many seeds: those that have both."""
    without, with_bn = (data[depth][norm]["largest"][level] for norm in NORMS)
    return typical(one / other if one and other else None for one, other in zip(with_bn, without, strict=True))


def check(data: dict[str, Any]) -> list[Check]:
    """Compare the ratios of learning rates with what the paper says, 1000 at depth 110 and less at smaller depths."""
    first, *_, last = data["depths"]
    (deep, seeds), (shallow, _) = (ratio(data, depth, LEVELS[0]) for depth in (last, first))
    long, seeds_long = ratio(data["long"], last, LEVELS[0])
    fashion = data["fashion"]
    (without, *_), (with_bn, *_) = (fashion[fashion["depths"][0]][norm]["largest"][LEVELS[0]] for norm in NORMS)
    text = f"depth {last}, 16 epochs: largest rate with BN over that without, {seeds} seeds that have both"
    return [
        between(text, deep, *RATIOS),
        between(f"… in 165 epochs, as the paper has (there 1000), {seeds_long} seeds", long, *RATIOS),
        between(f"depth {first}: the same", shallow, 1, 100),
        between(f"the first of these over the second, times at least {FALL}", deep / shallow, FALL, 1e4),
        between(f"Fashion-MNIST, depth {first}: largest rate without BN", without or 0.0, 0.03, 0.3),
        between("… with BN over that without", (with_bn or 0.0) / (without or np.inf), 1, 100),
    ]


def draw(data: dict[str, Any]) -> Figure:
    """Draw accuracies by learning rate, and the largest learning rates by depth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.8))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for colour, depth in enumerate(data["depths"]):
        for norm, style in zip(NORMS, ("--", "-"), strict=True):
            rates, accuracies = zip(*sorted(data[depth][norm]["accuracy"].items()), strict=True)
            label = f"depth {depth}, {NORMS[norm]}"
            left.plot(rates, [np.mean(each) for each in accuracies], style, color=f"C{colour}", label=label)
    (small,), (deep,) = data["fashion"]["depths"], data["long"]["depths"]
    for norm, colour in zip(NORMS, ("0.45", "k"), strict=True):
        rates, accuracies = zip(*sorted(data["fashion"][small][norm]["accuracy"].items()), strict=True)
        label = f"{small}, {NORMS[norm]}, Fashion-MNIST"
        left.plot(rates, [each[0] for each in accuracies], ":", marker=".", color=colour, label=label)
    for norm, style in zip(NORMS, ("--", "-"), strict=True):
        rates, accuracies = zip(*sorted(data["long"][deep][norm]["accuracy"].items()), strict=True)
        label = f"{deep}, {NORMS[norm]}, 165 epochs"
        left.plot(rates, [np.mean(each) for each in accuracies], style, marker="*", lw=1, color="C3", label=label)
    left.set(xscale="log", xlabel="learning rate α", ylabel="accuracy in training", ylim=(0, 1.02))
    for norm, marker in zip(NORMS, "so", strict=True):
        _largest(right, data, norm, marker)
    for norm, shift, colour in (("none", 0.85, "0.45"), ("all", 1.15, "k")):
        label = f"{NORMS[norm]}, Fashion"
        right.plot(shift * small, data["fashion"][small][norm]["largest"][0.5], "D", color=colour, ms=4, label=label)
    for norm, shift in (("none", 0.8), ("all", 1.13)):
        rates = np.array(data["long"][deep][norm]["largest"][0.5], dtype=float)
        places = shift * deep * 1.03 ** np.arange(len(rates))
        right.plot(places, rates, "*", color="C3", fillstyle="none" if norm == "none" else "full")
    right.set(xscale="log", yscale="log", xlabel="depth", ylabel="largest learning rate α")
    right.set(xlim=(13, 150), ylim=(1e-6, 2))  # with room for the legend
    right.set_xticks(data["depths"], [str(depth) for depth in data["depths"]])
    right.minorticks_off()
    right.legend(loc="lower left", frameon=True, framealpha=1)
    figure.supxlabel(
        "scikit-learn's digits, 8×8; 16 epochs (★: 165), batches of 64, momentum 0.9, three seeds\n"
        "Fashion-MNIST, 32×32; 15 epochs, batches of 128, momentum 0.9, crops and flips, one seed",
        fontsize=10.5,
    )
    figure.legend(*left.get_legend_handles_labels(), ncols=3, loc="outside upper center")
    return figure


def _largest(axes: Axes, data: dict[str, Any], norm: str, marker: str) -> None:
    colour = {"none": "C1", "all": "C0"}[norm]
    for level, fill in zip(LEVELS, ("none", colour), strict=True):
        points = [
            (depth * 1.03**seed, rate)  # seeds beside one another
            for depth in data["depths"]
            for seed, rate in enumerate(data[depth][norm]["largest"][level])
            if rate
        ]
        shift = {"none": 0.92, "all": 1.02}[norm]
        label = f"{NORMS[norm]}, {level:.0%}"
        axes.plot(
            [depth * shift for depth, _ in points], [rate for _, rate in points], marker,
            color=colour, markerfacecolor=fill, ls="none", ms=6 if fill == "none" else 4, label=label,
        )  # fmt: skip
