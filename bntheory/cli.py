"""The program `bntheory`: a group of commands found through the entry-point group ``bntheory.commands``.

Exit status: 0 done; 1 a check failed; 2 bad arguments, one line saying which value and what is allowed.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points

import click


class Commands(click.Group):
    """Commands of this and any other installed package, loaded when they are called or listed."""

    def _found(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group="bntheory.commands")}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in alphabetical order."""
        return sorted(self._found())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Load one command."""
        point = self._found().get(name)
        return None if point is None else point.load()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="bntheory")
def cli() -> None:
    """How large activations get in deep networks, what their Jacobians' spectra look like, and do networks agree?"""


def main() -> None:
    """Run the program; every refused argument is one line on standard error and exit status 2."""
    try:
        status = cli.main(prog_name="bntheory", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "bntheory"
        sys.exit(_refuse(f"{command}: {error.format_message()}"))
    except click.ClickException as error:
        sys.exit(_refuse(f"bntheory: {error.format_message()}"))
    except click.Abort:
        sys.exit(130)
    except OSError as error:
        sys.exit(_refuse(f"bntheory: {error.strerror or error}: {error.filename or ''}"))
    except (ValueError, ImportError) as error:
        sys.exit(_refuse(f"bntheory: {error}"))
    except MemoryError as error:
        sys.exit(_refuse(f"bntheory: too large for this machine's memory: {error or 'choose smaller sizes'}"))
    sys.exit(status if isinstance(status, int) else 0)


def _refuse(message: str) -> int:
    click.echo(" ".join(message.split()), err=True)
    return 2
