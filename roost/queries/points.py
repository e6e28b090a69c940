"""Batched point reads: the documents that are asked for while a query is under way are the next query."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

from roost.batcher import Batcher
from roost.core.keys import Corrupt
from roost.core.ports import DocumentRef, Engine, EngineUnavailable, Point, TransactionLost
from roost.settings import Settings

_PAUSE_S = 0.05


class Points:
    """Strong reads of single documents: each sees every write that was acknowledged before it was asked for."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._batcher: Batcher[DocumentRef, Point] = Batcher(
            self._run,
            runners=settings.readers,
            batch_max=settings.batch_commands_max,
            queue_max=settings.queue_commands_max,
            timeout_s=settings.engine_timeout_s,
        )

    def get(self, ref: DocumentRef) -> Awaitable[Point]:
        """The document as it is now. Raises `UNAVAILABLE` or `OVERLOADED`."""
        return self._batcher.submit(ref)

    async def _run(self, refs: list[DocumentRef], deadline: float) -> Sequence[Point | Corrupt]:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await self._engine.points(refs)
            except Corrupt as corrupt:
                if len(refs) == 1:
                    return [corrupt]
                # One that cannot be opened must not take its batch along: each is read alone.
                return [point for ref in refs for point in await self._run([ref], deadline)]
            except (EngineUnavailable, TransactionLost) as error:
                if loop.time() + _PAUSE_S >= deadline:
                    raise EngineUnavailable("The engine does not answer.") from error
            await asyncio.sleep(_PAUSE_S)
