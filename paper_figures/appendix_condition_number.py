"""Appendix: condition numbers of deep products and networks against depth, and what shortcuts and BN change.

κ = σ_1/σ_r of the Jacobian at one input, σ_r its smallest singular value above 0. Products of M square Gaussian N × N
matrices have, for M ≫ N and as an upper bound for all M (`bntheory.regime`, Lyapunov exponents),

    E ln κ = (M + 2)/2 · [ψ(N/2) − ψ(½)].

For M ≪ N, and for wide networks, the free product's law holds: ln κ runs from where it expects e^−γ/2 values below to
its edge. Plain ReLU networks lose rank with depth, which `regime` follows. BN whose statistics are held divides every
unit by its standard deviation: of a plain network it leaves the law as it is; of a pre-activation block it makes
I + W D/√v with v = 1 + l (1 − 1/π) at block l (wide, large batches), so that the branch's share falls and κ grows as a
power of depth: ln κ ≈ Σ 1/v ~ π/(π−1) ln l. Without BN shares stay.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures.checks import Check, at_least, at_most, near_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bntheory.networks import Sequential

TITLE = "Condition numbers against depth: products, networks, shortcuts and BN"
TEXT = (
    "Ratio κ of the largest to the smallest singular value above 0. Of products it grows exponentially with their "
    "number, and wider is worse; the largest value, whose square grows as e·M while M is far below the width, falls "
    "where M is far above. The smallest falls throughout and makes κ. At one input and with the batch's statistics "
    "held, BN changes nothing of it in a plain network: it divides all units by nearly the same number. Plain ReLU "
    "networks lose rank from layer to layer, and κ is that of what is left. Shortcuts keep the rank; alone they leave "
    "an exponential (slower for a weak branch), with BN a power of depth. Random matrices and Gaussian inputs only, no "
    "data set. BN's coupling of the images of a batch is not in these Jacobians."
)
SMALLEST = math.exp(-np.euler_gamma) / 2  # place of the smallest eigenvalue, in eigenvalues from below (`regime`)
SCALE = 0.5  # a of the weak linear branch, I + a W
FALSE_ALARM = 1e-4  # of each comparison with chance alone
WIDTH = 0.1  # beside chance, what theory of infinite width may miss of ln κ, relative
KINDS = {
    "linear": "linear",
    "relu": "ReLU",
    "relu_bn": "ReLU, BN",
    "weak": f"linear, shortcuts, branch × {SCALE:g}",
    "residual": "ReLU, shortcuts",
    "residual_bn": "ReLU, shortcuts, BN",
}


def compute(
    seed: int = 0,
    device: str = "cpu",
    widths: tuple[int, ...] = (16, 64),
    factors: int = 256,
    depth: int = 32,
    trials: int = 24,
    batch: int = 128,
) -> dict[str, Any]:
    """Draw and predict condition numbers of products and networks.

    Parameters
    ----------
    seed : int
    device : str
        Not used: this runs on the CPU.
    widths : tuple of int
        N of the products, increasing; networks have the last.
    factors, depth : int
        The most matrices, and layers or blocks, powers of 2.
    trials : int
    batch : int
        Gaussian inputs whose statistics BN holds.

    Returns
    -------
    dict
        "products": by width "ends", (trials, depths, 2), ln of the extreme singular values, and `regime`'s "bound",
        "theory" of ln κ and "regime" (its name); Lyapunov "deep", (depths, 2), and free "wide" logs of the extremes.
        "networks": by kind "drawn", (trials, depths), ln κ, and "theory".
    """
    counts, depths = ([2**power for power in range(most.bit_length())] for most in (factors, depth))
    products = {width: _products(width, counts, trials, seed + width) for width in widths}
    networks = {kind: _network(kind, depths, widths[-1], trials, batch, seed) for kind in KINDS}
    sizes = {"width": widths[-1], "trials": trials, "batch": batch, "counts": counts, "depths": depths}
    return {**sizes, "products": products, "networks": networks}


def _network(kind: str, depths: list[int], width: int, trials: int, batch: int, seed: int) -> dict[str, np.ndarray]:
    drawn = [_drawn(kind, depth, width, trials, batch, seed + depth) for depth in depths]
    law = "relu" if kind == "relu_bn" else kind  # BN divides by nearly the same number everywhere
    return {"drawn": np.transpose(drawn), "theory": np.array([_theory(law, depth, width) for depth in depths])}


def _products(width: int, counts: list[int], trials: int, seed: int) -> dict[str, Any]:
    from bntheory import FussCatalan, lyapunov_exponents, mlp, regime
    from simulations import log_singular_values

    exponents, found, limits = lyapunov_exponents(width), [], []
    for count in counts:
        net = mlp(count, width, "linear", "lecun_normal")
        found.append(log_singular_values(net, trials, seed + 1000 * count)[:, [0, -1]])
        limits.append(regime(width, count))
    return {
        "ends": np.stack(found, axis=1),
        "bound": np.array([limit.log_condition_bound for limit in limits]),
        "theory": np.array([limit.log_mean.condition for limit in limits]),
        "regime": [limit.name for limit in limits],
        "deep": np.array([exponents.mean(count)[[0, -1]] for count in counts]),
        "wide": np.array([wide_ends(FussCatalan(count), width) for count in counts]),
    }


def wide_ends(law: Any, width: int) -> tuple[float, float]:
    """ln of the largest and the smallest singular value above 0 that a law of squares leads to expect at a width.

    The upper edge, and where the law has e^−γ/2 = 0.28 of its `width` values below, an atom at 0 left out.
    """
    zero = sum(mass for place, mass in law.atoms if place == 0)
    lowest = float(law.log.ppf(zero + SMALLEST / width))
    return math.log(law.support[1]) / 2, lowest / 2


def described(kind: str, depth: int, width: int) -> Sequential:
    """Describe a network whose Jacobian has, at infinite width, the law of that kind; BN as the scale it leaves."""
    from bntheory import Activation, Dense, Residual, Sequential, initialization, mlp

    if kind == "linear":
        return mlp(depth, width, "linear", "lecun_normal")
    if kind == "relu":
        return mlp(depth, width)
    if kind == "weak":
        branch = Sequential((Dense(width, initialization("lecun_normal")),))
        return Sequential((Residual(branch, scale=SCALE),) * depth, (width,))
    branch = Sequential((Activation("relu"), Dense(width)))
    variances = [1 + block * (1 - 1 / math.pi) if kind == "residual_bn" else 1.0 for block in range(depth)]
    return Sequential(tuple(Residual(branch, scale=variance**-0.5) for variance in variances), (width,))


@functools.cache
def _theory(kind: str, depth: int, width: int) -> float:
    """ln κ by the law of infinite width; of plain ReLU networks, whose ranks fall, by `regime`, beyond it its bound."""
    from bntheory import jacobian_law, regime

    if kind == "relu":
        found = regime(described(kind, depth, width))
        return found.log_condition_bound if math.isnan(found.log_mean.condition) else found.log_mean.condition
    largest, smallest = wide_ends(jacobian_law(described(kind, depth, width)), width)
    return largest - smallest


def _drawn(kind: str, depth: int, width: int, trials: int, batch: int, seed: int) -> np.ndarray:
    """ln κ of every trial."""
    from simulations import log_singular_values, streams

    if not kind.endswith("bn"):
        logs = log_singular_values(described(kind, depth, width), trials, seed)
        return np.array([conditions(part) for part in logs])
    root = streams.own_seed(seed, 1)
    rngs = (streams.stream(root, trial) for trial in range(trials))
    return np.array(
        [conditions(log_singular_values(factors(depth, width, batch, kind == "residual_bn", rng))) for rng in rngs]
    )


def conditions(logs: np.ndarray) -> float:
    """ln κ from descending ln σ, those of exact zeros left out."""
    positive = logs[np.isfinite(logs)]
    return float(positive[0] - positive[-1])


def factors(
    depth: int, width: int, batch: int, residual: bool, rng: np.random.Generator, batch_norm: bool = True
) -> list[np.ndarray]:
    """Jacobians of all layers or blocks at the first input of a batch, BN's statistics held, in order of application.

    Explicit He weights: D S^−1 W of φ(BN(W h)), or I + W D S^−1 of h + W φ(BN(h)), S the units' standard deviations.
    """
    h, found = rng.standard_normal((batch, width)), []
    for _ in range(depth):
        weights = rng.standard_normal((width, width)) * math.sqrt(2 / width)
        z = h if residual else h @ weights.T
        mean, std = (z.mean(axis=0), z.std(axis=0)) if batch_norm else (0.0, np.ones(width))
        active = np.maximum((z - mean) / std, 0)
        slopes = (active[0] > 0) / std
        found.append(np.eye(width) + weights * slopes if residual else slopes[:, None] * weights)
        h = h + active @ weights.T if residual else active
    return found


def check(data: dict[str, Any]) -> list[Check]:
    """Compare products with both limits, networks with their laws, and the kinds with one another."""
    checks = []
    for width, part in data["products"].items():
        drawn = part["ends"][..., 0] - part["ends"][..., 1]
        for index, name in enumerate(part["regime"]):
            if name != "between":
                text = f"product of {data['counts'][index]}, N = {width} ({name}): ln κ"
                beside = 0.02 * part["theory"][index] if name == "deep" else WIDTH * part["theory"][index]
                checks.append(near_mean(text, drawn[:, index], part["theory"][index], beside, FALSE_ALARM))
        error = drawn.std(axis=0, ddof=1) / math.sqrt(len(drawn))
        excess = (drawn.mean(axis=0) - part["bound"]) / error
        checks.append(at_most(f"products, N = {width}: ln κ above its bound, in standard errors", excess.max(), 5))
    deepest = {kind: part["drawn"][:, -1] for kind, part in data["networks"].items()}
    for kind in ("weak", "residual_bn"):
        theory = data["networks"][kind]["theory"][-1]
        text = f"{KINDS[kind]}, {data['depths'][-1]} blocks: ln κ"
        checks.append(near_mean(text, deepest[kind], theory, WIDTH * theory, FALSE_ALARM))
    text = f"plain ReLU, {data['depths'][-1]} layers: ln κ with BN against that without"
    checks.append(near_mean(text, deepest["relu_bn"] - deepest["relu"], 0.0, 0.0, FALSE_ALARM))
    gain = deepest["residual"].mean() - deepest["residual_bn"].mean()
    return [*checks, at_least("ReLU with shortcuts: ln κ without BN less that with it", gain, 0)]


def draw(data: dict[str, Any]) -> Figure:
    """Draw ln κ of products, their extreme singular values, and ln κ of networks on two depth axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 8.6))
    panels = figure.subplots(2, 2)
    _product_conditions(panels[0, 0], data)
    _extremes(panels[0, 1], data)
    for axes, kinds in zip(
        panels[1], (("linear", "relu", "relu_bn", "residual"), ("weak", "residual_bn")), strict=True
    ):
        _network_conditions(axes, data, kinds)
    panels[1, 0].set(ylabel="ln κ", ylim=(0, None))
    figure.supxlabel(
        f"no data: Gaussian matrices and inputs, {data['trials']} draws, ± 2 standard errors; networks of width "
        f"{data['width']},\nBN's statistics of {data['batch']} inputs. "
        "Dashed: law of infinite width (deep plain ReLU: a bound); full: M ≫ N",
        fontsize=10,
    )
    return figure


def _points(axes: Axes, at: list[int], drawn: np.ndarray, color: str, label: str, marker: str = "o") -> None:
    error = 2 * drawn.std(axis=0, ddof=1) / math.sqrt(len(drawn))
    axes.errorbar(
        at, drawn.mean(axis=0), error, fmt=marker, ms=4.5 if marker == "o" else 7, capsize=3, color=color, label=label
    )


def _product_conditions(axes: Axes, data: dict[str, Any]) -> None:
    for index, (width, part) in enumerate(data["products"].items()):
        axes.plot(data["counts"], part["bound"], color=f"C{index}", lw=1.4)
        axes.plot(data["counts"], part["wide"][:, 0] - part["wide"][:, 1], "--", color=f"C{index}", lw=1.4)
        _points(axes, data["counts"], part["ends"][..., 0] - part["ends"][..., 1], f"C{index}", f"N = {width}")
    axes.set(xscale="log", yscale="log", xlabel="matrices M", ylabel="ln κ", title="products")
    axes.legend()


def _extremes(axes: Axes, data: dict[str, Any]) -> None:
    for index, (width, part) in enumerate(data["products"].items()):
        axes.plot(data["counts"], part["deep"][:, 0], color=f"C{index}", lw=1.4)
        axes.plot(data["counts"], part["wide"][:, 0], "--", color=f"C{index}", lw=1.4)
        _points(axes, data["counts"], part["ends"][..., 0], f"C{index}", f"N = {width}")
    low = min(part["ends"][..., 0].mean(axis=0).min() for part in data["products"].values())
    axes.set(xscale="log", xlabel="matrices M", ylabel="ln σ₁", title="products: the largest value", ylim=(low - 1, 4))
    axes.legend(loc="lower left")


def _network_conditions(axes: Axes, data: dict[str, Any], kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        part, color = data["networks"][kind], f"C{list(KINDS).index(kind)}"
        axes.plot(data["depths"], part["theory"], "--", color=color, lw=1.4)
        _points(axes, data["depths"], part["drawn"], color, KINDS[kind], "s" if kind == "relu" else "o")
    axes.set(xscale="log", xlabel="layers or blocks", title="networks")
    axes.legend(loc="upper left", fontsize=9.5)
