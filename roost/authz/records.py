"""How Roost reads and writes what it keeps for logging in: documents like all others, in collections of its own.

What is here does not come through the gate, because it is done for nobody: before somebody has proved who they are, or
for what a caller may do by another rule than that for documents. Each of its users says which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

import msgspec

from roost.authz.notes import Note
from roost.commands.writer import Writer
from roost.core.commands import Accepted, Change, Op
from roost.core.errors import Code, RoostError
from roost.core.moment import NOW
from roost.core.ports import DocumentRef
from roost.queries.reader import Reader
from roost.settings import Settings

T = TypeVar("T")
PAGE = 500
GONE = frozenset({Code.NOT_FOUND, Code.USER_ERASED})
"""How a read says that there is no such user."""


class Means(NamedTuple):
    """What all of them work with."""

    reader: Reader
    writer: Writer
    settings: Settings
    clock: Callable[[], datetime]
    note: Note

    @property
    def now(self) -> float:
        """The time, in seconds since 1970."""
        return self.clock().timestamp()


class Record(NamedTuple, Generic[T]):
    """A document as it stands: its key, what it holds, and its version."""

    key: str
    value: T
    version: int


class Records(Generic[T]):
    """The documents of one collection, each of one type; `collection` is one of Roost's own."""

    def __init__(self, reader: Reader, collection: str, shape: type[T]) -> None:
        self._reader = reader
        self._collection = collection
        self._decode = msgspec.json.Decoder(shape).decode

    async def find(self, user: str, key: str) -> Record[T] | None:
        """The document as it is now; None where there is none, and for a user who is none."""
        try:
            document = (await self._reader.document(DocumentRef(user, self._collection, key), NOW)).document
        except RoostError as refusal:
            if refusal.code in GONE:
                return None
            raise
        if document is None or document.value is None:
            return None
        return Record(key, self._decode(document.value), document.version)

    async def was(self, user: str, key: str) -> bool:
        """Whether there is such a document, or there was one that was deleted."""
        try:
            return (await self._reader.document(DocumentRef(user, self._collection, key), NOW)).document is not None
        except RoostError as refusal:
            if refusal.code in GONE:
                return False
            raise

    async def all(self, user: str) -> list[Record[T]]:
        """All of a user's documents, by key; none for a user who is none. Raises `USER_ERASED`."""
        found: list[Record[T]] = []
        after = None
        while True:
            try:
                page = await self._reader.page(user, self._collection, "", after, PAGE, NOW)
            except RoostError as refusal:
                if refusal.code is Code.NOT_FOUND:
                    return found
                raise
            found += [Record(each.key, self._decode(each.value or b"null"), each.version) for each in page.documents]
            if not page.more:
                return found
            after = page.documents[-1].key


async def write(writer: Writer, user: str, ops: Sequence[Op], actor: str, *, begins: bool = False) -> Accepted:
    """Carry out ops on a user's documents, all or none. Raises what `Writer.run` raises."""
    return await writer.run(Change(user, tuple(ops), actor, begins=begins))


def put(collection: str, key: str, value: object) -> Op:
    """An op that writes a record; `msgspec.structs.replace` gives it a condition."""
    return Op("put", collection, key, msgspec.json.encode(value))
