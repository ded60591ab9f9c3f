"""Figure 4: means and variances of channels while a diverging step is taken, without BN."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures import networks
from paper_figures.checks import Check, at_least
from paper_figures.values import committed, paper_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Figure 4: channels along a diverging step, without BN"
TEXT = (
    "Magnitude of the channels' means and their variances as a step of 0.001, ten times the paper's learning rate "
    "without BN, is taken along the gradient: the deeper the layer, the more they grow. Below, the mean over channels "
    "of their variances, and what theory predicts for independent weights of the sizes that they have after a part of "
    "the step: weights hardly grow, and what makes activations explode is that changes of weights are aligned from "
    "layer to layer, which such a theory does not know. The size of the paper's step is not stated, so that only the "
    "order of the layers is compared."
)
LAYERS = (8, 44, 80)
STEP = 1e-3


def compute(
    seed: int = 0,
    device: str = "cpu",
    depth: int = 110,
    images: int = 128,
    layers: tuple[int, ...] = LAYERS,
    points: int = 11,
    theory_images: int = 8,
) -> dict[str, Any]:
    """Measure channels along the step, and predict growth at its ends for independent weights of the same sizes.

    Parameters
    ----------
    seed : int
    device : {"cpu", "cuda"}
    depth, images : int
    layers : tuple of int
        Along the main path.
    points : int
        Parts of the step that are looked at, its ends included.
    theory_images : int
        Of the mini-batch, for which theory predicts.

    Returns
    -------
    dict
        fractions; for every layer mean and variance, (points, channels), and predicted: ln of the mean over channels of
        the variance at the start and at the end; log_relative_loss, (points,).
    """
    from bntheory import predict_module
    from simulations import moments_along_step
    from simulations.training.devices import one_torch_thread
    from simulations.training.modules import build

    model, batch = build(networks.resnet(depth, "nobn"), seed).to(device), networks.batch(images, seed)
    names = [networks.layer_of(model, layer) for layer in layers]
    with one_torch_thread():
        found = moments_along_step(model, *batch, step=STEP, layers=names, fractions=np.linspace(0, 1, points))
        predicted = []
        for part in (0, STEP):
            _move(model, batch, part)
            growth = predict_module(model, batch.images[:theory_images])
            at = np.flatnonzero(networks.main_path(growth.rows))[np.array(layers) - 1]
            predicted.append(growth.log_channel_variance[at])
    data: dict[str, Any] = {"layers": layers, "step": STEP, "fractions": found.fractions}
    data |= {"log_relative_loss": found.log_relative_loss, "setting": networks.setting(depth, images, 1)}
    for layer, mean, variance, ends in zip(layers, found.mean, found.variance, np.transpose(predicted), strict=True):
        data[layer] = {"mean": mean, "variance": variance, "predicted": ends}
    return data


def _move(model: Any, batch: networks.Batch, step: float) -> None:
    """Take a step along the gradient."""
    import torch

    from simulations.training.probes.objective import Objective

    if step:
        _, gradient = Objective(model, *batch, torch.nn.functional.cross_entropy).finite_gradient()
        with torch.no_grad():
            for own, part in zip(model.parameters(), gradient, strict=True):
                own -= step * part


def growths(data: dict[str, Any]) -> list[float]:
    """ln of the largest channel variance after the step over that before, layer by layer."""
    largest = [np.log(data[layer]["variance"].max(axis=1)) for layer in data["layers"]]
    return [float(part[-1] - part[0]) for part in largest]


def check(data: dict[str, Any]) -> list[Check]:
    """Check that the step diverges and that deeper layers grow more: here, and in every committed draw."""
    many = committed("step_probes")
    found = growths(data)
    runs = [run["moments"][1] for run in many["runs"]["nobn"]]
    ends = [np.log([run["max_variance_before_step"], run["max_variance_at_full_step"]]) for run in runs]
    least = float(np.min([np.diff(end[1] - end[0]) for end in ends]))
    text = "growth of the largest ln variance, least difference of a layer to the one before"
    return [
        at_least("ln of the relative loss after the step", data["log_relative_loss"][-1], math.log(1e3)),
        at_least(f"{text}, here", float(np.min(np.diff(found))), 0),
        at_least(f"{text}, {many['draws']} draws", least, 0),
    ]


def draw(data: dict[str, Any]) -> Figure:
    """Draw maps of mean and variance for every layer, and the mean variances along the step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 10.5))
    layers, percent = data["layers"], 100 * data["fractions"]
    rows = [[f"mean {layer}", f"variance {layer}"] for layer in layers]
    parts = figure.subplot_mosaic([*rows, ["line", "line"]], height_ratios=[1] * len(layers) + [1.5])
    for layer in layers:
        for name, symbol in (("mean", "|mean|"), ("variance", "variance")):
            values, axes = np.abs(data[layer][name]), parts[f"{name} {layer}"]
            logs = np.log10(np.where(np.isfinite(values) & (values > 0), values, np.nan))
            shown = axes.pcolormesh(np.arange(values.shape[1]), percent, logs, cmap="cividis", rasterized=True)
            axes.grid(False)
            axes.set_title(f"layer {layer}: log₁₀ {symbol}", fontsize=10.5)
            figure.colorbar(shown, ax=axes)
        parts[f"mean {layer}"].set_ylabel("% of step")
    for name in ("mean", "variance"):
        parts[f"{name} {layers[-1]}"].set_xlabel("channel")
    axes = parts["line"]
    for index, layer in enumerate(layers):
        variance = np.log10(data[layer]["variance"].mean(axis=1))
        axes.plot(percent, variance, "o-", ms=3.5, color=f"C{index}", label=f"layer {layer}")
        ends = data[layer]["predicted"] / math.log(10)
        axes.plot([0, 100], ends, "s--", mfc="white", ms=5, lw=1, color=f"C{index}")
        paper = paper_values()["figure4"]
        if layer in paper["layers"]:
            most = paper["max_variance_at_full_step"][paper["layers"].index(layer)]
            axes.plot(103, math.log10(most), "D", ms=6, color=f"C{index}", mec="black", clip_on=False)
    axes.plot([], [], "s--", mfc="white", color="black", lw=1, label="theory, independent weights")
    axes.plot([], [], "D", color="white", mec="black", label="paper, largest channel")
    axes.set(xlabel=f"% of a step of {data['step']:g}", ylabel="log₁₀ mean variance")
    axes.legend(loc="upper left", fontsize=9)
    figure.supxlabel(data["setting"], fontsize=10.5)
    return figure
