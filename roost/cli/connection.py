"""A command's way to a running server: the client with its patience set for a person, and refusals as one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from roost.cli.output import fail, silence_stdout
from roost.cli.profile import resolve
from roost.client import (
    Client,
    CursorAhead,
    CursorCompacted,
    Forbidden,
    Limits,
    NotFound,
    PreconditionRequired,
    RoostError,
    SyncClient,
    Unauthenticated,
    Unreachable,
    VersionConflict,
)

# A person waits for a typo in the port; a job (import, export) rather waits for the server to come back.
PERSON = Limits(attempts=3, deadline_s=20.0)
JOB = Limits(attempts=30, deadline_s=120.0, attempt_s=60.0)

_NEXT_STEPS: list[tuple[type[RoostError], str]] = [
    (
        Unauthenticated,
        "Give a token with --token, ROOST_TOKEN or `roost login`; `roost token --user NAME` or `--admin` makes one.",
    ),
    (Forbidden, "Use a token of that user, or of an admin (`roost token --admin`)."),
    (Unreachable, "Is the server running (`roost serve`), and is --url right?"),
    (NotFound, "`roost users` lists users; `roost get USER` shows what one has."),
    (PreconditionRequired, "Say which version you replace: --if-version N, or 0 for a new document."),
    (CursorAhead, "`roost users USER` shows how far the log goes."),
    (CursorCompacted, "Start from a snapshot: `roost get USER`."),
]


def connect(url: str | None, token: str | None, profile: str) -> SyncClient:
    """A client for a command of a person."""
    found = resolve(url, token, profile)
    return SyncClient(found.url, found.token, limits=PERSON)


def connect_async(url: str | None, token: str | None, profile: str, limits: Limits = JOB) -> Client:
    """A client for a job."""
    found = resolve(url, token, profile)
    return Client(found.url, found.token, limits=limits)


@contextmanager
def refusals() -> Iterator[None]:
    """End the command with one line where the server refuses, and quietly where the reader of its output left."""
    try:
        yield
    except RoostError as error:
        fail(sentence(error), next_step(error))
    except BrokenPipeError:
        silence_stdout()
        sys.exit(0)


def sentence(error: RoostError) -> str:
    """What an error says, with its code, and where in the body."""
    where = f" at {error.errors[0].pointer}" if error.errors and error.errors[0].pointer else ""
    return f"{error.detail.rstrip('.')}{where} ({error.code})."


def next_step(error: RoostError) -> str:
    """What a person can do about an error."""
    if isinstance(error, VersionConflict):
        if error.current is None:
            return "Leave the condition out to write one."
        return f"Look at it with `roost get`, then repeat with --if-version {error.current.version}."
    return next((step for kind, step in _NEXT_STEPS if isinstance(error, kind)), "")
