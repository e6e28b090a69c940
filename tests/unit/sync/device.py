"""A replica with a store beside it, driven by the steps of `tests/vectors/replica.json`.

The store holds what outcomes said to persist and nothing else, so a restart from it shows what they forgot.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from roost.core.edits import Edit
from roost.core.errors import RoostError
from roost.core.events import Document, DocumentId
from roost.sync.draft import Draft
from roost.sync.frames import Events, Pushed, Refused, Welcome, event_of, mutation_frame, server_frame
from roost.sync.replica import Outcome, Pending, Replica, Saved


class Store:
    """What is persisted."""

    def __init__(self, saved: Saved) -> None:
        self.saved = saved
        self.documents: dict[DocumentId, Document] = {}
        self.queue: dict[int, Pending] = {}

    def keep(self, replica: Replica, outcome: Outcome) -> None:
        self.saved = replica.saved
        for name in outcome.documents:
            if name in replica.documents:
                self.documents[name] = replica.documents[name]
            else:
                self.documents.pop(name, None)
        for number in outcome.pending:
            if number in replica.queue:
                self.queue[number] = replica.queue[number]
            else:
                self.queue.pop(number, None)

    def load(self, collections: list[str] | None = None) -> Replica:
        queue = [self.queue[number] for number in sorted(self.queue)]
        return Replica(self.saved, self.documents.values(), queue, collections=collections)


class Device:
    """One device. `do` carries out a step, and says what can be seen afterwards."""

    def __init__(self, device: str, collections: list[str] | None = None) -> None:
        self.collections = collections
        self.store = Store(Saved(device))
        self.replica = self.store.load(collections)

    def do(self, step: dict[str, Any]) -> dict[str, Any]:
        outcome, seen = Outcome(), {}
        if step["do"] == "restart":
            self.replica = self.store.load(self.collections)
        else:
            try:
                outcome = self.take(step)
            except RoostError as refusal:
                seen["error"] = refusal.code.value
        self.store.keep(self.replica, outcome)
        if outcome.then:
            seen["then"] = outcome.then
        if outcome.results:
            seen["results"] = msgspec.json.decode(msgspec.json.encode(outcome.results))
        return seen | self.look()

    def take(self, step: dict[str, Any]) -> Outcome:
        if step["do"] == "receive":
            return self.receive(msgspec.json.encode(step["frame"]))
        if step["do"] == "snapshot":
            documents = [document_of(each) for each in step["documents"]]
            return self.replica.replace(documents, step["seq"])
        if step["do"] == "rename":
            return self.replica.rename(step["device"])
        draft = self.replica.draft()
        for op in step["ops"] if step["do"] == "transaction" else [step]:
            perform(draft, op)
        return self.replica.commit(draft, step["now"])

    def receive(self, text: bytes) -> Outcome:
        frame = server_frame(text)
        if isinstance(frame, Welcome):
            return self.replica.welcome(frame.seq, frame.number)
        if isinstance(frame, Events):
            after = None if frame.after is UNSET else frame.after
            return self.replica.advance([event_of(event) for event in frame.events], frame.seq, after)
        if isinstance(frame, Pushed):
            return self.replica.answered(frame.results)
        assert isinstance(frame, Refused)
        return self.replica.refused(frame.code, frame.expected)

    def look(self) -> dict[str, Any]:
        replica = self.replica
        views = [view for name in replica.names() if (view := replica.view(name))]
        seen: dict[str, Any] = {"view": by_collection({(v.collection, v.key): v.value for v in views})}
        beside = {(v.collection, v.key): list(v.siblings) for v in views if v.siblings}
        if beside:
            seen["siblings"] = by_collection(beside)
        return seen | {
            "push": [msgspec.json.decode(msgspec.json.encode(mutation_frame(each))) for each in replica.to_push()],
            "pending": list(replica.queue),
            "cursor": replica.saved.cursor,
            "clock": replica.saved.clock,
        }


def perform(draft: Draft, op: dict[str, Any]) -> None:
    name = op["collection"], op["key"]
    if op["do"] == "put":
        draft.put(*name, op["value"])
    elif op["do"] == "edit":
        draft.edit(*name, msgspec.convert(op["edits"], list[Edit]))
    elif op["do"] == "merge":
        draft.merge(*name, op["patch"])
    else:
        assert op["do"] == "delete"
        draft.delete(*name)


def document_of(given: dict[str, Any]) -> Document:
    """A document as a page tells it."""
    others = [each for each in given.get("siblings", ()) if each["version"] != given["version"]]
    beside = msgspec.json.encode(others) if others else None
    value = msgspec.json.encode(given["value"])
    at = msgspec.convert(given["updated_at"], datetime)
    return Document(given["collection"], given["key"], given["version"], value, at, beside)


def by_collection(values: dict[DocumentId, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for (collection, key), value in values.items():
        found.setdefault(collection, {})[key] = value
    return found
