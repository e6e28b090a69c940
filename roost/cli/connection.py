"""A command's way to a running server: a client for the server that the options, the environment or a profile name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from roost.cli.profile import Profile, load, path, purpose, resolve, save
from roost.cli.refusals import JOB, PERSON
from roost.client import Client, Limits, Login, LoginFile, RoostError, SyncClient, Tokens
from roost.client.exchange import Token
from roost.client.login import TURN_S


class ProfileLogin(LoginFile):
    """A profile's session, in the file of all profiles."""

    def __init__(self, profile: str) -> None:
        super().__init__(path())
        self._profile = profile

    def load(self) -> Tokens | None:
        """See `LoginStore`."""
        kept = load().get(self._profile, Profile()).login
        try:
            return None if kept is None else msgspec.convert(kept, Tokens)
        except msgspec.ValidationError as error:
            raise RoostError(f"The profile {self._profile!r} in {path()} holds no login: {error}.") from error

    def save(self, tokens: Tokens | None) -> None:
        """See `LoginStore`."""
        profiles = load()
        profile = profiles.get(self._profile, Profile())
        kept = None if tokens is None else msgspec.to_builtins(tokens)
        save({**profiles, self._profile: msgspec.structs.replace(profile, token=None, login=kept)})


@contextmanager
def profiles_held() -> Iterator[None]:
    """Change profiles while no other command does: it may be renewing a session."""
    file = LoginFile(path())
    while not file.claim():
        time.sleep(TURN_S)
    try:
        yield
    finally:
        file.release()


def credential(found: Profile, profile: str) -> Token:
    """Who one is to the server that `resolve` has found: a token, or a session that is renewed when need be."""
    return found.token if found.login is None else Login(ProfileLogin(profile))


def connect(url: str | None, token: str | None, profile: str) -> SyncClient:
    """A client for a command of a person."""
    found = resolve(url, token, profile)
    return SyncClient(found.url, credential(found, profile), purpose=purpose(), limits=PERSON)


def connect_async(url: str | None, token: str | None, profile: str, limits: Limits = JOB) -> Client:
    """A client for a job."""
    found = resolve(url, token, profile)
    return Client(found.url, credential(found, profile), purpose=purpose(), limits=limits)
