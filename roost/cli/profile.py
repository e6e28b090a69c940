"""Where a command finds its server: options, else the environment, else a profile saved by `roost login`.

Profiles stand in one small file that only its owner can read, because it holds tokens:
`$XDG_CONFIG_HOME/roost/profiles.json`, or `~/.config/roost/profiles.json`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from roost.cli.output import fail

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_PROFILE = "default"
PURPOSE = "ROOST_PURPOSE"

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


def purpose() -> str | None:
    """What a command is for: `roost --purpose`, which stands in the variable for the time of the command."""
    return os.environ.get(PURPOSE) or None


class Profile(msgspec.Struct, frozen=True):
    """A server, and who one is there: by a token, or by a session, of which `login` is kept (`roost.client.Tokens`)."""

    url: str = DEFAULT_URL
    token: str | None = None
    login: dict[str, Any] | None = None


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
    from roost.client.login import replace

    try:
        replace(path(), msgspec.json.format(msgspec.json.encode(profiles)) + b"\n")
    except OSError as error:
        fail(f"The profile cannot be saved: {error}.", "Set ROOST_URL and ROOST_TOKEN instead.")


def resolve(url: str | None, token: str | None, profile: str) -> Profile:
    """The server to talk to: what is given goes before what is saved.

    A token or a session is only ever sent to the server that it was saved for: with another `url`, it is left out.
    """
    saved = load().get(profile)
    if saved is None:
        if profile != DEFAULT_PROFILE:
            fail(f"There is no profile {profile!r}.", f"Save it: `roost login --profile {profile} --url URL`.")
        saved = Profile()
    if url is not None and url.rstrip("/") != saved.url.rstrip("/"):
        return Profile(url, token)
    return Profile(saved.url, token) if token else saved
