"""Group what arrives together: the mechanism behind group commit and batched reads.

While one batch is on its way to the engine, the next gathers; so the batch grows with the load, and a lone
request waits for nobody. The queue is bounded, and whoever has waited too long is told so, whether the item is
still queued (then it is dropped) or in a batch that does not come back (then it may be carried out yet).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from roost.core.errors import Code, RoostError

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Entry(NamedTuple, Generic[Item, Result]):
    """An item, who waits for its result, and until when, by the event loop's time."""

    item: Item
    future: asyncio.Future[Result]
    deadline: float


class Batcher(Generic[Item, Result]):
    """Runs `run(items, deadline)` on batches of at most `batch_max`, at most `runners` at once.

    `run` answers with a result or an exception for each item, in order; `deadline` is the event loop's time
    by which the oldest item must be answered. At most `queue_max` items wait; one more raises `OVERLOADED`. An item
    that has no result after `timeout_s` raises `UNAVAILABLE`.
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
        self._queue: deque[_Entry[Item, Result]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """Return the result of `item`, or raise the exception it was answered with.

        A caller that is cancelled before its batch starts has changed nothing; after that, the batch goes on
        without it.
        """
        if len(self._queue) >= self._queue_max:
            raise RoostError(Code.OVERLOADED, "Too many requests are waiting for the engine.", retry_after_s=1)
        loop = self._loop
        if loop is None:
            # Looked up once: this is on the way of every request.
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._queue.append(_Entry(item, future, loop.time() + self._timeout_s))
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
        loop = asyncio.get_running_loop()
        while self._queue:
            batch: list[_Entry[Item, Result]] = []
            while self._queue and len(batch) < self._batch_max:
                entry = self._queue.popleft()
                if not entry.future.done():
                    batch.append(entry)
            if not batch:
                continue
            watch = _Watch(loop, batch, self._queue, self._timeout_s)
            try:
                results = await self._run([entry.item for entry in batch], batch[0].deadline)
            except Exception as error:  # noqa: BLE001 (whatever it is, it belongs to those who wait)
                results = [error] * len(batch)
            finally:
                watch.end()
            for entry, result in zip(batch, results, strict=True):
                if entry.future.done():
                    continue
                if isinstance(result, BaseException):
                    entry.future.set_exception(result)
                else:
                    entry.future.set_result(result)


class _Watch(Generic[Item, Result]):
    """Answers for a batch that does not come back: to each of those in it, and behind it, when their time is over."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Entry[Item, Result]],
        queue: deque[_Entry[Item, Result]],
        timeout_s: float,
    ) -> None:
        self._loop = loop
        self._batch = batch
        self._queue = queue
        self._timeout_s = timeout_s
        self._timer = loop.call_at(batch[0].deadline, self._look)

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        late = [entry for entry in self._batch if entry.deadline <= now]
        while self._queue and self._queue[0].deadline <= now:
            late.append(self._queue.popleft())
        for entry in late:
            if not entry.future.done():
                detail = "The engine did not answer in time: a write was carried out once, or not at all."
                entry.future.set_exception(RoostError(Code.UNAVAILABLE, detail, retry_after_s=1))
        # Deadlines are in the order of arrival, and an item that arrives later has all of its time before it.
        waiting = [entry.deadline for entry in (*self._batch, *islice(self._queue, 1)) if entry.deadline > now]
        self._timer = self._loop.call_at(min(waiting, default=now + self._timeout_s), self._look)
