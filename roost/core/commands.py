"""What a caller asks to change, as data. `roost.core.decide` says what becomes of it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from roost.core.events import Event


class Anything(msgspec.Struct, frozen=True, tag="anything"):
    """No precondition."""


class Absent(msgspec.Struct, frozen=True, tag="absent"):
    """The document must not exist (`If-None-Match: *`, `if_version: 0`)."""


class Present(msgspec.Struct, frozen=True, tag="present"):
    """The document must exist (`If-Match: *`)."""


class Versions(msgspec.Struct, frozen=True, tag="versions"):
    """The document's version must be one of these (`If-Match: "7"`, `if_version: 7`)."""

    versions: frozenset[int]


Condition = Anything | Absent | Present | Versions
ANYTHING, ABSENT, PRESENT = Anything(), Absent(), Present()


class Op(msgspec.Struct, frozen=True):
    """One change of one document.

    `kind` says what `argument` is: `put`, the new value as encoded JSON bytes; `merge`, a JSON Merge Patch
    (RFC 7396) as Python data; `patch`, a JSON Patch (RFC 6902) as Python data; `restore`, the version whose
    value is written again (int); `delete`, nothing.
    """

    kind: Literal["put", "merge", "patch", "delete", "restore"]
    collection: str
    key: str
    argument: Any = None
    condition: Condition = ANYTHING


class Idempotency(msgspec.Struct, frozen=True):
    """A caller's name for a request, and a hash of what was asked (route and body), so that a reuse shows."""

    key: str
    fingerprint: bytes


class Change(msgspec.Struct, frozen=True):
    """Ops on one user's documents: all or none.

    `device` is the replica that the edit came from, if any. In a `batch` a refusal points to its op.
    """

    user: str
    ops: tuple[Op, ...]
    actor: str
    idempotency: Idempotency | None = None
    device: str | None = None
    batch: bool = False


class CreateUser(msgspec.Struct, frozen=True):
    """Bring a user with an empty log into being."""

    user: str
    actor: str


class AppendLog(msgspec.Struct, frozen=True):
    """Append events that another Roost exported, each with its own seq, time and actor.

    Events that the log already has are compared and skipped, so repeating the command is safe.
    """

    user: str
    events: tuple[Event, ...]
    actor: str


Command = Change | CreateUser | AppendLog


class Written(msgspec.Struct, frozen=True):
    """What became of one op: its event (`event.seq` is the new version) and whether the document is new."""

    event: Event
    created: bool


class Accepted(msgspec.Struct, frozen=True):
    """A command that was carried out. `seq` is the user's log after it; `created` tells of a new user."""

    seq: int
    written: tuple[Written, ...] = ()
    created: bool = False
    replayed: bool = False
