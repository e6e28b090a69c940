"""What callers see of a log that was folded: the same documents, the past from its floor on, and what is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from roost import app
from roost.core.events import Device
from roost.settings import Settings
from tests.support.api import Account, problem
from tests.support.server import Server, until

AGELESS = json.dumps({"idempotency_hours": 0})
"""With `history_keep_s="0"` nothing is kept for its age alone, so that a test need not wait for it."""
numbers = count(1)


@pytest.fixture(scope="module")
def ageless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("compaction") / "data", history_keep_s="0", limits=AGELESS) as server:
        yield server


@pytest.fixture
def ada(ageless: Server) -> Iterator[Account]:
    with closing(Account(ageless, f"user-{next(numbers)}")) as account:
        yield account


def touch(account: Account, cursor: int, seen_at: datetime) -> None:
    """A device of the account has read up to `cursor`."""

    async def write() -> None:
        engine = app.engine_of(Settings(engine=account.server.engine_url))
        await engine.open()
        await engine.touch([(account.user, Device("phone", 0, cursor, seen_at))], 10)
        await engine.close()

    asyncio.run(write())


def compact(account: Account, *options: str) -> str:
    """What `roost compact` says."""
    ran = account.server.run("compact", "--data", str(account.server.data), "--user", account.user, *options)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


@pytest.fixture
def folded(ada: Account) -> Account:
    """A user whose log of seven events is folded up to 5, where a device is; `gone` was deleted before, `b` since."""
    for key, value in [("a", 1), ("gone", 2), ("a", 3)]:
        ada.put("notes", key, value)
    ada.delete("notes", "gone")
    for value in (5, 6):
        ada.put("notes", "b", value)
    ada.delete("notes", "b")
    touch(ada, 5, datetime.now(UTC))
    assert compact(ada) == "1 of 1 logs were folded, and let go of 3 events.\n"
    return ada


def test_documents_and_head_are_as_they_were_but_for_the_floor(folded: Account) -> None:
    assert folded.value("notes", "a") == 3
    assert folded.snapshot().json()["docs"] == {"notes": {"a": {"version": 3, "value": 3}}}
    assert [item["key"] for item in folded.page("notes").json()["items"]] == ["a"]
    assert (folded.head()["seq"], folded.head()["floor"]) == (7, 5)
    folded.server.verify()


def test_events_go_on_from_the_floor_and_are_gone_below_it(folded: Account) -> None:
    for after in range(5):
        problem(folded.events(after=after), 410, "cursor_compacted")
        problem(folded.events(after=after, collections="notes"), 410, "cursor_compacted")
    for after in range(5, 8):
        answer = folded.events(after=after).json()
        assert ([event["seq"] for event in answer["events"]], answer["floor"]) == ([6, 7][after - 5 :], 5)


def test_the_past_is_told_down_to_the_floor(folded: Account) -> None:
    for seq, b in [(5, 5), (6, 6), (7, None)]:
        docs = {"a": {"version": 3, "value": 3}} | ({"b": {"version": seq, "value": b}} if b else {})
        assert folded.snapshot(at_seq=seq).json()["docs"] == {"notes": docs}
        assert folded.get("notes", "a", {"at_seq": seq}).json() == 3
        problem(folded.get("notes", "gone", {"at_seq": seq}), 404, "not_found")
    for seq in range(5):
        problem(folded.snapshot(at_seq=seq), 410, "cursor_compacted")
        problem(folded.get("notes", "a", {"at_seq": seq}), 410, "cursor_compacted")


def test_a_time_before_the_floor_is_no_longer_known(folded: Account) -> None:
    at = {
        event["version"]: datetime.fromisoformat(event["at"]) for event in folded.history("notes", "b").json()["items"]
    }
    assert at[7] > at[6] > at[5]
    assert folded.get("notes", "b", {"at": at[5].isoformat()}).json() == 5
    assert folded.get("notes", "b", {"at": at[6].isoformat()}).json() == 6
    before = (at[5] - timedelta(microseconds=1)).isoformat()
    problem(folded.get("notes", "b", {"at": before}), 410, "cursor_compacted")
    problem(folded.snapshot(at=before), 410, "cursor_compacted")


def test_a_history_ends_at_what_is_kept(folded: Account) -> None:
    def versions(key: str) -> list[int]:
        return [event["version"] for event in folded.history("notes", key).json()["items"]]

    assert versions("a") == [3]
    assert versions("b") == [7, 6, 5]
    assert "never" not in problem(folded.history("notes", "gone"), 404, "not_found")["detail"]
    problem(folded.restore("notes", "a", 1), 410, "cursor_compacted")
    assert folded.restore("notes", "b", 5).is_success
    assert folded.value("notes", "b") == 5


def test_writes_go_on(folded: Account) -> None:
    assert folded.put("notes", "gone", 8).status_code == 201
    assert folded.put("notes", "a", 9, if_match='"3"').is_success
    assert [event["seq"] for event in folded.events(after=5).json()["events"]] == [6, 7, 8, 9]
    folded.server.verify()


def test_a_dry_run_changes_nothing(ada: Account) -> None:
    for value in range(3):
        ada.put("notes", "a", value)
    assert compact(ada, "--dry-run") == "1 of 1 logs would be folded, over 3 events.\n"
    assert len(ada.events(after=0).json()["events"]) == 3


def test_what_is_young_is_kept(ada: Account) -> None:
    for value in range(3):
        ada.put("notes", "a", value)
    assert compact(ada, "--keep", "1h") == "0 of 1 logs were folded, and let go of 0 events.\n"
    assert len(ada.events(after=0).json()["events"]) == 3


def test_a_device_that_is_away_for_too_long_is_not_waited_for(ada: Account) -> None:
    for value in range(3):
        ada.put("notes", "a", value)
    touch(ada, 1, datetime.now(UTC) - timedelta(days=29))
    assert compact(ada) == "1 of 1 logs were folded, and let go of 0 events.\n"
    touch(ada, 1, datetime.now(UTC) - timedelta(days=31))
    assert compact(ada) == "1 of 1 logs were folded, and let go of 2 events.\n"
    problem(ada.events(after=1), 410, "cursor_compacted")


def test_nobody_is_folded_who_is_not_there(ageless: Server) -> None:
    ran = ageless.run("compact", "--data", str(ageless.data), "--user", "nobody")
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", "roost: There is no user 'nobody'.\n")


def test_a_server_folds_by_itself(tmp_path: Path) -> None:
    soon = Server(tmp_path / "data", engine="memory:", compact_interval_s="0.05", history_keep_s="0", limits=AGELESS)
    with soon as server, closing(Account(server, "ada")) as ada:
        for value in range(3):
            ada.put("notes", "a", value)
        until(folded_up_to(ada, 3), what="the log is folded")
        assert ada.value("notes", "a") == 2
        assert [event["version"] for event in ada.history("notes", "a").json()["items"]] == [3]


def folded_up_to(account: Account, floor: int) -> Callable[[], bool]:
    return lambda: bool(account.head()["floor"] == floor)
