"""A device's side of the conversation, as a value: what it has read, what it has yet to push, and what that shows.

Nothing here does I/O or knows the time: the shell (`roost.client.replica`) hands in what arrives and what time it is,
and is told what to persist (`Outcome`), what to do next and what to tell the application. A shell that persists each
outcome before it acts on it may be killed at any moment: nothing is lost, and nothing takes effect twice.

What the application sees (`view`) is what was read from the log with the pending mutations on top. A mutation is
pending until its answer is there and the log is read up to the answer's `seq`; but an op whose event has been read
already is not shown a second time, even where the answer comes later than the event.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from roost.core import edits as editing
from roost.core import siblings
from roost.core.commands import Mutation, Op, Result
from roost.core.edits import ABSENT
from roost.core.errors import Code
from roost.core.events import Document, DocumentId, Event, microseconds
from roost.core.fold import document_of
from roost.core.ids import INBOX, check_collection
from roost.core.limits import NUMBER_MAX, Limits
from roost.sync.draft import Draft
from roost.sync.frames import encode, mutation_frame

Then = Literal["push", "resume", "refetch", "rename", "wait", "forget"]
"""What a device has to do: push (again), connect again after the cursor, read a snapshot again, take a new name and
push again, wait and try again, or forget everything, for the user was erased."""

PUSH_BYTES_MAX = 512 << 10
"""Mutations pushed at once, unless a single one is larger (`roost.sync.draft` bounds that)."""
TIME_MAX = NUMBER_MAX // 2
"""A device whose time is later (2112) has a clock that is broken; and no number beyond NUMBER_MAX is ever taken."""


class Pending(msgspec.Struct, frozen=True):
    """A mutation that the log, as far as it was read, does not show yet.

    `result` is its answer, once there is one. `seen` are the indexes of those of its ops whose events were read.
    """

    mutation: Mutation
    result: Result | None = None
    seen: tuple[int, ...] = ()


class Saved(msgspec.Struct, frozen=True):
    """What a replica is made of again after a restart, besides its documents and pending mutations.

    `cursor` is None before anything was read, and when none of it is to be relied on. `number` is that of the last
    mutation that was made.
    """

    device: str
    cursor: int | None = None
    number: int = 0
    clock: int = 0


class Outcome(msgspec.Struct):
    """What came of a step: persist it, in one transaction together with `Replica.saved`, then act on it.

    `documents` and `pending` name what to write, or to delete where it is no longer there. `changed` are the documents
    that may look different to the application. `results` are answers that it has not been told.
    """

    then: Then | None = None
    documents: set[DocumentId] = msgspec.field(default_factory=set)
    pending: set[int] = msgspec.field(default_factory=set)
    changed: set[DocumentId] = msgspec.field(default_factory=set)
    results: list[Result] = msgspec.field(default_factory=list)


class _Shown(NamedTuple):
    """What a document with pending edits shows, as JSON, and the lowest base of what is shown on top."""

    value: bytes | None
    base: int


class View(msgspec.Struct, frozen=True):
    """A document as the application sees it.

    `version` is the one that was read (0: none), `pending` tells of local edits that the server has not shown yet.
    `siblings` are the values that stand beside `value`, oldest first; the next write resolves them.
    """

    collection: str
    key: str
    value: Any
    version: int
    pending: bool
    siblings: tuple[Any, ...] = ()


class Replica:
    """One device's replica of one user's state, of all collections or (`collections`) narrowed to some.

    `documents` is what the log adds up to at the cursor; `queue` holds the pending mutations by number, in order.
    Both are read by the shell, and changed by methods only.
    """

    def __init__(
        self,
        saved: Saved,
        documents: Iterable[Document] = (),
        queue: Iterable[Pending] = (),
        *,
        collections: Iterable[str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.saved = saved
        self.documents = {(each.collection, each.key): each for each in documents}
        self.queue = {each.mutation.number: each for each in queue}
        self.collections = None if collections is None else frozenset(map(check_collection, collections)) | {INBOX}
        self.limits = limits or Limits()
        # The numbers of the pending mutations of each document, in order.
        self._touched: dict[DocumentId, dict[int, None]] = {}
        # What such a document shows: with many edits pending, each costs the same as the first.
        self._shown: dict[DocumentId, _Shown] = {}
        self._index()

    # What the application sees

    def value(self, name: DocumentId) -> Any:
        """A document's value with what is pending; `ABSENT` where there is none."""
        document = self.documents.get(name)
        if name not in self._touched:
            return ABSENT if document is None else _decoded(document.value)
        return _decoded(self._look(name).value)

    def view(self, name: DocumentId) -> View | None:
        """A document as the application sees it, or None."""
        value = self.value(name)
        if value is ABSENT:
            return None
        document = self.documents.get(name)
        version = document.version if document else 0
        if next(self._pending_ops(name), None) is not None:
            return View(*name, value, version, pending=True)
        beside = tuple(msgspec.json.decode(each.value) for each in siblings.beside(document))
        return View(*name, value, version, pending=False, siblings=beside)

    def names(self, collection: str | None = None) -> list[DocumentId]:
        """All documents that the application sees (of a collection), by collection and key."""
        found = [name for name in self.documents if collection in (None, name[0]) and name not in self._touched]
        found += [name for name in self._touched if collection in (None, name[0]) and self.value(name) is not ABSENT]
        return sorted(found)

    # What the person does

    def draft(self) -> Draft:
        """The beginning of a mutation: do something to it, then `commit` it."""
        is_pending = self._touched.__contains__
        cursor = self.saved.cursor or 0
        return Draft(self.value, self._has_siblings, is_pending, self.collections, self.limits, cursor)

    def commit(self, draft: Draft, now: int) -> Outcome:
        """Make a mutation of a draft, at the device's time (microseconds since 1970); of an empty one nothing comes."""
        outcome = Outcome()
        if not draft.ops:
            return outcome
        saved = self.saved
        number, clock = saved.number + 1, max(now if now <= TIME_MAX else 0, saved.clock + 1)
        mutation = Mutation(number, self._base(draft), clock, tuple(draft.ops))
        draft.check_size(mutation)
        self.saved = msgspec.structs.replace(saved, number=number, clock=clock)
        shown = {name: self.value(name) for name in _names(mutation)}
        self._put(Pending(mutation), outcome)
        for op in mutation.ops:
            name = op.collection, op.key
            shown[name] = applied(shown[name], op)
        for name, value in shown.items():
            self._show(name, value, mutation.base)
        outcome.then = "push"
        return outcome

    def to_push(self) -> tuple[Mutation, ...]:
        """The next mutations to push, in order, as many as one push may hold; again until answered."""
        batch: list[Mutation] = []
        size = 0
        for pending in self.queue.values():
            if pending.result is not None:
                continue
            size += len(encode(mutation_frame(pending.mutation)))
            if batch and (size > PUSH_BYTES_MAX or len(batch) == self.limits.push_mutations_max):
                break
            batch.append(pending.mutation)
        return tuple(batch)

    @property
    def unanswered(self) -> int:
        """How many mutations have no answer yet."""
        # Answers come in order.
        answered = itertools.takewhile(lambda pending: pending.result is not None, self.queue.values())
        return len(self.queue) - sum(1 for _ in answered)

    @property
    def last_answered(self) -> int:
        """The number of the last mutation of which an answer is known."""
        unanswered = (number for number, pending in self.queue.items() if pending.result is None)
        return next(unanswered, self.saved.number + 1) - 1

    # What the server says

    def welcome(self, seq: int, number: int) -> Outcome:
        """The log's end, and the last mutation of this device that the server has answered.

        An answer to a mutation that was never made means that this replica is an old copy of itself: its numbers
        are taken, so it needs a new name. An answer that the server no longer has, as when a backup was restored,
        means that the log is another one now, however far it goes. (Whoever has pushed by other ways since the hello,
        and was answered, counts those answers too: they may have overtaken the welcome.)
        """
        if number > self.saved.number:
            return Outcome("rename")
        if number < self.last_answered:
            return self._mistrust(number + 1)
        return Outcome("refetch" if seq < (self.saved.cursor or 0) else None)

    def advance(self, events: Sequence[Event], seq: int, after: int | None = None) -> Outcome:
        """Read the next stretch of the log, from the cursor `after` up to `seq`. What was read before is passed over.

        Where the server does not say from where, the events of a device that is not narrowed have to be without holes.
        """
        if any(event.kind == "erase" for event in events):
            return self.forget()
        outcome = Outcome()
        cursor = self.saved.cursor or 0
        fresh = [event for event in events if event.seq > cursor]
        if not self._follows(cursor, fresh, seq, after):
            outcome.then = "resume"
            return outcome
        clock = self.saved.clock
        for event in fresh:
            clock = max(clock, event.stamp.clock)
            self._read(event, outcome)
        self.saved = msgspec.structs.replace(self.saved, cursor=max(cursor, seq), clock=clock)
        self._forget(outcome)
        return outcome

    def answered(self, results: Sequence[Result]) -> Outcome:
        """The answers to a push. What is refused vanishes; what took effect is shown until it is read."""
        outcome = Outcome()
        for result in results:
            pending = self.queue.get(result.number)
            if pending is None or pending.result is not None:
                continue
            outcome.results.append(result)
            self._put(msgspec.structs.replace(pending, result=result), outcome)
        self._forget(outcome)
        if self.unanswered:
            outcome.then = "push"
        return outcome

    def refused(self, code: str, expected: int | None = None) -> Outcome:
        """A push was not taken. `expected` is the number that the server goes on from, where it names one."""
        if code == Code.USER_ERASED:
            return self.forget()
        if code == Code.CURSOR_AHEAD:
            return Outcome("refetch")
        if code == Code.IDEMPOTENCY_KEY_REUSED:
            # A number was given twice: by this replica, and by one that it was before, or that is a copy of it.
            return Outcome("rename")
        if code != Code.MUTATION_GAP or expected is None:
            return Outcome("wait")
        if expected > self.last_answered:
            return Outcome("push")  # nothing is lost: the push overtook an earlier one
        return self._mistrust(expected)

    def replace(self, documents: Iterable[Document], seq: int) -> Outcome:
        """A snapshot takes the place of all that was read; what is pending stays.

        `documents` may be newer than `seq`, from which the log is read on.
        """
        outcome = Outcome()
        fresh = {(document.collection, document.key): document for document in documents}
        outcome.documents |= self.documents.keys() | fresh.keys()
        outcome.changed |= outcome.documents | self._touched.keys()
        self.documents = fresh
        self._shown = {}
        latest = max((microseconds(document.updated_at) for document in fresh.values()), default=0)
        self.saved = msgspec.structs.replace(self.saved, cursor=seq, clock=max(self.saved.clock, latest))
        end = max([seq, *(document.version for document in fresh.values())])
        for pending in list(self.queue.values()):
            # The log that it was based on, or answered in, is no more.
            mutation = msgspec.structs.replace(pending.mutation, base=min(pending.mutation.base, seq))
            if pending.result is not None and pending.result.seq > end:
                self._put(Pending(mutation), outcome)
            elif mutation != pending.mutation:
                self._put(msgspec.structs.replace(pending, mutation=mutation), outcome)
        self._forget(outcome)
        return outcome

    def rename(self, device: str) -> Outcome:
        """Go on under a new name: what is not answered is numbered from 1, what is answered will be read."""
        outcome = Outcome()
        outcome.pending |= self.queue.keys()
        outcome.changed |= self._touched.keys()
        unanswered = [pending for pending in self.queue.values() if pending.result is None]
        self.queue = {}
        for number, pending in enumerate(unanswered, 1):
            mutation = msgspec.structs.replace(pending.mutation, number=number)
            self.queue[number] = msgspec.structs.replace(pending, mutation=mutation)
        outcome.pending |= self.queue.keys()
        self._index()
        self.saved = msgspec.structs.replace(self.saved, device=device, number=len(self.queue))
        outcome.then = "push" if self.queue else None
        return outcome

    def forget(self) -> Outcome:
        """The user was erased: nothing is left but the device's name and clock, not even what was never pushed."""
        outcome = Outcome("forget")
        outcome.documents |= self.documents.keys()
        outcome.pending |= self.queue.keys()
        outcome.changed |= self.documents.keys() | self._touched.keys()
        self.documents, self.queue = {}, {}
        self._index()
        self.saved = Saved(self.saved.device, clock=self.saved.clock)
        return outcome

    def _mistrust(self, expected: int) -> Outcome:
        """The server has lost answers that it gave, from number `expected` on, and with them the end of its log.

        What the device still has of those mutations is pushed again, after all documents were read anew.
        """
        outcome = Outcome("refetch" if expected in self.queue else "rename")
        for number in [number for number in self.queue if number >= expected]:
            self._put(Pending(self.queue[number].mutation), outcome)
        self.saved = msgspec.structs.replace(self.saved, cursor=None)
        return outcome

    def _follows(self, cursor: int, fresh: Sequence[Event], seq: int, after: int | None) -> bool:
        """Whether events are the log from the cursor up to `seq`, as far as that can be seen."""
        seqs = [event.seq for event in fresh]
        if after is not None and after > cursor:
            return False
        if after is None and self.collections is None:
            return len(seqs) == max(seq - cursor, 0) and seqs == list(range(cursor + 1, cursor + 1 + len(seqs)))
        return seqs == sorted(set(seqs)) and (not seqs or seqs[-1] <= seq)

    def _read(self, event: Event, outcome: Outcome) -> None:
        name = event.collection, event.key
        document = self.documents.get(name)
        if document is None or document.version < event.seq:
            after = document_of(event, document)
            if after.value is None:
                self.documents.pop(name, None)
            else:
                self.documents[name] = after
            outcome.documents.add(name)
            outcome.changed.add(name)
            self._shown.pop(name, None)
        if event.device == self.saved.device and event.mutation is not None:
            # In the log: this op, and all that this device did to the document before.
            upto = event.mutation
            for number in list(itertools.takewhile(lambda each: each <= upto, self._touched.get(name, ()))):
                pending = self.queue[number]
                seen = {index for index, op in enumerate(pending.mutation.ops) if (op.collection, op.key) == name}
                if not seen.issubset(pending.seen):
                    seen.update(pending.seen)
                    self._put(msgspec.structs.replace(pending, seen=tuple(sorted(seen))), outcome)

    def _forget(self, outcome: Outcome) -> None:
        """Let go of what is refused, and of what was answered and read."""
        cursor = self.saved.cursor or 0
        gone = []
        for pending in self.queue.values():
            result = pending.result
            if result is None:
                # Answers come in order.
                break
            if result.status == "refused" or result.seq <= cursor:
                gone.append(pending.mutation)
        for mutation in gone:
            del self.queue[mutation.number]
            outcome.pending.add(mutation.number)
            for name in _names(mutation):
                outcome.changed.add(name)
                self._shown.pop(name, None)
                del self._touched[name][mutation.number]
                if not self._touched[name]:
                    del self._touched[name]

    def _put(self, pending: Pending, outcome: Outcome) -> None:
        number = pending.mutation.number
        self.queue[number] = pending
        outcome.pending.add(number)
        for name in _names(pending.mutation):
            outcome.changed.add(name)
            self._shown.pop(name, None)
            self._touched.setdefault(name, {})[number] = None

    def _base(self, draft: Draft) -> int:
        """What the person has seen who made a draft.

        Where an earlier mutation is shown on top of a document, that is no more than what that one was made on: what
        was read since may be hidden beneath it.
        """
        bases = [self._look(name).base for name in draft.values if name in self._touched]
        return min([self.saved.cursor or 0, draft.cursor, *bases])

    def _index(self) -> None:
        self._touched, self._shown = {}, {}
        for number, pending in self.queue.items():
            for name in _names(pending.mutation):
                self._touched.setdefault(name, {})[number] = None

    def _look(self, name: DocumentId) -> _Shown:
        if name not in self._shown:
            document = self.documents.get(name)
            value = ABSENT if document is None else _decoded(document.value)
            base = NUMBER_MAX
            for pending, op in self._pending_ops(name):
                value = applied(value, op)
                base = min(base, pending.mutation.base)
            self._show(name, value, base)
        return self._shown[name]

    def _show(self, name: DocumentId, value: Any, base: int) -> None:
        self._shown[name] = _Shown(None if value is ABSENT else msgspec.json.encode(value), base)

    def _pending_ops(self, name: DocumentId) -> Iterator[tuple[Pending, Op]]:
        """The ops on a document whose effect is not in `documents`, in order, each with its mutation."""
        document = self.documents.get(name)
        version = document.version if document else 0
        for number in self._touched.get(name, ()):
            pending = self.queue[number]
            if pending.result is not None and pending.result.seq <= version:
                # A page of a snapshot that is newer than the cursor.
                continue
            for index, op in enumerate(pending.mutation.ops):
                if (op.collection, op.key) == name and index not in pending.seen:
                    yield pending, op

    def _has_siblings(self, name: DocumentId) -> bool:
        view = self.view(name)
        return view is not None and bool(view.siblings)


def applied(value: Any, op: Op) -> Any:
    """A document's value (or `ABSENT`) with an op on top.

    A `put` does what was edited, not more, so that it shows what others changed meanwhile.
    """
    if op.kind == "delete":
        return ABSENT
    if op.kind == "put" and (op.edits is None or value is ABSENT):
        return msgspec.json.decode(op.argument)
    return editing.apply(value, op.edits or ())


def _decoded(value: bytes | None) -> Any:
    return ABSENT if value is None else msgspec.json.decode(value)


def _names(mutation: Mutation) -> set[DocumentId]:
    return {(op.collection, op.key) for op in mutation.ops}
