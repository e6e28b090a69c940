"""Devices, a server and a network that loses, doubles and delays: in the end all have what the log adds up to.

The server is the real one, pure parts and reference engine; a device is `Device`, with a store that it is restarted
from. Every step is drawn, so a failure shrinks to the few that matter. All devices count with one counter that nobody
ever sets, so it shows a mutation that was lost or took effect twice, on the server and in what people see meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.commands.transaction import GroupCommit
from roost.core.commands import Accepted, Change, Command, Op, Push, Result
from roost.core.decide import Rules
from roost.core.edits import Edit
from roost.core.events import microseconds
from roost.core.limits import Limits
from roost.engines.memory import Memory
from roost.sync.replica import Replica
from tests.unit.sync.device import Device

AT = datetime(2026, 1, 1, tzinfo=UTC)
USER = "ada"
COUNTS = ("counters", "all")
POLICIES = ("cas", "lww", "merge", "siblings")

device = st.integers(0, 2)
key = st.sampled_from(["a", "b"])
small = st.integers(0, 3)
steps = st.one_of(
    st.tuples(st.just("count"), device, st.integers(1, 9)),
    st.tuples(st.just("count"), device, st.integers(1, 9)),
    st.tuples(st.just("put"), device, key, st.fixed_dictionaries({"x": small}, optional={"y": small})),
    st.tuples(st.just("set"), device, key, small),
    st.tuples(st.just("add"), device, key, small),
    st.tuples(st.just("delete"), device, key),
    st.tuples(st.just("both"), device, key, st.integers(1, 9)),
    st.tuples(st.just("push"), device, st.sampled_from(["answer", "late", "lost"])),
    st.tuples(st.just("push"), device, st.sampled_from(["answer", "late", "lost"])),
    st.tuples(st.just("late"), device, st.booleans()),
    st.tuples(st.just("read"), device, st.integers(1, 4)),
    st.tuples(st.just("read"), device, st.integers(1, 4)),
    st.tuples(st.just("reread"), device),
    st.tuples(st.just("restart"), device),
    st.tuples(st.just("refetch"), device, st.booleans()),
    st.tuples(st.just("rename"), device),
    st.tuples(st.just("http"), key, small),
)


class World:
    """A server, three devices, and the answers that are on their way."""

    def __init__(self, policy: str) -> None:
        self.engine = Memory()
        self.rules = Rules(Limits(), lambda collection: "merge" if collection == COUNTS[0] else policy)
        self.devices = [Device(f"device-{index}") for index in range(3)]
        self.late: list[list[tuple[str, tuple[Result, ...]]]] = [[], [], []]
        self.counted = 0
        self.shown = [0, 0, 0]
        self.now = microseconds(AT)
        self.names = 0

    async def run(self, drawn: list[tuple[Any, ...]]) -> None:
        await self.engine.open()
        for number, step in enumerate(drawn):
            await self.do(*step)
            self.look(f"after step {number}: {step}")
        for index in range(3):
            await self.push(index, "answer")
        for index, each in enumerate(self.devices):
            await self.read(index, 1_000)
            assert not each.replica.queue
            await self.compare(each.replica)
        self.look("in the end")
        assert self.shown == [self.counted] * 3

    async def do(self, what: str, *values: Any) -> None:
        if what == "http":
            await self.write(*values)
            return
        index, *rest = values
        if what in ("push", "read", "refetch"):
            await getattr(self, what)(index, *rest)
        elif what == "late":
            self.answer_late(index, *rest)
        elif what == "reread":
            await self.read(index, 3, again=3)
        elif what == "restart":
            self.devices[index].do({"do": "restart"})
        elif what == "rename":
            # What was pushed under the old name, and has no answer, would be done again.
            await self.push(index, "answer")
            await self.read(index, 1_000)
            self.edit(index, "count", 1)
            self.names += 1
            self.devices[index].do({"do": "rename", "device": f"other-{self.names}"})
        else:
            self.edit(index, what, *rest)

    def edit(self, index: int, what: str, *values: Any) -> None:
        self.now += 1
        step: dict[str, Any]
        count: dict[str, Any] = {"do": "edit", "collection": COUNTS[0], "key": COUNTS[1]}
        name: dict[str, Any] = {"collection": "docs", "key": values[0]}
        if what == "count":
            step = count | {"edits": [{"op": "inc", "path": "/n", "value": values[0]}]}
            self.counted += values[0]
        elif what == "both":
            self.counted += values[1]
            tag: dict[str, Any] = {"collection": COUNTS[0], "key": "tags"}
            add = tag | {"do": "edit", "edits": [{"op": "add", "path": "/s", "value": values[0]}]}
            ops = [count | {"edits": [{"op": "inc", "path": "/n", "value": values[1]}]}, add]
            step = {"do": "transaction", "ops": ops}
        elif what == "put":
            step = name | {"do": "put", "value": values[1]}
        elif what == "set":
            step = name | {"do": "edit", "edits": [{"op": "set", "path": "/x", "value": values[1]}]}
        elif what == "add":
            step = name | {"do": "edit", "edits": [{"op": "add", "path": "/s", "value": values[1]}]}
        else:
            step = name | {"do": "delete"}
        seen = self.devices[index].do(step | {"now": self.now})
        assert "error" not in seen, seen

    async def push(self, index: int, fate: str) -> None:
        """Push everything; the answers arrive, or arrive late, or never."""
        replica = self.devices[index].replica
        while batch := replica.to_push():
            name = replica.saved.device
            accepted = await self.command(Push(USER, name, batch, "user:ada"))
            if fate == "answer":
                self.answer(index, accepted.results)
                continue
            if fate == "late":
                self.late[index].append((name, accepted.results))
            return

    def answer_late(self, index: int, twice: bool) -> None:
        if self.late[index]:
            name, results = self.late[index][0] if twice else self.late[index].pop(0)
            if name == self.devices[index].replica.saved.device:
                self.answer(index, results)

    def answer(self, index: int, results: tuple[Result, ...]) -> None:
        frame = {"type": "pushed", "results": json.loads(msgspec.json.encode(results))}
        self.devices[index].do({"do": "receive", "frame": frame})

    async def read(self, index: int, limit: int, again: int = 0) -> None:
        each = self.devices[index]
        after = max((each.replica.saved.cursor or 0) - again, 0)
        log = await self.engine.log(USER, after, limit, None)
        if log is not None and log.reached >= (each.replica.saved.cursor or 0):
            outcome = each.replica.advance(log.events, log.reached)
            assert outcome.then is None
            each.store.keep(each.replica, outcome)

    async def refetch(self, index: int, meanwhile: bool) -> None:
        """A snapshot, as a client reads it: pushed before, and pages that may be newer than the seq."""
        each = self.devices[index]
        await self.push(index, "answer")
        head = await self.engine.head(USER)
        if meanwhile:
            await self.write("a", 9)
        stored = await self.engine.stored(USER)
        documents = [] if stored is None else [each for each in stored[1] if each.value is not None]
        each.store.keep(each.replica, each.replica.replace(documents, head.seq if head else 0))

    async def write(self, key: str, value: int) -> None:
        op = Op("put", "docs", key, msgspec.json.encode({"x": value}))
        edit = Op("edit", *COUNTS, edits=(Edit("inc", "/n", 1),))
        # As a plain write does, which has seen everything.
        await self.command(Change(USER, (op, edit) if self.rules.policy_of("docs") != "cas" else (edit,), "service:s"))
        self.counted += 1

    async def command(self, command: Command) -> Accepted:
        self.now += 1
        [outcome] = await GroupCommit(self.engine, [command], self.rules).run(AT)
        assert isinstance(outcome, Accepted), outcome
        return outcome

    def look(self, when: str) -> None:
        """Nobody ever sees the counter go back, or count what nobody has counted."""
        for index, each in enumerate(self.devices):
            view = each.replica.view(COUNTS)
            shown = view.value["n"] if view else 0
            assert self.shown[index] <= shown <= self.counted, f"device {index} shows {shown} {when}"
            self.shown[index] = shown

    async def compare(self, replica: Replica) -> None:
        stored = await self.engine.stored(USER)
        documents = {} if stored is None else {(d.collection, d.key): d for d in stored[1] if d.value is not None}
        assert replica.documents == documents


@pytest.mark.parametrize("policy", POLICIES)
@given(drawn=st.lists(steps, max_size=40))
@settings(max_examples=150)
def test_all_devices_come_to_what_the_log_adds_up_to(policy: str, drawn: list[tuple[Any, ...]]) -> None:
    asyncio.run(World(policy).run(drawn))


def test_a_draft_knows_only_what_was_read_when_it_was_begun() -> None:
    device = Device("phone")
    draft = device.replica.draft()
    draft.put("notes", "a", "mine")
    at = "2026-01-31T12:00:00Z"
    event = {"seq": 1, "kind": "put", "collection": "notes", "key": "b", "value": 1, "at": at, "actor": "user:ada"}
    device.do({"do": "receive", "frame": {"type": "events", "events": [event], "seq": 1, "live": True}})
    device.replica.commit(draft, 1)
    assert [mutation.base for mutation in device.replica.to_push()] == [0]
    assert device.look()["view"] == {"notes": {"a": "mine", "b": 1}}
