"""Sessions of Roost's own: sign-up, login, tokens that are renewed and revoked, over two workers."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.support.server import Server, until

PASSWORD = "correct horse battery staple"
SOON_S = 30.0
"""Within a second, on a machine that has nothing else to do."""
CHEAP = '{"memory_kib":64,"iterations":1,"lanes":1}'
numbers = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("sessions")
    # No heartbeat comes in time to find out what is to be told at once.
    with Server(folder / "data", workers=2, signup="open", password_hash=CHEAP, heartbeat_s="120") as server:
        yield server


class Person:
    """Somebody who has signed up, and talks to one worker or another."""

    def __init__(self, server: Server, **about: str) -> None:
        self.server = server
        self.user = f"person-{next(numbers)}"
        self.tokens = posted(server, "signup", user=self.user, password=PASSWORD, **about).json()

    @property
    def session(self) -> str:
        return str(self.tokens["session"])

    def log_in(self, password: str = PASSWORD, **about: str) -> httpx.Response:
        return posted(self.server, "login", user=self.user, password=password, **about)

    def status(self, token: str | None = None) -> int:
        """Of a request with a token, on any worker: each request is a connection of its own."""
        url = f"{self.server.url}/v1/users/{self.user}/docs/preferences/ui"
        return httpx.put(url, json={}, headers=bearer(token or self.tokens["access_token"]), timeout=30).status_code

    def sessions(self, method: str = "GET", path: str = "", token: str | None = None, **more: Any) -> httpx.Response:
        url = f"{self.server.url}/v1/users/{self.user}/sessions{path}"
        return httpx.request(method, url, headers=bearer(token or self.tokens["access_token"]), timeout=30, **more)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def posted(server: Server, to: str, token: str | None = None, **body: str) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/auth/{to}", json=body, headers=bearer(token) if token else {}, timeout=30)


def form(server: Server, to: str, **fields: str) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/auth/{to}", data=fields, timeout=30)


def refresh(server: Server, token: str, **more: str) -> httpx.Response:
    return form(server, "token", grant_type="refresh_token", refresh_token=token, **more)


def test_whoever_signs_up_is_logged_in(server: Server) -> None:
    person = Person(server)
    assert person.status() in {200, 201}


def test_login_on_any_worker_and_a_token_for_a_refresh_token(server: Server) -> None:
    person = Person(server, device="phone", name="the phone")
    logged_in = person.log_in(device="laptop")
    assert logged_in.status_code == 200
    assert logged_in.headers["cache-control"] == "no-store"
    assert logged_in.json()["token_type"] == "Bearer"
    token = logged_in.json()["refresh_token"]
    for _ in range(4):
        renewed = refresh(server, token)
        assert renewed.status_code == 200, renewed.text
        token = renewed.json()["refresh_token"]
        assert person.status(renewed.json()["access_token"]) < 300
    listed = person.sessions().json()["items"]
    # Of the same second: in the order of their ids.
    assert sorted((each["device"], each["name"], each["current"], each["address"]) for each in listed) == [
        ("laptop", None, False, "127.0.0.1"),
        ("phone", "the phone", True, "127.0.0.1"),
    ]


@pytest.mark.parametrize("how", ["logout", "delete", "delete all", "password", "revoke", "reuse"])
def test_a_session_that_is_ended_is_refused_on_every_worker_at_once(server: Server, how: str) -> None:
    person = Person(server)
    other = person.log_in().json()
    token = person.tokens["access_token"]
    assert {person.status(token) for _ in range(10)} <= {200, 201}
    end(how, person, other["access_token"])
    # Both workers take some of ten requests. The token alone would be good for ten minutes.
    until(lambda: all(person.status(token) == 401 for _ in range(10)), SOON_S)
    assert refresh(server, person.tokens["refresh_token"]).json()["error"] == "invalid_grant"
    survives = how != "delete all"
    assert (person.status(other["access_token"]) < 300) == survives


def end(how: str, person: Person, other: str) -> None:
    """End a person's first session, in one of many ways."""
    server, tokens = person.server, person.tokens
    if how == "logout":
        done = posted(server, "logout", tokens["access_token"])
    elif how == "delete":
        done = person.sessions("DELETE", f"/{person.session}", other)
    elif how == "delete all":
        done = person.sessions("DELETE", "", other)
    elif how == "password":
        done = posted(server, "password", other, password="a new password", current=PASSWORD)
    elif how == "revoke":
        done = form(server, "revoke", token=tokens["refresh_token"])
    else:
        second = refresh(server, tokens["refresh_token"]).json()["refresh_token"]
        refresh(server, second)
        done = refresh(server, tokens["refresh_token"])
        assert done.status_code == 400
        return
    assert done.status_code in {200, 204}, done.text


def test_open_sockets_and_streams_end_at_once_on_every_worker(server: Server) -> None:
    async def go() -> None:
        person = Person(server)
        person.status()
        other = person.log_in().json()["access_token"]
        token = person.tokens["access_token"]
        url = f"{server.url}/v1/users/{person.user}/events?after=0"
        headers = {**bearer(token), "accept": "text/event-stream"}
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
            sockets: list[Any] = []
            streams: list[httpx.Response] = []
            # Enough of them that both workers hold some.
            while len(sockets) < 8 or not all(server.clients().values()):
                sockets.append(await stack.enter_async_context(socket(person, token)))
                streams.append(await stack.enter_async_context(client.stream("GET", url, headers=headers)))
            survivor = await stack.enter_async_context(socket(person, other))
            posted(server, "logout", token)
            async with asyncio.timeout(SOON_S):
                for each in sockets:
                    await each.wait_closed()
                    assert each.close_code == 4401
                for told in streams:
                    text = (await told.aread()).decode()
                    assert text.endswith('event: end\ndata: {"code":"unauthenticated"}\n\n')
                await survivor.send('{"type":"ping"}')
                while '"pong"' not in str(await survivor.recv()):
                    pass

    asyncio.run(go())


def socket(person: Person, token: str) -> Any:
    """A WebSocket that has been welcomed, once it is entered."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        url = f"ws{person.server.url[4:]}/v1/users/{person.user}/sync"
        async with connect(url, subprotocols=[Subprotocol("roost.v1")]) as socket:
            await socket.send(json.dumps({"type": "hello", "token": token, "after": 0}))
            assert '"welcome"' in str(await socket.recv())
            yield socket

    return opened()


def test_a_held_poll_is_not_answered_to_whoever_was_logged_out(server: Server) -> None:
    person = Person(server)
    service = bearer(server.service("writer"))
    base = f"{server.url}/v1/users/{person.user}"
    own = bearer(person.tokens["access_token"])
    with ThreadPoolExecutor(1) as threads, httpx.Client(headers=own, timeout=60) as client:
        seq = client.get(base).json()["seq"]
        held = threads.submit(client.get, f"{base}/events?after={seq}&collections=notes&wait=30")
        posted(server, "logout", person.tokens["access_token"])
        until(lambda: all(person.status() == 401 for _ in range(12)), SOON_S)
        httpx.put(f"{base}/docs/notes/a", json=1, headers=service, timeout=30)
        assert held.result().status_code == 401


def test_nor_is_a_held_search_of_the_audit_trail(server: Server) -> None:
    admin = server.admin()
    with ThreadPoolExecutor(1) as threads, httpx.Client(headers=bearer(admin), timeout=60) as client:
        trail = f"{server.url}/v1/audit?user=person-audited&action=signup"
        after = client.get(trail).json()["next"]
        held = threads.submit(client.get, f"{trail}&after={after}&wait=30")
        posted(server, "logout", admin)
        person = Person(server)
        until(lambda: all(person.status(admin) == 401 for _ in range(12)), SOON_S)
        posted(server, "signup", server.admin(), user="person-audited", password=PASSWORD)
        assert held.result().status_code == 401


def test_what_roost_token_made_is_revoked_by_it_too(server: Server) -> None:
    person = Person(server)
    token, other = server.token(person.user), server.token(person.user)
    assert person.status(token) < 300
    revoked = server.run("token", "revoke", token, "--url", server.url)
    assert revoked.returncode == 0, revoked.stderr
    until(lambda: all(person.status(token) == 401 for _ in range(10)), SOON_S)
    assert person.status(other) < 300


def test_the_command_line_lists_and_ends_sessions(server: Server) -> None:
    person = Person(server, name="the phone")
    at = ("--url", server.url, "--token", server.admin())
    listed = server.run("sessions", "list", person.user, *at)
    assert listed.returncode == 0, listed.stderr
    assert json.loads(listed.stdout)["id"] == person.session
    assert server.run("sessions", "end", person.user, person.session, *at).returncode == 0
    until(lambda: all(person.status() == 401 for _ in range(12)), SOON_S)
    assert server.run("sessions", "end", person.user, "0" * 32, *at).returncode == 1
    assert server.run("sessions", "end", person.user, *at).returncode == 2
    token = person.log_in().json()["access_token"]
    assert server.run("sessions", "end", person.user, "--all", *at).returncode == 0
    until(lambda: all(person.status(token) == 401 for _ in range(12)), SOON_S)


def test_sessions_are_named_and_ended_only_by_who_may(server: Server) -> None:
    person, other = Person(server), Person(server)
    path = f"/{person.session}"
    named = person.sessions("PATCH", path, json={"name": "the kitchen"})
    assert (named.status_code, named.json()["name"], named.json()["current"]) == (200, "the kitchen", True)
    stranger = other.tokens["access_token"]
    for method, to in (("GET", ""), ("DELETE", path), ("DELETE", ""), ("PATCH", path)):
        refused = person.sessions(method, to, stranger, json={"name": None} if method == "PATCH" else None)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), method
    assert person.sessions("PATCH", f"/{'0' * 32}", json={"name": None}).status_code == 404
    assert person.sessions("DELETE", "?except=current").status_code == 204
    assert person.status() < 300


def test_nothing_of_it_is_ever_shown_raw(server: Server) -> None:
    person = Person(server)
    person.status()
    refresh(server, person.tokens["refresh_token"])
    base = f"{server.url}/v1/users/{person.user}"
    password, session = "/docs/roost_credentials/password", f"/docs/roost_sessions/{person.session}"
    for token in (server.token(person.user), server.admin(), server.service("reader")):
        with httpx.Client(headers=bearer(token), timeout=30) as client:
            for path in ("", "/docs", "/docs?at_seq=2", "/events?after=0", "/conflicts", "/devices", "/sessions"):
                shown = client.get(base + path)
                assert shown.status_code == 200, (path, shown.text)
                for secret in (b"argon2", b"family", b"roost_credentials", b"roost_sessions"):
                    assert secret not in shown.content, (path, shown.text)
            for path in (password, session, "/docs/roost_sessions", f"{session}/history", f"{session}/siblings"):
                assert client.get(base + path).status_code == 403, path
            assert client.put(base + password, json={}).status_code == 403
            assert client.delete(base + session).status_code == 403


def test_a_login_that_fails_tells_nothing(server: Server) -> None:
    person = Person(server)
    wrong = "not the password"
    answers = [person.log_in(wrong), posted(server, "login", user="nobody-at-all", password=wrong)]
    told = [{**answer.json(), "request_id": ""} for answer in answers]
    assert told[0] == told[1]
    assert {answer.status_code for answer in answers} == {401}
    assert {tuple(sorted(set(answer.headers) - {"date"})) for answer in answers} == {
        tuple(sorted(set(answers[0].headers) - {"date"}))
    }


def test_signing_keys_rotate_and_nobody_is_logged_out(server: Server) -> None:
    person = Person(server)
    before = person.tokens["access_token"]
    rotated = server.run("keys", "rotate-signing", "--data", str(server.data))
    assert rotated.returncode == 0, rotated.stderr
    until(lambda: all(kid(person.log_in().json()["access_token"]) != kid(before) for _ in range(4)), SOON_S)
    assert all(person.status(before) < 300 for _ in range(12))
    after = person.log_in().json()["access_token"]
    assert all(person.status(after) < 300 for _ in range(12))
    published = httpx.get(f"{server.url}/.well-known/jwks.json", timeout=30).json()["keys"]
    assert [key["kid"] for key in published] == [kid(after), kid(before)]
    # Whoever has nothing but what is published can check a token.
    signed, _, signature = after.rpartition(".")
    key = Ed25519PublicKey.from_public_bytes(decoded(published[0]["x"]))
    key.verify(decoded(signature), signed.encode())


def test_a_stolen_signing_key_is_good_for_nothing(server: Server) -> None:
    person = Person(server)
    token = person.tokens["access_token"]
    assert all(person.status(token) < 300 for _ in range(12))
    rotated = server.run("keys", "rotate-signing", "--keep", "0s", "--data", str(server.data))
    assert rotated.returncode == 0, rotated.stderr
    until(lambda: all(person.status(token) == 401 for _ in range(10)), SOON_S)
    renewed = refresh(server, person.tokens["refresh_token"]).json()["access_token"]
    assert all(person.status(renewed) < 300 for _ in range(12))


def kid(token: str) -> str:
    return str(json.loads(decoded(token.split(".", maxsplit=1)[0]))["kid"])


def decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
