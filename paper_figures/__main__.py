"""Single figures: python -m paper_figures [name …], the same as `bntheory figures`."""

from __future__ import annotations

import sys

import click

from paper_figures.commands import figures

if __name__ == "__main__":
    try:
        sys.exit(figures.main(prog_name="paper_figures", standalone_mode=False))
    except (click.ClickException, ValueError, ImportError, OSError) as error:
        click.echo(f"paper_figures: {error}", err=True)
        sys.exit(2)
