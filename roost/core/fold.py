"""What a log adds up to, and where what is stored differs from it.

The write side keeps documents and heads beside the log so that reading is quick; this module says what they
must be. It is the plain form of the one idea: a document is what its events add up to.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from hashlib import blake2b

import msgspec

from roost.core import siblings
from roost.core.events import Document, DocumentId, Event, Head

NAMED_MAX = 20
"""Findings of one kind that are written out; more are counted."""


class Findings:
    """Sentences for a person, of which the first are kept: a log that is wrong throughout must not fill the memory."""

    def __init__(self) -> None:
        self._named: list[str] = []
        self._more = 0

    def add(self, sentence: str) -> None:
        """Keep a sentence, or count it."""
        if len(self._named) < NAMED_MAX:
            self._named.append(sentence)
        else:
            self._more += 1

    def sentences(self) -> list[str]:
        """What was kept, and how many more there were."""
        return [*self._named, f"and {self._more} more like these"] if self._more else self._named


class Fold:
    """A log added up, event by event: `seq` and `at` of the last one, documents (tombstones too) and their counts.

    `clock` is the highest that an event names. `flaws` say what is wrong with the log itself. `digest` is the same for
    two logs only if they hold the same events in the same order. Up to `floor` events may have been folded away; the
    one at the floor has not.
    """

    def __init__(self, floor: int = 0) -> None:
        self.floor = floor
        self.seq = 0
        self.at: datetime | None = None
        self.clock = 0
        self.documents: dict[DocumentId, Document] = {}
        self.flaws = Findings()
        self.digest = b""

    def add(self, event: Event) -> None:
        """Add the event that comes next."""
        if event.seq != self.seq + 1 and not self.seq < event.seq <= self.floor:
            self.flaws.add(f"event {event.seq} follows event {self.seq}")
        if self.at is not None and event.at < self.at:
            self.flaws.add(f"event {event.seq} is older than the event before it")
        if (event.kind == "put") != (event.value is not None):
            self.flaws.add(
                f"event {event.seq} is a {event.kind} {'without' if event.value is None else 'with'} a value"
            )
        self.seq, self.at = event.seq, event.at
        self.clock = max(self.clock, event.clock or 0)
        if event.kind == "erase":
            self.documents.clear()
        else:
            name = event.collection, event.key
            self.documents[name] = document_of(event, self.documents.get(name))
        self.digest = chained(self.digest, event)

    @property
    def counts(self) -> dict[str, int]:
        """The number of documents of each collection that has any."""
        counts: dict[str, int] = {}
        for document in self.documents.values():
            if document.value is not None:
                counts[document.collection] = counts.get(document.collection, 0) + 1
        return counts


def fold(events: Iterable[Event]) -> Fold:
    """Add up a log, or a prefix of one."""
    folded = Fold()
    for event in events:
        folded.add(event)
    return folded


def document_of(event: Event, before: Document | None = None) -> Document:
    """The document that an event leaves behind, or its tombstone; `before` is what it was, if it was."""
    beside = siblings.after(before, event)
    return Document(event.collection, event.key, event.seq, event.value, event.at, beside)


def superseded(events: Iterable[Event], floor: int) -> set[int]:
    """The seqs of those `events` (a log's, in order, up to its new `floor`) that nothing at or above the floor needs.

    A document's last event stays, so that it can be read at every moment from the floor on, and with siblings so do
    all from the oldest of these on, for they add up to it. A deletion does not, but for one at the floor itself, which
    tells when that was.
    """
    kept: dict[DocumentId, list[Event]] = {}
    gone: set[int] = set()
    for event in events:
        before = kept.setdefault((event.collection, event.key), [])
        first = min(event.beside, default=event.seq)
        gone.update(other.seq for other in before if other.seq < first)
        before[:] = [other for other in before if other.seq >= first]
        before.append(event)
    for history in kept.values():
        if history[-1].value is None:
            gone.update(event.seq for event in history if event.seq < floor)
    return gone


def chained(digest: bytes, event: Event) -> bytes:
    """The digest of a log, from the digest of all but its last event and that event (16 bytes)."""
    return blake2b(digest + msgspec.msgpack.encode(event), digest_size=16).digest()


def differences(head: Head, documents: Iterable[Document], folded: Fold) -> list[str]:
    """What is wrong with a user, in sentences for a person that hold no value.

    Flaws of the log `folded`, and where the stored `head` and `documents` (tombstones included) are not what it
    adds up to.
    """
    found = list(folded.flaws.sentences())
    if head.seq != folded.seq:
        found.append(f"the head stands at {head.seq}, the log ends at {folded.seq}")
    if folded.at is not None and head.updated_at != folded.at:
        found.append(f"the head was updated at {head.updated_at}, the last event happened at {folded.at}")
    if head.counts != folded.counts:
        found.append(f"the head counts {_counted(head.counts)}, the log adds up to {_counted(folded.counts)}")
    if head.clock < folded.clock:
        found.append(f"the head's clock is {head.clock}, the log's {folded.clock}")
    stored = {(document.collection, document.key): document for document in documents}
    findings = Findings()
    for collection, key in sorted(stored.keys() | folded.documents.keys()):
        document = stored.get((collection, key))
        difference = _difference(document, folded.documents.get((collection, key)))
        # The event of a deletion may have been folded away.
        buried = document is not None and document.value is None and document.version <= folded.floor
        if difference and not (buried and (collection, key) not in folded.documents):
            findings.add(f"{collection}/{key}: {difference}")
    return found + findings.sentences()


def _difference(stored: Document | None, folded: Document | None) -> str | None:
    if stored == folded:
        return None
    if stored is None:
        return "in the log, but not stored"
    if folded is None:
        return "stored, but not in the log"
    if stored.version != folded.version:
        return f"stored at version {stored.version}, {folded.version} in the log"
    if stored.value != folded.value:
        other = "another value than the log has"
    elif stored.siblings != folded.siblings:
        other = "other siblings than the log has"
    else:
        other = f"the time {stored.updated_at}, {folded.updated_at} in the log"
    return f"version {stored.version} is stored with {other}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {collection}" for collection, count in sorted(counts.items())) or "nothing"
