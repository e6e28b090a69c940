"""What becomes of a mutation that a device pushes: it takes effect, is merged or refused; nothing is lost unseen.

A mutation says what its device had seen (`base`). Where a document has been written since by somebody else, the
collection's policy decides (`roost.core.merge`). Whatever does not stand, and every mutation that is refused, becomes
a document of the user's inbox, so it reaches every device as anything else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from roost.core import edits as editing
from roost.core import merge
from roost.core.commands import Mutation, Op, Result, Sees, Written
from roost.core.decide import Draft, OpenLog, Rules, check_room, edited, is_unseen, size_of
from roost.core.errors import Code, RoostError
from roost.core.events import Document, DocumentId, Event, Stamp, microseconds
from roost.core.ids import HIDDEN, INBOX, check_writable
from roost.core.merge import Conflict, Lost, Standing

_EDIT_BYTES = 32
"""No edit is shorter as JSON, but for the smallest."""
_PAIR_BYTES = 8


class InboxFull(RoostError):
    """There is no room for what a conflict sets aside; so nothing is decided until there is."""

    def __init__(self, most: int) -> None:
        super().__init__(
            Code.OVERLOADED, f"The inbox holds {most} conflicts: dismiss some of them first.", retry_after_s=60
        )


class Origin(msgspec.Struct, frozen=True):
    """Where a mutation comes from; `sees` as of `Push`."""

    device: str
    actor: str
    sees: Sees | None = None


def mutate(
    log: OpenLog, origin: Origin, mutation: Mutation, at: datetime, rules: Rules
) -> tuple[Result, tuple[Written, ...]]:
    """Carry out the device's next mutation, or refuse it for good; either is an answer.

    `at` is the time of the transaction. The log has in `documents` what the ops name, and in `unseen` what happened
    to them after `base`. Raises `InboxFull`, with the log untouched.
    """
    at = max(at, log.head.updated_at)
    try:
        return _Mutating(log, origin, mutation, at, rules).run()
    except InboxFull:
        raise
    except RoostError as refusal:
        return _Mutating(log, origin, mutation, at, rules).refuse(refusal)


class _Mutating:
    """One mutation on its way into a log."""

    def __init__(self, log: OpenLog, origin: Origin, mutation: Mutation, at: datetime, rules: Rules) -> None:
        self._log = log
        self._draft = Draft(log)
        self._origin = origin
        self._mutation = mutation
        self._at = at
        self._rules = rules
        # A clock that runs ahead would win for as long as it does; so it is only trusted that far.
        ahead = microseconds(at) + rules.limits.clock_ahead_s * 1_000_000
        self._stamp = Stamp(min(mutation.clock, ahead), origin.device, mutation.number)
        self._written: list[Written] = []
        self._conflicts: list[str] = []
        self._kept_bytes = 0

    def run(self) -> tuple[Result, tuple[Written, ...]]:
        """Carry it out. Raises what refuses it; nothing has happened then."""
        flaw = self._mutation.flaw
        if flaw is not None:
            raise RoostError(flaw.code, flaw.detail, pointer=flaw.pointer)
        lost: list[tuple[Op, str, Lost]] = []
        conflicts = 0
        for index, op in enumerate(self._mutation.ops):
            try:
                standing, is_conflict = self._standing(op)
                self._draft.spend(_size(standing), self._rules.limits)
                conflicts += is_conflict and self._rules.policy(op.collection) == "siblings"
                self._write(op, standing)
            except RoostError as refusal:
                refusal.pointer = f"/ops/{index}{refusal.pointer or ''}"
                raise
            lost += [(op, "merged", one) for one in standing.lost]
        for op, outcome, one in lost:
            self._set_aside(op, {"outcome": outcome}, one)
        return self._answered(Result(self._mutation.number, "merged" if lost or conflicts else "applied", 0))

    def refuse(self, refusal: RoostError) -> tuple[Result, tuple[Written, ...]]:
        """Refuse it, and keep what it wanted in the inbox."""
        why = {"outcome": "refused", "code": refusal.code.value, "detail": refusal.detail}
        for op in self._mutation.ops:
            self._set_aside(op, why, merge.asked(op))
        number = self._mutation.number
        result = Result(number, "refused", 0, (), refusal.code, refusal.detail, refusal.pointer)
        return self._answered(result)

    def _answered(self, result: Result) -> tuple[Result, tuple[Written, ...]]:
        self._draft.commit()
        answer = msgspec.structs.replace(result, seq=self._log.head.seq, conflicts=tuple(self._conflicts))
        return answer, tuple(self._written)

    def _standing(self, op: Op) -> tuple[Standing, bool]:
        """What the op comes to, and whether anybody else had a part in it."""
        check_writable(op.collection, deletes=op.kind == "delete")
        document = self._draft.find((op.collection, op.key))
        if document is not None and is_unseen(document, self._origin.sees):
            document = None
        self._draft.spend(size_of(op, document), self._rules.limits)
        events = self._after_base((op.collection, op.key), document)
        conflict = None if document is None else Conflict(op, self._stamp, document, events, self._rules.limits)
        if conflict is None or not conflict.unseen:
            return self._alone(op, document), False
        if self._rules.policy(op.collection) == "merge":
            self._draft.spend(_work(op, events), self._rules.limits)
        return merge.POLICIES[self._rules.policy(op.collection)](conflict), True

    def _after_base(self, name: DocumentId, document: Document | None) -> list[Event]:
        """The document's events that came after what the device had read; its own may be among them."""
        base = self._mutation.base
        if document is None or document.version <= base:
            return []
        if base < self._log.head.floor:
            detail = f"The device had seen the log up to {base}; what came up to {self._log.head.floor} is folded away."
            raise RoostError(Code.CURSOR_COMPACTED, detail)
        loaded = self._log.unseen.get(name)
        policy = self._rules.policy(name[0])
        if loaded and ((loaded.more and policy in ("merge", "siblings")) or (loaded.cut and policy == "merge")):
            detail = "Others wrote more to the document since the device saw it than an edit is merged with."
            raise RoostError(Code.VERSION_CONFLICT, detail, current=document)
        drafted = [event for event in self._draft.events if (event.collection, event.key) == name]
        events = [*(loaded.events if loaded else ()), *self._log.appended_to.get(name, ()), *drafted]
        return [event for event in events if event.seq > base]

    def _alone(self, op: Op, document: Document | None) -> Standing:
        """What the op comes to where nobody else has a part in it."""
        value = None if document is None else document.value
        policy = self._rules.policy(op.collection)
        if op.kind == "delete":
            # Where the latest wins, a document that is deleted again is deleted later.
            return Standing(writes=value is not None or (document is not None and policy in ("lww", "merge")))
        if op.kind == "put" and (value is None or policy != "merge"):
            return Standing(writes=True, value=op.argument)
        # The edits and not the value, which may show what a refused mutation would have done.
        edits = merge.edits_asked(op)
        after = edited(edits, value, self._rules.limits)
        anew = document is not None and value is None
        recorded = None if anew else merge.recorded(edits)
        return Standing(writes=bool(edits) and after is not None, value=after, edits=recorded)

    def _write(self, op: Op, standing: Standing) -> None:
        if standing.writes:
            self._append(op.collection, op.key, standing, self._stamp.clock, self._mutation.number)

    def _append(self, collection: str, key: str, standing: Standing, clock: int, number: int | None) -> None:
        draft = self._draft
        before = draft.find((collection, key))
        created = before is None or before.value is None
        if created and standing.value is not None and collection != INBOX:
            check_room(collection, draft, self._rules.limits)
        event = Event(
            seq=draft.seq + 1,
            kind="delete" if standing.value is None else "put",
            collection=collection,
            key=key,
            value=standing.value,
            at=self._at,
            actor=self._origin.actor,
            device=self._origin.device,
            mutation=number,
            clock=None if clock == microseconds(self._at) else clock,
            beside=standing.beside,
            edits=standing.edits,
        )
        draft.append(event)
        self._written.append(Written(event, created=created))

    def _set_aside(self, op: Op, outcome: dict[str, str], lost: Lost) -> None:
        """Put something that does not stand into the inbox."""
        most = self._rules.limits.documents_max
        if self._draft.count(INBOX) >= most:
            raise InboxFull(most)
        # Of a hidden collection nothing is copied: a password's hash would outlive the password.
        stands = None if op.collection in HIDDEN else self._draft.find((op.collection, op.key))
        kept: dict[str, Any] = {"version": None, "value": None}
        if stands is not None:
            kept = {"version": stands.version}
            self._kept_bytes += len(stands.value or b"")
            # Whoever looks can see it in the document; what is lost is nowhere else.
            if self._kept_bytes <= self._rules.limits.change_bytes_max:
                kept["value"] = _raw(stands.value)
        conflict = {
            "at": self._at,
            "policy": self._rules.policy(op.collection),
            **outcome,
            "collection": op.collection,
            "key": op.key,
            "device": self._origin.device,
            "mutation": self._mutation.number,
            "base": self._mutation.base,
            "kept": kept,
            "lost": _shown(lost),
        }
        key = f"{self._draft.seq + 1:016}"
        value = msgspec.json.encode(conflict)
        self._append(INBOX, key, Standing(writes=True, value=value), self._draft.tick(self._at), None)
        self._conflicts.append(key)


def _size(standing: Standing) -> int:
    """How much an op writes, in bytes."""
    lost = sum(len(one.value or b"") for one in standing.lost)
    return len(standing.value or b"") + len(standing.edits or b"") + lost


def _work(op: Op, events: Sequence[Event]) -> int:
    """What merging an op with others' edits costs, in bytes that could be read meanwhile: each is held against each."""
    read = sum(len(event.edits or event.value or b"") for event in events)
    theirs = sum(1 + len(event.edits or b"") // _EDIT_BYTES for event in events)
    return read + _PAIR_BYTES * theirs * len(op.edits or (op,))


def _shown(lost: Lost) -> dict[str, Any]:
    shown: dict[str, Any] = {} if lost.version is None else {"version": lost.version}
    if lost.edits is None:
        return shown | {"value": _raw(lost.value)}
    return shown | {"edits": _plain(lost.edits)}


def _plain(edits: Sequence[editing.Edit]) -> msgspec.Raw:
    return msgspec.Raw(editing.encode(edits))


def _raw(value: bytes | None) -> msgspec.Raw:
    return msgspec.Raw(b"null" if value is None else value)
