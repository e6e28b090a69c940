"""What was meant, what was written and what was answered, written down beside the simulation by somebody uninvolved.

The device's disk has a mutation: then its person has been promised that nothing of it will be lost unseen, and the
ledger knows what the screen showed before and after. The database has committed: then the ledger has the events.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any, NamedTuple

import msgspec

from roost.core.commands import Result
from roost.core.events import DocumentId, Event
from roost.core.ids import INBOX
from roost.core.ports import StoredAnswer
from tests.simulation.atoms import Atom, asked, atoms
from tests.simulation.world import Violation

Name = tuple[str, int]
"""A mutation: device and number."""


class Meaning:
    """What a person means to do to one document, by what the screen shows: what appears, and what vanishes.

    `hidden` are siblings that it shows again, once what its person wrote meanwhile is through.
    `dropped` is what was not there for a moment at least, `whole` tells that the document is replaced or deleted,
    `only_removes` that elements are taken out of sets and nothing else.
    """

    def __init__(self, before: set[Atom], hidden: set[Atom]) -> None:
        self.before = before
        self.hidden = hidden
        self.given: set[Atom] = set()
        self.after: set[Atom] = set()
        self.dropped: set[Atom] = set()
        self.whole = False
        self.only_removes = True

    @property
    def adds(self) -> set[Atom]:
        """What is meant to be there."""
        return self.given & self.after

    @property
    def removes(self) -> set[Atom]:
        """What is meant not to be there."""
        return (self.before | self.given) - self.after

    def goes_on(self, after: set[Atom]) -> None:
        """An op is done; the screen shows this now."""
        self.dropped |= (self.before | self.hidden | self.given | self.after) - after
        self.after = after


class Intent(NamedTuple):
    """A mutation as its person means it, by document.

    `cursor` is how far the log had been read, `base` how far that of it which was shown.
    """

    base: int
    cursor: int
    meanings: dict[DocumentId, Meaning]
    counts: dict[tuple[str, str], int]
    """By key and path, what is counted in the collection that nothing but counts."""


class Lost(NamedTuple):
    """A conflict in the inbox: what it has of a mutation."""

    seq: int
    version: int | None
    value: Any
    edits: list[dict[str, Any]] | None

    @property
    def atoms(self) -> set[Atom]:
        """What can be found in it."""
        return atoms(self.value) if self.edits is None else asked(self.edits)


class Ledger:
    """The log, and all that was promised."""

    def __init__(self) -> None:
        self.intents: dict[Name, Intent] = {}
        self.events: list[Event] = []
        self.answers: dict[Name, Result] = {}
        self.plain: dict[int, tuple[DocumentId, set[Atom]]] = {}
        """What plain writes that were acknowledged have put into documents, by seq."""
        self.inbox: dict[tuple[Name, DocumentId], list[Lost]] = defaultdict(list)
        self.refused: set[Name] = set()

    def meant(self, name: Name, intent: Intent) -> None:
        """A mutation is on its device's disk."""
        if name in self.intents:
            raise Violation(f"the number of mutation {name} is used twice")
        self.intents[name] = intent

    def committed(self, events: list[tuple[str, Event]], answers: list[StoredAnswer]) -> None:
        """A transaction has ended well."""
        for _, event in events:
            if event.seq != len(self.events) + 1:
                raise Violation(f"event {event.seq} follows {len(self.events)}")
            if self.events and event.at < self.events[-1].at:
                raise Violation(f"event {event.seq} is older than the one before")
            self.events.append(event)
            if event.collection == INBOX and event.value is not None:
                self._file(event)
        for stored in answers:
            if " " in stored.ref.key:
                device, _, number = stored.ref.key.partition(" ")
                self._answered((device, int(number)), msgspec.json.decode(stored.answer, type=Result))

    def told(self, device: str, result: Result) -> None:
        """A person is told what came of a mutation."""
        name = device, result.number
        if name not in self.answers:
            raise Violation(f"mutation {name} was answered, but never decided")
        if result.status != "known" and result != self.answers[name]:
            raise Violation(f"mutation {name} was answered {result}, and before {self.answers[name]}")

    def wrote(self, events: list[Event], given: dict[DocumentId, set[Atom]]) -> None:
        """A plain write was acknowledged; `given` is what it puts into each document."""
        for event in events:
            if self.events[event.seq - 1] != event:
                raise Violation(f"event {event.seq} was acknowledged, and is not in the log")
            self.plain[event.seq] = (event.collection, event.key), given[event.collection, event.key]

    def _file(self, event: Event) -> None:
        value = json.loads(event.value or b"")
        lost = value["lost"]
        name = value["device"], value["mutation"]
        document = value["collection"], value["key"]
        filed = Lost(event.seq, lost.get("version"), lost.get("value"), lost.get("edits"))
        self.inbox[name, document].append(filed)

    def _answered(self, name: Name, result: Result) -> None:
        if name in self.answers:
            raise Violation(f"mutation {name} was decided twice")
        if name not in self.intents:
            raise Violation(f"mutation {name} was answered, but never made")
        if result.number != name[1]:
            raise Violation(f"mutation {name} has the answer of {result.number}")
        self.answers[name] = result
