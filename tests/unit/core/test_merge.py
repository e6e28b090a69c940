"""The laws of merging: in whatever order and grouping edits arrive, however often, the result is the same.

Devices edit one document without having seen each other. Their mutations arrive in some order, each device's own in
theirs, and are decided by the writer on the reference engine: in one transaction, or in many.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.commands.transaction import GroupCommit
from roost.core.commands import Accepted, Change, Command, Mutation, Op, Push
from roost.core.decide import Rules
from roost.core.edits import Edit
from roost.core.events import Document, microseconds
from roost.core.ids import INBOX
from roost.core.limits import Limits
from roost.core.siblings import values
from roost.engines.memory import Memory

START = datetime(2026, 1, 1, tzinfo=UTC)
CLOCK = microseconds(START) + 1
POLICIES = ("cas", "lww", "merge", "siblings")
FIRST = {"a": 0, "o": {"x": 0, "y": 0}, "n": 0, "t": ["p", "q"]}


class State(NamedTuple):
    """What an order of arrival comes to."""

    values: list[Any]
    inbox: list[dict[str, Any]]
    statuses: dict[tuple[str, int], str]


def edits_of(path: str, *ops: tuple[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Edit]:
    return st.one_of(
        [
            st.builds(Edit, st.just(op), st.just(path), value) if op != "unset" else st.just(Edit("unset", path))
            for op, value in ops
        ]
    )


small = st.integers(1, 9)
element = st.sampled_from(["p", "q", "r"])
field_edits = st.one_of(
    edits_of("/a", ("set", small), ("unset", small)),
    edits_of("/o/x", ("set", small), ("unset", small)),
    edits_of("/o/y", ("set", small)),
    edits_of("/o", ("set", st.fixed_dictionaries({"x": small})), ("unset", small)),
    edits_of("/n", ("inc", small), ("inc", small), ("set", small)),
    edits_of("/t", ("add", element), ("remove", element), ("set", st.just(["r"]))),
)
whole = st.fixed_dictionaries({"a": small, "n": small, "t": st.just(["p"])})


puts = whole.map(lambda value: Op("put", "c", "k", msgspec.json.encode(value)))


def ops(policy: str) -> st.SearchStrategy[Op]:
    edit = st.lists(field_edits, min_size=1, max_size=3).map(lambda e: Op("edit", "c", "k", edits=tuple(e)))
    delete = st.just(Op("delete", "c", "k"))
    if policy == "merge":
        return st.one_of(edit, edit, edit, puts, delete)
    return st.one_of(puts, puts, delete) if policy == "lww" else puts


@st.composite
def devices(draw: st.DrawFn, policy: str) -> list[Push]:
    """Mutations of two to four devices, one a push, each device's in order; all saw the log up to 1."""
    pushes = []
    for name in draw(st.sampled_from([["d1", "d2"], ["d1", "d2", "d3"], ["d1", "d2", "d3", "d4"]])):
        clocks = sorted(draw(st.lists(st.integers(0, 20), min_size=1, max_size=3, unique=True)))
        gone = False
        for number, clock in enumerate(clocks, 1):
            # A device that has deleted a document writes it again by a `put`.
            op = draw(puts if gone else ops(policy))
            gone = op.kind == "delete"
            pushes.append(Push("ada", name, (Mutation(number, 1, CLOCK + clock, (op,)),), "user:ada"))
    return pushes


def interleaved(pushes: Sequence[Push], order: Sequence[int]) -> list[Push]:
    """Shuffled by `order`, with each device's own left in order."""
    shuffled = [push for _, push in sorted(zip(order, pushes, strict=True), key=lambda pair: pair[0])]
    own = {push.device: iter([p for p in pushes if p.device == push.device]) for push in pushes}
    return [next(own[push.device]) for push in shuffled]


async def _state(policy: str, groups: Sequence[Sequence[Command]]) -> State:
    engine = Memory()
    await engine.open()
    rules = Rules(Limits(), lambda _: policy)
    first = Change("ada", (Op("put", "c", "k", msgspec.json.encode(FIRST)),), "user:ada")
    await GroupCommit(engine, [first], rules).run(START)
    statuses: dict[tuple[str, int], str] = {}
    for group in groups:
        for command, outcome in zip(group, await GroupCommit(engine, list(group), rules).run(START), strict=True):
            assert isinstance(outcome, Accepted), outcome
            assert isinstance(command, Push)
            for result in outcome.results:
                before = statuses.setdefault((command.device, result.number), result.status)
                assert before == result.status
    stored = await engine.stored("ada")
    assert stored is not None
    documents = {(document.collection, document.key): document for document in stored[1]}
    inbox = [
        json.loads(document.value)
        for (collection, _), document in sorted(documents.items())
        if collection == INBOX and document.value
    ]
    return State(_values(documents["c", "k"]), inbox, statuses)


def _values(document: Document) -> list[Any]:
    shown = [json.loads(bytes(sibling.value)) for sibling in values(document)]
    for value in shown:
        if isinstance(value, dict) and isinstance(value.get("t"), list):
            value["t"].sort()  # a set has no order
    return sorted(shown, key=lambda value: json.dumps(value, sort_keys=True))


def _bare(value: Any) -> Any:
    """A value without empty objects in it: of one that held nothing but what went, docs/guides/sync.md says more."""
    if isinstance(value, list):
        return [_bare(item) for item in value]
    if isinstance(value, dict):
        return {name: bare for name, inner in value.items() if (bare := _bare(inner)) != {}}
    return value


def state(policy: str, *groups: Sequence[Command]) -> State:
    return asyncio.run(_state(policy, groups))


def one_by_one(policy: str, pushes: Sequence[Push]) -> State:
    return state(policy, *[[push] for push in pushes])


def scenario(data: st.DataObject, policy: str) -> tuple[list[Push], list[Push]]:
    pushes = data.draw(devices(policy), label="pushes")
    order = data.draw(st.permutations(range(len(pushes))), label="order")
    return pushes, interleaved(pushes, order)


@pytest.mark.parametrize("policy", ["lww", "merge", "siblings"])
@settings(max_examples=300)
@given(data=st.data())
def test_it_commutes(policy: str, data: st.DataObject) -> None:
    pushes, shuffled = scenario(data, policy)
    assert _bare(one_by_one(policy, pushes).values) == _bare(one_by_one(policy, shuffled).values)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=60)
@given(data=st.data())
def test_it_associates(policy: str, data: st.DataObject) -> None:
    _, pushes = scenario(data, policy)
    cut = data.draw(st.integers(0, len(pushes)), label="cut")
    assert state(policy, pushes[:cut], pushes[cut:]) == one_by_one(policy, pushes)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=60)
@given(data=st.data())
def test_it_is_idempotent(policy: str, data: st.DataObject) -> None:
    _, pushes = scenario(data, policy)
    repeated = [
        push
        for index, push in enumerate(pushes)
        for push in [push, *data.draw(st.lists(st.sampled_from(pushes[: index + 1]), max_size=2))]
    ]
    assert one_by_one(policy, repeated) == one_by_one(policy, pushes)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=100)
@given(data=st.data())
def test_a_value_stands_or_is_in_the_inbox(policy: str, data: st.DataObject) -> None:
    """The last thing that each device put whole is there to be seen, one way or the other."""
    _, pushes = scenario(data, policy)
    last = {push.device: push.mutations[0].ops[0] for push in pushes}
    after = one_by_one(policy, pushes)
    seen = after.values + [conflict["lost"].get("value") for conflict in after.inbox]
    for op in last.values():
        if op.kind == "put" and policy != "merge":
            assert json.loads(op.argument) in seen


@settings(max_examples=100)
@given(data=st.data())
def test_every_inc_counts_unless_the_counter_was_set(data: st.DataObject) -> None:
    incs = st.lists(small, min_size=1, max_size=3)
    pushes = [
        Push(
            "ada",
            name,
            (Mutation(number, 1, CLOCK + data.draw(small), (Op("edit", "c", "k", edits=(Edit("inc", "/n", by),)),)),),
            "u",
        )
        for name in ("d1", "d2", "d3")
        for number, by in enumerate(data.draw(incs), 1)
    ]
    ops_of = [op for push in pushes for mutation in push.mutations for op in mutation.ops]
    total = sum(edit.value for op in ops_of for edit in op.edits or () if isinstance(edit.value, int))
    order = data.draw(st.permutations(range(len(pushes))))
    after = one_by_one("merge", interleaved(pushes, order))
    assert after.values[0]["n"] == total
    assert not after.inbox
