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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from roost.authz.departures import Departures
from roost.authz.door import Door
from roost.authz.gate import Gate
from roost.authz.identity import Identity
from roost.authz.logins import Logins
from roost.authz.policy.policies import Policies, from_directory
from roost.authz.records import Means
from roost.authz.revocations import Revocations
from roost.chores import now_and_then
from roost.commands import upkeep
from roost.commands.askers import ITSELF, Asker
from roost.commands.erasures import Erasures
from roost.commands.trail import Acts, Trail
from roost.commands.writer import Writer
from roost.console import PAGES
from roost.core.audit import AUDIT, NO_KEY
from roost.core.erasure import Shredding
from roost.core.events import Event
from roost.core.ids import ERASURES, POLICIES
from roost.core.ports import Engine, EngineUnavailable, TransactionLost
from roost.crypto.keks import Progress, no_progress
from roost.crypto.keyring import KeyringError, MemoryKeyring
from roost.crypto.keyrings import keyring_of, path_of
from roost.crypto.ledger import FILE_NAME as LEDGER
from roost.crypto.ledger import Ledger
from roost.crypto.signing import SigningKeys
from roost.crypto.vault import Vault
from roost.engines import migrate as migrations
from roost.engines.memory import Memory
from roost.engines.postgres import Postgres
from roost.engines.sealed import Sealed
from roost.feed import compaction, retention
from roost.feed.bulletin import Bulletin
from roost.feed.definitions import Definitions
from roost.feed.hub import Hub
from roost.feed.presence import Presence
from roost.feed.tail import Announcer, watch
from roost.queries.audit import Verdict
from roost.queries.audit import verify as verify_trail
from roost.queries.reader import Reader
from roost.queries.verify import Tally
from roost.queries.verify import verify as verify_engine
from roost.settings import Settings
from roost.wire.front import Front
from roost.wire.http import build
from roost.wire.limiter import Limiter
from roost.wire.request import Context
from roost.wire.tls import Certificates

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_SWEEP_INTERVAL_S = 600
_LAST_WORDS_S = 2.0
_SWEEP_ANSWERS = 1_000
_GC_THRESHOLDS = (20_000, 20, 50)

log = structlog.get_logger(__name__)


def clock() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def vault_of(settings: Settings, engine: Engine, who: Asker = ITSELF) -> Vault | None:
    """The keys of an engine's users; None where nothing is to be sealed. `who` changes them. Raises `KeyringError`."""
    keyring = keyring_of(settings.keyring, settings.data)
    if keyring is None:
        return None

    async def key() -> bytes:
        return await chain_key(vault)

    vault = Vault(
        engine.keys,
        MemoryKeyring() if settings.engine == "memory:" else keyring,
        clock,
        users_max=settings.key_cache_users,
        keep_s=settings.key_cache_s,
        record=Acts(engine.audit, who, clock, key),
    )
    return vault


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
        engine = engine_of(settings)
        self._vault = vault_of(settings, engine)
        self._engine = engine if self._vault is None else Sealed(engine, self._vault)
        self._hub = Hub(settings.waiters_max)
        self._announcer = Announcer(self._engine)
        self._presence = Presence(
            self._engine,
            clock=clock,
            refresh_s=settings.presence_refresh_s,
            devices_max=settings.limits.devices_max,
        )
        self._bulletin = Bulletin(self._engine, self._hub, timeout_s=settings.engine_timeout_s)
        self._definitions = Definitions(self._bulletin, settings)
        self._writer = Writer(
            self._engine,
            settings,
            clock=clock,
            committed=self._committed,
            policy_of=self._definitions.policy_of,
            queryable_of=self._definitions.queryable_of,
        )
        policies = Policies(settings.region, clock, from_directory(settings.policy_dir), self._hub.call)
        self._bulletin.subscribe(POLICIES, policies.learn)
        self._trail = Trail(
            self._engine.audit,
            settings,
            clock=clock,
            chain_key=partial(chain_key, self._vault),
            definition_of=self._definitions.of,
            committed=partial(self._hub.publish, AUDIT),
        )
        door = Door(policies, self._definitions, self._trail)
        reader = Reader(self._engine, settings)
        self._erasures = erasures_of(settings, self._engine, self._writer, self._vault)
        self._bulletin.subscribe(ERASURES, self._forget)
        keys = SigningKeys.load_or_create(settings.data)
        departures = Departures(self._erasures, reader, self._presence, keys.sign)
        gate = Gate(self._writer, reader, self._hub, self._definitions, self._presence, door, departures)
        self._revocations = Revocations(self._bulletin, self._writer, clock)
        self._identity = Identity(
            keys,
            issuers=settings.issuers,
            revoked=self._revocations.revoked,
            session_s=settings.access_ttl_s,
        )
        means = Means(reader, self._writer, settings, clock, self._trail.note)
        self._logins = Logins(means, keys, self._identity, self._revocations, door)
        self._front = front = _front_of(settings)
        files = front.files if front else set()
        context = Context.of(gate, self._identity, self._logins, settings, clock, files)
        self._sockets = context.sockets
        wire = build(context, PAGES)
        self._wire = front.wrap(wire) if front else wire
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
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._drain)
        self._tasks = [
            asyncio.create_task(watch(self._engine, self._hub, self._settings.tail_interval_s)),
            asyncio.create_task(self._announcer.run()),
            asyncio.create_task(self._presence.run()),
            asyncio.create_task(self._bulletin.keep()),
            asyncio.create_task(self._identity.keep()),
            asyncio.create_task(self._revocations.keep_tidy()),
            asyncio.create_task(_sweep(self._engine, self._settings)),
            asyncio.create_task(compaction.keep_compact(self._engine, self._settings, clock)),
            asyncio.create_task(self._keep_no_longer()),
            asyncio.create_task(upkeep.keep(self._trail, self._engine.audit, self._settings, clock)),
        ]
        if self._front is not None:
            self._tasks.append(asyncio.create_task(self._front.certificates.keep()))
            await self._front.listen(self._settings.host, self._settings.port)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._drain()
        if self._sockets:
            # Each is told why it ends, before this process does.
            await asyncio.wait(self._sockets, timeout=_LAST_WORDS_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._front is not None:
            await self._front.close()
        self._logins.close()
        await self._presence.close()
        await self._writer.close()
        await self._trail.close()
        await self._engine.close()
        await send({"type": "lifespan.shutdown.complete"})

    def _drain(self) -> None:
        if self._front is not None:
            self._front.drain()
        self._hub.drain()

    def _forget(self, changed: Mapping[str, bytes | None], *, anew: bool) -> None:
        """Who was erased, as the bulletin tells: their keys are not to stay in memory."""
        if self._vault is not None and not anew:
            for user in changed:
                self._vault.evict(user)

    async def _keep_no_longer(self) -> None:
        """Finish erasures, let go of what was kept long enough, and make old copies unreadable, until cancelled."""
        settings = self._settings

        async def let_go() -> None:
            tally = await retention.let_go(self._engine, settings, clock(), self._definitions.defined, self._writer.run)
            if tally.expired or tally.folded:
                log.info("let go of what was kept long enough", **msgspec.structs.asdict(tally))

        async def shred() -> None:
            if self._vault is not None:
                await self._erasures.shred(clock() - timedelta(seconds=settings.shred_interval_s))

        async def seal() -> None:
            if self._vault is not None and (users := await self._vault.reseal()):
                log.info("sealed anew what was in clear, or under an older key", users=users)

        pause_s = settings.retention_interval_s * settings.workers
        await now_and_then(pause_s, [self._erasures.reconcile, let_go, shred, seal])

    def _committed(self, user: str, seq: int, events: Sequence[Event]) -> None:
        self._hub.publish(user, seq, events)
        self._announcer.committed()


def erasures_of(
    settings: Settings, engine: Engine, writer: Writer, vault: Vault | None, who: Asker = ITSELF
) -> Erasures:
    """What erases users: the ledger is beside the keyring."""
    ledger = Ledger(path_of(settings.keyring, settings.data).with_name(LEDGER))
    rotate = None if vault is None else vault.rotate_kek
    return Erasures(engine, writer, ledger, clock, rotate, acts_of(engine, vault, who))


def acts_of(engine: Engine, vault: Vault | None, who: Asker) -> Acts:
    """What puts on record what somebody does to keys."""
    return Acts(engine.audit, who, clock, partial(chain_key, vault))


def _front_of(settings: Settings) -> Front | None:
    """What takes TLS connections, where TLS ends in this worker."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Front(
        Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca, settings.tls_clients),
        settings.tls_inside,
        connections_max=settings.connections_max,
        connections_address=settings.connections_address,
        admit=Limiter(settings).admits,
    )


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


async def unlock(settings: Settings, progress: Progress) -> None:
    """See that the keyring opens the database, before it is served. Raises what `opened` raises."""
    if settings.engine != "memory:":
        async with opened(settings, adopt=progress):
            pass


async def reconcile(settings: Settings, who: Asker = ITSELF) -> int:
    """Erase everybody whom the ledger has and the database has not; returns how many that were."""
    if settings.engine == "memory:":
        return 0
    async with erasing(settings, who) as erasures:
        return await erasures.reconcile()


async def replay(settings: Settings, ledger: Path, who: Asker) -> int:
    """Erase everybody whom this ledger has; returns how many were not erased yet."""
    async with erasing(settings, who) as erasures:
        return await erasures.replay(Ledger(ledger))


async def shred(settings: Settings, who: Asker) -> Shredding | None:
    """Make old copies of erased users unreadable now; None where there are none."""
    async with erasing(settings, who) as erasures:
        await erasures.reconcile()
        return await erasures.shred()


@contextlib.asynccontextmanager
async def erasing(settings: Settings, who: Asker) -> AsyncIterator[Erasures]:
    """What erases users, for as long as a command works with it. Raises what `opened` raises."""
    async with opened(settings, who=who) as (engine, vault):
        writer = Writer(engine, settings, clock=clock, committed=_nobody_follows)
        try:
            yield erasures_of(settings, engine, writer, vault, who)
        finally:
            await writer.close()
            await engine.announce()


def _nobody_follows(user: str, seq: int, events: Sequence[Event]) -> None:
    pass


async def compact(settings: Settings, user: str | None, *, dry_run: bool) -> compaction.Tally:
    """Fold old events away, of one user or of all."""
    async with _ready_engine(settings) as engine:
        return await compaction.compact(engine, settings, clock(), user=user, dry_run=dry_run)


async def verify(settings: Settings, report: Callable[[str], None]) -> Tally:
    """Fold every log and compare; `report` gets a line for each difference."""
    async with _ready_engine(settings) as engine:
        return await verify_engine(engine, report)


async def verify_audit(settings: Settings, heads: Sequence[str], report: Callable[[str], None]) -> Verdict:
    """Prove the audit trail whole, up to the heads that were kept elsewhere; `report` gets a line for each fault."""
    async with opened(settings) as (engine, vault):
        key = await chain_key(vault)
        known = dict(upkeep.known_heads(key, settings.data, heads, report))
        return await verify_trail(engine.audit, key, report, known)


async def audit_head(settings: Settings) -> str:
    """A seal on where the audit trail ends now. Raises `CutOff` where it is known to have come further."""
    async with opened(settings) as (engine, vault):
        return await upkeep.write_head(engine.audit, await chain_key(vault), settings.data)


async def chain_key(vault: Vault | None) -> bytes:
    """The key of the audit trail's chain. Where nothing is sealed it is no secret: see docs/guides/audit.md."""
    return NO_KEY if vault is None else await vault.derive(AUDIT, b"audit")


@contextlib.asynccontextmanager
async def _ready_engine(settings: Settings) -> AsyncIterator[Engine]:
    """The engine for as long as a command works on it. Raises `EngineUnavailable`, also for an older schema."""
    async with opened(settings) as (engine, _):
        yield engine


@contextlib.asynccontextmanager
async def opened(
    settings: Settings, adopt: Progress | None = None, who: Asker = ITSELF
) -> AsyncIterator[tuple[Engine, Vault | None]]:
    """The engine, and its vault, for as long as a command of somebody's works on them.

    A database that nothing was sealed in yet stays so, and has no vault, unless it is to be adopted, as the server does
    that is going to write to it. Raises `EngineUnavailable`, also for an older schema, and `KeyringError` where the
    keyring does not open it.
    """
    engine = engine_of(settings)
    await engine.open()
    try:
        await engine.ping()
        sealed = bool(await engine.keys.keks())
        vault = vault_of(settings, engine, who) if sealed or adopt else None
        if vault is not None:
            await vault.unlock(adopt or no_progress)
            engine = Sealed(engine, vault)
        elif sealed:
            raise KeyringError("The database is sealed: name its keyring with ROOST_KEYRING.")
        yield engine, vault
    finally:
        await engine.close()
