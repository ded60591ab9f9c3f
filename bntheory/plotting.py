"""Pictures: each function draws one thing into Matplotlib Axes and returns them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bntheory import arguments
from bntheory.activations import Activation, activation
from bntheory.growth.diagnosis.layer_trends import layer_rows, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bntheory.growth.prediction import Growth
    from bntheory.spectra.law import SpectralLaw

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito's colours, told apart by all eyes
BLACK, BROWN = "black", "#6B3000"  # of simulations beside blue and orange
ZERO = -60.0  # ln of a channel's squared mean over its mean square that is what rounding leaves of zero
DRAWN = {
    "activations": ("log_second_moment",),
    "channels": ("log_channel_mean_square", "log_channel_variance"),
    "gradients": ("log_gradient",),
}
BANDED = {"log_second_moment": ("log_growth", "band"), "log_gradient": ("log_gradient", "gradient_band")}
LABELS = {
    "activations": r"mean square of activations, $\ln\,\langle h_\ell^2\rangle$",
    "channels": r"squared mean and variance of channels, $\ln\,\langle m_c^2\rangle$, $\ln\,\langle v_c\rangle$",
    "gradients": r"squared gradient, $\ln\,(\|g_\ell\|^2/\|g_L\|^2)$, $g_\ell = \partial\mathcal{L}/\partial h_\ell$",
}
NAMES = {"log_channel_mean_square": r"squared mean $m_c^2$, ", "log_channel_variance": r"variance $v_c$, "}
CONFIDENCE = 0.95  # of the bars at simulated quantiles …
BARS = 12  # … and at how many layers: more would hide the lines


def plot_growth(
    growth: Growth | None = None,
    samples: Any = None,
    measured: Any = None,
    ax: Axes | None = None,
    level: float = 0.9,
    label: str | None = None,
    color: str = BLUE,
    quantity: str = "activations",
) -> Axes:
    """Draw the size of activations, channels or gradients against the layer: prediction, simulation, measurement.

    Parameters
    ----------
    growth : Growth, optional
        Mean and band of the logarithm where there is a law, or simulated ones, as the legend then says, and ln of the
        expectation; of channels the latter alone.
    samples : Samples, optional
        Simulated networks: their median, dashed, and the quantiles that the band should match, dotted. Bars at a dozen
        layers show the 95% confidence interval of each, where there are enough networks to close it. Dead networks are
        left out; layers where none is alive, or where a quantile left the floating-point range, are gaps.
    measured : Samples, optional
        Measured networks, one dot a network and layer.
    ax : Axes, optional
        None: a new figure.
    level : float
        Probability inside the band, in (0, 1).
    label : str, optional
        Name of the network in the legend.
    color : str
        Of the prediction; of the simulation where nothing is predicted.
    quantity : {"activations", "channels", "gradients"}
        "channels": mean over channels of the squared mean, and of the variance, over inputs and positions, the latter
        in a second colour. "gradients": ln ‖∂ℓ/∂h‖² less that of the last row.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is nothing to draw (fewer than two layers are predicted), the quantity is unknown or not in what is
        given, or level is not in (0, 1).
    """
    from matplotlib.ticker import MaxNLocator

    names = _names(quantity, growth, samples, measured)
    arguments.probability("level", level)
    rows = next(part.rows for part in (growth, samples, measured) if part is not None)
    index = layer_rows(rows)
    if samples is None and measured is None and not any(_line_known(growth, name, index) for name in names):
        raise ValueError(f"nothing is predicted for {quantity}: fewer than two layers have a finite logarithm")
    ax = _axes(ax)
    for name, colors in zip(names, ((color, BLACK, ORANGE), (ORANGE, BROWN, GREEN)), strict=False):
        text = (f"{label}: " if label else "") + NAMES.get(name, "")
        if growth is not None:
            _draw_prediction(ax, growth, name, index, level, text, colors[0])
        if samples is not None:
            _draw_simulation(ax, samples, name, index, level, text, colors[growth is not None])
        if measured is not None:
            _draw_measured(ax, measured, name, index, text, colors[2])
    ax.set_xlabel(rf"{'residual ' if unit(rows) == 'block' else ''}{unit(rows)} $\ell$")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.set_ylabel(LABELS[quantity])
    _legend_above_the_curves(ax)
    return ax


def _names(quantity: str, growth: Growth | None, samples: Any, measured: Any) -> tuple[str, ...]:
    """Names of the arrays to draw; ValueError if they are not there."""
    names = DRAWN[arguments.choice("quantity", quantity, DRAWN)]
    if growth is None and samples is None and measured is None:
        raise ValueError("plot_growth needs growth, samples or measured, got none of them")
    for name in names:
        if any(part is not None and getattr(part, name) is None for part in (samples, measured)):
            raise ValueError(f"{name} was not sampled: simulate_growth records it with gradients=True")
    return names


def _draw_prediction(
    ax: Axes, growth: Growth, name: str, index: np.ndarray, level: float, label: str, color: str
) -> None:
    layers, banded = np.arange(len(index)), False
    if name in BANDED:
        prefix, band = BANDED[name]
        mean, std, error = (getattr(growth, f"{prefix}_{part}")[index] for part in ("mean", "std", "error"))
        known = np.isfinite(mean)
        banded = known.sum() > 1
        if banded:
            lower, upper = (edge[index][known] for edge in getattr(growth, band)(level))
            ax.fill_between(layers[known], lower, upper, color=color, alpha=0.25, lw=0)
            source = _source(growth.networks, std[known], error[known])
            ax.plot(layers[known], mean[known], color=color, label=f"{label}{source}, {level:.0%} band")
    if _line_known(growth, name, index):
        values = _shown(growth, name, index)
        source = "predicted"
        if "measured" in growth.moment_method:
            source += f" (from measured values, from row {growth.name[growth.moment_method.index('measured')]} on)"
        look = {"ls": "-.", "lw": 1} if banded else {"lw": 3, "alpha": 0.5}  # wide: a simulation may lie on it
        ax.plot(layers, values, color=color, label=f"{label}{source}: logarithm of the mean", **look)


def _source(networks: int, std: np.ndarray, error: np.ndarray) -> str:
    """Where means and bands are from: laws have no error, and rows that do not vary need neither."""
    if not error.any():
        return "predicted: mean of the logarithm"
    law = "" if (error > 0).all(where=std > 0) else "predicted and "
    return f"{law}simulated ({networks} networks): mean of the logarithm"


def _line_known(growth: Growth | None, name: str, index: np.ndarray) -> bool:
    """Whether a line goes through the expectations of at least two layers."""
    return growth is not None and np.isfinite(_shown(growth, name, index)).sum() > 1


def _draw_measured(ax: Axes, measured: Any, name: str, index: np.ndarray, label: str, color: str) -> None:
    ax.plot(np.arange(len(index)), _shown(measured, name, index).T, ".", color=color, ms=3, alpha=0.6)
    ax.plot([], [], ".", color=color, label=f"{label}{measured.trials} measured")


def _draw_simulation(
    ax: Axes, samples: Any, name: str, index: np.ndarray, level: float, label: str, color: str
) -> None:
    levels = ((1 - level) / 2, 0.5, (1 + level) / 2)
    lines, lower, upper = (_finite(part[:, index]) for part in samples.quantiles(levels, CONFIDENCE, name))
    lines = np.where(np.isnan(_shown(samples, name, index)).all(axis=0), np.nan, lines)
    for line, style in zip(lines, (":", "--", ":"), strict=True):
        text = f"{label}{samples.trials} simulated: median, {100 * levels[0]:.3g}% and {100 * levels[2]:.3g}% quantiles"
        ax.plot(np.arange(len(index)), line, style, color=color, lw=1, label=text if style == "--" else None)
    spread = np.flatnonzero(lines[2] > lines[0])  # nothing to show at the input, or at the output of gradients
    places = spread[np.unique(np.linspace(0, len(spread) - 1, min(BARS, len(spread))).round().astype(int))]
    for low, high in zip(lower[:, places], upper[:, places], strict=True):
        closed = np.isfinite(high - low)  # bars with an open end could run into each other
        ax.vlines(places[closed], low[closed], high[closed], color=color, lw=1)
        ax.plot(np.tile(places[closed], 2), np.concatenate([low[closed], high[closed]]), "_", color=color, ms=4)
    text = f"bars: {CONFIDENCE:.0%} confidence"
    if text not in ax.get_legend_handles_labels()[1]:
        ax.plot([], [], "|", color="black", ms=8, label=text)


def _legend_above_the_curves(ax: Axes) -> None:
    """Make room for the legend, unless the caller has fixed the range."""
    if ax.get_autoscaley_on():
        ax.autoscale(axis="y")
        low, high = ax.get_ylim()
        lines = len(ax.get_legend_handles_labels()[1])
        ax.set_ylim(low, high + (0.03 + 0.06 * lines) * (high - low), auto=True)
    ax.legend(fontsize="small")


def _shown(part: Any, name: str, index: np.ndarray) -> np.ndarray:
    """The logarithms of layers, with gaps where there are none, or only what rounding leaves of zero."""
    values = _finite(getattr(part, name)[..., index])
    if name == "log_channel_mean_square":
        return np.where(values < part.log_second_moment[..., index] + ZERO, np.nan, values)
    return values


def _finite(values: np.ndarray) -> np.ndarray:
    """Logarithms with dead and overflowed rows as gaps."""
    return np.where(np.isfinite(values), values, np.nan)


def plot_spectrum(
    law: SpectralLaw | None = None,
    log_singular_values: Any = None,
    ax: Axes | None = None,
    view: str = "singular",
    bins: int = 60,
    label: str | None = None,
    color: str = BLUE,
) -> Axes:
    """Draw the density of a law over the histogram of sampled singular values.

    Several laws go into one picture by calls with the same Axes and other colours. On axes with a logarithmic x scale
    the bins are geometric. An atom is a stem whose height is its mass, of the height of the picture.

    Parameters
    ----------
    law : SpectralLaw, optional
    log_singular_values : array, optional
        Natural logarithms of singular values, any shape; −inf (exact zeros) are left out of the bars but counted.
    ax : Axes, optional
    view : {"singular", "x", "log"}
        Horizontal axis: singular value s, eigenvalue x = s², or ln x.
    bins : int
    label, color : str

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is nothing to draw or the view is unknown.
    """
    ax = _axes(ax)
    arguments.choice("view", view, ("singular", "x", "log"))
    if law is None and log_singular_values is None:
        raise ValueError("plot_spectrum needs a law or log_singular_values, got neither")
    if log_singular_values is not None:
        logs = np.ravel(log_singular_values).astype(float)
        shown = logs[logs > -np.inf]
        values = {"singular": np.exp(shown), "x": np.exp(2 * shown), "log": 2 * shown}[view]
        edges: Any = arguments.integer("bins", bins)
        if ax.get_xscale() == "log":
            edges = np.geomspace(values.min(), values.max(), edges + 1)
        counts, edges = np.histogram(values, bins=edges)
        text = f"{label or 'sampled'}: {len(logs)} values"
        ax.stairs(counts / (len(logs) * np.diff(edges)), edges, fill=True, color=color, alpha=0.35, label=text)
    if law is not None:
        _draw_law(ax, law, view, label, color)
    symbols = {"singular": "singular value s", "x": "squared singular value x = s²", "log": "ln x = 2 ln s"}
    ax.set_xlabel(symbols[view])
    ax.set_ylabel({"singular": "density of s", "x": "density of x", "log": "density of ln x"}[view])
    ax.legend(fontsize="small")
    return ax


def _draw_law(ax: Axes, law: SpectralLaw, view: str, label: str | None, color: str) -> None:
    shown = {"singular": law.singular, "x": law, "log": law.log}[view]
    top = ax.get_ylim()[1] if ax.lines or (view == "log" and ax.has_data()) else 0.0
    if sum(mass for _, mass in law.atoms) < 1 - 1e-12:
        points, density = _density(law, shown)
        ax.plot(points, density, color=color, label=f"{label}: law" if label else "law")
        if ax.get_yscale() == "linear":
            # the density may diverge at both ends: show what lies between the last per cents
            low, high = shown.nonzero.ppf([0.01, 0.99])
            low = low if view == "log" else points[-1] / 60
            inside = (points > low) & ((points <= high) | (high <= low))
            ax.set_ylim(0, max(top, 1.15 * density[inside].max()))
    else:
        if not ax.has_data() and ax.get_yscale() == "linear":
            ax.set_ylim(0, 1)
        ax.plot([], [], "o", color=color, label=f"{label}: law" if label else "law")
    for location, mass in shown.atoms:
        if np.isfinite(location) and (location > 0 or ax.get_xscale() == "linear"):
            ax.plot([location, location], [0, mass], color=color, transform=ax.get_xaxis_transform(), clip_on=False)
            ax.plot([location], [mass], "o", color=color, transform=ax.get_xaxis_transform(), clip_on=False)
            text = f"atom {mass:.3g}"
            if text not in [other.get_text() for other in ax.texts]:
                at: Any = {"xycoords": ax.get_xaxis_transform(), "xytext": (6, -3), "textcoords": "offset points"}
                ax.annotate(text, (location, mass), color=color, **at)


def _density(law: SpectralLaw, shown: SpectralLaw) -> tuple[np.ndarray, np.ndarray]:
    """Points between quantiles of the continuous part, and between its ends, and the density there."""
    tail = np.geomspace(1e-9, 0.01, 100)
    levels = np.concatenate([tail[50:], np.linspace(0.01, 0.99, 300), 1 - tail])
    zero = sum(mass for x, mass in law.atoms if x == 0)
    above = sum(mass for x, mass in law.atoms if x > 0)
    points = np.unique(shown.ppf(zero + (1 - zero - above) * levels))
    points = points[np.isfinite(points)]
    points = np.unique(np.concatenate([points, np.linspace(points[0], points[-1], 400)]))  # also across gaps
    density = shown.pdf(points)
    return points[np.isfinite(density)], density[np.isfinite(density)]


def plot_phase(
    phi: str | Activation,
    ax: Axes | None = None,
    weight_variance: tuple[float, float] | None = None,
    bias_variance: tuple[float, float] = (0.0, 1.0),
    mark: tuple[float, float] | None = None,
) -> Axes:
    """Draw the edge of chaos in the plane of σ_w² and σ_b², and the depth scale of correlations around it.

    Parameters
    ----------
    phi : str or Activation
    ax : Axes, optional
    weight_variance, bias_variance : (low, high)
        Ranges of σ_w² (None: from 0 to twice the edge) and σ_b².
    mark : (σ_w², σ_b²), optional
        An initialization to mark.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        For an unknown activation or an empty range.
    """
    from bntheory.growth.phase import edge_of_chaos, phase

    ax, phi = _axes(ax), activation(phi)
    low_b, high_b = (arguments.number("bias_variance", value, at_least=0) for value in bias_variance)
    biases = low_b + (high_b - low_b) * np.linspace(0, 1, 61) ** 3  # the edge bends where biases are small
    edge = edge_of_chaos(phi, biases)
    if weight_variance is None:
        top = 2 * float(np.nanmax(edge)) if np.isfinite(edge).any() else 4.0
        weight_variance = (0.02 * top, max(top, 1.2 * mark[0]) if mark else top)
    low_w, high_w = (arguments.number("weight_variance", value, above=0) for value in weight_variance)
    if not (low_w < high_w and low_b < high_b):
        raise ValueError(f"ranges must not be empty, got σ_w² in {weight_variance}, σ_b² in {bias_variance}")
    weights, heights = np.linspace(low_w, high_w, 33), np.linspace(low_b, high_b, 17)
    # Without any bias the ordered side has no correlation length: the lowest line is drawn for a small one.
    depth = np.array([[phase(phi, w, max(b, high_b / 80)).depth_c for w in weights] for b in heights])
    image = ax.contourf(weights, heights, np.log10(np.clip(depth, 1, 100)), np.linspace(0, 2, 21), cmap="cividis")
    bar = ax.figure.colorbar(image, ax=ax, ticks=[0, 0.5, 1, 1.5, 2])
    bar.ax.set_yticklabels(["≤ 1", "3", "10", "30", "≥ 100"])
    bar.set_label("depth scale of correlations, layers")
    if np.isfinite(edge).any():
        ax.plot(edge, biases, color="white", lw=4)
        ax.plot(edge, biases, color=ORANGE, lw=2, label=r"edge of chaos, $\chi = 1$")
    if mark is not None:
        text = rf"$\sigma_w^2$ = {mark[0]:.4g}, $\sigma_b^2$ = {mark[1]:.4g}"
        ax.plot(*mark, "o", color="white", mec="black", ms=8, label=text, clip_on=False, zorder=3)
    ax.set(xlim=(low_w, high_w), ylim=(low_b, high_b), xlabel=r"weight variance $\sigma_w^2$")
    ax.set_ylabel(r"bias variance $\sigma_b^2$")
    ax.set_title(f"{phi}: depth scale of correlations", fontsize="medium")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small", loc="upper left")
    return ax


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(layout="constrained")[1]
