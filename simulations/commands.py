"""Commands of the simulation: simulate growth, simulate spectrum, crosscheck. Thin fronts; work is imported inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bntheory.commands import network_options, output_options, save_figure, write_json

if TYPE_CHECKING:
    from bntheory.networks import Sequential


@click.group()
def simulate() -> None:
    """Sample random networks or products of matrices beside the theory."""


@simulate.command("growth")
@network_options
@click.option("--trials", type=int, default=500, show_default=True, help="Networks to draw.")
@click.option("--batch", type=int, default=1, show_default=True, help="Inputs, uncorrelated, of second moment 1.")
@click.option("--method", help="conditional or weights. [default: conditional where it applies and pays]")
@click.option("--seed", type=int, default=0, show_default=True)
@output_options
@click.pass_context
def simulate_growth(
    ctx: click.Context,
    net: Sequential,
    trials: int,
    batch: int,
    method: str | None,
    seed: int,
    json_file: str | None,
    plot_file: str | None,
) -> None:
    """Draw networks, with or without their weights, beside the prediction; exit status 1 if they disagree."""
    from bntheory import plot_growth, predict_growth
    from simulations import growth
    from simulations.comparison import compare

    samples = growth.simulate_growth(net, trials, batch=batch, seed=seed, method=method)
    # a single input is given to the theory as it is; a batch by its size alone, which spares it every pair of inputs
    one = growth.uncorrelated_inputs(samples.rows[0].shape, 1, seed) if batch == 1 else None
    predicted = predict_growth(net, one) if batch == 1 else predict_growth(net, batch_size=batch)
    result = compare(predicted, samples, single=batch == 1)
    click.echo(f"{net}\n{trials} networks, method '{samples.method}', seed {samples.seed}\n")
    click.echo(f"{result.table()}\n\n{result.verdict()}")
    write_json(json_file, {"network": str(net), "method": samples.method, **result.to_dict()})
    save_figure(plot_file, lambda ax: plot_growth(result.predicted, samples=samples, ax=ax))
    ctx.exit(0 if result.agrees else 1)


@simulate.command("spectrum")
@click.option("--factors", type=int, default=5, show_default=True, help="Number of square Gaussian matrices.")
@click.option("--width", type=int, default=300, show_default=True, help="Their size.")
@click.option("--trials", type=int, default=10, show_default=True, help="Products to draw.")
@click.option("--seed", type=int, default=0, show_default=True)
@output_options
def simulate_spectrum(
    factors: int, width: int, trials: int, seed: int, json_file: str | None, plot_file: str | None
) -> None:
    """Draw products of Gaussian matrices and hold their singular values against the law."""
    import numpy as np

    from bntheory import FussCatalan, mlp, plot_spectrum
    from simulations.products import log_singular_values
    from simulations.statistics import kolmogorov_distance

    law = FussCatalan(factors)
    logs = log_singular_values(mlp(factors, width, "linear", "lecun_normal"), trials, seed)
    distance = kolmogorov_distance(2 * logs, law.log.cdf)
    largest, edge = float(np.exp(logs[:, 0].mean())), float(law.singular.support[1])
    spread = float((logs[:, 0] - logs[:, -1]).mean())
    click.echo(f"{trials} products of {factors} matrices {width}×{width}, entries of variance 1/{width}, seed {seed}")
    click.echo(f"Kolmogorov distance to {law}: {distance:.5f} (finite width adds a bias that falls with it)")
    click.echo(f"largest singular value, mean {largest:.4f}; the law's edge {edge:.4f}")
    click.echo(f"ln of the condition number, mean {spread:.4f}")
    numbers = {"kolmogorov_distance": distance, "largest_singular_value": largest}
    numbers |= {"edge": edge, "log_condition_number": spread}
    setting: dict[str, Any] = {"factors": factors, "width": width, "trials": trials, "seed": seed}
    write_json(json_file, {**setting, **numbers, "log_singular_values": logs.tolist()})
    view = "singular" if factors <= 10 else "log"
    save_figure(plot_file, lambda ax: plot_spectrum(law, logs, ax=ax, view=view))


@click.command()
@network_options(input_width=64)
@click.option("--data", default="digits", show_default=True, help="digits (resized if need be) or noise.")
@click.option("--batch", type=int, default=1, show_default=True, help="Inputs; one is compared with the exact law.")
@click.option("--trials", type=int, default=100, show_default=True, help="Networks to build in PyTorch.")
@click.option("--seed", type=int, default=0, show_default=True)
@output_options
@click.pass_context
def crosscheck(
    ctx: click.Context,
    net: Sequential,
    data: str,
    batch: int,
    trials: int,
    seed: int,
    json_file: str | None,
    plot_file: str | None,
) -> None:
    """Build the network in PyTorch, feed it real images, and compare every row; exit status 1 if they disagree."""
    from simulations import comparison

    result = comparison.crosscheck(net, _inputs(net, data, batch, seed), trials, seed)
    click.echo(f"{net}\n{trials} networks in PyTorch on {batch} {data} input{'s' * (batch > 1)}, seed {seed}\n")
    click.echo(f"{result.table()}\n\n{result.verdict()}")
    write_json(json_file, {"network": str(net), "data": data, **result.to_dict()})
    save_figure(plot_file, lambda ax: result.plot(ax))
    ctx.exit(0 if result.agrees else 1)


def _inputs(net: Sequential, data: str, batch: int, seed: int) -> Any:
    """Return a batch of the network's input shape."""
    import math

    from bntheory import arguments
    from simulations import streams

    shape = net.input_shape or ()
    batch = arguments.integer("batch", batch)
    if arguments.choice("data", data, ("digits", "noise")) == "noise":
        return streams.input_stream(seed).standard_normal((batch, *shape))
    from simulations.training.datasets import batch_of, digits

    channels, size = (shape[0], shape[1]) if len(shape) == 3 else (1, math.isqrt(shape[0]))
    if math.prod(shape) != channels * size**2 or size < 8:
        raise ValueError(f"digits are square, 8×8 or larger: --input-width must be 64, 81, 100, …, got shape {shape}")
    images, _ = digits(size, channels)
    return batch_of(images, batch, seed).reshape(batch, *shape)
