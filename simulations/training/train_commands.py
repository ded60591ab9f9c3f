"""Commands of training: train and sweep. Thin fronts; work is imported inside."""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
import textwrap
from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Any

import click

from bntheory.commands import (
    described_network,
    network_words,
    output_options,
    own_errors,
    save_figure,
    spelled_out,
    write_json,
)

if TYPE_CHECKING:
    from simulations.training.recipe import Recipe
    from simulations.training.sweep import SweepResult

EVENLY = "FROM:TO:NUMBER"
HALF_DECADES = "1e-5,3e-5,1e-4,3e-4,0.001,0.003,0.01,0.03,0.1,0.3,1,3"
# that end in ten classes, and begin with digits
OUTPUTS = {"mlp": {"input_width": 64, "output_width": 10}, "cnn": {"classes": 10, "image": (3, 8, 8)}}


@click.command()
@click.option("--preset", default="quick", show_default=True, help="quick, standard or full: what is not given below.")
@network_words
@click.option("--data", help="digits, fashion-mnist, noise or a FOLDER (CIFAR-10, for example).")
@click.option("--learning-rate", type=float, help="[default: 0.1 with BatchNorm, 0.0001 without]")
@click.option("--epochs", type=int)
@click.option("--batch-size", type=int, help="[default: 128]")
@click.option("--momentum", type=float, help="[default: 0.9]")
@click.option("--weight-decay", type=float, help="[default: 0.0005]")
@click.option("--augment/--no-augment", default=None, help="Random crops, and left and right exchanged.")
@click.option("--precision", help="float32 or bfloat16. [default: float32]")
@click.option("--compiled", is_flag=True, default=None, help="Let torch compile the network.")
@click.option("--seed", type=int, help="[default: 0]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", type=int, help="Of torch on the CPU. [default: torch's own]")
@click.option("--probe", "probes", multiple=True, metavar="NAME", help="Look at the network in training; repeatable.")
@click.option("--probe-every", type=int, default=50, show_default=True, help="Steps between probes.")
@click.option("--out", metavar="DIR", help="Folder of the run: checkpoint.pt, run.json.")
@click.option("--resume", is_flag=True, help="Continue from the checkpoint in the folder.")
@output_options
@click.pass_context
def train(
    ctx: click.Context,
    preset: str,
    words: dict[str, Any],
    device: str,
    threads: int | None,
    probes: tuple[str, ...],
    probe_every: int,
    out: str | None,
    resume: bool,
    json_file: str | None,
    plot_file: str | None,
    **settings: Any,
) -> None:
    """Train a network on real images; a run that diverges says where (exit status 0: that is a result)."""
    from simulations.training import devices, loop, presets
    from simulations.training.modules import torch

    recipe = _recipe(preset, words, settings)
    place = devices.resolve(device)
    if threads is not None:
        from bntheory import arguments

        torch.set_num_threads(arguments.integer("threads", threads))
    if resume and out is None:
        raise click.UsageError("--resume needs the folder of the run: --out DIR")
    chosen, again, begun = _probes(probes), _again(out), False

    def report(history: Any) -> None:
        nonlocal begun
        if begun and history.divergence is None:
            click.echo(history.line())
        elif not begun:  # and all that could be refused is accepted
            begun, rate = True, f"learning rate {recipe.learning_rate:g}"
            net = textwrap.shorten(str(recipe.net), 240, placeholder=" …")
            click.echo(f"{net}\n{recipe.data}, {rate}, {recipe.epochs} epochs, {place}")
            if preset == "full":
                steps = history.steps * recipe.epochs - len(history.losses)
                hours = presets.seconds_of_step(recipe, place) * steps / 3600
                click.echo(f"about {hours:.1f} hours on {devices.described(place)['name']}")

    try:
        with own_errors():
            history = loop.train(recipe, out, resume, place, chosen, probe_every, report=report)
    except KeyboardInterrupt:
        click.echo(f"\nStopped. {again}", err=True)
        ctx.exit(130)
    except OSError as error:
        raise click.ClickException(f"{error.strerror}: {error.filename or out}. {again}") from None
    click.echo(history.verdict())
    write_json(json_file, history.to_dict())
    save_figure(plot_file, lambda ax: history.plot(ax))


@click.command()
@click.option("--out", required=True, metavar="DIR", help="Folder of the results, made if it is not there.")
@click.option("--show", is_flag=True, help="Only say what is there.")
@click.option("--resume", is_flag=True, help="Continue in a folder that holds this sweep.")
@click.option("--preset", default="quick", show_default=True, help="quick, standard or full: what is not given below.")
@click.option(
    "--learning-rates", default=HALF_DECADES, show_default=True, metavar=f"LIST|{EVENLY}", help="… evenly in ln."
)
@click.option("--norms", default="none,all", show_default=True, help="BatchNorm in none, all or only the last layer.")
@click.option("--depths", help="Of the ResNets, 6 n + 2.")
@click.option("--inits", default="xavier_normal", show_default=True)
@click.option("--seeds", type=int, default=3, show_default=True, help="How many.")
@click.option("--data", help="digits, fashion-mnist or a FOLDER.")
@click.option("--side", type=int, help="Of the images.")
@click.option("--epochs", type=int)
@click.option("--augment/--no-augment", default=None, help="Random crops, and left and right exchanged.")
@click.option("--batch-size", type=int, default=128, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--workers", type=int, help="Runs at a time, one thread each. [default: one a core]")
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Let the workers of a Dask scheduler do it.")
@output_options
@click.pass_context
def sweep(
    ctx: click.Context,
    out: str,
    show: bool,
    resume: bool,
    workers: int | None,
    scheduler: str | None,
    json_file: str | None,
    plot_file: str | None,
    **words: Any,
) -> None:
    """Train ResNets over learning rates, with and without BatchNorm, in a folder that survives interruptions."""
    from simulations.cluster import connected
    from simulations.training import sweep as sweeps

    if show:
        return _show(sweeps.SweepResult.read(out), json_file, plot_file)
    study = _study(**words)
    again = f"continue with: {shlex.join(['bntheory', *_given(), *(() if resume else ('--resume',))])}"
    try:
        with contextlib.nullcontext() if scheduler is None else connected(scheduler) as cluster:
            at_once = workers if cluster is None or workers is not None else cluster.threads
            found = sweeps.sweep(study, out, resume, at_once, cluster and cluster.executor)
    except KeyboardInterrupt:
        click.echo(f"\nStopped; what is finished is kept. {again}", err=True)
        ctx.exit(130)
    except (OSError, BrokenExecutor) as error:
        what = f"{error.strerror}: {error.filename or out}" if isinstance(error, OSError) else str(error)
        raise click.ClickException(f"{what}. What is finished is kept; then {again}") from None
    _show(found, json_file, plot_file)
    ctx.exit(1 if found.results.failures else 0)


def _recipe(preset: str, words: dict[str, Any], settings: dict[str, Any]) -> Recipe:
    """The preset's recipe with what was given in its place."""
    from bntheory import arguments
    from simulations.training.presets import PRESETS, RATES
    from simulations.training.recipe import Recipe

    chosen = PRESETS[arguments.choice("preset", preset, PRESETS)]
    words = words if "net" in words else spelled_out(words)
    other = words.get("architecture", chosen.network["architecture"]) != chosen.network["architecture"]
    if "net" in words:
        net = described_network(words)
    else:
        net = described_network({**(OUTPUTS.get(words["architecture"], {}) if other else chosen.network), **words})
    settings = _settings(preset, settings)
    recipe = Recipe(net, **{"learning_rate": 1.0, **settings})
    if "learning_rate" in settings:
        return recipe
    return Recipe(net, **settings, learning_rate=RATES[recipe.normalizes_batches])


def _settings(preset: str, given: dict[str, Any]) -> dict[str, Any]:
    """The preset's fields of a recipe with what was given in their place."""
    from simulations.training.presets import PRESETS

    settings = {**PRESETS[preset].recipe, **{name: value for name, value in given.items() if value is not None}}
    if "data" not in settings:
        raise click.UsageError(
            f"--preset {preset} needs --data FOLDER with CIFAR-10; sim.download_cifar10(FOLDER) makes it"
        )
    return settings


def _probes(names: tuple[str, ...]) -> dict[str, Any]:
    if not names:
        return {}
    from bntheory import arguments
    from simulations.training.probes import PROBES

    return {name: PROBES[arguments.choice("probe", name, PROBES)] for name in names}


def _study(
    preset: str,
    learning_rates: str,
    norms: str,
    depths: str | None,
    inits: str,
    seeds: int,
    side: int | None,
    device: str,
    **settings: Any,
) -> Any:
    from bntheory import arguments
    from simulations.training.presets import PRESETS
    from simulations.training.sweep import sweep_study

    chosen = PRESETS[arguments.choice("preset", preset, PRESETS)]
    grid = {
        "depth": [_number("depths", word, int) for word in (depths or str(chosen.network["depth"])).split(",")],
        "norm": norms.split(","),
        "init": inits.split(","),
        "learning_rate": _rates(learning_rates),
        "seed": list(range(arguments.integer("seeds", seeds))),
    }
    settings = _settings(preset, settings)
    image = chosen.network["image"] if side is None else (3, side, side)
    return sweep_study(grid, device, **{**settings, "image": image})


def _rates(text: str) -> list[float]:
    """Learning rates of a list, or evenly in the logarithm from the first to the last, to three digits."""
    if ":" not in text:
        return [_number("learning-rates", word, float) for word in text.split(",")]
    parts = text.split(":")
    if len(parts) != 3:
        raise click.UsageError(f"--learning-rates must be a list or {EVENLY}, got {text!r}")
    first, last = (_number("learning-rates", word, float) for word in parts[:2])
    number = _number("learning-rates", parts[2], int)
    if not (0 < first < last < math.inf and number > 1):
        raise click.UsageError(f"--learning-rates {EVENLY} must rise from above 0, in 2 or more, got {text!r}")
    return [float(f"{first * (last / first) ** (place / (number - 1)):.3g}") for place in range(number)]


def _number(name: str, word: str, kind: type) -> Any:
    try:
        return kind(word)
    except ValueError:
        raise click.UsageError(f"--{name} must be numbers, got {word!r}") from None


def _show(found: SweepResult, json_file: str | None, plot_file: str | None) -> None:
    where = found.results.study.description
    click.echo(
        f"{where.get('data', 'digits')}, {where['device']} ({where['machine']}), {where['epochs']} epochs a run\n"
    )
    click.echo(f"{found.table()}\n\n{found.results.status()}")
    write_json(json_file, found.to_dict())
    save_figure(plot_file, lambda ax: found.plot(ax))


def _again(out: str | None) -> str:
    if out is None:
        return "Nothing was kept: give --out DIR to continue another time."
    words = _given()
    return f"continue with: {shlex.join(['bntheory', *words, *(() if '--resume' in words else ('--resume',))])}"


def _given() -> list[str]:
    return sys.argv[1:]
