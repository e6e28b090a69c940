"""The engines that the contract is held against, each as a fresh store.

One PostgreSQL serves all tests of a process; it is emptied between them. What a test of the contract proves is
order and visibility, not durability, so commits do not wait for the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from roost.core.limits import Limits
from roost.core.ports import Engine
from roost.crypto.keyring import Keyring, MemoryKeyring
from roost.crypto.seal import OVERHEAD
from roost.crypto.vault import Vault
from roost.engines.embedded import Embedded
from roost.engines.memory import Memory
from roost.engines.migrate import migrate
from roost.engines.postgres import Postgres
from roost.engines.sealed import Sealed
from roost.settings import Settings

Result = TypeVar("Result")
TABLES = ("events", "documents", "users", "answers", "devices", "user_keys", "keks", "audit", "audit_chain")
NODES = Settings(writers=4, readers=1, pool=4, engine_timeout_s=100)


class Store:
    """A store that starts empty, `engine` on it, and the event loop that it runs in. With a `keyring` it is sealed.

    `url` is its database's, None where there is none. `another` opens one more engine on the same store, as
    another node would, or one with other limits.
    """

    def __init__(
        self, runner: asyncio.Runner, url: str | None, another: Callable[[Limits], Engine], keyring: Keyring | None
    ) -> None:
        self._runner = runner
        self.keyring = keyring
        self._another = another
        self._engines: list[Engine] = []
        self.url = url
        self.engine = self.another()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return self._runner.run(coroutine)

    def another(self, limits: Limits | None = None) -> Engine:
        async def opened() -> Engine:
            engine = self._another(limits or Limits())
            await engine.open()
            if self.keyring is None:
                return engine
            return Sealed(engine, Vault(engine.keys, self.keyring, lambda: datetime.now(UTC)))

        self._engines.append(self.run(opened()))
        return self._engines[-1]

    def raw(self) -> Engine:
        """One more engine, under the sealing."""

        async def opened() -> Engine:
            engine = self._another(Limits())
            await engine.open()
            return engine

        self._engines.append(self.run(opened()))
        return self._engines[-1]

    def value(self, size: int) -> bytes:
        """A value that takes `size` bytes where it is stored."""
        return b"x" * (size - (OVERHEAD if self.keyring else 0))

    def close(self) -> None:
        for engine in self._engines:
            self.run(engine.close())


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a migrated PostgreSQL."""
    folder: Path = tmp_path_factory.mktemp("contract")
    with Embedded(folder) as url:

        async def prepare() -> None:
            await migrate(url, region="local")
            connection = await asyncpg.connect(url)
            await connection.execute("ALTER DATABASE roost SET synchronous_commit = off")
            await connection.close()

        asyncio.run(prepare())
        yield url


async def emptied(url: str) -> None:
    connection = await asyncpg.connect(url)
    for table in TABLES:
        await connection.execute(f"DELETE FROM roost.{table}")
    await connection.execute("UPDATE roost.lanes SET pos = 0, floor = 0")
    await connection.close()


@pytest.fixture(params=["memory", "embedded", "memory-sealed", "embedded-sealed"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A fresh store on each engine."""
    with asyncio.Runner() as runner:
        keyring = MemoryKeyring() if request.param.endswith("-sealed") else None
        if request.param.startswith("memory"):
            memory = Memory()

            def another(limits: Limits) -> Engine:
                # Nodes of this engine are one and the same object; other limits are another view of its state.
                if limits == Limits():
                    return memory
                view = Memory(limits)
                view.__dict__ |= {name: held for name, held in memory.__dict__.items() if name != "_limits"}
                return view

            url = None
        else:
            url = request.getfixturevalue("database")
            runner.run(emptied(url))

            def another(limits: Limits) -> Engine:
                sizes = (limits.page_bytes_max, limits.snapshot_bytes_max)
                return Postgres(url, NODES, page_bytes_max=sizes[0], snapshot_bytes_max=sizes[1])

        store = Store(runner, url, another, keyring)
        yield store
        store.close()
