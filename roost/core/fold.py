"""What a log adds up to, and where what is stored differs from it.

The write side keeps documents and heads beside the log so that reading is quick; this module says what they
must be. It is the plain form of the one idea: a document is what its events add up to.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from hashlib import blake2b

import msgspec

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

    `flaws` say what is wrong with the log itself. `digest` is the same for two logs
    only if they hold the same events in the same order.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.at: datetime | None = None
        self.documents: dict[DocumentId, Document] = {}
        self.flaws = Findings()
        self.digest = b""

    def add(self, event: Event) -> None:
        """Add the event that comes next."""
        if event.seq != self.seq + 1:
            self.flaws.add(f"event {event.seq} follows event {self.seq}")
        if self.at is not None and event.at < self.at:
            self.flaws.add(f"event {event.seq} is older than the event before it")
        if (event.kind == "delete") != (event.value is None):
            self.flaws.add(
                f"event {event.seq} is a {event.kind} {'without' if event.value is None else 'with'} a value"
            )
        self.seq, self.at = event.seq, event.at
        self.documents[event.collection, event.key] = document_of(event)
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


def document_of(event: Event) -> Document:
    """The document that an event leaves behind, or its tombstone."""
    return Document(event.collection, event.key, event.seq, event.value, event.at)


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
    stored = {(document.collection, document.key): document for document in documents}
    findings = Findings()
    for collection, key in sorted(stored.keys() | folded.documents.keys()):
        difference = _difference(stored.get((collection, key)), folded.documents.get((collection, key)))
        if difference:
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
        return f"version {stored.version} is stored with another value than the log has"
    return f"version {stored.version} is stored with the time {stored.updated_at}, {folded.updated_at} in the log"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {collection}" for collection, count in sorted(counts.items())) or "nothing"
