"""How large activations get in deep ReLU networks of three initializations: law, simulation, torch.

The paper's text says that classical initializations keep the variance constant only on average over weights; this shows
how far single networks stray, and that the exact law of ln(mean h²) for one input says so in advance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures.checks import Check, covered, near

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Size of activations in deep ReLU networks"
TEXT = (
    "Mean square ⟨h²⟩ of the activations of single networks for one image: He's initialization keeps its "
    "expectation, yet typical networks shrink and differ from draw to draw; Xavier's halves it at every square layer; "
    "torch's default falls to a level that its biases hold (its law is of first order in 1/width, the others are "
    "exact). The image is one of scikit-learn's 1797 digits of 8×8 pixels (not CIFAR-10), the same for law, "
    "simulation and torch: the band is over draws of the weights for this input, and no mean over a batch is taken."
)
INITS = {"he_normal": "He normal", "xavier_normal": "Xavier normal", "torch_default": "torch's default (uniform)"}
LEVEL = 0.9
FALSE_ALARM = 1e-4  # of each row of the table, for a correct program


def compute(
    seed: int = 0, device: str = "cpu", depth: int = 100, width: int = 128, networks: int = 300, modules: int = 40
) -> dict[str, Any]:
    """Predict, simulate and measure ln ⟨h²⟩ after every activation, for one digit.

    Parameters
    ----------
    seed : int
    device : {"cpu", "cuda"}
        Of the torch modules.
    depth, width : int
    networks, modules : int
        Simulated networks and torch modules.

    Returns
    -------
    dict
        For every initialization: mean, lower, upper (layers + 1,), simulated (networks, layers + 1), measured
        (modules, layers + 1), and the band's method. Layer 0 is the input.
    """
    from bntheory import mlp, predict_growth
    from simulations import streams
    from simulations.growth import simulate_growth
    from simulations.training.datasets import batch_of, digits

    image = batch_of(digits()[0], 1, seed).reshape(1, 64)
    every_layer = slice(0, None, 2)  # rows: the input, then Dense and ReLU in turn
    data: dict[str, Any] = {"depth": depth, "width": width}
    for index, init in enumerate(INITS):
        own = streams.root(streams.stream(seed, index))  # else He's and Xavier's networks would be the same, scaled
        net = mlp(depth, width, init=init, input_width=64)
        growth = predict_growth(net, inputs=image)
        lower, upper = growth.band(LEVEL)
        samples = simulate_growth(net, networks, image, seed=own, gradients=False)
        data[init] = {
            "method": growth.band_method[-1],
            "mean": growth.log_growth_mean[every_layer],
            "lower": lower[every_layer],
            "upper": upper[every_layer],
            "simulated": samples.log_second_moment[:, every_layer],
            "measured": _measured(net, image, modules, own, device)[:, every_layer],
        }
    return data


def _measured(net: Any, image: np.ndarray, modules: int, seed: int, device: str) -> np.ndarray:
    from simulations.training.devices import one_torch_thread
    from simulations.training.modules import build
    from simulations.training.probes.measured_growth import measure_growth

    with one_torch_thread():
        models = (build(net, seed, draw=draw).to(device) for draw in range(modules))
        return np.concatenate([measure_growth(model, image).log_second_moment for model in models])


def check(data: dict[str, Any]) -> list[Check]:
    """Compare the last layer: means of simulation and torch with the law's, and the share inside the band."""
    from simulations.statistics import mean_with_error, tolerance

    checks = []
    for init, name in INITS.items():
        part = data[init]
        for source in ("simulated", "measured"):
            mean, error = mean_with_error(part[source][:, -1])
            count = len(part[source])
            # 4 standard errors of many networks; of few, the quantile of Student's law that is as rarely exceeded
            allowed = float(tolerance(error, FALSE_ALARM, degrees_of_freedom=count - 1))
            checks.append(near(f"{name}: mean of {count} {source}", float(mean), part["mean"][-1], allowed))
        inside = (part["simulated"][:, -1] > part["lower"][-1]) & (part["simulated"][:, -1] < part["upper"][-1])
        text = f"{name}: share of simulated inside the {LEVEL:.0%} band"
        checks.append(covered(text, inside, LEVEL, FALSE_ALARM))
    return checks


def draw(data: dict[str, Any]) -> Figure:
    """Draw one panel an initialization."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 8.4))
    panels = figure.subplots(len(INITS), sharex=True)
    layers = np.arange(data["depth"] + 1)
    some = layers[:: max(1, len(layers) // 20)]
    for axes, (init, name) in zip(panels, INITS.items(), strict=True):
        part = data[init]
        axes.fill_between(layers, part["lower"], part["upper"], alpha=0.3, lw=0, label=f"law: {LEVEL:.0%} band")
        axes.plot(layers, part["mean"], label="law: mean")
        tails = np.quantile(part["simulated"], [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2], axis=0)
        label = f"{len(part['simulated'])} simulated: 5, 50, 95%"
        axes.plot(layers, tails.T, "--", color="black", lw=1, label=[label, None, None])
        axes.plot(some, part["measured"][:, some].T, ".", color="C1", ms=3.5)
        axes.plot([], [], ".", color="C1", label=f"{len(part['measured'])} torch networks")
        axes.set_title(f"{name}, depth {data['depth']}, width {data['width']}")
        axes.set_ylabel("ln ⟨h²⟩")
    figure.legend(*panels[0].get_legend_handles_labels(), ncols=2, loc="outside upper center")
    panels[-1].set_xlabel("layer ℓ")
    figure.supxlabel("one of scikit-learn's digits, 8×8", fontsize=10.5)
    return figure
