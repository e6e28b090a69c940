"""A write through one worker reaches who follows at another: woken, or where nothing wakes it, by looking.

The server of most tests looks so rarely that only a wake-up can deliver before the reader loses patience.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from roost.engines.news import APPLICATION
from tests.support.api import Account
from tests.support.server import Server, until
from tests.support.sse import Stream, stream

NEVER_S = "600"
"""Longer than a reader waits, which is a minute."""


@pytest.fixture(scope="module")
def woken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers that look for each other's commits when they are woken, and not otherwise."""
    with Server(tmp_path_factory.mktemp("woken") / "data", workers=2, tail_interval_s=NEVER_S) as server:
        yield server


@pytest.fixture
def ada(woken: Server, request: pytest.FixtureRequest) -> Iterator[Account]:
    account = Account(woken, request.node.name.partition("[")[0])
    account.put("notes", "k", 0)
    yield account
    account.close()


def worker_of(server: Server, response: httpx.Response) -> int:
    """The process that took the connection of a response that is not read to its end."""
    port = response.extensions["network_stream"].get_extra_info("client_addr")[1]
    (pid,) = (pid for pid, ports in server.clients().items() if port in ports)
    return pid


@contextmanager
def streams(account: Account) -> Iterator[dict[int, Stream]]:
    """A live stream of the account's log at each worker."""
    with _opened(account) as (pid, first), _opened(account, other_than=pid) as (other, second):
        yield {pid: first, other: second}


@contextmanager
def _opened(account: Account, other_than: int | None = None) -> Iterator[tuple[int, Stream]]:
    """Connect until it is another worker that answers. It is the system that chooses."""
    while True:
        reader = Account(account.server, account.user)
        try:
            with stream(reader) as events:
                pid = worker_of(account.server, events.response)
                if pid != other_than:
                    events.until_live()
                    yield pid, events
                    return
        finally:
            reader.close()


def test_every_worker_hears_of_every_write(woken: Server, ada: Account) -> None:
    with streams(ada) as open_streams:
        assert set(open_streams) == set(woken.listening())
        for number in range(20):
            ada.put("notes", "k", number)
            for events in open_streams.values():
                assert events.seqs(1) == [number + 2]


def test_who_begins_to_follow_is_woken_from_then_on(ada: Account) -> None:
    """Each user is in a lane of its own, which the workers may not have looked at before."""
    for number in range(4):
        account = Account(ada.server, f"{ada.user}-{number}")
        account.put("notes", "k", 0)
        with streams(account) as open_streams:
            account.put("notes", "k", 1)
            for events in open_streams.values():
                assert events.seqs(1) == [2]
        account.close()


def test_a_long_poll_is_woken_too(woken: Server, ada: Account) -> None:
    with streams(ada) as open_streams:
        for seq in range(2, 12):
            ada.put("notes", "k", seq)
            for events in open_streams.values():
                assert events.seqs(1) == [seq]
            with httpx.Client(base_url=woken.url, headers=ada.http.headers, timeout=60) as client:
                poll = client.get(ada.at("events"), params={"after": seq - 1, "wait": 30}).json()
                assert [event["seq"] for event in poll["events"]] == [seq]


async def _run(url: str, statement: str) -> list[int]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(statement, APPLICATION)
    await connection.close()
    return [row[0] for row in rows]


def listening(server: Server) -> set[int]:
    """The backends that the workers hear by."""
    return set(asyncio.run(_run(server.engine_url, "SELECT pid FROM pg_stat_activity WHERE application_name = $1")))


def cut(server: Server) -> None:
    """End the connections by which the workers hear. Some that were cut before may be about to end."""
    statement = "SELECT pg_terminate_backend(pid)::integer FROM pg_stat_activity WHERE application_name = $1"
    assert len(asyncio.run(_run(server.engine_url, statement))) >= server.workers


def test_wake_ups_come_again_after_their_connections_were_cut(woken: Server, ada: Account) -> None:
    with streams(ada) as open_streams:
        before = listening(woken)
        cut(woken)
        until(lambda: len(listening(woken) - before) == woken.workers, what="both listen again")
        # What was committed while they did not listen is found, and then what is committed from then on.
        for seq in range(2, 6):
            ada.put("notes", "k", seq)
            for events in open_streams.values():
                assert events.seqs(1) == [seq]


@pytest.mark.parametrize("notify", ["true", "false"], ids=["cut off", "turned off"])
def test_without_wake_ups_looking_now_and_then_delivers(tmp_path: Path, notify: str) -> None:
    with Server(tmp_path / "data", workers=2, tail_interval_s="0.1", notify=notify) as server:
        ada = Account(server, "ada")
        ada.put("notes", "k", 0)
        with streams(ada) as open_streams:
            if notify == "false":
                assert not listening(server)
            before: set[int] = set()
            for seq in range(2, 8):
                if notify == "true":
                    until(lambda: len(listening(server) - before) == 2, what="both listen again")  # noqa: B023  # called at once
                    before |= listening(server)
                    cut(server)
                ada.put("notes", "k", seq)
                for events in open_streams.values():
                    assert events.seqs(1) == [seq]
        ada.close()
