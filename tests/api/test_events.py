"""Events: a user's log in order, polled from a cursor, or waited for; and taken in from another Roost."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.api import HELD_S, Account, answered, carry_out, is_held, polling, problem, put_op
from tests.support.server import Server


def test_an_event_says_what_happened(ada: Account) -> None:
    ada.put("notes", "é", {"a": [1]})
    ada.delete("notes", "é")
    polled = ada.events()
    told = polled.json()
    assert polled.headers["roost-seq"] == "2"
    assert told.keys() == {"events", "seq", "floor"}
    assert (told["seq"], told["floor"]) == (2, 0)
    put, delete = told["events"]
    for event in (put, delete):
        assert event.keys() == {"seq", "kind", "collection", "key", "value", "at", "actor", "device"}
        assert (event["collection"], event["key"], event["device"]) == ("notes", "é", None)
        assert event["actor"] == f"user:{ada.user}"
        assert datetime.fromisoformat(event["at"]).utcoffset() == timedelta(0)
    assert (put["seq"], put["kind"], put["value"]) == (1, "put", {"a": [1]})
    assert (delete["seq"], delete["kind"], delete["value"]) == (2, "delete", None)


def test_an_event_says_who_did_it(server: Server, ada: Account) -> None:
    ada.put("notes", "k", 1)
    for token in (server.admin(), server.service("shop")):
        other = Account(server, ada.user, token)
        other.put("notes", "k", 2)
        other.close()
    actors = [event["actor"] for event in ada.events().json()["events"]]
    assert actors == [f"user:{ada.user}", "admin", "service:shop"]


@pytest.mark.parametrize("limit", [1, 3, 10, 11, 1000])
def test_pages_together_are_the_log_without_holes(ada: Account, limit: int) -> None:
    ada.batch(*(put_op("notes", f"k{n % 3}", n) for n in range(10)))
    events: list[dict[str, Any]] = []
    after = 0
    while True:
        page = ada.events(after=after, limit=limit).json()
        if not page["events"]:
            break
        assert len(page["events"]) <= limit
        assert page["seq"] == page["events"][-1]["seq"]
        events += page["events"]
        after = page["seq"]
    assert after == 10
    assert [event["seq"] for event in events] == list(range(1, 11))
    assert [event["value"] for event in events] == list(range(10))


def test_a_page_has_100_events_unless_asked(ada: Account) -> None:
    ada.batch(*(put_op("notes", "k", n) for n in range(120)))
    assert ada.events().json()["seq"] == 100
    assert len(ada.events(after=100).json()["events"]) == 20


def test_a_cursor_at_the_end_has_nothing_after_it(ada: Account) -> None:
    ada.put("notes", "k", 1)
    assert ada.events(after=1).json() == {"events": [], "seq": 1, "floor": 0}


def test_a_cursor_ahead_of_the_log_is_refused(ada: Account) -> None:
    problem(ada.events(), 404, "not_found")
    ada.put("notes", "k", 1)
    problem(ada.events(after=2), 409, "cursor_ahead")
    problem(ada.events(after=2**53), 409, "cursor_ahead")
    problem(ada.events(after=2, wait=10), 409, "cursor_ahead")  # at once


def test_the_log_of_a_user_without_events_is_empty(ada: Account) -> None:
    ada.http.put(ada.at())
    assert ada.events().json() == {"events": [], "seq": 0, "floor": 0}


BAD = [
    {"after": "-1"}, {"after": "x"}, {"after": "1.5"}, {"after": "9007199254740993"}, {"after": ""},
    {"wait": "-1"}, {"wait": "30.001"}, {"wait": "31"}, {"wait": "x"}, {"wait": "nan"}, {"wait": "inf"}, {"wait": ""},
    {"wait": "1e9"}, {"from": "1"}, {"after": ["0", "0"]},
]  # fmt: skip


@pytest.mark.parametrize("params", BAD, ids=str)
def test_a_bad_poll_is_refused(ada: Account, params: dict[str, Any]) -> None:
    ada.put("notes", "k", 1)
    problem(ada.events(**params), 400, "invalid_request")


def test_a_poll_may_be_narrowed_to_collections(ada: Account) -> None:
    ada.batch(put_op("a", "k", 1), put_op("b", "k", 2), put_op("c", "k", 3), put_op("a", "k", 4), put_op("d", "k", 5))

    def values(**params: Any) -> tuple[list[Any], int]:
        page = ada.events(**params).json()
        return [event["value"] for event in page["events"]], page["seq"]

    assert values(collections="a") == ([1, 4], 5)  # the cursor moves over what is left out
    assert values(collections="a,c") == ([1, 3, 4], 5)
    assert values(collections="c,a,c") == ([1, 3, 4], 5)
    assert values(collections="a", limit=1) == ([1], 1)
    assert values(collections="a", after=1) == ([4], 5)
    assert values(collections="nothing") == ([], 5)
    assert values(collections="d", after=4) == ([5], 5)


@pytest.mark.parametrize("collections", ["", ",", "a,", ",a", "A", "a b", "a;b", "é", "a,," + "b"])
def test_bad_collections_are_refused(ada: Account, collections: str) -> None:
    ada.put("notes", "k", 1)
    problem(ada.events(collections=collections), 400, "invalid_name")


def test_what_is_no_longer_kept_is_gone(ada: Account) -> None:
    """Nothing compacts a log yet, so its floor is lifted by hand."""
    ada.batch(*(put_op("notes", "k", n) for n in range(5)), put_op("other", "k", 5))
    carry_out(ada.server, f"UPDATE roost.users SET floor = 3 WHERE user_id = '{ada.user}'")
    for after in (0, 2):
        problem(ada.events(after=after), 410, "cursor_compacted")
        problem(ada.events(after=after, wait=10), 410, "cursor_compacted")
    told = ada.events(after=3).json()
    assert ([event["seq"] for event in told["events"]], told["floor"]) == ([4, 5, 6], 3)
    assert ada.head()["floor"] == 3
    problem(ada.snapshot(at_seq=2), 410, "cursor_compacted")
    problem(ada.get("notes", "k", {"at_seq": 2}), 410, "cursor_compacted")
    assert ada.snapshot(at_seq=3).json()["seq"] == 3
    assert ada.snapshot().json()["seq"] == 6  # from which a reader starts again
    problem(ada.restore("notes", "none", 1), 410, "cursor_compacted")
    assert ada.restore("notes", "k", 4).json() == 3


# Waiting


def test_a_poll_is_held_until_there_is_an_event(server: Server, ada: Account) -> None:
    ada.put("notes", "k", 1)
    with polling(ada, "after=1&wait=25") as connection:
        assert is_held(connection)
        ada.put("notes", "k", 2)
        answer, seconds = answered(connection)
    assert answer.status == 200
    assert b'"seq":2,"kind":"put"' in answer.body
    assert answer.headers["roost-seq"] == "2"
    assert seconds < 5  # long before the wait is over


def test_all_polls_of_a_log_are_woken(server: Server, ada: Account) -> None:
    ada.put("notes", "k", 1)
    with polling(ada, "after=1&wait=25") as one, polling(ada, "after=1&wait=25") as other:
        assert is_held(one)
        assert is_held(other)
        ada.delete("notes", "k")
        for connection in (one, other):
            answer, seconds = answered(connection)
            assert b'"kind":"delete"' in answer.body
            assert seconds < 5


def test_a_poll_is_not_woken_by_strangers_or_by_what_it_left_out(
    server: Server, ada: Account, account: Callable[[], Account]
) -> None:
    ada.put("notes", "k", 1)
    with polling(ada, "after=1&wait=25&collections=notes") as connection:
        account().put("notes", "k", 1)
        ada.put("other", "k", 1)
        assert is_held(connection)
        ada.put("notes", "k", 2)
        answer, _ = answered(connection)
    assert answer.body.count(b'"kind"') == 1
    assert b'"seq":3,"kind":"put","collection":"notes"' in answer.body


def test_what_is_there_already_is_not_waited_for(ada: Account) -> None:
    ada.put("notes", "k", 1)
    started = time.monotonic()
    assert len(ada.events(wait=25).json()["events"]) == 1
    assert time.monotonic() - started < 5


def test_a_wait_ends_with_an_empty_answer(ada: Account) -> None:
    ada.put("notes", "k", 1)
    started = time.monotonic()
    assert ada.events(after=1, wait=HELD_S).json() == {"events": [], "seq": 1, "floor": 0}
    assert HELD_S <= time.monotonic() - started < 30


def test_a_wait_that_ends_has_moved_over_what_it_left_out(server: Server, ada: Account) -> None:
    ada.put("notes", "k", 1)
    with polling(ada, "after=1&wait=5&collections=notes") as connection:
        ada.put("other", "k", 1)
        answer, _ = answered(connection)
    assert answer.body == b'{"events":[],"seq":2,"floor":0}'


@pytest.mark.parametrize("wait", ["0", "0.0"])
def test_no_wait_is_no_wait(ada: Account, wait: str) -> None:
    ada.put("notes", "k", 1)
    assert ada.events(after=1, wait=wait).json()["events"] == []


def test_the_longest_wait_is_30_seconds(server: Server, ada: Account) -> None:
    ada.put("notes", "k", 1)
    with polling(ada, "after=1&wait=30") as connection:
        assert is_held(connection)


def test_a_reader_that_follows_sees_every_event_once(server: Server, ada: Account) -> None:
    ada.http.put(ada.at())
    seen: list[int] = []
    for number in range(1, 21):
        with polling(ada, f"after={len(seen)}&wait=25") as connection:
            ada.put("notes", f"k{number}", number)
            answer, _ = answered(connection)
        assert answer.status == 200
        seen += [event["value"] for event in ada.events(after=len(seen)).json()["events"]]
    assert seen == list(range(1, 21))


# Taking in what another Roost exported


def exported(account: Account) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = account.events(limit=1000).json()["events"]
    return events


def test_a_log_moves_to_another_place_as_it_is(server: Server, admin: Account, account: Callable[[], Account]) -> None:
    ada, copy = account(), account()
    ada.put("notes", "k", {"a": 1})
    ada.put("other", "k", None)
    ada.delete("notes", "k")
    events = exported(ada)
    for _ in range(2):  # again is as good as once
        taken = admin.http.post(copy.at("events"), json={"events": events})
        assert (taken.status_code, taken.json()) == (200, {"seq": 3})
    assert exported(copy) == events
    assert copy.snapshot().json()["docs"] == ada.snapshot().json()["docs"]
    assert copy.head()["collections"] == {"other": 1}


@pytest.mark.parametrize("change", [{"seq": 3}, {"value": 2}, {"at": "2001-01-01T00:00:00Z"}, {"seq": 1, "value": 9}])
def test_a_log_that_does_not_fit_is_refused(
    admin: Account, account: Callable[[], Account], change: dict[str, Any]
) -> None:
    ada, copy = account(), account()
    ada.put("notes", "k", 1)
    ada.put("notes", "k", 2)
    events = exported(ada)
    admin.http.post(copy.at("events"), json={"events": events[:1] if change != {"value": 2} else events})
    wrong = events[1] | change if change != {"value": 2} else events[0] | change
    told = admin.http.post(copy.at("events"), json={"events": [wrong]})
    problem(told, 409, "log_conflict", "/events/0")


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"seq": 0}, "invalid_request", "/events/0/seq"),
        ({"kind": "merge"}, "invalid_request", "/events/0/kind"),
        ({"kind": "delete"}, "invalid_request", "/events/0/value"),
        ({"collection": "Notes"}, "invalid_name", "/events/0"),
        ({"key": "a/b"}, "invalid_name", "/events/0"),
        ({"at": "yesterday"}, "invalid_request", "/events/0/at"),
        ({"actor": ""}, "invalid_request", "/events/0/actor"),
        ({"device": "a b"}, "invalid_request", "/events/0/device"),
        ({"more": 1}, "invalid_request", "/events/0"),
        ({"collection": "roost_conflicts"}, "invalid_request", "/events/0/value"),
        ({"collection": "roost_conflicts", "value": {"kept": 1}}, "invalid_request", "/events/0/value/kept"),
    ],
)
def test_a_bad_event_is_told_where(
    admin: Account, account: Callable[[], Account], change: dict[str, Any], code: str, pointer: str
) -> None:
    ada, copy = account(), account()
    ada.put("notes", "k", 1)
    event = exported(ada)[0] | change
    problem(admin.http.post(copy.at("events"), json={"events": [event]}), 400, code, pointer)
    problem(admin.http.get(copy.at()), 404, "not_found")
