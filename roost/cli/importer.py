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
import math
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any, BinaryIO, NamedTuple

import msgspec

from roost.client import (
    Client,
    Conflict,
    Event,
    InvalidRequest,
    NotFound,
    PreconditionRequired,
    RoostError,
    TooLarge,
    Unprocessable,
    VersionConflict,
)
from roost.core import ids, jsonvalue
from roost.core.definitions import Definition
from roost.core.errors import Code
from roost.core.errors import RoostError as CoreError
from roost.core.limits import Limits

LINE_BYTES_MAX = 4 << 20
CHUNK_BYTES = 400 << 10
CHUNK_DOCUMENTS = 500
CHUNK_EVENTS = 1_000
CHUNKS_AHEAD = 2
"""Chunks read for each worker before its last one is answered."""

_HOLE = " An export lacks events that are not shown, such as how users log in: take one without --logs."

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
    """The part of the file that was imported already is no longer what it was."""


class ImportState(msgspec.Struct, frozen=True):
    """How far an import into the server at `url` got: the first `size` bytes, `lines` lines, of hash `digest`."""

    id: str
    url: str
    logs: bool
    size: int = 0
    lines: int = 0
    digest: str = ""


class Line(NamedTuple):
    """One item of the file, and its bytes; `end` is the state once it and all before it are in.

    The `user` of a definition is empty.
    """

    number: int
    user: str
    what: Document | Event | DefinitionLine
    size: int
    end: ImportState


class Chunk(NamedTuple):
    """Consecutive lines of one user."""

    number: int
    lines: list[Line]


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a line says, in a file of documents. `version` is the exporting server's own and means nothing here."""

    user: str
    collection: str
    key: str
    value: Any
    version: int | None = None


class DefinitionLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a line says that defines a collection, in a file of either kind."""

    collection: str
    definition: Definition


class _UserEvent(Event, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a line says, in a file of logs."""

    user: str


class Reader:
    """Reads a file into chunks, from where `state` says."""

    def __init__(self, stream: BinaryIO, state: ImportState, bad: Callable[[BadLine], None]) -> None:
        self._stream = stream
        self._state = state
        self._bad = bad
        self._hash = blake2b(digest_size=16)

    def chunks(self) -> Iterator[Chunk]:
        """Chunks in the order of the file. Raises `Changed`, and what `bad` raises, once all lines before are given."""
        self._skip()
        most = CHUNK_EVENTS if self._state.logs else CHUNK_DOCUMENTS
        number, size, gathered = 0, 0, list[Line]()
        stopped = None
        try:
            for line in self._lines():
                full = len(gathered) == most or size + line.size > CHUNK_BYTES
                if gathered and (full or line.user != gathered[0].user):
                    yield Chunk(number, gathered)
                    number, size, gathered = number + 1, 0, []
                gathered.append(line)
                size += line.size
        except BadLine as error:
            stopped = error
        if gathered:
            yield Chunk(number, gathered)
        if stopped:
            raise stopped

    def _skip(self) -> None:
        """Read past what is in already, and see that it is what it was."""
        left = self._state.size
        while left and (block := self._stream.read(min(left, 1 << 20))):
            self._hash.update(block)
            left -= len(block)
        if left or (self._state.size and self._hash.hexdigest() != self._state.digest):
            raise Changed

    def _lines(self) -> Iterator[Line]:
        """Each good line."""
        number, size = self._state.lines, self._state.size
        while raw := self._stream.readline(LINE_BYTES_MAX + 1):
            number += 1
            size += len(raw)
            self._hash.update(raw)
            rest = raw
            while len(raw) > LINE_BYTES_MAX and rest and not rest.endswith(b"\n"):
                rest = self._stream.readline(LINE_BYTES_MAX)
                size += len(rest)
                self._hash.update(rest)
            try:
                what = self._parse(number, raw)
            except BadLine as error:
                self._bad(error)
                continue
            if what is not None:
                user, item = what
                end = msgspec.structs.replace(self._state, size=size, lines=number, digest=self._hash.hexdigest())
                yield Line(number, user, item, len(raw), end)

    def _parse(self, number: int, raw: bytes) -> tuple[str, Document | Event | DefinitionLine] | None:
        if len(raw) > LINE_BYTES_MAX:
            raise BadLine(number, f"It is longer than {LINE_BYTES_MAX:,} bytes.")
        if not raw.strip():
            return None
        try:
            fields = jsonvalue.decode(raw, _LINE_LIMITS)
            if isinstance(fields, dict) and "definition" in fields:
                line = msgspec.convert(fields, DefinitionLine)
                ids.check_collection(line.collection)
                return "", line
            kind: type[Document | _UserEvent] = _UserEvent if self._state.logs else Document
            given = msgspec.convert(fields, kind)
            ids.check_user(given.user)
            ids.check_collection(given.collection)
            ids.check_key(given.key)
        except CoreError as error:
            raise BadLine(number, error.detail) from error
        except msgspec.ValidationError as error:
            hint = "" if self._state.logs or b'"seq"' not in raw else " For a file of logs, add --logs."
            raise BadLine(number, f"{error}.{hint}") from error
        return given.user, given if isinstance(given, Document) else msgspec.convert(fields, Event)


class Import:
    """Sends the chunks of a reader. `report` hears of each line that is left out, `saved` of progress.

    With `skip`, lines that are refused are left out; else the first one ends the import, with all before it in.
    """

    def __init__(
        self,
        client: Client,
        state: ImportState,
        *,
        skip: bool,
        report: Callable[[BadLine], None],
        saved: Callable[[ImportState], None],
    ) -> None:
        self.state = state
        self.items = 0
        self.skipped = 0
        self._client = client
        self._skip = skip
        self._report = report
        self._saved = saved
        # Chunks are sent up to the first that failed, and the state never moves past it.
        self._failure: Exception | None = None
        self._failed_at = math.inf
        self._done: dict[int, ImportState] = {}
        self._next = 0
        self._refused_users: set[str] = set()

    def bad(self, error: BadLine) -> None:
        """Leave a line out, or end the import."""
        if not self._skip:
            raise error
        self.skipped += 1
        self._report(error)

    async def run(self, reader: Reader, *, concurrency: int) -> None:
        """Send everything. Raises `BadLine`, `Changed`, or the `RoostError` that no line is to blame for."""
        queues = [asyncio.Queue[Chunk | None](CHUNKS_AHEAD) for _ in range(concurrency)]
        async with asyncio.TaskGroup() as group:
            for queue in queues:
                group.create_task(self._work(queue))
            try:
                for chunk in reader.chunks():
                    # A user's chunks all go through one worker, so the last line wins.
                    await queues[ids.lane_of(chunk.lines[0].user) % concurrency].put(chunk)
                    if self._failure:
                        break
            except (BadLine, Changed, OSError) as error:
                self._failure = self._failure or error  # what was read before it is still sent
            for queue in queues:
                await queue.put(None)
        if self._failure:
            raise self._failure

    async def _work(self, queue: asyncio.Queue[Chunk | None]) -> None:
        while (chunk := await queue.get()) is not None:
            if chunk.number > self._failed_at:
                continue  # read from the queue, so that nobody waits
            try:
                await self._send(chunk.lines)
                self._advance(chunk.number, chunk.lines[-1].end)
            except BadLine as error:
                before = [line.end for line in chunk.lines if line.number < error.line]
                self._fail(chunk.number, error)
                self._advance(chunk.number, *before[-1:])
            except RoostError as error:
                self._fail(chunk.number, error)

    def _fail(self, number: int, error: Exception) -> None:
        """Note why the import ends: of several failures, the first in the file."""
        if number < self._failed_at:
            self._failed_at, self._failure = number, error

    def _advance(self, number: int, end: ImportState | None = None) -> None:
        """Note up to where a chunk is in; the state moves once all before it are."""
        if end is not None:
            self._done[number] = end
        while self._next in self._done and self._next <= self._failed_at:
            self.state = self._done.pop(self._next)
            self._next += 1
        self._saved(self.state)

    async def _send(self, lines: list[Line]) -> None:
        if not lines[0].user:
            await self._define(lines)
        elif self.state.logs:
            await self._append(lines)
        else:
            await self._put(lines)

    async def _define(self, lines: list[Line]) -> None:
        """Define collections, as often as it takes: the last time counts."""
        for line in lines:
            if isinstance(line.what, DefinitionLine):
                try:
                    definition = line.what.definition
                    await self._client.define(line.what.collection, **msgspec.structs.asdict(definition))
                except _BAD_LINE as error:
                    self.bad(BadLine(line.number, f"{error.detail} ({error.code})"))

    async def _put(self, lines: list[Line]) -> None:
        """Write documents: one batch, again without each line that is refused."""
        while lines:
            batch = self._client.user(lines[0].user).batch(idempotency_key=self._key(lines))
            for line in lines:
                if not isinstance(line.what, DefinitionLine):
                    batch.put(line.what.collection, line.what.key, line.what.value)
            try:
                await batch.commit()
            except _BAD_LINE as error:
                refused = _index(error, "ops") if len(lines) > 1 else 0
                if refused is None:  # the batch as a whole, say for its size
                    await self._put(lines[: len(lines) // 2])
                    lines = lines[len(lines) // 2 :]
                    continue
                if not self._skip:
                    await self._put(lines[:refused])
                self.bad(BadLine(lines[refused].number, f"{error.detail} ({error.code})"))
                lines = lines[:refused] + lines[refused + 1 :]
            else:
                self.items += len(lines)
                return

    async def _append(self, lines: list[Line]) -> None:
        """Append events. After one that is refused the rest of that user's log cannot follow."""
        user = lines[0].user
        if user in self._refused_users:
            self.skipped += len(lines)
            return
        try:
            await self._client.user(user).append_events([line.what for line in lines if isinstance(line.what, Event)])
        except _BAD_LINE as error:
            refused = _index(error, "events")
            if refused is None and isinstance(error, TooLarge) and len(lines) > 1:
                await self._append(lines[: len(lines) // 2])
                await self._append(lines[len(lines) // 2 :])
                return
            refused = refused or 0
            if refused:
                await self._append(lines[:refused])
            hint = _HOLE if await self._follows_hole(error, lines[refused]) else ""
            self.bad(
                BadLine(lines[refused].number, f"{error.detail} ({error.code}){hint} The log of {user} ends here.")
            )
            self.skipped += len(lines) - refused - 1
            self._refused_users.add(user)
        else:
            self.items += len(lines)

    async def _follows_hole(self, error: RoostError, line: Line) -> bool:
        """Whether an event was refused because the file lacks what comes before it."""
        if error.code != Code.LOG_CONFLICT.value or not isinstance(line.what, Event):
            return False
        try:
            seq = (await self._client.user(line.user).get()).seq
        except NotFound:
            seq = 0
        return line.what.seq > seq + 1

    def _key(self, lines: list[Line]) -> str:
        content = blake2b(msgspec.json.encode([line.what for line in lines]), digest_size=8).hexdigest()
        return f"import-{self.state.id}-{lines[0].number}-{lines[-1].number}-{content}"


def _index(error: RoostError, member: str) -> int | None:
    """Which item of `/ops/3` or `/events/3/value` is to blame, if the refusal says so."""
    steps = (error.errors[0].pointer or "").split("/") if error.errors else []
    return int(steps[2]) if len(steps) > 2 and steps[1] == member and steps[2].isdecimal() else None  # noqa: PLR2004
