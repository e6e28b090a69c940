"""`roost sessions`: who is logged in where, and ending that; on a running server."""

from __future__ import annotations

from typing import Annotated

import typer

from roost.cli.output import PANEL, examples, say, show_line
from roost.cli.profile import DEFAULT_PROFILE, ProfileName, Token, Url

User = Annotated[str, typer.Argument(metavar="USER", help="Whose sessions.")]

commands = typer.Typer(help="Show a user's sessions, and end them.", no_args_is_help=True)


@commands.command("list", epilog=examples("roost sessions list ada"))
def list_(user: User, url: Url = None, token: Token = None, profile: ProfileName = DEFAULT_PROFILE) -> None:
    """List a user's sessions, a line each, the one that was used last first."""
    from roost.cli.connection import connect
    from roost.cli.refusals import refusals

    with refusals(), connect(url, token, profile) as client:
        for session in client.user(user).sessions():
            show_line(session)


@commands.command(epilog=examples("roost sessions end ada 0b9c…", "roost sessions end ada --all"))
def end(
    user: User,
    session: Annotated[str | None, typer.Argument(metavar="[SESSION]", help="Its id.", show_default=False)] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """End a session of a user, or all: what was logged in by it is refused on every node within a second."""
    if (session is not None) == everything:
        raise typer.BadParameter("name a session, or say --all")
    from roost.cli.connection import connect
    from roost.cli.refusals import refusals

    with refusals(), connect(url, token, profile) as client:
        if session is None:
            client.user(user).end_sessions()
        else:
            client.user(user).end_session(session)
    say("Ended.")


def register(app: typer.Typer) -> None:
    """Add `sessions`."""
    app.add_typer(commands, name="sessions", rich_help_panel=PANEL)
