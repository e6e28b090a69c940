"""The batcher: what arrives together leaves together, nobody waits for ever, and everyone gets their own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.batcher import Batcher
from roost.core.errors import Code, RoostError


class Doubler:
    """Answers each item with its double, a batch at a time, once it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, items: list[int], deadline: float) -> Sequence[int | BaseException]:
        self.batches.append(items)
        await self.gate.wait()
        return [ValueError(item) if item < 0 else 2 * item for item in items]


def batcher(run: Doubler, *, runners: int = 1, batch_max: int = 4, queue_max: int = 8) -> Batcher[int, int]:
    return Batcher(run, runners=runners, batch_max=batch_max, queue_max=queue_max, timeout_s=1)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_what_arrives_while_a_batch_runs_is_the_next_batch() -> None:
    async def go() -> None:
        run = Doubler()
        run.gate.clear()
        group = batcher(run)
        first = asyncio.ensure_future(group.submit(1))
        await settle()
        rest = [asyncio.ensure_future(group.submit(item)) for item in range(2, 8)]
        await settle()
        assert run.batches == [[1]]
        run.gate.set()
        assert await asyncio.gather(first, *rest) == [2, 4, 6, 8, 10, 12, 14]
        assert run.batches == [[1], [2, 3, 4, 5], [6, 7]]

    asyncio.run(go())


def test_one_after_the_other_each_finds_a_runner() -> None:
    """The runner that has just answered the first item must not be taken for one that will see the second."""

    async def go() -> None:
        group = batcher(Doubler())
        async with asyncio.timeout(5):
            assert [await group.submit(item) for item in range(50)] == [2 * item for item in range(50)]

    asyncio.run(go())


def test_an_item_that_fails_fails_alone() -> None:
    async def go() -> None:
        group = batcher(Doubler())
        good, bad = await asyncio.gather(group.submit(3), group.submit(-1), return_exceptions=True)
        assert good == 6
        assert isinstance(bad, ValueError)

    asyncio.run(go())


def test_a_full_queue_refuses_at_once() -> None:
    async def go() -> None:
        run = Doubler()
        run.gate.clear()
        group = batcher(run, queue_max=2)
        waiting = [asyncio.ensure_future(group.submit(1))]
        await settle()
        waiting += [asyncio.ensure_future(group.submit(item)) for item in (2, 3)]
        await settle()
        with pytest.raises(RoostError) as refusal:
            await group.submit(4)
        assert refusal.value.code is Code.OVERLOADED
        assert refusal.value.retry_after_s
        run.gate.set()
        assert await asyncio.gather(*waiting) == [2, 4, 6]

    asyncio.run(go())


def test_who_leaves_before_the_batch_starts_is_not_in_it() -> None:
    async def go() -> None:
        run = Doubler()
        run.gate.clear()
        group = batcher(run)
        first = asyncio.ensure_future(group.submit(1))
        await settle()
        gone, stays = (asyncio.ensure_future(group.submit(item)) for item in (2, 3))
        await settle()
        gone.cancel()
        await settle()
        run.gate.set()
        assert list(await asyncio.gather(first, stays)) == [2, 6]
        assert run.batches == [[1], [3]]

    asyncio.run(go())


@given(items=st.lists(st.integers(), max_size=60), runners=st.integers(1, 4), batch_max=st.integers(1, 10))
@settings(max_examples=50)
def test_everyone_gets_their_own_answer(items: list[int], runners: int, batch_max: int) -> None:
    async def go() -> None:
        run = Doubler()
        group = batcher(run, runners=runners, batch_max=batch_max, queue_max=100)
        answers = await asyncio.gather(*(group.submit(item) for item in items), return_exceptions=True)
        for item, answer in zip(items, answers, strict=True):
            assert isinstance(answer, ValueError) if item < 0 else answer == 2 * item
        assert sorted(item for batch in run.batches for item in batch) == sorted(items)
        assert all(len(batch) <= batch_max for batch in run.batches)
        await group.close()

    asyncio.run(go())


def test_nobody_waits_longer_than_the_time_set() -> None:
    """Neither in a batch that does not come back, nor behind it; who waits behind it is dropped."""

    async def go() -> None:
        run = Doubler()
        run.gate.clear()
        group = Batcher(run, runners=1, batch_max=2, queue_max=8, timeout_s=0.05)
        results = await asyncio.gather(*map(group.submit, range(5)), return_exceptions=True)
        assert [result.code for result in results if isinstance(result, RoostError)] == [Code.UNAVAILABLE] * 5
        # Who comes later has a time of their own, though nothing has moved since.
        with pytest.raises(RoostError):
            await group.submit(5)
        group._timeout_s = 60
        last = asyncio.ensure_future(group.submit(6))
        await settle()
        run.gate.set()
        assert await last == 12
        await group.close()
        assert run.batches == [[0, 1], [6]]

    asyncio.run(go())
