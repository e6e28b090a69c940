"""Sessions: begun by a login, carried on by one token at a time, ended by whoever may, or by a copy of a token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from roost.authz.oauth import OAuthRefusal
from roost.authz.principal import Principal
from roost.core.errors import Code
from roost.core.ids import SESSIONS
from roost.core.moment import NOW
from roost.core.ports import DocumentRef
from roost.engines.memory import Memory
from tests.unit.authz.logins import ADMIN, PASSWORD, Node, refused, running


@pytest.fixture
def on(tmp_path: Path) -> Callable[..., None]:
    """Runs a test on a node."""

    def run(test: Callable[[Node], Awaitable[None]], **settings: Any) -> None:
        async def go() -> None:
            async with running(Node(tmp_path, **settings)) as node:
                await test(node)

        asyncio.run(go())

    return run


async def over(node: Node, token: str) -> bool:
    """Whether a refresh token is refused, as RFC 6749 has it."""
    try:
        await node.refresh(token)
    except OAuthRefusal as refusal:
        return (refusal.error, refusal.status) == ("invalid_grant", 400)
    return False


def test_each_refresh_token_is_good_once(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        token = (await node.ada()).refresh_token
        used = {token}
        for _ in range(5):
            node.later(60)
            token = await node.refresh(token)
            assert token not in used
            used.add(token)

    on(test)


def test_a_copy_that_is_used_ends_the_session_for_both(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        tokens = await node.ada()
        later = await node.refresh(tokens)
        node.later(60)
        assert await node.is_good(tokens)
        assert await over(node, tokens.refresh_token)
        assert await over(node, later)
        assert not await node.is_good(tokens)
        assert ("refresh", "denied") in [note[:2] for note in node.noted]
        assert await node.is_good(await node.log_in())  # other sessions are none of its business

    on(test)


def test_an_old_copy_is_known_however_many_tokens_came_after_it(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        first = token = (await node.ada()).refresh_token
        for _ in range(4):
            token = await node.refresh(token)
        assert await over(node, first)
        assert await over(node, token)

    on(test)


def test_a_client_that_lost_the_answer_gets_it_again_for_a_moment(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        tokens = await node.ada()
        lost = await node.refresh(tokens)
        node.later(node.settings.refresh_grace_s)
        assert await node.refresh(tokens) == lost
        assert not await over(node, lost)
        assert await over(node, tokens.refresh_token)  # its successor was used: no answer was lost

    on(test)


def test_many_refreshes_at_once_agree(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        tokens = await node.ada()
        nexts = await asyncio.gather(*(node.refresh(tokens) for _ in range(20)))
        assert len(set(nexts)) == 1
        assert not await over(node, nexts[0])

    on(test)


def test_somebody_who_knows_only_a_sessions_id_cannot_end_it(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        tokens, other = await node.ada(), await node.log_in()
        parts = tokens.refresh_token.split(".")
        guess = ".".join([*parts[:3], *other.refresh_token.split(".")[3:]])
        assert await over(node, guess)
        assert not await over(node, tokens.refresh_token)

    on(test)


@pytest.mark.parametrize(
    "token", ["", ".", "rr1....", "rr1.YWRh.eA.eA.eA", "rr2" + ".YQ" * 4, "rr1.é", "rr1.AA.AA.AA.AA", "\0", "x" * 9999]
)
def test_what_is_no_refresh_token_is_refused(on: Callable[..., None], token: str) -> None:
    async def test(node: Node) -> None:
        await node.ada()
        assert await over(node, token)

    on(test)


def test_nothing_that_is_stored_is_a_token(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        tokens = await node.ada()
        fresh = await node.refresh(tokens)
        ref = DocumentRef("ada", SESSIONS, tokens.session)
        document = (await node.reader.document(ref, NOW)).document
        assert document is not None
        for part in (tokens.refresh_token.split(".") + fresh.split("."))[3:]:
            assert part == "rr1" or part.encode() not in (document.value or b"") or len(part) < 40

    on(test)


def test_a_session_that_nobody_uses_ends_by_itself(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        tokens = await node.ada()
        node.later(node.settings.refresh_ttl_s - 1)
        token = await node.refresh(tokens)
        node.later(node.settings.refresh_ttl_s)
        assert await over(node, token)
        assert await node.logins.sessions(ADMIN, "ada") == []
        fresh = await node.log_in()
        assert [each.key for each in await node.logins.sessions(ADMIN, "ada")] == [fresh.session]
        page = await node.reader.page("ada", SESSIONS, "", None, 10, NOW)
        assert [each.key for each in page.documents] == [fresh.session]  # the other is not kept either

    on(test)


def test_sessions_are_ended_one_by_one_or_all_at_once(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        one, two, three = await node.ada(), await node.log_in(), await node.log_in()
        caller = await node.caller(one)
        await node.logins.end(caller, "ada", two.session)
        assert [await node.is_good(each) for each in (one, two, three)] == [True, False, True]
        await node.logins.end(caller, "ada", two.session)  # again, as whoever got no answer does
        await node.logins.end_all(caller, "ada", but_current=True)
        assert [await node.is_good(each) for each in (one, two, three)] == [True, False, False]
        await node.logins.end_all(caller, "ada", but_current=False)
        assert not await node.is_good(one)
        for each in (one, two, three):
            assert await over(node, each.refresh_token)
        assert await refused(node.logins.end(ADMIN, "ada", "0" * 32)) is Code.NOT_FOUND

    on(test)


def test_sessions_are_listed_and_named(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        one = await node.ada()
        node.later(60)
        two = await node.log_in()
        caller = await node.caller(one)
        await node.logins.rename(caller, "ada", one.session, "the phone")
        listed = await node.logins.sessions(caller, "ada")
        assert [(each.key, each.value.name, each.value.address) for each in listed] == [
            (two.session, None, "192.0.2.7"),
            (one.session, "the phone", "192.0.2.7"),
        ]
        await node.refresh(one)  # a name is no reason for a refresh to fail
        assert await refused(node.logins.rename(caller, "ada", "0" * 32, "x")) is Code.NOT_FOUND

    on(test)


def test_beyond_so_many_the_one_that_was_used_least_lately_ends(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        begun = [await node.ada()]
        for _ in range(4):
            node.later(1)
            begun.append(await node.log_in())
        assert [await node.is_good(each) for each in begun] == [False, False, True, True, True]

    on(test, sessions_max=3)


def test_whoever_talks_for_long_is_told_at_once_on_every_node(tmp_path: Path) -> None:
    async def go() -> None:
        engine = Memory()
        async with running(Node(tmp_path, engine)) as here, running(Node(tmp_path, engine)) as there:
            tokens = await here.ada()
            told: list[str] = []
            principal = (await there.caller(tokens)).principal
            with there.revocations.watch(principal, lambda: told.append("ended")):
                await here.logins.log_out(await here.caller(tokens))
                head = await engine.head("$roost")
                assert head is not None
                there.hub.publish("$roost", head.seq)  # as the tail does
                await there.bulletin.until(head.seq)
            assert told == ["ended"]
            assert not await there.is_good(tokens)
            with there.revocations.watch(principal, lambda: told.append("late")):
                assert told == ["ended", "late"]
            assert there.revocations._watched == {}

    asyncio.run(go())


def test_a_node_that_starts_takes_no_token_before_it_knows_which_are_revoked(tmp_path: Path) -> None:
    async def go() -> None:
        engine = Memory()
        async with running(Node(tmp_path, engine)) as node:
            tokens = await node.ada()
            await node.logins.log_out(await node.caller(tokens))
            late = Node(tmp_path, engine)
            assert await refused(late.identity.authenticate(tokens.access_token)) is Code.UNAVAILABLE
            async with running(late):
                assert not await late.is_good(tokens)

    asyncio.run(go())


def test_revocations_are_forgotten_once_they_say_nothing(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.ada()
        begun = [await node.log_in() for _ in range(3)]
        for tokens in begun:
            await node.logins.log_out(await node.caller(tokens))
        assert await node.revocations.tidy() == 0
        node.later(node.settings.access_ttl_s + 30)
        assert await node.revocations.tidy() == 0  # another node's clock may be behind
        node.later(61)
        assert await node.revocations.tidy() == 3
        head = await node.engine.head("$roost")
        assert head is not None
        await node.bulletin.until(head.seq)
        assert node.revocations._until == {}
        assert not await node.is_good(begun[0])  # by now it has ended by itself

    on(test)


def test_a_session_that_was_ended_is_not_told_of_again_and_again(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        ended, own = await node.ada(), await node.log_in()
        caller = await node.caller(own)
        told = set()
        for _ in range(3):
            await node.logins.end(caller, "ada", ended.session)
            head = await node.engine.head("$roost")
            assert head is not None
            told.add(head.seq)
        assert len(told) == 1

    on(test)


def test_a_token_of_no_session_is_revoked_alone(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        one, two = (node.identity.issue("admin", "admin", 3600) for _ in range(2))
        await node.logins.oauth.revoke({"token": one}, None, ADMIN.origin)
        assert await refused(node.identity.authenticate(one)) is Code.UNAUTHENTICATED
        await node.identity.authenticate(two)
        for nothing in (one, "no.token.atall", "rr1.x", two[:-9] + "A" * 9):
            await node.logins.oauth.revoke({"token": nothing}, None, ADMIN.origin)
        await node.identity.authenticate(two)

    on(test)


def test_either_token_of_a_session_ends_all_of_it(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        one, two = await node.ada(), await node.log_in()
        await node.logins.oauth.revoke({"token": one.refresh_token}, None, ADMIN.origin)
        await node.logins.oauth.revoke({"token": two.access_token}, None, ADMIN.origin)
        for each in (one, two):
            assert not await node.is_good(each)
            assert await over(node, each.refresh_token)

    on(test)


def test_a_principal_without_a_session_is_never_revoked(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        principal = Principal("user", "ada")
        assert not node.revocations.revoked(principal)
        with node.revocations.watch(principal, lambda: None):
            assert node.revocations._watched == {}

    on(test)


def test_a_password_is_never_part_of_what_is_on_record(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        tokens = await node.ada()
        await refused(node.log_in("another " + PASSWORD))
        await node.logins.log_out(await node.caller(tokens))
        assert [note[:2] for note in node.noted] == [("signup", "allowed"), ("login", "denied"), ("logout", "allowed")]
        assert PASSWORD not in str(node.noted)
        assert tokens.refresh_token not in str(node.noted)

    on(test)
