"""Appendix: BN makes gradients explode with depth in plain networks, and grow by a power of depth in residual ones.

Squared gradients of a plain network with BN grow by a factor λ(B) a layer going back, whatever its weights' variance
(Yang et al. 2019, "A mean field theory of batch normalization", arXiv:1902.08129). A pre-activation block adds its
branch to a stream whose variance after l blocks is ∝ l + o, and BN divides the branch's share of the gradient by it:

    plain     E ‖∂ℓ/∂h_l‖² ∝ λ^(L − l)
    residual  E ‖∂ℓ/∂h_l‖² ≈ Π_{k ≥ l} (1 + λ/(k + o)) ∝ (L/l)^λ
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from paper_figures.checks import Check, at_least, near

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bntheory.networks import Sequential

TITLE = "Gradients through depth with BN: plain networks against residual ones"
TEXT = (
    "The paper's residual networks do not explode with BN; later work (Yang et al. 2019) finds that BN makes gradients "
    "explode. Both are right, each for its networks. Without shortcuts squared gradients grow by λ(B) a layer, 1.79 at "
    "batches of 8 and 1.47 at large ones, where He's weights without BN keep them. With pre-activation blocks BN turns "
    "an exponential, a factor 2 a block, into a power of depth, whose exponent tends to the same λ(B). In ResNet-110 "
    "it is the activations that BN keeps small; gradients, for a given one at the output, rise more than without, most "
    "of it in the first blocks of each stage. Theory is of infinite width: at batches of 4 single networks stay below "
    "its mean over networks, which few of them carry, and ResNet-110 without BN, of 16 to 64 channels, lies above it "
    "(by 1 in the logarithm, less in wider ones). Drawn: mean over networks of the logarithm."
)
BATCHES = (4, 8, 16, 32)
HEAVY = 5  # up to this batch a unit's 1/s⁴ has no mean, and corrections do not fall as 1/width: not checked
FALSE_ALARM = 1e-4  # of each comparison with chance alone
CONVOLUTIONS, CHANNELS = 16, 32
NARROW = 0.05  # beside chance, what theory of infinite width may miss of a rate or exponent in networks of one width


class Rate(NamedTuple):
    """A growth rate: theory's, and that of drawn networks with its standard error."""

    theory: float
    mean: float
    error: float


def compute(
    seed: int = 0,
    device: str = "cpu",
    depth: int = 24,
    width: int = 256,
    networks: int = 16,
    images: int = 8,
    resnet_depth: int = 110,
) -> dict[str, Any]:
    """Predict and draw squared gradients, layer by layer.

    Parameters
    ----------
    seed : int
    device : str
        Not used: this runs on the CPU.
    depth, width : int
        Of the perceptrons; plain ones are drawn at half the width too.
    networks : int
        Of every perceptron; half as many plain convolutional ones, a quarter as many ResNets.
    images : int
        Digits of a batch, for convolutional networks.
    resnet_depth : int

    Returns
    -------
    dict
        "plain", "residual", "half" (plain, of half the width): by batch, or "none" without BN; "convolutional";
        "resnet", "resnet_bn". Each ln of the squares of gradients and activations at the input and after every layer
        or block, predicted and drawn, (…, layers + 1). "rates": kind → batch → `Rate`.
    """
    from bntheory import cnn, mlp, resnet
    from simulations import images_for, streams

    digits = images_for((3, 8, 8), "digits", batch=images, seed=seed).values
    data: dict[str, Any] = {"depth": depth, "width": width, "networks": networks, "images": images}
    cases = itertools.product((("plain", width), ("half", width // 2), ("residual", width)), (*BATCHES, None))
    for index, ((kind, units), batch) in enumerate(cases):
        net = mlp(depth, units, batch_norm=batch is not None, residual=kind == "residual")
        own = streams.own_seed(seed, index)  # so that their errors are independent
        data.setdefault(kind, {})[batch or "none"] = _sizes(net, networks, own, batch=batch or BATCHES[1])
    plain = cnn(CONVOLUTIONS, CHANNELS, batch_norm=True, image=(3, 8, 8))
    data["convolutional"] = _sizes(plain, max(2, networks // 2), seed, inputs=digits)
    for name, batch_norm in (("resnet", False), ("resnet_bn", True)):
        net = resnet(resnet_depth, batch_norm=batch_norm, init="xavier_normal", image=(3, 8, 8))
        data[name] = _sizes(net, max(2, networks // 4), seed, inputs=digits)
    return {**data, "resnet_depth": resnet_depth, "rates": rates(data)}


def _sizes(net: Sequential, networks: int, seed: int, **question: Any) -> dict[str, np.ndarray]:
    """Gradients and activations at the input and after every layer or block, predicted and drawn."""
    from bntheory import predict_growth
    from simulations import simulate_growth

    growth = predict_growth(net, **{"batch_size" if key == "batch" else key: value for key, value in question.items()})
    samples = simulate_growth(net, networks, seed=seed, method="weights", **question)
    at = _stations(growth.rows)
    return {
        "gradient": growth.log_gradient[at],
        "drawn_gradient": samples.log_gradient[:, at],
        "activation": growth.log_second_moment[at],
        "drawn_activation": samples.log_second_moment[:, at],
    }


def _stations(rows: Any) -> list[int]:
    """The input, and the output of every block, or of every activation where there are no blocks."""
    sums = [index for index, row in enumerate(rows) if row.operation == "sum"]
    return [0, *(sums or [index for index, row in enumerate(rows) if row.operation == "relu"])]


def rates(data: dict[str, Any]) -> dict[str, dict[int | str, Rate]]:
    """Growth of ln gradient² going back: a layer in plain networks, by ln of the depth in residual ones with BN.

    Parameters
    ----------
    data : dict
        "depth", "plain", "half", "residual", "convolutional" of `compute`.

    Returns
    -------
    dict
        "plain" (means extrapolated to infinite width, which leave out what falls as 1/width), "residual" (exponents, in
        the middle of the network), "convolutional", and "none": plain and residual networks without BN.
    """
    from bntheory import Activation
    from bntheory.growth.infinite_width.batch_norm import growth_rate

    depth, relu = data["depth"], Activation("relu")
    inner, middle = (2, depth - 1), (depth // 4, 3 * depth // 4)
    found: dict[str, dict[int | str, Rate]] = {"plain": {}, "residual": {}}
    for batch in BATCHES:
        full, half = (_rate(data[kind][batch], *inner) for kind in ("plain", "half"))
        error = math.hypot(2 * full.error, half.error)
        found["plain"][batch] = Rate(math.log(growth_rate(relu, batch)), 2 * full.mean - half.mean, error)
        found["residual"][batch] = _rate(data["residual"][batch], *middle, over=math.log(middle[1] / middle[0]))
    last = len(data["convolutional"]["gradient"]) - 2
    found["convolutional"] = {"BN": _rate(data["convolutional"], 2, last)}
    found["none"] = {kind: _rate(data[kind]["none"], *inner) for kind in ("plain", "residual")}
    return found


def _rate(part: dict[str, np.ndarray], first: int, last: int, over: float | None = None) -> Rate:
    """Rise of ln gradient² from station `last` back to `first`, a layer if nothing else is said."""
    from simulations.statistics import mean_with_error

    theory, drawn = ((part[name][..., first] - part[name][..., last]) for name in ("gradient", "drawn_gradient"))
    over = last - first if over is None else over
    return Rate(float(theory / over), *map(float, mean_with_error(drawn / over)))


def check(data: dict[str, Any]) -> list[Check]:
    """Compare the rates with theory; in single networks of one width beside chance by what 1/width leaves open."""
    from simulations.statistics import tolerance

    def allowed(rate: Rate, count: int) -> float:
        return float(tolerance(rate.error, FALSE_ALARM, degrees_of_freedom=count - 1))

    count, checks, found = data["networks"], [], data["rates"]
    for batch, rate in found["plain"].items():
        text = f"plain, BN over {batch}: ln gradient² a layer, extrapolated in 1/width"
        if batch > HEAVY:
            checks.append(near(text, rate.mean, rate.theory, allowed(rate, count)))
    for batch, rate in found["residual"].items():
        if batch > HEAVY:
            text = f"residual, BN over {batch}: d ln gradient² / d ln depth"
            checks.append(near(text, rate.mean, rate.theory, allowed(rate, count) + NARROW * rate.theory))
    for kind, rate in found["none"].items():
        text = f"{kind}, no BN: ln gradient² a {'layer' if kind == 'plain' else 'block'}"
        checks.append(near(text, rate.mean, rate.theory, allowed(rate, count) + 2.5 / data["width"]))
    rate = found["convolutional"]["BN"]
    narrow = allowed(rate, max(2, count // 2)) + NARROW
    checks.append(near("plain convolutional, BN: ln gradient² a layer", rate.mean, rate.theory, narrow))
    return [*checks, *_check_resnets(data)]


def _check_resnets(data: dict[str, Any]) -> list[Check]:
    """Activations and gradients of the paper's network, end to end."""
    bn, nobn = (total(data[name]) for name in ("resnet_bn", "resnet"))
    text = f"ResNet-{data['resnet_depth']}"
    return [
        near(f"{text}, BN: rise of ln gradient² from the last block to the first", bn.gradient, bn.theory, 1.0),
        at_least(f"{text}: growth of ln activation², without BN less with it", nobn.activation - bn.activation, 0),
        at_least(f"{text}: rise of ln gradient², with BN less without it", bn.gradient - nobn.gradient, 0),
    ]


class Total(NamedTuple):
    """From the first block's output to the last: growth of ln activation², and of ln gradient² going back."""

    activation: float
    gradient: float
    theory: float  #: of ln gradient²


def total(part: dict[str, np.ndarray]) -> Total:
    """Mean growth over the drawn networks, from the first block to the last."""
    activation, gradient = part["drawn_activation"].mean(axis=0), part["drawn_gradient"].mean(axis=0)
    theory = part["gradient"]
    return Total(*map(float, (activation[-1] - activation[1], gradient[1] - gradient[-1], theory[1] - theory[-1])))


def draw(data: dict[str, Any]) -> Figure:
    """Draw plain and residual networks by layer, rates by batch, ResNets, and the table of rates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 11.6))
    parts = figure.subplot_mosaic(
        [["plain", "residual"], ["rates", "resnet"], ["table", "table"]], height_ratios=(1, 1, 0.75)
    )
    _by_layer(parts["plain"], data, "plain")
    _by_layer(parts["residual"], data, "residual")
    parts["plain"].set(ylabel="ln gradient², 0 at the output", title="plain: λ(B) a layer")
    parts["residual"].set(title="residual: with BN a power of depth")
    parts["plain"].legend(fontsize=9.5)
    _by_batch(parts["rates"], data)
    _resnets(parts["resnet"], data)
    _table(parts["table"], data)
    perceptrons = f"perceptrons: {data['depth']} layers or blocks of {data['width']} ReLU units, orthogonal inputs"
    images = f"{data['images']} of scikit-learn's digits, 8×8, three channels"
    others = f"ResNet-{data['resnet_depth']} and convolutional: {images}. Lines: theory, dots: drawn"
    figure.supxlabel(f"{perceptrons};\n{others}", fontsize=10)
    return figure


def _by_layer(axes: Axes, data: dict[str, Any], kind: str) -> None:
    back = data["depth"] - np.arange(data["depth"] + 1)
    for index, (batch, part) in enumerate(data[kind].items()):
        color, name = ("black", "no BN") if batch == "none" else (f"C{index}", f"BN over {batch}")
        axes.plot(back, part["gradient"], color=color, lw=1.4, label=name)
        axes.plot(back, part["drawn_gradient"].mean(axis=0), "o", color=color, ms=3)
    axes.set(xlabel="layers back from the output" if kind == "plain" else "blocks back from the output", ylim=(-2, 28))


def _by_batch(axes: Axes, data: dict[str, Any]) -> None:
    for index, (kind, name) in enumerate(
        (("plain", "plain: ln λ, a layer"), ("residual", "residual: exponent of depth"))
    ):
        found = data["rates"][kind]
        batches = list(found)
        axes.plot(batches, [rate.theory for rate in found.values()], color=f"C{index}", lw=1.4, label=name)
        means, errors = [rate.mean for rate in found.values()], [2 * rate.error for rate in found.values()]
        axes.errorbar(batches, means, errors, fmt="o", ms=4.5, capsize=3, color=f"C{index}")
    limit = [math.exp(rate.theory) for rate in data["rates"]["plain"].values()]
    axes.plot(batches, limit, ":", color="C1", label="λ(B), its limit at great depth")
    axes.set(xscale="log", ylim=(0, None), xlabel="batch B", ylabel="growth rate (± 2 standard errors)")
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.legend(fontsize=9.5)


def _resnets(axes: Axes, data: dict[str, Any]) -> None:
    for color, name, words in (("C1", "resnet", "no BN"), ("C0", "resnet_bn", "BN")):
        for quantity, style, fill in (("gradient", "-", color), ("activation", "--", "white")):
            values, drawn = data[name][quantity][1:], data[name][f"drawn_{quantity}"][:, 1:].mean(axis=0)
            blocks = np.arange(1, len(values) + 1)
            axes.plot(blocks, values, style, color=color, lw=1.4, label=f"{words}: {quantity}²")
            axes.plot(blocks[::3], drawn[::3], "o", ms=3.5, color=color, mfc=fill)
    axes.set(xlabel="block", ylabel="ln of the square", title=f"ResNet-{data['resnet_depth']}", ylim=(None, 14))
    axes.legend(fontsize=9.5, ncols=2)


def _table(axes: Axes, data: dict[str, Any]) -> None:
    """Rates of all networks, with standard errors, in two columns."""
    names = {
        "plain": "plain, B = {}: a layer",
        "residual": "residual, B = {}: exponent",
        "convolutional": "convolutional, {}: a layer",
        "none": "{}, no BN: a step",
    }
    rows = [
        (names[kind].format(key), f"{rate.theory:.3f}", f"{rate.mean:.3f} ± {rate.error:.3f}")
        for kind, found in data["rates"].items()
        for key, rate in found.items()
    ]
    half = -(-len(rows) // 2)
    cells = [(*one, "", *other) for one, other in zip(rows[:half], [*rows[half:], ("",) * 3], strict=False)]
    axes.axis("off")
    heads = ("rise of ln gradient²", "theory", "drawn ± error")
    widths = (0.265, 0.08, 0.145)
    table = axes.table(
        cells, colLabels=(*heads, "", *heads), colWidths=(*widths, 0.02, *widths), cellLoc="left", colLoc="left",
        loc="center", edges="horizontal",
    )  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(9.5)
    table.scale(1, 1.35)
