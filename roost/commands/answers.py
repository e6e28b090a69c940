"""The answers that idempotent requests were given, as they are stored and given again.

An answer holds no value: it names the seqs of the events that it showed, and those are read from the log
again. So there is one copy of a user's values to seal and to erase.
"""

from __future__ import annotations

import msgspec

from roost.core.commands import Accepted, Written
from roost.core.errors import Code, RoostError
from roost.core.events import Document, Event
from roost.core.ports import EventRef


class _Written(msgspec.Struct, array_like=True):
    seq: int
    created: bool


class Answer(msgspec.Struct, omit_defaults=True):
    """An acceptance (`seq`, `written`, `created`) or a refusal (`code`, `detail`, `pointer`, `current`)."""

    seq: int = 0
    written: list[_Written] = []
    created: bool = False
    code: Code | None = None
    detail: str = ""
    pointer: str | None = None
    current: int | None = None

    def events(self, user: str) -> list[EventRef]:
        """The events that are needed to give this answer again."""
        seqs = [written.seq for written in self.written]
        if self.current is not None:
            seqs.append(self.current)
        return [EventRef(user, seq) for seq in seqs]

    def replay(self, user: str, events: dict[EventRef, Event]) -> Accepted | RoostError:
        """Give it again."""
        if self.code is None:
            written = [Written(events[EventRef(user, w.seq)], w.created) for w in self.written]
            return Accepted(self.seq, tuple(written), created=self.created, replayed=True)
        current = None
        if self.current is not None:
            event = events[EventRef(user, self.current)]
            current = Document(event.collection, event.key, event.seq, event.value, event.at)
        refusal = RoostError(self.code, self.detail, pointer=self.pointer, current=current)
        refusal.replayed = True
        return refusal


_decoder = msgspec.json.Decoder(Answer)


def encode(outcome: Accepted | RoostError) -> bytes:
    """The stored form of what a command was answered."""
    if isinstance(outcome, Accepted):
        written = [_Written(w.event.seq, w.created) for w in outcome.written]
        return msgspec.json.encode(Answer(outcome.seq, written, outcome.created))
    current = None if outcome.current is None else outcome.current.version
    return msgspec.json.encode(
        Answer(code=outcome.code, detail=outcome.detail, pointer=outcome.pointer, current=current)
    )


def decode(stored: bytes) -> Answer:
    """The reverse of `encode`."""
    return _decoder.decode(stored)


def reused() -> RoostError:
    """The refusal of a key that named another request."""
    detail = "This Idempotency-Key was used for another request: make a new one for each request."
    return RoostError(Code.IDEMPOTENCY_KEY_REUSED, detail)
