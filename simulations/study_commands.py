"""bntheory simulate STUDY.toml --out DIR, and --show DIR: the command line of studies."""

from __future__ import annotations

import contextlib
import os
import shlex
from concurrent.futures import BrokenExecutor
from pathlib import Path

import click

from bntheory.commands import writable, write_json


class Simulate(click.Group):
    """A group in which a study file, or --show, stands for ``study`` and what follows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the word `study` where it was left out."""
        if args and args[0] not in self.commands and any(map(_of_study, args)):
            args = ["study", *args]
        return super().parse_args(ctx, args)


def _of_study(word: str) -> bool:
    return word.endswith(".toml") or word.split("=")[0] == "--show"


@click.command("study")
@click.argument("study_file", required=False, metavar="[STUDY.toml]")
@click.option("--out", metavar="DIR", help="Folder of the results, made if it is not there.")
@click.option("--resume", is_flag=True, help="Continue in a folder that holds this study, or fewer trials of it.")
@click.option("--workers", type=int, help="Chunks at a time. [default: one a core, or as many as fit into memory]")
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Let the workers of a Dask scheduler do it.")
@click.option("--show", metavar="DIR", help="Only say how far a study is, with the estimates so far.")
@click.option("--netcdf", metavar="FILE", callback=writable, help="Write all results to FILE as NetCDF.")
@click.option("--json", "json_file", metavar="FILE", callback=writable, help="Write the estimates to FILE.")
@click.pass_context
def study(
    ctx: click.Context,
    study_file: str | None,
    out: str | None,
    resume: bool,
    workers: int | None,
    scheduler: str | None,
    show: str | None,
    netcdf: str | None,
    json_file: str | None,
) -> None:
    """Draw a grid of networks, described by a TOML file, into a folder; exit status 1 if a part of it failed.

    What is finished survives anything, and --resume goes on from there. The word study can be left out.
    """
    from simulations.cluster import connected
    from simulations.study_files import read_study
    from simulations.study_results import StudyResults
    from simulations.study_run import Abandoned, run_study

    if show is not None:
        if any((study_file, out, resume, workers is not None, scheduler)):
            others = "STUDY.toml, --out, --resume, --workers and --scheduler"
            raise click.UsageError(f"--show DIR only reads: leave out {others}")
        results = StudyResults(show)
    elif study_file is None or out is None:
        raise click.UsageError("a study needs its file and a folder: STUDY.toml --out DIR; or --show DIR")
    else:
        given = read_study(study_file)
        again = _how_to_resume(study_file, out, workers, scheduler)
        try:
            with contextlib.nullcontext() if scheduler is None else connected(scheduler) as cluster:
                threads = workers if cluster is None or workers is not None else cluster.threads
                results = run_study(given, out, resume, threads, cluster and cluster.executor)
        except KeyboardInterrupt as stop:
            with contextlib.suppress(ValueError):  # where nothing was begun
                click.echo(f"\nStopped; {StudyResults(out).status()}", err=True)
            click.echo(again, err=True)
            if isinstance(stop, Abandoned):
                os._exit(130)  # an exit would wait for the threads
            ctx.exit(130)
        except (OSError, BrokenExecutor) as error:
            what = f"{error.strerror}: {error.filename or out}" if isinstance(error, OSError) else str(error)
            raise click.ClickException(f"{what}. What is finished is kept; then {again}") from None
    click.echo(f"{results.table()}\n\n{results.status()}")
    write_json(json_file, results.to_dict())
    if netcdf is not None:
        results.to_netcdf(Path(netcdf))
    ctx.exit(1 if results.failures else 0)


def _how_to_resume(study_file: str, out: str, workers: int | None, scheduler: str | None) -> str:
    words = ["bntheory", "simulate", study_file, "--out", out, "--resume"]
    words += [] if workers is None else ["--workers", str(workers)]
    words += [] if scheduler is None else ["--scheduler", scheduler]
    return f"continue with: {shlex.join(words)}"
