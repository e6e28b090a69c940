"""The WebSocket between real processes: the same events as by other ways, resumed exactly; pushes, answered once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from roost.core.ids import INBOX
from tests.support.api import Account
from tests.support.server import Server, until
from tests.support.sse import stream
from tests.support.websocket import Socket, opened, put, socket

T = TypeVar("T")
EVENTS = 40


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers."""
    with Server(tmp_path_factory.mktemp("pair") / "data", workers=2, heartbeat_s="5") as server:
        yield server


async def away(work: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """What a blocking client does, beside the event loop."""
    return await asyncio.to_thread(work, *arguments, **named)


def play(account: Account, act: Callable[[Socket], Awaitable[None]], **hello: Any) -> None:
    """One socket of an account's, from `welcome` on."""

    async def whole() -> None:
        async with socket(account.server.port, account.user, account.token, **hello) as device:
            await act(device)

    asyncio.run(whole())


def test_a_socket_tells_the_log_then_that_it_is_live_then_what_happens(ada: Account) -> None:
    for number in range(3):
        ada.put("notes", "k", number)

    async def act(device: Socket) -> None:
        assert [event["seq"] for event in await device.until_live()] == [1, 2, 3]
        for number in range(3):
            await away(ada.put, "notes", "k", number)
            (event,) = await device.events(4 + number)
            assert (event["seq"], event["value"]) == (4 + number, number)

    play(ada, act, after=0)


def test_polling_streams_and_sockets_tell_the_same(ada: Account) -> None:
    ada.put("notes", "é", {"a": [1, None, "x\ny"]})
    ada.merge("notes", "é", {"b": 1.0})
    ada.delete("notes", "é")

    async def act(device: Socket) -> None:
        told = await device.until_live()
        answer = await device.push(put(1, "notes", "k", {"z": 1, "a": "é"}, base=3))
        assert answer["results"] == [{"number": 1, "status": "applied", "seq": 4}]
        told += await device.events(4)
        assert told == ada.events().json()["events"]
        with stream(ada) as events:
            assert told == [message.data for message, _ in zip(events, range(4), strict=False)]

    play(ada, act, after=0, device="phone")


def test_a_value_is_stored_by_a_push_as_by_a_put(ada: Account) -> None:
    raw = b' {"b": 1.50, "a" : "\\u00e9\\/", "n": [ 1e2, -0 ] }'
    ada.put_raw("notes", "put", raw)

    async def act(device: Socket) -> None:
        await device.connection.send(
            b'{"type":"push","mutations":[{"number":1,"base":0,"clock":1,"ops":[{"op":"put","collection":"notes",'
            b'"key":"push","value":%b}]}]}' % raw,
            text=True,
        )
        assert (await device.hear("pushed"))["results"][0]["status"] == "applied"

    play(ada, act, device="phone")
    assert ada.get("notes", "put").content == ada.get("notes", "push").content


def test_every_cursor_resumes_exactly(ada: Account) -> None:
    for number in range(6):
        ada.put("notes", "k", number)

    async def whole() -> None:
        for after in range(7):
            async with socket(ada.server.port, ada.user, ada.token, after=after) as device:
                assert [event["seq"] for event in await device.until_live()] == list(range(after + 1, 7))
                assert device.cursor == 6

    asyncio.run(whole())


def test_narrowing_leaves_out_events_but_the_cursor_moves_over_them(ada: Account) -> None:
    for collection in ("a", "b", "c", "b"):
        ada.put(collection, "k", 1)

    async def act(device: Socket) -> None:
        assert [event["seq"] for event in await device.until_live()] == [1, 3]
        assert device.cursor == 4
        await away(ada.put, "b", "k", 2)
        assert await device.events(5) == []
        await away(ada.put, "a", "k", 2)
        assert [event["seq"] for event in await device.events(6)] == [6]

    play(ada, act, after=0, collections=["a", "c"])


def test_much_comes_in_several_frames_each_with_its_own_cursor(ada: Account) -> None:
    for number in range(7):
        ada.put("notes", "k", str(number) * 100_000)

    async def act(device: Socket) -> None:
        told = [await device.hear("events")]
        while not device.live:
            told.append(await device.hear("events"))
        assert len(told) == 3
        assert [event["seq"] for frame in told for event in frame["events"]] == list(range(1, 8))
        assert [frame["seq"] for frame in told] == [frame["events"][-1]["seq"] for frame in told]
        assert [frame["live"] for frame in told] == [False, False, True]

    play(ada, act, after=0)


def test_without_a_cursor_there_are_no_events(ada: Account) -> None:
    ada.put("notes", "k", 1)

    async def act(device: Socket) -> None:
        await away(ada.put, "notes", "k", 2)
        await device.say("ping")
        assert await device.hear() == {"type": "pong"}

    play(ada, act)


def test_once_it_is_live_nothing_is_missed_whichever_worker_writes(pair: Server) -> None:
    """A socket is one worker's; each write below meets either, at once after `live`."""
    ada = Account(pair, "promised")
    ada.put("notes", "k", 0)

    async def whole() -> None:
        for number in range(1, 16):
            async with socket(pair.port, ada.user, ada.token, after=number) as device:
                await device.until_live()
                writer = Account(pair, ada.user)
                await away(writer.put, "notes", "k", number)
                assert [event["seq"] for event in await device.events(number + 1)] == [number + 1]
                writer.close()

    asyncio.run(whole())
    ada.close()


def test_every_worker_tells_every_event_once_through_reconnects(pair: Server) -> None:
    """Devices that leave at random moments and come back to either worker, while both write."""
    ada = Account(pair, "spread")
    ada.put("notes", "k", 0)
    chance = random.Random(7)

    async def follow() -> list[int]:
        seen: list[int] = []
        cursor = 0
        while cursor <= EVENTS:
            async with socket(pair.port, ada.user, ada.token, after=cursor) as device:
                for _ in range(chance.randint(1, 6)):
                    await device.hear("events")
                    if device.cursor > EVENTS:
                        break
                cursor = device.cursor
                seen += [event["seq"] for event in await device.events(cursor)]
        return seen

    async def write(first: int) -> None:
        writer = Account(pair, ada.user)
        for number in range(first, EVENTS, 4):
            await away(writer.put, "notes", "k", number)
        writer.close()

    async def whole() -> None:
        seen = await asyncio.gather(*(follow() for _ in range(6)), *(write(first) for first in range(4)))
        assert seen[:6] == [list(range(1, EVENTS + 2))] * 6

    asyncio.run(whole())
    ada.close()


def test_a_device_goes_on_from_its_cursor_after_restarts(tmp_path: Path) -> None:
    async def visit(server: Server, after: int, last: int) -> tuple[list[int], int]:
        account = Account(server, "ada")
        async with socket(server.port, "ada", account.token, after=after, device="phone") as device:
            seen = [event["seq"] for event in await device.until_live()]
            answer = await device.push(put(last + 1, "notes", "k", last, base=after))
            assert answer["results"][0]["seq"] == after + 1
            seen += [event["seq"] for event in await device.events(after + 1)]
            (server.kill if last == 1 else server.stop)()
            account.close()
            return seen, device.cursor

    with Server(tmp_path / "data") as server:
        account = Account(server, "ada")
        assert account.http.put(account.at()).status_code == 201
        account.close()
        seen: list[int] = []
        cursor = 0
        for last in range(4):
            more, cursor = asyncio.run(visit(server, cursor, last))
            seen += more
            server.start()
        assert seen == [1, 2, 3, 4]


def test_a_push_is_answered_once_however_often_it_comes(ada: Account) -> None:
    first, second = put(1, "notes", "a", 1), put(2, "notes", "b", 2)

    async def act(device: Socket) -> None:
        answers = [(await device.push(first, second))["results"] for _ in range(3)]
        assert answers[0] == answers[1] == answers[2]
        assert [result["seq"] for result in answers[0]] == [1, 2]
        assert (await device.push(second))["results"] == answers[0][1:]
        assert (await device.push(second, put(3, "notes", "c", 3)))["results"][1]["seq"] == 3
        refused = await device.push(put(7, "notes", "a", 7))
        assert (refused["type"], refused["code"], refused["expected"]) == ("refused", "mutation_gap", 4)
        refused = await device.push(put(4, "notes", "a", 7, base=99))
        assert (refused["type"], refused["code"]) == ("refused", "cursor_ahead")

    play(ada, act, device="phone")
    assert ada.events().json()["seq"] == 3

    async def again(device: Socket) -> None:
        assert (await device.push(put(4, "notes", "a", 7)))["results"][0]["status"] == "applied"

    play(ada, again, device="phone")


def test_one_bad_mutation_does_not_block_the_rest(ada: Account) -> None:
    bad: list[dict[str, Any]] = [
        {"op": "put", "collection": "NOTES", "key": "k", "value": 1},
        {"op": "put", "collection": "notes", "key": "a/b", "value": 1},
        {"op": "put", "collection": "notes", "key": "k", "value": "x" * 300_000},
        {"op": "edit", "collection": "notes", "key": "k", "edits": [{"op": "inc", "path": "/n", "value": "1"}]},
        {"op": "edit", "collection": "notes", "key": "k", "edits": [{"op": "set", "path": "n", "value": 1}]},
        {"op": "put", "collection": INBOX, "key": "k", "value": 1},
    ]

    async def act(device: Socket) -> None:
        mutations = [{"number": n, "base": 0, "clock": n, "ops": [op]} for n, op in enumerate(bad, 1)]
        results = (await device.push(*mutations, put(len(bad) + 1, "notes", "good", 1)))["results"]
        assert [result["status"] for result in results] == ["refused"] * len(bad) + ["applied"]
        codes = ["invalid_name", "invalid_name", "too_large", "invalid_request", "invalid_request", "forbidden"]
        assert [result.get("code") for result in results[:-1]] == codes
        pointers = ["/ops/0", "/ops/0", "/ops/0/value", "/ops/0/edits/0", "/ops/0/edits/0", "/ops/0"]
        assert [result.get("pointer") for result in results[:-1]] == pointers

    play(ada, act, device="phone")
    assert ada.value("notes", "good") == 1
    conflicts = ada.http.get(ada.at("conflicts")).json()["items"]
    assert [conflict["mutation"] for conflict in conflicts] == list(range(1, len(bad) + 1))


def test_what_one_device_pushes_another_sees(pair: Server) -> None:
    ada = Account(pair, "couple")

    async def whole() -> None:
        async with socket(pair.port, ada.user, ada.token, device="phone") as phone:
            assert (await phone.push(put(1, "notes", "k", 1)))["results"][0]["seq"] == 1
            async with socket(pair.port, ada.user, ada.token, device="laptop", after=0) as laptop:
                (event,) = await laptop.until_live()
                assert (event["device"], event["mutation"], event["clock"]) == ("phone", 1, 1)
                await laptop.push(put(1, "notes", "l", 2, base=1))
                assert [event["device"] for event in await laptop.events(2)] == ["laptop"]

    asyncio.run(whole())
    ada.close()


def test_devices_are_told_and_listed(pair: Server) -> None:
    ada = Account(pair, "present")
    ada.put("notes", "k", 1)

    def listed() -> dict[str, tuple[bool, int, int]]:
        items = ada.http.get(ada.at("devices")).json()["items"]
        return {one["device"]: (one["connected"], one["cursor"], one["number"]) for one in items}

    async def names(device: Socket, *wanted: str) -> None:
        while [one["device"] for one in (await device.hear("presence"))["devices"]] != sorted(wanted):
            pass

    async def whole() -> None:
        async with socket(pair.port, ada.user, ada.token, device="phone", presence=True, after=0) as phone:
            await names(phone, "phone")
            async with socket(pair.port, ada.user, ada.token, device="laptop") as laptop:
                await names(phone, "laptop", "phone")
                await laptop.push(put(1, "notes", "l", 2, base=1))
                await phone.events(2)
                await phone.say("read", seq=2)
                await phone.say("ping")
                await phone.hear("pong")
            await names(phone, "phone")
        # The laptop does not follow: its cursor is the log's end as of its last refresh, or its push's base.
        expected = [{"phone": (False, 2, 0), "laptop": (False, cursor, 1)} for cursor in (1, 2)]
        await away(until, lambda: listed() in expected, what="both are away")

    asyncio.run(whole())
    ada.close()


def test_welcome_tells_where_everything_stands(ada: Account) -> None:
    async def whole() -> None:
        async with opened(ada.server.port, ada.user, ada.token) as device:
            await device.say("hello", device="phone")
            welcome = await device.hear()
            assert welcome.pop("expires_at") > 1_700_000_000
            assert welcome == {"type": "welcome", "seq": 0, "floor": 0, "number": 0, "heartbeat_s": 15.0}
            await device.push(put(1, "notes", "k", 1))
        async with opened(ada.server.port, ada.user, ada.token) as device:
            await device.say("hello", device="phone")
            welcome = await device.hear()
            assert (welcome["seq"], welcome["number"]) == (1, 1)

    asyncio.run(whole())


def test_a_device_that_does_not_follow_keeps_no_old_events(ada: Account) -> None:
    def cursor() -> int:
        known = ada.http.get(ada.at("devices")).json()["items"]
        return int(next(one["cursor"] for one in known if one["device"] == "lazy"))

    for number in range(3):
        ada.put("notes", "k", number)

    async def act(device: Socket) -> None:
        await device.say("ping")
        await device.hear("pong")
        assert await away(cursor) == 3
        await device.push(put(1, "notes", "k", "mine", base=0))
        assert await away(cursor) == ada.head()["seq"]

    play(ada, act, device="lazy")
