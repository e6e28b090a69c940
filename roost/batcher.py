"""Group what arrives together: the mechanism behind group commit and batched reads.

While one batch is on its way to the engine, the next gathers; so the batch grows with the load, and a lone
request waits for nobody. The queue is bounded, and an item that has waited too long is told so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from roost.core.errors import Code, RoostError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Runs `run(items, deadline)` on batches of at most `batch_max`, at most `runners` at once.

    `run` answers with a result or an exception for each item, in order; `deadline` is the event loop's time
    by which the oldest item must be answered. At most `queue_max` items wait; one more raises `OVERLOADED`.
    """

    def __init__(
        self,
        run: Callable[[list[Item], float], Awaitable[Sequence[Result | BaseException]]],
        *,
        runners: int,
        batch_max: int,
        queue_max: int,
        timeout_s: float,
    ) -> None:
        self._run = run
        self._runners = runners
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._timeout_s = timeout_s
        self._queue: deque[tuple[Item, asyncio.Future[Result], float]] = deque()
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """Return the result of `item`, or raise the exception it was answered with.

        A caller that is cancelled before its batch starts has changed nothing; after that, the batch goes on
        without it.
        """
        if len(self._queue) >= self._queue_max:
            raise RoostError(Code.OVERLOADED, "Too many requests are waiting for the engine.", retry_after_s=1)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._queue.append((item, future, loop.time() + self._timeout_s))
        if self._running < self._runners:
            self._running += 1
            task = loop.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def close(self) -> None:
        """Wait until everything that was submitted is answered."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _drain(self) -> None:
        try:
            await self._run_all()
        finally:
            # Before anybody else runs: a callback would come after those whom the last batch has woken, and an item
            # that one of them submits would find a runner that has already left.
            self._running -= 1

    async def _run_all(self) -> None:
        while self._queue:
            batch: list[tuple[Item, asyncio.Future[Result], float]] = []
            while self._queue and len(batch) < self._batch_max:
                entry = self._queue.popleft()
                if not entry[1].done():
                    batch.append(entry)
            if not batch:
                continue
            try:
                results = await self._run([item for item, _, _ in batch], batch[0][2])
            except Exception as error:  # noqa: BLE001 (whatever it is, it belongs to those who wait)
                results = [error] * len(batch)
            for (_, future, _), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, BaseException):
                    future.set_exception(result)
                else:
                    future.set_result(result)
