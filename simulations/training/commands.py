"""Commands of real networks on real images: probe. Thin fronts; work is imported inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bntheory.commands import (
    input_option,
    network_options,
    output_options,
    own_errors,
    save_figure,
    write_json,
)

if TYPE_CHECKING:
    from bntheory.networks import Sequential
    from simulations.training.datasets import Inputs

NAMES = (  # of simulations.training.probes.PROBES, which only a command that runs imports
    "gradient_histogram",
    "channel_moments",
    "logit_gradients",
    "kernel_alignment",
    "theory_gap",
    "loss_along_step",
    "moments_along_step",
    "sgd_noise",
    "curvature",
    "stable_step",
    "jacobian_spectrum",
    "weight_spectra",
)
LAYERED = ("gradient_histogram", "kernel_alignment")  # what --layer is for


@click.command()
@click.argument("target", required=False, metavar="[PACKAGE.MODULE:FACTORY|CHECKPOINT]")
@network_options(input_width=64, target=True)
@input_option(required=False)
@click.option(
    "--data", help="digits, fashion-mnist, noise or a FOLDER. [default: digits; of a checkpoint what it was trained on]"
)
@click.option("--batch", type=int, default=128, show_default=True, help="Images.")
@click.option(
    "--probe",
    "names",
    multiple=True,
    metavar="NAME",
    help=f"One of {', '.join(NAMES)}; may be repeated. [default: the first four]",
)
@click.option(
    "--layer", help="Of the histogram, and of the picture of kernel_alignment: a name, or a number along the main path."
)
@click.option("--step", type=float, help="Of moments_along_step. [default: the smallest that diverges]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights and the choice of images.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@output_options
def probe(
    net: Sequential | None,
    target: str | None,
    init: str | None,
    sizes: tuple[int, ...] | None,
    data: str | None,
    batch: int,
    names: tuple[str, ...],
    layer: str | None,
    step: float | None,
    seed: int,
    device: str,
    json_file: str | None,
    plot_file: str | None,
) -> None:
    """Measure gradients and activations of a network for a batch of images and labels, loss cross-entropy.

    The network is described by options, or it is a torch module, named as for bntheory predict, or the checkpoint.pt
    (or folder) of a run, which is in training mode; it is not changed. Without --input a torch module gets images as
    they are stored.
    """
    from bntheory import arguments
    from simulations.training import devices
    from simulations.training.probes import PROBES, STREAMING

    for name in names:
        arguments.choice("probe", name, PROBES)
    names = tuple(dict.fromkeys(names)) or STREAMING
    if plot_file is not None and len(names) > 1:
        raise click.UsageError(f"--plot draws one probe, name it: --probe {names[0]}")
    if layer is not None and not set(names) & set(LAYERED):
        raise click.UsageError(f"--layer belongs to {' and '.join(LAYERED)}, got {', '.join(names)}")
    if step is not None and "moments_along_step" not in names:
        raise click.UsageError(f"--step belongs to moments_along_step, got {', '.join(names)}")
    if target is None and sizes is not None:
        raise click.UsageError("--input belongs to a torch module: a network is described with its input")
    if target is not None and init is not None:
        raise click.UsageError("--init draws a network that is described: a torch module is probed as it is made")
    place: Any = int(layer) if layer is not None and layer.isdecimal() else layer
    place_of_torch = devices.resolve(device)
    model, network, inputs = _network_and_images(net, target, sizes, data, batch, seed)
    model.to(place_of_torch)
    results, given = {}, {"gradient_histogram": {"layer": place}, "moments_along_step": {"step": step}}
    with own_errors():
        for name in names:
            results[name] = PROBES[name](model, inputs.values, inputs.labels, **given.get(name, {}))
    treatment = inputs.treatment and f" ({inputs.treatment})"
    click.echo(f"{network}\n{batch} images of {inputs.name}{treatment}, seed {seed}")
    for name, result in results.items():
        sentence = "" if str(result) == result.table() else f"\n{result}"
        click.echo(f"\n{name.replace('_', ' ')}\n{result.table()}{sentence}")
    setting = {"network": network, "data": inputs.name, "treatment": inputs.treatment, "batch": batch, "seed": seed}
    write_json(json_file, {**setting, "probes": {name: result.to_dict() for name, result in results.items()}})
    options = {"layer": place} if names == ("kernel_alignment",) else {}
    save_figure(plot_file, lambda ax: results[names[0]].plot(ax, **options))


def _network_and_images(
    net: Sequential | None, target: str | None, sizes: tuple[int, ...] | None, data: str | None, batch: int, seed: int
) -> tuple[Any, str, Inputs]:
    """The torch module, what it is, and a batch of the shape that it has, that is given or that the images have."""
    from simulations.training.datasets import images_for, load
    from simulations.training.modules import build
    from simulations.training.targets import found_target

    if net is not None:
        return build(net, seed), str(net), images_for(net.input_shape, data or "digits", batch, seed)
    found = found_target(str(target), seed)
    data = data or found.data or "digits"
    if found.history is not None and sizes is not None:
        raise click.UsageError("--input belongs to a torch module: a checkpoint knows the shape of its input")
    if next(found.module.parameters(), None) is None:
        raise ValueError(f"{target} has no parameters, so there are no gradients to probe")
    shape = sizes or found.shape
    if shape is None and data == "noise":
        raise click.UsageError("--input says what shape noise has: --input 3,32,32")
    return found.module, found.words, images_for(shape or load(data).pixels.shape[1:], data, batch, seed)
