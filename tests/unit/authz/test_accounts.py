"""Accounts: a password proves who somebody is, and nothing tells who there is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from argon2 import PasswordHasher

from roost.authz.accounts import PASSWORD as KEY
from roost.authz.principal import Caller, Origin
from roost.authz.sessions import About
from roost.core.commands import Change, CreateUser, Op
from roost.core.errors import Code, RoostError
from roost.core.ids import CREDENTIALS
from roost.core.moment import NOW
from roost.core.ports import DocumentRef
from roost.settings import PasswordHash
from tests.unit.authz.logins import ADMIN, CHEAP, HERE, PASSWORD, Node, refused, running

NEW = "a new and better one"


@pytest.fixture
def on(tmp_path: Path) -> Callable[..., None]:
    """Runs a test on a node."""

    def run(test: Callable[[Node], Awaitable[None]], **settings: Any) -> None:
        async def go() -> None:
            async with running(Node(tmp_path, **settings)) as node:
                await test(node)

        asyncio.run(go())

    return run


async def stored(node: Node, user: str = "ada") -> bytes:
    document = (await node.reader.document(DocumentRef(user, CREDENTIALS, KEY), NOW)).document
    assert document is not None
    assert document.value is not None
    return document.value


async def sentence(work: Awaitable[Any]) -> str:
    with pytest.raises(RoostError) as refusal:
        await work
    return str(refusal.value)


def test_a_password_is_stored_as_argon2id_makes_of_it(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.ada()
        assert b"$argon2id$v=19$m=8,t=1,p=1$" in await stored(node)
        assert PASSWORD.encode() not in await stored(node)

    on(test)


@pytest.mark.parametrize("password", ["1234567", "", "x" * 1025, "\N{LATIN SMALL LIGATURE FFI}"])
def test_a_password_that_is_none_is_refused(on: Callable[..., None], password: str) -> None:
    async def test(node: Node) -> None:
        assert await refused(node.logins.sign_up(HERE, "ada", password, About())) is Code.INVALID_REQUEST
        await node.ada()
        assert await refused(node.log_in(password)) is Code.UNAUTHENTICATED

    on(test)


def test_a_password_is_the_same_however_it_is_typed(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.logins.sign_up(HERE, "ada", "caf\u00e9 \N{LATIN SMALL LIGATURE FFI}ne", About())
        await node.log_in("cafe\u0301 ffine")

    on(test)


class Counting(PasswordHasher):
    """Remembers at which cost it has compared."""

    def __init__(self, cost: PasswordHash) -> None:
        super().__init__(time_cost=cost.iterations, memory_cost=cost.memory_kib, parallelism=cost.lanes)
        self.compared: list[str] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002  # its name there
        self.compared.append(str(hash).split("$")[3])
        return super().verify(hash, password)


def test_nobody_learns_whether_there_is_a_user(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.ada()
        await node.writer.run(CreateUser("grace", "admin"))
        node.logins._passwords._hasher = counting = Counting(CHEAP)
        # A wrong password, a user without one, and nobody: the same words after the same work.
        told = {await sentence(node.log_in("not the password", user)) for user in ("ada", "grace", "nobody")}
        assert len(told) == 1
        assert counting.compared == ["m=8,t=1,p=1"] * 3
        await refused(node.log_in("short", "ada"))
        await refused(node.log_in("short", "nobody"))
        assert len(counting.compared) == 5

    on(test)


def test_sign_up_is_for_new_users_only(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.ada()
        assert await refused(node.ada()) is Code.USER_EXISTS
        # Whose state is here already was nobody's to take, with a password or without.
        await node.writer.run(Change("grace", (Op("put", "notes", "a", b"1"),), "admin"))
        assert await refused(node.logins.sign_up(HERE, "grace", PASSWORD, About())) is Code.USER_EXISTS
        assert await refused(node.log_in(user="grace")) is Code.UNAUTHENTICATED
        # Nor is a user whom somebody has brought into being, even if nothing is written there yet.
        await node.writer.run(CreateUser("alan", "admin"))
        assert await refused(node.logins.sign_up(HERE, "alan", PASSWORD, About())) is Code.USER_EXISTS
        await node.logins.sign_up(ADMIN, "alan", PASSWORD, About())
        assert node.noted.count(("signup", "denied", "user_exists")) == 3

    on(test)


def test_of_many_who_sign_up_under_one_name_one_does(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        attempts = (node.logins.sign_up(HERE, "ada", f"password {n}", About()) for n in range(10))
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1
        proved = [
            not isinstance(each, RoostError)
            for each in await asyncio.gather(*(node.log_in(f"password {n}") for n in range(10)), return_exceptions=True)
        ]
        assert sum(proved) == 1

    on(test)


def test_where_sign_up_is_not_open_an_admin_does_it(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        assert await refused(node.ada()) is Code.FORBIDDEN
        await node.logins.sign_up(ADMIN, "ada", PASSWORD, About())
        ada = await node.caller(await node.log_in())
        assert await refused(node.logins.sign_up(ada, "grace", PASSWORD, About())) is Code.FORBIDDEN

    on(test, signup="off")


def test_a_new_password_ends_every_other_session(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        one, two = await node.ada(), await node.log_in()
        caller = await node.caller(one)
        assert await refused(node.logins.change_password(caller, "ada", NEW, "wrong")) is Code.FORBIDDEN
        assert await refused(node.logins.change_password(caller, "ada", NEW, None)) is Code.FORBIDDEN
        assert await node.is_good(two)
        await node.logins.change_password(caller, "ada", NEW, PASSWORD)
        assert [await node.is_good(each) for each in (one, two)] == [True, False]
        assert await refused(node.log_in()) is Code.UNAUTHENTICATED
        assert await node.is_good(await node.log_in(NEW))

    on(test)


def test_an_admin_sets_a_password_without_the_old_one(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        tokens = await node.ada()
        await node.logins.change_password(ADMIN, "ada", NEW, None)
        assert not await node.is_good(tokens)
        assert await node.is_good(await node.log_in(NEW))
        assert await refused(node.logins.change_password(ADMIN, "nobody", NEW, None)) is Code.NOT_FOUND
        ada = await node.caller(await node.log_in(NEW))
        assert await refused(node.logins.change_password(ada, "grace", NEW, NEW)) is Code.FORBIDDEN

    on(test)


def test_a_login_that_meets_a_new_password_is_none(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.ada()
        proof = await node.logins._accounts.prove("ada", PASSWORD, HERE)
        await node.logins.change_password(ADMIN, "ada", NEW, None)
        tokens = await node.logins._sessions.start("ada", About(), HERE)  # it was proved a moment ago
        assert await refused(node.logins._accounts.confirm(proof, tokens.session)) is Code.UNAUTHENTICATED
        assert not await node.is_good(tokens)

    on(test)


def test_a_password_is_hashed_anew_once_that_costs_something_else(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(Node(tmp_path)) as node:
            await node.ada()
            dearer = msgspec.structs.replace(CHEAP, iterations=2)
            async with running(Node(tmp_path, node.engine, password_hash=dearer)) as later:
                tokens = await later.log_in()
                assert b"$m=8,t=2,p=1$" in await stored(later)
                assert await later.is_good(tokens)
                assert await later.is_good(await later.log_in())

    asyncio.run(go())


def test_an_account_is_not_guessed_at_for_long_whoever_it_is(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.ada()
        for user in ("ada", "nobody"):
            for _ in range(3):
                assert await refused(node.log_in("wrong password", user)) is Code.UNAUTHENTICATED
            with pytest.raises(RoostError) as refusal:
                await node.log_in(PASSWORD, user)
            assert refusal.value.code is Code.RATE_LIMITED
            assert refusal.value.retry_after_s is not None
            assert 0 < refusal.value.retry_after_s <= 300

    on(test, login_account_max=3)


def test_an_address_does_not_guess_at_many_accounts(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.logins.sign_up(Origin("192.0.2.1"), "ada", PASSWORD, About())
        for number in range(3):
            assert await refused(node.log_in("wrong password", f"user-{number}")) is Code.UNAUTHENTICATED
        assert await refused(node.log_in()) is Code.RATE_LIMITED
        assert await refused(node.logins.sign_up(HERE, "grace", PASSWORD, About())) is Code.RATE_LIMITED
        await node.logins.log_in(Origin("192.0.2.1"), "ada", PASSWORD, About())

    on(test, login_address_max=3)


def test_an_address_that_has_failed_too_often_closes_no_more_accounts(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.logins.sign_up(Origin("192.0.2.1"), "ada", PASSWORD, About())
        for _ in range(3):
            assert await refused(node.log_in("wrong password", "grace")) is Code.UNAUTHENTICATED
        for _ in range(9):
            assert await refused(node.log_in("wrong password")) is Code.RATE_LIMITED
        await node.logins.log_in(Origin("192.0.2.1"), "ada", PASSWORD, About())

    on(test, login_account_max=3, login_address_max=3)


def test_all_addresses_of_one_subscriber_count_as_one(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        for number in range(3):
            attempt = node.logins.log_in(Origin(f"2001:db8::{number}"), f"user-{number}", "wrong password", About())
            assert await refused(attempt) is Code.UNAUTHENTICATED
        same, other = Origin("2001:db8::ffff:1"), Origin("2001:db8:0:1::1")
        assert await refused(node.logins.log_in(same, "ada", PASSWORD, About())) is Code.RATE_LIMITED
        assert await refused(node.logins.sign_up(same, "ada", PASSWORD, About())) is Code.RATE_LIMITED
        await node.logins.sign_up(other, "ada", PASSWORD, About())

    on(test, login_address_max=3)


def test_who_knows_the_password_may_log_in_often(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.ada()
        for _ in range(10):
            await node.log_in()

    on(test, login_account_max=2, login_address_max=2)


def test_attempts_at_once_count_too(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.ada()
        codes = await asyncio.gather(*(refused(node.log_in("wrong password")) for _ in range(10)))
        assert sorted(codes) == [Code.RATE_LIMITED] * 7 + [Code.UNAUTHENTICATED] * 3

    on(test, login_account_max=3)


def test_a_user_may_not_act_for_another(on: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        tokens = await node.ada()
        await node.logins.sign_up(HERE, "grace", PASSWORD, About())
        grace: Caller = await node.caller(await node.log_in(user="grace"))
        for work in (
            node.logins.sessions(grace, "ada"),
            node.logins.end(grace, "ada", tokens.session),
            node.logins.end_all(grace, "ada", but_current=False),
            node.logins.rename(grace, "ada", tokens.session, "mine"),
            node.logins.clients(grace),
        ):
            assert await refused(work) is Code.FORBIDDEN
        assert await node.is_good(tokens)

    on(test)


def test_the_default_cost_is_what_owasp_recommends_at_least() -> None:
    assert PasswordHash() == PasswordHash(memory_kib=19_456, iterations=2, lanes=1)
