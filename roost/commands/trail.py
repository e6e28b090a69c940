"""The trail: puts on record who did or tried what, to whose state.

Records are appended to one keyed chain (`roost.core.audit`) in group commits, whose order is that of the chain. Most
follow what they tell of within milliseconds: they wait in a bounded queue, and what finds no room there is counted, and
the count goes on record. What must not happen unrecorded waits for its record instead (`FIRST`, and reads of
collections that are `strict`). Denials of one caller beyond a few are told as a number.

Writes are not put on record here: the users' logs have them. No value, secret or token ever is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import NamedTuple, TypedDict, Unpack

import structlog
from prometheus_client import Counter

from roost.commands.askers import ROOST, Asker, Place, names_of
from roost.commands.floods import Floods
from roost.core import audit
from roost.core.audit import AuditStore, Draft, Link, Outcome
from roost.core.definitions import Definition
from roost.core.errors import Code, RoostError
from roost.core.ports import EngineFull, EngineUnavailable, TransactionLost
from roost.settings import Settings

log = structlog.get_logger(__name__)

ON_DOCUMENTS = frozenset({"read", "unmask"})
"""Actions that are on record where the collection's definition says so, and for some kinds of principals always."""
FOR_THE_COMPANY = frozenset({"support", "analyst", "admin"})
"""Those kinds."""
FIRST = frozenset({"import", "export", "erase", "define", "policies", "clients", "revoke"})
"""Administrative actions: these are on record before they are carried out."""
SOON = frozenset({"audit", "list", "sessions"})
"""Other actions that are on record whoever asks."""
KEYS = "keys"
"""The action of whoever changes keys."""
TEXT_CHARS_MAX = 200
_BATCH_MAX = 256
_PAUSE_S = 0.05
_PAUSE_S_MAX = 2.0
_CLOSE_S = 5.0

_recorded = Counter("roost_audit_records", "Records put on the audit trail.", ["outcome"])
_lost = Counter("roost_audit_lost", "Records that found no room in the queue, and are a gap on the audit trail.")


class Told(TypedDict, total=False):
    """What a record may tell besides who did what; it is `allowed` where no other outcome is told."""

    outcome: Outcome
    user: str | None
    collection: str | None
    key: str | None
    detail: str | None


class _Entry(NamedTuple):
    """A record that waits, and who waits for it, if anybody."""

    draft: Draft
    future: asyncio.Future[None] | None


class Trail:
    """Puts things on record.

    `chain_key` gives the key of the chain, and may raise what an engine raises. `definition_of` tells what is defined
    of a collection. `committed` hears the number of the last record after each commit.
    """

    def __init__(
        self,
        store: AuditStore,
        settings: Settings,
        *,
        clock: Callable[[], datetime],
        chain_key: Callable[[], Awaitable[bytes]],
        definition_of: Callable[[str], Definition | None],
        committed: Callable[[int], None] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._chain_key = chain_key
        self._definition_of = definition_of
        self._committed = committed
        self._timeout_s = settings.engine_timeout_s
        self._room = settings.audit_queue_max
        self._waiting: deque[_Entry] = deque()
        self._floods = Floods(self._put, settings.audit_flood_s)
        self._lost = 0
        self._pump: asyncio.Task[None] | None = None
        self._key: bytes | None = None

    def wants(self, caller: Asker, collection: str | None) -> bool:
        """Whether it goes on record that `caller` is told what is in a collection."""
        definition = None if collection is None else self._definition_of(collection)
        return (definition is not None and definition.audit != "writes") or caller.principal.kind in FOR_THE_COMPANY

    async def read(
        self,
        caller: Asker,
        action: str,
        user: str | None,
        collections: str | Iterable[str] | None = None,
        key: str | None = None,
    ) -> None:
        """Put it on record that `caller` was let in, where that is wanted: see the head of docs/guides/audit.md.

        For several collections there is a record for each. Raises `UNAVAILABLE` where it must be on record first and
        cannot be: then nothing may be told.
        """
        if action not in ON_DOCUMENTS:
            named = collections if isinstance(collections, str) else None
            draft = _draft(self._clock(), caller, action, user=user, collection=named, key=key)
            if action in FIRST:
                if user is None or self._floods.admit(draft):
                    await self._commit(draft)
            elif action in SOON:
                self._put_admitted(draft)
            return
        strict = []
        for name in (collections,) if isinstance(collections, str) or collections is None else collections:
            if not self.wants(caller, name):
                continue
            draft = _draft(self._clock(), caller, action, user=user, collection=name, key=key)
            definition = None if name is None else self._definition_of(name)
            if definition is not None and definition.audit == "strict":
                strict.append(draft)
            else:
                self._put(draft)
        if strict:
            await asyncio.gather(*map(self._commit, strict))

    def denied(
        self,
        caller: Asker,
        action: str,
        user: str | None = None,
        collection: str | None = None,
        *,
        detail: str | None = None,
    ) -> None:
        """Put it on record that `caller` was refused."""
        self.note(caller, action, outcome="denied", user=user, collection=collection, detail=detail)

    def note(self, who: Asker | Place, action: str, **told: Unpack[Told]) -> None:
        """Put something on record soon. `who` is a caller; or an origin alone, of one who has not proved who that is.

        `detail` is a short text without values and secrets: which session, what failed. Never raises; returns at once.
        """
        self._put_admitted(_draft(self._clock(), who, action, **told))

    async def key(self) -> bytes:
        """The key of the chain, which never changes. Raises what an engine raises."""
        if self._key is None:
            self._key = await self._chain_key()
        return self._key

    async def close(self) -> None:
        """Put down what waits, for some seconds at most."""
        self._floods.close()
        if self._pump is not None:
            await asyncio.wait((self._pump,), timeout=_CLOSE_S)
            if not self._pump.done():
                self._pump.cancel()
                await asyncio.wait((self._pump,))
        if left := len(self._waiting) + self._lost:
            log.error("audit records are lost: the engine did not take them before this worker ended", records=left)

    def _put_admitted(self, draft: Draft) -> None:
        """Put it down, or count it where it is one of a flood."""
        if draft.action == "audit":
            # Whoever waits for the trail to grow would else be answered by the record of having asked.
            admitted = self._floods.admit(draft, single_max=1)
        else:
            often = draft.outcome != "allowed" or draft.action in SOON
            admitted = not often or self._floods.admit(draft)
        if admitted:
            self._put(draft)

    def _put(self, draft: Draft) -> None:
        if len(self._waiting) >= self._room:
            if not self._lost:
                log.error("the audit queue is full: records are lost until the engine takes them again")
            self._lost += draft.count
            _lost.inc(draft.count)
            return
        self._wait(_Entry(draft, None))

    async def _commit(self, draft: Draft) -> None:
        if len(self._waiting) >= self._room:
            raise _refused()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wait(_Entry(draft, future))
        try:
            async with asyncio.timeout(self._timeout_s):
                await future
        except TimeoutError:
            raise _refused() from None

    def _wait(self, entry: _Entry) -> None:
        self._waiting.append(entry)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        """Append what waits, batch by batch, until nothing does."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH_MAX))]
            try:
                await self._append(batch)
            except asyncio.CancelledError:
                self._waiting.extendleft(reversed(batch))
                raise
            except Exception:
                # One record that the engine chokes on must not take the others along: each is tried alone.
                log.exception("audit records failed", records=len(batch))
                for entry in batch:
                    await self._alone(entry)

    async def _alone(self, entry: _Entry) -> None:
        try:
            await self._append([entry])
        except Exception:
            log.exception("an audit record failed", action=entry.draft.action)
            self._lost += entry.draft.count
            _lost.inc(entry.draft.count)
            _answer(entry, _refused())

    async def _append(self, batch: list[_Entry]) -> None:
        """Append a batch, however long the engine is away; whoever does not wait any more is left out."""
        pause_s, away, lost = _PAUSE_S, False, self._lost
        group: _Group | None = None
        while True:
            if group is None or not group.unknown:
                batch = [entry for entry in batch if entry.future is None or not entry.future.done()]
                if not batch:
                    return
                group = _Group(self._store, [*self._gap(lost), *(entry.draft for entry in batch)])
            try:
                end = await group.run(await self.key())
            except (EngineUnavailable, TransactionLost) as error:
                if isinstance(error, EngineFull):
                    for entry in batch:
                        _answer(entry, _refused())
                if not away:  # once, however long it lasts
                    log.warning("the audit trail waits for the engine")
                away = True
            else:
                self._lost -= lost
                self._tell(batch, end)
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _PAUSE_S_MAX)

    def _gap(self, lost: int) -> list[Draft]:
        """What tells that records are missing, if they are."""
        if not lost:
            return []
        detail = "Records that should stand here are lost: the queue was full."
        return [
            Draft(at=self._clock(), actor=ROOST, kind=ROOST, action="gap", outcome="failed", count=lost, detail=detail)
        ]

    def _tell(self, batch: list[_Entry], end: Link) -> None:
        for entry in batch:
            _recorded.labels(entry.draft.outcome).inc(entry.draft.count)
            _answer(entry, None)
        if self._committed is not None:
            self._committed(end.n)


class Acts:
    """Puts on record what `who` does to keys, at once: see `roost.crypto.acts.Recorder`.

    There is no queue, and so no server, that it needs: this is done before there is one, and beside it.
    """

    def __init__(
        self, store: AuditStore, who: Asker, clock: Callable[[], datetime], chain_key: Callable[[], Awaitable[bytes]]
    ) -> None:
        self._store = store
        self._who = who
        self._clock = clock
        self._chain_key = chain_key

    async def __call__(self, detail: str, /, *, user: str | None = None, outcome: Outcome = "allowed") -> None:
        """Put an act on record. Raises `UNAVAILABLE`, and what the key of the chain raises."""
        draft = _draft(self._clock(), self._who, KEYS, outcome=outcome, user=user, detail=detail)
        group, recorded = _Group(self._store, [draft]), False
        while not recorded:
            try:
                await group.run(await self._chain_key())
            except TransactionLost:
                continue
            except RoostError:
                raise
            except Exception as error:
                raise _refused() from error
            recorded = True
        _recorded.labels(outcome).inc()


class _Group:
    """The records of one transaction; `run` may be repeated until it does not raise, and appends them once."""

    def __init__(self, store: AuditStore, drafts: list[Draft]) -> None:
        self._store = store
        self._drafts = drafts
        self._attempted: Link | None = None

    @property
    def unknown(self) -> bool:
        """Whether an attempt was made that may have been committed. `run` finds out; a new group would not."""
        return self._attempted is not None

    async def run(self, key: bytes) -> Link:
        """The chain's end once all is durable. Raises what the engine raises."""
        async with self._store.transaction() as tx:
            end = await tx.lock()
            # The lock has waited for the attempt to end; if it was committed, its last record is there.
            if self._attempted is not None and await tx.mac(self._attempted.n) == self._attempted.mac:
                return self._attempted
            self._attempted = None
            records = audit.chain(key, end, self._drafts)
            await tx.append(records)
            # From here on a broken connection leaves it open whether this was committed.
            self._attempted = Link(records[-1].n, records[-1].mac, records[-1].at)
            return self._attempted


def _draft(at: datetime, who: Asker | Place, action: str, **told: Unpack[Told]) -> Draft:
    actor, kind, place = names_of(who)
    return Draft(
        at=at,
        actor=_text(actor),
        kind=kind,
        action=action,
        outcome=told.get("outcome", "allowed"),
        address=_text(place.address),
        request_id=_text(place.request_id),
        purpose=_text_or_none(place.purpose),
        user=_text_or_none(told.get("user")),
        collection=_text_or_none(told.get("collection")),
        key=_text_or_none(told.get("key")),
        detail=_text_or_none(told.get("detail")),
    )


def _answer(entry: _Entry, refusal: RoostError | None) -> None:
    if entry.future is None or entry.future.done():
        return
    if refusal is None:
        entry.future.set_result(None)
    else:
        entry.future.set_exception(refusal)


def _refused() -> RoostError:
    detail = "This has to be put on record first, which cannot be done now."
    return RoostError(Code.UNAVAILABLE, detail, retry_after_s=1)


def _text(text: str) -> str:
    """A text that every engine stores as it is, of a bounded length."""
    if len(text) > TEXT_CHARS_MAX or not (text.isascii() and text.isprintable()):
        text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:TEXT_CHARS_MAX])
    return text


def _text_or_none(text: str | None) -> str | None:
    return None if text is None else _text(text)
