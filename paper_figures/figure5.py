"""Figure 5: channel means and standard deviations through ResNet-110 at initialization, with and without BN.

With BN, x at the n-th block of a stage is a reflected random walk, x' = max(0, x + g), per channel: W_n from the stem
(Spitzer's closed form), and V_n with V_1 = max(0, √2 g) after a batch-normalized projection. A convolution with weights
of variance σ_w²/fan_in that reads x has outputs, before the next BN, with

    std² = σ_w² (k₁ E x² − k₂ (E x)²),     ln|mean| = ln(σ_w √k₂ E x) + ln|g|,     E ln|g| = −(γ + ln 2)/2

k₁ and k₂ being what zero padding leaves of the second moment and of the squared mean (1 far from borders).
Without BN the moments and their band over draws of the weights are those of `bntheory.predict_growth` for the images.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures import networks
from paper_figures.checks import Check, at_most, between, covered, near
from paper_figures.values import paper_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Figure 5: channel magnitudes through ResNet-110 at initialization"
TEXT = (
    "Natural logarithms of the channels' standard deviation and of the magnitude of their mean, averaged over "
    "channels, of convolution outputs before BN: with BN those of the blocks' first convolutions follow a reflected "
    "random walk that starts anew in every stage; without BN all grow exponentially, and single networks spread "
    "widely. Measured on untrained networks (Xavier normal, projection shortcuts, BN with batch statistics) for 128 "
    "of scikit-learn's 1797 digits of 8×8 pixels, interpolated to 32×32 in three equal channels; the paper used "
    "CIFAR-10. With BN the blocks' second convolutions stay level, and the last point is the classifier, which has "
    "no law. Without BN the band holds 90% of networks according to the theory, for channel variances averaged "
    "before the logarithm, which lies a little above the average of logarithms that is drawn of the measured "
    "networks and of the paper's one network."
)
PANELS = {"log_std": "ln std", "log_mean": "ln |mean|"}
DEVIATIONS = 1.645  # of a normal variable: 90%
FAR = 3.0  # standard deviations of a draw
LOG_ABS_GAUSSIAN = -(np.euler_gamma + math.log(2)) / 2  # E ln|g|


def compute(
    seed: int = 0, device: str = "cpu", depth: int = 110, size: int = 32, images: int = 128, draws: int = 12
) -> dict[str, Any]:
    """Measure ResNets with and without BN, and evaluate the law with BN.

    Parameters
    ----------
    seed : int
    device : {"cpu", "cuda"}
    depth : int
        6 n + 2.
    size : int
        Side of the images.
    images : int
        Of the batch.
    draws : int
        Networks of each kind.

    Returns
    -------
    dict
        "bn", "nobn": log_std, log_mean and their standard deviations over channels, (draws, depth), layer 1 first;
        "law": layers, log_std and log_mean of layers 2 … depth − 1; "predicted": without BN, see `predicted`.
    """
    from bntheory import resnet
    from simulations.training.datasets import batch_of, digits

    batch = batch_of(digits(size, channels=3)[0], images, seed)
    data: dict[str, Any] = {"depth": depth, "size": size, "images": images, "draws": draws}
    for key, batch_norm in (("bn", True), ("nobn", False)):
        net = resnet(depth, batch_norm=batch_norm, image=(3, size, size))
        measured = _measured(net, batch, draws, seed, device)
        names = ("log_std", "log_std_spread", "log_mean", "log_mean_spread", "log_rms")
        data[key] = dict(zip(names, np.moveaxis(measured, -1, 0), strict=True))
    data["law"] = law(depth, size)
    data["predicted"] = predicted(batch, depth, size)
    return data


def _measured(net: Any, batch: np.ndarray, draws: int, seed: int, device: str) -> np.ndarray:
    """(draws, main-path layers, 5): mean and spread over channels of ln std and of ln|mean|; ½ ln of mean variance."""
    import torch

    from simulations.ensemble import run_trials
    from simulations.training.devices import one_torch_thread
    from simulations.training.modules import build

    inputs = torch.as_tensor(batch, dtype=torch.float32, device=device)

    def draw(index: int) -> np.ndarray:
        model = build(net, seed, draw=index).to(device)
        rows: list[list[float]] = []

        def record(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            channels = output.transpose(0, 1).flatten(1)
            variance, mean = torch.var_mean(channels, dim=1, correction=0)
            logs = torch.stack([variance.log() / 2, mean.abs().log()]).double()
            moments = torch.stack([logs.mean(dim=1), logs.std(dim=1, correction=0)], dim=1).flatten().tolist()
            rows.append([*moments, float(variance.double().mean().log() / 2)])

        for name, module in model.named_modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) and "shortcut" not in name:
                module.register_forward_hook(record)
        with torch.no_grad():
            model(inputs)
        return np.array(rows)

    with one_torch_thread():
        return np.array(run_trials(draw, draws, workers=None if device == "cpu" else 1, label="ResNets"))


def law(depth: int = 110, size: int = 32) -> dict[str, np.ndarray]:
    """Law of ln std and ln|mean| of convolution outputs before BN, with BN, for layers 2 … depth − 1.

    Layer 1 (the stem) depends on the images, and the last (the classifier) reads means over positions: both left out.

    Parameters
    ----------
    depth : int
        6 n + 2.
    size : int
        Side of the images.

    Returns
    -------
    dict
        layers, log_std, log_mean: arrays (depth − 2,). Xavier's σ_w² is 2/3 where channels double, else 1.

    Examples
    --------
    >>> at = law()["layers"] == 30
    >>> print(law()["log_std"][at].round(2), law()["log_mean"][at].round(2))
    [0.85] [0.26]
    """
    from bntheory.growth.residual import reflected_walk_moments, walk_moments

    blocks = (depth - 2) // 6
    half_normal, *after_stem = list(zip(*reflected_walk_moments(blocks + 1), strict=True))[1:]  # W_1; W_2, W_3, …
    restarted = list(zip(*walk_moments(blocks, first_variance=2.0), strict=True))  # V_1, V_2, …
    carried, side, rows = half_normal, size, []
    for stage, walk in enumerate((after_stem, restarted, restarted)):
        for block, (mean, second) in enumerate([carried, *walk[:-1]]):
            stride, gain = (2, 2 / 3) if stage > 0 and block == 0 else (1, 1.0)
            rows.append(_conv_output(mean, second, gain, side, stride))
            side = math.ceil(side / stride)
            rows.append(_conv_output(*half_normal, 1.0, side, 1))  # reads ReLU(BN(…)), distributed as W_1
        carried = walk[-1]
    log_std, log_mean = np.array(rows).T
    return {"layers": np.arange(2, depth), "log_std": log_std, "log_mean": log_mean}


def predicted(batch: np.ndarray, depth: int = 110, size: int = 32) -> dict[str, np.ndarray]:
    """Moments without BN, for that batch: main-path convolutions and the classifier.

    Parameters
    ----------
    batch : array (B, 3, size, size)
    depth : int
        6 n + 2.
    size : int

    Returns
    -------
    dict
        log_std, log_mean: mean over draws of ½ ln of the mean over channels of the variance, and of the mean over
        channels of ln|mean|, (depth,); spread: the standard deviation over draws of both.
    """
    from bntheory import predict_growth, resnet

    growth = predict_growth(resnet(depth, image=(3, size, size)), batch)
    main = networks.main_path(growth.rows)
    lowered = growth.log_growth_mean - growth.log_second_moment  # from ln of the mean to the mean of ln
    log_std = (growth.log_channel_variance + lowered) / 2
    log_mean = (growth.log_channel_mean_square + lowered) / 2 + LOG_ABS_GAUSSIAN
    return {"log_std": log_std[main], "log_mean": log_mean[main], "spread": growth.log_growth_std[main] / 2}


def _conv_output(mean: float, second: float, gain: float, side: int, stride: int) -> tuple[float, float]:
    """(ln std, mean over channels of ln|mean|) of a padded 3×3 convolution's output."""
    places = stride * np.arange(math.ceil(side / stride))  # the kernel's centres
    taps = np.array([np.mean((places + tap >= 0) & (places + tap < side)) for tap in (-1, 0, 1)])
    kept_second, kept_mean = np.mean(taps) ** 2, np.mean(taps**2) ** 2  # both axes
    variance = gain * (kept_second * second - kept_mean * mean**2)
    return math.log(variance) / 2, math.log(gain * kept_mean) / 2 + math.log(mean) + LOG_ABS_GAUSSIAN


def check(data: dict[str, Any]) -> list[Check]:
    """Compare the law with the paper's points and with the measured networks."""
    paper, checks, published = paper_values()["figure5"], [], law()
    at = np.array(paper["layers"][:-1]) - 2  # the classifier has no law
    for name, text, allowed in (("log_std", "ln std", 0.2), ("log_mean", "ln |mean|", 0.35)):
        difference = np.array(paper[f"{name}_bn"][:-1]) - published[name][at]
        text = f"with BN, {text}: largest distance of the paper's {len(at)} points to the law"
        checks.append(at_most(text, np.abs(difference).max(), allowed))
    for name, text in (("log_std", "ln std"), ("log_mean", "ln |mean|")):
        text = f"with BN, {text}: mean of {data['draws']} networks minus law"
        checks += _against_law(text, data["bn"][name][:, 5:-1] - data["law"][name][4:])
    spread = float(data["bn"]["log_mean_spread"][:, 1:-1].mean())
    text = f"with BN, spread of ln |mean| over channels (Gaussian means: π/√8 = {math.pi / math.sqrt(8):.2f})"
    checks.append(between(text, spread, 0.9, 1.2))
    # a block's second moment grows by λ = 1.34 (Xavier), which is ½ ln λ in ln std over two layers: 0.07 a layer;
    # a stage's first blocks and zero padding on small maps lower it
    checks.append(between("without BN, rise of ln std a layer within stages", _rise(data), 0.02, 0.14))
    return [*checks, *_without_bn(data)]


def _without_bn(data: dict[str, Any]) -> list[Check]:
    """The theory without BN against the measured networks, from layer 6 on, and against the paper's one."""
    from scipy.stats import chi2

    from simulations.statistics import mean_with_error, tolerance

    inner, theory = slice(5, -1), data["predicted"]
    difference = (data["nobn"]["log_rms"] - theory["log_std"])[:, inner]
    average, error = mean_with_error(difference.mean(axis=1))
    allowed = 0.1 * math.log(10) / 2 + float(tolerance(error, 1e-4, degrees_of_freedom=len(difference) - 1))
    text = f"without BN, ½ ln of the channels' mean variance: mean of {data['draws']} networks minus theory, all layers"
    checks = [near(text, float(average), 0, allowed)]
    late = data["depth"] - 9  # column of a first convolution: the paper's layer 102 of 110
    inside = np.abs(data["nobn"]["log_rms"][:, late] - theory["log_std"][late]) < DEVIATIONS * theory["spread"][late]
    text = f"without BN, layer {late + 1}: share of {len(inside)} networks inside the 90% band"
    checks.append(covered(text, inside, 0.9, 1e-4))
    rise = (data["nobn"]["log_rms"][:, late] - data["nobn"]["log_rms"][:, 5]).var(ddof=1)
    freedom, expected = len(inside) - 1, _rise_variance(theory["spread"], 5, late)
    text = f"without BN, variance over networks of the rise from layer 6 to {late + 1}, over theory's"
    checks.append(between(text, rise / expected, *(np.array(chi2.interval(1 - 1e-4, freedom)) / freedom)))
    if data["depth"] == 110:
        found = papers_network(theory)
        rises = np.abs(found["rise"] - found["predicted_rise"]) / found["rise_spread"]
        for text, deviations, rise in zip(PANELS.values(), found["deviations"], rises, strict=True):
            text = f"without BN, {text}: the paper's one network from the theory's mean, in standard deviations"
            checks.append(at_most(f"{text} of a draw, on average", float(np.abs(deviations).mean()), FAR))
            checks.append(at_most("without BN, … its rise from layer 6 to 102, likewise", float(rise), FAR))
    return checks


def _rise_variance(spread: np.ndarray, first: int, last: int) -> float:
    """Variance over draws of the rise between two columns: layers add theirs independently of what came before."""
    return float(spread[last] ** 2 - spread[first] ** 2)


def papers_network(theory: dict[str, np.ndarray]) -> dict[str, Any]:
    """The paper's network without BN among those that theory expects.

    Parameters
    ----------
    theory : dict
        As `predicted` returns it, for a ResNet-110.

    Returns
    -------
    dict
        deviations: (2, 9), of ln std and of ln|mean| from theory's mean, in standard deviations of draws, at the
        paper's layers but the classifier; rise and predicted_rise: (2,), from the first of these layers to the last;
        rise_spread: standard deviation of the rise over draws; ends: the columns of these two layers.
    """
    paper = paper_values()["figure5"]
    at = np.array(paper["layers"][:-1]) - 1
    points = np.array([paper[f"{name}_nobn"][:-1] for name in PANELS])
    means, spread = np.array([theory[name][at] for name in PANELS]), theory["spread"][at]
    return {
        "deviations": (points - means) / spread,
        "rise": points[:, -1] - points[:, 0],
        "predicted_rise": means[:, -1] - means[:, 0],
        "rise_spread": math.sqrt(_rise_variance(theory["spread"], at[0], at[-1])),
        "ends": (at[0], at[-1]),
    }


def _rise(data: dict[str, Any]) -> float:
    """Rise of ln std a layer without BN, second to last block of a stage; mean over stages and networks."""
    blocks = (data["depth"] - 2) // 6
    starts = 3 + 2 * blocks * np.arange(3)  # columns of the second blocks' first convolutions
    ends = starts + 2 * (blocks - 2)
    return float(np.mean(data["nobn"]["log_std"][:, ends] - data["nobn"]["log_std"][:, starts]) / (2 * (blocks - 2)))


def _against_law(text: str, difference: np.ndarray) -> list[Check]:
    """Check the mean over draws of (measured − law), (draws, layers from 6 on), averaged over layers and at the worst.

    Allowed: about what chance exceeds once in 10⁴ checks, with the largest error of any layer, and 0.05 (average) or
    0.1 (a layer) for finite channels and batches: the law takes channels for Gaussian and independent.
    """
    from simulations.statistics import mean_with_error, tolerance

    average, error = mean_with_error(difference.mean(axis=1))
    allowed = 0.05 + float(tolerance(error, 1e-4, degrees_of_freedom=len(difference) - 1))
    overall = near(f"{text}, average over layers", float(average), 0, allowed)
    mean, error = mean_with_error(difference)
    allowed = 0.1 + float(tolerance(np.max(error), 1e-4, comparisons=len(mean)))
    return [overall, at_most(f"{text}, largest magnitude at a layer", np.abs(mean).max(), allowed)]


def draw(data: dict[str, Any]) -> Figure:
    """Draw ln std and ln|mean| with BN, and both without."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 10))
    panels = figure.subplots(3, sharex=True)
    first = np.arange(2, data["depth"] + 1, 2)  # a block's first convolution; the last one is the classifier
    second = first[:-1] + 1
    for axes, (name, label) in zip(panels, PANELS.items(), strict=False):
        mean, theory = data["bn"][name].mean(axis=0), data["law"]
        axes.plot(first, mean[first - 1], "o", color="C5", ms=4, label=f"mean of {data['draws']} networks")
        axes.plot(theory["layers"][::2], theory[name][::2], color="C0", label="law")
        _draw_paper(axes, f"{name}_bn", "s", "C1", "paper")
        axes.plot(second, mean[second - 1], "o", mfc="none", color="C5", ms=3, label="… second convolutions")
        axes.plot(theory["layers"][1::2], theory[name][1::2], ":", color="C0", label="… second convolutions")
        axes.set(title=f"with BN: {label}", ylabel=label)
    for (name, label), marker, color in zip(PANELS.items(), "sD", ("C2", "C3"), strict=True):
        values = data["nobn"][name][:, first - 1]
        middle, reach = data["predicted"][name][first - 1], DEVIATIONS * data["predicted"]["spread"][first - 1]
        panels[2].fill_between(first, middle - reach, middle + reach, color=color, alpha=0.2, lw=0)
        panels[2].plot(first, middle, color=color, label=f"{label}: theory, 90% band")
        panels[2].plot(first, np.median(values, axis=0), ":", color=color, label=f"{label}: median of networks")
        _draw_paper(panels[2], f"{name}_nobn", marker, color, f"paper: {label}")
    panels[2].set(title=f"without BN: {data['draws']} networks, first convolutions", ylabel="ln std, ln |mean|")
    panels[2].set_xlabel("layer ℓ along the main path")
    low, high = panels[2].get_ylim()
    panels[2].set_ylim(low, high + 0.35 * (high - low))  # room for the legend
    panels[2].legend(loc="upper left", fontsize=9, ncols=2, columnspacing=1)
    handles, labels = panels[0].get_legend_handles_labels()
    order = [labels.index(label) for label in (labels[0], "law", "paper")]  # error bars come last of themselves
    order += [index for index in range(len(labels)) if index not in order]
    figure.supxlabel(
        f"ResNet-{data['depth']}, Xavier normal, at initialization; {data['draws']} draws each\n{data['images']} of "
        f"scikit-learn's digits, enlarged to {data['size']}×{data['size']}×3; paper: CIFAR-10",
        fontsize=10.5,
    )
    figure.legend([handles[k] for k in order], [labels[k] for k in order], loc="outside upper center", ncols=2)
    return figure


def _draw_paper(axes: Axes, name: str, marker: str, color: str, label: str) -> None:
    paper = paper_values()["figure5"]
    values, error = paper[name], paper["tolerance"]
    axes.errorbar(paper["layers"], values, error, fmt=marker, ms=5, color=color, mec="black", capsize=2, label=label)
