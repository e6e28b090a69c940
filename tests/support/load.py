"""Clients that write and read all the time, through whatever happens to the server, and take down what they saw.

Half of them send idempotency keys, and repeat a request until it is answered; the others send each request once,
so they do not learn what became of one that was lost. Everything is drawn from a seed; how requests meet is not.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from itertools import count
from typing import Any

from tests.support.history import Change, DocumentId, Read, Write, violations
from tests.support.http import Connection, Lost, NotSent, Reply, read_logs
from tests.support.server import Server

COLLECTION = "notes"
KEYS = [f"k{number}" for number in range(6)]
PAUSE_S = 0.05
"""Between two attempts of one request."""


class Recorder:
    """Sends requests and takes down what became of them."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.reads: list[Read] = []

    async def write(
        self, connection: Connection, user: str, changes: Sequence[Change], key: str | None = None, **headers: str
    ) -> Reply | None:
        """Write, all or none; with an idempotency `key` again and again until the outcome is known.

        Returns the last answer, None if there was none.
        """
        began = time.monotonic_ns()
        while True:
            reply, sent = None, True
            try:
                reply = await _attempt(connection, user, changes, headers | ({"idempotency_key": key} if key else {}))
            except NotSent:
                sent = False
            except Lost:
                pass
            if reply is not None and (reply.status != 503 or reply.code == "overloaded"):
                break
            if key is None:
                self.writes.append(Write(user, tuple(changes), "unknown" if sent else "refused", began))
                return reply
            await asyncio.sleep(PAUSE_S)
        ended = time.monotonic_ns()
        if reply.status in {200, 201, 204}:
            self.writes.append(Write(user, tuple(changes), "accepted", began, ended, reply.seq))
        else:
            self.writes.append(Write(user, tuple(changes), "refused", began, ended))
        return reply

    async def read(self, connection: Connection, user: str, key: str) -> Reply | None:
        """Read one document."""
        began = time.monotonic_ns()
        reply = await _answer(connection, f"/v1/users/{user}/docs/{COLLECTION}/{key}")
        if reply is None or reply.status == 503:
            return reply
        document: DocumentId = (COLLECTION, key)
        if reply.status == 200:
            shown: tuple[int | None, dict[DocumentId, Any]] = reply.seq, {document: (reply.version, reply.json)}
        else:
            assert reply.status == 404, reply
            shown = None, {document: None}
        self.reads.append(Read(user, began, time.monotonic_ns(), *shown))
        return reply

    async def read_all(self, connection: Connection, user: str) -> Reply | None:
        """Read all documents of a user."""
        began = time.monotonic_ns()
        reply = await _answer(connection, f"/v1/users/{user}/docs")
        if reply is None or reply.status == 503:
            return reply
        if reply.status == 200:
            shown: tuple[int | None, dict[DocumentId, Any]] = (
                reply.json["seq"],
                {
                    (collection, key): (document["version"], document["value"])
                    for collection, documents in reply.json["docs"].items()
                    for key, document in documents.items()
                },
            )
        else:
            assert reply.status == 404, reply
            shown = None, {}
        self.reads.append(Read(user, began, time.monotonic_ns(), *shown, whole=True))
        return reply


class Load:
    """`clients` clients on `users`; without `keyed`, none of them sends idempotency keys."""

    def __init__(
        self, server: Server, users: Sequence[str], seed: int, *, clients: int = 8, keyed: bool = True
    ) -> None:
        self._server = server
        self._users = users
        self._seed = seed
        self._clients = clients
        self._keyed = keyed
        self._token = server.service("load")
        self._recorder = Recorder()
        self._stopping = False
        self._accepted = 0
        self._progress = asyncio.Event()

    @property
    def writes(self) -> list[Write]:
        """What was asked, and what became of it."""
        return self._recorder.writes

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The clients work inside; when it is left, each finishes what it has begun."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._client(number))
            try:
                yield
            finally:
                self._stopping = True

    async def accepted(self, more: int) -> None:
        """Wait until `more` writes have been acknowledged from here on."""
        wanted = self._accepted + more
        while self._accepted < wanted:
            self._progress.clear()
            await self._progress.wait()

    async def check(self) -> dict[str, list[dict[str, Any]]]:
        """See that everything that was seen is as it should be; returns the logs."""
        async with Connection(self._server.port, self._token) as connection:
            logs = await read_logs(connection, self._users)
        found = violations(self._recorder.writes, self._recorder.reads, logs)
        assert not found, "\n".join(found[:20])
        return logs

    def summary(self) -> str:
        outcomes = [write.outcome for write in self._recorder.writes]
        counts = ", ".join(f"{outcomes.count(each)} {each}" for each in ("accepted", "unknown", "refused"))
        return f"{len(outcomes)} writes ({counts}), {len(self._recorder.reads)} reads"

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self._seed}-{number}")
        # Connected by its first request: the server may be away already.
        with closing(Connection(self._server.port, self._token)) as connection:
            for turn in count():
                if self._stopping:
                    return
                answered = await self._step(
                    connection, chance, f"{number}-{turn}", keyed=self._keyed and number % 2 == 0
                )
                if not answered:
                    await asyncio.sleep(PAUSE_S)

    async def _step(self, connection: Connection, chance: random.Random, name: str, *, keyed: bool) -> bool:
        """One request; returns whether it was answered, and not with 503."""
        user = chance.choice(self._users)
        kind = chance.random()
        if kind < 0.15:
            reply = await self._recorder.read(connection, user, chance.choice(KEYS))
        elif kind < 0.2:
            reply = await self._recorder.read_all(connection, user)
        else:
            keys = chance.sample(KEYS, 3 if kind < 0.4 else 1)
            changes = [Change(COLLECTION, key, f"{name}/{index}") for index, key in enumerate(keys)]
            reply = await self._recorder.write(connection, user, changes, key=name if keyed else None)
            if reply is not None and reply.status < 300:
                self._accepted += 1
                self._progress.set()
        return reply is not None and reply.status != 503


async def _attempt(connection: Connection, user: str, changes: Sequence[Change], headers: dict[str, str]) -> Reply:
    if len(changes) > 1:
        ops = [
            {"op": "delete", "collection": change.collection, "key": change.key}
            if change.value is None
            else {"op": "put", "collection": change.collection, "key": change.key, "value": change.value}
            for change in changes
        ]
        headers["content_type"] = "application/json"
        return _checked(await connection.ask("POST", f"/v1/users/{user}/batch", {"ops": ops}, **headers))
    path = f"/v1/users/{user}/docs/{changes[0].collection}/{changes[0].key}"
    if changes[0].value is None:
        return _checked(await connection.ask("DELETE", path, **headers))
    headers["content_type"] = "application/json"
    return _checked(await connection.ask("PUT", path, changes[0].value, **headers))


async def _answer(connection: Connection, path: str) -> Reply | None:
    """The answer to a read; None if it was lost."""
    with suppress(Lost):
        return _checked(await connection.ask("GET", path))
    return None


def _checked(reply: Reply) -> Reply:
    """See that a failure of the server's is a clear one."""
    assert reply.status < 500 or reply.status == 503, reply
    if reply.status == 503:
        assert int(reply.headers["retry-after"]) > 0, reply
    return reply
