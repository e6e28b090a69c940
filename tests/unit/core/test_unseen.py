"""Nothing is lost unseen: what a decision takes from others, in whole or in part, is in the inbox or stands.

Each case was found by the simulation (`tests/simulation`) and is told here in as few steps as it takes.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import msgspec

from roost.commands.transaction import GroupCommit
from roost.core.commands import Accepted, Mutation, Op, Push
from roost.core.decide import Rules
from roost.core.edits import Edit
from roost.core.events import microseconds
from roost.core.ids import INBOX
from roost.core.limits import Limits
from roost.core.siblings import values
from roost.engines.memory import Memory

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = microseconds(START)


class Log:
    """One document, on which devices act; each call is a mutation of its own."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.engine = Memory()
        self.numbers: dict[str, int] = {}
        asyncio.run(self.engine.open())

    def push(self, device: str, op: Op, base: int = 0, clock: int = 1) -> str:
        number = self.numbers[device] = self.numbers.get(device, 0) + 1
        push = Push("ada", device, (Mutation(number, base, NOW + clock, (op,)),), "user:ada")
        rules = Rules(Limits(), lambda _: self.policy)
        (outcome,) = asyncio.run(GroupCommit(self.engine, [push], rules).run(START))
        assert isinstance(outcome, Accepted)
        return outcome.results[0].status

    def put(self, device: str, value: Any, base: int = 0, clock: int = 1) -> str:
        return self.push(device, Op("put", "c", "k", json.dumps(value).encode()), base, clock)

    def edit(self, device: str, *edits: Edit, base: int = 0, clock: int = 1) -> str:
        return self.push(device, Op("edit", "c", "k", edits=edits), base, clock)

    @property
    def standing(self) -> list[Any]:
        """The document's values, its own last."""
        document = {(each.collection, each.key): each for each in self._documents()}["c", "k"]
        return [json.loads(bytes(each.value)) for each in values(document)]

    @property
    def lost(self) -> list[Any]:
        """What the inbox has, without the rest of the conflict."""
        found = [json.loads(each.value) for each in self._documents() if each.collection == INBOX and each.value]
        return [conflict["lost"] for conflict in found]

    def _documents(self) -> list[Any]:
        stored = asyncio.run(self.engine.stored("ada"))
        assert stored is not None
        return sorted(stored[1], key=lambda each: each.version)


def edits(*given: Edit) -> Any:
    return msgspec.to_builtins(list(given))


def test_a_field_of_a_whole_value_that_a_later_edit_replaces() -> None:
    log = Log("merge")
    log.put("phone", {"a": "theirs", "b": 1})
    assert log.edit("laptop", Edit("set", "/a", "mine"), clock=2) == "merged"
    assert log.standing == [{"a": "mine", "b": 1}]
    assert log.lost == [{"version": 1, "edits": edits(Edit("set", "/a", "theirs"))}]


def test_a_field_of_a_whole_value_that_comes_late() -> None:
    log = Log("merge")
    log.edit("phone", Edit("set", "/a", "theirs"), clock=2)
    assert log.put("laptop", {"a": "mine", "b": 1}) == "merged"
    assert log.standing == [{"a": "theirs", "b": 1}]
    assert log.lost == [{"edits": edits(Edit("set", "/a", "mine"))}]


def test_the_same_within_a_member() -> None:
    log = Log("merge")
    log.edit("phone", Edit("set", "/o", {"x": {"y": 1}, "z": 2}))
    log.edit("laptop", Edit("set", "/o/x/y", 3), clock=2)
    assert log.standing == [{"o": {"x": {"y": 3}, "z": 2}}]
    assert log.lost == [{"version": 1, "edits": edits(Edit("set", "/o/x/y", 1))}]


def test_a_text_in_whose_place_an_object_is_made() -> None:
    log = Log("merge")
    log.edit("phone", Edit("set", "/o", "theirs"))
    log.edit("laptop", Edit("set", "/o/x", "mine"), clock=2)
    assert log.standing == [{"o": {"x": "mine"}}]
    assert log.lost == [{"version": 1, "edits": edits(Edit("set", "/o", "theirs"))}]


def test_what_is_the_same_is_not_lost() -> None:
    log = Log("merge")
    log.put("phone", {"a": "same", "b": 1})
    assert log.edit("laptop", Edit("set", "/a", "same"), Edit("set", "/c", 2), clock=2) == "applied"
    assert log.lost == []


def test_a_count_that_finds_no_counter() -> None:
    log = Log("merge")
    log.edit("phone", Edit("set", "/n", "a text"))
    assert log.edit("laptop", Edit("inc", "/n", 1), clock=2) == "merged"
    assert log.lost == [{"edits": edits(Edit("inc", "/n", 1))}]
    log = Log("merge")
    log.edit("phone", Edit("inc", "/o/n", 1), clock=2)
    assert log.edit("laptop", Edit("set", "/o", "a text")) == "merged"
    assert log.lost == [{"version": 1, "edits": edits(Edit("inc", "/o/n", 1))}]
    log = Log("lww")
    log.edit("phone", Edit("set", "/n", "a text"))
    assert log.edit("laptop", Edit("inc", "/n", 1), clock=2) == "refused"
    assert log.lost == [{"edits": edits(Edit("inc", "/n", 1))}]


def test_a_removal_that_loses_to_an_addition_whichever_comes_first() -> None:
    log = Log("merge")
    log.put("desk", {"s": ["e"]})
    log.edit("phone", Edit("remove", "/s", "e"), base=1)
    assert log.edit("laptop", Edit("add", "/s", "e"), base=1, clock=2) == "merged"
    assert log.standing == [{"s": ["e"]}]
    assert log.lost == [{"version": 2, "edits": edits(Edit("remove", "/s", "e"))}]
    log = Log("merge")
    log.put("desk", {"s": ["e"]})
    log.edit("laptop", Edit("add", "/s", "e"), base=1, clock=2)
    assert log.edit("phone", Edit("remove", "/s", "e"), base=1) == "merged"
    assert log.standing == [{"s": ["e"]}]
    assert log.lost == [{"edits": edits(Edit("remove", "/s", "e"))}]


def test_an_element_of_a_new_value_that_somebody_removes() -> None:
    log = Log("merge")
    log.put("phone", {"s": ["e"]})
    assert log.edit("laptop", Edit("remove", "/s", "e"), clock=2) == "merged"
    assert log.lost == [{"version": 1, "edits": edits(Edit("add", "/s", "e"))}]


def test_an_edit_beside_others_is_made_on_what_its_device_knew() -> None:
    log = Log("siblings")
    log.put("phone", {"a": "mine"})
    log.put("laptop", {"a": "theirs"})
    log.edit("phone", Edit("set", "/b", 1))
    assert log.standing == [{"a": "theirs"}, {"a": "mine", "b": 1}]


def test_a_deletion_does_not_make_values_of_others_ones_own() -> None:
    log = Log("siblings")
    log.put("phone", {"a": "mine"})
    log.put("laptop", {"a": "theirs"})
    log.push("phone", Op("delete", "c", "k"))
    assert log.standing == [{"a": "theirs"}]
    log.put("phone", {"a": "anew"})
    assert log.standing == [{"a": "theirs"}, {"a": "anew"}]


def test_siblings_of_a_collection_that_has_another_policy_since() -> None:
    for policy in ("lww", "merge"):
        log = Log("siblings")
        log.put("phone", {"a": "one"})
        log.put("laptop", {"a": "two"})
        log.policy = policy
        log.edit("desk", Edit("set", "/b", 1), clock=2)
        assert log.standing == [{"a": "two", "b": 1}]
        assert {"version": 1, "value": {"a": "one"}} in log.lost
