"""All commands under one name, and the one way in which a command fails: one line, with a next step, and status 1."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer
from typer._click.exceptions import UsageError

from roost.cli import audit, demo, documents, erasure, keys, load, login, policy, serve, sessions, tokens, transfer
from roost.cli.profile import PURPOSE
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
for _commands in (serve, tokens, sessions, demo, documents, transfer, load, login, audit, keys, erasure, policy):
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
    purpose: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            envvar=PURPOSE,
            help="What the command is for: support staff have to say.",
            show_default=False,
        ),
    ] = None,
) -> None:
    if purpose is not None:
        os.environ[PURPOSE] = purpose  # where every command looks for it


def run() -> None:
    """Run the command that the arguments name, and exit with its status."""
    try:
        sys.exit(app(prog_name="roost", standalone_mode=False))
    except UsageError as error:
        if not error.format_message():  # no command at all: its help was printed
            sys.exit(2)
        command = error.ctx.command_path if error.ctx else "roost"
        said = error.format_message().replace("Value error, ", "")  # which the library puts before its own sentences
        _fail(f"{said.rstrip('.')}: see `{command} --help`.", 2)
    except CannotStart as error:
        _fail(str(error), 1)
    except RoostError as error:
        _fail(error.detail, 1)
    except (Stopped, typer.Abort):
        sys.exit(130)


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(f"roost: {' '.join(message.split())}", err=True)
    sys.exit(status)
