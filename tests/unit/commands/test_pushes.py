"""Pushes: each mutation is answered once, whatever comes twice, out of order, too late or wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from roost.commands.transaction import GroupCommit
from roost.core.commands import Accepted, Change, Command, Mutation, Op, Push, Result
from roost.core.decide import Rules
from roost.core.edits import Edit
from roost.core.errors import Code, RoostError
from roost.core.events import microseconds
from roost.core.ids import INBOX
from roost.core.limits import Limits
from roost.engines.memory import Memory

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = microseconds(START)


class Log:
    """One user's log on the reference engine."""

    def __init__(self, policy: str = "lww", limits: Limits | None = None) -> None:
        self.engine = Memory()
        self.rules = Rules(limits or Limits(), lambda _: policy)
        self.at = START
        asyncio.run(self.engine.open())

    def run(self, *commands: Command) -> list[Accepted | RoostError]:
        """What becomes of commands that arrive together."""
        return list(asyncio.run(GroupCommit(self.engine, list(commands), self.rules).run(self.at)))

    def put(self, value: Any, key: str = "k") -> None:
        (outcome,) = self.run(Change("ada", (Op("put", "c", key, json.dumps(value).encode()),), "user:ada"))
        assert isinstance(outcome, Accepted)

    def push(self, device: str, *mutations: Mutation) -> tuple[Result, ...]:
        (outcome,) = self.run(Push("ada", device, mutations, "user:ada"))
        if isinstance(outcome, RoostError):
            raise outcome
        return outcome.results

    def documents(self) -> dict[tuple[str, str], Any]:
        stored = asyncio.run(self.engine.stored("ada"))
        assert stored is not None
        return {(d.collection, d.key): json.loads(d.value) for d in stored[1] if d.value is not None}

    def inbox(self) -> list[dict[str, Any]]:
        return [value for (collection, _), value in sorted(self.documents().items()) if collection == INBOX]

    @property
    def seq(self) -> int:
        head = asyncio.run(self.engine.head("ada"))
        return head.seq if head else 0


def put(number: int, base: int, value: Any, clock: int = NOW + 1, key: str = "k") -> Mutation:
    return Mutation(number, base, clock, (Op("put", "c", key, json.dumps(value).encode()),))


def edit(number: int, base: int, *edits: Edit) -> Mutation:
    return Mutation(number, base, NOW + 1, (Op("edit", "c", "k", edits=edits),))


def statuses(results: Sequence[Result]) -> list[str]:
    return [result.status for result in results]


def test_mutations_take_effect_in_order_and_make_the_user() -> None:
    log = Log()
    results = log.push("phone", put(1, 0, 1), put(2, 0, 2), put(3, 0, 3))
    assert [(r.number, r.status, r.seq) for r in results] == [(1, "applied", 1), (2, "applied", 2), (3, "applied", 3)]
    assert log.documents() == {("c", "k"): 3}


def test_a_repeat_gets_the_first_answer_and_changes_nothing() -> None:
    log = Log("cas")
    log.put("theirs")
    first = log.push("phone", put(1, 0, "mine"), put(2, 1, "seen"))
    seq = log.seq
    log.put("later", key="other")
    assert log.push("phone", put(1, 0, "mine"), put(2, 1, "seen")) == first
    assert log.push("phone", put(2, 1, "seen"), put(3, 1, "new", key="fresh"))[0] == first[1]
    assert log.seq == seq + 2


def test_a_repeat_in_the_same_transaction_is_a_repeat() -> None:
    log = Log()
    push = Push("ada", "phone", (put(1, 0, 1),), "user:ada")
    first, second = log.run(push, push)
    assert isinstance(first, Accepted)
    assert isinstance(second, Accepted)
    assert first.results == second.results
    assert log.seq == 1


def test_an_answer_that_is_forgotten_is_known() -> None:
    log = Log()
    log.push("phone", put(1, 0, 1))
    log.at += timedelta(hours=25)
    assert statuses(log.push("phone", put(1, 0, 1), put(2, 1, 2))) == ["known", "applied"]


def test_a_gap_is_refused_whole_and_tells_what_is_expected() -> None:
    log = Log()
    log.push("phone", put(1, 0, 1))
    with pytest.raises(RoostError) as refused:
        log.push("phone", put(3, 1, 3))
    assert (refused.value.code, refused.value.expected) == (Code.MUTATION_GAP, 2)  # type: ignore[attr-defined]
    with pytest.raises(RoostError) as refused:
        log.push("phone", put(2, 1, 2), put(4, 1, 4))
    assert refused.value.code is Code.INVALID_REQUEST
    assert log.seq == 1


def test_an_unknown_device_begins_at_one() -> None:
    log = Log()
    with pytest.raises(RoostError) as refused:
        log.push("phone", put(7, 0, 1))
    assert (refused.value.code, refused.value.expected) == (Code.MUTATION_GAP, 1)  # type: ignore[attr-defined]
    assert asyncio.run(log.engine.head("ada")) is None


def test_a_base_ahead_of_the_log_is_refused_whole() -> None:
    log = Log()
    log.put(1)
    with pytest.raises(RoostError) as refused:
        log.push("phone", put(1, 1, 2), put(2, 2, 3))
    assert refused.value.code is Code.CURSOR_AHEAD
    assert log.seq == 1


def test_a_number_that_was_another_mutation_is_refused() -> None:
    log = Log()
    log.push("phone", put(1, 0, 1))
    with pytest.raises(RoostError) as refused:
        log.push("phone", put(1, 0, "something else"))
    assert refused.value.code is Code.IDEMPOTENCY_KEY_REUSED


def test_a_refused_mutation_does_not_hold_up_the_next() -> None:
    log = Log("cas")
    log.put("theirs")
    results = log.push("phone", put(1, 0, "mine"), put(2, 0, "free", key="other"))
    assert statuses(results) == ["refused", "applied"]
    assert (results[0].code, results[0].pointer) == (Code.VERSION_CONFLICT, "/ops/0")
    (conflict,) = log.inbox()
    assert results[0].conflicts == (f"{2:016}",)
    assert conflict["outcome"] == "refused"
    assert conflict["kept"] == {"version": 1, "value": "theirs"}
    assert conflict["lost"] == {"value": "mine"}
    assert (conflict["device"], conflict["mutation"], conflict["base"]) == ("phone", 1, 0)


def test_a_mutation_takes_effect_whole_or_not_at_all() -> None:
    log = Log("merge")
    log.put({"n": "no counter"})
    ops = (Op("put", "c", "new", b"1"), Op("edit", "c", "k", edits=(Edit("inc", "/n", 1),)))
    (result,) = log.push("phone", Mutation(1, 1, NOW, ops))
    assert (result.status, result.code, result.pointer) == ("refused", Code.PATCH_FAILED, "/ops/1/0")
    assert ("c", "new") not in log.documents()
    assert [conflict["lost"] for conflict in log.inbox()] == [
        {"value": 1},
        {"edits": [{"op": "inc", "path": "/n", "value": 1}]},
    ]


def test_a_device_knows_its_own_earlier_mutations() -> None:
    log = Log("cas")
    log.push("phone", put(1, 0, 1))
    assert statuses(log.push("phone", put(2, 0, 2), put(3, 0, 3))) == ["applied", "applied"]


def test_what_came_between_own_mutations_is_a_conflict_all_the_same() -> None:
    log = Log("cas")
    log.push("phone", put(1, 0, 1))
    log.push("laptop", put(1, 1, "theirs"))
    assert statuses(log.push("phone", put(2, 0, 2))) == ["refused"]


def test_both_values_of_a_conflict_can_be_seen() -> None:
    log = Log("lww")
    log.push("laptop", put(1, 0, "early", NOW + 5))
    assert statuses(log.push("phone", put(1, 0, "late", NOW + 9))) == ["merged"]
    assert statuses(log.push("tablet", put(1, 0, "earliest", NOW + 1))) == ["merged"]
    assert log.documents()["c", "k"] == "late"
    assert [(c["kept"]["value"], c["lost"]) for c in log.inbox()] == [
        ("late", {"version": 1, "value": "early"}),
        ("late", {"value": "earliest"}),
    ]


def test_a_clock_far_ahead_is_cut_back() -> None:
    log = Log("lww", Limits(clock_ahead_s=60))
    log.push("phone", put(1, 0, "from the future", NOW + 3_600_000_000))
    log.at += timedelta(seconds=61)
    log.push("laptop", put(1, 0, "a minute later", microseconds(log.at)))
    assert log.documents()["c", "k"] == "a minute later"


def test_a_plain_write_is_later_than_all_it_has_seen() -> None:
    log = Log("lww")
    log.push("phone", put(1, 0, "ahead", NOW + 50_000_000))
    log.put("plain")
    log.push("tablet", put(1, 0, "offline", NOW + 40_000_000))
    assert log.documents()["c", "k"] == "plain"


def test_siblings_stand_until_a_write_has_seen_them() -> None:
    log = Log("siblings")
    log.push("phone", put(1, 0, "a"))
    log.push("laptop", put(1, 0, "b"))
    log.push("tablet", put(1, 1, "c"))  # has seen a, not b
    stored = asyncio.run(log.engine.stored("ada"))
    assert stored is not None
    (document,) = stored[1]
    assert document.value == b'"c"'
    assert [sibling["value"] for sibling in json.loads(document.siblings or b"[]")] == ["b"]
    log.push("phone", put(2, 3, "d"))
    stored = asyncio.run(log.engine.stored("ada"))
    assert stored is not None
    assert (stored[1][0].value, stored[1][0].siblings) == (b'"d"', None)


def test_a_deletion_among_siblings_takes_away_what_it_has_seen() -> None:
    log = Log("siblings")
    log.push("phone", put(1, 0, "a"))
    log.push("laptop", put(1, 0, "b"))
    delete = Mutation(1, 1, NOW, (Op("delete", "c", "k"),))
    assert statuses(log.push("tablet", delete)) == ["merged"]
    assert log.documents()["c", "k"] == "b"
    delete = Mutation(2, log.seq, NOW, (Op("delete", "c", "k"),))
    assert statuses(log.push("tablet", delete)) == ["applied"]
    assert ("c", "k") not in log.documents()


def test_a_full_inbox_keeps_the_mutation_waiting() -> None:
    log = Log("cas", Limits(documents_max=2))
    log.put("theirs")
    results = log.push("phone", *[put(number, 0, number) for number in range(1, 5)])
    assert statuses(results) == ["refused", "refused"]
    with pytest.raises(RoostError) as refused:
        log.push("phone", put(3, 0, 3), put(4, 0, 4))
    assert refused.value.code is Code.OVERLOADED
    assert refused.value.retry_after_s
    dismissed = Op("delete", INBOX, results[0].conflicts[0])
    log.run(Change("ada", (dismissed,), "user:ada"))
    assert statuses(log.push("phone", put(3, 0, 3), put(4, 0, 4))) == ["refused"]


def test_what_roost_writes_alone_is_refused_to_devices() -> None:
    log = Log()
    mutation = Mutation(1, 0, NOW, (Op("put", INBOX, "k", b"1"),))
    (result,) = log.push("phone", mutation)
    assert (result.status, result.code) == ("refused", Code.FORBIDDEN)


def test_an_edit_older_than_the_floor_is_refused_if_the_document_has_changed() -> None:
    log = Log("lww")
    for value in range(4):
        log.put(value)
    log.put("untouched", key="other")
    asyncio.run(log.engine.compact("ada", 5))
    log.put("new")
    results = log.push("phone", put(1, 1, "mine"), put(2, 5, "fine", NOW + 9_000_000, key="other"))
    assert statuses(results) == ["refused", "applied"]
    assert results[0].code is Code.CURSOR_COMPACTED
    assert log.inbox()[0]["lost"] == {"value": "mine"}


def test_too_much_unseen_is_refused_where_it_would_have_to_be_merged() -> None:
    log = Log("merge", Limits(concurrent_events_max=3))
    log.put({"a": 0})
    for value in range(4):
        log.put({"a": value + 1})
    (result,) = log.push("phone", edit(1, 1, Edit("set", "/b", 1)))
    assert (result.status, result.code) == ("refused", Code.VERSION_CONFLICT)


def test_edits_of_a_document_that_nobody_has_make_it() -> None:
    log = Log("merge")
    log.push("phone", edit(1, 0, Edit("inc", "/n", 2), Edit("add", "/t", "x")))
    log.push("laptop", edit(1, 0, Edit("inc", "/n", 3), Edit("add", "/t", "y")))
    assert log.documents()["c", "k"] == {"n": 5, "t": ["x", "y"]}
    assert not log.inbox()
