"""Import: JSON Lines of documents or of whole logs, streamed to a server, resumable, nothing applied twice.

The file is cut into chunks: consecutive lines of one user. Each chunk is one request, chunks of one user keep their
order, and several users' are under way at once. What makes a repeated import safe after a kill:

- a state file says up to which byte everything is in, and a hash of the file up to there, so that a file that has
  changed before that point is told apart from one whose later lines were mended;
- chunks after that point may have been applied already. Cutting the file is deterministic, and a chunk's
  idempotency key is made of the import's own id (from the state file), the chunk's lines and its content, so the
  server gives the first answer again. Events of a log need no key: the server skips those it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any, BinaryIO, NamedTuple

import msgspec

from roost.client import (
    Client,
    Conflict,
    Event,
    InvalidRequest,
    PreconditionRequired,
    RoostError,
    TooLarge,
    Unprocessable,
    VersionConflict,
)
from roost.core import ids, jsonvalue
from roost.core.errors import RoostError as CoreError
from roost.core.limits import Limits

LINE_BYTES_MAX = 4 << 20
CHUNK_BYTES = 400 << 10
CHUNK_DOCUMENTS = 500
CHUNK_EVENTS = 1_000
CHUNKS_AHEAD = 2
"""Chunks read for each worker before its last one is answered."""

# Refusals of what a line says, not of who sends it or when.
_BAD_LINE = (InvalidRequest, Conflict, VersionConflict, TooLarge, Unprocessable, PreconditionRequired)
# A line holds the value one level deeper than a body does.
_LINE_LIMITS = Limits(depth_max=Limits().depth_max + 1)


class BadLine(Exception):
    """A line that cannot be imported."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")
        self.line = line


class Changed(Exception):
    """The file is no longer what the state file says was imported from it."""


class ImportState(msgspec.Struct, frozen=True):
    """How far an import got: everything in the first `size` bytes, `lines` lines, whose hash is `digest`."""

    id: str
    logs: bool
    size: int = 0
    lines: int = 0
    digest: str = ""


class Tally(msgspec.Struct):
    """What an import did so far."""

    items: int = 0
    skipped: int = 0
    users: set[str] = msgspec.field(default_factory=set)


class Line(NamedTuple):
    """One item of the file: `what` is a document's fields, or an event."""

    number: int
    user: str
    what: Any
    size: int


class Chunk(NamedTuple):
    """Consecutive lines of one user; `end` is the state once it and all before it are in."""

    index: int
    lines: list[Line]
    end: ImportState


class Document(msgspec.Struct, frozen=True):
    """A line of documents. `version` is the exporting server's own and means nothing here."""

    user: str
    collection: str
    key: str
    value: Any
    version: int | None = None


class UserEvent(Event, frozen=True, kw_only=True):
    """A line of a log."""

    user: str


class Reader:
    """Reads a file into chunks, from where `state` says."""

    def __init__(self, stream: BinaryIO, state: ImportState, bad: Callable[[BadLine], None]) -> None:
        self._stream = stream
        self._state = state
        self._bad = bad
        self._hash = blake2b(digest_size=16)

    def chunks(self) -> Iterator[Chunk]:
        """Chunks in the order of the file. Raises `Changed`, and what `bad` raises for lines that are wrong."""
        self._skip()
        most = CHUNK_EVENTS if self._state.logs else CHUNK_DOCUMENTS
        index, size, gathered, end = 0, 0, list[Line](), self._state
        for line, after in self._lines():
            if gathered and (
                line.user != gathered[0].user or len(gathered) == most or size + line.size > CHUNK_BYTES
            ):
                yield Chunk(index, gathered, end)
                index, size, gathered = index + 1, 0, []
            gathered.append(line)
            size += line.size
            end = after
        if gathered:
            yield Chunk(index, gathered, end)

    def _skip(self) -> None:
        """Read past what is in already, and see that it is what it was."""
        left = self._state.size
        while left and (block := self._stream.read(min(left, 1 << 20))):
            self._hash.update(block)
            left -= len(block)
        if left or (self._state.size and self._hash.hexdigest() != self._state.digest):
            raise Changed

    def _lines(self) -> Iterator[tuple[Line, ImportState]]:
        """Each good line, with the state after it."""
        number, size = self._state.lines, self._state.size
        while raw := self._stream.readline(LINE_BYTES_MAX + 1):
            number += 1
            size += len(raw)
            self._hash.update(raw)
            try:
                line = self._parse(number, raw)
            except BadLine as error:
                self._bad(error)
                continue
            if line is not None:
                after = msgspec.structs.replace(
                    self._state, size=size, lines=number, digest=self._hash.hexdigest()
                )
                yield line, after

    def _parse(self, number: int, raw: bytes) -> Line | None:
        if len(raw) > LINE_BYTES_MAX:
            # Not skippable: the next read would start in its middle.
            raise Changed
        if not raw.strip():
            return None
        try:
            fields = jsonvalue.decode(raw, _LINE_LIMITS)
            what: Document | UserEvent = msgspec.convert(fields, UserEvent if self._state.logs else Document)
            ids.check_user(what.user)
            ids.check_collection(what.collection)
            ids.check_key(what.key)
        except CoreError as error:
            raise BadLine(number, error.detail) from error
        except msgspec.ValidationError as error:
            raise BadLine(number, f"{error}.") from error
        return Line(number, what.user, what, len(raw))
