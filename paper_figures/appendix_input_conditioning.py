"""Appendix: inputs of wildly varying scale, against normalization of every sample, and against BN.

A ReLU network without biases is homogeneous, h(g x) = g h(x): a gain of the input comes out as it went in, and a
sample's share of a gradient of weights is proportional to it. Normalizing each sample removes it. BN divides all
samples of a batch by one number, which the largest of them sets; `batch_products` of `bntheory` has the law.
The idea is that of A. Borthakur, T. A. Cleland, "Signal conditioning for learning in the wild", NICE 2019.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures.checks import Check, at_least, at_most, near_mean
from paper_figures.input_scales import SPREADS, TREATMENTS, effective_share, images, moments_by_layer, network
from paper_figures.values import committed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bntheory.networks import Sequential

TITLE = "Inputs of varying scale: normalized one by one, or by BN (digits)"
TEXT = (
    "Every image times a gain e^(σξ), ξ standard normal, as light and sensors in the wild have it (after Borthakur, "
    "Cleland 2019, Signal conditioning for learning in the wild). Without normalization sizes stay spread through all "
    "layers, and the gradient of a batch is that of its few largest images. Dividing each image by its own size "
    "removes all of it (what dots have beside its lines is of finite width). BN is no replacement: it divides by what "
    "the largest images of a batch set. Small ones stay smaller, and as the mean is subtracted become nearly equal to "
    "one another, from which only many layers recover; they have as little part in the gradient. Trained with BN, "
    "networks do worse than without any normalization, in their batches, and more so when evaluated, where the running "
    "variance replaces that of the batch. Accuracies are at the best of eight learning rates, chosen on the same test "
    "images."
)
SHOWN = 2.0  # σ of what is drawn by layer and by learning rate
COLORS = {"raw": "C1", "sample": "C2", "batch": "C0"}
FALSE_ALARM = 1e-4  # of each comparison, for a correct program
WIDTH = 0.1  # beside chance, what theory of infinite width may miss of a spread, distance or share, relative
LEAD = 0.03  # between accuracies; set after the runs had been seen


def compute(
    seed: int = 0, device: str = "cpu", depth: int = 8, width: int = 256, batch: int = 64, networks: int = 24
) -> dict[str, Any]:
    """Predict and measure sizes of single images in networks at initialization; read the runs of training.

    Parameters
    ----------
    seed : int
    device : str
        Not used: this runs on the CPU.
    depth, width : int
        Of the ReLU networks at initialization, in float64.
    batch : int
        Images.
    networks : int
        Drawn of every kind.

    Returns
    -------
    dict
        For every treatment and spread: "moment", (depth + 1, batch), ln of the predicted mean of h² of every image, and
        "drawn_moment", (networks, depth + 1, batch), layer 0 being what the first weights read; "distance" and
        "drawn_distance", by layer, the median of 1 − cosine between images of the dimmer half; "share" (NaN with BN)
        and "drawn_share", the effective share of the batch in the gradient of the first weights. "training": the
        committed runs.
    """
    data: dict[str, Any] = {"depth": depth, "width": width, "images": batch, "networks": networks}
    for treatment in TREATMENTS:
        data[treatment] = {}
        for spread in SPREADS:
            found = images(spread, seed)
            inputs, dim = found.learn[:batch], found.normals[:batch] < np.median(found.normals[:batch])
            data[treatment][spread] = {
                **_predicted(treatment, inputs, dim, depth),
                **_drawn(network(treatment, depth, width, classes=None), inputs, dim, networks, seed),
            }
    return {**data, "training": committed("input_conditioning")}


def _predicted(treatment: str, inputs: np.ndarray, dim: np.ndarray, depth: int) -> dict[str, Any]:
    if treatment == "sample":
        inputs = inputs - inputs.mean(axis=1, keepdims=True)
        inputs = inputs / inputs.std(axis=1, keepdims=True)
    moments = moments_by_layer(inputs, depth, treatment == "batch")
    sizes = np.diagonal(moments, axis1=1, axis2=2)
    # gradients at the first layer's output have the same expected size for all images, if each stays by itself
    share = effective_share(sizes[0]) if treatment != "batch" else math.nan
    return {"moment": np.log(sizes), "distance": median_distance(moments, dim), "share": float(share)}


def median_distance(products: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Median over pairs of the chosen images of 1 − cosine, from stacks of the inner products of all, (…, B, B)."""
    some = products[..., chosen, :][..., chosen]
    root = np.sqrt(np.diagonal(some, axis1=-2, axis2=-1))
    distances = 1 - some / (root[..., :, None] * root[..., None, :])
    return np.median(distances[..., *np.triu_indices(some.shape[-1], 1)], axis=-1)


def _drawn(net: Sequential, inputs: np.ndarray, dim: np.ndarray, networks: int, seed: int) -> dict[str, np.ndarray]:
    from simulations.training.devices import one_torch_thread
    from simulations.training.modules import build

    with one_torch_thread():
        found = [_passed(build(net, seed, "float64", draw), inputs, draw) for draw in range(networks)]
    products, shares = (np.array(part) for part in zip(*found, strict=True))
    sizes = np.diagonal(products, axis1=-2, axis2=-1)
    return {"drawn_moment": np.log(sizes), "drawn_distance": median_distance(products, dim), "drawn_share": shares}


def _passed(model: Any, inputs: np.ndarray, draw: int) -> tuple[np.ndarray, float]:
    """⟨h hᵀ⟩ over the batch in every layer, and the effective share for a white gradient at the output."""
    import torch

    h = torch.from_numpy(inputs)
    outputs: list[Any] = []
    for module in model:
        before, h = h, module(h)
        if not outputs and isinstance(module, torch.nn.Linear):
            outputs, first = [before], h
        if isinstance(module, torch.nn.ReLU):
            outputs.append(h)
    white = torch.from_numpy(np.random.default_rng(draw).standard_normal(h.shape))
    (gradient,) = torch.autograd.grad(h, first, white)
    parts = (gradient**2).sum(1) * (outputs[0] ** 2).sum(1)
    products = [(output @ output.T / output.shape[1]).detach().numpy() for output in outputs]
    return np.array(products), float(effective_share(parts.detach().numpy()))


def spread_of(moments: np.ndarray) -> np.ndarray:
    """Standard deviation of ln ⟨h²⟩ over the images of a batch, the last axis."""
    return moments.std(axis=-1)


def training(data: dict[str, Any], treatment: str, spread: float, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Learning rates and accuracies, (rates, seeds); 0 where a run diverged."""
    found: dict[float, list[float]] = {}
    for run in data["training"]["runs"]:
        if (run["treatment"], run["spread"]) == (treatment, spread):
            found.setdefault(run["learning_rate"], []).append(run.get(what, 0.0))
    return np.array(list(found)), np.array(list(found.values()))


def best(data: dict[str, Any], treatment: str, spread: float, what: str = "test_accuracy") -> np.ndarray:
    """Accuracies of all seeds at the learning rate whose mean over seeds is highest."""
    _, accuracies = training(data, treatment, spread, what)
    return accuracies[accuracies.mean(axis=1).argmax()]


def check(data: dict[str, Any]) -> list[Check]:
    """Compare exact laws to rounding, sizes behind BN with theory, and the order of trained networks."""
    raw, sample, batch = (data[treatment] for treatment in TREATMENTS)
    start, spread = SPREADS[0], SPREADS[-1]
    gains = raw[spread]["drawn_moment"] - raw[start]["drawn_moment"]
    carried = np.abs(gains - gains[:, :1]).max()
    kept = np.abs(sample[spread]["drawn_moment"] - sample[start]["drawn_moment"]).max()
    words = f"gains of σ = {spread:g}, largest deviation of ln⟨h²⟩ over images and layers"
    checks = [
        at_most(f"no normalization: output carries the input's gain; {words}", carried, 1e-9),
        at_most(f"each image normalized: nothing of the gain is left; {words}", kept, 1e-9),
    ]
    for spread in SPREADS[1:]:
        for name, layer in (("first", 1), ("last", -1)):
            text = f"BN, σ = {spread:g}, {name} layer"
            drawn, theory = (spread_of(batch[spread][key][..., layer, :]) for key in ("drawn_moment", "moment"))
            checks.append(near_mean(f"{text}: spread of ln⟨h²⟩", drawn, theory, WIDTH * theory, FALSE_ALARM))
            drawn, theory = (np.log(batch[spread][key][..., layer]) for key in ("drawn_distance", "distance"))
            checks.append(near_mean(f"{text}: ln of the distance of dim images", drawn, theory, WIDTH, FALSE_ALARM))
        share = raw[spread]["share"]
        text = f"no normalization, σ = {spread:g}: effective share of the batch in the gradient"
        checks.append(near_mean(text, raw[spread]["drawn_share"], share, WIDTH * share, FALSE_ALARM))
    return [*checks, *_check_training(data)]


def _check_training(data: dict[str, Any]) -> list[Check]:
    raw, sample, batch = (best(data, treatment, SHOWN).mean() for treatment in TREATMENTS)
    loss = best(data, "sample", SPREADS[0]).mean() - best(data, "sample", SPREADS[-1]).mean()
    text = f"trained, σ = {SHOWN:g}: test accuracy"
    return [
        at_most("trained, each image normalized: test accuracy lost by gains of σ = 3", loss, 0.01),
        at_least(f"{text} with each image normalized less that without normalization", sample - raw, LEAD),
        at_least(f"{text} without normalization less that with BN", raw - batch, LEAD),
    ]


def draw(data: dict[str, Any]) -> Figure:
    """Draw sizes by layer and by σ, distances, shares of the gradient, and accuracies of trained networks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 10.4))
    panels = figure.subplots(3, 2)
    _by_layer(panels[0, 0], data, spread_of, "moment")
    _by_layer(panels[1, 0], data, np.asarray, "distance")
    panels[0, 0].set(ylabel="std over images of ln ⟨h²⟩")
    panels[1, 0].set(yscale="log", ylabel="1 − cosine of dim images")
    _by_spread(panels[0, 1], data, lambda moments: spread_of(moments[..., -1, :]), "moment")
    _by_spread(panels[1, 1], data, np.asarray, "share")
    sigma = np.linspace(0, SPREADS[-1], 50)
    limit = panels[1, 1].plot(sigma, np.exp(-4 * sigma**2), "k:", lw=1.2, label="e^(−4σ²), many images")
    panels[1, 1].legend(handles=limit, fontsize=9.5)
    panels[0, 1].set(ylabel=f"the same, layer {data['depth']}")
    panels[1, 1].set(yscale="log", ylim=(0.6 / data["images"], 1.5), ylabel="effective share of the batch")
    _accuracy_by_spread(panels[2, 0], data)
    _accuracy_by_rate(panels[2, 1], data)
    for axes in (panels[0, 1], panels[1, 1], panels[2, 0]):
        axes.set(xlabel="σ of the gains, in nats")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), ncols=3, loc="outside upper center")
    runs = data["training"]
    figure.supxlabel(
        f"at initialization: {data['images']} of scikit-learn's digits, 8×8, {data['networks']} networks of "
        f"{data['depth']} × {data['width']} units; lines: theory, infinite width\n"
        f"trained: {runs['network']}, {runs['epochs']} epochs, batches of {runs['batch_size']}, three seeds (dots)",
        fontsize=10,
    )
    return figure


STYLES = {"raw": {"lw": 3.5, "ms": 7}, "sample": {"lw": 1.4, "ms": 4}, "batch": {"lw": 1.4, "ms": 4.5}}  # some coincide


def _pair(axes: Axes, at: Any, theory: Any, drawn: Any, treatment: str) -> None:
    """Theory as a line, drawn networks as dots."""
    style, color = STYLES[treatment], COLORS[treatment]
    axes.plot(at, theory, color=color, lw=style["lw"], label=TREATMENTS[treatment])
    axes.plot(at, drawn, "o", color=color, ms=style["ms"])


def _by_layer(axes: Axes, data: dict[str, Any], value: Any, key: str) -> None:
    for treatment in TREATMENTS:
        part = data[treatment][SHOWN]
        drawn = value(part[f"drawn_{key}"]).mean(axis=0)
        _pair(axes, np.arange(data["depth"] + 1), value(part[key]), drawn, treatment)
    axes.set(xlabel=f"layer (σ = {SHOWN:g})")


def _by_spread(axes: Axes, data: dict[str, Any], value: Any, key: str) -> None:
    for treatment in TREATMENTS:
        parts = data[treatment].values()
        theory, drawn = ([np.mean(value(part[name])) for part in parts] for name in (key, f"drawn_{key}"))
        _pair(axes, SPREADS, theory, drawn, treatment)


def _accuracy_by_spread(axes: Axes, data: dict[str, Any]) -> None:
    for treatment in TREATMENTS:
        color = COLORS[treatment]
        seeds = np.array([best(data, treatment, spread) for spread in SPREADS])
        axes.plot(SPREADS, seeds.mean(axis=1), color=color, lw=1.4)
        axes.plot(np.repeat(SPREADS, seeds.shape[1]), seeds.ravel(), "o", ms=3.5, color=color)
    within = [best(data, "batch", spread, "batch_accuracy").mean() for spread in SPREADS]
    axes.plot(SPREADS, within, "--", color=COLORS["batch"], lw=1.4, label="BN, in training, by batch")
    axes.set(ylim=(0, 1.02), ylabel="test accuracy, best rate")
    axes.legend(loc="lower left", fontsize=9.5)


def _accuracy_by_rate(axes: Axes, data: dict[str, Any]) -> None:
    for treatment in TREATMENTS:
        rates, accuracies = training(data, treatment, SHOWN, "test_accuracy")
        axes.plot(rates, accuracies.mean(axis=1), color=COLORS[treatment], lw=1.4)
        axes.plot(np.repeat(rates, accuracies.shape[1]), accuracies.ravel(), "o", ms=3.5, color=COLORS[treatment])
    axes.set(xscale="log", xlabel="learning rate α", ylabel=f"test accuracy, σ = {SHOWN:g}", ylim=(-0.02, 1.02))
