"""The Python client against a real server: every operation, on both of its surfaces, and what retries promise."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from inspect import isasyncgen, iscoroutine
from pathlib import Path
from typing import Any

import pytest

from roost import client as roost
from roost.client import Client, Edit, Event, Forbidden, Limits, NotFound, PatchFailed, SyncClient, VersionConflict
from tests.support.listener import Listener
from tests.support.server import Server

names = (f"client-{number}" for number in itertools.count(1))
QUICK = Limits(attempts=3, backoff_s=0.01)


class Awaited:
    """The asyncio surface, called without waiting, so that one test speaks to both surfaces."""

    def __init__(self, runner: asyncio.Runner, it: Any) -> None:
        self._runner = runner
        self._it = it

    def __getattr__(self, name: str) -> Any:
        return self._plain(getattr(self._it, name))

    def __len__(self) -> int:
        return len(self._it)

    def _plain(self, it: Any) -> Any:
        if callable(it):
            return lambda *args, **kwargs: self._plain(it(*args, **kwargs))
        if iscoroutine(it):
            return self._plain(self._runner.run(it))
        if isasyncgen(it):
            return self._items(it)
        return Awaited(self._runner, it) if isinstance(it, roost.User | roost.Docs | roost.Batch) else it

    def _items(self, it: Any) -> Iterator[Any]:
        try:
            while True:
                yield self._runner.run(anext(it))
        except StopAsyncIteration:
            pass
        finally:
            self._runner.run(it.aclose())


Connect = Callable[..., Any]


@pytest.fixture(params=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest, server: Server) -> Iterator[Connect]:
    """Opens clients with a token, an admin's unless given."""
    runner = asyncio.Runner()
    opened: list[Any] = []

    def open_client(token: Any = None, limits: Limits = QUICK) -> Any:
        token = server.admin() if token is None else token
        if request.param == "sync":
            opened.append(SyncClient(server.url, token, limits=limits))
        else:
            opened.append(Awaited(runner, Client(server.url, token, limits=limits)))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()
    runner.close()


@pytest.fixture
def c(connect: Connect) -> Any:
    return connect()


@pytest.fixture
def user(c: Any) -> Any:
    """A user that nobody has used yet."""
    return c.user(next(names))


def test_a_value_comes_back_with_its_version_seq_and_time(user: Any) -> None:
    docs = user.docs("preferences")
    assert docs.get("ui") is None
    written = docs.put("ui", {"theme": "dark", "sizes": [1, 2.5, None, True, "é"]})
    read = docs.get("ui")
    assert read == written
    assert (read.value["theme"], read.version, read.seq) == ("dark", 1, 1)
    assert abs(datetime.now(UTC) - read.updated_at) < timedelta(minutes=1)
    assert docs.version("ui") == 1
    assert docs.version("none") is None


def test_refresh_gives_the_same_object_until_it_changes(user: Any) -> None:
    docs = user.docs("preferences")
    document = docs.put("ui", 1)
    assert docs.refresh(document) is document
    docs.put("ui", 2)
    assert docs.refresh(document).value == 2
    docs.delete("ui")
    assert docs.refresh(document) is None


def test_conditions_hold_or_say_what_stands_there(user: Any) -> None:
    docs = user.docs("carts")
    docs.put("main", "a", if_absent=True)
    with pytest.raises(roost.VersionConflict) as caught:
        docs.put("main", "b", if_version=0)
    assert caught.value.current == roost.Versioned(1, "a")
    assert (caught.value.status, caught.value.code) == (412, "version_conflict")
    assert docs.put("main", "c", if_version=1).version == 2
    assert docs.put("main", "d", if_present=True).version == 3
    with pytest.raises(roost.VersionConflict) as caught:
        docs.put("other", "e", if_present=True)
    assert caught.value.current is None
    with pytest.raises(roost.VersionConflict):
        docs.delete("main", if_version=1)


def test_patches_give_the_value_after_them(user: Any) -> None:
    docs = user.docs("preferences")
    assert docs.merge("ui", {"a": 1, "b": {"c": 2}}).value == {"a": 1, "b": {"c": 2}}
    assert docs.merge("ui", {"a": None}, if_version=1).value == {"b": {"c": 2}}
    assert docs.patch("ui", [{"op": "move", "from": "/b/c", "path": "/d"}]).value == {"b": {}, "d": 2}
    with pytest.raises(roost.PatchFailed):
        docs.patch("ui", [{"op": "remove", "path": "/nowhere"}])
    with pytest.raises(roost.NotFound):
        docs.patch("none", [])


def test_delete_history_and_restore(user: Any) -> None:
    docs = user.docs("notes")
    for value in ("one", "two", "three"):
        docs.put("n", value)
    assert docs.delete("n") == 4
    assert docs.get("n") is None
    assert docs.restore("n", 2, if_version=0).value == "two"
    versions = list(docs.history("n", page_size=2))
    assert [version.version for version in versions] == [5, 4, 3, 2, 1]
    assert [version.value for version in versions] == ["two", None, "three", "two", "one"]
    assert (versions[1].kind, versions[0].actor) == ("delete", "admin")
    with pytest.raises(roost.NotFound):
        docs.delete("none")


def test_the_past_by_seq_and_by_time(user: Any) -> None:
    docs = user.docs("notes")
    docs.put("n", "old")
    (first,) = docs.history("n")
    docs.put("n", "new")
    assert docs.get("n", at_seq=1).value == "old"
    assert docs.get("n", at=first.at).value == "old"
    assert user.snapshot(at_seq=1).docs == {"notes": {"n": roost.Versioned(1, "old")}}
    assert user.snapshot().docs["notes"]["n"] == roost.Versioned(2, "new")
    with pytest.raises(roost.CursorAhead):
        user.snapshot(at_seq=3)


@pytest.mark.parametrize(
    "key", [".", "..", "...", "a b", "a+b", "%2F", "ö/".strip("/"), "?#&=", "日本", "a:b@c|d~e;f,g"]
)
def test_any_key_arrives_as_it_is(user: Any, key: str) -> None:
    docs = user.docs("keys")
    docs.put(key, key)
    assert docs.get(key).value == key
    assert [document.key for document in docs.list()] == [key]
    docs.delete(key)


def test_lists_go_on_over_pages(user: Any) -> None:
    docs = user.docs("wishes")
    batch = user.batch()
    for number in range(25):
        batch.put("wishes", f"w{number:02}", number).put("others", f"o{number}", number)
    batch.commit()
    assert [document.value for document in docs.list(page_size=4)] == list(range(25))
    assert [document.key for document in docs.list("w1", page_size=3)] == [f"w{number}" for number in range(10, 20)]
    page = docs.page(limit=20)
    assert (len(page.items), len(docs.page(after=page.next).items)) == (20, 5)
    assert page.items[0].collection == "wishes"
    assert page.items[0].seq == 50


def test_a_batch_is_all_or_none_and_names_the_op_that_is_refused(user: Any) -> None:
    committed = user.batch().put("a", "x", 1).merge("a", "y", {"n": 1}).commit()
    assert (committed.seq, [result.version for result in committed.results]) == (2, [1, 2])
    batch = user.batch().delete("a", "x").patch("a", "y", [{"op": "add", "path": "/n", "value": 2}], if_version=9)
    assert len(batch) == 2
    with pytest.raises(roost.VersionConflict) as caught:
        batch.commit()
    assert caught.value.errors[0].pointer == "/ops/1"
    assert user.docs("a").get("x").value == 1


def test_a_batch_committed_twice_is_applied_once(user: Any) -> None:
    batch = user.batch().put("a", "x", 1)
    assert batch.commit() == batch.commit()
    assert user.get().seq == 1


def test_an_idempotency_key_of_ones_own(user: Any) -> None:
    docs = user.docs("a")
    docs.put("x", 1, idempotency_key="order-7")
    docs.put("x", 1, idempotency_key="order-7")
    assert user.get().seq == 1
    with pytest.raises(roost.IdempotencyKeyReused):
        docs.put("x", 2, idempotency_key="order-7")


def test_users(c: Any) -> None:
    name = next(names)
    user = c.user(name)
    with pytest.raises(roost.NotFound):
        user.get()
    assert user.create().seq == 0
    assert user.create("local").user == name
    user.docs("a").put("x", 1)
    info = user.get()
    assert (info.user, info.home, info.seq, info.floor, info.collections) == (name, "local", 1, 0, {"a": 1})
    assert name in [found.user for found in c.users(page_size=1)]
    with pytest.raises(roost.RoostError):
        user.create("atlantis")


def test_events_in_pieces_and_narrowed(user: Any) -> None:
    for number in range(1, 8):
        user.docs("even" if number % 2 == 0 else "odd").put("n", number)
    log = user.events(limit=3)
    assert ([event.seq for event in log.events], log.seq, log.floor) == ([1, 2, 3], 3, 0)
    assert [event.value for event in user.events(3).events] == [4, 5, 6, 7]
    even = user.events(collections=["even"])
    assert ([event.value for event in even.events], even.seq) == ([2, 4, 6], 7)
    assert user.events(7, wait_s=0.01).events == ()
    with pytest.raises(roost.CursorAhead):
        user.events(8)


def test_a_log_moves_to_another_user_as_it_was(c: Any, user: Any) -> None:
    docs = user.docs("a")
    docs.put("x", {"n": 1.5})
    docs.delete("x")
    events = user.events().events
    other = c.user(next(names))
    assert other.append_events(events) == 2
    assert other.append_events(events) == 2  # those it has are skipped
    assert other.events().events == events
    with pytest.raises(roost.LogConflict):
        other.append_events([Event(9, "put", "a", "x", 1, datetime.now(UTC), "admin")])


def test_errors_are_exceptions_with_stable_codes(c: Any, connect: Connect, server: Server) -> None:
    name = next(names)
    own = connect(server.token(name))
    own.user(name).docs("a").put("x", 1)
    with pytest.raises(roost.Forbidden) as forbidden:
        own.user("somebody").docs("a").get("x")
    assert forbidden.value.request_id
    with pytest.raises(roost.Unauthenticated):
        connect("forged").user(name).get()
    with pytest.raises(roost.PreconditionRequired):
        c.user(name).docs("payments").put("card", 1) and c.user(name).docs("payments").put("card", 2)
    with pytest.raises(roost.TooLarge):
        c.user(name).docs("a").put("x", "x" * 300_000)
    with pytest.raises(roost.InvalidName):
        c.user(name).docs("a").put("x/y", 1)
    with pytest.raises(roost.InvalidJson):
        c.user(name).docs("a").put("x", float("nan"))


def test_a_token_that_expired_is_asked_for_again(connect: Connect, server: Server) -> None:
    name = next(names)
    tokens = iter(["expired", server.token(name)])
    client = connect(lambda: next(tokens))
    assert client.user(name).docs("a").put("x", 1).seq == 1


def test_a_seq_passed_on_is_read_or_refused(c: Any, connect: Connect, user: Any) -> None:
    user.docs("a").put("x", 1)
    assert user.seq == 1
    name = user.get().user
    assert connect().user(name, at_least=1).docs("a").get("x").value == 1
    with pytest.raises(roost.CursorAhead):
        connect().user(name, at_least=2).docs("a").get("x")


def test_update_makes_then_changes(user: Any) -> None:
    docs = user.docs("counters")
    assert docs.update("n", lambda value: (value or 0) + 1).value == 1
    assert docs.update("n", lambda value: value + 1).value == 2


def test_following_gives_what_was_and_what_comes(user: Any) -> None:
    docs = user.docs("a")
    docs.put("x", 1)
    user.docs("b").put("y", 2)
    follower = user.follow(collections=["a"])
    assert next(follower).value == 1
    docs.put("x", 3)
    event = next(follower)
    assert (event.seq, event.value) == (3, 3)
    follower.close()


# What only shows with several things at once


def test_ready(c: Any) -> None:
    c.ready()


def test_edits_from_many_sides_are_all_kept(server: Server) -> None:
    async def main() -> None:
        async with Client(server.url, server.admin()) as client:
            docs = client.user(next(names)).docs("counters")

            async def add() -> None:
                for _ in range(10):
                    await docs.update("n", lambda value: (value or 0) + 1)

            await asyncio.gather(*[add() for _ in range(8)])
            document = await docs.get("n")
            assert document is not None
            assert (document.value, document.version) == (80, 80)

    asyncio.run(main())


@asynccontextmanager
async def lossy(server: Server, rng: random.Random, share: float) -> AsyncIterator[str]:
    """A way to the server on which connections break: before a request arrives, or before its answer is back."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            while request := await reader.read(1 << 20):
                if rng.random() < share:
                    break
                downstream.write(request)
                answer = await upstream.read(1 << 20)
                if rng.random() < share:
                    break
                writer.write(answer)
                await writer.drain()
        finally:
            downstream.close()

    async with Listener(carry) as listener:
        yield f"http://127.0.0.1:{listener.port}"


def test_a_write_whose_answer_is_lost_is_applied_once(server: Server) -> None:
    async def main() -> None:
        rng = random.Random(7)
        patient = Limits(attempts=30, backoff_s=0.01)
        async with lossy(server, rng, 0.1) as url, Client(url, server.admin(), limits=patient) as client:
            user = client.user(next(names))
            for number in range(60):
                await user.docs("a").put(f"k{number}", number)
                await user.batch().put("b", f"k{number}", number).commit()
                await user.docs("counters").update("n", lambda value: (value or 0) + 1)
                await user.docs("a").delete(f"k{number}")
            info = await user.get()
            counter = await user.docs("counters").get("n")
            assert counter is not None
            assert (counter.value, info.seq) == (60, 240)

    asyncio.run(main())


def test_following_outlasts_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        with Server(tmp_path / "data") as server:
            async with Client(server.url, server.admin()) as client:
                user = client.user("ada")
                await user.docs("a").put("x", 1)
                follower = user.follow()
                assert (await anext(follower)).value == 1
                waiting = asyncio.ensure_future(anext(follower))
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                assert (await user.docs("a").put("x", 2)).seq == 2
                assert (await waiting).value == 2

    asyncio.run(main())


# Collections, edits, siblings, the inbox


def test_a_collection_is_defined_listed_and_forgotten(c: Any) -> None:
    name = f"c_{next(names).replace('-', '_')}"
    assert c.collection(name) is None
    made = c.define(name, conflict="cas", if_absent=True)
    assert c.collection(name) == made
    assert (made.name, made.conflict) == (name, "cas")
    with pytest.raises(VersionConflict):
        c.define(name, conflict="lww", if_version=made.version + 1)
    changed = c.define(name, conflict="lww", if_version=made.version)
    assert changed in list(c.collections(page_size=1))
    c.undefine(name, if_version=changed.version)
    assert c.collection(name) is None
    with pytest.raises(NotFound):
        c.undefine(name)


def test_a_user_may_read_definitions_only(server: Server, connect: Connect) -> None:
    with pytest.raises(Forbidden):
        connect(server.token("ada")).define("notes", conflict="cas")
    assert isinstance(list(connect(server.token("ada")).collections()), list)


def test_siblings_are_seen_and_resolved(c: Any, user: Any) -> None:
    c.define("client_notes", conflict="siblings")
    docs = user.docs("client_notes")
    assert docs.siblings("n") == ()
    docs.put("n", "one")
    torn = docs.put("n", "two")
    assert (torn.standing, docs.get("n").standing) == (2, 2)
    both = docs.siblings("n")
    assert [one.value for one in both] == ["one", "two"]
    assert next(iter(docs.list())).standing == 2
    assert user.snapshot().docs["client_notes"]["n"].siblings == both
    docs.put("n", "both", if_version=both[-1].version)
    assert [one.value for one in docs.siblings("n")] == ["both"]


def test_a_document_is_edited_field_by_field(user: Any) -> None:
    docs = user.docs("carts")
    assert docs.edit("main", [Edit("inc", "/apples", 2)]).value == {"apples": 2}
    assert docs.edit("main", [{"op": "add", "path": "/tags", "value": "x"}]).value == {"apples": 2, "tags": ["x"]}
    user.batch().edit("carts", "main", [Edit("unset", "/tags"), Edit("inc", "/apples", -1)]).commit()
    assert docs.get("main").value == {"apples": 1}
    with pytest.raises(PatchFailed) as refusal:
        docs.edit("main", [Edit("set", "/x", 1), Edit("inc", "/x/y", 1)])
    assert refusal.value.errors[0].pointer == "/1"
    with pytest.raises(VersionConflict):
        docs.edit("main", [Edit("inc", "/apples", 2)], if_absent=True)
    events = user.events().events
    assert events[2].edits == (Edit("unset", "/tags"), Edit("inc", "/apples", -1))
