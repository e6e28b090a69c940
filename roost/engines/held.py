"""What the reference engine holds of one user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from roost.core.events import Device, Document, DocumentId, Event, Head
from roost.core.ports import AnswerRef, StoredAnswer


class User:
    """A user's state. `events[seq - 1]` is event `seq`, or None where it was folded away."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.events: list[Event | None] = []
        self.documents: dict[DocumentId, Document] = {}
        self.fields: dict[DocumentId, bytes] = {}
        self.devices: dict[str, Device] = {}

    def log(self, after: int = 0, until: int | None = None) -> Iterator[Event]:
        """The events that are kept, of those with a seq over `after`, up to `until`."""
        return (event for event in self.events[after:until] if event is not None)

    def events_of(self, document: DocumentId, after: int = 0, until: int | None = None) -> list[Event]:
        """Those of one document."""
        return [event for event in self.log(after, until) if (event.collection, event.key) == document]

    def copy(self) -> User:
        """A copy that can be changed on its own; what it holds is immutable."""
        twin = User(self.head)
        twin.events = self.events.copy()
        twin.documents = self.documents.copy()
        twin.fields = self.fields.copy()
        twin.devices = self.devices.copy()
        return twin


class Held(NamedTuple):
    """A user with what is theirs elsewhere: the answers, among those of everybody, and the lane."""

    user: User
    answers: dict[AnswerRef, StoredAnswer]
    lane: list[tuple[str, Event] | None]
