"""Pushes: each mutation is answered once, whatever comes twice, out of order, too late or wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from roost.commands import pushes
from roost.commands.transaction import GroupCommit
from roost.core.commands import Accepted, Change, Command, Flaw, Mutation, Op, Push, Result
from roost.core.decide import Rules
from roost.core.edits import Edit
from roost.core.errors import Code, RoostError
from roost.core.events import microseconds
from roost.core.ids import INBOX
from roost.core.limits import NUMBER_MAX, Limits
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


def test_a_repeat_is_known_whatever_the_policies_allow_by_then() -> None:
    log = Log()
    refused = msgspec.structs.replace(put(1, 0, 1), flaw=Flaw(Code.FORBIDDEN, "Not now.", "/ops/0"))
    (first,) = log.push("phone", refused)
    assert log.push("phone", put(1, 0, 1)) == (first,)
    (second,) = log.push("phone", put(2, 0, 2))
    assert second.status == "applied"
    again = msgspec.structs.replace(put(2, 0, 2), flaw=Flaw(Code.FORBIDDEN, "Not any more.", "/ops/0"))
    assert log.push("phone", again) == (second,)


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


def test_the_beginning_of_a_push_has_no_more_ops_than_a_batch() -> None:
    limits = Limits(batch_ops_max=3)

    def taken(*counts: int) -> int:
        ops = [Mutation(number, 0, NOW, put(1, 0, 1).ops * count) for number, count in enumerate(counts, start=1)]
        return len(pushes.beginning(Push("ada", "phone", tuple(ops), "user:ada"), limits).mutations)

    assert [taken(1), taken(1, 1, 1), taken(1, 1, 1, 1), taken(2, 2), taken(4, 1)] == [1, 3, 3, 1, 1]


def test_a_push_that_writes_much_is_answered_in_part() -> None:
    log = Log("merge", Limits(change_bytes_max=1_000))
    log.put({"text": "x" * 300})
    mutations = [edit(number, 1, Edit("set", "/n", number)) for number in range(1, 6)]
    assert statuses(log.push("phone", *mutations)) == ["applied", "applied"]
    assert statuses(log.push("phone", *mutations)) == ["applied", "applied", "applied", "applied"]
    assert log.documents()["c", "k"]["n"] == 4


@pytest.mark.parametrize("policy", ["lww", "merge"])
def test_a_mutation_that_reads_and_writes_too_much_is_refused(policy: str) -> None:
    log = Log(policy, Limits(change_bytes_max=3_000))
    log.put({"text": "x" * 300})
    few, many = ((edit(1, 1, Edit("inc", "/n", 1)).ops * count) for count in (3, 6))
    results = log.push("phone", Mutation(1, 1, NOW, many), Mutation(2, 1, NOW, few))
    assert [(each.status, each.code, each.pointer) for each in results[:1]] == [("refused", Code.TOO_LARGE, "/ops/4")]
    assert statuses(log.push("phone", Mutation(2, 1, NOW, few))) == ["applied"]
    assert log.documents()["c", "k"]["n"] == 3
    kept = [conflict["kept"] for conflict in log.inbox()]
    assert ["value" in each for each in kept] == [True] * 6


def test_a_batch_that_reads_and_writes_too_much_is_refused() -> None:
    log = Log("lww", Limits(change_bytes_max=3_000))
    log.put({"text": "x" * 300})
    ops = tuple(Op("edit", "c", "k", edits=(Edit("inc", "/n", 1),)) for _ in range(6))
    (outcome,) = log.run(Change("ada", ops, "user:ada", batch=True))
    assert isinstance(outcome, RoostError)
    assert (outcome.code, outcome.pointer) == (Code.TOO_LARGE, "/ops/4")
    (outcome,) = log.run(Change("ada", (Op("delete", "c", "k"),), "user:ada"))
    assert isinstance(outcome, Accepted), "a deletion reads nothing, however large the document"


def test_the_inbox_keeps_what_is_lost_and_of_what_stands_only_so_much() -> None:
    log = Log("lww", Limits(change_bytes_max=1_000))
    log.put("x" * 300)
    deletions = (
        Op("delete", "c", "k"),
        Op("delete", "c", "k"),
        Op("put", "roost_x", "k", b"1"),
        Op("put", "c", "k", b"2"),
    )
    (result,) = log.push("phone", Mutation(1, 1, NOW, (*deletions, *deletions)))
    assert result.status == "refused"
    inbox = log.inbox()
    assert [conflict["lost"]["value"] for conflict in inbox] == [None, None, 1, 2] * 2
    assert ["value" in conflict["kept"] for conflict in inbox if conflict["collection"] == "c"] == [True] * 3 + [
        False
    ] * 3


def test_merging_with_very_much_is_refused() -> None:
    log = Log("merge", Limits(change_bytes_max=20_000))
    log.put({"n": 0})
    for _ in range(10):
        log.push("laptop", edit(_ + 1, 1, *(Edit("set", f"/f{place}", place) for place in range(20))))
    mine = [Edit("set", f"/g{place}", place) for place in range(20)]
    results = log.push("phone", edit(1, 1, *mine), edit(2, 1, mine[0]))
    assert [(each.status, each.code) for each in results] == [("refused", Code.TOO_LARGE)]
    assert statuses(log.push("phone", edit(2, 1, mine[0]))) == ["applied"]


def test_a_device_too_many_is_refused() -> None:
    log = Log(limits=Limits(devices_max=2))
    pushes_of = [Push("ada", device, (put(1, 0, 1),), "user:ada") for device in ("phone", "laptop", "watch")]
    *taken, refused = log.run(*pushes_of)
    assert all(isinstance(outcome, Accepted) for outcome in taken)
    assert isinstance(refused, RoostError)
    assert refused.code is Code.LIMIT_REACHED
    with pytest.raises(RoostError, match="2 devices"):
        log.push("watch", put(1, 0, 1))
    assert statuses(log.push("phone", put(2, 2, 2))) == ["applied"]


def test_counters_stay_within_what_can_be_read_back_whoever_counts() -> None:
    log = Log("merge")
    log.put({"n": 0})
    assert statuses(log.push("phone", edit(1, 1, Edit("inc", "/n", NUMBER_MAX)))) == ["applied"]
    (result,) = log.push("laptop", edit(1, 1, Edit("inc", "/n", 1)))
    assert result.status == "merged"
    assert log.documents()["c", "k"] == {"n": NUMBER_MAX}
    assert log.inbox()[0]["lost"] == {"edits": [{"op": "inc", "path": "/n", "value": 1}]}
