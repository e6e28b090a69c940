"""The gate: every method of it asks who is there before anything is read or written."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest

from roost.authz.door import Door
from roost.authz.gate import Gate
from roost.authz.policy.policies import Policies
from roost.authz.principal import Caller, Principal
from roost.commands.writer import Writer
from roost.core.commands import AppendLog, Change, Mutation, Op, Push
from roost.core.errors import Code, RoostError
from roost.core.ids import DEFINITIONS, INBOX
from roost.core.ports import DocumentRef
from roost.engines.memory import Memory
from roost.feed.bulletin import Bulletin
from roost.feed.definitions import Definitions
from roost.feed.hub import Hub
from roost.feed.presence import Presence
from roost.queries.reader import Reader
from roost.settings import Settings

ADA, ADMIN, SERVICE = (
    Caller(Principal("user", "ada")),
    Caller(Principal("admin", "admin")),
    Caller(Principal("service", "billing")),
)
Call = Callable[[Gate, Caller, str], Awaitable[Any]]

MUTATION = Mutation(1, 0, 1, (Op("put", "notes", "b", b"1"),))


async def entered(context: AbstractContextManager[Any]) -> None:
    with context:
        pass


async def stayed(gate: Gate, who: Caller, user: str) -> None:
    """Whether one may stay shows at once; one that may does so until the node stops."""
    staying = asyncio.ensure_future(gate.stay(who, user))
    await asyncio.wait((staying,), timeout=0)
    if staying.done():
        await staying
    gate._hub.drain()
    await staying


OWN: dict[str, Call] = {
    "change": lambda gate, who, user: gate.change(who, Change(user, (Op("put", "notes", "a", b"1"),), who.actor)),
    "create_user": lambda gate, who, user: gate.create_user(who, user),
    "document": lambda gate, who, user: gate.document(who, DocumentRef(user, "notes", "a")),
    "page": lambda gate, who, user: gate.page(who, user, "notes", "", None, 10),
    "snapshot": lambda gate, who, user: gate.snapshot(who, user),
    "history": lambda gate, who, user: gate.history(who, DocumentRef(user, "notes", "a"), None, 10),
    "log": lambda gate, who, user: gate.log(who, user, 0, 10, None),
    "follow": lambda gate, who, user: anext(gate.follow(who, user, 0, None)),
    "push": lambda gate, who, user: gate.push(who, Push(user, "phone", (MUTATION,), who.actor)),
    "devices": lambda gate, who, user: gate.devices(who, user),
    "connect": lambda gate, who, user: entered(gate.connect(who, user, "phone", 0)),
    "watch": lambda gate, who, user: entered(gate.watch(who, user)),
    "stay": stayed,
    "head": lambda gate, who, user: gate.head(who, user),
}
PRIVILEGED: dict[str, Call] = {
    "append_log": lambda gate, who, user: gate.append_log(who, AppendLog(user, (), who.actor)),
    "users": lambda gate, who, _: gate.users(who, None, 10),
}
ADMINS: dict[str, Call] = {
    "define": lambda gate, who, _: gate.define(who, Op("put", DEFINITIONS, "notes", b'{"conflict":"cas"}'), None),
}
ANYBODYS: dict[str, Call] = {
    "definition": lambda gate, who, _: gate.definition(who, "notes"),
    "definitions": lambda gate, who, _: gate.definitions(who, None, 10),
}


class Closed:
    """What must not be touched before the gate has decided."""

    def __getattr__(self, name: str) -> NoReturn:
        pytest.fail(f"reached {name} without a decision")


async def open_gate() -> Gate:
    return (await gate_and_bulletin())[0]


async def gate_and_bulletin() -> tuple[Gate, Bulletin]:
    engine, settings, hub = Memory(), Settings(), Hub(10)
    await engine.open()
    writer = Writer(engine, settings, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC), committed=hub.publish)
    bulletin = Bulletin(engine, hub, timeout_s=settings.engine_timeout_s)
    definitions = Definitions(bulletin, settings)
    await bulletin.read()
    presence = Presence(engine, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC), refresh_s=60, devices_max=10)
    return Gate(writer, Reader(engine, settings), hub, definitions, presence, door(definitions)), bulletin


def door(definitions: Definitions) -> Door:
    """The door with the policies that ship."""
    return Door(Policies("local", lambda: datetime(2026, 1, 1, tzinfo=UTC)), definitions)


def closed_gate() -> Gate:
    closed: Any = Closed()
    bulletin = Bulletin(Memory(), Hub(1), timeout_s=1)
    bulletin._seq = 0
    return Gate(closed, closed, closed, closed, closed, door(Definitions(bulletin, Settings())))


def test_every_method_is_decided_here() -> None:
    methods = {name for name, method in vars(Gate).items() if inspect.isfunction(method) and name[0] != "_"}
    # `enter` and `ready` reach nothing. The others have tests of their own, and their rows in the matrix of routes.
    elsewhere = {"enter", "ready", "erase", "erasure", "export", "audit", "follow_audit"}
    assert methods - elsewhere == {*OWN, *PRIVILEGED, *ADMINS, *ANYBODYS}


@pytest.mark.parametrize("name", OWN)
def test_a_user_reaches_no_other_user(name: str) -> None:
    with pytest.raises(RoostError) as refusal:
        asyncio.run(_run(OWN[name](closed_gate(), ADA, "bob")))
    assert refusal.value.code is Code.FORBIDDEN


@pytest.mark.parametrize("name", PRIVILEGED)
def test_a_user_may_nothing_privileged(name: str) -> None:
    with pytest.raises(RoostError) as refusal:
        asyncio.run(_run(PRIVILEGED[name](closed_gate(), ADA, "ada")))
    assert refusal.value.code is Code.FORBIDDEN


@pytest.mark.parametrize("who", [ADA, SERVICE], ids=lambda who: who.principal.kind)
@pytest.mark.parametrize("name", ADMINS)
def test_some_things_are_for_admins_alone(name: str, who: Caller) -> None:
    with pytest.raises(RoostError) as refusal:
        asyncio.run(_run(ADMINS[name](closed_gate(), who, "ada")))
    assert refusal.value.code is Code.FORBIDDEN


@pytest.mark.parametrize("who", [ADA, ADMIN, SERVICE], ids=lambda who: who.principal.kind)
def test_what_is_allowed_works(who: Caller) -> None:
    async def go() -> None:
        gate, bulletin = await gate_and_bulletin()
        for call in OWN.values():
            await call(gate, who, "ada")
        await defined(gate, bulletin)
        for call in ANYBODYS.values():
            await call(gate, who, "ada")
        if who.principal.kind != "user":
            for call in PRIVILEGED.values():
                await call(gate, who, "ada")

    asyncio.run(go())


async def defined(gate: Gate, bulletin: Bulletin) -> None:
    """Something is defined, while the definitions are being kept."""
    keeping = asyncio.ensure_future(bulletin.keep())
    try:
        await ADMINS["define"](gate, ADMIN, "ada")
    finally:
        keeping.cancel()


def test_what_is_defined_is_in_force_once_that_is_answered() -> None:
    async def go() -> None:
        gate, bulletin = await gate_and_bulletin()
        defining = asyncio.ensure_future(_run(ADMINS["define"](gate, ADMIN, "ada")))
        for _ in range(100):
            await asyncio.sleep(0)
        assert await gate.definition(ADMIN, "notes")  # it is written,
        assert not defining.done()  # and that is not enough
        await bulletin.read()
        await defining
        assert gate._definitions.policy_of("notes") == "cas"

    asyncio.run(go())


def test_roosts_own_collections_are_written_by_roost_alone() -> None:
    async def go() -> None:
        gate = await open_gate()
        for op in (
            Op("put", INBOX, "a", b"1"),
            Op("put", "roost_anything", "a", b"1"),
            Op("delete", DEFINITIONS, "a"),
        ):
            with pytest.raises(RoostError) as refusal:
                await gate.change(ADMIN, Change("ada", (op,), "admin"))
            assert (refusal.value.code, refusal.value.pointer) == (Code.FORBIDDEN, None)
        ops = (Op("put", "notes", "a", b"1"), Op("put", INBOX, "a", b"1"))
        with pytest.raises(RoostError) as refusal:
            await gate.change(ADA, Change("ada", ops, "user:ada", batch=True))
        assert refusal.value.pointer == "/ops/1"
        with pytest.raises(RoostError) as refusal:
            await gate.change(ADA, Change("ada", (Op("delete", INBOX, "a"),), "user:ada"))
        assert refusal.value.code is Code.NOT_FOUND  # it may be deleted, if there is one
        with pytest.raises(RoostError) as refusal:
            await gate.define(ADMIN, Op("put", DEFINITIONS, INBOX, b'{"conflict":"cas"}'), None)
        assert refusal.value.code is Code.FORBIDDEN

    asyncio.run(go())


def test_nothing_is_changed_before_the_definitions_are_known() -> None:
    async def go() -> None:
        gate, bulletin = await gate_and_bulletin()
        bulletin._seq = None
        with pytest.raises(RoostError) as refusal:
            await OWN["change"](gate, ADA, "ada")
        assert refusal.value.code is Code.UNAVAILABLE
        with pytest.raises(RoostError):
            await gate.ready()

    asyncio.run(go())


async def _run(call: Awaitable[Any]) -> None:
    await call
