"""Many clients at once on two workers: one log a user, one winner a version, one answer a key, and nothing missed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from itertools import count, cycle, islice
from typing import Any

import asyncpg
import pytest

from roost.core.ids import lane_of
from tests.support.follower import Follower
from tests.support.history import Change, violations
from tests.support.http import Connection, Reply, connected, read_log, read_logs
from tests.support.load import COLLECTION, KEYS, Recorder
from tests.support.server import Server

CONNECTIONS = 16
numbers = count(1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two workers."""
    with Server(tmp_path_factory.mktemp("pair") / "data", workers=2) as server:
        yield server


def fresh(name: str = "user") -> str:
    """A user that nobody has used yet."""
    return f"{name}-{next(numbers)}"


def neighbours(many: int) -> list[str]:
    """Fresh users of one lane."""
    first = fresh("neighbour")
    others = (user for user in map(fresh, cycle(["neighbour"])) if lane_of(user) == lane_of(first))
    return [first, *islice(others, many - 1)]


@asynccontextmanager
async def clients(server: Server) -> AsyncIterator[list[Connection]]:
    async with connected(server, server.service("test"), CONNECTIONS) as connections:
        yield connections


async def put(connection: Connection, user: str, key: str, value: object, **headers: str) -> Reply:
    return await connection.ask(
        "PUT", f"/v1/users/{user}/docs/{COLLECTION}/{key}", value, content_type="application/json", **headers
    )


def test_connections_are_spread_over_the_workers(pair: Server) -> None:
    """Else nothing here would test more than one."""

    async def run() -> None:
        async with clients(pair) as connections:
            assert len(connections) == CONNECTIONS
            ports = [{connection.own_port for connection in connections[side::2]} for side in (0, 1)]
            assert len(ports[0]) == len(ports[1]) == CONNECTIONS // 2
            taken = list(pair.clients().values())
            assert (ports[0] <= taken[0] and ports[1] <= taken[1]) or (ports[0] <= taken[1] and ports[1] <= taken[0])

    asyncio.run(run())


def test_many_writers_of_one_new_user_make_one_dense_log(pair: Server) -> None:
    async def run() -> None:
        async with clients(pair) as connections:
            for _ in range(10):
                user = fresh()
                replies = await asyncio.gather(
                    *(put(connection, user, f"k{number}", number) for number, connection in enumerate(connections))
                )
                assert {reply.status for reply in replies} == {201}
                assert sorted(reply.seq for reply in replies) == list(range(1, CONNECTIONS + 1))
                log = await read_log(connections[0], user)
                assert {event["value"]: event["seq"] for event in log} == {
                    number: reply.version for number, reply in enumerate(replies)
                }

    asyncio.run(run())


def test_a_user_is_created_by_one_of_those_who_try(pair: Server) -> None:
    async def run() -> None:
        async with clients(pair) as connections:
            for _ in range(5):
                path = f"/v1/users/{fresh()}"
                replies = await asyncio.gather(
                    *(c.ask("PUT", path, {"home": "local"}, content_type="application/json") for c in connections)
                )
                assert sorted(reply.status for reply in replies) == [200] * (CONNECTIONS - 1) + [201]

    asyncio.run(run())


def test_of_writers_that_name_one_version_exactly_one_wins(pair: Server) -> None:
    async def run() -> None:
        async with clients(pair) as connections:
            user, version = fresh(), 0
            for turn in range(20):
                condition = {"if_match": f'"{version}"'} if version else {"if_none_match": "*"}
                replies = await asyncio.gather(
                    *(put(c, user, "k", f"{turn}-{number}", **condition) for number, c in enumerate(connections))
                )
                winners = [reply for reply in replies if reply.status < 300]
                assert len(winners) == 1, replies
                assert winners[0].version == version + 1
                for reply in replies:
                    if reply is not winners[0]:
                        assert (reply.status, reply.code) == (412, "version_conflict")
                        assert reply.json["current"] == {"version": version + 1, "value": winners[0].json}
                version += 1
            assert [event["seq"] for event in await read_log(connections[0], user)] == list(range(1, version + 1))

    asyncio.run(run())


def test_a_key_used_on_both_workers_at_once_is_carried_out_once(pair: Server) -> None:
    async def run() -> None:
        async with clients(pair) as connections:
            user = fresh()
            for turn in range(10):
                replies = await asyncio.gather(
                    *(put(connection, user, "k", turn, idempotency_key=f"turn-{turn}") for connection in connections)
                )
                assert {(reply.status, reply.version, reply.seq, reply.body) for reply in replies} == {
                    (201 if turn == 0 else 200, turn + 1, turn + 1, b"%d" % turn)
                }
                assert sum("idempotent-replayed" not in reply.headers for reply in replies) == 1
            assert [event["value"] for event in await read_log(connections[0], user)] == list(range(10))

    asyncio.run(run())


def test_a_refusal_under_a_key_is_the_same_on_both_workers(pair: Server) -> None:
    """Whatever has changed since."""

    async def run() -> None:
        async with clients(pair) as connections:
            user = fresh()
            await put(connections[0], user, "k", "first")
            headers = {"if_none_match": "*", "idempotency_key": "again"}
            replies = await asyncio.gather(
                *(put(connection, user, "k", "new", **headers) for connection in connections)
            )
            await put(connections[1], user, "k", "second")
            replies += await asyncio.gather(
                *(put(connection, user, "k", "new", **headers) for connection in connections)
            )
            assert {reply.status for reply in replies} == {412}
            assert all(reply.json["current"] == {"version": 1, "value": "first"} for reply in replies)
            assert sum("idempotent-replayed" not in reply.headers for reply in replies) == 1

    asyncio.run(run())


def test_of_two_requests_under_one_key_one_is_refused(pair: Server) -> None:
    async def run() -> None:
        async with clients(pair) as connections:
            user = fresh()
            replies = await asyncio.gather(
                *(put(c, user, "k", number % 2, idempotency_key="one") for number, c in enumerate(connections))
            )
            assert sorted(reply.status for reply in replies) == [201] * 8 + [422] * 8
            assert {reply.code for reply in replies if reply.status == 422} == {"idempotency_key_reused"}
            assert len(await read_log(connections[0], user)) == 1

    asyncio.run(run())


def test_a_write_on_one_worker_wakes_who_waits_on_the_other(pair: Server) -> None:
    """Long before the wait is over: its answer would be empty then."""

    async def run() -> None:
        async with clients(pair) as connections:
            here, there, beside = connections[0], connections[1], connections[2]
            user = fresh()
            await put(there, user, "k", 0)
            for seq in range(1, 6):
                poll = asyncio.create_task(here.ask("GET", f"/v1/users/{user}/events?after={seq}&wait=30"))
                # What this worker answers next, it answers with the poll in its hands.
                for _ in range(3):
                    assert (await beside.ask("GET", f"/v1/users/{user}")).status == 200
                assert not poll.done()
                written = await put(there, user, "k", seq)
                answer = await poll
                assert [event["seq"] for event in answer.json["events"]] == [written.seq] == [seq + 1]

    asyncio.run(run())


async def write_lane(server: Server, users: list[str], each: int) -> list[tuple[int, int, str, int]]:
    """Write to users from all sides; returns (began, ended, user, seq) of each event, by an order of all of them."""
    written = []
    clock = count()

    async def one(connection: Connection, number: int) -> None:
        for turn in range(each):
            user = users[(number + turn) % len(users)]
            began = next(clock)
            reply = await put(connection, user, f"k{number}", f"{number}-{turn}")
            assert reply.status < 300, reply
            written.append((began, next(clock), user, reply.seq))

    async with clients(server) as connections:
        await asyncio.gather(*(one(connection, number) for number, connection in enumerate(connections)))
    return written


def test_who_follows_a_lane_misses_nothing_and_sees_the_order_of_commits(pair: Server) -> None:
    users = neighbours(12)

    async def run() -> None:
        follower = Follower(lambda: pair.engine_url)
        async with follower.following():
            written = await write_lane(pair, users, each=25)
        async with clients(pair) as connections:
            logs = await read_logs(connections[0], users)
        assert sum(map(len, logs.values())) == len(written) == 25 * CONNECTIONS
        seen = [place for place in follower.seen if place.user in logs]
        assert {place.lane for place in seen} == {lane_of(users[0])}
        follower.check(logs | await others(pair, follower, users))
        position = {(place.user, place.event.seq): place.pos for place in seen}
        latest = [(began, ended, position[user, seq]) for began, ended, user, seq in written]
        assert not out_of_order(latest)

    asyncio.run(run())


async def others(server: Server, follower: Follower, users: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The logs of the users that other tests have written."""
    async with clients(server) as connections:
        return await read_logs(connections[0], {place.user for place in follower.seen} - set(users))


def out_of_order(written: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Of (began, ended, position), those that began after another had ended, and stand before it."""
    ends = sorted((ended, position) for _, ended, position in written)
    wrong, known, at = [], 0, 0
    for began, ended, position in sorted(written):
        while at < len(ends) and ends[at][0] < began:
            known, at = max(known, ends[at][1]), at + 1
        if position < known:
            wrong.append((began, ended, position))
    return wrong


def test_who_follows_a_sequence_instead_misses_events(pair: Server) -> None:
    """A trigger numbers the events as a `bigserial` would: what holds above is not for free."""

    async def run() -> None:
        connection = await asyncpg.connect(pair.engine_url)
        await connection.execute(NUMBERED)
        try:
            for _ in range(20):
                users = [fresh() for _ in range(CONNECTIONS)]
                written, seen = await follow_numbers(connection, write_lane(pair, users, each=20))
                assert seen <= written
                if seen < written:
                    return
        finally:
            await connection.execute("DROP FUNCTION public.number_event CASCADE; DROP TABLE public.numbered")
            await connection.close()
        pytest.fail("it has missed nothing")

    asyncio.run(run())


NUMBERED = """
CREATE TABLE public.numbered (id bigserial PRIMARY KEY, user_id text, seq bigint);
CREATE FUNCTION public.number_event() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO public.numbered (user_id, seq) VALUES (NEW.user_id, NEW.seq); RETURN NULL; END';
CREATE TRIGGER number_event AFTER INSERT ON roost.events FOR EACH ROW EXECUTE FUNCTION public.number_event();
"""


async def follow_numbers(
    connection: asyncpg.Connection, write: Coroutine[Any, Any, list[tuple[int, int, str, int]]]
) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """What was written, and what a reader has seen that asks for numbers above the last one."""
    seen: list[tuple[str, int]] = []
    last = await connection.fetchval("SELECT coalesce(max(id), 0) FROM public.numbered")
    writing = asyncio.create_task(write)
    while True:
        done = writing.done()
        rows = await connection.fetch("SELECT id, user_id, seq FROM public.numbered WHERE id > $1 ORDER BY id", last)
        for number, user, seq in rows:
            last = number
            seen.append((user, seq))
        if done:
            break
    return {(user, seq) for _, _, user, seq in await writing}, set(seen)


def test_what_anybody_saw_fits_one_log_a_user(pair: Server) -> None:
    """Seqs unique and dense, in the order of real time; reads are prefixes, and never go back."""
    users = [fresh("seen") for _ in range(4)]
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    recorder = Recorder()

    async def one(connection: Connection, number: int) -> None:
        chance = random.Random(f"{seed}-{number}")
        for turn in range(60):
            user, kind = chance.choice(users), chance.random()
            keys = chance.sample(KEYS, 3)
            changes = [Change(COLLECTION, key, f"{number}-{turn}-{key}") for key in keys]
            if kind < 0.25:
                await recorder.read(connection, user, keys[0])
            elif kind < 0.4:
                await recorder.read_all(connection, user)
            elif kind < 0.5:
                await recorder.write(connection, user, changes[:1], if_match="*")
            elif kind < 0.6:
                await recorder.write(connection, user, changes, key=f"{number}-{turn}")
            elif kind < 0.7:
                await delete(connection, user, keys[0])
            else:
                await recorder.write(connection, user, changes[:1])

    async def delete(connection: Connection, user: str, key: str) -> None:
        """A delete that was refused cannot be told from one that was never sent, so only others are taken down."""
        before = len(recorder.writes)
        reply = await recorder.write(connection, user, [Change(COLLECTION, key, None)])
        if reply is not None and reply.status == 404:
            recorder.writes[before:] = [write for write in recorder.writes[before:] if write.outcome != "refused"]

    async def run() -> None:
        async with clients(pair) as connections:
            await asyncio.gather(*(one(connection, number) for number, connection in enumerate(connections)))
            logs = await read_logs(connections[0], users)
        assert {write.outcome for write in recorder.writes} >= {"accepted", "refused"}
        assert len(recorder.reads) > 100
        assert violations(recorder.writes, recorder.reads, logs) == []

    asyncio.run(run())


def test_verify_agrees(pair: Server) -> None:
    pair.verify()
