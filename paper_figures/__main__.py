"""Single figures: python -m paper_figures [name …] [--out DIR]; without names, a list of them."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("names", nargs=-1)
@click.option("--out", metavar="DIR", default=".", show_default=True, help="Folder for the pictures.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def main(names: tuple[str, ...], out: str, seed: int, device: str) -> int:
    """Compute, check and draw single figures; without names, list them."""
    from paper_figures.report import FIGURES, make_figure
    from simulations.training.devices import resolve

    if not names:
        click.echo("\n".join(FIGURES))
        return 0
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    passed = True
    for name in names:
        for check in make_figure(name, folder, seed, resolve(device))["checks"]:
            verdict = "ok" if check["passed"] else "FAILED"
            click.echo(f"{verdict:6}  {check['what']}: expected {check['expected']}, got {check['got']:.4g}")
            passed = passed and check["passed"]
        click.echo(f"{folder / f'{name}.png'}\n")
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main.main(standalone_mode=False))
    except (click.ClickException, ValueError, ImportError, OSError) as error:
        click.echo(f"paper_figures: {error}", err=True)
        sys.exit(2)
