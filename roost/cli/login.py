"""`roost login` and `roost logout`: being somebody to a server, by a token or by a session, for all later commands."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from typing import Annotated

import typer

from roost.cli.output import examples, fail, say
from roost.cli.profile import DEFAULT_PROFILE, Profile, ProfileName, Token, Url, load, path, save

PANEL = "Servers and tokens"
_BEFORE = "ROOST_TOKEN goes before it, as long as that is set."


def login(
    user: Annotated[
        str | None, typer.Argument(metavar="USER", help="Who logs in, with a password.", show_default=False)
    ] = None,
    *,
    sign_up: Annotated[bool, typer.Option("--sign-up", help="Bring the user into being first.")] = False,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """Save a server, and who you are there, so that later commands need neither.

    A USER's password is asked for, or read from standard input; the session is renewed by itself. Without USER, it is
    a token that is saved: --token, or it is asked for or read in the same way.
    """
    server = url or load().get(profile, Profile()).url
    if user is not None:
        _log_in(user, server, token, profile, sign_up=sign_up)
        return
    if sign_up:
        fail("Name the user who signs up.", "See `roost login --help`.", code=2)
    from roost.cli.connection import profiles_held
    from roost.cli.refusals import PERSON, refusals
    from roost.client import Forbidden, SyncClient

    of_environment = os.environ.get("ROOST_TOKEN")
    if not token or (token == of_environment and not sys.stdin.isatty()):  # what is piped in is meant
        token = _secret("Token") or token
    if not token:
        fail("A token is needed.", "`roost token --user ada` or `roost token --admin` makes one, beside the server.")
    # An admin may list users, a user may not; either answer shows that the token is good.
    with refusals(), SyncClient(server, token, limits=PERSON) as client, suppress(Forbidden):
        client.users_page(limit=1)
    with refusals(), profiles_held():
        save({**load(), profile: Profile(server, token)})
    say(f"Saved profile {profile!r} for {server} in {path()}.")
    if of_environment and of_environment != token:
        say(_BEFORE)


def logout(profile: ProfileName = DEFAULT_PROFILE) -> None:
    """Forget a profile saved by `roost login`; a session is ended, too."""
    from roost.cli.connection import connect, profiles_held
    from roost.cli.refusals import refusals
    from roost.client import Unavailable

    saved = load()
    if profile not in saved:
        fail(f"There is no profile {profile!r}.")
    with refusals():
        if saved[profile].login is not None:
            try:
                with connect(None, None, profile) as client:
                    client.log_out()
            except Unavailable:
                say("The server does not answer: the session goes on there. End it with `roost sessions end`.")
        with profiles_held():
            saved = load()
            saved.pop(profile, None)
            save(saved)
    say(f"Forgot profile {profile!r}.")


def register(app: typer.Typer) -> None:
    """Add `login` and `logout`."""
    app.command(
        rich_help_panel=PANEL,
        epilog=examples(
            "roost login ada --url https://roost.example",
            "roost token --admin | roost login",
            "roost login --profile production --url https://roost.example",
            "roost users --profile production",
        ),
    )(login)
    app.command(rich_help_panel=PANEL, epilog=examples("roost logout --profile production"))(logout)


def _log_in(user: str, server: str, token: str | None, profile: str, *, sign_up: bool) -> None:
    from roost.cli.connection import ProfileLogin, profiles_held
    from roost.cli.refusals import PERSON, refusals, sentence
    from roost.client import RoostError, SyncClient, Unauthenticated

    password = _secret("Password", confirm=sign_up)
    if not password:
        fail("A password is needed.", "Type it when it is asked for, or send it on standard input.")
    store = ProfileLogin(profile)
    name = f"roost on {socket.gethostname()}"[:100]
    # Whoever may not sign up needs an admin for that, but nobody needs a token to log in.
    with refusals(), SyncClient(server, token if sign_up else None, limits=PERSON) as client:
        try:
            begun = (client.sign_up if sign_up else client.log_in)(user, password, name=name)
        except Unauthenticated as refusal:
            fail(sentence(refusal), "Nobody is told which of them it is.")
        with profiles_held():
            before = store.load()
            save({**load(), profile: Profile(server)})
            store.save(begun.tokens)
        if before is not None and before.url == server.rstrip("/"):
            with suppress(RoostError):
                client.revoke(before.refresh_token)
    say(f"Logged in as {user} at {server}: profile {profile!r} in {path()}.")
    if token is not None and not sign_up:
        say(_BEFORE)


def _secret(what: str, *, confirm: bool = False) -> str:
    """What a person types, unseen, or standard input says; without the end of its line."""
    if sys.stdin.isatty():
        return str(typer.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True))
    return sys.stdin.readline().rstrip("\r\n")
