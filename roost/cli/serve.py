"""The commands of whoever runs a node: they work on its data directory and its engine, not over HTTP."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from roost.cli.output import examples
from roost.node.directory import CannotStart
from roost.node.signals import Stopped
from roost.settings import Settings

if TYPE_CHECKING:
    from roost.core.issuers import Kind
    from roost.node.serve import Node

DATA = typer.Option("--data", metavar="DIR", help="The data directory.", show_default="ROOST_DATA, else ./data")
ENGINE = typer.Option(
    "--engine",
    metavar="URL",
    help="A PostgreSQL, as postgresql://user@host/database, in place of the embedded one.",
    show_default="ROOST_ENGINE",
)
Data = Annotated[Path | None, DATA]
Engine = Annotated[str | None, ENGINE]
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
TTL_S_MAX = 3650 * UNITS_S["d"]
PANEL = "On the node"


def serve(
    data: Data = None,
    engine: Engine = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="The address to listen on.", show_default="ROOST_HOST, else 127.0.0.1"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="N", help="The port; 0 for any free one.", show_default="ROOST_PORT, else 8080"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes that serve.", show_default="ROOST_WORKERS, else 1")
    ] = None,
) -> None:
    """Serve, on an embedded PostgreSQL unless --engine names another. Ctrl-C stops everything."""
    settings = settings_of(data=data, engine=engine, host=host, port=port, workers=workers)
    from roost.node import logs
    from roost.node import serve as node

    logs.configure(settings.log_level)
    try:
        node.serve(settings, _welcome)
    except Stopped:
        return


def migrate(data: Data = None, engine: Engine = None) -> None:
    """Bring the engine's schema to this release's. `roost serve` does so by itself."""
    import asyncio

    from roost import app as composition
    from roost.node.serve import engine_at

    with engine_at(settings_of(data=data, engine=engine)) as settings:
        applied = asyncio.run(composition.migrate(settings))
    for name in applied:
        typer.echo(f"applied {name}")
    typer.echo("The schema is up to date.")


def verify(data: Data = None, engine: Engine = None) -> None:
    """Fold every log and compare it with documents, positions and heads; beside a running server too.

    Prints what differs; the status is 1 if anything does.
    """
    import asyncio

    from roost import app as composition
    from roost.node.serve import engine_at

    with engine_at(settings_of(data=data, engine=engine)) as settings:
        tally = asyncio.run(composition.verify(settings, typer.echo))
    typer.echo(
        f"{tally.users:,} users, {tally.events:,} events and {tally.documents:,} documents in {tally.lanes} lanes: "
        + (f"{tally.differences:,} differences." if tally.differences else "all as the logs say.")
    )
    if tally.differences:
        raise typer.Exit(1)


def compact(
    data: Data = None,
    engine: Engine = None,
    user: Annotated[str | None, typer.Option(metavar="USER", help="This user's log only.")] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="How much history to keep: 12h, 30d.", show_default="ROOST_HISTORY_KEEP_S, else 30d"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Fold old events away that no device needs any more; beside a running server too, which does so by itself.

    Documents stay, and so does the past from there on. What is gone is gone: a backup taken before has it.
    """
    import asyncio

    from roost import app as composition
    from roost.node.serve import engine_at

    settings = settings_of(data=data, engine=engine, history_keep_s=None if keep is None else float(seconds(keep)))
    with engine_at(settings) as running:
        tally = asyncio.run(composition.compact(running, user, dry_run=dry_run))
    done = "would be folded, over" if dry_run else "were folded, and let go of"
    typer.echo(f"{tally.folded:,} of {tally.users:,} logs {done} {tally.events:,} events.")


def register(app: typer.Typer) -> None:
    """Add `serve`, `migrate`, `verify` and `compact`."""
    app.command(
        rich_help_panel=PANEL,
        epilog=examples(
            "roost serve",
            "roost serve --data /var/lib/roost --host 0.0.0.0 --workers 4",
            "roost serve --engine postgresql://roost@db1,db2/roost",
        ),
    )(serve)
    app.command(rich_help_panel=PANEL, epilog=examples("roost migrate --engine postgresql://roost@db/roost"))(migrate)
    app.command(rich_help_panel=PANEL, epilog=examples("roost verify --data data"))(verify)
    app.command(
        rich_help_panel=PANEL,
        epilog=examples("roost compact --dry-run", "roost compact --user ada --keep 7d"),
    )(compact)


def settings_of(**options: object) -> Settings:
    """The settings of the environment and of the command's options. Raises `CannotStart`."""
    try:
        return Settings.from_env(os.environ, **options)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        told = re.sub(r"`\$\.(\w+)", lambda place: f"`ROOST_{place[1].upper()}", str(error))
        raise CannotStart(f"A setting is wrong: {told}: look at the options and the ROOST_* variables.") from error


def seconds(text: str) -> int:
    """A time as `90s`, `15m`, `12h` or `30d`, in seconds. Raises `typer.BadParameter`."""
    found = re.fullmatch(r"([1-9]\d{0,8})([smhd])", text)
    if not found or (time_s := int(found[1]) * UNITS_S[found[2]]) > TTL_S_MAX:
        raise typer.BadParameter(f"{text!r} is no time like 90s, 15m, 12h or 30d, of at most ten years")
    return time_s


def issue(settings: Settings, kind: Kind, name: str, ttl_s: int) -> str:
    """A token by the key in the data directory, good for `ttl_s` seconds. Raises `CannotStart`, `RoostError`."""
    from roost.authz.identity import Identity
    from roost.crypto.signing import SigningKeyError, SigningKeys

    try:
        keys = SigningKeys.load_or_create(settings.data)
        return Identity(keys).issue(kind, name, ttl_s)
    except SigningKeyError as error:
        raise CannotStart(str(error)) from error


def _program() -> str:
    """How this program is called from here: by its name where a shell finds it, else by its path."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return "python -m roost"
    return called.name if shutil.which(called.name) else shlex.quote(os.path.relpath(called))


def _welcome(node: Node) -> None:
    """Say where the server is and how to talk to it; plain where nobody watches."""
    with suppress(BrokenPipeError):
        _print_welcome(node)


def _print_welcome(node: Node) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True, emoji=False)
    show = partial(console.print, sep="")
    data = shlex.quote(str(node.settings.data))
    # What is printed to a file is kept, and read by others: a token is none of theirs.
    token = f"$({_program()} token --user ada --data {data})"
    if console.is_terminal:
        token = issue(node.settings, "user", "ada", node.settings.token_ttl_s)
    document = f"{node.url}/v1/users/ada/docs/preferences/ui"
    bearer = f'-H "Authorization: Bearer {token}"'
    show("Roost serves at ", Text(node.url, "bold green"))
    show("  data directory  ", Text(str(node.settings.data), "bold"), " (new)" if node.fresh else "")
    show("  API             ", Text(f"{node.url}/docs"))
    show("  admin token     ", Text(f"{_program()} token --admin --data {data}"))
    show("  stop            Ctrl-C\n")
    show("Write a document as the user ada, then read it:\n")
    show(Text(f"curl -X PUT {document} {bearer} -H 'Content-Type: application/json' -d '{{\"theme\": \"dark\"}}'\n"))
    show(Text(f"curl {document} {bearer}\n"))
