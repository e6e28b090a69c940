"""Export: every user's documents or log, as JSON Lines, in bounded memory, resumable.

The collections that are defined come first, a line each. Users are fetched several at once, but written one after the
other; a fetch that runs ahead waits with at most two pages in hand. After each page of users the file is on disk and a
small state file beside it says where the next page starts, so a repeated command cuts off what was written after that
and goes on from there.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, BinaryIO, Self

import msgspec

from roost.client import Client, Event, TooLarge, User, UserErased, UserInfo

USERS_A_PAGE = 100
PIECES_AHEAD = 2


class ExportState(msgspec.Struct, frozen=True):
    """How far an export got: `after` is the cursor of the next page of users, `size` the file's bytes before it.

    `holed` are the users whose logs have events that are not shown.
    """

    logs: bool
    after: str | None = None
    size: int = 0
    users: int = 0
    lines: int = 0
    holed: int = 0

    @classmethod
    def load(cls, path: Path) -> Self:
        """The state that an export left behind. Raises `FileNotFoundError`, `msgspec.DecodeError`."""
        return msgspec.json.decode(path.read_bytes(), type=cls)


class Piece(msgspec.Struct, frozen=True):
    """Some lines of one user. `holed` is told once, with the last, of a log that lacks events."""

    text: bytes
    lines: int
    holed: bool = False


async def export_users(
    client: Client, out: BinaryIO, state: ExportState, *, concurrency: int, saved: Callable[[ExportState], None]
) -> ExportState:
    """Write all users after `state` to `out`. `saved` is called after each page of users, once it is on disk."""
    fetch = _log if state.logs else _documents
    if not state.size and not state.users:
        async for collection in client.collections():
            line = {"collection": collection.name, "definition": collection.definition}
            out.write(msgspec.json.encode(line) + b"\n")
    while True:
        page = await client.users_page(state.after, limit=USERS_A_PAGE)
        lines = holed = 0
        async for piece in _in_order(client, page.items, fetch, concurrency):
            out.write(piece.text)
            lines += piece.lines
            holed += piece.holed
        out.flush()
        state = msgspec.structs.replace(
            state,
            after=page.next,
            size=out.tell() if out.seekable() else 0,
            users=state.users + len(page.items),
            lines=state.lines + lines,
            holed=state.holed + holed,
        )
        if page.next is None:
            return state
        if out.seekable():
            os.fsync(out.fileno())
        saved(state)


async def export_user(client: Client, out: BinaryIO, user: str, *, logs: bool) -> ExportState:
    """Write one user."""
    info = await client.user(user).get()
    lines = holed = 0
    async for piece in (_log if logs else _documents)(client.user(user), info):
        out.write(piece.text)
        lines += piece.lines
        holed += piece.holed
    return ExportState(logs, users=1, lines=lines, holed=holed)


Fetch = Callable[[User, UserInfo], AsyncIterator[Piece]]


async def _in_order(
    client: Client, users: tuple[UserInfo, ...], fetch: Fetch, concurrency: int
) -> AsyncIterator[Piece]:
    """The pieces of each user, in the order of `users`, while the next users are on their way."""
    waiting = iter(users)
    running: deque[tuple[asyncio.Queue[Piece | None], asyncio.Task[None]]] = deque()

    def start() -> None:
        for info in waiting:
            queue: asyncio.Queue[Piece | None] = asyncio.Queue(PIECES_AHEAD)
            running.append((queue, asyncio.create_task(_fill(queue, fetch(client.user(info.user), info)))))
            return

    for _ in range(concurrency):
        start()
    try:
        while running:
            queue, task = running[0]
            while (piece := await queue.get()) is not None:
                yield piece
            await task
            running.popleft()
            start()
    finally:
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)


async def _fill(queue: asyncio.Queue[Piece | None], pieces: AsyncIterator[Piece]) -> None:
    """Hand on all pieces, then None; also after a failure, but not when cancelled: nobody reads any more then."""
    try:
        async for piece in pieces:
            await queue.put(piece)
    except UserErased:
        pass  # since the page of users was read
    except Exception:
        await queue.put(None)
        raise
    await queue.put(None)


async def _documents(user: User, info: UserInfo) -> AsyncIterator[Piece]:
    """One consistent snapshot; of a user that is too large for one, collection by collection."""
    try:
        snapshot = await user.snapshot()
    except TooLarge:
        for collection in info.collections:
            after = None
            while True:
                page = await user.docs(collection).page(after=after)
                yield _piece(_document(info.user, collection, it.key, it.value, it.version) for it in page.items)
                if (after := page.next) is None:
                    break
        return
    yield _piece(
        _document(info.user, collection, key, it.value, it.version)
        for collection, documents in snapshot.docs.items()
        for key, it in documents.items()
    )


async def _log(user: User, info: UserInfo) -> AsyncIterator[Piece]:
    """The log from its start to where it stood when the user was listed, or a little further."""
    after = count = 0
    while after < info.seq:
        log = await user.events(after, limit=1_000)
        piece = _piece(_event(info.user, event) for event in log.events)
        after, count = log.seq, count + piece.lines
        # Events are numbered without holes, so fewer of them means that some are not shown.
        yield msgspec.structs.replace(piece, holed=after >= info.seq and count < after)


def _document(user: str, collection: str, key: str, value: Any, version: int) -> dict[str, Any]:
    return {"user": user, "collection": collection, "key": key, "value": value, "version": version}


def _event(user: str, event: Event) -> dict[str, Any]:
    return {"user": user, **msgspec.to_builtins(event)}


def _piece(items: Any) -> Piece:
    encoded = [msgspec.json.encode(item) for item in items]
    return Piece(b"".join(line + b"\n" for line in encoded), len(encoded))
