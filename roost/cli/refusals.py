"""What a command makes of a server that refuses or is silent: how long it is patient, and one line with a next step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from roost.cli.output import fail, silence_stdout
from roost.client import (
    CursorAhead,
    CursorCompacted,
    Forbidden,
    Limits,
    NotFound,
    PreconditionRequired,
    RoostError,
    SessionEnded,
    Unauthenticated,
    Unreachable,
    UserErased,
    VersionConflict,
)

# A person waits for a typo in the port; a job (import, export) rather waits for the server to come back.
PERSON = Limits(attempts=3, deadline_s=20.0)
JOB = Limits(attempts=30, deadline_s=120.0, attempt_s=60.0)

_NEXT_STEPS: list[tuple[type[RoostError], str]] = [
    (SessionEnded, "`roost login USER` begins another."),
    (
        Unauthenticated,
        "Give one by --token, ROOST_TOKEN or `roost login`; `roost token`, with the server's --data, makes one.",
    ),
    (Forbidden, "Use a token that may: of the user whose state it is, or of an admin (`roost token --admin`)."),
    (Unreachable, "Is the server running (`roost serve`), and is --url (or ROOST_URL, or the profile) right?"),
    (NotFound, "`roost users` lists users; `roost get USER` shows what one has."),
    (PreconditionRequired, "Say which version you replace: --if-version N, or 0 for a new document."),
    (CursorAhead, "`roost users USER` shows how far the log goes."),
    (UserErased, "`roost users` lists users; the receipt is at GET /v1/users/USER/erasure."),
    (CursorCompacted, "Start from a snapshot: `roost get USER`."),
]


@contextmanager
def refusals() -> Iterator[None]:
    """End the command with one line where the server refuses, and quietly where the reader of its output left."""
    try:
        yield
    except RoostError as error:
        fail(sentence(error), next_step(error))
    except ExceptionGroup as group:
        if (first := _first(group)) is None:
            raise
        fail(sentence(first), next_step(first))
    except BrokenPipeError:
        silence_stdout()
        sys.exit(0)


def _first(group: ExceptionGroup[Exception]) -> RoostError | None:
    """The first refusal, where refusals are all that ended the group's tasks."""
    found = [_first(error) if isinstance(error, ExceptionGroup) else error for error in group.exceptions]
    refused = [error for error in found if isinstance(error, RoostError)]
    return refused[0] if len(refused) == len(found) else None


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
