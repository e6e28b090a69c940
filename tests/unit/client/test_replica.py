"""The replica's shell against servers that misbehave, and a disk that does."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from roost.client import Forbidden, InvalidJson, InvalidName, PatchFailed, RoostError, Unauthenticated, Unavailable
from roost.client.exchange import Token
from roost.client.replica import Replica, ReplicaUnusable
from roost.client.replica.following import PAUSE_S_MAX, Following
from roost.core.commands import Op, Result
from roost.core.edits import Edit
from roost.core.events import Document, DocumentId
from roost.sync.replica import Pending, Saved
from roost.sync.replica import Replica as Core

PATIENCE_S = 20
NOWHERE = "http://127.0.0.1:9"
LIVE = {"type": "events", "events": [], "seq": 0, "live": True}

Talk = Callable[[ServerConnection, int], Awaitable[None]]


def welcome(**members: Any) -> dict[str, Any]:
    return {"type": "welcome", "seq": 0, "floor": 0, "number": 0, "expires_at": None, "heartbeat_s": 15} | members


async def say(connection: ServerConnection, *frames: dict[str, Any]) -> None:
    for frame in frames:
        await connection.send(json.dumps(frame))


async def hear(connection: ServerConnection) -> dict[str, Any]:
    heard: dict[str, Any] = json.loads(await connection.recv())
    return heard


@asynccontextmanager
async def talking(path: Path, talk: Talk, token: Token = "token") -> AsyncIterator[Replica]:
    """A replica that has read an empty log before, and a server that does `talk` with its nth connection."""
    count = 0

    async def handle(connection: ServerConnection) -> None:
        nonlocal count
        count += 1
        await talk(connection, count)
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0, subprotocols=["roost.v1"]) as server:  # type: ignore[list-item]
        port = server.sockets[0].getsockname()[1]
        replica = Replica(path, f"http://127.0.0.1:{port}", "ada", token, device="phone")
        replica.turn(replica.core.replace([], 0))
        async with replica:
            yield replica


async def until(replica: Replica, condition: Callable[[], bool]) -> None:
    changes = replica.changes()
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await anext(changes)


def test_a_close_code_says_what_is_wrong(tmp_path: Path) -> None:
    async def run(code: int, kind: type[RoostError]) -> None:
        async def talk(connection: ServerConnection, _: int) -> None:
            await connection.close(code, "Because.")

        async with talking(tmp_path / str(code), talk) as replica:
            await until(replica, lambda: replica.problem is not None)
            assert isinstance(replica.problem, kind)
            assert replica.problem.detail == "Because."

    for code, kind in ((4401, Unauthenticated), (4403, Forbidden), (4429, Unavailable), (4503, Unavailable)):
        asyncio.run(run(code, kind))


def test_a_server_that_falls_silent_is_left(tmp_path: Path) -> None:
    connections = []

    async def talk(connection: ServerConnection, number: int) -> None:
        connections.append(await hear(connection))
        await say(connection, welcome(heartbeat_s=0.01), LIVE)

    async def run() -> None:
        async with talking(tmp_path / "phone", talk) as replica:
            await until(replica, lambda: len(connections) > 1)
            assert connections[0] == connections[1] == {"type": "hello", "device": "phone", "after": 0}

    asyncio.run(run())


@pytest.mark.parametrize("nonsense", ["nonsense", '{"type":"events"}', '{"type":"news"}', "[]"])
def test_nonsense_is_no_reason_to_end(tmp_path: Path, nonsense: str) -> None:
    async def talk(connection: ServerConnection, number: int) -> None:
        await connection.send(nonsense)

    async def run() -> None:
        async with talking(tmp_path / "phone", talk) as replica:
            await until(replica, lambda: replica.problem is not None)
            assert "does not answer like a Roost server" in str(replica.problem)
            assert replica.put("notes", "a", 1) == 1

    asyncio.run(run())


def test_a_push_that_is_refused_for_now_comes_again_when_it_may_and_the_line_stays(tmp_path: Path) -> None:
    pushed: list[float] = []
    answer = {"type": "pushed", "results": [{"number": 1, "status": "known", "seq": 0}]}
    refusal = {"type": "refused", "code": "overloaded", "detail": "Too much.", "retry_after": 0.4}

    async def talk(connection: ServerConnection, number: int) -> None:
        assert number == 1
        assert (await hear(connection))["type"] == "hello"
        await say(connection, welcome(), LIVE)
        for reply in (refusal, refusal, answer):
            assert [each["number"] for each in (await hear(connection))["mutations"]] == [1]
            pushed.append(asyncio.get_running_loop().time())
            await say(connection, reply)

    async def run() -> None:
        async with talking(tmp_path / "phone", talk) as replica:
            replica.put("notes", "a", 1)
            await until(replica, lambda: replica.problem is not None)
            assert (replica.status, str(replica.problem)) == ("live", "overloaded: Too much.")
            async with asyncio.timeout(PATIENCE_S):
                await replica.synced()
        assert all(later - sooner >= 0.4 for sooner, later in pairwise(pushed))
        assert len(pushed) == 3

    asyncio.run(run())


def test_events_with_a_hole_are_asked_for_again(tmp_path: Path) -> None:
    after: list[int] = []

    def event(seq: int) -> dict[str, Any]:
        at = "2026-01-31T12:00:00Z"
        return {"seq": seq, "kind": "put", "collection": "a", "key": "b", "value": seq, "at": at, "actor": "user:ada"}

    async def talk(connection: ServerConnection, number: int) -> None:
        after.append((await hear(connection))["after"])
        await say(connection, welcome(seq=3), {"type": "events", "events": [event(1)], "seq": 1, "live": False})
        seqs = [3] if number == 1 else [2, 3]
        await say(connection, {"type": "events", "events": [event(seq) for seq in seqs], "seq": 3, "live": True})

    async def run() -> None:
        async with talking(tmp_path / "phone", talk) as replica:
            async with asyncio.timeout(PATIENCE_S):
                await replica.synced()
            assert after == [0, 1]
            assert (replica.seq, [view.value for view in replica.list("a")]) == (3, [3])

    asyncio.run(run())


def test_pauses_grow_are_random_and_have_an_end(tmp_path: Path) -> None:
    async def run() -> None:
        replica = Replica(tmp_path / "phone", NOWHERE, "ada")
        following = Following(replica, replica._session, None, replica._calls)  # type: ignore[arg-type]
        replica._session.chance = lambda: 1.0
        grown = [following._pause(None, failures) for failures in range(1_000)]
        assert grown[:3] == [0.1, 0.2, 0.4]
        assert grown == sorted(grown)
        assert grown[-1] == PAUSE_S_MAX
        assert following._pause(Forbidden("No."), 0) == PAUSE_S_MAX
        asked = Unavailable("Later.")
        asked.retry_after_s = 60
        replica._session.chance = lambda: 0.5
        assert following._pause(asked, 0) == 60.05
        await replica.close()

    asyncio.run(run())


def test_what_is_not_on_disk_has_not_happened(tmp_path: Path) -> None:
    async def run() -> None:
        replica = Replica(tmp_path / "phone", NOWHERE, "ada")
        replica.put("notes", "a", 1)
        replica.store._db.execute("PRAGMA query_only = ON")
        with pytest.raises(ReplicaUnusable):
            replica.put("notes", "a", 2)
        view = replica.get("notes", "a")
        assert view is not None
        assert (view.value, replica.pending) == (1, 1)
        replica.store._db.execute("PRAGMA query_only = OFF")
        assert replica.put("notes", "a", 3) == 2
        await replica.close()

    asyncio.run(run())


def test_a_file_of_a_later_release_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "phone"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(ReplicaUnusable, match="later release"):
        Replica(path, NOWHERE, "ada")


def half_done(replica: Replica) -> None:
    with replica.transaction() as edits:
        edits.put("notes", "b", 1)
        edits.add("notes", "a", "/n", 1)


def test_what_the_server_would_never_take_is_refused_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        replica = Replica(tmp_path / "phone", NOWHERE, "ada")
        with pytest.raises(InvalidName):
            replica.put("Notes", "a", 1)
        with pytest.raises(InvalidJson):
            replica.put("notes", "a", float("nan"))
        with pytest.raises(InvalidJson):
            replica.put("notes", "a", object())
        replica.put("notes", "a", {"n": "text"})
        with pytest.raises(PatchFailed):
            replica.inc("notes", "a", "/n")
        with pytest.raises(PatchFailed):
            half_done(replica)
        assert (replica.pending, replica.get("notes", "b")) == (1, None)
        await replica.close()

    asyncio.run(run())


def test_what_was_put_is_a_copy(tmp_path: Path) -> None:
    async def run() -> None:
        replica = Replica(tmp_path / "phone", NOWHERE, "ada")
        given: dict[str, Any] = {"items": [1]}
        replica.put("notes", "a", given)
        replica.set("notes", "a", "/more", given["items"])
        given["items"].append(2)
        shown = replica.get("notes", "a")
        assert shown is not None
        shown.value["items"].append(3)
        again = replica.get("notes", "a")
        assert again is not None
        assert again.value == {"items": [1], "more": [1]}
        await replica.close()

    asyncio.run(run())


def documents(**values: int) -> list[Document]:
    at = datetime(2026, 1, 31, tzinfo=UTC)
    return [Document("notes", key, value, b"%d" % value, at) for key, value in values.items()]


def test_a_snapshot_counts_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "phone"

    async def shown() -> tuple[dict[str, int], bool]:
        replica = Replica(path, NOWHERE, "ada")
        values, stale = {view.key: view.value for view in replica.list("notes")}, replica.store.stale
        await replica.close()
        return values, stale

    async def fetch(fetched: list[Document], *, to_the_end: bool) -> None:
        replica = Replica(path, NOWHERE, "ada")
        replica.store.begin_edition()
        replica.store.add(fetched)
        if to_the_end:
            replica.turn(replica.core.replace(fetched, 9))
        await replica.close()

    assert asyncio.run(shown()) == ({}, True)
    asyncio.run(fetch(documents(a=1, b=2), to_the_end=True))
    assert asyncio.run(shown()) == ({"a": 1, "b": 2}, False)
    asyncio.run(fetch(documents(b=3, c=4), to_the_end=False))
    assert asyncio.run(shown()) == ({"a": 1, "b": 2}, True)
    asyncio.run(fetch(documents(b=5, d=6), to_the_end=True))
    assert asyncio.run(shown()) == ({"b": 5, "d": 6}, False)


def test_a_token_that_cannot_be_had_for_now_is_asked_for_again(tmp_path: Path) -> None:
    asked = 0

    def token() -> str:
        nonlocal asked
        asked += 1
        if asked <= 2:
            raise OSError("the application's own server is away")
        return "token"

    async def talk(connection: ServerConnection, number: int) -> None:
        await hear(connection)
        await say(connection, welcome(), LIVE)

    async def run() -> None:
        async with talking(tmp_path / "phone", talk, token) as replica:
            await until(replica, lambda: replica.problem is not None)
            assert isinstance(replica.problem, Unavailable)
            assert "own server is away" in str(replica.problem)
            await until(replica, lambda: replica.status == "live")

    asyncio.run(run())


def test_a_device_whose_clock_is_ahead_does_not_ask_for_tokens_all_the_time(tmp_path: Path) -> None:
    asked = 0

    def token() -> str:
        nonlocal asked
        asked += 1
        return f"token-{asked}"

    async def talk(connection: ServerConnection, number: int) -> None:
        await hear(connection)
        await say(connection, welcome(expires_at=1), LIVE)
        async for _ in connection:
            await say(connection, {"type": "renewed", "expires_at": 1})

    async def run() -> None:
        async with talking(tmp_path / "phone", talk, token) as replica:
            await until(replica, lambda: replica.status == "live")
            for _ in range(50):
                await asyncio.sleep(0.005)
            assert asked == 1

    asyncio.run(run())


def test_who_may_read_and_not_push_goes_on_reading(tmp_path: Path) -> None:
    async def talk(connection: ServerConnection, number: int) -> None:
        assert number == 1
        await hear(connection)
        await say(connection, welcome(), LIVE)
        assert (await hear(connection))["type"] == "push"
        await say(connection, {"type": "refused", "code": "forbidden", "detail": "Read only."})
        at = "2026-01-31T12:00:00Z"
        event = {"seq": 1, "kind": "put", "collection": "a", "key": "b", "value": 1, "at": at, "actor": "user:ada"}
        await say(connection, {"type": "events", "events": [event], "seq": 1, "live": True})

    async def run() -> None:
        async with talking(tmp_path / "phone", talk) as replica:
            replica.put("notes", "a", 1)
            await until(replica, lambda: replica.problem is not None and replica.seq == 1)
            assert (replica.status, str(replica.problem), replica.pending) == ("live", "forbidden: Read only.", 1)

    asyncio.run(run())


def test_of_what_was_not_held_nothing_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "phone"

    async def base(collections: list[str] | None) -> int:
        replica = Replica(path, NOWHERE, "ada", collections=collections)
        number = replica.put("notes", "a", collections)
        base = next(each.base for each in replica.core.to_push() if each.number == number)
        await replica.close()
        return base

    async def fetch(collections: list[str] | None) -> None:
        replica = Replica(path, NOWHERE, "ada", collections=collections)
        replica.store.begin_edition()
        replica.turn(replica.core.replace([], 9))
        for each in replica.core.to_push():  # what was done before is over
            replica.settle(replica.core.answered([Result(each.number, "refused", 9)]))
        await replica.close()

    for held, asked, expected in (
        (["notes"], ["notes"], 9),
        (["notes", "carts"], ["notes"], 9),
        (None, ["notes"], 9),
        (["carts"], ["notes", "carts"], 0),
        (["notes"], None, 0),
    ):
        asyncio.run(fetch(held))
        assert asyncio.run(base(asked)) == expected, (held, asked)


def test_with_many_edits_pending_each_costs_the_same() -> None:
    """Counted, not timed: how many pending mutations one more edit looks at."""
    looked = 0

    class Counting(Core):
        def _pending_ops(self, name: DocumentId) -> Iterator[tuple[Pending, Op]]:
            nonlocal looked
            for each in super()._pending_ops(name):
                looked += 1
                yield each

    replica = Counting(Saved("phone"))
    for number in range(200):
        draft = replica.draft()
        draft.edit("counts", "a", [Edit("inc", "/n", 1)])
        replica.commit(draft, number)
    assert replica.value(("counts", "a")) == {"n": 200}
    assert looked == 0
