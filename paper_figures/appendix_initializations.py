"""Appendix: initializations side by side, in ResNet-110 with and without BN and in a plain network.

Where BN follows every convolution, a block's output x' = max(0, x + g) knows nothing of the weights' variance: the
reflected walks of figure 5, W_n from the stem and V_n after a projection, hold for all initializations. Without BN a
block's branch has variance r⟨x²⟩, r growing with the weights' variances, and the initialization decides how fast
magnitudes grow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures.checks import Check, covered, near

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Initializations side by side"
TEXT = (
    "Magnitude of activations by depth: ½ ln of the mean square over channels, positions and images. In ResNet-110 "
    "without BN it depends on the initialization how fast it grows; torch's default, with the smallest weights, hardly "
    "grows within a stage and loses more at each projection. With BN block outputs are the same for all, and follow "
    "one law. In a plain ReLU network of 50 layers only He's keeps the mean square on average; bands are exact but for "
    "torch's default (first order in 1/width), and orthogonal weights, which have no such law. Measured on the digits "
    "of scikit-learn, 8×8 as they are, not on the paper's CIFAR-10; the paper's own values for this were not read."
)
INITS = {
    "he_normal": "He normal",
    "xavier_normal": "Xavier normal",
    "lecun_normal": "LeCun normal",
    "torch_default": "torch's default",
    "orthogonal": "orthogonal",
}
SIDE = 8
LEVEL = 0.9
FALSE_ALARM = 1e-4  # of a check, for a correct program
GROWN = 0.1 * np.log(10) / 2  # allowed of ½ ln⟨h²⟩ without BN, where theory is of first order in 1/channels
LEVELLED = 0.05  # the same with BN, where it is of infinite width; both as for figure 5


def compute(
    seed: int = 0,
    device: str = "cpu",
    depth: int = 110,
    images: int = 16,
    draws: int = 8,
    layers: int = 50,
    width: int = 128,
    vectors: int = 30,
) -> dict[str, Any]:
    """Predict and measure ½ ln⟨h²⟩ by depth for every initialization.

    Parameters
    ----------
    seed : int
    device : {"cpu", "cuda"}
    depth, images, draws : int
        Of the ResNets, of the batch, and networks of every initialization without BN; with BN half as many, as they
        hardly differ.
    layers, width, vectors : int
        Of the plain networks, and how many of every kind; they see one image.

    Returns
    -------
    dict
        "nobn", "bn" (block outputs) and "mlp" (layers; 0 is the image): for every initialization measured, (networks,
        places), and mean, lower, upper, (places,), of theory, NaN where it has no law; with BN the mean alone.
    """
    from simulations.ensemble import run_trials
    from simulations.training.datasets import batch_of, digits

    batch = batch_of(digits(channels=3)[0], images, seed)
    nets = {kind: [_resnet(depth, kind, init) for init in INITS] for kind in ("nobn", "bn")}
    laws = run_trials(lambda index: _law(nets["nobn"][index], batch), len(INITS), label="theory")
    measured = {kind: _measured(own, batch, draws // (1 + (kind == "bn")), seed, device) for kind, own in nets.items()}
    walk = {"mean": reflected_law(depth)}
    data: dict[str, Any] = {"depth": depth, "images": images, "draws": draws}
    data |= {"layers": layers, "width": width, "vectors": vectors, "mlp": _plain(layers, width, vectors, seed, device)}
    for kind, theory in (("nobn", laws), ("bn", [walk] * len(INITS))):
        data[kind] = {
            init: {"measured": own, **law} for init, own, law in zip(INITS, measured[kind], theory, strict=True)
        }
    return data


def reflected_law(depth: int) -> np.ndarray:
    """½ ln E x² of block outputs with BN at infinite width, for every initialization, (blocks,).

    Examples
    --------
    >>> reflected_law(20)[:3].round(2)  # ½ ln(1 + 1/2π) first
    array([0.07, 0.32, 0.49])
    """
    from bntheory.growth.residual import reflected_walk_moments, walk_moments

    blocks = (depth - 2) // 6
    stem, restarted = reflected_walk_moments(blocks + 1)[1][2:], walk_moments(blocks, first_variance=2.0)[1]
    return np.log(np.concatenate([stem, restarted, restarted])) / 2


def _resnet(depth: int, kind: str, init: str) -> Any:
    from bntheory import resnet

    return resnet(depth, batch_norm=kind == "bn", init=init, image=(3, SIDE, SIDE))


def _plain(layers: int, width: int, vectors: int, seed: int, device: str) -> dict[str, Any]:
    """The same of networks without shortcuts, for one image."""
    from bntheory import mlp
    from simulations.training.datasets import batch_of, digits

    image = batch_of(digits()[0], 1, seed).reshape(1, SIDE**2)
    nets = [mlp(layers, width, init=init, input_width=SIDE**2) for init in INITS]
    measured = _measured(nets, image, vectors, seed + 1, device)
    return {
        init: {"measured": found, **_law(net, image)} for init, net, found in zip(INITS, nets, measured, strict=True)
    }


def _places(rows: Any) -> np.ndarray:
    """Rows of block outputs; of a network without blocks, of the input and of activations."""
    sums = np.flatnonzero([row.operation == "sum" for row in rows])
    return sums + 1 if len(sums) else np.arange(0, len(rows), 2)


def _law(net: Any, batch: np.ndarray) -> dict[str, Any]:
    """Mean and band of ½ ln⟨h²⟩ over draws of the weights, given the images."""
    from bntheory import predict_growth

    growth = predict_growth(net, batch)
    at = _places(growth.rows)
    lower, upper = growth.band(LEVEL)
    law = {"mean": growth.log_growth_mean[at] / 2, "lower": lower[at] / 2, "upper": upper[at] / 2}
    return {**law, "method": growth.band_method[at[-1]]}


def _measured(nets: list[Any], batch: np.ndarray, draws: int, seed: int, device: str) -> list[np.ndarray]:
    """½ ln⟨h²⟩ of torch networks, (draws, places) for every description, each with weights of its own."""
    from simulations import streams
    from simulations.ensemble import run_trials
    from simulations.training.devices import one_torch_thread
    from simulations.training.modules import build
    from simulations.training.probes.measured_growth import measure_growth

    def task(index: int) -> np.ndarray:
        number, draw = divmod(index, draws)
        model = build(nets[number], streams.own_seed(seed, number), draw=draw).to(device)
        samples = measure_growth(model, batch)
        return samples.log_second_moment[0, _places(samples.rows)] / 2

    with one_torch_thread():
        found = run_trials(task, len(nets) * draws, workers=None if device == "cpu" else 1, label="networks")
    return [np.array(found[number * draws : (number + 1) * draws]) for number in range(len(nets))]


def check(data: dict[str, Any]) -> list[Check]:
    """Compare networks with theory: of block outputs on average over blocks, of the plain networks at the end."""
    from simulations.statistics import mean_with_error, tolerance

    checks = []
    for kind, name, allowance in (("nobn", "without BN", GROWN), ("bn", "with BN", LEVELLED)):
        for init, word in INITS.items():
            part = data[kind][init]
            differences = (part["measured"] - part["mean"]).mean(axis=1)
            mean, error = mean_with_error(differences)
            allowed = allowance + float(tolerance(error, FALSE_ALARM, degrees_of_freedom=len(differences) - 1))
            text = f"ResNet {name}, {word}: ½ ln⟨h²⟩ less theory, mean over blocks and {len(differences)} networks"
            checks.append(near(text, float(mean), 0, allowed))
    pooled = np.concatenate([_deviations(data["nobn"][init]) for init in INITS])
    mean, error = mean_with_error(pooled)
    allowed = float(tolerance(error, FALSE_ALARM, degrees_of_freedom=len(pooled) - 1))
    text = f"ResNet without BN, all {len(pooled)} networks: the same in theory's standard deviations of a draw"
    checks.append(near(text, float(mean), 0, allowed))
    for init, word in INITS.items():
        part = data["mlp"][init]
        if np.isnan(part["lower"][-1]):  # no law
            continue
        last = part["measured"][:, -1]
        mean, error = mean_with_error(last)
        allowed = float(tolerance(error, FALSE_ALARM, degrees_of_freedom=len(last) - 1))
        checks.append(near(f"plain, {word}: ½ ln⟨h²⟩, mean of {len(last)}", float(mean), part["mean"][-1], allowed))
        inside = (last > part["lower"][-1]) & (last < part["upper"][-1])
        checks.append(covered(f"plain, {word}: share inside the {LEVEL:.0%} band", inside, LEVEL, FALSE_ALARM))
    return checks


def _deviations(part: dict[str, Any]) -> np.ndarray:
    """Distances of networks from theory's mean in standard deviations of a draw, averaged over blocks, (networks,)."""
    from scipy.special import ndtri

    spread = (part["upper"] - part["lower"]) / 2 / ndtri((1 + LEVEL) / 2)
    return ((part["measured"] - part["mean"]) / spread).mean(axis=1)


def draw(data: dict[str, Any]) -> Figure:
    """Draw a panel a kind of network, theory as lines and bands, means of networks as dots."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 10))
    panels = figure.subplots(3)
    titles = {
        "nobn": f"ResNet-{data['depth']} without BN: block outputs",
        "bn": f"ResNet-{data['depth']} with BN: block outputs",
        "mlp": f"plain ReLU network, width {data['width']}: activations",
    }
    for axes, (kind, title) in zip(panels, titles.items(), strict=True):
        for number, init in enumerate(INITS):
            _series(axes, data[kind][init], number, kind == "mlp")
        axes.set(title=title, ylabel="½ ln ⟨h²⟩")
    law = data["bn"]["he_normal"]["mean"]
    panels[1].plot(np.arange(1, len(law) + 1), law, color="black", lw=1.2)
    panels[0].set_xlabel("block")
    panels[1].set(xlabel="block (line: the law, the same for all)", ylim=(-0.2, 1.6))
    panels[2].set_xlabel("layer ℓ")
    figure.legend(*panels[0].get_legend_handles_labels(), ncols=3, loc="outside upper center")
    figure.supxlabel(
        f"{data['images']} of scikit-learn's digits, 8×8; {data['draws']} networks each without BN, half with;\n"
        f"plain: one image, {data['vectors']} networks each. Lines and bands: theory ({LEVEL:.0%} of\n"
        "networks); dots: measured, mean ± 2 standard errors.",
        fontsize=9.5,
    )
    return figure


def _series(axes: Axes, part: dict[str, Any], number: int, from_input: bool) -> None:
    """One initialization: its law, and the mean of networks with two standard errors."""
    from simulations.statistics import mean_with_error

    color, name = f"C{number}", list(INITS.values())[number]
    places = np.arange(len(part["mean"])) + (0 if from_input else 1)
    if "lower" in part:
        axes.plot(places, part["mean"], color=color, lw=1.2)
        axes.fill_between(places, part["lower"], part["upper"], color=color, alpha=0.15, lw=0)
    mean, error = mean_with_error(part["measured"])
    some = slice(number, None, len(INITS))  # each at places of its own
    marker = "osD^v"[number]
    axes.errorbar(places[some], mean[some], 2 * error[some], fmt=marker, ms=3.5, lw=1, color=color, label=name)
