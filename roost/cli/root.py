"""All commands under one name, and the one way in which a command fails: one line, with a next step, and status 1."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from roost.cli import demo, documents, load, profile, serve, transfer
from roost.core.errors import RoostError
from roost.node.directory import CannotStart
from roost.node.signals import Stopped

app = typer.Typer(
    name="roost",
    help="One home for everything an application knows about a user.",
    epilog="Options come from ROOST_* variables too, as ROOST_PORT=9000 roost serve.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(serve.app)
for _commands in (demo, documents, transfer, load, profile):
    _commands.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"roost {version('roost')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the command that the arguments name, and exit with its status."""
    message = ""
    try:
        app()
    except CannotStart as error:
        message = str(error)
    except RoostError as error:
        message = error.detail
    except Stopped:
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has enough
        sys.stderr.close()
        sys.exit(1)
    typer.echo(f"roost: {' '.join(message.split())}", err=True)
    sys.exit(1)
