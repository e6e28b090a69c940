"""More work than the server can do, an engine that stands still, and a stop in the middle of it all.

Whoever cannot be served is told so, in a bounded time and with `Retry-After`; what was accepted is finished.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.support.http import Connection, Reply, connected, read_log
from tests.support.load import Load
from tests.support.server import Server

TIMEOUT_S = 3.0
"""How long a request waits for the engine here."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with room for very little."""
    with Server(
        tmp_path_factory.mktemp("small") / "data",
        writers="1",
        readers="1",
        pool="1",
        batch_commands_max="1",
        queue_commands_max="4",
        pages_max="3",
        waiters_max="2",
        engine_timeout_s="30",
    ) as server:
        yield server


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that does not wait long for its engine."""
    with Server(
        tmp_path_factory.mktemp("impatient") / "data",
        writers="1",
        batch_commands_max="1",
        engine_timeout_s=str(TIMEOUT_S),
    ) as server:
        yield server


@asynccontextmanager
async def held(server: Server, table: str, mode: str = "ACCESS EXCLUSIVE") -> AsyncIterator[None]:
    """A table that somebody else has locked: whoever needs it waits."""
    connection = await asyncpg.connect(server.engine_url)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE roost.{table} IN {mode} MODE")
            yield
    finally:
        await connection.close()


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes that stand still."""
    try:
        for pid in pids:
            with suppress(ProcessLookupError):  # one that was about to end
                os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def engine_processes(server: Server) -> list[int]:
    postmaster = psutil.Process(server.postmaster())
    return [postmaster.pid, *(child.pid for child in postmaster.children(recursive=True))]


async def put(connection: Connection, user: str, key: str, value: object, **headers: str) -> Reply:
    path = f"/v1/users/{user}/docs/notes/{key}"
    return await connection.ask("PUT", path, value, content_type="application/json", **headers)


def told_to_come_back(reply: Reply, code: str) -> bool:
    return (reply.status, reply.code) == (503, code) and int(reply.headers["retry-after"]) > 0


async def begun(server: Server, task: asyncio.Task[Reply]) -> asyncio.Task[Reply]:
    """The request of `task`, once somebody waits in the engine for a lock: it does, or the server, before it."""
    connection = await asyncpg.connect(server.engine_url)
    try:
        while not await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            assert not task.done(), task.result()
    finally:
        await connection.close()
    return task


async def some_done(tasks: list[asyncio.Task[Reply]], count: int) -> list[Reply]:
    """The first answers, once there are so many."""
    while sum(task.done() for task in tasks) < count:
        await asyncio.wait([task for task in tasks if not task.done()], return_when=asyncio.FIRST_COMPLETED)
    return [task.result() for task in tasks if task.done()]


def test_writes_beyond_the_queue_are_told_to_come_back(small: Server) -> None:
    async def run() -> None:
        async with connected(small, small.service("test"), 12) as connections:
            async with held(small, "lanes"):
                writes = [await begun(small, asyncio.create_task(put(connections[0], "ada", "k0", 0)))]
                writes += [
                    asyncio.create_task(put(connections[number], "ada", f"k{number}", number))
                    for number in range(1, 12)
                ]
                refused = await some_done(writes, 7)  # four wait, one is under way if it was the first
                assert all(told_to_come_back(reply, "overloaded") for reply in refused)
            replies = await asyncio.gather(*writes)
            accepted = [number for number, reply in enumerate(replies) if reply.status == 201]
            assert len(accepted) in {4, 5}
            log = await read_log(connections[0], "ada")
            assert sorted(event["value"] for event in log) == accepted
            # And it goes on as if nothing had been.
            assert (await put(connections[0], "ada", "after", 1)).status == 201

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "room"),
    [("docs/notes/k", 5), ("docs/notes", 3), ("docs", 3), ("docs/notes/k?at_seq=1", 3)],
    ids=["point", "page", "snapshot", "past"],
)
def test_reads_beyond_the_queue_are_told_to_come_back(small: Server, path: str, room: int) -> None:
    async def run() -> None:
        async with connected(small, small.service("test"), 12) as connections:
            assert (await put(connections[0], "bob", "k", 1)).status < 300
            async with held(small, "users"):
                reads = [await begun(small, asyncio.create_task(connections[0].ask("GET", f"/v1/users/bob/{path}")))]
                reads += [asyncio.create_task(c.ask("GET", f"/v1/users/bob/{path}")) for c in connections[1:]]
                refused = await some_done(reads, 12 - room)
                assert all(told_to_come_back(reply, "overloaded") for reply in refused)
            replies = await asyncio.gather(*reads)
            assert sorted(reply.status for reply in replies) == [200] * room + [503] * (12 - room)

    asyncio.run(run())


def test_long_polls_beyond_the_limit_are_told_to_come_back(small: Server) -> None:
    async def run() -> None:
        async with connected(small, small.service("test"), 6) as connections:
            await put(connections[0], "eve", "k", 0)
            seq = len(await read_log(connections[0], "eve"))
            path = f"/v1/users/eve/events?after={seq}&wait=30"
            polls = [asyncio.create_task(connection.ask("GET", path)) for connection in connections[1:]]
            refused = await some_done(polls, 3)
            assert all(told_to_come_back(reply, "overloaded") for reply in refused)
            await put(connections[0], "eve", "k", 1)
            assert sorted(reply.status for reply in await asyncio.gather(*polls)) == [200, 200, 503, 503, 503]

    asyncio.run(run())


ASKED = {
    "write": ("PUT", "docs/notes/k"),
    "point": ("GET", "docs/notes/k"),
    "page": ("GET", "docs/notes"),
    "snapshot": ("GET", "docs"),
    "past": ("GET", "docs/notes/k?at_seq=1"),
    "history": ("GET", "docs/notes/k/history"),
    "events": ("GET", "events"),
    "poll": ("GET", "events?after=0&wait=30"),
    "user": ("GET", ""),
}


async def ask(connection: Connection, user: str, what: str) -> Reply:
    method, path = ASKED[what]
    full = f"/v1/users/{user}/{path}".rstrip("/")
    if method == "PUT":
        return await connection.ask(method, full, 1, content_type="application/json")
    return await connection.ask(method, full)


def test_an_engine_that_stands_still_is_unavailable_and_then_goes_on(impatient: Server) -> None:
    """Whoever waits is told within the time set, several times over; then all goes on by itself."""

    async def run() -> None:
        async with connected(impatient, impatient.service("test"), len(ASKED) * 3) as connections:
            assert (await put(connections[0], "ada", "k", 0)).status == 201
            with stopped(*engine_processes(impatient)):
                for _ in range(2):
                    began = time.monotonic()
                    replies = await asyncio.gather(
                        *(ask(c, "ada", what) for c, what in zip(connections, [*ASKED] * 3, strict=True))
                    )
                    took = time.monotonic() - began
                    print(f"answered in {took:.1f} s")
                    assert all(told_to_come_back(reply, "unavailable") for reply in replies), replies
                    # Not once for each that waited before it.
                    assert took < 5 * TIMEOUT_S < len(ASKED) * TIMEOUT_S
                ready = await connections[0].ask("GET", "/readyz")
                assert told_to_come_back(ready, "unavailable")
                assert (await connections[0].ask("GET", "/healthz")).status == 200
            for what in ASKED:
                until_asked = time.monotonic() + 30
                while (reply := await ask(connections[0], "ada", what)).status == 503:
                    assert time.monotonic() < until_asked, what
                    await asyncio.sleep(0.1)
                assert reply.status == 200, what

    asyncio.run(run())
    impatient.verify()


def test_a_stop_finishes_what_was_accepted_and_lets_long_polls_go(tmp_path: Path) -> None:
    async def run(server: Server) -> None:
        async with connected(server, server.service("test"), 8) as connections:
            poller, beside, *writers = connections
            assert (await put(poller, "ada", "k", 0)).status == 201
            poll = asyncio.create_task(poller.ask("GET", "/v1/users/ada/events?after=1&wait=30"))
            async with held(server, "lanes"):
                writes = [await begun(server, asyncio.create_task(put(writers[0], "ada", "k0", 0)))]
                writes += [
                    asyncio.create_task(put(connection, "ada", f"k{number}", number))
                    for number, connection in enumerate(writers[1:], 1)
                ]
                await asyncio.sleep(0)  # all of them are sent
                assert (await beside.ask("GET", "/healthz")).status == 200  # so the server has read the others too
                os.kill(server.pid, signal.SIGTERM)
                # The stop has begun once it lets go of those who only wait.
                assert (await poll).json["events"] == []
                assert not any(write.done() for write in writes)
            assert [reply.status for reply in await asyncio.gather(*writes)] == [201] * 6
        assert await asyncio.to_thread(server.stop) == 0
        await asyncio.to_thread(server.start)
        async with Connection(server.port, server.service("test")) as connection:
            log = await read_log(connection, "ada")
            assert sorted(event["key"] for event in log) == ["k", *(f"k{number}" for number in range(6))]

    with Server(tmp_path / "data") as server:
        asyncio.run(run(server))


def test_a_stop_under_load_leaves_nobody_without_an_answer(tmp_path: Path) -> None:
    """A request that met a closed connection was not carried out, though its sender cannot know."""
    users = [f"user-{number}" for number in range(4)]

    async def run(server: Server) -> None:
        load = Load(server, users, seed=1, keyed=False)
        async with load.running():
            for _ in range(2):
                await load.accepted(100)
                assert await asyncio.to_thread(server.stop) == 0
                await asyncio.to_thread(server.start)
            await load.accepted(100)
        logs = await load.check()
        print(load.summary())
        values = {str(event["value"]) for log in logs.values() for event in log}
        unanswered = [write for write in load.writes if write.outcome == "unknown"]
        assert not [write for write in unanswered if str(write.changes[0].value) in values]

    with Server(tmp_path / "data", workers=2) as server:
        asyncio.run(run(server))
        server.verify()
