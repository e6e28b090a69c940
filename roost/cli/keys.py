"""`roost keys`: how what is stored is sealed, and changing the keys, on the node and beside a running server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from roost.cli.output import examples
from roost.cli.serve import PANEL, TTL_S_MAX, Data, Engine, seconds, settings_of
from roost.node.directory import CannotStart

if TYPE_CHECKING:
    from pathlib import Path

    from roost.commands.askers import Asker
    from roost.crypto.acts import Recorder
    from roost.crypto.keks import Progress
    from roost.crypto.vault import Vault

Result = TypeVar("Result")

commands = typer.Typer(help="The keys that state is sealed with.", no_args_is_help=True)


@commands.command(epilog=examples("roost keys status", "roost keys status --data /var/lib/roost"))
def status(data: Data = None, engine: Engine = None) -> None:
    """Show the key-encryption keys, how many users' keys each wraps, and what is left to be sealed anew."""
    found = _run(data, engine, lambda vault: vault.status())
    for kek, count in found.keks:
        typer.echo(f"{kek.kek}  {kek.state:<8}  since {kek.created_at:%Y-%m-%d %H:%M:%S}Z  wraps {count:,} keys")
    if any(kek.state == "retiring" for kek, _ in found.keks):
        typer.echo("A rotation was interrupted: `roost keys rotate` finishes it.")
    if found.outdated:
        typer.echo(f"{found.outdated:,} users have values in clear or under an older key: `roost keys reseal`.")
    else:
        typer.echo("Every value is sealed by its user's newest key.")


@commands.command(epilog=examples("roost keys rotate"))
def rotate(data: Data = None, engine: Engine = None) -> None:
    """Put a new key-encryption key in the place of the old one, which is destroyed; beside a running server too.

    Users' keys are wrapped anew, no value is touched. Backups of the database from before cannot be opened afterwards.
    A rotation that was interrupted is finished, and no other one begun.
    """
    with _progress("users' keys wrapped anew") as progress:

        async def work(vault: Vault) -> str | None:
            return None if await vault.keks.finish(progress) else await vault.rotate_kek(progress)

        kek = _run(data, engine, work)
    typer.echo("The interrupted rotation is finished." if kek is None else f"The key-encryption key is now {kek}.")


@commands.command("rotate-user", epilog=examples("roost keys rotate-user ada"))
def rotate_user(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user.")], data: Data = None, engine: Engine = None
) -> None:
    """Give a user a new key: what is written from now on is sealed by it, and then what there is, sealed anew."""
    with _progress("rows sealed anew") as progress:
        generation = _run(data, engine, lambda vault: vault.rotate_user(user, progress))
    typer.echo(f"What is stored of {user} is sealed by key {generation}, and the older ones are deleted.")


@commands.command(epilog=examples("roost keys reseal"))
def reseal(data: Data = None, engine: Engine = None) -> None:
    """Seal what is stored in clear from before, or under an older key. A running server does so by itself."""
    with _progress("users sealed anew") as progress:
        users = _run(data, engine, lambda vault: vault.reseal(progress))
    typer.echo(f"Of {users:,} users, values were sealed anew." if users else "There was nothing to seal anew.")


@commands.command("rotate-signing", epilog=examples("roost keys rotate-signing", "roost keys rotate-signing --keep 0s"))
def rotate_signing(
    data: Data = None,
    engine: Engine = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long tokens of older keys stay good: 15m, 30d; 0s where a key was stolen.",
            show_default="as long as a token can last",
        ),
    ] = None,
) -> None:
    """Sign tokens with a new key; beside a running server too, and nobody is logged out.

    Older keys go on telling their own tokens, until no token of theirs can be good any more, or for --keep.
    """
    from roost.crypto.acts import on_record
    from roost.crypto.signing import SigningKeyError, SigningKeys
    from roost.node import directory

    settings = settings_of(data=data, engine=engine)
    if not directory.exists(settings.data):
        where = settings.data.absolute()
        raise CannotStart(f"{where} is no data directory of Roost's: name one with --data, or `roost serve` first.")
    keep_s = TTL_S_MAX if keep is None else 0 if keep == "0s" else seconds(keep)

    async def rotated() -> str:
        kept = keys.rotate(int(time.time()), keep_s)
        return f"{keys.kid}; {kept} older ones are still known"

    try:
        keys = SigningKeys.load_or_create(settings.data)
        signing = _work(data, engine, lambda _, record: on_record(record, "rotate-signing", rotated))
    except SigningKeyError as error:
        raise CannotStart(str(error)) from error
    typer.echo(f"Tokens are signed with the key {signing}.")


def register(app: typer.Typer) -> None:
    """Add `keys`."""
    app.add_typer(commands, name="keys", rich_help_panel=PANEL)


def whoever() -> Asker:
    """Who it is that works with the command line, for the audit trail."""
    import os
    import pwd
    import socket

    from roost.commands.askers import operator

    try:
        account = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # in a container an account may have no name
        account = str(os.geteuid())
    return operator(account, socket.gethostname())


def _run(data: Path | None, engine: str | None, work: Callable[[Vault], Awaitable[Result]]) -> Result:
    """Do something with the vault. Raises `CannotStart` where there is none."""

    async def go(vault: Vault | None, _: Recorder) -> Result:
        if vault is None:
            raise CannotStart("Nothing is sealed here: `roost serve` seals, unless ROOST_KEYRING is none.")
        return await work(vault)

    return _work(data, engine, go)


def _work(data: Path | None, engine: str | None, work: Callable[[Vault | None, Recorder], Awaitable[Result]]) -> Result:
    """Do something with the vault, if there is one, and with what puts it on record."""
    from roost import app as composition
    from roost.node import logs
    from roost.node.serve import engine_at

    logs.configure("warning")
    who = whoever()

    async def go() -> Result:
        async with composition.opened(settings, who=who) as (opened, vault):
            return await work(vault, composition.acts_of(opened, vault, who))

    with engine_at(settings_of(data=data, engine=engine)) as settings:
        return asyncio.run(go())


@contextmanager
def _progress(what: str) -> Iterator[Progress]:
    """A progress bar on standard error, for a person only."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
