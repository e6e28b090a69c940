"""What one caller sees of one user's documents: which collections, and which of their members.

Whatever is read of several collections at once goes through a view: what the caller may not read is left out, as if
the read had been narrowed, and members that a definition masks are replaced. A value that is no object is masked as a
whole where its collection masks anything. A view is of one moment: who reads for long makes a new one now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from roost.core import edits as editing
from roost.core import siblings
from roost.core.events import Document, Event
from roost.core.ids import INBOX

One = TypeVar("One", Document, Event)
MASK = "[masked]"
"""What stands in the place of a member that the caller does not see."""

Sight = frozenset[str] | None
"""The members that are masked in a collection (nearly always none); None where it is not seen at all."""

_encode = msgspec.json.Encoder().encode
_MASKED = _encode(MASK)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_WHOLE: frozenset[str] = frozenset()


class _Named(msgspec.Struct):
    """As much of a conflict as tells whose it is."""

    collection: str


_named = msgspec.json.Decoder(_Named).decode


class View:
    """`sight` tells what is seen of a collection; it is asked once for each."""

    __slots__ = ("_sight", "_sights")

    def __init__(self, sight: Callable[[str], Sight]) -> None:
        self._sight = sight
        self._sights: dict[str, Sight] = {}

    def of(self, collection: str) -> Sight:
        """What is seen of a collection."""
        try:
            return self._sights[collection]
        except KeyError:
            found = self._sights[collection] = self._sight(collection)
            return found

    @property
    def seen(self) -> Iterable[str]:
        """The collections that were asked for, and are seen."""
        return [name for name, sight in self._sights.items() if sight is not None]

    def narrowed(self, collections: Sequence[str]) -> list[str]:
        """Those of the collections that are seen."""
        return [name for name in collections if self.of(name) is not None]

    def document(self, document: Document) -> Document | None:
        """A document as it is shown; None where it is not."""
        if document.collection == INBOX:
            return self._conflict(document)
        masked = self.of(document.collection)
        if masked is None:
            return None
        if not masked or document.value is None:
            return document
        beside = document.siblings
        if beside is not None:
            shown = [
                msgspec.structs.replace(one, value=msgspec.Raw(mask(bytes(one.value), masked)))
                for one in siblings.beside(document)
            ]
            beside = _encode(shown)
        return msgspec.structs.replace(document, value=mask(document.value, masked), siblings=beside)

    def documents(self, documents: Iterable[Document]) -> list[Document]:
        """Those that are shown."""
        return [shown for document in documents if (shown := self.document(document)) is not None]

    def event(self, event: Event) -> Event | None:
        """An event as it is shown; None where it is not. One of a masked document does not tell its edits."""
        if event.collection == INBOX:
            return self._conflict(event)
        if event.kind == "erase":
            return event
        masked = self.of(event.collection)
        if masked is None:
            return None
        if not masked or event.value is None:
            return event
        return msgspec.structs.replace(event, value=mask(event.value, masked), edits=None)

    def events(self, events: Iterable[Event]) -> list[Event]:
        """Those that are shown."""
        return [shown for event in events if (shown := self.event(event)) is not None]

    def _conflict(self, one: One) -> One | None:
        """What is in the inbox: it holds values of the collection that it tells of."""
        if self.of(INBOX) is None:
            return None
        if one.value is None:
            return one
        try:
            collection = _named(one.value).collection
        except msgspec.DecodeError:
            return None  # no conflict: a log that was taken in may hold anything
        masked = self.of(collection)
        if masked is None:
            return None
        if collection == INBOX:
            return msgspec.structs.replace(one, value=_without_kept(one.value))
        return msgspec.structs.replace(one, value=_mask_conflict(one.value, masked)) if masked else one


def told_of(shown: Iterable[Document | Event]) -> set[str]:
    """The collections that documents or events tell of: a conflict in the inbox tells of another's values."""
    told = set()
    for one in shown:
        told.add(one.collection)
        if one.collection == INBOX and one.value is not None:
            told.add(_named(one.value).collection)
    return told


def mask(value: bytes, masked: frozenset[str]) -> bytes:
    """A JSON value without the masked members."""
    try:
        members = _members(value)
    except msgspec.ValidationError:
        return _MASKED
    if masked.isdisjoint(members):
        return value
    return _encode({name: msgspec.Raw(_MASKED) if name in masked else kept for name, kept in members.items()})


def _without_kept(value: bytes) -> bytes:
    """A conflict about the inbox itself, without the conflict that stands there: that may be about anything."""
    conflict = _members(value)
    kept = {name: part for name, part in _members(conflict["kept"]).items() if name != "value"}
    conflict["kept"] = msgspec.Raw(_encode(kept))
    return _encode(conflict)


def _mask_conflict(value: bytes, masked: frozenset[str]) -> bytes:
    conflict = _members(value)
    for part in ("kept", "lost"):
        inner = _members(conflict[part])
        if "value" in inner and bytes(inner["value"]) != b"null":
            inner["value"] = msgspec.Raw(mask(bytes(inner["value"]), masked))
        if "edits" in inner:
            shown = [
                edit for edit in editing.decode(bytes(inner["edits"])) if edit.tokens and edit.tokens[0] not in masked
            ]
            inner["edits"] = msgspec.Raw(editing.encode(shown))
        conflict[part] = msgspec.Raw(_encode(inner))
    return _encode(conflict)
