"""The past: documents and snapshots as they were, the versions of a document, and bringing one back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from tests.support.api import Account, problem, put_op, version_of

MICROSECOND = timedelta(microseconds=1)
STEPS: list[Any] = [{"n": 1}, {"n": 2}, None, "deleted", [4]]


@pytest.fixture
def past(ada: Account) -> Account:
    """A user whose document has the versions 1, 3, 5, 7 (its deletion) and 9; `other` has those between."""
    for step in STEPS:
        answer = ada.delete("notes", "k") if step == "deleted" else ada.put("notes", "k", step)
        assert answer.is_success
        ada.put("notes", "other", step)
    return ada


def times(account: Account) -> list[datetime]:
    return [datetime.fromisoformat(event["at"]) for event in account.events().json()["events"]]


def test_a_document_as_it_was_at_a_seq(past: Account) -> None:
    for seq in range(1, 11):
        step = STEPS[(seq - 1) // 2]
        read = past.get("notes", "k", {"at_seq": seq})
        if step == "deleted":
            problem(read, 404, "not_found")
            continue
        assert read.json() == step
        assert version_of(read) == (seq - 1) // 2 * 2 + 1
        assert read.headers["roost-seq"] == "10"  # the user's seq is what it is today
        events = past.events().json()["events"]
        assert (
            datetime.fromisoformat(events[version_of(read) - 1]["at"]).strftime("%H:%M:%S GMT")
            in (read.headers["last-modified"])
        )


def test_a_snapshot_as_it_was_at_a_seq(past: Account) -> None:
    for seq in range(11):
        docs = {}
        if seq and STEPS[(seq - 1) // 2] != "deleted":
            docs["k"] = {"version": (seq - 1) // 2 * 2 + 1, "value": STEPS[(seq - 1) // 2]}
        if seq > 1:
            docs["other"] = {"version": seq // 2 * 2, "value": STEPS[seq // 2 - 1]}
        snapshot = past.snapshot(at_seq=seq)
        assert snapshot.json() == {"user": past.user, "seq": seq, "docs": {"notes": docs} if docs else {}}
        assert snapshot.headers["etag"] == f'"{seq}"'


def test_the_state_at_a_time_is_the_state_at_the_last_seq_until_then(past: Account) -> None:
    found = times(past)
    for seq, at in enumerate(found, 1):
        last = max(number for number, other in enumerate(found, 1) if other <= at)
        assert past.snapshot(at=at.isoformat()).json() == past.snapshot(at_seq=last).json()
        before = sum(other < at for other in found)
        assert past.snapshot(at=(at - MICROSECOND).isoformat()).json() == past.snapshot(at_seq=before).json()
        assert seq <= last


def test_a_document_at_a_time(past: Account) -> None:
    found = times(past)
    first = past.get("notes", "k", {"at": found[0].isoformat()})
    assert (first.json(), version_of(first)) == ({"n": 1}, 1)
    problem(past.get("notes", "k", {"at": (found[0] - MICROSECOND).isoformat()}), 404, "not_found")
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert past.get("notes", "k", {"at": tomorrow}).json() == [4]
    assert past.snapshot(at=tomorrow).json()["seq"] == 10


def test_a_time_may_have_any_offset(past: Account) -> None:
    at = times(past)[2]
    expected = past.snapshot(at=at.isoformat()).json()
    for offset in (timezone(timedelta(hours=5, minutes=45)), timezone(-timedelta(hours=11))):
        assert past.snapshot(at=at.astimezone(offset).isoformat()).json() == expected
    assert past.snapshot(at=at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")).json() == expected
    assert past.snapshot(at=at.strftime("%Y-%m-%dt%H:%M:%S.%fz")).json() == expected


BAD_TIMES = [
    "",
    "yesterday",
    "0",
    "1700000000",
    "2026-01-01",
    "2026-01-01T00:00:00",
    "2026-01-01 00:00:00",
    "2026-13-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "2026-01-01T25:00:00Z",
    "0001-01-01T00:00:00+01:00",
    "9999-12-31T23:59:59-01:00",
    "10000-01-01T00:00:00Z",
    "2026-01-01T00:00:00+99:00",
]


@pytest.mark.parametrize("at", BAD_TIMES)
def test_what_is_no_time_is_refused(past: Account, at: str) -> None:
    problem(past.snapshot(at=at), 400, "invalid_request")
    problem(past.get("notes", "k", {"at": at}), 400, "invalid_request")


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z"])
def test_long_ago_there_was_nothing(past: Account, at: str) -> None:
    assert past.snapshot(at=at).json()["docs"] == {}
    problem(past.get("notes", "k", {"at": at}), 404, "not_found")


def test_at_the_end_of_time_all_is_as_it_is(past: Account) -> None:
    assert past.snapshot(at="9999-12-31T23:59:59.999999Z").json() == past.snapshot().json()


def test_a_seq_that_the_log_has_not_reached(past: Account) -> None:
    for seq in (11, 2**53):
        problem(past.snapshot(at_seq=seq), 409, "cursor_ahead")
        problem(past.get("notes", "k", {"at_seq": seq}), 409, "cursor_ahead")


@pytest.mark.parametrize("seq", ["-1", "x", "", "1.5", "9007199254740993", "99999999999999999999999"])
def test_what_is_no_seq_is_refused(past: Account, seq: str) -> None:
    problem(past.snapshot(at_seq=seq), 400, "invalid_request")
    problem(past.get("notes", "k", {"at_seq": seq}), 400, "invalid_request")


def test_one_moment_at_a_time(past: Account) -> None:
    both = {"at_seq": 1, "at": "2026-01-01T00:00:00Z"}
    problem(past.snapshot(**both), 400, "invalid_request")
    problem(past.get("notes", "k", both), 400, "invalid_request")


def test_the_past_has_etags_too(past: Account) -> None:
    assert past.get("notes", "k", {"at_seq": 4}, if_none_match='"3"').status_code == 304
    assert past.get("notes", "k", {"at_seq": 4}, if_none_match='"9"').json() == {"n": 2}
    assert past.http.get(past.at("docs"), params={"at_seq": 4}, headers={"if-none-match": '"4"'}).status_code == 304


def test_the_past_of_nobody(ada: Account) -> None:
    problem(ada.snapshot(at_seq=0), 404, "not_found")
    problem(ada.get("notes", "k", {"at_seq": 0}), 404, "not_found")
    problem(ada.get("notes", "k", {"at": "2026-01-01T00:00:00Z"}), 404, "not_found")
    problem(ada.history("notes", "k"), 404, "not_found")


# The versions of a document


def test_history_is_newest_first(past: Account) -> None:
    found = times(past)
    history = past.history("notes", "k")
    assert history.headers["roost-seq"] == "10"
    assert history.json()["next"] is None
    shown = [(item["version"], item["kind"], item["value"]) for item in history.json()["items"]]
    assert shown == [(9, "put", [4]), (7, "delete", None), (5, "put", None), (3, "put", {"n": 2}), (1, "put", {"n": 1})]
    for item in history.json()["items"]:
        assert item.keys() == {"version", "kind", "value", "at", "actor", "device"}
        assert datetime.fromisoformat(item["at"]) == found[item["version"] - 1]
        assert item["actor"] == f"user:{past.user}"


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6])
def test_history_comes_in_pages(past: Account, limit: int) -> None:
    versions: list[int] = []
    before: dict[str, str] = {}
    while True:
        page = past.history("notes", "k", limit=limit, **before).json()
        assert 0 < len(page["items"]) <= limit
        versions += [item["version"] for item in page["items"]]
        if page["next"] is None:
            break
        before = {"before": page["next"]}
    assert versions == [9, 7, 5, 3, 1]


def test_history_before_a_version(past: Account) -> None:
    for before, first in ((2**53, 9), (9, 7), (8, 7), (2, 1)):
        assert past.history("notes", "k", before=before).json()["items"][0]["version"] == first
    assert past.history("notes", "k", before=1).json() == {"items": [], "next": None}
    for bad in ("0", "-1", "x", ""):
        problem(past.history("notes", "k", before=bad), 400, "invalid_request")


def test_a_deleted_document_has_a_history_and_one_that_never_was_has_none(ada: Account) -> None:
    ada.put("notes", "k", 1)
    ada.delete("notes", "k")
    assert [item["kind"] for item in ada.history("notes", "k").json()["items"]] == ["delete", "put"]
    problem(ada.history("notes", "never"), 404, "not_found")


# Bringing one back


def test_restore_writes_an_older_value_as_a_new_version(past: Account) -> None:
    restored = past.restore("notes", "k", 3)
    assert (restored.status_code, restored.json()) == (200, {"n": 2})
    assert (restored.headers["etag"], restored.headers["roost-seq"]) == ('"11"', "11")
    assert past.value("notes", "k") == {"n": 2}
    assert past.get("notes", "k", {"at_seq": 10}).json() == [4]
    last = past.events(after=10).json()["events"][0]
    assert (last["kind"], last["value"]) == ("put", {"n": 2})


def test_restore_brings_back_what_was_deleted(past: Account) -> None:
    past.delete("notes", "k")
    restored = past.restore("notes", "k", 5)
    assert (restored.status_code, restored.json()) == (201, None)
    assert past.head()["collections"] == {"notes": 2}


@pytest.mark.parametrize("version", [2, 7, 11, 2**53])
def test_there_is_nothing_to_restore_from(past: Account, version: int) -> None:
    """Another document's version, a deletion, and what has not happened yet."""
    problem(past.restore("notes", "k", version), 404, "not_found")
    assert past.head()["seq"] == 10


def test_nothing_to_restore_for_nobody(ada: Account) -> None:
    problem(ada.restore("notes", "k", 1), 404, "not_found")
    problem(ada.http.get(ada.at()), 404, "not_found")


@pytest.mark.parametrize("version", [0, -1, 1.5, "1", None, True, [], {}])
def test_restore_wants_a_version(past: Account, version: Any) -> None:
    problem(past.restore("notes", "k", version), 400, "invalid_request", "/version")


@pytest.mark.parametrize(("body", "pointer"), [({}, ""), ({"version": 1, "x": 1}, ""), ([], ""), (1, "")])
def test_restore_wants_an_object_with_nothing_else(past: Account, body: Any, pointer: str) -> None:
    path = past.at("docs", "notes", "k", "restore")
    problem(past.http.post(path, json=body), 400, "invalid_request", pointer)


def test_restore_counts_as_one_more_document(ada: Account) -> None:
    ada.batch(put_op("notes", "a", 1), put_op("notes", "b", 2))
    ada.delete("notes", "a")
    assert ada.head()["collections"] == {"notes": 1}
    ada.restore("notes", "a", 1)
    assert ada.head()["collections"] == {"notes": 2}
