"""Appendix: noise of SGD's steps at initialization, beside its exact value and the paper's bound α²C/|B|.

Where the loss is a mean over N images, C = (1/N) Σ ‖∇ℓ_i − ∇ℓ‖², and E‖α∇ℓ − α∇ℓ_B‖² is α²C/|B| for mini-batches B
drawn with replacement, (N − |B|)/(N − 1) of that without. With BN ∇ℓ_B is not a mean of gradients of single images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures import networks
from paper_figures.checks import Check, at_least, near

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from simulations.training.probes.objective import Objective

TITLE = "Noise of SGD's steps beside the bound α²C/|B|"
TEXT = (
    "Squared distance of a mini-batch's step to the step with all images, on average over mini-batches. Without BN it "
    "is what the theorem says: α²C/|B| for images drawn with replacement, less by (N − |B|)/(N − 1) without, and the "
    "paper's bound holds. With BN the theorem has no C: an image has no gradient of its own, as that of a mini-batch "
    "depends on how its images normalize one another, and is not the mean of what single images give. Putting the "
    "noise of single images, each normalized by its own positions, in the place of C gives no bound. The gradients of "
    "mini-batches do not even have the gradient of all images as their mean, so that the distance to it exceeds the "
    "noise around the mean. Right: the noise itself for α = 1, and the squared gradient of all images (dotted). One "
    "network of each kind, of 20 layers where the paper has 110; N is small, as the theorem holds for any."
)
SERIES = {"nobn": ("without", "with"), "bn": ("without", "to_all")}
LABELS = {
    ("nobn", "without"): "no BN, without replacement",
    ("nobn", "with"): "no BN, with replacement",
    ("bn", "without"): "BN, around the mean step",
    ("bn", "to_all"): "BN, from the step with all images",
}
MARKERS = {("nobn", "without"): "o", ("nobn", "with"): "D", ("bn", "without"): "s", ("bn", "to_all"): "^"}
FALSE_ALARM = 1e-4  # of a check, for samples near enough to Gaussian ones


def compute(
    seed: int = 0,
    device: str = "cpu",
    depth: int = 20,
    images: int = 32,
    sizes: tuple[int, ...] = (1, 4, 16),
    batches: int = 32,
) -> dict[str, Any]:
    """Measure the noise of mini-batches of several sizes, from independent mini-batches.

    Parameters
    ----------
    seed : int
    device : {"cpu", "cuda"}
    depth : int
        Of the ResNets.
    images : int
        N, all images there are.
    sizes : tuple of int
        |B|, the first of them 1: with BN what stands for C is measured there.
    batches : int
        Mini-batches of every size.

    Returns
    -------
    dict
        "nobn", "bn": variance, C or what stands for it; for every series ratio and its standard error, (sizes,), of the
        noise over C/|B|; squared_gradient, ‖∇ℓ‖². "exact": (N − |B|)/(N − 1), (sizes,).
    """
    import torch

    from simulations.training.probes.objective import Objective, inner
    from simulations.training.probes.sgd_noise import variance_of_images

    def probe(kind: str, model: Any, *batch: Any) -> dict[str, Any]:
        objective = Objective(model, *batch, torch.nn.functional.cross_entropy)
        mean, variance = variance_of_images(objective)  # with BN of images alone, each normalized by its own positions
        whole = mean if kind == "nobn" else objective.gradient()[1]
        part: dict[str, Any] = {"variance": variance, "squared_gradient": inner(whole, whole)}
        for number, series in enumerate(SERIES[kind]):
            own = [_measured(kind, series, objective, whole, size, batches, (seed, number)) for size in sizes]
            ratio, error = np.transpose(own) * sizes / variance
            part[series] = {"ratio": ratio, "error": error}
        return part

    found = networks.measured(probe, networks.alone(1), depth, images, seed, device)
    count = np.array(sizes)
    data = {"sizes": count, "batches": batches, "images": images, "exact": (images - count) / (images - 1)}
    return {**data, "setting": networks.setting(depth, images, 1), "nobn": found["nobn"][0], "bn": found["bn"][0]}


def _measured(
    kind: str, series: str, objective: Objective, whole: Any, size: int, batches: int, seed: tuple[int, int]
) -> tuple[float, float]:
    """Noise of steps of length 1 and its standard error, from mini-batches that no other series has."""
    import torch

    from simulations import streams
    from simulations.statistics import mean_with_error
    from simulations.training.probes.sgd_noise import distance, noise_of_batches

    own = streams.stream(seed[0], 1000 * seed[1] + size)
    if series != "to_all":
        centre = whole if kind == "nobn" else None
        return noise_of_batches(objective, centre, size, batches, own, replace=series == "with")
    chosen = (torch.from_numpy(own.choice(objective.count, size, replace=False)) for _ in range(batches))
    mean, error = mean_with_error([distance(whole, objective.gradient(part=few)[1]) for few in chosen])
    return float(mean), float(error)


def check(data: dict[str, Any]) -> list[Check]:
    """Compare the noise without BN with its exact value, and with BN the distance to the step with all images."""
    from simulations.statistics import tolerance

    checks, freedom = [], data["batches"] - 1
    for series in SERIES["nobn"]:
        part = data["nobn"][series]
        expected = data["exact"] if series == "without" else np.ones(len(data["sizes"]))
        allowed = tolerance(part["error"], FALSE_ALARM, degrees_of_freedom=freedom)
        for size, *values in zip(data["sizes"], part["ratio"], expected, allowed, strict=True):
            text = f"{LABELS['nobn', series]}: noise of mini-batches of {size} over α²C/|B|"
            checks.append(near(text, *map(float, values)))
    around, apart = (data["bn"][series] for series in SERIES["bn"])
    # squared bias is at least 0; half of the mini-batches are left where noise is measured by pairs
    error = np.hypot(around["error"], apart["error"])
    allowed = tolerance(error, FALSE_ALARM, degrees_of_freedom=data["batches"] // 2 - 1)
    for size, bias, most in zip(data["sizes"], apart["ratio"] - around["ratio"], allowed, strict=True):
        text = f"BN: squared distance from the step with all images less noise, mini-batches of {size}"
        checks.append(at_least(text, float(bias), -float(most)))
    return checks


def draw(data: dict[str, Any]) -> Figure:
    """Draw the noise over what the theorem bounds it by, and the noise itself beside the squared gradient."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.2))
    left, right = figure.subplots(1, 2)
    sizes = np.geomspace(1, data["sizes"][-1], 50)
    left.axhline(1, ls="--", color="black", lw=1.4, label="bound α²C/|B|; exact with replacement")
    exact = (data["images"] - sizes) / (data["images"] - 1)
    left.plot(sizes, exact, color="black", label="exact without replacement")
    left.set(ylabel="noise over α²C/|B|")
    left.set_title("with BN, C is that of images alone", fontsize=10.5)
    right.set(yscale="log", ylabel=r"noise $E\,\|\alpha\nabla\ell-\alpha\nabla\ell_B\|^2$ for α = 1")
    for kind in networks.KINDS:
        color, variance = networks.COLORS[kind], data[kind]["variance"]
        right.plot(sizes, variance / sizes, "--", color=color, lw=1.4)
        right.axhline(data[kind]["squared_gradient"], ls=":", color=color)
        for series in SERIES[kind]:
            _dots(left, data, kind, series, np.ones(len(data["sizes"])))
            _dots(right, data, kind, series, variance / data["sizes"])
    right.plot([], [], ":", color="black", label="‖α∇ℓ‖² of all images")
    right.plot([], [], "--", color="black", lw=1.4, label="α²C/|B|")
    right.legend(handles=right.lines[-2:], loc="lower left", fontsize=10)
    for axes in (left, right):
        axes.set(xscale="log", xlabel="images in a mini-batch |B|")
        axes.set_xticks(data["sizes"], [str(size) for size in data["sizes"]])
        axes.minorticks_off()
    figure.legend(*left.get_legend_handles_labels(), ncols=2, loc="outside upper center", fontsize=10)
    figure.supxlabel(data["setting"], fontsize=10.5)
    return figure


def _dots(axes: Axes, data: dict[str, Any], kind: str, series: str, unit: np.ndarray) -> None:
    """What was measured, with two standard errors."""
    part, shift = data[kind][series], 0.97 if series == "without" else 1.03
    fill = {"mfc": "white"} if series != "without" else {}
    axes.errorbar(
        data["sizes"] * shift, part["ratio"] * unit, 2 * part["error"] * unit, fmt=MARKERS[kind, series], ms=6,
        capsize=2, color=networks.COLORS[kind], label=f"{LABELS[kind, series]} (± 2 s.e.)", **fill,
    )  # fmt: skip
