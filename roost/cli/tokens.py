"""`roost token`: makes tokens on the node, without a server, and revokes them on a running one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from roost.cli.output import examples, say
from roost.cli.profile import DEFAULT_PROFILE, ProfileName, Url
from roost.cli.serve import PANEL, Data, issue, seconds, settings_of
from roost.node.directory import CannotStart

if TYPE_CHECKING:
    from roost.core.issuers import Kind

ONE = "name one of --user, --service, --support, --analyst and --admin"

commands = typer.Typer(help="Print a token, or revoke one.")


@commands.callback(
    invoke_without_command=True,
    epilog=examples(
        "roost token --user ada",
        "roost token --service billing --ttl 12h",
        "roost token --admin",
        "roost token revoke eyJ0eXAi…",
    ),
)
def token(
    context: typer.Context,
    *,
    data: Data = None,
    user: Annotated[str | None, typer.Option(metavar="USER", help="For this user's state only.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="For everything, as an administrator.")] = False,
    service: Annotated[str | None, typer.Option(metavar="NAME", help="For everything, as this service.")] = None,
    support: Annotated[str | None, typer.Option(metavar="NAME", help="For what support staff may read.")] = None,
    analyst: Annotated[str | None, typer.Option(metavar="NAME", help="For what analysts may read.")] = None,
    ttl: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How long it is good: 90s, 15m, 12h, 30d.", show_default="30d"),
    ] = None,
) -> None:
    """Print a token, signed with the key in the data directory, for --user, --admin, --service and the like."""
    if context.invoked_subcommand is not None:
        return
    named: dict[Kind, str | None] = {
        "user": user,
        "service": service,
        "support": support,
        "analyst": analyst,
        "admin": "admin" if admin else None,
    }
    asked = [(kind, name) for kind, name in named.items() if name is not None]
    if len(asked) != 1:
        raise typer.BadParameter(ONE)
    settings = settings_of(data=data)
    from roost.node import directory

    if not directory.exists(settings.data):
        where = settings.data.absolute()
        raise CannotStart(f"{where} is no data directory of Roost's: name one with --data, or `roost serve` first.")
    ((kind, name),) = asked
    typer.echo(issue(settings, kind, name, settings.token_ttl_s if ttl is None else seconds(ttl)))


@commands.command(epilog=examples("roost token revoke eyJ0eXAi…", "roost token revoke - <leaked.txt"))
def revoke(
    revoked: Annotated[str, typer.Argument(metavar="TOKEN", help="The token; - reads it from standard input.")],
    url: Url = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """End what a token stands for, on every node within a second. Whoever holds a token may do so."""
    from roost.cli.connection import connect
    from roost.cli.refusals import refusals

    with refusals(), connect(url, None, profile) as client:
        client.revoke(sys.stdin.read().strip() if revoked == "-" else revoked)
    say("It is good no longer, if it ever was.")


def register(app: typer.Typer) -> None:
    """Add `token`."""
    app.add_typer(commands, name="token", rich_help_panel=PANEL)
