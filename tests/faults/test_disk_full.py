"""A disk that fills up under a server, first for the tables, then for the write-ahead log.

Writes get a clear refusal in a bounded time, reads go on or are refused as clearly, and nothing that was acknowledged
is lost. Once there is room again, all goes on by itself. The disk is a small file system in memory, which only root
may mount.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.support.history import Change, violations
from tests.support.http import Connection, Reply, connected, read_logs
from tests.support.load import COLLECTION, Load, Recorder
from tests.support.server import Server

DISK_BYTES = 224 << 20
"""Room for a new PostgreSQL (about 60 MiB) and some segments of its log, of 16 MiB each."""
TIMEOUT_S = 5.0
USER = "ada"
VALUE = "x" * 100_000


class Disk:
    """A small file system, and a ballast that fills it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    def fill(self, spare: int = 0) -> None:
        """Leave no room but `spare` bytes."""
        with self._ballast.open("ab", buffering=0) as ballast, suppress(OSError):
            while (room := shutil.disk_usage(self.place).free - spare) > 0:
                os.posix_fallocate(ballast.fileno(), os.fstat(ballast.fileno()).st_size, min(room, 1 << 20))

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def server(disk: Disk) -> Iterator[Server]:
    with Server(disk.place / "data", engine_timeout_s=str(TIMEOUT_S)) as server:
        yield server


async def write(recorder: Recorder, connection: Connection, name: str) -> Reply:
    """A write of a large value of its own."""
    began = time.monotonic()
    reply = await recorder.write(connection, USER, [Change(COLLECTION, name, f"{name} {VALUE}")])
    assert reply is not None
    assert time.monotonic() - began < 2 * TIMEOUT_S + 5
    return reply


async def refused(recorder: Recorder, connection: Connection, names: Iterator[str]) -> Reply:
    """Write until there is no room."""
    while (reply := await write(recorder, connection, next(names))).status < 300:
        pass
    assert (reply.status, reply.code) == (503, "unavailable")
    assert int(reply.headers["retry-after"]) > 0
    return reply


async def accepted(recorder: Recorder, connection: Connection, names: Iterator[str]) -> None:
    """Write until that works again, by itself."""
    deadline = time.monotonic() + 60
    while (await write(recorder, connection, next(names))).status >= 300:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def read_everything(server: Server) -> list[Reply]:
    """The answers to reads of every kind, which came in good time and were clear."""
    paths = ["docs", "docs/notes", "docs/notes/n0", "docs/notes/n0/history", "events", "docs/notes/n0?at_seq=1"]
    began = time.monotonic()
    async with connected(server, server.service("test"), len(paths)) as connections:
        replies = await asyncio.gather(
            *(c.ask("GET", f"/v1/users/{USER}/{path}") for c, path in zip(connections, paths, strict=True))
        )
    assert time.monotonic() - began < 2 * TIMEOUT_S + 5
    assert all(reply.status == 200 or (reply.status, reply.code) == (503, "unavailable") for reply in replies)
    return replies


@asynccontextmanager
async def under_load(server: Server) -> AsyncIterator[tuple[Recorder, Connection, Iterator[str]]]:
    """Clients work inside; afterwards everything that they and the test have seen fits the logs."""
    recorder = Recorder()
    load = Load(server, [f"user-{number}" for number in range(4)], seed=1, clients=4)
    async with Connection(server.port, server.service("test")) as connection:
        async with load.running():
            await load.accepted(10)
            yield recorder, connection, (f"n{number}" for number in count())
            await load.accepted(10)
        print(load.summary())
        await load.check()
        assert violations(recorder.writes, recorder.reads, await read_logs(connection, [USER])) == []


def test_a_disk_with_no_room_for_tables(disk: Disk, server: Server) -> None:
    async def run() -> None:
        async with under_load(server) as (recorder, connection, names):
            assert (await write(recorder, connection, next(names))).status == 201
            for _ in range(2):
                disk.fill()
                await refused(recorder, connection, names)
                assert {reply.status for reply in await read_everything(server)} == {200}
                assert (await connection.ask("GET", "/readyz")).status == 200
                await refused(recorder, connection, names)
                disk.free()
                await accepted(recorder, connection, names)

    asyncio.run(run())
    server.verify()


def test_a_disk_with_no_room_for_the_log(disk: Disk, server: Server) -> None:
    """PostgreSQL gives up then, and does not start until there is room."""

    async def run() -> None:
        async with under_load(server) as (recorder, connection, names):
            assert (await write(recorder, connection, next(names))).status == 201
            postmaster = server.postmaster()
            while psutil.pid_exists(postmaster):
                disk.fill()
                await use_up_log(server)
            await refused(recorder, connection, names)
            assert {reply.status for reply in await read_everything(server)} == {503}
            assert (await connection.ask("GET", "/readyz")).status == 503
            assert (await connection.ask("GET", "/healthz")).status == 200
            disk.free()
            await accepted(recorder, connection, names)

    asyncio.run(run())
    server.verify()


async def use_up_log(server: Server) -> None:
    """Begin segments of PostgreSQL's log until there is no room for the next. It may recover with what that frees."""
    try:
        connection = await asyncpg.connect(server.engine_url)
    except (asyncpg.PostgresError, OSError):
        return
    try:
        while True:
            await connection.execute("SELECT pg_logical_emit_message(false, 'test', 'something')")
            await connection.execute("SELECT pg_switch_wal()")
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        print(f"PostgreSQL: {error}")
    finally:
        connection.terminate()
