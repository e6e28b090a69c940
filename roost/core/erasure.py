"""Erasing a user: what is left of the log, and what is put on record of it.

Of the log a tombstone is left: a head that says when, and one event, `erase`, for whoever follows. Who was erased is
on record among the system user's documents, which every node follows (`ERASURES`: key, the user; value, a `Record`).
So is when older copies of those who were erased became unreadable (`SHREDDINGS`: key, up to which seq of the system
user's log; value, a `Shredding`).
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from roost.core.commands import Accepted, Erase, Written
from roost.core.decide import Draft, OpenLog
from roost.core.errors import Code, RoostError
from roost.core.events import Event, Head, erasure, microseconds
from roost.core.ids import ERASURES


class Record(msgspec.Struct, frozen=True):
    """An erasure: the seq of its event, and how many events and documents there had been."""

    erased_at: datetime
    seq: int
    events: int
    documents: int
    actor: str


class Shredding(msgspec.Struct, frozen=True):
    """When it was done that the keys of everybody erased before it could not be opened any more, and how."""

    shredded_at: datetime
    kek: str


decode_record = msgspec.json.Decoder(Record).decode
decode_shredding = msgspec.json.Decoder(Shredding).decode
encode = msgspec.json.Encoder().encode
"""A `Record` or a `Shredding` as it is stored."""


def shredding_key(seq: int) -> str:
    """The key of the shredding of all erasures on record up to `seq`; keys are in the order of seqs."""
    return f"{seq:020}"


def erase(log: OpenLog, system: OpenLog, command: Erase, at: datetime) -> Accepted:
    """Carry `command` out on a user's `log`, and note it in the log of the system user. Raises `NOT_FOUND`."""
    head = log.head
    if head.erased_at is not None:
        return Accepted(head.seq, replayed=True)
    if not log.wanted and not command.unknown:
        raise RoostError(Code.NOT_FOUND, f"There is no user {command.user!r}.")
    at = max(at, head.updated_at)
    event = erasure(head.seq + 1, at, command.actor)
    record = Record(at, event.seq, head.seq, sum(head.counts.values()), command.actor)
    log.clear()
    log.head = Head(head.user, event.seq, event.seq, at, at, {}, max(head.clock, microseconds(at)), at)
    log.appended.append(event)
    log.wanted = True
    _note(system, command, record, at)
    return Accepted(event.seq, (Written(event, created=False),))


def _note(system: OpenLog, command: Erase, record: Record, at: datetime) -> None:
    draft = Draft(system)
    at = max(at, system.head.updated_at)
    note = Event(draft.seq + 1, "put", ERASURES, command.user, encode(record), at, command.actor)
    draft.append(note)
    draft.commit()
