"""Commands of real networks on real images: probe. Thin fronts; work is imported inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bntheory.commands import (
    input_option,
    made_module,
    network_options,
    output_options,
    own_errors,
    save_figure,
    write_json,
)

if TYPE_CHECKING:
    from bntheory.networks import Sequential
    from simulations.training.datasets import Inputs

LAYERED = ("gradient_histogram", "kernel_alignment")  # what --layer is for


@click.command()
@click.argument("target", required=False, metavar="[PACKAGE.MODULE:FACTORY]")
@network_options(input_width=64, target=True)
@input_option(required=False)
@click.option("--data", default="digits", show_default=True, help="digits, fashion-mnist, noise or a FOLDER.")
@click.option("--batch", type=int, default=128, show_default=True, help="Images.")
@click.option(
    "--probe",
    "names",
    multiple=True,
    metavar="NAME",
    help="gradient_histogram, channel_moments, logit_gradients or kernel_alignment; may be repeated. [default: all]",
)
@click.option(
    "--layer", help="Of the histogram, and of the picture of kernel_alignment: a name, or a number along the main path."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights and the choice of images.")
@output_options
def probe(
    net: Sequential | None,
    target: str | None,
    init: str | None,
    sizes: tuple[int, ...] | None,
    data: str,
    batch: int,
    names: tuple[str, ...],
    layer: str | None,
    seed: int,
    json_file: str | None,
    plot_file: str | None,
) -> None:
    """Measure gradients and activations of a network for a batch of images and labels, loss cross-entropy.

    The network is described by options, or it is a torch module, named as for bntheory predict; it is not changed.
    Without --input a torch module gets images as they are stored.
    """
    from bntheory import arguments
    from simulations.training.probes import PROBES, STREAMING

    for name in names:
        arguments.choice("probe", name, PROBES)
    names = tuple(dict.fromkeys(names)) or STREAMING
    if plot_file is not None and len(names) > 1:
        raise click.UsageError(f"--plot draws one probe, name it: --probe {names[0]}")
    if layer is not None and not set(names) & set(LAYERED):
        raise click.UsageError(f"--layer belongs to {' and '.join(LAYERED)}, got {', '.join(names)}")
    if target is None and sizes is not None:
        raise click.UsageError("--input belongs to a torch module: a network is described with its input")
    if target is not None and init is not None:
        raise click.UsageError("--init draws a network that is described: a torch module is probed as it is made")
    place: Any = int(layer) if layer is not None and layer.isdecimal() else layer
    model, inputs = _network_and_images(net, target, sizes, data, batch, seed)
    results = {}
    with own_errors():
        for name in names:
            options = {"layer": place} if name == "gradient_histogram" else {}
            results[name] = PROBES[name](model, inputs.values, inputs.labels, **options)
    treatment = inputs.treatment and f" ({inputs.treatment})"
    network = str(target if net is None else net)
    click.echo(f"{network}\n{batch} images of {inputs.name}{treatment}, seed {seed}")
    for name, result in results.items():
        click.echo(f"\n{name.replace('_', ' ')}\n{result.table()}")
    setting = {"network": network, "data": inputs.name, "treatment": inputs.treatment, "batch": batch, "seed": seed}
    write_json(json_file, {**setting, "probes": {name: result.to_dict() for name, result in results.items()}})
    options = {"layer": place} if names == ("kernel_alignment",) else {}
    save_figure(plot_file, lambda ax: results[names[0]].plot(ax, **options))


def _network_and_images(
    net: Sequential | None, target: str | None, sizes: tuple[int, ...] | None, data: str, batch: int, seed: int
) -> tuple[Any, Inputs]:
    """The torch module, and a batch of the shape that it has, that is given or that the images have."""
    from simulations.training.datasets import images_for, load
    from simulations.training.modules import build

    if net is not None:
        return build(net, seed), images_for(net.input_shape, data, batch, seed)
    model, _ = made_module(str(target), seed)
    if next(model.parameters(), None) is None:
        raise ValueError(f"{target} has no parameters, so there are no gradients to probe")
    if sizes is None:
        described = getattr(vars(model).get("description"), "input_shape", None)
        if data == "noise" and described is None:
            raise click.UsageError("--input says what shape noise has: --input 3,32,32")
        sizes = described or load(data).pixels.shape[1:]
    return model, images_for(sizes, data, batch, seed)
