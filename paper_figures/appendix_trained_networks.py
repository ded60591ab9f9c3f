"""Appendix: where theory of random weights stops holding for networks in training, from runs kept as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures.checks import Check, at_most, between
from paper_figures.values import committed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Trained networks beside the theory of random ones (digits)"
TEXT = (
    "Four networks, three seeds each, trained on the digits. Every epoch theory is asked for networks with independent "
    "weights as large as theirs are by then. At initialization all rows lie where random ones do. After two epochs, "
    "44 steps, outputs are e² to e⁵ times as large in mean square as those of random networks; white gradients sent "
    "back from the outputs arrive e to e⁴ times too large, but with BN e³ times too small; Jacobians have left their "
    "law. It need not show in single matrices: "
    "without BN, nearly all weights of the ReLU networks still pass the test of randomness, whose p-values lie evenly "
    "from 0 to 1 for random ones. What has been learned is how weights fit one another and the images."
)
PANELS = {
    "gap_at_the_output": "ln mean square of outputs,\nmeasured − predicted",
    "gap_of_gradients": "ln gradient², first row,\nmeasured − predicted",
    "median_p_value": "p-value of weight matrices\n(median; 0.5: random)",
    "matrices_unlike_random": "share of weight matrices\nunlike random (p ≤ 1%)",
    "jacobian_distance": "distance of the Jacobian\nto its law (Kolmogorov)",
}


def compute(seed: int = 0, device: str = "cpu") -> dict[str, Any]:
    """Read the runs.

    Parameters
    ----------
    seed, device : not used
        The runs were made once; see ``paper_figures/results``.

    Returns
    -------
    dict
        "date", "command"; "steps"; "networks": by name and quantity an array (seeds, steps), NaN where there is none.
    """
    found = committed("trained_networks")
    networks: dict[str, dict[str, np.ndarray]] = {}
    for name in dict.fromkeys(run["network"] for run in found["runs"]):
        looks = [
            [{**look, "median_p_value": np.median(look["p_values"])} for look in run["looks"]]
            for run in found["runs"]
            if run["network"] == name
        ]
        networks[name] = {
            quantity: np.array([[look.get(quantity, np.nan) for look in each] for each in looks], dtype=float)
            for quantity in (*PANELS, "rows_outside_of_95%")
        }
    steps = [look["step"] for look in found["runs"][0]["looks"]]
    return {"date": found["date"], "command": found["command"], "steps": steps, "networks": networks}


def check(data: dict[str, Any]) -> list[Check]:
    """Ask for agreement at initialization, and for the distance after one epoch and at the end."""
    checks = []
    for name, found in data["networks"].items():
        outside = float(np.mean(found["rows_outside_of_95%"][:, 0]))
        checks.append(at_most(f"{name}: rows outside of the 95% band at initialization", outside, 0.15))
        gap = float(np.min(np.abs(found["gap_at_the_output"][:, -1])))
        first = float(np.max(np.abs(found["gap_of_gradients"][:, 0])))
        checks.append(at_most(f"{name}: distance of gradients at initialization, largest of the seeds", first, 1))
        checks.append(between(f"{name}: distance at the output when trained, smallest of the seeds", gap, 1, 20))
    return checks


def draw(data: dict[str, Any]) -> Figure:
    """Draw one panel a quantity."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 8))
    *panels, free = figure.subplots(3, 2).flat
    for axes, (quantity, words) in zip(panels, PANELS.items(), strict=True):
        for colour, (name, found) in enumerate(data["networks"].items()):
            mean = found[quantity].mean(axis=0)
            if np.isfinite(mean).all():
                axes.plot(data["steps"], mean, "o-", ms=3, color=f"C{colour}", label=name)
                axes.plot(data["steps"], found[quantity].T, color=f"C{colour}", lw=0.6, alpha=0.6)
        axes.set_ylabel(words, fontsize="small")
        axes.set_xlabel("training step", fontsize="small")
    free.axis("off")
    free.legend(*panels[0].get_legend_handles_labels(), loc="center")
    figure.supxlabel("scikit-learn's digits, 8×8; 16 epochs, three seeds (thin lines)", fontsize=10.5)
    return figure
