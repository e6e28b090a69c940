"""kill -9 under load, at random moments: of the whole server, of a worker, of PostgreSQL and of its backends.

Afterwards every acknowledged write is there, every unknown one was carried out once or not at all, no log and no
lane has a gap, who followed the feed all along has seen everything once, and `roost verify` agrees. The moments come
from a seed, which is printed; `ROOST_SEED` in the environment of the tests sets it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from roost.core.ids import lane_of
from roost.engines.embedded.postmaster import trace
from tests.support.follower import Follower
from tests.support.load import Load
from tests.support.server import Server, until

USERS = [f"user-{number}" for number in range(8)]
LANE = [user for user in (f"neighbour-{number}" for number in range(1000)) if lane_of(user) == lane_of(USERS[0])][:4]
KILLS = 4
BETWEEN = 60
"""Acknowledged writes between two kills, at most."""

Kill = Callable[[Server, random.Random], Awaitable[None]]


async def server_killed(server: Server, chance: random.Random) -> None:
    """Every other time it is killed again while it starts."""
    server.kill()
    if chance.random() < 0.5:
        await asyncio.to_thread(server.launch)
        await asyncio.sleep(chance.uniform(0, 2))
        server.kill()
    await asyncio.to_thread(server.start)


async def worker_killed(server: Server, chance: random.Random) -> None:
    kill(chance.choice(await some(server.listening)))


async def everything_killed(server: Server, chance: random.Random) -> None:
    """The whole server with its PostgreSQL, as when the machine goes down."""
    kill(server.postmaster(), *server.listening())
    await server_killed(server, chance)


async def postmaster_killed(server: Server, chance: random.Random) -> None:
    """Its backends notice by themselves. Every other time the next one is killed while it recovers."""

    def successor() -> list[int]:
        found = trace(server.data / "postgres")
        return [] if found is None or found.pid == killed else [found.pid]

    kill(killed := server.postmaster())
    if chance.random() < 0.5:
        kill(killed := (await some(successor))[0])
    await some(successor)


async def backend_killed(server: Server, chance: random.Random) -> None:
    """PostgreSQL ends all others then, and recovers."""
    before = await some(server.backends)
    kill(chance.choice(before))
    await some(lambda: [pid for pid in server.backends() if pid not in before])


async def connection_closed(server: Server, chance: random.Random) -> None:
    """PostgreSQL ends two of its backends in order, in the middle of whatever they do."""
    backends = await some(server.backends)
    for pid in chance.sample(backends, min(2, len(backends))):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


VICTIMS: dict[str, Kill] = {
    "server": server_killed,
    "everything": everything_killed,
    "worker": worker_killed,
    "postmaster": postmaster_killed,
    "backend": backend_killed,
    "connection": connection_closed,
}


def kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def some(find: Callable[[], list[int]]) -> list[int]:
    """Wait until there are such processes."""
    found: list[int] = []

    def is_there() -> bool:
        found[:] = find()
        return bool(found)

    await asyncio.to_thread(until, is_there)
    return found


def survive(data: Path, victims: list[str], kills: int) -> None:
    """Kill `victims`, each time any of them, while clients work; then see that all is well."""
    seed = int(os.environ.get("ROOST_SEED") or random.SystemRandom().getrandbits(32))
    print(f"ROOST_SEED={seed}")
    chance = random.Random(seed)

    async def run(server: Server) -> None:
        load = Load(server, USERS + LANE, seed)
        follower = Follower(lambda: server.engine_url)
        async with follower.following(), load.running():
            for _ in range(kills):
                await load.accepted(chance.randrange(BETWEEN))
                victim = chance.choice(victims)
                started = time.monotonic()
                await VICTIMS[victim](server, chance)
                await load.accepted(1)
                print(f"{victim} killed; a write was acknowledged {time.monotonic() - started:.1f} s later")
            await load.accepted(BETWEEN)
        print(load.summary())
        follower.check(await load.check())

    with Server(data, workers=2, engine_timeout_s="5") as server:
        asyncio.run(run(server))
        server.verify()
        assert server.stop() == 0
        server.start()
        server.verify()


@pytest.mark.parametrize("victim", VICTIMS)
def test_whatever_is_killed_nothing_is_lost(victim: str, tmp_path: Path) -> None:
    survive(tmp_path / "data", [victim], KILLS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(4))
def test_whatever_is_killed_and_how_often_nothing_is_lost(part: int, tmp_path: Path) -> None:
    survive(tmp_path / "data", list(VICTIMS), kills=50)
