"""What a replica asks over HTTP: a first snapshot, and all the rest where a WebSocket cannot be had.

The same calls as `roost.client.protocol` makes, with values left as the bytes they are, because a replica
keeps them and does not look at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Raw

from roost.client.asking import decoded
from roost.client.errors import MutationGap, NotFound, RoostError
from roost.client.exchange import Answer, Ask, Call, Session, exchange
from roost.core.commands import Mutation
from roost.core.events import Document
from roost.core.siblings import Sibling
from roost.sync.frames import PushAnswer, PushBody, Pushed, Refused, WireEvent, encode, mutation_frame

PAGE_ITEMS = 500
_JSON = {"content-type": "application/json"}


class Head(msgspec.Struct, frozen=True):
    """Where the log stands, and which collections have documents."""

    seq: int
    collections: dict[str, int] = {}


class Stretch(NamedTuple):
    """Events up to `seq`, and where the log stood when they were read."""

    events: tuple[WireEvent, ...]
    seq: int
    end: int


class Calls:
    """Calls on one user's log."""

    def __init__(self, session: Session, user: str) -> None:
        self._session = session
        self.base = f"/v1/users/{quote(user, safe='')}"

    def head(self) -> Call[Head]:
        """Where the log stands; at 0 where there is no such user."""
        try:
            return decoded((yield from self._get(self.base)), Head)
        except NotFound:
            return Head(0)

    def page(self, collection: str, after: str | None) -> Call[tuple[list[Document], str | None]]:
        """A page of a collection as it is now, and the cursor of the next."""
        query = {"limit": str(PAGE_ITEMS)} | ({} if after is None else {"after": after})
        answer = yield from self._get(f"{self.base}/docs/{collection}?{urlencode(query)}")
        page = decoded(answer, _Page)
        return [item.document(collection) for item in page.items], page.next

    def events(self, after: int, wait_s: float, collections: Sequence[str] | None) -> Call[Stretch]:
        """The log after a cursor; an empty answer is held for `wait_s`."""
        query = {"after": str(after)}
        if wait_s:
            query["wait"] = f"{wait_s:g}"
        if collections is not None:
            query["collections"] = ",".join(collections)
        answer = yield from self._get(f"{self.base}/events?{urlencode(query)}", wait_s)
        log = decoded(answer, _Log)
        end = answer.headers.get("roost-seq", "")
        return Stretch(log.events, log.seq, int(end) if end.isdecimal() else log.seq)

    def push(self, device: str, mutations: Sequence[Mutation]) -> Call[Pushed | Refused]:
        """Push mutations. What only this device can help is an answer too; other refusals raise."""
        body = encode(PushBody(device, tuple(map(mutation_frame, mutations))))
        try:
            answer = yield from exchange(self._session, Ask("POST", f"{self.base}/push", _JSON, body))
        except MutationGap as gap:
            return Refused(gap.code, gap.detail, expected=gap.expected)
        except RoostError as error:
            if error.code in ("cursor_ahead", "idempotency_key_reused"):
                return Refused(error.code, error.detail)
            raise
        return Pushed(decoded(answer, PushAnswer).results)

    def _get(self, target: str, wait_s: float = 0.0) -> Call[Answer]:
        return exchange(self._session, Ask("GET", target, wait_s=wait_s))


class _Item(msgspec.Struct):
    key: str
    version: int
    value: Raw
    updated_at: datetime
    siblings: tuple[Sibling, ...] = ()

    def document(self, collection: str) -> Document:
        others = [each for each in self.siblings if each.version != self.version]
        beside = msgspec.json.encode(others) if others else None
        return Document(collection, self.key, self.version, bytes(self.value), self.updated_at, beside)


class _Page(msgspec.Struct):
    items: tuple[_Item, ...]
    next: str | None


class _Log(msgspec.Struct):
    events: tuple[WireEvent, ...]
    seq: int
