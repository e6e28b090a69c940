"""Where a command finds its server: options, else the environment, else a profile saved by `roost login`.

Profiles stand in one small file that only its owner can read, because it holds tokens:
`$XDG_CONFIG_HOME/roost/profiles.json`, or `~/.config/roost/profiles.json`.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from roost.cli.output import examples, fail, say

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_PROFILE = "default"

Url = Annotated[
    str | None,
    typer.Option(envvar="ROOST_URL", help=f"The server; else the profile's, else {DEFAULT_URL}.", show_default=False),
]
Token = Annotated[
    str | None,
    typer.Option(envvar="ROOST_TOKEN", help="Who you are; else the profile's.", show_default=False, show_envvar=True),
]
ProfileName = Annotated[
    str,
    typer.Option("--profile", envvar="ROOST_PROFILE", help="A profile saved by `roost login`."),
]


class Profile(msgspec.Struct, frozen=True):
    """A server, and who one is there."""

    url: str = DEFAULT_URL
    token: str | None = None


def path() -> Path:
    """Where profiles are kept."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "roost" / "profiles.json"


def load() -> dict[str, Profile]:
    """All saved profiles, by name."""
    try:
        return msgspec.json.decode(path().read_bytes(), type=dict[str, Profile])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        fail(f"The profiles in {path()} cannot be read: {error}.", "Mend or remove that file, then `roost login`.")


def save(profiles: dict[str, Profile]) -> None:
    """Replace all profiles, in a file that nobody else could read at any moment."""
    file = path()
    new = file.with_suffix(".new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(profiles)) + b"\n")
        new.replace(file)
    except OSError as error:
        fail(f"The profile cannot be saved: {error}.", "Set ROOST_URL and ROOST_TOKEN instead.")


def resolve(url: str | None, token: str | None, profile: str) -> Profile:
    """The server to talk to: what is given goes before what is saved.

    A token is only ever sent to the server that it was saved for: with another `url`, it is left out.
    """
    saved = load().get(profile)
    if saved is None:
        if profile != DEFAULT_PROFILE:
            fail(f"There is no profile {profile!r}.", f"Save it: `roost login --profile {profile} --url URL`.")
        saved = Profile()
    same_server = url is None or url.rstrip("/") == saved.url.rstrip("/")
    return Profile(url or saved.url, token or (saved.token if same_server else None))


def login(url: Url = None, token: Token = None, profile: ProfileName = DEFAULT_PROFILE) -> None:
    """Save a server and a token, so that later commands need neither.

    Without --token, the token is asked for, or read from standard input.
    """
    from roost.cli.refusals import PERSON, refusals
    from roost.client import Forbidden, SyncClient

    if token is None:
        token = typer.prompt("Token", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    token = (token or "").strip()
    if not token:
        fail("A token is needed.", "`roost token --user ada` or `roost token --admin` makes one, beside the server.")
    profiles = load()
    found = Profile(url or profiles.get(profile, Profile()).url, token)
    # An admin may list users, a user may not; either answer shows that the token is good.
    with refusals(), SyncClient(found.url, found.token, limits=PERSON) as client, suppress(Forbidden):
        client.users_page(limit=1)
    save({**profiles, profile: found})
    say(f"Saved profile {profile!r} for {found.url} in {path()}.")


def logout(profile: ProfileName = DEFAULT_PROFILE) -> None:
    """Forget a profile saved by `roost login`."""
    profiles = load()
    if profiles.pop(profile, None) is None:
        fail(f"There is no profile {profile!r}.")
    save(profiles)
    say(f"Forgot profile {profile!r}.")


def register(app: typer.Typer) -> None:
    """Add `login` and `logout`."""
    panel = "Servers and tokens"
    app.command(
        rich_help_panel=panel,
        epilog=examples(
            "roost token --admin | roost login",
            "roost login --profile production --url https://roost.example",
            "roost users --profile production",
        ),
    )(login)
    app.command(rich_help_panel=panel, epilog=examples("roost logout --profile production"))(logout)
