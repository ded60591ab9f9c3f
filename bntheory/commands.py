"""Commands of the theory: growth, spectrum, phase. Thin fronts; the work is imported inside."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bntheory.networks import Sequential
    from bntheory.spectra.fuss_catalan import FussCatalan, MarchenkoPastur
    from bntheory.spectra.s_transform import STransformLaw

PICTURES = (".png", ".pdf", ".svg")
QUANTITIES = ("activations", "channels", "gradients")  # that plot_growth draws
MOST_SYMBOLIC = 100  # factors of an exact derivation, whose edge is then a fraction of 200 digits


ARCHITECTURES = ("mlp", "cnn", "vgg", "resnet")  # functions of the package, whose arguments are the options
SIZES = {"mlp": {"depth": 100, "width": 512}}  # where the function has no default


def network_options(
    command: Callable[..., None] | None = None,
    *,
    input_width: int | None = None,
    optional: bool = False,
    target: bool = False,
) -> Callable[..., Any]:
    """Add the options that describe a network, with a default input width; the command receives it as `net`.

    If it is optional, `net` is None where none of them is given. If a torch module may be the command's `target`
    instead, `net` is None where it is, and of these options only --init goes with it, which the command receives too.
    """
    if command is None:
        return functools.partial(network_options, input_width=input_width, optional=optional, target=target)

    @functools.wraps(command)
    def described(words: dict[str, Any], **given: Any) -> None:
        if target:
            given["init"] = words.get("init")
        if target and given["target"] is not None:
            others = [_flag(name) for name in words if name != "init"]
            if others:
                raise click.UsageError(f"a torch module is not described by options: leave out {', '.join(others)}")
            words = {}
        none = (optional and not words) or (target and given["target"] is not None)
        command(net=None if none else described_network(words, input_width), **given)

    return network_words(described, input_width)


def network_words(command: Callable[..., None], input_width: int | None = None) -> Callable[..., None]:
    """Add the options that describe a network; the command receives those that are given as a dict, `words`."""

    @functools.wraps(command)
    def collected(**given: Any) -> None:
        words = {name: given.pop(name) for name in NETWORK_OPTIONS}
        command(words={name: word for name, word in words.items() if word is not None}, **given)

    for name, settings in reversed(NETWORK_OPTIONS.items()):
        if name == "input_width" and input_width is not None:
            settings = {**settings, "help": f"Units of the input. mlp [default: {input_width}]"}
        collected = click.option(_flag(name), name, default=None, **settings)(collected)
    return collected


def input_option(required: bool) -> Callable[..., Any]:
    """Add --input, the shape of one input of a torch module."""
    shapes = "N|C,L|T,C|C,H,W"
    return click.option("--input", "sizes", required=required, metavar=shapes, callback=_sizes, help="Of one input.")


def _sizes(ctx: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Read one to three sizes."""
    if text is None:
        return None
    try:
        sizes = tuple(int(side) for side in text.split(","))
    except ValueError:
        sizes = ()
    if not 1 <= len(sizes) <= 3 or min(sizes) < 1:
        raise click.BadParameter(f"{text!r} must be one to three sizes, for example 3,32,32", ctx, option)
    return sizes


def _image(ctx: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Read "C,H,W"."""
    if text is None:
        return None
    try:
        channels, height, width = (int(side) for side in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} must be channels,height,width, for example 3,32,32", ctx, option) from None
    return channels, height, width


NETWORK_OPTIONS: dict[str, dict[str, Any]] = {
    "architecture": {"help": "mlp, cnn, vgg or resnet. [default: mlp]"},
    "resnet": {"type": int, "metavar": "DEPTH", "help": "Short for --architecture resnet --depth DEPTH."},
    "depth": {"type": int, "help": "Layers. [default: mlp 100 (Dense + activation pairs), cnn 20, vgg 16, resnet 110]"},
    "width": {"type": int, "help": "Units of every layer. mlp [default: 512]"},
    "channels": {"type": int, "help": "Of every convolution; vgg: of the first stage. cnn, vgg [default: 64]"},
    "activation": {"help": "relu, tanh, leaky_relu(0.2), … [default: relu]"},
    "init": {"help": "he_normal, torch_default, … [default: he_normal; resnet xavier_normal]"},
    "gain": {"type": float, "help": "Replaces the initialization's gain."},
    "bias": {"type": float, "help": "Variance of Gaussian biases. mlp, cnn [default: the initialization's own]"},
    "batch_norm": {"is_flag": True, "help": "BatchNorm before every activation."},
    "final_batch_norm": {"is_flag": True, "help": "BatchNorm of the outputs. resnet"},
    "layer_norm": {"is_flag": True, "help": "LayerNorm before every activation. mlp"},
    "residual": {"is_flag": True, "help": "Pre-activation residual blocks. mlp"},
    "shortcut": {"help": "projection or zero-pad, where the shape changes. resnet [default: projection]"},
    "kernel": {"type": int, "help": "Side of the kernel. cnn [default: 3]"},
    "image": {"metavar": "C,H,W", "callback": _image, "help": "Input. cnn, vgg, resnet [default: 3,32,32]"},
    "input_width": {"type": int, "help": "Units of the input. mlp [default: width]"},
    "output_width": {"type": int, "help": "Adds a Dense layer. mlp [default: none]"},
    "classes": {"type": int, "help": "Outputs. cnn, vgg, resnet [default: 10; cnn: no output layer]"},
    "net": {"metavar": "FILE", "help": "A description written by to_json, instead of the above."},
}


def described_network(given: dict[str, Any], input_width: int | None = None) -> Sequential:
    """Return the network of the options that were given; an option that does not belong is refused by name."""
    import bntheory
    from bntheory import arguments

    if "net" in given:
        others = [_flag(name) for name in given if name != "net"]
        if others:
            raise click.UsageError(f"--net describes the whole network: leave out {', '.join(others)}")
        return bntheory.from_json(_text(given["net"]))
    given = spelled_out(given)
    architecture = arguments.choice("architecture", given.pop("architecture", "mlp"), ARCHITECTURES)
    build = getattr(bntheory, architecture)
    known = inspect.signature(build).parameters
    strange = [_flag(name) for name in given if name not in known and name != "gain"]
    if strange:
        takes = ", ".join(_flag(name) for name in NETWORK_OPTIONS if name in known or name == "gain")
        raise click.UsageError(f"{strange[0]} does not belong to --architecture {architecture}, which takes {takes}")
    init = bntheory.initialization(given.pop("init", known["init"].default), gain=given.pop("gain", None))
    sizes = {**SIZES.get(architecture, {}), **({"input_width": input_width} if "input_width" in known else {})}
    return build(**{**sizes, **given}, init=init)


def spelled_out(given: dict[str, Any]) -> dict[str, Any]:
    """The words of a network with architecture and depth in the place of --resnet, which says both."""
    if "resnet" not in given:
        return dict(given)
    others = [_flag(name) for name in ("architecture", "depth") if name in given]
    if others:
        raise click.UsageError(f"--resnet says both architecture and depth: leave out {', '.join(others)}")
    rest = {name: word for name, word in given.items() if name != "resnet"}
    return {**rest, "architecture": "resnet", "depth": given["resnet"]}


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise click.UsageError(f"--net {path!r} is not text: it must be a description written by to_json") from None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --json FILE and --plot FILE."""
    plot = click.option("--plot", "plot_file", metavar="FILE", callback=writable, help="Draw to FILE (png, pdf, svg).")
    numbers = click.option("--json", "json_file", metavar="FILE", callback=writable, help="Write the numbers to FILE.")
    return numbers(plot(command))


def writable(ctx: click.Context, option: click.Parameter, path: str | None) -> str | None:
    """Refuse a path that cannot be written before any work is done."""
    if path is None:
        return None
    target = Path(path)
    if not path or target.is_dir():
        raise click.BadParameter(f"{path!r} must be the name of a file", ctx, option)
    if not target.parent.is_dir():
        raise click.BadParameter(f"cannot write {path!r}: there is no folder {str(target.parent)!r}", ctx, option)
    if not os.access(target.parent, os.W_OK):
        raise click.BadParameter(f"cannot write {path!r}: no files may be made in {str(target.parent)!r}", ctx, option)
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
@click.option(
    "--batch", type=int, help="Inputs that BatchNorm and channel moments refer to. [default: infinitely many]"
)
@click.option("--level", type=float, default=0.9, show_default=True, help="Probability inside the bands.")
@click.option(
    "--quantity", default="activations", show_default=True, help="What --plot draws: or channels, or gradients."
)
@click.option("--no-covariances", is_flag=True, help="Second moments and gradients only: faster, for large images.")
@output_options
def growth(
    net: Sequential,
    batch: int | None,
    level: float,
    quantity: str,
    no_covariances: bool,
    json_file: str | None,
    plot_file: str | None,
) -> None:
    """Predict how large activations and gradients are, layer by layer, and what is wrong with them."""
    from bntheory import arguments, plot_growth, predict_growth

    arguments.choice("quantity", quantity, QUANTITIES)
    batch_size = None if batch is None else arguments.integer("batch", batch)
    predicted = predict_growth(net, batch_size=batch_size, covariances=not no_covariances)
    lower, upper = predicted.band(level)
    gradient_lower, gradient_upper = predicted.gradient_band(level)
    found = predicted.findings()
    click.echo(f"{net}\n\n{predicted.table()}\n\n{found}")
    if upper[-1] == upper[-1]:
        click.echo(f"{level:.0%} of all draws end with ln mean square between {lower[-1]:.4g} and {upper[-1]:.4g}.")
    lawless = ["activations"] if upper[-1] != upper[-1] else []
    lawless += ["gradients"] if quantity == "gradients" and any(edge != edge for edge in gradient_upper) else []
    if lawless:
        what = " and ".join(lawless)
        click.echo(f"No law for the {level:.0%} band of {what}: bntheory simulate growth measures it.")
    edges = {"lower": lower, "upper": upper, "gradient_lower": gradient_lower, "gradient_upper": gradient_upper}
    bands = {"level": level, **{name: _plain(edge) for name, edge in edges.items()}}
    write_json(json_file, {"network": str(net), **predicted.to_dict(), **bands, "findings": found.to_dict()})
    save_figure(plot_file, lambda ax: plot_growth(predicted, ax=ax, level=level, quantity=quantity))


@click.command()
@click.argument("target", metavar="PACKAGE.MODULE:FACTORY")
@input_option(required=True)
@click.option("--batch", type=int, default=8, show_default=True, help="Inputs.")
@click.option("--init", help="A law for all weights, instead of their own second moments: he_normal, …")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the factory's weights and the noise.")
@click.option("--level", type=float, default=0.9, show_default=True, help="Probability inside the bands.")
@click.option(
    "--quantity", default="activations", show_default=True, help="What --plot draws: or channels, or gradients."
)
@click.option("--no-covariances", is_flag=True, help="Second moments and gradients only: faster, for large images.")
@output_options
def predict(
    target: str,
    sizes: tuple[int, ...],
    batch: int,
    init: str | None,
    seed: int,
    level: float,
    quantity: str,
    no_covariances: bool,
    json_file: str | None,
    plot_file: str | None,
) -> None:
    """Predict the growth of a torch module as it stands, on inputs of noise.

    The factory is found from the current folder, as python -m would; it is called without arguments.
    """
    import numpy as np

    from bntheory import arguments, plot_growth, predict_module

    arguments.choice("quantity", quantity, QUANTITIES)
    arguments.probability("level", level)
    module, _ = made_module(target, seed)
    example = np.random.default_rng(seed).standard_normal((arguments.integer("batch", batch), *sizes))
    with own_errors():
        predicted = predict_module(module, example, init, covariances=not no_covariances)
    lower, upper = predicted.band(level)
    click.echo(f"{target} on {batch} inputs of noise, seed {seed}\n\n{predicted.table()}\n")
    click.echo(f"{predicted.weights_table()}\n\n{predicted.verdict()}")
    bands = {"level": level, "lower": _plain(lower), "upper": _plain(upper)}
    write_json(json_file, {"network": target, **predicted.to_dict(), **bands})
    save_figure(plot_file, lambda ax: plot_growth(predicted, ax=ax, level=level, quantity=quantity))


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """What a module itself raises, in one line with the row that was reached."""
    try:
        yield
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        if not notes:
            raise
        raise ValueError(f"{type(error).__name__}: {error}; {'; '.join(notes)}") from error


def made_module(target: str, seed: int) -> tuple[Any, Callable[[], Any]]:
    """The module that a factory makes from that seed, and the factory."""
    from bntheory import arguments

    try:
        import torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError('torch modules need PyTorch: pip install "bntheory[train]"') from None
    from bntheory.torch_models.factories import factory

    make = factory(target)
    torch.manual_seed(arguments.integer("seed", seed, at_least=0))
    try:
        return make(), make
    except Exception as error:  # whatever the factory does
        raise ValueError(f"{target} cannot be made: {type(error).__name__}: {error}") from error


@click.command()
@click.option("--factors", type=int, help="Number of square Gaussian matrices. [default: 1]")
@click.option("--scale", type=float, default=1.0, show_default=True, help="Multiplies squared singular values.")
@click.option("--ratio", type=float, help="One rectangular matrix instead: rows / columns (Marchenko–Pastur).")
@click.option(
    "--symbolic",
    is_flag=True,
    help="Also derive x(y), moments and edges exactly; of networks of Dense and relu.",
)
@network_options(optional=True)
@output_options
def spectrum(
    net: Sequential | None,
    factors: int | None,
    scale: float,
    ratio: float | None,
    symbolic: bool,
    json_file: str | None,
    plot_file: str | None,
) -> None:
    """Give the law of the singular values of a product of Gaussian matrices, or of the Jacobian of a network."""
    from bntheory import arguments, plot_spectrum

    if symbolic and factors is not None:
        arguments.integer("factors", factors, at_most=MOST_SYMBOLIC)
    name, law = _law(net, factors, scale, ratio)
    derived = _derivation(net, factors or 1, scale, ratio) if symbolic else ""
    levels = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]
    log_x = law.log.ppf(levels)
    click.echo(name)
    if law.method == "approximate":
        click.echo("approximate: slopes of different blocks are taken for independent, see jacobian_law")
    click.echo(f"mean of x {law.mean:.6g}, variance {law.var:.6g}; ln x on {_interval(law.log.support)}")
    for location, mass in law.atoms:
        click.echo(f"atom of mass {mass:.6g} at x = {location:g}")
    largest = max([law.singular.support[1], *(x for x, _ in law.singular.atoms)])
    click.echo(f"largest singular value {largest:.6g}\n")
    click.echo("quantile   ln x        log10 of the singular value")
    for level, value in zip(levels, log_x, strict=True):
        click.echo(f"{level:<9g}  {value:<10.5g}  {value / 4.605170185988092:.5g}")
    if symbolic:
        click.echo(f"\n{derived}")
    quantiles = {"level": levels, "log_x": _plain(log_x)}
    edge = {"largest_singular_value": float(largest), "atoms": [list(atom) for atom in law.atoms]}
    moments: dict[str, Any] = {"mean": _number(law.mean), "variance": _number(law.var)}
    moments |= {"log_moments": _plain(law.log_moment(k) for k in range(1, 5)), "log_support": _plain(law.log.support)}
    write_json(json_file, {"law": name, "method": law.method, **moments, **edge, **quantiles})
    view = "singular" if law.log.support[1] - law.log.nonzero.ppf(0.5) < 10 else "log"
    save_figure(plot_file, lambda ax: plot_spectrum(law, ax=ax, view=view))


def _law(
    net: Sequential | None, factors: int | None, scale: float, ratio: float | None
) -> tuple[str, FussCatalan | MarchenkoPastur | STransformLaw]:
    """The law that the options name, and what it is the law of."""
    from bntheory import FussCatalan, MarchenkoPastur, jacobian_law

    if net is not None:
        if factors is not None or ratio is not None:
            raise click.UsageError("--factors and --ratio are for matrices: leave them out with a network")
        return f"{net}\nsquared singular values x of the Jacobian, widths → ∞", jacobian_law(net) * scale
    if ratio is not None and factors not in (None, 1):
        raise click.UsageError(f"--ratio is for one matrix, got --factors {factors}")
    law = FussCatalan(1 if factors is None else factors, scale) if ratio is None else MarchenkoPastur(ratio, scale)
    return f"{law}: squared singular values x of the product, entries of variance 1/N each, N → ∞", law


def _derivation(net: Sequential | None, factors: int, scale: float, ratio: float | None) -> str:
    """The same law from definitions, as text."""
    from bntheory import arguments
    from bntheory.symbolic import networks, spectra

    if net is None:
        chain = [spectra.gaussian(1 if ratio is None else ratio), *[spectra.gaussian()] * (factors - 1)]
    else:
        chain = networks.factors(net)
        arguments.integer("factors", len(chain), at_most=MOST_SYMBOLIC)
    return spectra.derivation(spectra.scaled(spectra.law(chain), scale))


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
