"""Events over HTTP: polls, long polls, imported logs."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from roost.core.commands import AppendLog
from roost.core.errors import Code, RoostError
from roost.core.ports import Log
from tests.unit.wire.support import HEAD, JSON, Server, event, exchange

EVENTS = "/v1/users/ada/events"
PUT = {
    "seq": 7,
    "kind": "put",
    "collection": "preferences",
    "key": "ui",
    "value": {"theme": "dark"},
    "at": "2026-01-31T12:00:05.250000Z",
    "actor": "user:ada",
    "device": None,
}
DELETE = {**PUT, "seq": 8, "kind": "delete", "value": None}


def test_a_poll_gives_events_and_the_cursor_to_go_on_from(server: Server) -> None:
    server.gate.outcomes["log"] = Log(HEAD, [event(7), event(8, None)], 8)
    response = server.get(f"{EVENTS}?after=6&limit=2")
    assert response.json == {"events": [PUT, DELETE], "seq": 8, "floor": 2}
    assert response.headers["roost-seq"] == "9"
    assert server.gate.asked == [("log", "ada", 6, 2, None, 0)]


def test_a_poll_begins_at_the_start_with_the_usual_limit(server: Server) -> None:
    assert server.get(EVENTS).status == 200
    assert server.gate.asked == [("log", "ada", 0, 100, None, 0)]


def test_a_devices_event_names_its_edit(server: Server) -> None:
    from_device = msgspec.structs.replace(event(), device="phone", mutation=3)
    server.gate.outcomes["log"] = Log(HEAD, [from_device], 7)
    assert server.get(EVENTS).json["events"] == [{**PUT, "device": "phone", "mutation": 3}]


def test_a_poll_may_be_narrowed(server: Server) -> None:
    assert server.get(f"{EVENTS}?collections=wishlist,preferences,wishlist").status == 200
    assert server.gate.asked == [("log", "ada", 0, 100, ["preferences", "wishlist"], 0)]


@pytest.mark.parametrize("collections", ["", "a,", "A", "a b", "*"])
def test_bad_collections_are_refused(server: Server, collections: str) -> None:
    assert server.get(f"{EVENTS}?collections={collections}").refusal == (400, "invalid_name")


@pytest.mark.parametrize(
    "query",
    ["after=-1", "after=x", "wait=-1", "wait=31", "wait=inf", "wait=nan", "wait=", "limit=0", "limit=1001", "since=1"],
)
def test_a_bad_poll_is_refused(server: Server, query: str) -> None:
    response = server.get(f"{EVENTS}?{query}")
    assert response.refusal == (400, "invalid_request")
    assert query.partition("=")[0] in response.json["detail"]
    assert not server.gate.asked


@pytest.mark.parametrize(("code", "status"), [(Code.CURSOR_COMPACTED, 410), (Code.CURSOR_AHEAD, 409)])
def test_a_cursor_outside_the_log_is_refused(server: Server, code: Code, status: int) -> None:
    server.gate.outcomes["log"] = RoostError(code, "No.")
    assert server.get(f"{EVENTS}?after=6").refusal == (status, code.value)


def test_a_long_poll_waits_and_answers(server: Server) -> None:
    assert server.get(f"{EVENTS}?after=6&wait=2.5").json["events"] == [PUT]
    assert server.gate.asked == [("log", "ada", 6, 100, None, 2.5)]


def test_a_refused_long_poll_is_a_problem(server: Server) -> None:
    server.gate.outcomes["log"] = RoostError(Code.OVERLOADED, "Too many wait.", retry_after_s=7)
    response = server.get(f"{EVENTS}?wait=5")
    assert response.refusal == (503, "overloaded")
    assert response.headers["retry-after"] == "7"


def test_a_long_poll_ends_when_its_client_goes(server: Server) -> None:
    async def leave() -> int:
        server.gate.outcomes["log"] = "never"
        headers = [("Authorization", f"Bearer {server.token}")]
        gone: list[Any] = [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]
        response = await exchange(server.app, "GET", f"{EVENTS}?wait=30", headers, gone)
        await asyncio.wait_for(server.gate.cancelled.wait(), 60)
        return response.status

    assert asyncio.run(leave()) == 499


def test_a_cancelled_long_poll_leaves_nothing_behind(server: Server) -> None:
    async def stop() -> None:
        server.gate.outcomes["log"] = "never"
        headers = [("Authorization", f"Bearer {server.token}")]
        request = asyncio.create_task(exchange(server.app, "GET", f"{EVENTS}?wait=30", headers, []))
        await asyncio.wait_for(server.gate.waiting.wait(), 60)
        request.cancel()
        await asyncio.wait_for(server.gate.cancelled.wait(), 60)
        await asyncio.gather(request, return_exceptions=True)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        assert request.cancelled()

    asyncio.run(stop())


def test_an_exported_log_is_taken_in_as_it_was_given_out(server: Server) -> None:
    given = [event(7), event(8, None), event(9, b"null"), msgspec.structs.replace(event(10), device="d", mutation=0)]
    server.gate.outcomes["log"] = Log(HEAD, given, 10)
    exported = server.get(EVENTS).json["events"]
    token = server.issue("service", "copier")
    response = server("POST", EVENTS, {"events": exported}, JSON, token=token)
    assert (response.status, response.json) == (200, {"seq": 9})
    assert response.headers["roost-seq"] == "9"
    assert server.gate.asked[-1] == ("append_log", AppendLog("ada", tuple(given), "service:copier"))


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"seq": 0}, "invalid_request", "/events/1/seq"),
        ({"kind": "merge"}, "invalid_request", "/events/1/kind"),
        ({"collection": "A"}, "invalid_name", "/events/1"),
        ({"key": ""}, "invalid_name", "/events/1"),
        ({"at": "2026-01-31"}, "invalid_request", "/events/1/at"),
        ({"at": "0001-01-01T00:00:00+01:00"}, "invalid_request", "/events/1/at"),
        ({"actor": ""}, "invalid_request", "/events/1/actor"),
        ({"actor": "a\nb"}, "invalid_request", "/events/1/actor"),
        ({"device": "d" * 129}, "invalid_request", "/events/1/device"),
        ({"mutation": -1}, "invalid_request", "/events/1/mutation"),
        ({"kind": "delete"}, "invalid_request", "/events/1/value"),
        ({"more": 1}, "invalid_request", "/events/1"),
        ({"value": "a" * 300_000}, "too_large", "/events/1/value"),
    ],
)
def test_a_bad_event_is_named(server: Server, change: dict[str, Any], code: str, pointer: str) -> None:
    response = server("POST", EVENTS, {"events": [PUT, {**PUT, **change}]}, JSON)
    assert response.json["code"] == code
    assert response.json["errors"][0]["pointer"] == pointer
    assert not server.gate.asked


@pytest.mark.parametrize(("count", "status"), [(0, 400), (1000, 200), (1001, 413)])
def test_events_come_in_bounded_numbers(server: Server, count: int, status: int) -> None:
    assert server("POST", EVENTS, {"events": [PUT] * count}, JSON).status == status
