"""What is on record: who did or tried what, to whose state; and the chain that holds the records together.

Each record carries a keyed hash (HMAC-SHA256) of itself and of the hash of the record before it, so none can be
changed, taken away, put in or moved by somebody who has the database and not the key. Two things the chain alone
cannot tell: that its end was cut off, which a sealed head kept elsewhere shows; and what stood before a checkpoint,
which is sealed itself, because old records are deleted in time. The port that engines implement stands here too.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Literal, NamedTuple, Protocol

import msgspec

from roost.core.events import microseconds

AUDIT = "$audit"
"""What the trail is called where users are named: whom its key belongs to, and whose growth is followed."""
Outcome = Literal["allowed", "denied", "failed"]
MAC_BYTES = 32
NO_KEY = bytes(MAC_BYTES)
"""The key of the chain as long as nothing is sealed: no secret."""
HEAD_CHARS_MAX = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PREFIX = "roost-audit-1."


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A record that has no place in the chain yet.

    `actor` is as events name it; empty for somebody who has not proved who they are. `count` is how many alike this
    one record stands for, itself included; then `user`, `collection` and `key` are None where they differ.
    """

    at: datetime
    actor: str
    kind: str
    action: str
    outcome: Outcome = "allowed"
    address: str = ""
    request_id: str = ""
    purpose: str | None = None
    user: str | None = None
    collection: str | None = None
    key: str | None = None
    count: int = 1
    detail: str | None = None


class Record(Draft, frozen=True, kw_only=True):
    """A record at its place, 1, 2, 3, … without holes. `at` never goes back along the chain."""

    n: int
    mac: bytes


class Link(NamedTuple):
    """An end of the chain: the last record's number, its hash, and its time."""

    n: int
    mac: bytes
    at: datetime


BEGINNING = Link(0, bytes(MAC_BYTES), _EPOCH)


class Checkpoint(NamedTuple):
    """Where the chain begins: records up to `n`, whose hash was `mac`, were deleted for their age. See `seal_of`."""

    n: int
    mac: bytes
    seal: bytes


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which records are asked for; what is None does not narrow. `since` is included, `until` is not."""

    user: str | None = None
    actor: str | None = None
    action: str | None = None
    outcome: Outcome | None = None
    since: datetime | None = None
    until: datetime | None = None

    def has(self, record: Draft) -> bool:
        """Whether a record is one of those."""
        return (
            self.user in (None, record.user)
            and self.actor in (None, record.actor)
            and self.action in (None, record.action)
            and self.outcome in (None, record.outcome)
            and (self.since is None or record.at >= self.since)
            and (self.until is None or record.at < self.until)
        )


class Found(NamedTuple):
    """A piece of the trail: records in order, the number of the last that was looked at, and the chain's end."""

    records: list[Record]
    reached: int
    end: int


class Entry(Draft, frozen=True, kw_only=True):
    """A record of the trail, with its number there; or a write, with its seq in the user's log."""

    n: int | None = None
    seq: int | None = None


class Cursor(NamedTuple):
    """How far the trail was read, and the log of the one user that is asked for."""

    n: int = 0
    seq: int = 0


class Excerpt(NamedTuple):
    """Entries by time, where to go on, and whether that was the end. `end` is how far the trail had come."""

    entries: list[Entry]
    cursor: Cursor
    live: bool
    end: int


class AuditTransaction(Protocol):
    """One transaction on the chain; commits when its context is left without an exception."""

    async def lock(self) -> Link:
        """The chain's end, `BEGINNING` where there is none; nobody else appends or prunes until this commits."""

    async def mac(self, n: int) -> bytes | None:
        """The hash of a record."""

    async def append(self, records: list[Record]) -> None:
        """Write the records, which continue the end that `lock` gave."""

    async def last_before(self, at: datetime, most: int) -> Link | None:
        """The last record older than `at`, among the `most` oldest; None where the oldest is not."""

    async def prune(self, checkpoint: Checkpoint) -> int:
        """Delete the records up to a checkpoint, and keep that in their place; returns how many they were."""


class AuditStore(Protocol):
    """Where the trail rests: an engine's part of its own, with the errors of `roost.core.ports`."""

    def transaction(self) -> AbstractAsyncContextManager[AuditTransaction]:
        """Begin a transaction."""

    async def end(self) -> Link:
        """The chain's end; `BEGINNING` where there is none."""

    async def checkpoint(self) -> Checkpoint | None:
        """Where the chain begins, if not at 1."""

    async def page(self, selection: Selection, after: int, limit: int) -> Found:
        """Records after a number, at most `limit` of those selected, of one moment.

        It looks at a bounded number of records; where that is why it ended, `reached` is short of `end`.
        """


def chain(key: bytes, end: Link, drafts: list[Draft]) -> list[Record]:
    """The records that `drafts` become behind `end`."""
    records = []
    n, mac, at = end
    for draft in drafts:
        n, at = n + 1, max(at, draft.at)
        placed = msgspec.structs.replace(draft, at=at)
        mac = mac_of(key, mac, n, placed)
        records.append(Record(**{name: getattr(placed, name) for name in Draft.__struct_fields__}, n=n, mac=mac))
    return records


def mac_of(key: bytes, before: bytes, n: int, draft: Draft) -> bytes:
    """The hash of record `n` behind one whose hash is `before`.

    What is hashed is an array in JSON, which separates its members without a doubt.
    """
    content = (n, microseconds(draft.at), draft.actor, draft.kind, draft.action, draft.outcome, draft.address)
    more = (draft.request_id, draft.purpose, draft.user, draft.collection, draft.key, draft.count, draft.detail)
    return hmac.digest(key, b"record" + before + msgspec.json.encode((*content, *more)), "sha256")


def seal_of(key: bytes, n: int, mac: bytes) -> bytes:
    """What shows that a checkpoint was made by somebody with the key."""
    return hmac.digest(key, b"checkpoint" + mac + b"%d" % n, "sha256")


class _Head(msgspec.Struct, array_like=True):
    """What is in a sealed head: number, hash, and time in microseconds."""

    n: int
    mac: bytes
    at: int


def seal_head(key: bytes, end: Link) -> str:
    """A text, for keeping elsewhere, that shows how far the chain had come."""
    body = msgspec.json.encode(_Head(end.n, end.mac, microseconds(end.at)))
    return _PREFIX + urlsafe_b64encode(hmac.digest(key, b"head" + body, "sha256") + body).decode().rstrip("=")


def open_head(key: bytes, text: str) -> tuple[int, bytes] | None:
    """The number and hash in a sealed head; None for what was not made with this key."""
    if not text.startswith(_PREFIX) or len(text) > HEAD_CHARS_MAX:
        return None
    try:
        raw = urlsafe_b64decode(text.removeprefix(_PREFIX) + "=" * (-(len(text) - len(_PREFIX)) % 4))
    except (NotBase64, ValueError):
        return None
    seal, body = raw[:MAC_BYTES], raw[MAC_BYTES:]
    if not hmac.compare_digest(seal, hmac.digest(key, b"head" + body, "sha256")):
        return None
    head = msgspec.json.decode(body, type=_Head)
    return head.n, head.mac
