"""Figure 3: the loss of a mini-batch along its own gradient, at initialization, and what makes it grow.

On the quadratic of the loss at the start, ℓ − α‖g‖² + ½ α² gᵀHg, the loss is at ℓ again at α = 2‖g‖²/gᵀHg. Where
outputs z are large, ln Σ_j e^{z_j} − z_y is the distance of z_y to the largest of them: the loss grows as they do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures import networks
from paper_figures.checks import Check, at_most
from paper_figures.values import committed, paper_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Figure 3: relative loss along a step"
TEXT = (
    "Loss of a mini-batch after a step of size α along its own gradient, over the loss before. Without BN it passes "
    "1000, which the paper calls divergence, at steps where with BN it still falls; with BN it stays below 10 up to "
    "0.2. Without BN steps are several times smaller than in the paper, by 4 to 11 here: with Xavier normal weights "
    "and projection shortcuts the loss starts at several hundred. The quadratic of the loss at the start (curvature "
    "along the gradient by differentiation, first mini-batch) is back at its start long before the loss is: "
    "activations grow as products over layers, not as a quadratic. The loss follows them, as the size of the outputs "
    "along the same step shows (+). With BN the curvature may be negative, and is not drawn."
)
BATCHES = (1, 4, 7)
STEPS = {"nobn": np.geomspace(1e-6, 2e-3, 10), "bn": np.geomspace(1e-4, 0.2, 8)}
THRESHOLD, ALLOWED = 1e3, 10.0
UNLIKE = 0.1  # of ln of the relative loss after the largest step, that the outputs leave; set after it was seen


def compute(
    seed: int = 0, device: str = "cpu", depth: int = 110, images: int = 128, batches: tuple[int, ...] = BATCHES
) -> dict[str, Any]:
    """Measure the loss along the gradients of several mini-batches of one network of each kind.

    Parameters
    ----------
    seed : int
    device : {"cpu", "cuda"}
    depth, images : int
        Of the networks, of a mini-batch.
    batches : tuple of int
        Numbers of the mini-batches.

    Returns
    -------
    dict
        "nobn", "bn": steps; for every mini-batch loss, log_relative_loss and diverging_step (None if there is none);
        "curved": loss, ‖g‖² and gᵀHg of the first mini-batch without BN, and the step where the quadratic is level;
        "outputs": for it, ln of the outputs' root mean square over that at the start.
    """
    from simulations import loss_along_step

    def probe(kind: str, model: Any, *batch: Any) -> dict[str, Any]:
        found = loss_along_step(model, *batch, steps=STEPS[kind], threshold=THRESHOLD)
        names = ("loss", "log_relative_loss", "diverging_step")
        return {name: getattr(found, name) for name in names}

    found = networks.measured(probe, [(0, number) for number in batches], depth, images, seed, device)
    data: dict[str, Any] = {"batches": batches, "setting": networks.setting(depth, images, 1)}
    data |= {kind: {"steps": STEPS[kind], "batches": found[kind]} for kind in networks.KINDS}
    first = depth, images, seed, batches[0], device
    return {**data, "curved": _curved(*first), "outputs": _outputs(*first)}


def _curved(depth: int, images: int, seed: int, number: int, device: str) -> dict[str, float]:
    """Loss, ‖g‖² and gᵀHg without BN, the latter by differentiating the gradient."""
    from torch.nn.functional import cross_entropy

    from simulations.training.devices import one_torch_thread
    from simulations.training.modules import build
    from simulations.training.probes.objective import Objective, inner

    model = build(networks.resnet(depth, "nobn"), seed).to(device)
    with one_torch_thread():
        loss, gradient, product = Objective(model, *networks.batch(images, seed, number), cross_entropy).curved()
        square, curvature = inner(gradient, gradient), inner(gradient, product(gradient))
    level = 2 * square / curvature if curvature > 0 else math.inf
    return {"loss": loss, "squared_gradient": square, "curvature": curvature, "level_step": level}


def _outputs(depth: int, images: int, seed: int, number: int, device: str) -> np.ndarray:
    """ln of the outputs' root mean square at the steps without BN, over that at the start."""
    from simulations import moments_along_step
    from simulations.training.devices import one_torch_thread
    from simulations.training.modules import build

    model, steps = build(networks.resnet(depth, "nobn"), seed).to(device), STEPS["nobn"]
    layers, fractions = [networks.layer_of(model, depth)], [0, *steps / steps[-1]]
    with one_torch_thread():
        batch = networks.batch(images, seed, number)
        found = moments_along_step(model, *batch, step=float(steps[-1]), layers=layers, fractions=fractions)
    square = (found.mean[0] ** 2 + found.variance[0]).mean(axis=1)
    return np.log(square[1:] / square[0]) / 2


def check(data: dict[str, Any]) -> list[Check]:
    """Check where the loss diverges, here and in the committed draws."""
    many = committed("step_probes")
    runs = {kind: [run["diverging_step"] for run in many["runs"][kind]] for kind in networks.KINDS}
    largest = [float(max(run["log_relative_loss"])) for run in many["runs"]["bn"]]
    own = [np.max(run["log_relative_loss"]) for run in data["bn"]["batches"]]
    draws, count = many["draws"], len(data["batches"])
    lost = data["nobn"]["batches"][0]["log_relative_loss"]
    last = np.flatnonzero(np.isfinite(lost) & np.isfinite(data["outputs"]))[-1]
    unlike = abs(1 - data["outputs"][last] / lost[last])
    passes, below = "without BN, step where the relative loss passes 1000", "with BN, largest relative loss up to 0.2"
    return [
        at_most(f"{passes}, largest of {count} mini-batches", _latest(data["nobn"]["batches"]), 1e-2),
        at_most(f"{passes}, largest of {draws} draws", max(step or math.inf for step in runs["nobn"]), 1e-2),
        at_most(f"{below}, {count} mini-batches", math.exp(max(own)), ALLOWED),
        at_most(f"{below}, {draws} draws", math.exp(max(largest)), ALLOWED),
        at_most("without BN, largest step: share of ln relative loss that is not growth of outputs", unlike, UNLIKE),
    ]


def _latest(runs: list[dict[str, Any]]) -> float:
    return max(math.inf if run["diverging_step"] is None else run["diverging_step"] for run in runs)


def draw(data: dict[str, Any]) -> Figure:
    """Draw the loss of every mini-batch against the step, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6.4))
    axes = figure.subplots()
    for kind, name in networks.KINDS.items():
        for number, run, marker in zip(data["batches"], data[kind]["batches"], "os^", strict=False):
            decades = run["log_relative_loss"] / math.log(10)
            label = f"{name}, mini-batch {number}"
            axes.plot(data[kind]["steps"], decades, f"{marker}-", ms=4, color=networks.COLORS[kind], label=label)
    curved, steps = data["curved"], np.geomspace(1e-6, 2e-3, 400)
    relative = 1 + (-steps * curved["squared_gradient"] + steps**2 * curved["curvature"] / 2) / curved["loss"]
    shown = relative > 0.1
    axes.plot(
        np.where(shown, steps, np.nan), np.log10(np.where(shown, relative, 1)), "k--", lw=1.2,
        label="quadratic at 0, without BN, first mini-batch",
    )  # fmt: skip
    size = data["outputs"] / math.log(10)
    axes.plot(STEPS["nobn"], size, "k+", ms=9, label="size of outputs, without BN, first mini-batch")
    paper = paper_values()["figure3"]["nobn"]["step_where_relative_loss_passes_1e3"]
    axes.plot(paper, [3] * len(paper), "D", mfc="white", color="C2", label="paper, without BN: passes 1000")
    axes.axhline(3, color="black", lw=1, ls=":")
    axes.set(xscale="log", ylim=(-2.5, 7), xlabel="step size α", ylabel="log₁₀ ℓ(θ − αg) / ℓ(θ)")
    figure.legend(loc="outside upper center", ncols=2, fontsize=9.5)
    figure.supxlabel(data["setting"], fontsize=10.5)
    return figure
