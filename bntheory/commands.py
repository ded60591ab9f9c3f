"""Commands of the theory: growth, spectrum, phase. Thin fronts; the work is imported inside."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bntheory.networks import Sequential

PICTURES = (".png", ".pdf", ".svg")


def network_options(
    command: Callable[..., None] | None = None, *, input_width: int | None = None
) -> Callable[..., Any]:
    """Add the options that describe a network, with a default input width; the command receives it as `net`."""
    if command is None:
        return functools.partial(network_options, input_width=input_width)

    @functools.wraps(command)
    def described(
        depth: int,
        width: int,
        activation: str,
        init: str,
        gain: float | None,
        bias: float | None,
        batch_norm: bool,
        residual: bool,
        input_width: int | None,
        net: str | None,
        **others: Any,
    ) -> None:
        from bntheory import from_json, initialization, mlp

        if net is not None:
            described_net = from_json(Path(net).read_text(encoding="utf-8"))
        else:
            law = initialization(init, gain=gain)
            described_net = mlp(depth, width, activation, law, bias, batch_norm, residual, input_width)
        command(net=described_net, **others)

    for option in reversed(
        (
            click.option("--depth", type=int, default=100, show_default=True, help="Dense + activation pairs."),
            click.option("--width", type=int, default=512, show_default=True, help="Units of every layer."),
            click.option("--activation", default="relu", show_default=True, help="relu, tanh, leaky_relu(0.2), …"),
            click.option("--init", default="he_normal", show_default=True, help="he_normal, torch_default, …"),
            click.option("--gain", type=float, help="Replaces the initialization's gain."),
            click.option("--bias", type=float, help="Variance of Gaussian biases. [default: the initialization's own]"),
            click.option("--batch-norm", is_flag=True, help="BatchNorm before every activation."),
            click.option("--residual", is_flag=True, help="Pre-activation residual blocks."),
            click.option(
                "--input-width",
                type=int,
                default=input_width,
                help=f"Units of the input. [default: {input_width or 'width'}]",
            ),
            click.option("--net", metavar="FILE", help="A description written by to_json, instead of the above."),
        )
    ):
        described = option(described)
    return described


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --json FILE and --plot FILE."""
    plot = click.option("--plot", "plot_file", metavar="FILE", callback=_writable, help="Draw to FILE (png, pdf, svg).")
    numbers = click.option("--json", "json_file", metavar="FILE", callback=_writable, help="Write the numbers to FILE.")
    return numbers(plot(command))


def _writable(ctx: click.Context, option: click.Parameter, path: str | None) -> str | None:
    """Refuse a path that cannot be written before any work is done."""
    if path is None:
        return None
    target = Path(path)
    if not path or target.is_dir():
        raise click.BadParameter(f"{path!r} must be the name of a file", ctx, option)
    if not target.parent.is_dir():
        raise click.BadParameter(f"cannot write {path!r}: there is no folder {str(target.parent)!r}", ctx, option)
    if option.name == "plot_file" and target.suffix not in PICTURES:
        raise click.BadParameter(f"{path!r} must end in {', '.join(PICTURES)}", ctx, option)
    return path


def write_json(path: str | None, data: Any) -> None:
    """Write data as JSON, whole or not at all; do nothing without a path."""
    if path is not None:
        _replace(path, lambda name: Path(name).write_text(json.dumps(data, indent=1, allow_nan=False) + "\n"))


def save_figure(path: str | None, draw: Callable[[Any], object]) -> None:
    """Let `draw` fill the Axes of a new figure and save it, whole or not at all; do nothing without a path."""
    if path is None:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    draw(figure.add_subplot())
    _replace(path, lambda name: figure.savefig(name, dpi=150))


def _replace(path: str, write: Callable[[str], object]) -> None:
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=target.suffix)
    os.close(handle)
    try:
        write(name)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


@click.command()
@network_options
@click.option("--level", type=float, default=0.9, show_default=True, help="Probability inside the band.")
@output_options
def growth(net: Sequential, level: float, json_file: str | None, plot_file: str | None) -> None:
    """Predict how large activations are, layer by layer."""
    from bntheory import plot_growth, predict_growth

    predicted = predict_growth(net)
    lower, upper = predicted.band(level)
    click.echo(f"{net}\n\n{predicted.table()}\n\n{predicted.verdict()}")
    if upper[-1] == upper[-1]:
        click.echo(f"{level:.0%} of all draws end with ln mean square between {lower[-1]:.4g} and {upper[-1]:.4g}.")
    edges = {"lower": _plain(lower), "upper": _plain(upper)}
    write_json(json_file, {"network": str(net), **predicted.to_dict(), "level": level, **edges})
    save_figure(plot_file, lambda ax: plot_growth(predicted, ax=ax, level=level))


@click.command()
@click.option("--factors", type=int, default=1, show_default=True, help="Number of square Gaussian matrices.")
@click.option("--scale", type=float, default=1.0, show_default=True, help="Multiplies squared singular values.")
@click.option("--ratio", type=float, help="One rectangular matrix instead: rows / columns (Marchenko–Pastur).")
@output_options
def spectrum(factors: int, scale: float, ratio: float | None, json_file: str | None, plot_file: str | None) -> None:
    """Give the law of the singular values of a product of Gaussian matrices."""
    from bntheory import FussCatalan, MarchenkoPastur, plot_spectrum

    if ratio is not None and factors != 1:
        raise click.UsageError(f"--ratio is for one matrix, got --factors {factors}")
    law = FussCatalan(factors, scale) if ratio is None else MarchenkoPastur(ratio, scale)
    levels = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]
    log_x = law.log.ppf(levels)
    click.echo(f"{law}: squared singular values x of the product, entries of variance 1/N each, N → ∞")
    click.echo(f"mean of x {law.mean:.6g}, variance {law.var:.6g}; ln x on {_interval(law.log.support)}")
    for location, mass in law.atoms:
        click.echo(f"atom of mass {mass:.6g} at x = {location:g}")
    click.echo(f"largest singular value {law.singular.support[1]:.6g}\n")
    click.echo("quantile   ln x        log10 of the singular value")
    for level, value in zip(levels, log_x, strict=True):
        click.echo(f"{level:<9g}  {value:<10.5g}  {value / 4.605170185988092:.5g}")
    quantiles = {"level": levels, "log_x": _plain(log_x)}
    edge = {"largest_singular_value": float(law.singular.support[1]), "atoms": [list(atom) for atom in law.atoms]}
    moments = {"mean": _number(law.mean), "variance": _number(law.var)}
    write_json(json_file, {"law": str(law), **moments, **edge, **quantiles})
    view = "singular" if factors <= 10 else "log"
    save_figure(plot_file, lambda ax: plot_spectrum(law, ax=ax, view=view))


@click.command()
@click.option("--activation", default="relu", show_default=True, help="relu, tanh, leaky_relu(0.2), …")
@click.option("--weight-variance", type=float, help="σ_w², fan_in times the variance of a weight. [default: critical]")
@click.option("--bias-variance", type=float, default=0.0, show_default=True, help="σ_b².")
@output_options
def phase(
    activation: str, weight_variance: float | None, bias_variance: float, json_file: str | None, plot_file: str | None
) -> None:
    """Find the critical gain, fixed points and depth scales of an initialization."""
    from bntheory import critical_gain, plot_phase
    from bntheory import phase as find_phase

    gain: float | None = None
    try:
        gain = critical_gain(activation, bias_variance)
        click.echo(f"critical gain σ_w = {gain:.6g}: σ_w² = {gain**2:.6g} at σ_b² = {bias_variance:g}")
    except ValueError as error:
        if weight_variance is None:
            raise
        click.echo(str(error))
    found = find_phase(activation, gain**2 if weight_variance is None and gain else weight_variance, bias_variance)
    click.echo(str(found))
    if weight_variance is None and found.regime != "critical":
        fate = "diverges" if found.q > 1 else "moves elsewhere"
        click.echo(f"The critical fixed point is not reached from variance 1, which {fate}: choose a smaller σ_w².")
    write_json(json_file, {"critical_gain": gain, **found.to_dict()})
    mark = (found.weight_variance, found.bias_variance)
    save_figure(plot_file, lambda ax: plot_phase(activation, ax=ax, mark=mark))


def _plain(values: Any) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    return float(value) if abs(value) < float("inf") else None


def _interval(support: tuple[float, float]) -> str:
    low, high = support
    return f"({low:.6g}, {high:.6g}]"
