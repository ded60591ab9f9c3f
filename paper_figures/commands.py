"""The commands `figures` and `report`. Thin fronts; the work is imported inside."""

from __future__ import annotations

import click
from click.core import ParameterSource

from bntheory.commands import input_option, writable

SCALES = ("quick", "standard", "full")
OPTIONS = (
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all random numbers."),
    click.option("--scale", type=click.Choice(SCALES), default="quick", show_default=True, help="How much to compute."),
    click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="For torch. [default: auto]"
    ),
)


def _common(command: click.decorators.FC) -> click.decorators.FC:
    for option in OPTIONS:
        command = option(command)
    return command


@click.command()
@click.argument("names", metavar="[all|NAME ...]", nargs=-1)
@click.option("--out", metavar="DIR", default=".", show_default=True, help="Folder for the pictures.")
@click.option("--check", "judge", is_flag=True, help="Judge the paper's claims; without names, of all figures.")
@click.option("--claims", "table", metavar="FILE", callback=writable, help="Write judged claims as a Markdown table.")
@_common
def figures(
    names: tuple[str, ...], out: str, judge: bool, table: str | None, seed: int, scale: str, device: str
) -> int:
    """Compute, check and draw figures of the paper; without names, list them.

    A scale sets how many networks figures 2, 5, 6, 7 and table 1 draw; the others are the same at every scale.
    """
    from pathlib import Path

    from bntheory import arguments
    from paper_figures.claims import claims, markdown, summary
    from paper_figures.report import FIGURES, SIZES, make_figure
    from simulations.training.devices import resolve

    judge = judge or table is not None
    if not names and not judge:
        _refuse_options()
        click.echo("\n".join(FIGURES))
        return 0
    names = tuple(FIGURES) if not names or "all" in names else names
    for name in names:
        arguments.choice("figure", name, FIGURES)  # every one, before the first is made
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    numbers, passed = {}, True
    for name in names:
        made = make_figure(name, folder, seed, resolve(device), scale, **SIZES[scale].get(name, {}))
        numbers[name] = made["numbers"]
        for check in made["checks"]:
            verdict = "ok" if check["passed"] else "FAILED"
            click.echo(f"{verdict:6}  {check['what']}: expected {check['expected']}, got {check['got']:.4g}")
            passed = passed and check["passed"]
        click.echo(f"{folder / f'{name}.png'}\n")
    if judge:
        judged = claims(numbers)
        for claim in judged:
            mark = "  FAILED" if claim.failed else ""
            click.echo(f"{claim.verdict}{mark}: {claim.figure}, {claim.what}: paper {claim.paper}; ours {claim.ours}")
            passed = passed and not claim.failed
        click.echo(summary(judged))
        if table is not None:
            Path(table).write_text(f"{HEAD}\n{summary(judged)}\n\n{markdown(judged)}\n", encoding="utf-8")
    return 0 if passed else 1


def _refuse_options() -> None:
    """Refuse what only figures that are made can have."""
    context = click.get_current_context()
    for name in ("out", "seed", "scale", "device"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--{name} belongs to figures: name some, or all; without names they are listed only"
            )


HEAD = """# The paper's claims

"Understanding Batch Normalization" (Bjorck, Gomes, Selman, Weinberger 2018, arXiv:1806.02375v4), claim by claim. The
paper's values are read by eye off its figures; ours are of networks on Fashion-MNIST where it is installed, otherwise,
in figure 5 and where a row says so of the digits of scikit-learn, the paper's of CIFAR-10. Rows of later and of related
work, and beyond the paper, are not its own. Made by `bntheory figures --check --claims docs/claims.md`.
"""


@click.command()
@click.option("--out", metavar="DIR", default="report", show_default=True, help="Folder to write.")
@click.option("--model", metavar="PACKAGE.MODULE:FACTORY", help="A network of your own, beside its prediction.")
@input_option(required=False)
@click.option("--data", help="Inputs of it: digits, fashion-mnist, noise or a FOLDER. [default: digits]")
@click.option("--workers", type=int, help="Figures made at a time, one thread each. [default: one a core]")
@_common
def report(
    out: str,
    model: str | None,
    sizes: tuple[int, ...] | None,
    data: str | None,
    workers: int | None,
    seed: int,
    scale: str,
    device: str,
) -> int:
    """Compare theory, networks and the paper's claims on one page with figures (under five minutes).

    The page has an explorer, and with --model the growth of a network of your own, predicted and measured.
    """
    from pathlib import Path

    from paper_figures.report import PAGE, make_report

    if model is None and (sizes is not None or data is not None):
        raise click.UsageError(f"{'--input' if sizes is not None else '--data'} belongs to a network: give --model too")
    checks = make_report(out, scale, seed, device, model, sizes, data or "digits", workers)
    failed = [check for check in checks if not check.passed]
    for check in failed:
        click.echo(f"failed: {check.what}: expected {check.expected}, got {check.got:.4g}")
    click.echo(f"{len(checks) - len(failed)} of {len(checks)} checks passed: {Path(out) / PAGE}")
    return 1 if failed else 0
