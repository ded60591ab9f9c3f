"""Appendix: without BN networks differ from draw to draw; the paper's one beside ours of all sizes.

ReLU networks without biases are homogeneous. Of two networks whose weights are alike but for factors, so that one has
outputs e^x times as large, a cross-entropy far above 1 is e^x times as large, and so are its gradients; a step α
changes weights of the same size by shares that go as α e^x. Then ℓ(θ − αg)/ℓ(θ) = F(α e^x), and the step at which it
passes 1000 goes as e^{−x}. Draws are not alike otherwise, so that this holds on average only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures import figure5, networks
from paper_figures.checks import Check, between, near
from paper_figures.draws import LAYERS
from paper_figures.values import committed, paper_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "How large a network is drawn without BN, and the step that it bears"
TEXT = (
    "ResNet-110 without BN, 20 draws of its weights: their size at the last block (figure 5's averages of ln std and "
    "ln |mean| over channels of layer 102), beside theory's law of sizes; the step along the gradient at which the "
    "loss passes 1000 times what it was (figure 3), and the largest gradient of layer 55 (figure 2). The larger a "
    "network, the larger its gradients and the smaller the step that it bears, both about in proportion. The paper's "
    "network is smaller than nearly all that theory and we draw: by chance, or by something that the paper does not "
    "say. If its figures 3 and 5 are of one network, its step is that of a network of its size, and not of a usual "
    "one; its gradients in figure 2 are smaller even so."
)
LEVEL = 0.95
MEASURED = {"diverging_step": -1, "half_width": 1}  # and the power of e^x that they go as
UNLIKE = 0.4  # by which powers may differ from these, set after 40 other draws had -0.82 ± 0.06 and 0.88 ± 0.10
FAR = 4  # standard errors of a slope, from 0


def compute(seed: int = 0, device: str = "cpu", images: int = 128) -> dict[str, Any]:
    """Read what was measured, and evaluate theory's law of sizes.

    Parameters
    ----------
    seed : int
        Of theory's mini-batch.
    device : not used
    images : int
        Of it.

    Returns
    -------
    dict
        "size": of the draws, (draws,); "law": theory's mean and standard deviation of it, for images of "data";
        "paper": its size; "reading": the error of that; for each of `MEASURED` "log", ln of the values, (draws,), and
        what `expected` makes of them at the paper's size and, as "usual", at theory's mean.
    """
    found, known = committed("draws_without_bn")["draws"], paper_values()["figure5"]
    size = (np.array(found["log_std"]) + np.array(found["log_mean"])) / 2
    theory, at = figure5.predicted(networks.batch(images, seed).images), LAYERS["channels"] - 1
    law = (theory["log_std"][at] + theory["log_mean"][at]) / 2, theory["spread"][at]
    place = known["layers"].index(LAYERS["channels"])
    paper = (known["log_std_nobn"][place] + known["log_mean_nobn"][place]) / 2
    data = {"size": size, "law": np.array(law), "paper": paper, "reading": known["tolerance"]}
    data["data"] = networks.image_set().name
    for name in MEASURED:
        values = np.log(np.array(found[name]))
        usual = expected(size, values, float(law[0]))
        data[name] = {"log": values, **expected(size, values, paper), "usual": usual}
    return data


def interval(found: dict[str, float]) -> np.ndarray:
    """Lower end, middle and upper end of what 95% of networks have, from `expected`."""
    return np.exp(found["mean"] + found["reach"] * np.array([-1, 0, 1]))


def expected(size: np.ndarray, values: np.ndarray, place: float) -> dict[str, float]:
    """Fit a straight line, and say what a network of some size has.

    Parameters
    ----------
    size, values : array (draws,)
    place : float
        The size.

    Returns
    -------
    dict
        slope, and its standard error; mean and reach: the line at that size, and how far from there 95% of single
        networks lie, by Student's law.
    """
    from scipy import stats

    line = stats.linregress(size, values)
    freedom = len(size) - 2
    scatter = float(np.sum((values - line.intercept - line.slope * size) ** 2)) / freedom
    leverage = 1 + 1 / len(size) + (place - size.mean()) ** 2 / np.sum((size - size.mean()) ** 2)
    reach = stats.t.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(scatter * leverage)
    mean = line.intercept + line.slope * place
    return {"slope": line.slope, "error": line.stderr, "mean": float(mean), "reach": float(reach)}


def check(data: dict[str, Any]) -> list[Check]:
    """Compare the draws with theory's law, and slopes with what they should be."""
    (mean, deviation), size = data["law"], data["size"]
    count = len(size)
    error = deviation / math.sqrt(count)
    checks = [
        near(f"mean size of {count} draws", size.mean(), mean, 0.2 + 4 * error),
        between(
            f"standard deviation of the sizes of {count} draws over theory's", size.std(ddof=1) / deviation, 0.5, 1.5
        ),
    ]
    for name, power in MEASURED.items():
        found, quantity = data[name], "the step" if power < 0 else "the largest gradient"
        checks.append(near(f"power of e^size that {quantity} goes as", found["slope"], power, UNLIKE))
        distance = abs(found["slope"]) / found["error"]
        checks.append(between("… its distance from 0, in standard errors", distance, FAR, math.inf))
    middle = float(np.median(paper_values()["figure3"]["nobn"]["step_where_relative_loss_passes_1e3"]))
    upper = interval(data["diverging_step"]["usual"])[2]
    text = "the paper's step (median) over the largest that 95% of networks of theory's mean size bear"
    return [*checks, between(text, middle / upper, 1, 100)]


def draw(data: dict[str, Any]) -> Figure:
    """Draw sizes, steps and gradients over one axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 9))
    top, *panels = figure.subplots(3, sharex=True, height_ratios=[2, 3, 3])
    (mean, deviation), size, known = data["law"], data["size"], paper_values()
    axis = np.linspace(mean - 3.5 * deviation, mean + 3.5 * deviation, 200)
    density = np.exp(-(((axis - mean) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))
    top.plot(axis, density, color="C0", label="theory's law of sizes")
    top.hist(size, bins=6, density=True, color="C5", alpha=0.4, label=f"{len(size)} draws")
    top.set(ylabel="density", ylim=(0, None))
    top.axvline(data["paper"], color="C1", lw=2, label="the paper's (figure 5)")
    top.set_xlim(axis[0], axis[-1] + 0.8)  # room for the legend
    top.legend(fontsize=9.5, loc="upper right")
    steps = known["figure3"]["nobn"]["step_where_relative_loss_passes_1e3"]
    width = [known["figure2"]["nobn"]["support_half_width"]]
    words = ("step α at which the loss\nis 1000 times as large", "largest gradient,\nlayer 55")
    for axes, name, text, paper in zip(panels, MEASURED, words, (steps, width), strict=True):
        _against_size(axes, data, name, paper)
        axes.set(yscale="log", ylabel=text)
    panels[-1].set_xlabel("size: ½ (ln std + ln |mean|) of the channels of layer 102")
    panels[0].legend(fontsize=9.5)
    figure.supxlabel(
        "ResNet-110 without BN, Xavier normal, at initialization;\n128 images of Fashion-MNIST"
        f"{'' if data['data'] == 'fashion-mnist' else ' (law: digits)'}; paper: CIFAR-10",
        fontsize=10.5,
    )
    return figure


def _against_size(axes: Axes, data: dict[str, Any], name: str, paper: list[float]) -> None:
    """Draws, the line they should lie along, what is expected at the paper's size, and the paper's values."""
    size, part, place = data["size"], data[name], data["paper"]
    axis = np.array([min(place, size.min()), size.max()])
    middle = part["log"].mean() + MEASURED[name] * (axis - size.mean())
    axes.plot(size, np.exp(part["log"]), "o", ms=4, color="C5", label="draws")
    sign = "−" if MEASURED[name] < 0 else ""
    axes.plot(axis, np.exp(middle), "--", color="C0", label=f"as e^({sign}size)")
    ends = interval(part)[[0, 2]]
    axes.plot([place, place], ends, color="C2", lw=5, alpha=0.5, label=f"{LEVEL:.0%} of networks of that size")
    axes.errorbar(
        [place] * len(paper), paper, xerr=data["reading"], fmt="D", mfc="white", color="C1", ms=6, label="paper"
    )
