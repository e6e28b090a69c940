"""Retention: what collections say of how long to keep things, carried out.

A definition's `ttl_s` deletes documents that long after their last write, and `history_s` folds the logs that have, or
had, documents of such a collection to that age: sooner than the settings keep other logs, but never what compaction
has to keep (`roost.feed.compaction`). Nobody is asked; who follows is told by the event, as of any deletion.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
import structlog

from roost.core.commands import Change, Op, Versions
from roost.core.definitions import Definition
from roost.core.errors import RoostError
from roost.core.events import Head
from roost.core.ids import SYSTEM_USER
from roost.core.ports import Engine, EngineUnavailable
from roost.core.retention import Expired
from roost.feed import compaction
from roost.settings import Settings

ACTOR = "roost"
PAGE_USERS = 1_000
PAGE_DOCUMENTS = 200
"""Documents that are deleted at once; the writer has others to serve meanwhile."""

log = structlog.get_logger(__name__)

Run = Callable[[Change], Awaitable[object]]


class Tally(msgspec.Struct):
    """How many users were looked at, documents deleted, logs folded, and events that this made superfluous."""

    users: int = 0
    expired: int = 0
    folded: int = 0
    events: int = 0


async def let_go(
    engine: Engine, settings: Settings, now: datetime, definitions: Mapping[str, Definition], run: Run
) -> Tally:
    """Delete and fold what has been kept long enough, of all users; `run` carries out changes.

    Raises what the engine and `run` raise.
    """
    tally = Tally()
    before = {
        name: now - timedelta(seconds=defined.ttl_s)
        for name, defined in definitions.items()
        if defined.ttl_s is not None
    }
    keep_s = {name: defined.history_s for name, defined in definitions.items() if defined.history_s is not None}
    if not before and not keep_s:
        return tally
    after = None
    while page := await engine.users(after, PAGE_USERS):
        heads = [head for head in page if head.user != SYSTEM_USER and head.erased_at is None]
        after = page[-1].user
        tally.users += len(heads)
        if before:
            await _expire(engine, heads, before, run, tally)
        if keep_s:
            await _fold(engine, settings, now, heads, keep_s, tally)
    return tally


async def _expire(
    engine: Engine, heads: Sequence[Head], before: Mapping[str, datetime], run: Run, tally: Tally
) -> None:
    users = [head.user for head in heads if not before.keys().isdisjoint(head.counts)]
    while users:
        found = await engine.retention.expired(users, before, PAGE_DOCUMENTS)
        deleted = sum(await asyncio.gather(*(_delete(each, run) for each in found)))
        tally.expired += deleted
        if len(found) < PAGE_DOCUMENTS or not deleted:
            return


async def _delete(expired: Expired, run: Run) -> bool:
    """Delete a document, unless it has been written again. Whoever else refuses does so for a reason."""
    condition = Versions(frozenset({expired.version}))
    op = Op("delete", expired.collection, expired.key, condition=condition)
    try:
        await run(Change(expired.user, (op,), ACTOR))
    except EngineUnavailable:
        raise
    except RoostError:
        return False
    return True


async def _fold(
    engine: Engine,
    settings: Settings,
    now: datetime,
    heads: Sequence[Head],
    keep_s: Mapping[str, int],
    tally: Tally,
) -> None:
    least: dict[str, int] = {}
    for user, collection in await engine.retention.holders([head.user for head in heads], list(keep_s)):
        least[user] = min(keep_s[collection], least.get(user, keep_s[collection]))
    for head in heads:
        if head.user in least and least[head.user] < settings.history_keep_s:
            shorter = msgspec.structs.replace(settings, history_keep_s=least[head.user])
            folded = await compaction.compact(engine, shorter, now, user=head.user)
            tally.folded += folded.folded
            tally.events += folded.events
