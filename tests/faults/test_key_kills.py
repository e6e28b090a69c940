"""kill -9 while keys change and users are erased: of the server, and of the commands that work beside it.

Afterwards every acknowledged write opens, nobody is erased in part, replaced keys are nowhere, and each change is on
record. The moments come from a seed, as in `test_kills.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from roost.core.ids import lane_of
from roost.engines import statements
from tests.support.load import Load
from tests.support.server import Server, until

USERS = [f"user-{number}" for number in range(4)]
COMMANDS = [["rotate"], ["rotate-user", USERS[0]], ["shred"]]
LATER_S = 0.05
"""A change of keys takes about so long."""
KEYS = """
    SELECT kek, state FROM roost.keks
    UNION ALL SELECT user_id, max(generation)::text FROM roost.user_keys WHERE user_id = $1 GROUP BY user_id
    ORDER BY 1
"""
"""Says something else in each step of a change of keys."""


@contextmanager
def beside(server: Server, arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command at work, which is killed in the end."""
    command = server.command("keys", *arguments, "--data", str(server.data))
    with server.log.open("ab") as log:
        process = subprocess.Popen(command, env=server.environment(), stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def database(server: Server) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(server.engine_url)
    try:
        yield connection
    finally:
        await connection.close()


async def changing(server: Server, command: subprocess.Popen[bytes]) -> None:
    """Wait until keys begin to change, or the command has ended."""
    async with database(server) as connection:
        before = await connection.fetch(KEYS, USERS[0])
        while before == await connection.fetch(KEYS, USERS[0]) and command.poll() is None:
            pass


def leave(server: Server, user: str) -> int | None:
    """Erase somebody; None where there was no answer."""
    with suppress(httpx.HTTPError), server.client() as admin:
        return admin.delete(f"/v1/users/{user}").status_code
    return None


def secrets_of(server: Server) -> dict[str, str]:
    keyring = json.loads((server.data / "keyring.json").read_text())
    return {key["id"]: key["secret"] for key in keyring["keys"]}


async def keks_of(server: Server) -> set[str]:
    async with database(server) as connection:
        return {row["kek"] for row in await connection.fetch("SELECT kek FROM roost.keks")}


def check_records(server: Server, keks: set[str], changes: int) -> None:
    """See that keys came and went on record, in a trail that is whole; that of the first user `changes` times."""
    told: list[dict[str, Any]] = []
    with server.client() as admin:
        after, live = "", False
        while not live:
            query = {"action": "keys", **({"after": after} if after else {})}
            page = admin.get("/v1/audit", params=query).raise_for_status().json()
            told, after, live = told + page["records"], page["next"], page["live"]
    details = [record["detail"].split() for record in told]
    assert keks <= {words[-1] for words in details if words[0] in ("adopt", "rotate")}
    assert len([words for words in details if words == ["rotate-user", "begun"]]) >= changes
    present = {key["id"] for key in json.loads((server.data / "keyring.json").read_text())["keys"]}
    assert keks - present <= {words[1] for words in details if words[0] == "destroy"}
    verified = server.run("audit", "verify", "--data", str(server.data))
    assert verified.returncode == 0, verified.stdout + verified.stderr


def await_shredding(server: Server, leaving: list[str]) -> None:
    """Wait until the server has made the copies of who has left unreadable. Then it has no more reason to rotate."""

    def shredded() -> bool:
        with server.client() as admin:
            receipts = [admin.get(f"/v1/users/{user}/erasure").raise_for_status().json() for user in leaving]
        return all(receipt["shredded_at"] for receipt in receipts)

    until(shredded)


async def check(server: Server, leaving: list[str], secrets: set[str]) -> None:
    """See that who has left is gone, and the keys of before too, once there is a new one."""
    await_shredding(server, leaving)
    done = server.run("keys", "rotate", "--data", str(server.data))
    assert done.returncode == 0, done.stderr
    async with database(server) as connection:
        keks = [tuple(row) for row in await connection.fetch("SELECT kek, state FROM roost.keks")]
        lanes = [lane_of(user) for user in leaving]
        left = await connection.fetch(statements.load("erasure")["leftovers"], lanes, leaving)
    assert [state for _, state in keks] == ["current"]
    assert left == []
    beside_it = [path.read_text() for path in server.data.glob("*keyring*")]
    assert not [secret for secret in secrets for text in beside_it if secret in text]


def survive(data: Path, turns: int) -> None:
    seed = int(os.environ.get("ROOST_SEED") or random.SystemRandom().getrandbits(32))
    print(f"ROOST_SEED={seed}")
    chance = random.Random(seed)
    leaving = [f"leaving-{turn}" for turn in range(turns)]

    async def run(server: Server) -> None:
        load, secrets, keks = Load(server, USERS, seed), secrets_of(server), await keks_of(server)
        with server.client() as admin:
            for user in leaving:
                assert admin.put(f"/v1/users/{user}/docs/notes/k", json=user).is_success
        async with load.running():
            for user in leaving:
                await load.accepted(5)
                secrets |= secrets_of(server)
                keks |= await keks_of(server)
                with beside(server, chance.choice(COMMANDS)) as command:
                    await changing(server, command)
                    erasing = asyncio.create_task(asyncio.to_thread(leave, server, user))
                    await asyncio.sleep(chance.uniform(0, LATER_S))
                server.kill()
                assert await erasing in (200, 503, None)
                await asyncio.to_thread(server.start)
            await load.accepted(5)
        await load.check()
        assert {leave(server, user) for user in leaving} == {200}
        # A key that was made just before a kill, and never came to wrap anything, may stay in the keyring.
        await check(server, leaving, {secret for kek, secret in secrets.items() if kek in keks})
        async with database(server) as connection:
            (newest,) = await connection.fetch(
                "SELECT max(generation) FROM roost.user_keys WHERE user_id = $1", USERS[0]
            )
        check_records(server, keks | await keks_of(server), newest["max"] - 1)

    with Server(data, retention_interval_s="1", shred_interval_s="1", engine_timeout_s="5", key_cache_s="1") as server:
        asyncio.run(run(server))
        server.verify()


def test_keys_that_change_and_users_who_leave_survive_kills(tmp_path: Path) -> None:
    survive(tmp_path / "data", 2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_keys_that_change_and_users_who_leave_survive_many_kills(tmp_path: Path) -> None:
    survive(tmp_path / "data", 40)
