"""OAuth 2.0: codes that are good once and for their application only, services that reach what their scopes say."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from roost.authz import records
from roost.authz.clients import Client
from roost.authz.oauth import Granted, OAuthRefusal, Redirected
from roost.authz.policy.model import ACTIONS, ALL, in_scope
from roost.authz.principal import Caller, Principal
from roost.core.commands import Accepted, Change
from roost.core.errors import Code, RoostError
from roost.core.ids import CLIENTS, REVOCATIONS, SYSTEM_USER
from tests.unit.authz.logins import ADMIN, HERE, PASSWORD, Node, refused, running

ISSUER = "https://id.example.com"
BACK = "https://app.example.com/done"
VERIFIER = "v" * 43
CHALLENGE = urlsafe_b64encode(sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
ASKED = {
    "response_type": "code",
    "client_id": "app",
    "redirect_uri": BACK,
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
    "state": "a&b",
}
EXCHANGE = {
    "grant_type": "authorization_code",
    "client_id": "app",
    "redirect_uri": BACK,
    "code_verifier": VERIFIER,
}


@pytest.fixture
def on(tmp_path: Path) -> Callable[..., None]:
    """Runs a test on a node with a user, an application, and a service."""

    def run(test: Callable[[Node, str], Awaitable[None]], **settings: Any) -> None:
        async def go() -> None:
            async with running(Node(tmp_path, **settings)) as node:
                await node.ada()
                await register(node, "app", Client("public", "The app", (BACK,)))
                await register(node, "other", Client("public", "Another", (BACK,)))
                await test(
                    node, await register(node, "billing", Client("service", "Billing", (), ("a:read", "b:read")))
                )

        asyncio.run(go())

    return run


async def register(node: Node, name: str, client: Client, *, new_secret: bool = False) -> str:
    """The secret, if one was made."""
    return (await node.logins.register(ADMIN, name, client, new_secret=new_secret)).secret or ""


async def code_for(node: Node, **asked: str) -> str:
    """The code that somebody is sent back with who logs in."""
    ask, _ = await node.logins.oauth.asked(ASKED | asked, ISSUER)
    told = parse_qs(urlsplit(await node.logins.oauth.authorize(ask, "ada", PASSWORD, HERE)).query)
    assert told["state"] == [(ASKED | asked)["state"]]
    assert told["iss"] == [ISSUER]
    return told["code"][0]


async def exchange(node: Node, code: str, **fields: str) -> Granted:
    return await node.logins.oauth.token({**EXCHANGE, "code": code, **fields}, None, HERE)


async def wrong(work: Awaitable[Any]) -> tuple[str, int]:
    with pytest.raises(OAuthRefusal) as refusal:
        await work
    return refusal.value.error, refusal.value.status


INVALID_GRANT = ("invalid_grant", 400)


def test_a_code_is_exchanged_for_a_session_of_the_application(on: Callable[..., None]) -> None:
    async def test(node: Node, _: str) -> None:
        granted = await exchange(node, await code_for(node))
        principal = await node.identity.authenticate(granted.access_token)
        assert (principal.kind, principal.id, principal.session) == ("user", "ada", granted.session)
        assert {each.value.client for each in await node.logins.sessions(ADMIN, "ada")} == {None, "app"}
        asked = {"grant_type": "refresh_token", "refresh_token": granted.refresh_token or "", "client_id": "app"}
        assert (await node.logins.oauth.token(asked, None, HERE)).session == granted.session

    on(test)


def test_a_code_that_comes_again_takes_back_what_was_given_for_it(on: Callable[..., None]) -> None:
    async def test(node: Node, _: str) -> None:
        code = await code_for(node)
        granted = await exchange(node, code)
        assert await wrong(exchange(node, code)) == INVALID_GRANT
        assert await refused(node.identity.authenticate(granted.access_token)) is Code.UNAUTHENTICATED

    on(test)


def test_of_many_who_exchange_a_code_at_once_nobody_keeps_it(on: Callable[..., None]) -> None:
    async def test(node: Node, _: str) -> None:
        code = await code_for(node)
        outcomes = await asyncio.gather(*(exchange(node, code) for _ in range(5)), return_exceptions=True)
        granted = [outcome for outcome in outcomes if isinstance(outcome, Granted)]
        assert len(granted) <= 1
        for each in granted:
            assert await refused(node.identity.authenticate(each.access_token)) is Code.UNAUTHENTICATED

    on(test)


@pytest.mark.parametrize(
    "fields",
    [
        {"code_verifier": "w" * 43},
        {"code_verifier": ""},
        {"code_verifier": CHALLENGE},
        {"code_verifier": VERIFIER[:42]},
        {"redirect_uri": BACK + "/"},
        {"redirect_uri": ""},
        {"client_id": "other"},
    ],
)
def test_a_code_is_good_for_what_it_was_given_for_only(on: Callable[..., None], fields: dict[str, str]) -> None:
    async def test(node: Node, _: str) -> None:
        code = await code_for(node)
        assert await wrong(exchange(node, code, **fields)) == INVALID_GRANT
        await exchange(node, code)  # which has not used it up

    on(test)


@pytest.mark.parametrize("code", ["", "rc1", "rc1.YWRh.", "rc1.YWRh.AAAA", "rc2.YWRh.AAAA", "rc1.JHJvb3N0.AAAA", "\0"])
def test_what_is_no_code_is_refused(on: Callable[..., None], code: str) -> None:
    async def test(node: Node, _: str) -> None:
        assert await wrong(exchange(node, code)) == INVALID_GRANT

    on(test)


def test_a_code_is_good_for_a_minute_and_as_long_as_the_password(on: Callable[..., None]) -> None:
    async def test(node: Node, _: str) -> None:
        late, other = await code_for(node), await code_for(node)
        await node.logins.change_password(ADMIN, "ada", "another password", None)
        assert await wrong(exchange(node, other)) == INVALID_GRANT
        node.later(node.settings.code_ttl_s)
        assert await wrong(exchange(node, late)) == INVALID_GRANT

    on(test)


def test_codes_that_were_never_used_are_not_kept(on: Callable[..., None]) -> None:
    async def test(node: Node, _: str) -> None:
        for _number in range(3):
            await code_for(node)
        node.later(node.settings.code_ttl_s + node.settings.access_ttl_s)
        await code_for(node)
        head = await node.reader.head("ada")
        assert head.counts["roost_grants"] == 1

    on(test)


@pytest.mark.parametrize(
    "asked", [{"client_id": "nobody"}, {"client_id": "billing"}, {"client_id": "\0"}, {"redirect_uri": BACK + "x"}]
)
def test_nobody_is_sent_where_no_application_is(on: Callable[..., None], asked: dict[str, str]) -> None:
    async def test(node: Node, _: str) -> None:
        with pytest.raises(OAuthRefusal) as refusal:
            await node.logins.oauth.asked(ASKED | asked, ISSUER)
        assert not isinstance(refusal.value, Redirected)

    on(test)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge": "+" * 43}, "invalid_request"),
        ({"scope": "openid"}, "invalid_scope"),
    ],
)
def test_the_application_is_told_what_it_asked_wrongly(
    on: Callable[..., None], asked: dict[str, str], error: str
) -> None:
    async def test(node: Node, _: str) -> None:
        with pytest.raises(Redirected) as refusal:
            await node.logins.oauth.asked(ASKED | asked, ISSUER)
        back = urlsplit(refusal.value.location)
        assert f"{back.scheme}://{back.netloc}{back.path}" == BACK
        told = parse_qs(back.query)
        assert (told["error"], told["state"], told["iss"]) == ([error], ["a&b"], [ISSUER])

    on(test)


def test_a_wrong_password_gives_no_code(on: Callable[..., None]) -> None:
    async def test(node: Node, _: str) -> None:
        ask, _client = await node.logins.oauth.asked(ASKED, ISSUER)
        assert await refused(node.logins.oauth.authorize(ask, "ada", "wrong password", HERE)) is Code.UNAUTHENTICATED
        assert await refused(node.logins.oauth.authorize(ask, "$roost", PASSWORD, HERE)) is Code.INVALID_NAME

    on(test)


def test_a_service_gets_a_token_for_its_secret(on: Callable[..., None]) -> None:
    async def test(node: Node, secret: str) -> None:
        asked = {"grant_type": "client_credentials"}
        granted = await node.logins.oauth.token(asked, ("billing", secret), HERE)
        principal = await node.identity.authenticate(granted.access_token)
        assert principal.actor == "service:billing"
        assert principal.scopes == {"a:read", "b:read"}
        assert granted.refresh_token is None
        posted = {**asked, "client_id": "billing", "client_secret": secret, "scope": "b:read"}
        granted = await node.logins.oauth.token(posted, None, HERE)
        assert granted.scope == "b:read"
        assert (await node.identity.authenticate(granted.access_token)).scopes == {"b:read"}

    on(test)


@pytest.mark.parametrize(
    ("fields", "basic", "told"),
    [
        ({}, ("billing", "wrong"), ("invalid_client", 401)),
        ({}, ("billing", ""), ("invalid_client", 401)),
        ({}, ("nobody", "x"), ("invalid_client", 401)),
        ({}, ("\0", "x"), ("invalid_client", 401)),
        ({"client_id": "billing"}, None, ("invalid_client", 401)),
        ({}, None, ("invalid_client", 401)),
        ({"client_id": "app"}, None, ("unauthorized_client", 400)),
        ({"client_id": "app", "client_secret": "x"}, None, ("invalid_client", 401)),
        ({"client_id": "app"}, ("billing", "SECRET"), ("invalid_request", 400)),
        ({"client_secret": "SECRET"}, ("billing", "SECRET"), ("invalid_request", 400)),
        ({"scope": "a:read c:read"}, ("billing", "SECRET"), ("invalid_scope", 400)),
        ({"grant_type": "password"}, ("billing", "SECRET"), ("unsupported_grant_type", 400)),
        ({"grant_type": ""}, None, ("unsupported_grant_type", 400)),
        ({"grant_type": "authorization_code"}, ("billing", "SECRET"), ("unauthorized_client", 400)),
    ],
)
def test_who_does_not_prove_to_be_a_service_is_refused(
    on: Callable[..., None], fields: dict[str, str], basic: tuple[str, str] | None, told: tuple[str, int]
) -> None:
    async def test(node: Node, secret: str) -> None:
        given = {name: text.replace("SECRET", secret) for name, text in fields.items()}
        proof = basic and (basic[0], basic[1].replace("SECRET", secret))
        noted = len(node.noted)
        assert await wrong(node.logins.oauth.token({"grant_type": "client_credentials"} | given, proof, HERE)) == told
        failed = told[0] == "invalid_client" and bool(fields or basic)
        assert [note[:2] for note in node.noted[noted:]] == [("login", "denied")] * failed

    on(test)


def test_what_a_service_has_got_is_refused_once_it_is_changed(on: Callable[..., None]) -> None:
    async def test(node: Node, secret: str) -> None:
        asked = {"grant_type": "client_credentials"}
        before = await node.logins.oauth.token(asked, ("billing", secret), HERE)
        assert await register(node, "billing", Client("service", "Billing", (), ("a:read",))) == ""
        assert await refused(node.identity.authenticate(before.access_token)) is Code.UNAUTHENTICATED
        after = await node.logins.oauth.token(asked, ("billing", secret), HERE)
        assert (await node.identity.authenticate(after.access_token)).scopes == {"a:read"}
        fresh = await register(node, "billing", Client("service", "Billing", (), ("a:read",)), new_secret=True)
        assert await wrong(node.logins.oauth.token(asked, ("billing", secret), HERE)) == ("invalid_client", 401)
        last = await node.logins.oauth.token(asked, ("billing", fresh), HERE)
        await node.logins.remove(ADMIN, "billing")
        assert await refused(node.identity.authenticate(last.access_token)) is Code.UNAUTHENTICATED
        assert await wrong(node.logins.oauth.token(asked, ("billing", fresh), HERE)) == ("invalid_client", 401)

    on(test)


def test_a_service_that_logs_out_gives_up_one_token(on: Callable[..., None]) -> None:
    async def test(node: Node, secret: str) -> None:
        async def got() -> Principal:
            token = (await node.logins.oauth.token(asked, ("billing", secret), HERE)).access_token
            return await node.identity.authenticate(token)

        asked = {"grant_type": "client_credentials"}
        left, kept = await got(), await got()
        await node.logins.log_out(Caller(left, HERE))
        for principal in (kept, await got()):
            node.identity.check(principal)
        with pytest.raises(RoostError):
            node.identity.check(left)
        told: list[str] = []
        with (
            node.revocations.watch(left, lambda: told.append("left")),
            node.revocations.watch(kept, lambda: told.append("kept")),
        ):
            assert told == ["left"]
            await node.logins.remove(ADMIN, "billing")
            assert sorted(told) == ["kept", "left", "left"]

    on(test)


def test_a_change_and_the_end_of_what_was_got_before_are_one(
    on: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: Node, _: str) -> None:
        wrote: list[set[str]] = []
        run = node.writer.run

        async def watched(command: Change) -> Accepted:
            wrote.append({op.collection for op in command.ops})
            return await run(command)

        monkeypatch.setattr(node.writer, "run", watched)
        await register(node, "billing", Client("service", "Billing", (), ("a:read",)))
        await node.logins.remove(ADMIN, "billing")
        assert wrote == [{CLIENTS, REVOCATIONS}] * 2

    on(test)


def test_of_two_who_change_a_service_at_once_one_is_refused(on: Callable[..., None]) -> None:
    async def test(node: Node, _: str) -> None:
        service = Client("service", "Billing", (), ("a:read",))
        for name in ("billing", "new"):
            changes = (register(node, name, service, new_secret=True) for _ in range(2))
            done = await asyncio.gather(*changes, return_exceptions=True)
            (secret,) = (each for each in done if isinstance(each, str))
            (refusal,) = (each for each in done if isinstance(each, RoostError))
            assert refusal.code is Code.VERSION_CONFLICT
            await node.logins.oauth.token({"grant_type": "client_credentials"}, (name, secret), HERE)

    on(test)


def test_a_service_without_scopes_gets_no_token_and_all_is_said(on: Callable[..., None]) -> None:
    async def test(node: Node, _: str) -> None:
        asked = {"grant_type": "client_credentials"}
        secret = await register(node, "ops", Client("service", "Operations", (), (ALL,)))
        principal = await node.identity.authenticate(
            (await node.logins.oauth.token(asked, ("ops", secret), HERE)).access_token
        )
        assert principal.scopes == {ALL}
        assert all(in_scope(principal.scopes, action, "notes") for action in ACTIONS)
        found = (await node.logins.client(ADMIN, "ops")).value
        op = records.put(CLIENTS, "ops", msgspec.structs.replace(found, scopes=()))
        await node.writer.run(Change(SYSTEM_USER, (op,), "admin"))
        assert await wrong(node.logins.oauth.token(asked, ("ops", secret), HERE)) == ("invalid_scope", 400)

    on(test)


def test_a_session_is_carried_on_by_its_own_application_only(on: Callable[..., None]) -> None:
    async def test(node: Node, secret: str) -> None:
        server = await register(node, "web", Client("confidential", "The web", (BACK,)))
        code = await code_for(node, client_id="web")
        fields = {**EXCHANGE, "code": code, "client_id": "web"}
        assert await wrong(node.logins.oauth.token(fields, None, HERE)) == ("invalid_client", 401)
        granted = await node.logins.oauth.token(fields, ("web", server), HERE)
        asked = {"grant_type": "refresh_token", "refresh_token": granted.refresh_token or ""}
        assert await wrong(node.logins.oauth.token(asked, None, HERE)) == INVALID_GRANT
        assert await wrong(node.logins.oauth.token(asked, ("billing", secret), HERE)) == INVALID_GRANT
        assert await wrong(node.logins.oauth.token(asked | {"client_id": "web"}, None, HERE)) == ("invalid_client", 401)
        fresh = await node.logins.oauth.token(asked, ("web", server), HERE)
        # Nor is it ended by another.
        await node.logins.oauth.revoke({"token": fresh.refresh_token or ""}, None, HERE)
        await node.identity.authenticate(fresh.access_token)
        await node.logins.oauth.revoke({"token": fresh.refresh_token or ""}, ("web", server), HERE)
        assert await refused(node.identity.authenticate(fresh.access_token)) is Code.UNAUTHENTICATED

    on(test)


def test_a_session_outlives_a_change_of_its_application_and_not_its_removal(on: Callable[..., None]) -> None:
    """Whoever is given the id afterwards is somebody else."""

    async def test(node: Node, _: str) -> None:
        client = Client("public", "An app", (BACK,))
        await register(node, "phone", client)
        granted = await exchange(node, await code_for(node, client_id="phone"), client_id="phone")
        asked = {"grant_type": "refresh_token", "client_id": "phone"}
        await register(node, "phone", msgspec.structs.replace(client, name="The app"))
        granted = await node.logins.oauth.token(asked | {"refresh_token": granted.refresh_token or ""}, None, HERE)
        await node.logins.remove(ADMIN, "phone")
        await register(node, "phone", client)
        again = asked | {"refresh_token": granted.refresh_token or ""}
        assert await wrong(node.logins.oauth.token(again, None, HERE)) == INVALID_GRANT

    on(test)


@pytest.mark.parametrize(
    "client",
    [
        Client("public", "x", ()),
        Client("service", "x", (), ()),
        Client("service", "x", (BACK,), ("a:read",)),
        Client("public", "x", (BACK,), ("a:read",)),
        Client("service", "x", (), ("everything",)),
        Client("service", "x", (), ("notes:red",)),
        Client("service", "x", (), ("notes:all",)),
        Client("service", "x", (), ("roost:unmask",)),
        *(
            Client("public", "x", (uri,))
            for uri in (
                "http://app.example.com/",
                "https://",
                "https://app.example.com/#part",
                "https://user@app.example.com/",
                "https://app.example.com/a b",
                "https://app.example.com/\u00e9",
                "https://app.example.com:x/",
                "https://app.example.com;x",
                "javascript:alert(1)",
                "data:text/html,x",
                "app:/done",
                "/done",
                "",
            )
        ),
    ],
)
def test_an_application_that_makes_no_sense_is_refused(on: Callable[..., None], client: Client) -> None:
    async def test(node: Node, _: str) -> None:
        assert await refused(register(node, "x", client)) is Code.INVALID_REQUEST

    on(test)


def test_redirects_may_be_on_loopback_or_to_a_scheme_of_ones_own(on: Callable[..., None]) -> None:
    async def test(node: Node, _: str) -> None:
        uris = ("http://127.0.0.1:8000/done", "http://localhost/", "http://[::1]:1/", "com.example.app:/done")
        await register(node, "native", Client("public", "Native", uris))
        assert (await node.logins.client(ADMIN, "native")).value.redirect_uris == uris

    on(test)
