"""A command's way to a running server: a client for the server that the options, the environment or a profile name."""

from __future__ import annotations

from roost.cli.profile import resolve
from roost.cli.refusals import JOB, PERSON
from roost.client import Client, Limits, SyncClient


def connect(url: str | None, token: str | None, profile: str) -> SyncClient:
    """A client for a command of a person."""
    found = resolve(url, token, profile)
    return SyncClient(found.url, found.token, limits=PERSON)


def connect_async(url: str | None, token: str | None, profile: str, limits: Limits = JOB) -> Client:
    """A client for a job."""
    found = resolve(url, token, profile)
    return Client(found.url, found.token, limits=limits)
