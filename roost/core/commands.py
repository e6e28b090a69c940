"""What a caller asks to change, as data. `roost.core.decide` says what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from roost.core.edits import Edit
from roost.core.errors import Code
from roost.core.events import Document, Event


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
    (RFC 7396) as Python data; `patch`, a JSON Patch (RFC 6902) as Python data; `edit`, None; `restore`, the version
    whose value is written again (int); `delete`, nothing. `edits` are what an `edit` does, field by field; with
    a `put` they are what its writer changed to get to the value, in case it has to be merged.
    """

    kind: Literal["put", "merge", "patch", "edit", "delete", "restore"]
    collection: str
    key: str
    argument: Any = None
    condition: Condition = ANYTHING
    edits: tuple[Edit, ...] | None = None


class Idempotency(msgspec.Struct, frozen=True):
    """A caller's name for a request, and a hash of what was asked (route and body), so that a reuse shows."""

    key: str
    fingerprint: bytes


Sees = Callable[[Document], bool]
"""Tells whether a caller sees a document of the inbox: for that, one that is not seen is not there."""


class Change(msgspec.Struct, frozen=True):
    """Ops on one user's documents: all or none.

    `device` is the replica that the edit came from, if any. In a `batch` a refusal points to its op. One that `begins`
    a log is refused (`USER_EXISTS`) where anything was ever written to it. `sees` is None for who sees all conflicts.
    """

    user: str
    ops: tuple[Op, ...]
    actor: str
    idempotency: Idempotency | None = None
    device: str | None = None
    batch: bool = False
    begins: bool = False
    sees: Sees | None = None


class Flaw(msgspec.Struct, frozen=True):
    """Why a mutation can never take effect, as was plain when it came: a name that is none, a value too large."""

    code: Code
    detail: str
    pointer: str | None


class Mutation(msgspec.Struct, frozen=True):
    """What a device did in one step: ops (`put`, `edit`, `delete`) on its user's documents, all or none.

    `number` counts the device's mutations, 1, 2, 3, … without holes. `base` is the seq up to which the device had
    read the log; it also knew its own earlier mutations. `clock` is its hybrid logical clock, in microseconds. One
    with a `flaw` is still answered in its turn, so that it does not block those that follow.
    """

    number: int
    base: int
    clock: int
    ops: tuple[Op, ...]
    flaw: Flaw | None = None


class Push(msgspec.Struct, frozen=True):
    """Mutations of one device, in order and without holes. Each is answered once, and alone. `sees`: as of `Change`."""

    user: str
    device: str
    mutations: tuple[Mutation, ...]
    actor: str
    sees: Sees | None = None


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


class Erase(msgspec.Struct, frozen=True):
    """Leave nothing of a user but a tombstone, and note it among the system user's documents.

    An erased user stays so: to repeat the command changes nothing. With `unknown`, one who never was here is erased
    too, so that no device can bring back whom a restored database does not know.
    """

    user: str
    actor: str
    unknown: bool = False


Command = Change | Push | CreateUser | AppendLog | Erase


class Written(msgspec.Struct, frozen=True):
    """What became of one op: its event (`event.seq` is the new version) and whether the document is new."""

    event: Event
    created: bool


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a mutation.

    `applied`: it took effect as it is. `merged`: others had changed the same, and the collection's policy decided
    what stands. `refused`: it never will take effect; `code`, `detail` and `pointer` say why. `known`: it was
    answered before, so long ago that the answer is forgotten. What was set aside is in the inbox,
    under `conflicts` (keys). Once a device has read the log up to `seq`, it has seen what came of the mutation.
    """

    number: int
    status: Literal["applied", "merged", "refused", "known"]
    seq: int
    conflicts: tuple[str, ...] = ()
    code: Code | None = None
    detail: str = ""
    pointer: str | None = None


class Accepted(msgspec.Struct, frozen=True):
    """A command that was carried out. `seq` is the user's log after it; `created` tells of a new user.

    `written` are the events of a change or a push; `results` answer a push's mutations, in order.
    """

    seq: int
    written: tuple[Written, ...] = ()
    created: bool = False
    replayed: bool = False
    results: tuple[Result, ...] = ()
