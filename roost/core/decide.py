"""What becomes of a command: the whole write side's judgement, as a pure function of a log and a command.

`decide` either returns the events that the command means, leaving the log's working copy as it is after
them, or refuses and leaves it untouched. Preconditions, conflict policies and limits are settled here, under
the lock that the caller holds, so that of two writers that race exactly one wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

import msgspec

from roost.core import edits, jsonvalue, merge, patch, siblings
from roost.core.commands import (
    ANYTHING,
    Absent,
    Accepted,
    Anything,
    AppendLog,
    Change,
    Command,
    Op,
    Sees,
    Versions,
    Written,
)
from roost.core.definitions import RESERVED_POLICY
from roost.core.errors import Code, RoostError
from roost.core.events import Device, Document, DocumentId, Event, Head, microseconds
from roost.core.fold import document_of
from roost.core.ids import INBOX, RESERVED_PREFIX, SYSTEM_USER
from roost.core.limits import Limits
from roost.core.ports import Unseen

_EDITS_A_READ = 32
"""About so many edits of a large value take the time in which it is read and written once."""
_BLIND = frozenset({"put", "delete", "restore"})
_BLIND_POLICIES = frozenset({"lww", "cas"})


class Rules(NamedTuple):
    """What decisions depend on besides the log: the limits, and each collection's conflict policy.

    `queryable_of` tells which members of a collection's documents are kept in clear.
    """

    limits: Limits
    policy_of: Callable[[str], str]
    queryable_of: Callable[[str], Sequence[str]] = lambda _: ()

    def policy(self, collection: str) -> str:
        """The conflict policy of a collection; of Roost's own it is not for anybody to choose."""
        return RESERVED_POLICY if collection.startswith(RESERVED_PREFIX) else self.policy_of(collection)

    def pinned(self) -> Rules:
        """The same rules, with policies that do not change any more once they were asked for."""
        return self._replace(policy_of=cache(self.policy_of))


class OpenLog:
    """A user's log, locked, with what the commands of this transaction name loaded; it grows as they are decided.

    `fresh` means that the user did not exist before; `documents` include tombstones; `events` are older
    events that a command needs, by seq; `appended` are the new ones, `appended_to` the same by document. For pushes,
    `devices` are those that the log knows, of `device_count` (told where one is new), `pushed` those whose mutations
    were answered, and `unseen` what happened to documents after a mutation's base; `spent` is what all of them have
    cost, see `Draft.spend`.
    """

    def __init__(self, head: Head, *, fresh: bool) -> None:
        self.head = head
        self.fresh = fresh
        self.documents: dict[DocumentId, Document] = {}
        self.events: dict[int, Event] = {}
        self.appended: list[Event] = []
        self.changed: set[DocumentId] = set()
        self.wanted = not fresh
        self.devices: dict[str, Device] = {}
        self.device_count = 0
        self.pushed: set[str] = set()
        self.unseen: dict[DocumentId, Unseen] = {}
        self.appended_to: dict[DocumentId, list[Event]] = {}
        self.spent = 0

    def clear(self) -> None:
        """Forget everything but the head: the user is being erased."""
        for held in (self.documents, self.events, self.devices, self.unseen, self.appended_to):
            held.clear()
        self.appended.clear()
        self.changed.clear()
        self.pushed.clear()

    def event(self, seq: int) -> Event | None:
        """An event that was loaded, or appended since."""
        if self.appended and seq >= self.appended[0].seq:
            index = seq - self.appended[0].seq
            return self.appended[index] if index < len(self.appended) else None
        return self.events.get(seq)


class Draft:
    """The events of one command on their way into a log: visible to the command's later ops, to nobody else yet."""

    def __init__(self, log: OpenLog) -> None:
        self._log = log
        self.events: list[Event] = []
        self.documents: dict[DocumentId, Document] = {}
        self.counts: dict[str, int] | None = None
        self.clock = log.head.clock
        self.bytes = 0

    def spend(self, size: int, limits: Limits) -> None:
        """Count what an op reads and writes, in bytes. Raises `TOO_LARGE` where it becomes more than a change may."""
        self.bytes += size
        self._log.spent += size
        if self.bytes > limits.change_bytes_max:
            detail = f"The documents are too large for so many ops at once: {limits.change_bytes_max} bytes in all."
            raise RoostError(Code.TOO_LARGE, detail)

    @property
    def seq(self) -> int:
        """The log's seq with this draft."""
        return self._log.head.seq + len(self.events)

    def find(self, document: DocumentId) -> Document | None:
        """A document with this draft, or its tombstone."""
        return self.documents.get(document) or self._log.documents.get(document)

    def count(self, collection: str) -> int:
        """How many documents a collection has with this draft."""
        return self._counts.get(collection, 0)

    @property
    def collections(self) -> int:
        """How many collections have documents with this draft."""
        return len(self._counts)

    @property
    def _counts(self) -> dict[str, int]:
        return self._log.head.counts if self.counts is None else self.counts

    def append(self, event: Event) -> None:
        """Add the next event."""
        before = self.find((event.collection, event.key))
        document = document_of(event, before)
        difference = (event.value is not None) - (before is not None and before.value is not None)
        if difference:
            self.counts = dict(self._counts)
            self.counts[event.collection] = self.counts.get(event.collection, 0) + difference
            if not self.counts[event.collection]:
                del self.counts[event.collection]
        self.documents[event.collection, event.key] = document
        self.events.append(event)
        self.clock = max(self.clock, event.stamp.clock)

    def tick(self, at: datetime) -> int:
        """The clock of a write that knows everything up to here, and is made at `at`."""
        return max(microseconds(at), self.clock + 1)

    def commit(self) -> None:
        """Make it part of the log."""
        log, head = self._log, self._log.head
        log.wanted = True
        if self.events:
            updated_at = self.events[-1].at
            log.head = Head(
                head.user, self.seq, head.floor, head.created_at, updated_at, dict(self._counts), self.clock
            )
            log.documents |= self.documents
            log.changed |= self.documents.keys()
            log.appended += self.events
            for event in self.events:
                log.appended_to.setdefault((event.collection, event.key), []).append(event)


def decide(log: OpenLog, command: Command, at: datetime, rules: Rules) -> Accepted:
    """Carry `command` out on `log`, or raise the `RoostError` that it is refused with.

    `at` is the time of the transaction; events never go back in time, whatever the clock does. A push is decided
    mutation by mutation, see `roost.core.mutate`.
    """
    draft = Draft(log)
    created = not log.wanted
    written: tuple[Written, ...] = ()
    if isinstance(command, Change):
        written = _change(log, draft, command, max(at, log.head.updated_at), rules)
    elif isinstance(command, AppendLog):
        for index, event in enumerate(command.events):
            _append(log, draft, event, f"/events/{index}")
    draft.commit()
    return Accepted(log.head.seq, written, created=created)


def _change(log: OpenLog, draft: Draft, change: Change, at: datetime, rules: Rules) -> tuple[Written, ...]:
    if change.begins and log.head.seq:
        raise RoostError(Code.USER_EXISTS, "There is such a user already.")
    written = []
    clock = draft.tick(at)
    for index, op in enumerate(change.ops):
        try:
            before = draft.find((op.collection, op.key))
            if before is not None and (before.value is None or is_unseen(before, change.sees)):
                before = None
            _check(op, before, rules)
            draft.spend(size_of(op, before), rules.limits)
            value = _value(op, before, log, draft, rules)
            draft.spend(len(value or b""), rules.limits)
            beside = _beside(op, before, rules)
            # What every node has to know (revocations, erasures) is not for a limit of documents to refuse.
            if before is None and log.head.user != SYSTEM_USER:
                check_room(op.collection, draft, rules.limits)
        except RoostError as refusal:
            if change.batch:
                refusal.pointer = f"/ops/{index}"
            if refusal.code is Code.VERSION_CONFLICT:
                # All or none: what earlier ops of this change made of the document has never been.
                stands = log.documents.get((op.collection, op.key))
                refusal.current = None if stands is None or stands.value is None else stands
            raise
        event = Event(
            seq=draft.seq + 1,
            kind="put" if value is not None else "delete",
            collection=op.collection,
            key=op.key,
            value=value,
            at=at,
            actor=change.actor,
            device=change.device,
            clock=None if clock == microseconds(at) else clock,
            beside=beside,
            edits=_edits(op, value, before, rules),
        )
        draft.append(event)
        written.append(Written(event, created=before is None))
    return tuple(written)


def reads(op: Op, rules: Rules) -> bool:
    """Whether an op of a change is decided, or refused, by what its document holds, and not just by its being there."""
    return not (
        op.kind in _BLIND
        and op.condition is ANYTHING
        and op.collection != INBOX
        and rules.policy(op.collection) in _BLIND_POLICIES
    )


def is_unseen(document: Document, sees: Sees | None) -> bool:
    """Whether a document is a conflict that its caller does not see."""
    return sees is not None and document.collection == INBOX and document.value is not None and not sees(document)


def _beside(op: Op, before: Document | None, rules: Rules) -> tuple[int, ...]:
    """The versions that a write leaves beside its own: all, if it does not say what it has seen of them."""
    if before is None or op.condition != ANYTHING or rules.policy(op.collection) != "siblings":
        return ()
    if op.kind == "put":
        left = tuple(sibling.version for sibling in siblings.values(before))
        if len(left) >= rules.limits.siblings_max:
            raise RoostError(Code.LIMIT_REACHED, f"At most {rules.limits.siblings_max} values stand side by side.")
        return left
    if before.siblings is not None:
        detail = "Several values stand side by side: send If-Match, to show that the write has seen them."
        raise RoostError(Code.PRECONDITION_REQUIRED, detail)
    return ()


def _edits(op: Op, value: bytes | None, before: Document | None, rules: Rules) -> bytes | None:
    """What the event remembers of how the value came to be, for edits that have not seen it."""
    if op.kind == "edit":
        return merge.recorded(op.edits or ())
    if value is None or before is None or rules.policy(op.collection) != "merge":
        return None
    return merge.recorded(edits.difference(merge.decoded(before.value), merge.decoded(value)))


def _check(op: Op, before: Document | None, rules: Rules) -> None:
    """Hold the precondition, and the collection's policy, against the document as it stands."""
    condition = op.condition
    if isinstance(condition, Anything):
        if before is not None and rules.policy(op.collection) == "cas":
            detail = (
                f"Documents of {op.collection!r} are replaced only by a write that names their version: send If-Match."
            )
            raise RoostError(Code.PRECONDITION_REQUIRED, detail)
        return
    if isinstance(condition, Versions):
        holds = before is not None and before.version in condition.versions
    else:
        holds = (before is None) == isinstance(condition, Absent)
    if not holds:
        detail = "The document does not exist." if before is None else f"The document is at version {before.version}."
        raise RoostError(Code.VERSION_CONFLICT, detail, current=before)


def _value(op: Op, before: Document | None, log: OpenLog, draft: Draft, rules: Rules) -> bytes | None:
    """The document's value after `op`; None if it is to be deleted."""
    if op.kind == "put":
        put: bytes = op.argument
        return put
    if op.kind == "merge":
        base = None if before is None else _decoded(before)
        return jsonvalue.encode_value(patch.merge(base, op.argument), rules.limits)
    if op.kind == "restore":
        return _restored(op, log, draft)
    if op.kind == "edit":
        value = edited(op.edits or (), None if before is None else before.value, rules.limits)
        if value is None:
            raise RoostError(Code.NOT_FOUND, "There is no such document.")
        return value
    if before is None:
        raise RoostError(Code.NOT_FOUND, "There is no such document.")
    if op.kind == "delete":
        return None
    return jsonvalue.encode_value(patch.apply(_decoded(before), op.argument, rules.limits), rules.limits)


def edited(asked: Sequence[edits.Edit], value: bytes | None, limits: Limits) -> bytes | None:
    """A value after edits that must fit; None where nothing was and nothing is.

    Raises `PATCH_FAILED`, and what `encode_value` raises.
    """
    after = edits.fitted(merge.decoded(value), asked)
    return None if after is edits.ABSENT else jsonvalue.encode_value(after, limits)


def _decoded(document: Document) -> Any:
    return msgspec.json.decode(document.value or b"null")


def _restored(op: Op, log: OpenLog, draft: Draft) -> bytes:
    version: int = op.argument
    event = next((event for event in draft.events if event.seq == version), None) or log.event(version)
    if event is None or (event.collection, event.key) != (op.collection, op.key):
        if 0 < version <= log.head.floor:
            raise RoostError(Code.CURSOR_COMPACTED, f"Versions up to {log.head.floor} are no longer kept.")
        raise RoostError(Code.NOT_FOUND, f"The document has no version {version}.")
    if event.value is None:
        raise RoostError(Code.NOT_FOUND, f"Version {version} is the document's deletion: it has no value.")
    return event.value


def size_of(op: Op, before: Document | None) -> int:
    """What an op costs for the size of its document, in bytes that could be read meanwhile."""
    if before is None or op.kind == "delete":
        return 0
    size = len(before.value or b"")
    return size + len(before.siblings or b"") + size * len(op.edits or ()) // _EDITS_A_READ


def check_room(collection: str, draft: Draft, limits: Limits) -> None:
    """Raise `LIMIT_REACHED` unless one more document fits into a collection."""
    count = draft.count(collection)
    if count >= limits.documents_max:
        detail = f"A collection holds at most {limits.documents_max} documents of one user."
        raise RoostError(Code.LIMIT_REACHED, detail)
    if not count and draft.collections >= limits.collections_max:
        raise RoostError(Code.LIMIT_REACHED, f"A user has at most {limits.collections_max} collections.")


def _append(log: OpenLog, draft: Draft, event: Event, pointer: str) -> None:
    if event.seq <= log.head.floor:
        raise RoostError(
            Code.CURSOR_COMPACTED, f"Events up to {log.head.floor} are no longer kept here.", pointer=pointer
        )
    if event.seq <= log.head.seq:
        if log.event(event.seq) != event:
            detail = f"The log already has another event {event.seq}."
            raise RoostError(Code.LOG_CONFLICT, detail, pointer=pointer)
        return
    if event.seq != draft.seq + 1:
        detail = f"The log stands at {draft.seq}, so event {event.seq} cannot follow."
        raise RoostError(Code.LOG_CONFLICT, detail, pointer=pointer)
    latest = draft.events[-1].at if draft.events else (log.head.updated_at if log.head.seq else event.at)
    if event.at < latest:
        raise RoostError(Code.LOG_CONFLICT, "The event is older than the one before it.", pointer=pointer)
    before = draft.find((event.collection, event.key))
    if event.kind == "delete" and before is None:
        raise RoostError(Code.LOG_CONFLICT, "The event deletes what does not exist.", pointer=pointer)
    draft.append(event)
