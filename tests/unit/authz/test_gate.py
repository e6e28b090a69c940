"""The gate: every method of it asks who is there before anything is read or written."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest

from roost.authz.gate import Gate
from roost.authz.principal import Principal
from roost.commands.writer import Writer
from roost.core.commands import AppendLog, Change, Op
from roost.core.errors import Code, RoostError
from roost.core.ports import DocumentRef
from roost.engines.memory import Memory
from roost.feed.hub import Hub
from roost.queries.reader import Reader
from roost.settings import Settings

ADA, ADMIN, SERVICE = Principal("user", "ada"), Principal("admin", "admin"), Principal("service", "billing")
Call = Callable[[Gate, Principal, str], Awaitable[Any]]

OWN: dict[str, Call] = {
    "change": lambda gate, who, user: gate.change(who, Change(user, (Op("put", "notes", "a", b"1"),), who.actor)),
    "create_user": lambda gate, who, user: gate.create_user(who, user),
    "document": lambda gate, who, user: gate.document(who, DocumentRef(user, "notes", "a")),
    "page": lambda gate, who, user: gate.page(who, user, "notes", "", None, 10),
    "snapshot": lambda gate, who, user: gate.snapshot(who, user),
    "history": lambda gate, who, user: gate.history(who, DocumentRef(user, "notes", "a"), None, 10),
    "log": lambda gate, who, user: gate.log(who, user, 0, 10, None),
    "follow": lambda gate, who, user: anext(gate.follow(who, user, 0, None)),
    "head": lambda gate, who, user: gate.head(who, user),
}
PRIVILEGED: dict[str, Call] = {
    "append_log": lambda gate, who, user: gate.append_log(who, AppendLog(user, (), who.actor)),
    "users": lambda gate, who, _: gate.users(who, None, 10),
}


class Closed:
    """What must not be touched before the gate has decided."""

    def __getattr__(self, name: str) -> NoReturn:
        pytest.fail(f"reached {name} without a decision")


async def open_gate() -> Gate:
    engine, settings, hub = Memory(), Settings(), Hub(10)
    await engine.open()
    writer = Writer(engine, settings, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC), committed=hub.publish)
    return Gate(writer, Reader(engine, settings), hub)


def closed_gate() -> Gate:
    closed: Any = Closed()
    return Gate(closed, closed, closed)


def test_every_method_is_decided_here() -> None:
    methods = {name for name, method in vars(Gate).items() if inspect.isfunction(method) and name[0] != "_"}
    assert methods == {*OWN, *PRIVILEGED, "ready"}


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


@pytest.mark.parametrize("who", [ADA, ADMIN, SERVICE], ids=lambda who: who.kind)
def test_what_is_allowed_works(who: Principal) -> None:
    async def go() -> None:
        gate = await open_gate()
        for call in OWN.values():
            await call(gate, who, "ada")
        if who.kind != "user":
            for call in PRIVILEGED.values():
                await call(gate, who, "ada")

    asyncio.run(go())


async def _run(call: Awaitable[Any]) -> None:
    await call
