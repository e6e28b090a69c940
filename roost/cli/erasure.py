"""`roost erase` and `roost takeout` ask a running server; `roost keys replay` and `keys shred` work on the node."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from roost.cli.keys import commands, whoever
from roost.cli.output import PANEL, examples, fail, say, show
from roost.cli.profile import DEFAULT_PROFILE, ProfileName, Token, Url
from roost.cli.serve import Data, Engine, settings_of

LINES_A_PAGE = 2_000

User = Annotated[str, typer.Argument(metavar="USER", help="The user.")]


def erase(
    user: User,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether that is meant.")] = False,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """Erase a user for good, and print the receipt. To repeat it prints the same.

    Nobody can take it back. `roost takeout` writes everything about the user to a file first.
    """
    from roost.cli.connection import connect
    from roost.cli.refusals import refusals

    if not yes:
        _confirm(f"Erase {user}, for good?")
    with refusals(), connect(url, token, profile) as client:
        show(client.user(user).erase())


def takeout(
    user: User,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Where to; else standard output.", show_default=False)
    ] = None,
    *,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """Write everything about a user as JSON Lines: documents, history, devices, sessions.

    A takeout into FILE that was interrupted goes on where it was when the same command is run again.
    """
    from roost.cli.connection import connect
    from roost.cli.refusals import refusals

    with contextlib.ExitStack() as stack:
        out: BinaryIO = sys.stdout.buffer
        after, lines = None, 0
        if file is not None:
            out = stack.enter_context(_file(file))
            after = _resumed(out, file)
        stack.enter_context(refusals())
        client = stack.enter_context(connect(url, token, profile))
        while True:
            page = client.user(user).export_page(after, limit=LINES_A_PAGE)
            out.write(page.text)
            out.flush()
            if file is not None:
                os.fsync(out.fileno())
            lines += page.lines
            if (after := page.next) is None:
                break
    say(f"Wrote {lines:,} lines about {user}.")


def replay(
    data: Data = None,
    engine: Engine = None,
    ledger: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another ledger than this node's own.", show_default=False)
    ] = None,
) -> None:
    """Erase again everybody whom the shred ledger has: after a database was restored; beside a running server too.

    `roost serve` does so by itself with its own ledger, before it serves.
    """
    from roost import app as composition
    from roost.node import logs
    from roost.node.serve import engine_at

    logs.configure("warning")
    if ledger is not None and not ledger.is_file():
        fail(f"{ledger} is no file.", "Name the ledger that was kept beside the keyring: shredded.jsonl.")
    with engine_at(settings_of(data=data, engine=engine)) as settings:
        who = whoever()
        work = composition.reconcile(settings, who) if ledger is None else composition.replay(settings, ledger, who)
        count = asyncio.run(work)
    typer.echo(f"{count:,} users were erased." if count else "Everybody in the ledger is erased.")


def shred(data: Data = None, engine: Engine = None) -> None:
    """Make unreadable now what older copies of the database hold of erased users; beside a running server too.

    The key-encryption key is replaced for that, and the old one destroyed: no backup from before can be read any more.
    """
    from roost import app as composition
    from roost.node import logs
    from roost.node.serve import engine_at

    logs.configure("warning")
    with engine_at(settings_of(data=data, engine=engine)) as settings:
        done = asyncio.run(composition.shred(settings, whoever()))
    if done is None:
        typer.echo("Nobody was erased since the last time.")
    else:
        typer.echo(f"Older copies of erased users cannot be read any more: the key-encryption key is now {done.kek}.")


def register(app: typer.Typer) -> None:
    """Add `erase`, `takeout`, `keys replay` and `keys shred`."""
    app.command(rich_help_panel=PANEL, epilog=examples("roost erase ada", "roost erase ada --yes | jq .proof"))(erase)
    app.command(rich_help_panel=PANEL, epilog=examples("roost takeout ada ada.jsonl", "roost takeout ada | jq .type"))(
        takeout
    )
    keys = [
        (replay, examples("roost keys replay", "roost keys replay --ledger /backup/shredded.jsonl")),
        (shred, examples("roost keys shred --data /var/lib/roost")),
    ]
    for command, epilog in keys:
        commands.command(epilog=epilog)(command)


def _confirm(question: str) -> None:
    """Go on only where somebody says yes. Raises `typer.Abort` for a no, and for Ctrl-C."""
    try:
        typer.confirm(question, abort=True, err=True)
    except typer.Abort as ended:
        if isinstance(ended.__context__, EOFError):  # nobody is there to answer
            say("")
            fail("Nothing was erased.", "Say --yes where nobody can be asked.")
        raise


@contextlib.contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        fail(f"{path}: {error.strerror}.", "Is the path right, and may it be written?")
    with os.fdopen(descriptor, "r+b") as file:
        yield file


def _resumed(file: BinaryIO, path: Path) -> str | None:
    """The cursor of the last line `cursor` of a file; what comes behind it is cut off."""
    import msgspec

    after, kept, size, whole = None, 0, 0, False
    for line in file:
        try:
            found = msgspec.json.decode(line, type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError):
            break
        size += len(line)
        whole = found.get("type") == "end"
        if found.get("type") == "cursor":
            after, kept = str(found["after"]), size
    if whole:
        fail(f"{path} is a whole takeout.", "Remove it, or choose another name.")
    file.seek(kept)
    file.truncate()
    return after
