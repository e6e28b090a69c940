"""`roost audit`: what is on record, from a running server; and proving the trail whole, on the node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from roost.cli.output import PANEL, examples, fail, show_line
from roost.cli.profile import DEFAULT_PROFILE, ProfileName, Token, Url
from roost.cli.serve import UNITS_S, Data, Engine, settings_of

if TYPE_CHECKING:
    from roost.client import AuditFilter, SyncClient

WAIT_S = 25.0
_age = re.compile(r"([1-9]\d{0,8})([smhd])").fullmatch
_When = typer.Option(metavar="TIME", help="A time, or an age: 2026-11-22T10:00, 15m, 7d.", show_default=False)

commands = typer.Typer(help="Show what is on record: who did or tried what, when, from where.")


@commands.callback(
    invoke_without_command=True,
    epilog=examples(
        "roost audit --since 1h",
        "roost audit --user ada --since 30d",
        "roost audit --outcome denied --follow",
        "roost audit verify",
    ),
)
def audit(
    context: typer.Context,
    *,
    user: Annotated[
        str | None, typer.Option(help="Only what was done to this user's state; writes too.", show_default=False)
    ] = None,
    actor: Annotated[
        str | None, typer.Option(help="Only what this one did: user:ada, service:billing, admin.", show_default=False)
    ] = None,
    action: Annotated[str | None, typer.Option(help="Only this: read, login, erase, …", show_default=False)] = None,
    outcome: Annotated[
        Literal["allowed", "denied", "failed"] | None, typer.Option(help="Only what came to this.", show_default=False)
    ] = None,
    since: Annotated[str | None, _When] = None,
    until: Annotated[str | None, _When] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many.", min=1, show_default="all")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each new record, until Ctrl-C.")] = False,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """List what is on record, the oldest first, a line each. For admins."""
    if context.invoked_subcommand is not None:
        return
    narrowed: AuditFilter = {}
    if user is not None:
        narrowed["user"] = user
    if actor is not None:
        narrowed["actor"] = actor
    if action is not None:
        narrowed["action"] = action
    if outcome is not None:
        narrowed["outcome"] = outcome
    if since is not None:
        narrowed["since"] = _moment(since)
    if until is not None:
        narrowed["until"] = _moment(until)
    with _server(url, token, profile) as client:
        after, left = None, limit
        while True:
            page = client.audit_page(after, wait_s=WAIT_S if follow else 0, **narrowed)
            for record in page.records[:left]:
                show_line(record)
            after = page.next
            left = None if left is None else left - len(page.records)
            if (left is not None and left <= 0) or (page.live and not follow):
                return


@commands.command(epilog=examples("roost audit verify", "roost audit verify --head roost-audit-1.AbC…"))
def verify(
    data: Data = None,
    engine: Engine = None,
    head: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A head that was kept elsewhere; may be repeated.", show_default=False),
    ] = None,
) -> None:
    """Prove that no record was changed, moved, put in or taken away; beside a running server too.

    A trail whose end was cut off is as good as any that is shorter, unless somebody knows how far it had come: that is
    looked up in the data directory's own file, and in what --head gives. The status is 1 if anything is wrong.
    """
    import asyncio

    from roost import app as composition
    from roost.node.serve import engine_at

    told = 0

    def tell(line: str) -> None:
        nonlocal told
        told += 1
        typer.echo(line)

    with engine_at(settings_of(data=data, engine=engine)) as settings:
        verdict = asyncio.run(composition.verify_audit(settings, head or [], tell))
    records = max(verdict.last - verdict.first + 1, 0)
    place = f", from {verdict.first:,} to {verdict.last:,}" if records else ""
    found = f"{verdict.faults:,} faults." if verdict.faults else "unbroken."
    typer.echo(f"{records:,} records{place}: {found}")
    if verdict.lost:
        typer.echo(f"{verdict.lost:,} records never got there, as the trail itself says: roost audit --action gap")
    if told:  # a fault, or a head that could not be held against the trail
        raise typer.Exit(1)


@commands.command(epilog=examples("roost audit head"))
def head(data: Data = None, engine: Engine = None) -> None:
    """Print a seal on where the trail ends now, to be kept where nobody who has the database can reach it."""
    import asyncio

    from roost import app as composition
    from roost.commands.upkeep import CutOff
    from roost.node.serve import engine_at

    with engine_at(settings_of(data=data, engine=engine)) as settings:
        try:
            typer.echo(asyncio.run(composition.audit_head(settings)))
        except CutOff as error:
            fail(f"Records are gone: {error}.", "Look with `roost audit verify`.")
        except OSError as error:
            fail(f"The head cannot be written to {settings.data}: {error.strerror}.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands, name="audit", rich_help_panel=PANEL)


@contextmanager
def _server(url: str | None, token: str | None, profile: str) -> Iterator[SyncClient]:
    from roost.cli.connection import connect
    from roost.cli.refusals import refusals

    with refusals(), connect(url, token, profile) as client:
        yield client


def _moment(text: str) -> datetime:
    """A time as people write it, in this machine's zone where it has none; or how long ago."""
    if found := _age(text):
        return datetime.now(UTC) - timedelta(seconds=int(found[1]) * UNITS_S[found[2]])
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        fail(f"{text!r} is not a time.", "Write it as 2026-11-22T10:00, or as an age: 15m, 12h, 7d.", code=2)
