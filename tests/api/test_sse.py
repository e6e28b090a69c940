"""Events as a stream: the same events as by polling, resumed exactly, whatever is stopped in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.api import Account, problem
from tests.support.server import Server, until
from tests.support.sse import stream

EVENTS = 40


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers, quick heartbeats."""
    with Server(tmp_path_factory.mktemp("pair") / "data", workers=2, heartbeat_s="0.2") as server:
        yield server


def test_a_stream_tells_the_log_then_that_it_is_live_then_what_happens(ada: Account) -> None:
    for number in range(3):
        ada.put("notes", "k", number)
    with stream(ada) as events:
        assert events.response.headers["content-type"].startswith("text/event-stream")
        assert events.until_live() == [1, 2, 3]
        for number in range(3):
            ada.put("notes", "k", number)
            assert events.seqs(1) == [4 + number]


def test_a_stream_tells_what_polling_tells(ada: Account) -> None:
    ada.put("notes", "é", {"a": [1, None, "x\ny"]})
    ada.delete("notes", "é")
    with stream(ada) as events:
        told = [message.data for message, _ in zip(events, range(2), strict=False)]
    assert told == ada.events().json()["events"]


def test_last_event_id_resumes_and_wins_over_after(ada: Account) -> None:
    for number in range(5):
        ada.put("notes", "k", number)
    with stream(ada, "?after=1", last_event_id="3") as events:
        assert events.until_live() == [4, 5]
    with stream(ada, "?after=2") as events:
        assert events.until_live() == [3, 4, 5]


def test_narrowing_leaves_out_events_but_the_cursor_moves_over_them(pair: Server) -> None:
    ada = Account(pair, "narrow")
    for collection in ("a", "b", "c", "b"):
        ada.put(collection, "k", 1)
    with stream(ada, "?collections=a,c") as events:
        assert events.until_live() == [1, 3]
        assert events.cursor == "4"
        ada.put("b", "k", 1)
        before = events.beats
        events.until_cursor("5")
        assert events.beats > before  # that is what carries it
        ada.put("a", "k", 2)
        assert events.seqs(1) == [6]
    ada.close()


def test_a_heartbeat_moves_the_cursor_of_an_idle_stream(pair: Server) -> None:
    ada = Account(pair, "idle")
    ada.put("a", "k", 1)
    with stream(ada, "?collections=a") as events:
        assert events.until_live() == [1]
        ada.put("b", "k", 1)
        events.until_cursor("2")
    ada.close()


@pytest.mark.parametrize(
    ("query", "headers", "expected"),
    [
        ("?after=9", {}, (409, "cursor_ahead")),
        ("", {"last_event_id": "9"}, (409, "cursor_ahead")),
        ("", {"last_event_id": "x"}, (400, "invalid_request")),
        ("?after=-1", {}, (400, "invalid_request")),
        ("?collections=A", {}, (400, "invalid_name")),
    ],
)
def test_a_refused_stream_is_a_problem(
    ada: Account, query: str, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    ada.put("notes", "k", 1)
    with stream(ada, query, **headers) as events:
        problem(events.response, *expected)


def test_nobody_streams_another_users_log(server: Server, account: Callable[[], Account]) -> None:
    ada, bob = account(), account()
    ada.put("notes", "k", 1)
    intruder = Account(server, ada.user, bob.token)
    with stream(intruder) as events:
        problem(events.response, 403, "forbidden")
    intruder.close()


def test_a_head_request_gets_no_stream(ada: Account) -> None:
    ada.put("notes", "k", 1)
    response = ada.http.head(ada.at("events"), headers={"accept": "text/event-stream"})
    assert response.status_code == 200


def test_every_worker_tells_every_event_once(pair: Server) -> None:
    """Each connection may meet either worker; writers and streams are spread over both."""
    ada = Account(pair, "spread")
    ada.put("notes", "k", 0)
    seen: list[list[int]] = []

    def follow() -> None:
        reader = Account(pair, "spread")
        with stream(reader) as events:
            seen.append(events.seqs(EVENTS))
        reader.close()

    def write() -> None:
        writer = Account(pair, "spread")
        for number in range(10):
            writer.put("notes", "k", number)
        writer.close()

    threads = [threading.Thread(target=follow) for _ in range(6)] + [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [list(range(1, EVENTS + 1))] * 6
    ada.close()


def test_a_stream_goes_on_from_its_cursor_after_a_restart(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        ada = Account(server, "ada")
        assert ada.http.put(ada.at()).status_code == 201
        seen, cursor = [], "0"
        for round_ in range(3):
            with stream(ada, last_event_id=cursor) as events:
                events.until_live()
                for number in range(3):
                    ada.put("notes", "k", number)
                seen += events.seqs(3)
                cursor = events.cursor
                if round_ == 1:
                    server.kill()
                else:
                    server.stop()
            ada.close()
            server.start()
            ada = Account(server, "ada")
        assert seen == list(range(1, 10))
        ada.close()


def test_a_stream_ends_with_its_token(server: Server, ada: Account) -> None:
    ada.put("notes", "k", 1)
    short = Account(server, ada.user, server.token(ada.user, ttl_s=5))
    with stream(short) as events:
        messages = list(events)
    assert [message.name for message in messages] == ["message", "live", "end"]
    assert messages[-1].data == {"code": "unauthenticated"}
    with stream(short) as events:
        problem(events.response, 401, "unauthenticated")
    short.close()


def test_a_stream_that_is_left_is_forgotten(pair: Server) -> None:
    """More streams than a worker holds, one after the other: each leaves its place to the next."""
    with Server(pair.data.parent / "few", waiters_max="2", heartbeat_s="0.1") as server:
        ada = Account(server, "ada")
        ada.put("notes", "k", 1)

        def followed() -> bool:
            with stream(ada) as events:
                return events.until_live() == [1]

        # The server hears of it a moment after the client has left.
        for _ in range(20):
            until(followed, what="there is a place again")

        def filled() -> bool:
            with stream(ada) as one, stream(ada) as two:
                if not one.until_live() == two.until_live() == [1]:
                    return False
                with stream(ada) as three:
                    problem(three.response, 503, "overloaded")
                return True

        until(filled, what="there are both places again")
        ada.close()


def test_stopping_the_server_ends_its_streams(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        ada = Account(server, "ada")
        ada.put("notes", "k", 1)
        with stream(ada) as events:
            assert events.until_live() == [1]
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            try:
                assert list(events) == []
            except httpx.RemoteProtocolError:
                pytest.fail("the stream was cut, not ended")
            stopping.join(30)
            assert not stopping.is_alive()
        ada.close()
