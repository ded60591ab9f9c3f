"""Commands of the simulation: simulate growth and spectrum, crosscheck. Thin fronts; work is imported inside."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from bntheory.commands import (
    QUANTITIES,
    input_option,
    network_options,
    output_options,
    own_errors,
    save_figure,
    write_json,
)
from simulations.study_commands import Simulate, study

if TYPE_CHECKING:
    from bntheory.growth.prediction import Growth
    from bntheory.networks import Sequential
    from simulations.samples import Samples
    from simulations.training.probes.theory_gap import TheoryGap
    from simulations.training.targets import Target


@click.group(cls=Simulate)
def simulate() -> None:
    """Sample random networks or products of matrices beside the theory.

    \b
    A grid of them, with results that survive interruptions:
      bntheory simulate STUDY.toml --out DIR [--resume]
      bntheory simulate --show DIR
    """


simulate.add_command(study)


@simulate.command("growth")
@network_options
@click.option("--trials", type=int, default=500, show_default=True, help="Networks to draw; with --until, at most.")
@click.option("--until", type=float, metavar="ERROR", help="Stop once the last row's mean ln⟨h²⟩ is known to ± ERROR.")
@click.option("--batch", type=int, default=1, show_default=True, help="Inputs, uncorrelated, of second moment 1.")
@click.option("--method", help="conditional or weights. [default: conditional where it applies and pays]")
@click.option("--gradients/--no-gradients", default=True, show_default=True, help="Send gradients back too.")
@click.option("--dtype", default="float64", show_default=True, help="float64 or float32, of the arithmetic.")
@click.option("--workers", type=int, help="Threads. [default: one a core, or as many as fit into memory]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--quantity", default="activations", show_default=True, help="What --plot draws: or channels, or gradients."
)
@output_options
@click.pass_context
def simulate_growth(
    ctx: click.Context,
    net: Sequential,
    trials: int,
    until: float | None,
    batch: int,
    quantity: str,
    json_file: str | None,
    plot_file: str | None,
    **settings: Any,
) -> None:
    """Draw networks, with or without their weights, beside the prediction; exit status 1 if they disagree."""
    from bntheory import arguments, plot_growth, predict_growth
    from simulations import growth
    from simulations.bands import fill_bands
    from simulations.comparison import compare

    arguments.choice("quantity", quantity, QUANTITIES)
    if quantity == "gradients" and not settings["gradients"]:
        raise click.UsageError("--quantity gradients needs --gradients, got --no-gradients")
    with _warnings_in_one_line():
        samples, reached = _samples(net, trials, until, batch=batch, **settings)
    # a single input is given to the theory as it is; a batch by its size alone, which spares it every pair of inputs
    one = growth.uncorrelated_inputs(samples.rows[0].shape, 1, settings["seed"]) if batch == 1 else None
    predicted = predict_growth(net, one) if batch == 1 else predict_growth(net, batch_size=batch)
    result = compare(predicted, samples, single=batch == 1)
    gradients, sentence = _gradients(samples) if settings["gradients"] else ({}, "")
    click.echo(f"{net}\n{_title(samples)}\n{reached}\n{result.table()}\n\n{sentence}{result.verdict()}")
    numbers = {"network": str(net), "method": samples.method, "dtype": samples.dtype, **result.to_dict(), **gradients}
    # filled after the comparison: samples must not be judged by themselves
    numbers |= _bands(fill_bands(predicted, samples, single=batch == 1))
    write_json(json_file, numbers)
    save_figure(plot_file, lambda ax: plot_growth(predicted, samples=samples, ax=ax, quantity=quantity))
    ctx.exit(0 if result.agrees else 1)


def _samples(net: Sequential, trials: int, until: float | None, **settings: Any) -> tuple[Samples, str]:
    """Draw `trials` networks, or until the last row is known well enough; the line that says how well."""
    import numpy as np

    from bntheory import arguments
    from simulations import Samples, sample_until, simulate_growth

    if until is None:
        return simulate_growth(net, trials, **settings), ""
    until = arguments.number("until", until, above=0)
    most, parts = arguments.integer("trials", trials, at_least=2), []

    def draw(start: int, count: int) -> np.ndarray:
        parts.append(simulate_growth(net, count, first=start, **settings))
        last = parts[-1].log_second_moment[:, -1]
        if not np.isfinite(last).all():
            dead, lost = int((last == -np.inf).sum()), int((last == np.inf).sum())
            found = f"{dead} dead and {lost} out of range of {count}"
            raise ValueError(f"--until needs networks that live, got {found}: give --trials without it")
        return last

    found = sample_until(draw, 0, first=min(64, most), most=most, absolute_error=until)
    verdict = f"below the {until:g} asked for" if found.reached else f"NOT below {until:g}: give more --trials"
    line = f"mean ln⟨h²⟩ of the last row {found.mean:.4g} ± {found.half_width:.2g} (95% confidence), {verdict}\n"
    return Samples.stack(parts), line


def _bands(growth: Growth, level: float = 0.9) -> dict[str, Any]:
    """Mean, spread and band of every row, with the words for how they were found; no edges from too few networks."""
    from simulations.bands import networks_for

    enough = growth.networks == 0 or growth.networks >= networks_for(level)
    edges = [*growth.band(level), *growth.gradient_band(level)] if enough else []
    names = ("band_lower", "band_upper", "gradient_band_lower", "gradient_band_upper")
    keys = ("log_growth_mean", "log_growth_std", "log_growth_error", "band_method")
    keys += ("log_gradient_mean", "log_gradient_std", "log_gradient_error", "gradient_band_method")
    found = growth.to_dict()
    columns = {
        name: [value if math.isfinite(value) else None for value in edge]
        for name, edge in zip(names, edges, strict=False)
    }
    return {"networks": growth.networks, "band_level": level, **{key: found[key] for key in keys}, **columns}


def _title(samples: Samples) -> str:
    title = f"{samples.trials} network{'s' * (samples.trials > 1)}, method '{samples.method}', seed {samples.seed}"
    if samples.rounding is None:
        return title
    return f"{title}, {samples.dtype} (off by at most {samples.rounding[:, 0].max():.1g} in ln⟨h²⟩)"


def _gradients(samples: Samples) -> tuple[dict[str, Any], str]:
    """Quantiles of ln ‖∂ℓ/∂h‖² row by row, and the sentence that sums them up."""
    import numpy as np

    from bntheory.plotting import layer_rows

    levels = (0.05, 0.5, 0.95)
    found = samples.quantiles(levels, quantity="log_gradient").quantile
    lower, median, upper = ([value if np.isfinite(value) else None for value in line] for line in found.tolist())
    numbers = {"log_gradient_median": median, "log_gradient_5%": lower, "log_gradient_95%": upper}
    layers = layer_rows(samples.rows)
    count, unit = len(layers) - 1, "block" if samples.rows[layers[-1]].operation == "sum" else "layer"
    logs = samples.log_gradient[:, layers]
    logs = logs[np.isfinite(logs).all(axis=1)]
    if not len(logs) or not count:
        return numbers, "Gradients: none reaches the input.\n"
    first, last = count // 4, count - count // 4  # the ends of a network differ from its inside
    low, middle, high = np.quantile((logs[:, first] - logs[:, last]) / (last - first), levels)
    inside = "" if first == 0 else f"{unit}s {last} to {first}, "
    alive = "" if len(logs) == samples.trials else f" of the {len(logs)} networks where it reaches the input"
    sentence = (
        f"Gradients: squared norm × {math.exp(middle):.3g} a {unit} going back ({inside}median{alive}; "
        f"5…95%: {math.exp(low):.3g}…{math.exp(high):.3g}); × e^{np.median(logs[:, 0]):.3g} from output to input.\n"
    )
    return {**numbers, "log_gradient_per_layer": middle}, sentence


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print warnings like refused arguments: the message on standard error, without a source line."""
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        click.echo(f"bntheory: {' '.join(message.split())}", err=True)


@simulate.command("spectrum")
@click.option("--factors", type=int, help="Number of square Gaussian matrices. [default: 5, without a network]")
@click.option("--size", type=int, help="Their size, of columns with --ratio. [default: 300]")
@click.option("--ratio", type=float, help="One rectangular matrix instead: rows / columns (Marchenko–Pastur).")
@network_options(optional=True)
@click.option("--trials", type=int, default=10, show_default=True, help="Products or networks to draw.")
@click.option("--seed", type=int, default=0, show_default=True)
@output_options
def simulate_spectrum(
    net: Sequential | None,
    factors: int | None,
    size: int | None,
    ratio: float | None,
    trials: int,
    seed: int,
    json_file: str | None,
    plot_file: str | None,
) -> None:
    """Draw products of Gaussian matrices, or Jacobians of networks, beside the law of their singular values."""
    import numpy as np

    from bntheory import plot_spectrum
    from simulations.products import log_singular_values

    name, net, law, reason = _spectrum(net, factors, size, ratio)
    logs = log_singular_values(net, trials, seed)
    alive = np.isfinite(logs)
    if not alive.any():
        raise ValueError(f"every singular value of {trials} draws is zero: the network is dead")
    click.echo(f"{name}, {trials} draws, seed {seed}")
    numbers: dict[str, Any] = {"zeros": float(1 - alive.mean())}
    numbers["largest_singular_value"] = float(np.exp(logs[alive[:, 0], 0].mean()))
    if law is None:
        click.echo(f"no law: {reason}")
    else:
        numbers |= _beside(law, logs[alive])
        click.echo(f"Kolmogorov distance to the law: {numbers['kolmogorov_distance']:.5f} (finite width adds to it)")
    edge = f"; the law's edge {numbers['edge']:.6g}" if law is not None else ""
    click.echo(f"largest singular value, mean {numbers['largest_singular_value']:.6g}{edge}")
    least = np.where(alive, logs, np.inf).min(axis=1)
    spread = float(np.mean((logs[:, 0] - least)[alive.any(axis=1)]))
    click.echo(f"ln of the condition number, exact zeros left out, mean {spread:.4f}; zeros {numbers['zeros']:.2%}")
    drawn = [[value if np.isfinite(value) else None for value in row] for row in logs.tolist()]
    setting = {"name": name, "trials": trials, "seed": seed, "ln_condition_number": spread}
    write_json(json_file, {**setting, **numbers, "log_singular_values": drawn})
    view = "singular" if spread < 10 and np.abs(logs[alive]).max() < 300 else "log"
    save_figure(plot_file, lambda ax: plot_spectrum(law, logs, ax=ax, view=view))


def _spectrum(
    net: Sequential | None, factors: int | None, size: int | None, ratio: float | None
) -> tuple[str, Sequential, Any, str]:
    """What is drawn and its law; None and the reason if there is none."""
    from bntheory import FussCatalan, MarchenkoPastur, arguments, jacobian_law, mlp

    if net is None:
        size = arguments.integer("size", 300 if size is None else size)
        if ratio is not None:
            if factors is not None:
                raise click.UsageError("--ratio is one rectangular matrix: leave out --factors")
            rows = arguments.integer("rows", round(arguments.number("ratio", ratio, above=0) * size))
            net = mlp(1, rows, "linear", "lecun_normal", input_width=size)
            return f"matrix {rows}×{size}, entries of variance 1/{size}", net, MarchenkoPastur(rows / size), ""
        factors = arguments.integer("factors", 5 if factors is None else factors)
        net = mlp(factors, size, "linear", "lecun_normal")
        return f"{factors} matrices {size}×{size}, entries of variance 1/{size}", net, FussCatalan(factors), ""
    if any(option is not None for option in (factors, size, ratio)):
        raise click.UsageError("--factors, --size and --ratio are for matrices: leave them out with a network")
    try:
        return f"Jacobian of {net}", net, jacobian_law(net), ""
    except ValueError as error:
        return f"Jacobian of {net}", net, None, str(error).split(";")[0]


def _beside(law: Any, logs: Any) -> dict[str, float]:
    """Distance of the nonzero values to the law, and the law's edge."""
    from simulations.statistics import kolmogorov_distance

    distance = kolmogorov_distance(2 * logs, law.nonzero.log.cdf)
    return {"kolmogorov_distance": distance, "edge": float(law.singular.ppf(1.0))}


@click.command()
@click.argument("target", required=False, metavar="[PACKAGE.MODULE:FACTORY|CHECKPOINT]")
@network_options(input_width=64, target=True)
@input_option(required=False)
@click.option(
    "--data", help="digits, fashion-mnist, noise or a FOLDER. [default: digits; of a checkpoint what it was trained on]"
)
@click.option("--batch", type=int, help="Inputs; one is compared with the exact law. [default: 1; of a module 8]")
@click.option("--trials", type=int, default=100, show_default=True, help="Networks to measure in PyTorch.")
@click.option(
    "--redraw",
    help="factory (called again), theory (normal weights of the same variances) or reset. [default: factory; of a "
    "checkpoint theory]",
)
@click.option("--device", help="Of a module or checkpoint: auto, cpu or cuda. [default: auto]")
@click.option("--seed", type=int, default=0, show_default=True)
@output_options
@click.pass_context
def crosscheck(
    ctx: click.Context,
    net: Sequential | None,
    target: str | None,
    init: str | None,
    sizes: tuple[int, ...] | None,
    data: str | None,
    batch: int | None,
    trials: int,
    redraw: str | None,
    device: str | None,
    seed: int,
    json_file: str | None,
    plot_file: str | None,
) -> None:
    """Feed real images to networks in PyTorch, and compare every row; exit status 1 if theory and networks disagree.

    The network is described by options, or it is a torch module, named as for bntheory predict, or the checkpoint.pt
    (or folder) of a run: it is then held against the prediction for random weights of the sizes that its weights have
    now, as it is and, which decides on the exit status, with such weights drawn.
    """
    from simulations import comparison
    from simulations.training.datasets import images_for
    from simulations.training.targets import crosscheck_target

    if net is not None:
        options = {"--input": sizes, "--redraw": redraw, "--device": device}
        for option in (name for name, value in options.items() if value is not None):
            raise click.UsageError(f"{option} belongs to a torch module, PACKAGE.MODULE:FACTORY")
    found = None if net is not None else _target(str(target), seed, sizes, redraw, init, device or "auto")
    batch = (1 if net is not None else 8) if batch is None else batch
    shape = net.input_shape if net is not None else sizes or (found and found.shape)
    data = data or (found and found.data) or "digits"
    inputs = images_for(shape or (), data, batch, seed)
    name, gap = str(net), None
    if net is not None:
        result = comparison.crosscheck(net, inputs.values, trials, seed)
    else:
        name = found.words
        with own_errors():
            gap = _gap(found, inputs.values)
            result = crosscheck_target(found, inputs.values, trials, seed, redraw, init)
    what = f"{inputs.name} input{'s' * (batch > 1)}{inputs.treatment and f' ({inputs.treatment})'}"
    if gap is not None:
        click.echo(f"{name}\nas it is on {batch} {what}, seed {seed}\n\n{gap.table()}\n\n", nl=False)
    title = name if gap is None else "with random weights of the same sizes"
    click.echo(f"{title}\n{trials} networks in PyTorch on {batch} {what}, seed {seed}\n")
    whose = "" if gap is None else "Random weights of these sizes, not the network itself: "
    click.echo(f"{result.table()}\n\n{whose}{result.verdict()}")
    setting = {"network": name, "data": inputs.name, "treatment": inputs.treatment}
    write_json(json_file, {**setting, **({} if gap is None else {"gap": gap.to_dict()}), **result.to_dict()})
    save_figure(plot_file, lambda ax: result.plot(ax))
    ctx.exit(0 if result.agrees else 1)


def _target(
    name: str, seed: int, sizes: tuple[int, ...] | None, redraw: str | None, init: str | None, device: str
) -> Target:
    """The module or checkpoint, on the device; options that do not belong are refused."""
    from bntheory import arguments
    from simulations.training.devices import resolve
    from simulations.training.targets import found_target

    place = resolve(device)
    if redraw is not None:
        arguments.choice("redraw", redraw, ("factory", "theory", "reset"))
    if init is not None and redraw not in (None, "theory"):
        raise click.UsageError(f"--init names the law of the weights, which --redraw {redraw} would not draw")
    found = found_target(name, seed)
    if found.history is None and sizes is None:
        raise click.UsageError("--input belongs to a torch module, which needs it: models:network --input 3,32,32")
    if found.history is not None and (sizes is not None or init is not None):
        option = "--input" if sizes is not None else "--init"
        raise click.UsageError(f"{option} belongs to a torch module: a checkpoint has its input's shape and weights")
    if redraw == "factory" and (found.make is None or found.make() is found.module):
        raise click.UsageError(f"{name} is a single module, not what makes one: choose --redraw theory or reset")
    found.module.to(place)
    return found


def _gap(found: Target, values: Any) -> TheoryGap | None:
    """A trained network as it is beside the prediction; None of others, which stand for their redraws."""
    from simulations.training.probes.theory_gap import theory_gap

    return None if found.history is None else theory_gap(found.module, values, most=len(values))
