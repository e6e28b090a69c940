"""What the gate shows to whom: nothing hidden to anybody, nothing masked to whoever may not see it, in every form.

One user's state holds a secret in each place that can hold one. Whatever is read, by whomever, is searched for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from roost.authz.departures import Departures
from roost.authz.door import Door
from roost.authz.gate import Gate, Stretch
from roost.authz.policy.policies import Policies, encode
from roost.authz.principal import Caller, Origin, Principal
from roost.commands.writer import Writer
from roost.core.commands import ANYTHING, AppendLog, Change, Idempotency, Mutation, Op, Push, Versions
from roost.core.edits import Edit
from roost.core.errors import Code, RoostError
from roost.core.events import Event
from roost.core.ids import CREDENTIALS, DEFINITIONS, INBOX, SESSIONS, SYSTEM_USER
from roost.core.moment import Moment
from roost.core.ports import DocumentRef
from roost.engines.memory import Memory
from roost.feed.bulletin import Bulletin
from roost.feed.definitions import Definitions
from roost.feed.hub import Hub
from roost.feed.presence import Presence
from roost.queries.reader import Reader
from roost.settings import Settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRET, HASH = "4111-1111", "argon2-hash"
ADA = Caller(Principal("user", "ada"))
ADMIN = Caller(Principal("admin", "admin"))
BILLING = Caller(Principal("service", "billing"))
READER = Caller(Principal("service", "reader", scopes=frozenset({"notes:read"})))
ANN = Caller(Principal("support", "ann"), Origin(purpose="ticket 7"))
CURIOUS = Caller(Principal("support", "ann"))
BO = Caller(Principal("analyst", "bo"))
SETTINGS = Settings()
CONFLICT = b"""{"collection":"cards","key":"k","kept":{"version":1,"value":{"number":"%s","label":"blue"}},
"lost":{"edits":[{"op":"set","path":"/number","value":"%s"}]}}"""


class Node:
    """A gate over a memory engine, and what a test does behind its back."""

    def __init__(self) -> None:
        self.hub = Hub(10)
        engine = self.engine = Memory()
        self.writer = Writer(engine, SETTINGS, clock=lambda: NOW, committed=self.hub.publish)
        self.bulletin = Bulletin(engine, self.hub, timeout_s=5)
        definitions = Definitions(self.bulletin, SETTINGS)
        self.policies = Policies("local", lambda: NOW, changed=self.hub.call)
        presence = self.presence = Presence(engine, clock=lambda: NOW, refresh_s=60, devices_max=10)
        self.door = Door(self.policies, definitions)
        self.reader = Reader(engine, SETTINGS)
        self.gate = Gate(self.writer, self.reader, self.hub, definitions, presence, self.door)

    async def put(self, user: str, collection: str, value: bytes | None, key: str = "k") -> None:
        """Write as Roost itself does."""
        op = Op("delete" if value is None else "put", collection, key, value)
        await self.writer.run(Change(user, (op,), "roost"))
        await self.bulletin.read()


async def node() -> Node:
    """Ada, with documents of every kind."""
    made = Node()
    await made.engine.open()
    await made.put(
        SYSTEM_USER, DEFINITIONS, b'{"conflict":"siblings","privacy":"sensitive","masked":["number"]}', "cards"
    )
    await made.put(SYSTEM_USER, DEFINITIONS, b'{"conflict":"lww","privacy":"public"}', "badges")
    await made.put("ada", CREDENTIALS, b'{"hash":"%s"}' % HASH.encode())
    await made.put("ada", "notes", b'"mine"')
    await made.put("ada", "badges", b'"gold"')
    await made.put("ada", "cards", b'{"number":"%s","label":"blue"}' % SECRET.encode())
    # Two edits that have not seen each other leave siblings.
    gate = made.gate
    number, label = Edit("set", "/number", f"{SECRET}-2"), Edit("set", "/label", "red")
    for device, edit in (("phone", number), ("tablet", label)):
        ops = (Op("edit", "cards", "k", None, edits=(edit,)),)
        await gate.push(ADA, Push("ada", device, (Mutation(1, 3, 1, ops),), "user:ada"))
    await made.put("ada", INBOX, CONFLICT % (SECRET.encode(), SECRET.encode()), "1")
    await made.put("ada", SESSIONS, b'{"refresh":"%s"}' % HASH.encode())
    return made


async def followed(stream: AsyncGenerator[Stretch, None]) -> list[Stretch]:
    """The stretches up to the log's end."""
    found = []
    async for stretch in stream:
        found.append(stretch)
        if stretch.live:
            break
    await stream.aclose()
    return found


Read = Callable[[Gate, Caller], Awaitable[Any]]
READS: dict[str, Read] = {
    "document": lambda gate, who: gate.document(who, DocumentRef("ada", "cards", "k")),
    "page": lambda gate, who: gate.page(who, "ada", "cards", "", None, 10),
    "inbox": lambda gate, who: gate.page(who, "ada", INBOX, "", None, 10),
    "snapshot": lambda gate, who: gate.snapshot(who, "ada"),
    "history": lambda gate, who: gate.history(who, DocumentRef("ada", "cards", "k"), None, 10),
    "log": lambda gate, who: gate.log(who, "ada", 0, 100, None),
    "poll": lambda gate, who: gate.log(who, "ada", 0, 100, None, 5),
    "narrowed log": lambda gate, who: gate.log(who, "ada", 0, 100, ["cards", CREDENTIALS, SESSIONS, INBOX]),
    "follow": lambda gate, who: followed(gate.follow(who, "ada", 0, None)),
    "narrowed follow": lambda gate, who: followed(gate.follow(who, "ada", 0, ["cards", CREDENTIALS, INBOX])),
    "head": lambda gate, who: gate.head(who, "ada"),
}


async def look(name: str, who: Caller) -> str:
    """What is told, or nothing where it is refused."""
    gate = (await node()).gate
    try:
        return str(await READS[name](gate, who))
    except RoostError as refusal:
        if refusal.code is not Code.FORBIDDEN:
            raise
        return ""


@pytest.mark.parametrize("name", READS)
def test_nothing_hidden_is_shown_to_anybody(name: str) -> None:
    for who in (ADA, ADMIN, BILLING, ANN, BO, READER):
        told = asyncio.run(look(name, who))
        assert HASH not in told
        assert CREDENTIALS not in told
        assert SESSIONS not in told


@pytest.mark.parametrize("name", [name for name in READS if name != "head"])
def test_support_sees_what_is_not_masked_and_others_all_of_it(name: str) -> None:
    told = asyncio.run(look(name, ANN))
    assert SECRET not in told
    assert "blue" in told
    for who in (ADA, ADMIN, BILLING):
        assert SECRET in asyncio.run(look(name, who))


@pytest.mark.parametrize("name", READS)
def test_support_sees_nothing_without_a_purpose(name: str) -> None:
    assert asyncio.run(look(name, CURIOUS)) == ""


@pytest.mark.parametrize("name", ["snapshot", "log", "poll", "follow"])
def test_analysts_and_scoped_services_see_their_part(name: str) -> None:
    told = asyncio.run(look(name, BO))
    assert "gold" in told
    assert "mine" not in told
    assert "blue" not in told
    told = asyncio.run(look(name, READER))
    assert "mine" in told
    assert "gold" not in told


def test_the_cursor_moves_over_what_is_not_seen() -> None:
    async def go() -> None:
        gate = (await node()).gate
        log = await gate.log(BO, "ada", 0, 100, None)
        assert log.reached == log.head.seq > log.events[-1].seq
        (*_, last) = await followed(gate.follow(BO, "ada", 0, None))
        assert (last.seq, last.live) == (log.head.seq, True)

    asyncio.run(go())


def test_a_poll_is_not_ended_by_what_is_not_seen() -> None:
    async def go() -> None:
        made = await node()
        seq = (await made.gate.head(BO, "ada")).seq
        polling = asyncio.ensure_future(made.gate.log(BO, "ada", seq, 100, None, 30))
        await made.put("ada", "notes", b'"more"')
        await made.put("ada", SESSIONS, b"2")
        for _ in range(100):
            await asyncio.sleep(0)
        assert not polling.done()
        await made.put("ada", "badges", b'"silver"')
        assert [event.value for event in (await polling).events] == [b'"silver"']

    asyncio.run(go())


@pytest.mark.parametrize("collection", [CREDENTIALS, SESSIONS])
def test_a_hidden_document_is_out_of_reach_whether_it_exists_or_not(collection: str) -> None:
    async def go() -> None:
        gate = (await node()).gate
        for key in ("k", "missing"):
            ref = DocumentRef("ada", collection, key)
            for call in (
                lambda ref=ref: gate.document(ADMIN, ref),
                lambda ref=ref: gate.history(ADMIN, ref, None, 10),
                lambda: gate.page(ADMIN, "ada", collection, "", None, 10),
                lambda key=key: gate.change(ADA, Change("ada", (Op("delete", collection, key),), "user:ada")),
            ):
                with pytest.raises(RoostError) as refusal:
                    await call()
                assert refusal.value.code is Code.FORBIDDEN
        event = Event(9, "put", collection, "k", b"1", NOW, "user:ada")
        with pytest.raises(RoostError) as refusal:
            await gate.append_log(ADMIN, AppendLog("ada", (event,), "admin"))
        assert refusal.value.code is Code.FORBIDDEN

    asyncio.run(go())


@pytest.mark.parametrize("collection", [CREDENTIALS, SESSIONS])
def test_a_push_that_is_refused_copies_nothing_hidden(collection: str) -> None:
    """The inbox would keep it for longer than it is good for."""

    async def go() -> None:
        made = await node()
        push = Push("ada", "watch", (Mutation(1, 0, 1, (Op("put", collection, "k", b"1"),)),), "user:ada")
        (result,) = (await made.gate.push(ADA, push)).results
        assert result.status == "refused"
        stored = await made.reader.page("ada", INBOX, "", None, 100, Moment())
        refused = [each.value or b"" for each in stored.documents if collection.encode() in (each.value or b"")]
        assert len(refused) == 1
        assert HASH.encode() not in refused[0]

    asyncio.run(go())


def test_the_system_users_log_is_nobodys_to_read() -> None:
    async def go() -> None:
        gate = (await node()).gate
        for call in (
            lambda: gate.snapshot(ADMIN, SYSTEM_USER),
            lambda: gate.document(ADMIN, DocumentRef(SYSTEM_USER, DEFINITIONS, "cards")),
        ):
            with pytest.raises(RoostError) as refusal:
                await call()
            assert refusal.value.code is Code.FORBIDDEN

    asyncio.run(go())


def test_what_a_device_may_not_write_is_refused_in_its_turn() -> None:
    async def go() -> None:
        made = await node()
        made.policies.learn({"plan": encode({"text": PLAN})}, anew=False)
        push = Push(
            "ada",
            "laptop",
            (
                Mutation(1, 0, 1, (Op("put", "notes", "a", b"1"),)),
                Mutation(2, 0, 2, (Op("put", "notes", "b", b"1"), Op("put", "plan", "a", b'"gold"'))),
                Mutation(3, 0, 3, (Op("put", SESSIONS, "a", b"1"),)),
                Mutation(4, 0, 4, (Op("put", "notes", "c", b"1"),)),
            ),
            "user:ada",
        )
        results = (await made.gate.push(ADA, push)).results
        assert [result.status for result in results] == ["applied", "refused", "refused", "applied"]
        assert (results[1].code, results[1].pointer) == (Code.FORBIDDEN, "/ops/1")
        assert "by the shop alone" in results[1].detail
        snapshot = str(await made.gate.snapshot(ADMIN, "ada"))
        assert "'plan'" not in snapshot
        for who in (ANN, BO, CURIOUS):
            with pytest.raises(RoostError) as refusal:
                await made.gate.push(who, push)
            assert refusal.value.code is Code.FORBIDDEN

    asyncio.run(go())


WISH = Caller(Principal("service", "wish", scopes=frozenset({"wishlist:write"})))


def test_a_conflict_that_is_not_seen_is_not_there_for_a_write() -> None:
    async def go() -> None:
        made = await node()
        gate = made.gate
        for condition, code in ((ANYTHING, Code.NOT_FOUND), (Versions(frozenset({99})), Code.VERSION_CONFLICT)):
            with pytest.raises(RoostError) as refusal:
                await gate.change(WISH, Change("ada", (Op("delete", INBOX, "1", None, condition),), WISH.actor))
            assert (refusal.value.code, refusal.value.current) == (code, None)
        # Of a batch that is refused for something else, too.
        ops = (Op("put", "wishlist", "a", b"1"), Op("delete", INBOX, "1", None, Versions(frozenset({99}))))
        with pytest.raises(RoostError) as refusal:
            await gate.change(WISH, Change("ada", ops, WISH.actor, batch=True))
        assert refusal.value.current is None
        push = Push("ada", "evil", (Mutation(1, 0, 1, (Op("delete", INBOX, "1"),)),), WISH.actor)
        assert (await gate.push(WISH, push)).results[0].status == "applied"
        conflict = DocumentRef("ada", INBOX, "1")
        assert SECRET in str(await gate.document(ADA, conflict))
        await gate.change(ADA, Change("ada", (Op("delete", INBOX, "1"),), "user:ada"))
        assert SECRET not in str(await gate.document(ADA, conflict))

    asyncio.run(go())


def test_a_refused_dismissal_does_not_show_what_it_was_to_dismiss() -> None:
    async def go() -> None:
        gate = (await node()).gate
        ops = (Op("delete", INBOX, "1"), Op("put", "cards", "new", b"1"))
        push = Push("ada", "evil", (Mutation(1, 0, 1, ops),), WISH.actor)
        assert (await gate.push(WISH, push)).results[0].status == "refused"
        for who in (WISH, ANN):
            for read in ("inbox", "log", "follow", "snapshot"):
                assert SECRET not in str(await READS[read](gate, who))

    asyncio.run(go())


def test_what_a_refusal_or_the_inbox_tells_is_a_read_on_record() -> None:
    async def go() -> None:
        made = await node()
        trail = made.door._trail = Noted()
        failing = Op("patch", "notes", "k", [{"op": "test", "path": "", "value": "guess"}])
        for op in (Op("put", "notes", "k", b"1", Versions(frozenset({99}))), failing):
            with pytest.raises(RoostError):
                await made.gate.change(ADMIN, Change("ada", (op,), "admin"))
        assert trail.read_ == [("admin", "read", ["notes"])] * 2
        trail.read_.clear()
        name = Idempotency("k", b"f")
        for _ in range(2):
            await made.gate.change(ADMIN, Change("ada", (Op("put", "notes", "k", b"1"),), "admin", name))
        assert trail.read_ == [("admin", "read", ["notes"])]
        trail.read_.clear()
        await made.gate.page(ADA, "ada", INBOX, "", None, 10)
        await made.gate.document(ADA, DocumentRef("ada", INBOX, "1"))
        assert trail.read_ == [("user:ada", "read", ["cards", INBOX])] * 2

    asyncio.run(go())


def test_an_export_is_held_to_the_policies_while_it_runs_and_tells_sessions_to_whom_they_are_for() -> None:
    async def go() -> None:
        made = await node()
        session = b'{"created_at":1,"used_at":1,"expires_at":1,"address":"10.0.0.1"}'
        await made.put("ada", SESSIONS, session)
        departures: Any = Departures(None, made.reader, made.presence, str)  # type: ignore[arg-type]
        made.gate._departures = departures
        pieces = [str(piece) async for piece in made.gate.export(ADA, "ada", None)]
        assert "10.0.0.1" in str(pieces)
        exporter = Caller(Principal("service", "backup", scopes=frozenset({"roost:export", "documents:read"})))
        told = str([piece async for piece in made.gate.export(exporter, "ada", None)])
        assert SECRET in told
        assert "10.0.0.1" not in told
        running = made.gate.export(BILLING, "ada", None)
        await anext(running)
        made.policies.learn({"mine": encode({"text": "forbid(principal is Service, action, resource);"})}, anew=False)
        with pytest.raises(RoostError) as refusal:
            await anext(running)
        assert refusal.value.code is Code.FORBIDDEN

    asyncio.run(go())


PLAN = """
@detail("The plan is written by the shop alone.")
forbid(principal is User, action == Action::"write", resource) when { resource.collection == "plan" };
"""
WRITERS = 'permit(principal is Support, action == Action::"write", resource);'


def test_whoever_does_not_see_all_of_a_collection_does_not_write_to_it() -> None:
    async def go() -> None:
        made = await node()
        made.policies.learn({"writers": encode({"text": WRITERS})}, anew=False)
        await made.gate.change(ANN, Change("ada", (Op("put", "notes", "a", b"1"),), ANN.actor))
        with pytest.raises(RoostError) as refusal:
            await made.gate.change(ANN, Change("ada", (Op("merge", "cards", "k", {"label": "x"}),), ANN.actor))
        assert refusal.value.code is Code.FORBIDDEN

    asyncio.run(go())


CLOSED = '@detail("Closed.") forbid(principal is Support, action == Action::"see", resource);'
BADGES = 'forbid(principal is Support, action == Action::"read", resource) when { resource.collection == "badges" };'


def test_other_policies_hold_for_a_stream_that_runs() -> None:
    async def go() -> None:
        made = await node()
        stream = made.gate.follow(ANN, "ada", 0, None)
        while not (await anext(stream)).live:
            pass
        made.policies.learn({"mine": encode({"text": BADGES})}, anew=False)
        await made.put("ada", "badges", b'"silver"')
        assert (await anext(stream)).events == []
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        made.policies.learn({"mine": encode({"text": CLOSED})}, anew=False)
        with pytest.raises(RoostError, match="Closed") as refusal:
            await waiting
        assert refusal.value.code is Code.FORBIDDEN
        staying = asyncio.ensure_future(made.gate.stay(ADA, "ada"))
        await asyncio.sleep(0)
        made.policies.learn({"mine": encode({"text": "forbid(principal is User, action, resource);"})}, anew=False)
        with pytest.raises(RoostError):
            await staying

    asyncio.run(go())


class Noted:
    """A trail that keeps what it is told."""

    def __init__(self) -> None:
        self.read_: list[tuple[str, str, Any]] = []
        self.denied_: list[tuple[str, str, str | None, str | None]] = []

    def wants(self, caller: Caller, collection: str) -> bool:
        return True

    async def read(
        self, caller: Caller, action: str, user: str | None, collections: Any = None, key: str | None = None
    ) -> None:
        named = collections if isinstance(collections, str) or collections is None else sorted(collections)
        self.read_.append((caller.actor, action, named))

    def denied(self, caller: Caller, action: str, user: str | None = None, collection: str | None = None) -> None:
        self.denied_.append((caller.actor, action, user, collection))


def test_what_was_shown_and_what_was_refused_is_put_on_record() -> None:
    async def go() -> None:
        made = await node()
        trail = made.door._trail = Noted()
        await made.gate.document(ADA, DocumentRef("ada", "notes", "k"))
        await made.gate.snapshot(BO, "ada")
        assert trail.read_ == [("user:ada", "read", "notes"), ("analyst:bo", "read", ["badges"])]
        with pytest.raises(RoostError):
            await made.gate.document(BO, DocumentRef("ada", "notes", "k"))
        with pytest.raises(RoostError):
            await made.gate.snapshot(CURIOUS, "ada")
        assert trail.denied_ == [("analyst:bo", "read", "ada", "notes"), ("support:ann", "see", "ada", None)]

    asyncio.run(go())


def test_to_try_to_write_what_roost_alone_does_is_put_on_record() -> None:
    async def go() -> None:
        made = await node()
        trail = made.door._trail = Noted()
        with pytest.raises(RoostError):
            await made.gate.change(ADA, Change("ada", (Op("put", INBOX, "k", b"1"),), "user:ada"))
        with pytest.raises(RoostError):
            await made.gate.define(ADMIN, Op("put", DEFINITIONS, INBOX, b'{"conflict":"lww"}'), None)
        credential = Event(1, "put", CREDENTIALS, "password", b"{}", NOW, "user:ada")
        with pytest.raises(RoostError) as caught:
            await made.gate.append_log(ADMIN, AppendLog("ada", (credential,), "admin"))
        assert caught.value.pointer == "/events/0"
        assert trail.denied_ == [
            ("user:ada", "write", "ada", INBOX),
            ("admin", "define", None, INBOX),
            ("admin", "write", "ada", CREDENTIALS),
        ]

    asyncio.run(go())
