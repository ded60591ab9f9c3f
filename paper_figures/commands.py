"""The command `report`. A thin front; the work is imported inside."""

from __future__ import annotations

import click


@click.command()
@click.option("--out", metavar="DIR", default="report", show_default=True, help="Folder to write.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all random numbers.")
@click.option("--scale", type=click.Choice(["quick"]), default="quick", show_default=True, help="How much to compute.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="For torch. [default: auto]")
def report(out: str, seed: int, scale: str, device: str) -> int:
    """Compare theory, simulation and torch networks on one page with figures (about two minutes)."""
    from pathlib import Path

    from paper_figures.report import PAGE, make_report

    checks = make_report(out, scale, seed, device)
    failed = [check for check in checks if not check.passed]
    for check in failed:
        click.echo(f"failed: {check.what}: expected {check.expected}, got {check.got:.4g}")
    click.echo(f"{len(checks) - len(failed)} of {len(checks)} checks passed: {Path(out) / PAGE}")
    return 1 if failed else 0
