"""The composition root: the only place that knows which engine, writer, reader and door belong together.

`create` is what a worker process runs: an ASGI application with the settings of its environment. The other
functions are for the command line, which works on an engine without serving.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from roost.authz.gate import Gate
from roost.authz.identity import Identity
from roost.commands.writer import Writer
from roost.console import PAGES
from roost.core.events import Event
from roost.core.ports import Engine, EngineUnavailable, TransactionLost
from roost.crypto.signing import SigningKey
from roost.engines import migrate as migrations
from roost.engines.memory import Memory
from roost.engines.postgres import Postgres
from roost.feed import compaction
from roost.feed.definitions import Definitions
from roost.feed.hub import Hub
from roost.feed.presence import Presence
from roost.feed.tail import Announcer, watch
from roost.queries.reader import Reader
from roost.queries.verify import Tally
from roost.queries.verify import verify as verify_engine
from roost.settings import Settings
from roost.wire.http import build

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_SWEEP_INTERVAL_S = 600
_SWEEP_ANSWERS = 1_000
_GC_THRESHOLDS = (20_000, 20, 50)

log = structlog.get_logger(__name__)


def clock() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def engine_of(settings: Settings) -> Engine:
    """The engine that the settings name. Its URL must be known: `roost serve` starts the embedded one first."""
    if settings.engine == "memory:":
        return Memory(settings.limits)
    if settings.engine is None:
        msg = "the embedded engine has not been started"
        raise ValueError(msg)
    limits = settings.limits
    return Postgres(
        settings.engine,
        settings,
        page_bytes_max=limits.page_bytes_max,
        snapshot_bytes_max=limits.snapshot_bytes_max,
    )


class App:
    """One worker: everything it holds open lives from the server's start-up to its shutdown."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine = engine_of(settings)
        self._hub = Hub(settings.waiters_max)
        self._announcer = Announcer(self._engine)
        self._presence = Presence(
            self._engine,
            clock=clock,
            refresh_s=settings.presence_refresh_s,
            devices_max=settings.limits.devices_max,
        )
        self._definitions = Definitions(self._engine, self._hub, settings)
        self._writer = Writer(
            self._engine,
            settings,
            clock=clock,
            committed=self._committed,
            policy_of=self._definitions.policy_of,
        )
        gate = Gate(self._writer, Reader(self._engine, settings), self._hub, self._definitions, self._presence)
        identity = Identity(SigningKey.load_or_create(settings.data), clock)
        self._wire = build(gate, identity, settings, clock, PAGES)
        self._tasks: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._wire(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._engine.open()
        # What a worker is made of stays until its end, and what a request is made of is gone with it: looking
        # through both for cycles after every few hundred allocations was a tenth of a point read.
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        # The server that is about to stop this worker says so: held long polls are answered at once.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._hub.drain)
        self._tasks = [
            asyncio.create_task(watch(self._engine, self._hub, self._settings.tail_interval_s)),
            asyncio.create_task(self._announcer.run()),
            asyncio.create_task(self._presence.run()),
            asyncio.create_task(self._definitions.keep()),
            asyncio.create_task(_sweep(self._engine, self._settings)),
            asyncio.create_task(compaction.keep_compact(self._engine, self._settings, clock)),
        ]
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._presence.close()
        await self._writer.close()
        await self._engine.close()
        await send({"type": "lifespan.shutdown.complete"})

    def _committed(self, user: str, seq: int, events: Sequence[Event]) -> None:
        self._hub.publish(user, seq, events)
        self._announcer.committed()


async def _sweep(engine: Engine, settings: Settings) -> None:
    """Forget idempotency answers that are too old to be asked for again."""
    while True:
        with contextlib.suppress(EngineUnavailable, TransactionLost):
            before = clock() - timedelta(hours=settings.limits.idempotency_hours)
            while await engine.forget_answers(before, _SWEEP_ANSWERS) == _SWEEP_ANSWERS:
                pass
        await asyncio.sleep(_SWEEP_INTERVAL_S)


def create() -> App:
    """The application of a worker process, from the `ROOST_*` variables of its environment."""
    return App(Settings.from_env(os.environ))


async def migrate(settings: Settings) -> list[str]:
    """Bring the engine's schema up to date; the names of the migrations that this applied."""
    if settings.engine is None or settings.engine == "memory:":
        return []
    applied = await migrations.migrate(settings.engine, region=settings.region, timeout_s=settings.engine_timeout_s)
    return [f"{migration.version:04}_{migration.name}" for migration in applied]


async def compact(settings: Settings, user: str | None, *, dry_run: bool) -> compaction.Tally:
    """Fold old events away, of one user or of all."""
    async with _ready_engine(settings) as engine:
        return await compaction.compact(engine, settings, clock(), user=user, dry_run=dry_run)


async def verify(settings: Settings, report: Callable[[str], None]) -> Tally:
    """Fold every log and compare; `report` gets a line for each difference."""
    async with _ready_engine(settings) as engine:
        return await verify_engine(engine, report)


@contextlib.asynccontextmanager
async def _ready_engine(settings: Settings) -> AsyncIterator[Engine]:
    """The engine for as long as a command works on it. Raises `EngineUnavailable`, also for an older schema."""
    engine = engine_of(settings)
    await engine.open()
    try:
        await engine.ping()
        yield engine
    finally:
        await engine.close()
