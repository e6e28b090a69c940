"""One timer for many waits: each ends in its time, and nobody else's cancellation is taken for lateness."""

from __future__ import annotations

import asyncio

import pytest

from roost.wire.patience import Patience

LONG_S = 60.0


def test_each_that_is_late_is_told_and_nobody_else() -> None:
    async def run() -> None:
        patience = Patience(0.05)
        done = asyncio.Event()

        async def late() -> None:
            with pytest.raises(TimeoutError), patience.wait():
                await asyncio.sleep(LONG_S)
            task = asyncio.current_task()
            assert task is not None
            assert not task.cancelling()

        async def quick() -> None:
            with patience.wait():
                await asyncio.sleep(0)
            await done.wait()

        waiting = asyncio.gather(quick(), quick())
        # The second round begins after the timer of the first has found nobody left.
        for _ in range(2):
            await asyncio.wait_for(asyncio.gather(late(), late(), late()), LONG_S)
        done.set()
        await waiting

    asyncio.run(run())


def test_who_is_cancelled_is_not_late() -> None:
    async def run() -> None:
        patience = Patience(LONG_S)

        async def wait() -> None:
            with patience.wait():
                await asyncio.sleep(LONG_S)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_an_error_of_ones_own_passes_through() -> None:
    async def run() -> None:
        with pytest.raises(KeyError), Patience(LONG_S).wait():
            raise KeyError

    asyncio.run(run())
