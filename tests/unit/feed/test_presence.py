"""Presence: workers agree on who is connected, write little, and survive an engine that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.commands.transaction import GroupCommit
from roost.core.commands import CreateUser
from roost.core.decide import Rules
from roost.core.errors import Code, RoostError
from roost.core.events import Device
from roost.core.limits import Limits
from roost.core.ports import EngineUnavailable
from roost.engines.memory import Memory
from roost.feed import presence
from roost.feed.presence import Presence, Watch

PATIENCE_S = 60
START = datetime(2026, 1, 1, tzinfo=UTC)
RULES = Rules(Limits(), lambda _: "lww")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "GATHER_S", 0.001)
    monkeypatch.setattr(presence, "LOOK_S", 0.005)


class Counted(Memory):
    """Counts what it is asked, and may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.touched: list[int] = []
        self.left: list[int] = []
        self.asked: list[int] = []
        self.away = False
        self.answered: Callable[[], None] | None = None
        """Called while the answer to who is connected is on its way."""

    async def touch(self, devices: list[tuple[str, Device]], devices_max: int) -> None:
        self._count(self.touched, len(devices))
        await super().touch(devices, devices_max)

    async def leave(self, devices: list[tuple[str, Device]]) -> None:
        self._count(self.left, len(devices))
        await super().leave(devices)

    async def connected(self, users: list[str], at: datetime) -> dict[str, list[Device]]:
        self._count(self.asked, len(users))
        found = await super().connected(users, at)
        if self.answered is not None:
            answered, self.answered = self.answered, None
            answered()
        return found

    def _count(self, counted: list[int], rows: int) -> None:
        if self.away:
            raise EngineUnavailable("It is away.")
        if rows:
            counted.append(rows)

    async def now(self, user: str = "ada", at: datetime = START) -> list[str]:
        """Who is connected, as the rows tell."""
        return [device.device for device in (await super().connected([user], at))[user]]


@asynccontextmanager
async def worker(
    engine: Counted, clock: Callable[[], datetime] = lambda: START, **kept: float
) -> AsyncIterator[Presence]:
    """A worker's keeper, running."""
    keeper = Presence(engine, clock=clock, refresh_s=kept.get("refresh_s", 60), devices_max=int(kept.get("most", 10)))
    running = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await keeper.close()


async def engine_with(*users: str) -> Counted:
    engine = Counted()
    await engine.open()
    await GroupCommit(engine, [CreateUser(user, "test") for user in users], RULES).run(START)
    return engine


async def until(condition: Callable[[], Awaitable[object] | object]) -> None:
    """Wait for what the workers do by and by."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            holds = condition()
            if await holds if isinstance(holds, Awaitable) else holds:
                return
            await asyncio.sleep(0.001)


async def rows(engine: Counted, *devices: str, user: str = "ada") -> None:
    """Wait until these are connected, as the rows tell."""

    async def agree() -> bool:
        return await engine.now(user) == list(devices)

    await until(agree)


async def told(watch: Watch, *devices: str) -> list[Device]:
    """Wait until a watch tells these."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            connected = await watch.changed()
            if [device.device for device in connected] == list(devices):
                return connected


def test_a_device_is_connected_until_its_last_socket_is_gone() -> None:
    async def go() -> None:
        engine = await engine_with("ada")
        async with worker(engine) as here:
            with here.connect("ada", "phone"):
                await rows(engine, "phone")
                with here.connect("ada", "phone"), here.connect("ada", "laptop"):
                    await rows(engine, "laptop", "phone")
                await rows(engine, "phone")
            await rows(engine)

    asyncio.run(go())


def test_what_comes_together_is_written_together() -> None:
    async def go() -> None:
        users = [f"user{number}" for number in range(300)]
        engine = await engine_with(*users)
        async with worker(engine) as here:
            with ExitStack() as sockets:
                for user in users:
                    sockets.enter_context(here.connect(user, "phone"))
                await until(lambda: sum(engine.touched) == 300)
                assert len(engine.touched) <= 2
            await until(lambda: sum(engine.left) == 300)
            assert len(engine.left) <= 2
            assert engine.touched == engine.touched[:2], "nothing is refreshed before its time"

    asyncio.run(go())


def test_a_row_is_refreshed_before_it_runs_out() -> None:
    async def go() -> None:
        engine, now = await engine_with("ada"), [START]
        async with worker(engine, lambda: now[0], refresh_s=0.02) as here:
            with here.connect("ada", "phone", 3) as connection:
                await rows(engine, "phone")
                for step in range(1, 4):
                    now[0] = START + timedelta(seconds=step)
                    connection.read(3 + step)
                    await until(lambda: engine.now(at=now[0]))
                    assert (await engine.devices("ada") or [])[0] == Device(
                        "phone", 0, 3 + step, now[0], now[0] + timedelta(seconds=0.05)
                    )
            connection.read(1)  # a device does not forget

    asyncio.run(go())


def test_a_row_is_written_again_and_again() -> None:
    async def go() -> None:
        engine = await engine_with("ada")
        async with worker(engine, refresh_s=0.02) as here:
            with here.connect("ada", "phone"):
                await until(lambda: len(engine.touched) >= 4)

    asyncio.run(go())


def test_how_far_a_device_has_read_is_written_when_it_leaves() -> None:
    async def go() -> None:
        engine = await engine_with("ada")
        async with worker(engine) as here:
            with here.connect("ada", "phone", 3) as connection:
                await rows(engine, "phone")
                connection.read(9)
                connection.read(8)
                assert [device.cursor for device in await here.devices("ada")] == [9]
            await rows(engine)
            assert await engine.devices("ada") == [Device("phone", 0, 9, START)]

    asyncio.run(go())


def test_a_watch_tells_who_is_connected_here_at_once_and_elsewhere_soon() -> None:
    async def go() -> None:
        engine = await engine_with("ada", "bob")
        async with worker(engine) as here, worker(engine) as there:
            with here.connect("ada", "phone"), here.connect("bob", "tablet"), there.watch("ada") as watch:
                await told(watch, "phone")
                looks = len(engine.asked)
                with there.connect("ada", "laptop"):
                    assert [device.device for device in await watch.changed()] == ["laptop", "phone"]
                    assert len(engine.asked) == looks, "what happens here needs no look"
                assert [device.device for device in await watch.changed()] == ["phone"]
                with here.connect("ada", "watch"):
                    await told(watch, "phone", "watch")
            with there.watch("ada") as watch:
                await told(watch)

    asyncio.run(go())


def test_a_watch_tells_only_what_has_changed_and_the_newest_of_that() -> None:
    async def go() -> None:
        engine = await engine_with("ada")
        async with worker(engine, refresh_s=0.01) as here:
            with here.watch("ada") as watch, here.connect("ada", "phone"):
                await told(watch, "phone")
                with pytest.raises(TimeoutError):  # though its row is refreshed and looked at all the time
                    async with asyncio.timeout(0.1):
                        await watch.changed()
                for _ in range(5):
                    with here.connect("ada", "laptop"):
                        pass
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await watch.changed()
                with here.connect("ada", "a"), here.connect("ada", "b"):
                    assert [device.device for device in await watch.changed()] == ["a", "b", "phone"]

    asyncio.run(go())


def test_who_left_here_is_not_told_again_from_what_was_known_before(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        engine = await engine_with("ada")
        async with worker(engine) as here, worker(engine) as there:
            with here.connect("ada", "a"), there.connect("ada", "b"), here.watch("ada") as watch, ExitStack() as phone:
                phone.enter_context(here.connect("ada", "phone"))
                await told(watch, "a", "b", "phone")
                await until(lambda: {device.device for device in here._known["ada"]} == {"a", "b", "phone"})
                monkeypatch.setattr(presence, "LOOK_S", 60)
                phone.close()
                await until(lambda: engine.left)
                with here.connect("ada", "c"):
                    assert [device.device for device in await watch.changed()] == ["a", "b", "c"]

    asyncio.run(go())


def test_who_leaves_while_the_engine_is_asked_is_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        engine = await engine_with("ada")
        async with worker(engine) as here, AsyncExitStack() as stack:
            watch = stack.enter_context(here.watch("ada"))
            phone = stack.enter_context(ExitStack())
            phone.enter_context(here.connect("ada", "phone"))
            await told(watch, "phone")
            await rows(engine, "phone")

            def leave() -> None:
                phone.close()
                monkeypatch.setattr(presence, "LOOK_S", 60)

            engine.answered = leave
            await until(lambda: engine.answered is None)
            async with asyncio.timeout(PATIENCE_S):
                assert await watch.changed() == []

    asyncio.run(go())


@pytest.mark.parametrize("leaver", [0, 1], ids=["the old connection ends", "the new connection ends"])
@pytest.mark.parametrize("watched", [False, True])
def test_a_device_that_is_connected_twice_stays_when_one_ends(leaver: int, *, watched: bool) -> None:
    async def go() -> None:
        engine, now = await engine_with("ada"), [START]
        async with AsyncExitStack() as stack:
            workers = [await stack.enter_async_context(worker(engine, lambda: now[0])) for _ in range(2)]
            sockets = [ExitStack(), ExitStack()]
            for keeper, socket in zip(workers, sockets, strict=True):
                engine.touched.clear()
                socket.enter_context(keeper.connect("ada", "phone"))
                await until(lambda: engine.touched)
                now[0] += timedelta(microseconds=1)
            if watched:
                watch = stack.enter_context(workers[1 - leaver].watch("ada"))
                await told(watch, "phone")
            sockets[leaver].close()
            await until(lambda: engine.left)
            if leaver == 0:
                assert await engine.now() == ["phone"], "the newer connection's row is not touched by that"
            await rows(engine, "phone")
            sockets[1 - leaver].close()
            await rows(engine)

    asyncio.run(go())


STEPS = st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["phone", "laptop"]), st.integers(0, 3)), max_size=30)


@given(steps=STEPS)
@settings(max_examples=60)
def test_workers_agree_in_the_end(steps: list[tuple[int, str, int]]) -> None:
    """Sockets open and close at two workers; a step for a device that is connected there ends that."""

    def ticks() -> Iterator[datetime]:
        at = START
        while True:
            yield at
            at += timedelta(microseconds=1)

    async def go() -> None:
        engine, times = await engine_with("ada"), ticks()
        async with AsyncExitStack() as stack:
            workers = [await stack.enter_async_context(worker(engine, lambda: next(times))) for _ in range(2)]
            watches = [stack.enter_context(keeper.watch("ada")) for keeper in workers]
            sockets: dict[tuple[int, str], ExitStack] = {}
            for where, device, pause in steps:
                if (where, device) in sockets:
                    sockets.pop((where, device)).close()
                else:
                    sockets[where, device] = stack.enter_context(ExitStack())
                    sockets[where, device].enter_context(workers[where].connect("ada", device))
                await asyncio.sleep(pause / 1000)
            truth = sorted({device for _, device in sockets})
            for _ in range(2):  # it stays so
                await rows(engine, *truth)
                await asyncio.sleep(0.02)
            for watch in watches:
                if truth:
                    # Whatever it told before, the last is the truth; a marker makes sure that there is one more.
                    with workers[0].connect("ada", "zz"):
                        await told(watch, *truth, "zz")
                        await told_after(watch, truth)

    async def told_after(watch: Watch, truth: list[str]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                while True:
                    connected = [device.device for device in await watch.changed()]
                    assert connected == [*truth, "zz"]

    asyncio.run(go())


def test_an_engine_that_is_away_is_waited_for_and_nothing_piles_up() -> None:
    async def go() -> None:
        engine = await engine_with("ada")
        async with worker(engine) as here:
            with here.connect("ada", "phone"):
                await rows(engine, "phone")
                with ExitStack() as sockets, here.watch("ada") as watch:
                    await told(watch, "phone")
                    engine.away = True
                    sockets.enter_context(here.connect("ada", "tablet"))
                    await told(watch, "phone", "tablet")
                    for number in range(50):
                        with here.connect("ada", f"passing-{number}"):
                            await asyncio.sleep(0.0005)
                    await until(lambda: not here._gone)
                    assert len(here._fresh) <= 2
                    engine.away = False
                    await rows(engine, "phone", "tablet")
                await rows(engine, "phone")
            await rows(engine)

    asyncio.run(go())


def test_everything_is_left_in_one_statement_at_the_end() -> None:
    async def go() -> None:
        engine = await engine_with("ada", "bob")
        with ExitStack() as sockets:
            async with worker(engine) as here:
                for user in ("ada", "bob"):
                    for device in ("phone", "laptop"):
                        sockets.enter_context(here.connect(user, device))
                await rows(engine, "laptop", "phone")
                await rows(engine, "laptop", "phone", user="bob")
            assert engine.left == [4]
            assert await engine.now() == await engine.now("bob") == []
        engine.away = True
        await here.close()

    asyncio.run(go())


def test_devices_are_listed_with_what_is_known_here() -> None:
    async def go() -> None:
        engine = await engine_with("ada")
        await engine.touch([("ada", Device("old", 0, 1, START, START)), ("ada", Device("tv", 0, 1, START))], 10)
        async with worker(engine) as here:
            with pytest.raises(RoostError) as refusal:
                await here.devices("nobody")
            assert refusal.value.code is Code.NOT_FOUND
            with here.connect("ada", "phone", 4):
                listed = await here.devices("ada")
                assert [(device.device, device.cursor, device.until is None) for device in listed] == [
                    ("old", 1, True),
                    ("phone", 4, False),
                    ("tv", 1, True),
                ]
                await rows(engine, "phone")
            assert all(device.until is None for device in await here.devices("ada"))

    asyncio.run(go())


def test_more_watched_users_than_one_look_is_for_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "WATCHED_MAX", 2)

    async def go() -> None:
        users = [f"user{number}" for number in range(7)]
        engine = await engine_with(*users)
        async with worker(engine) as here, worker(engine) as there:
            with ExitStack() as stack:
                watches = [stack.enter_context(there.watch(user)) for user in users]
                for watch in watches:
                    await told(watch)
                engine.asked.clear()
                for user in users:
                    stack.enter_context(here.connect(user, "phone"))
                for watch in watches:
                    await told(watch, "phone")
                assert max(engine.asked) <= max(2, len(users))

    asyncio.run(go())


def test_a_device_without_a_user_or_beyond_the_limit_is_seen_by_those_beside_it_only() -> None:
    async def go() -> None:
        engine = await engine_with("ada")
        async with worker(engine, most=1) as here:
            with here.connect("nobody", "phone"), here.watch("nobody") as watch:
                await told(watch, "phone")
            with here.connect("ada", "phone"):
                await rows(engine, "phone")
                with here.connect("ada", "tablet"), here.watch("ada") as watch:
                    await told(watch, "phone", "tablet")
                    assert [device.device for device in await engine.devices("ada") or ()] == ["phone"]
        assert await engine.head("nobody") is None

    asyncio.run(go())
