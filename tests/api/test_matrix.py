"""Who may do what: every operation of the OpenAPI document, asked for by every kind of principal.

`TABLE` says what should come of it; an operation without a row fails, so nothing is served that nobody has decided on.
Whoever is refused is refused before anything is looked at: the answer is the same whether the user exists or not. What
goes over the WebSocket and the streams has rows of its own below.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import httpx
import pytest

from roost.core.limits import Limits
from roost.wire import openapi
from roost.wire.contract import OPERATIONS
from tests.support import websocket
from tests.support.api import problem
from tests.support.server import Server
from tests.support.websocket import put

numbers = count(1)

OWN, OTHER, ADMIN = "the user", "another user", "admin"
SERVICE, READER, WRITER, ERASER = "service", "service notes:read", "service notes:write", "service roost:erase"
SUPPORT, CURIOUS, ANALYST = "support with a purpose", "support", "analyst"
NOBODY, EXPIRED = "nobody", "an expired token"
EVERYBODY = {OWN, OTHER, ADMIN, SERVICE, READER, WRITER, ERASER, SUPPORT, CURIOUS, ANALYST}

ADMINS = {ADMIN}
COMPANY = {ADMIN, SERVICE}
OWNERS = {OWN, ADMIN, SERVICE}
WRITERS = {OWN, ADMIN, SERVICE, WRITER}
READERS = {*WRITERS, READER, SUPPORT}
ONLOOKERS = {*READERS, ANALYST}

JSON = {"content-type": "application/json"}
USER = "/v1/users/{user}"
DOCUMENT = USER + "/docs/{collection}/{key}"
PUT_OP = {"op": "put", "collection": "notes", "key": "k", "value": 1}
EVENT = {"seq": 99, "kind": "put", "collection": "notes", "key": "k", "value": 1, "at": "2026-01-01T00:00:00Z"}
MUTATION = {"number": 1, "base": 0, "clock": 1, "ops": [PUT_OP]}
CLIENT = {"kind": "public", "name": "An app", "redirect_uris": ["https://app.example/"]}
SIGN_UP = {"user": "{user}", "password": "correct horse"}


class Row(NamedTuple):
    """Who is let in, and a request that says so. `body` is JSON, or text."""

    let_in: set[str]
    body: Any = None
    media_type: str = "application/json"


TABLE: dict[tuple[str, str], Row] = {
    ("GET", DOCUMENT): Row(READERS),
    ("PUT", DOCUMENT): Row(WRITERS, 1),
    ("PATCH", DOCUMENT): Row(WRITERS, {"a": 1}, "application/merge-patch+json"),
    ("DELETE", DOCUMENT): Row(WRITERS),
    ("GET", DOCUMENT + "/siblings"): Row(READERS),
    ("GET", DOCUMENT + "/history"): Row(READERS),
    ("POST", DOCUMENT + "/restore"): Row(WRITERS, {"version": 1}),
    ("GET", USER + "/docs/{collection}"): Row(READERS),
    ("GET", USER + "/docs"): Row(ONLOOKERS),
    ("POST", USER + "/batch"): Row(WRITERS, {"ops": [PUT_OP]}),
    ("GET", USER + "/events"): Row(ONLOOKERS),
    ("POST", USER + "/events"): Row(COMPANY, {"events": [EVENT | {"actor": "x"}]}),
    ("GET", USER + "/conflicts"): Row(READERS),
    ("DELETE", USER + "/conflicts/{conflict}"): Row(WRITERS),
    ("POST", USER + "/push"): Row(WRITERS, {"device": "phone", "mutations": [MUTATION]}),
    ("GET", USER + "/devices"): Row(ONLOOKERS),
    ("PUT", USER): Row(WRITERS),
    ("GET", USER): Row(ONLOOKERS),
    ("GET", "/v1/users"): Row({*COMPANY, ANALYST}),
    ("DELETE", USER): Row({*OWNERS, ERASER}),
    ("GET", USER + "/erasure"): Row({*OWNERS, ERASER}),
    ("GET", USER + "/export"): Row(OWNERS),
    ("GET", "/v1/collections/{collection}"): Row(EVERYBODY),
    ("PUT", "/v1/collections/{collection}"): Row(ADMINS, {"conflict": "lww"}),
    ("DELETE", "/v1/collections/{collection}"): Row(ADMINS),
    ("GET", "/v1/collections"): Row(EVERYBODY),
    ("GET", "/v1/policies/{policy}"): Row(ADMINS),
    ("PUT", "/v1/policies/{policy}"): Row(ADMINS, "// nothing", "text/plain"),
    ("DELETE", "/v1/policies/{policy}"): Row(ADMINS),
    ("GET", "/v1/policies"): Row(ADMINS),
    ("GET", "/v1/audit"): Row(ADMINS),
    ("POST", "/v1/auth/password"): Row(OWNERS, {"user": "{user}", "password": "correct horse", "current": "no"}),
    ("GET", USER + "/sessions"): Row(OWNERS),
    ("DELETE", USER + "/sessions"): Row(OWNERS),
    ("PATCH", USER + "/sessions/{session}"): Row(OWNERS, {"name": "mine"}),
    ("DELETE", USER + "/sessions/{session}"): Row(OWNERS),
    ("GET", "/v1/auth/clients"): Row(ADMINS),
    ("GET", "/v1/auth/clients/{client}"): Row(ADMINS),
    ("PUT", "/v1/auth/clients/{client}"): Row(ADMINS, CLIENT),
    ("DELETE", "/v1/auth/clients/{client}"): Row(ADMINS),
    ("GET", "/metrics"): Row(COMPANY),
}
ENDS_A_SESSION = ("POST", "/v1/auth/logout")
"""It is about the token that asks, and so for whoever has one."""
TAKES_A_TOKEN = {("POST", "/v1/auth/signup"): Row(COMPANY, SIGN_UP)}
"""For everybody where sign-up is open, which it is not here; a token may stand in for that."""
SOCKET = ("GET", USER + "/sync")
"""A WebSocket says who it is in its first frame."""
PUBLIC = {
    ("POST", "/v1/auth/login"),
    ("GET", "/v1/auth/authorize"),
    ("POST", "/v1/auth/authorize"),
    ("POST", "/v1/auth/token"),
    ("POST", "/v1/auth/revoke"),
    ("GET", "/.well-known/oauth-authorization-server"),
    ("GET", "/.well-known/jwks.json"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
}
"""What proves who asks, or is about nobody: none of them looks at a token in the header."""

document = json.loads(openapi.generate(OPERATIONS, Limits()))


def operations() -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}


def test_every_operation_has_a_row() -> None:
    assert operations() == {*TABLE, *TAKES_A_TOKEN, *PUBLIC, SOCKET, ENDS_A_SESSION}


def test_what_the_document_calls_public_is_public() -> None:
    without = {
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method, told in methods.items()
        if told.get("security") == []
    }
    assert without == {*PUBLIC, *TAKES_A_TOKEN, SOCKET}


class Asker(NamedTuple):
    """The headers of a principal; a token is made for the user that is asked about."""

    kind: Any
    name: str
    scopes: tuple[str, ...] = ()
    purpose: str | None = None
    ttl_s: int = 3600

    def headers(self, server: Server, user: str) -> dict[str, str]:
        token = server.issue(self.kind, self.name.format(user=user), self.ttl_s, self.scopes)
        purpose = {} if self.purpose is None else {"roost-purpose": self.purpose}
        return {"authorization": f"Bearer {token}", **purpose}


ASKERS = {
    OWN: Asker("user", "{user}"),
    OTHER: Asker("user", "eve"),
    ADMIN: Asker("admin", "admin"),
    SERVICE: Asker("service", "billing"),
    READER: Asker("service", "billing", ("notes:read",)),
    WRITER: Asker("service", "billing", ("notes:write",)),
    ERASER: Asker("service", "billing", ("roost:erase",)),
    SUPPORT: Asker("support", "ann", purpose="ticket 7"),
    CURIOUS: Asker("support", "ann"),
    ANALYST: Asker("analyst", "bo"),
    EXPIRED: Asker("admin", "admin", ttl_s=-1),
}


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60, verify=False) as client:
        yield client


def fresh(server: Server, http: httpx.Client) -> str:
    """A user with a note."""
    user = f"matrix-{next(numbers)}"
    path = f"/v1/users/{user}/docs/notes/k"
    http.put(path, content=b'{"a":1}', headers=JSON | ASKERS[ADMIN].headers(server, user)).raise_for_status()
    return user


def ask(http: httpx.Client, operation: tuple[str, str], row: Row, user: str, headers: dict[str, str]) -> httpx.Response:
    method, path = operation
    names = {"user": user, "collection": "notes", "key": "k", "conflict": "1", "policy": "matrix"}
    names |= {"session": "0" * 32, "client": "matrix"}
    if not path.startswith(USER):
        names["collection"] = "matrix"
    if row.body is None:
        return http.request(method, path.format(**names), headers=headers)
    text = row.body if isinstance(row.body, str) else json.dumps(row.body)
    content = text.replace("{user}", user)
    return http.request(
        method, path.format(**names), headers={"content-type": row.media_type} | headers, content=content
    )


def let_in(response: httpx.Response) -> bool:
    """Whether somebody was let in, whatever became of the request then: a password may be wrong."""
    if response.status_code != 403:
        return True
    wrong: dict[str, str] = response.json().get("errors", [{}])[0]
    return wrong.get("pointer") == "/current"


@pytest.mark.parametrize("operation", sorted({**TABLE, **TAKES_A_TOKEN}), ids=" ".join)
def test_who_is_let_in(server: Server, http: httpx.Client, operation: tuple[str, str]) -> None:
    row = {**TABLE, **TAKES_A_TOKEN}[operation]
    user = fresh(server, http)
    admin = ASKERS[ADMIN].headers(server, user)
    for name in sorted(EVERYBODY - row.let_in):
        response = ask(http, operation, row, user, ASKERS[name].headers(server, user))
        assert not let_in(response), name
        told = problem(response, 403, "forbidden", (response.json().get("errors") or [{}])[0].get("pointer"))
        missing = ask(http, operation, row, "matrix-missing", ASKERS[name].headers(server, "matrix-missing"))
        assert (missing.status_code, missing.json()["detail"]) == (403, told["detail"])
    # Whatever they tried, it did nothing.
    assert http.get(f"/v1/users/{user}", headers=admin).json()["seq"] == 1
    assert http.get("/v1/users/matrix-missing", headers=admin).status_code == 404
    for name in sorted(row.let_in):
        response = ask(http, operation, row, user, ASKERS[name].headers(server, user))
        assert let_in(response), name
        assert response.status_code not in (400, 401, 415), (name, response.text)


@pytest.mark.parametrize("operation", sorted([*TABLE, ENDS_A_SESSION]), ids=" ".join)
def test_without_a_good_token_nobody_is(server: Server, http: httpx.Client, operation: tuple[str, str]) -> None:
    row = TABLE.get(operation, Row(set()))
    without = ask(http, operation, row, "ada", {})
    problem(without, 401, "unauthenticated")
    assert without.headers["www-authenticate"] == "Bearer"
    problem(ask(http, operation, row, "ada", {"authorization": "Bearer nonsense"}), 401, "unauthenticated")
    problem(ask(http, operation, row, "ada", ASKERS[EXPIRED].headers(server, "ada")), 401, "unauthenticated")


def test_sign_up_is_closed_to_those_without_a_token(server: Server, http: httpx.Client) -> None:
    ((operation, row),) = TAKES_A_TOKEN.items()
    problem(ask(http, operation, row, f"matrix-{next(numbers)}", {}), 403, "forbidden")
    problem(ask(http, operation, row, "ada", ASKERS[EXPIRED].headers(server, "ada")), 401, "unauthenticated")


@pytest.mark.parametrize("operation", sorted(PUBLIC), ids=" ".join)
def test_what_is_public_does_not_look_at_who_asks(
    server: Server, http: httpx.Client, operation: tuple[str, str]
) -> None:
    without = ask(http, operation, Row(set()), "ada", {})
    assert without.status_code not in (401, 403)
    for name in (ADMIN, OTHER, EXPIRED):
        headers = ASKERS[name].headers(server, "ada")
        assert ask(http, operation, Row(set()), "ada", headers).status_code == without.status_code


def test_the_pages_and_the_document_are_for_everybody(http: httpx.Client) -> None:
    for path in ("/docs", "/openapi.json"):
        assert http.get(path).status_code == 200


def test_whoever_has_a_token_may_end_its_session(server: Server, http: httpx.Client) -> None:
    for name in EVERYBODY:
        response = ask(http, ENDS_A_SESSION, Row(set()), "ada", ASKERS[name].headers(server, "ada"))
        assert response.status_code not in (401, 403), name


# The WebSocket, and what goes over it

COLLECTIONS = {"notes": "personal", "matrix_badges": "public", "matrix_cards": "sensitive"}
SEEN = {
    OWN: {"notes", "matrix_badges", "matrix_cards"},
    ADMIN: {"notes", "matrix_badges", "matrix_cards"},
    SERVICE: {"notes", "matrix_badges", "matrix_cards"},
    READER: {"notes"},
    WRITER: {"notes"},
    SUPPORT: {"notes", "matrix_badges", "matrix_cards"},
    ANALYST: {"matrix_badges"},
}
SECRET = "4111-1111"


@pytest.fixture(scope="module")
def defined(server: Server, http: httpx.Client) -> None:
    headers = ASKERS[ADMIN].headers(server, "")
    for name, privacy in COLLECTIONS.items():
        if name != "notes":
            told = {"conflict": "lww", "privacy": privacy, "masked": ["number"]}
            http.put(f"/v1/collections/{name}", json=told, headers=headers).raise_for_status()


def write_all(http: httpx.Client, user: str, headers: dict[str, str]) -> None:
    for name in COLLECTIONS:
        value = {"number": SECRET, "label": name}
        http.put(f"/v1/users/{user}/docs/{name}/k", json=value, headers=headers).raise_for_status()


@pytest.mark.usefixtures("defined")
@pytest.mark.parametrize("name", sorted(SEEN))
def test_what_is_seen_is_the_same_in_every_form(server: Server, http: httpx.Client, name: str) -> None:
    user = fresh(server, http)
    own = ASKERS[ADMIN].headers(server, user)
    write_all(http, user, own)
    headers = ASKERS[name].headers(server, user)
    base = f"/v1/users/{user}"
    log = http.get(f"{base}/events", headers=headers).json()
    snapshot = http.get(f"{base}/docs", headers=headers).json()
    assert {event["collection"] for event in log["events"]} == snapshot["docs"].keys() == SEEN[name]
    assert log["seq"] == 4
    for collection in COLLECTIONS:
        response = http.get(f"{base}/docs/{collection}/k", headers=headers)
        assert (response.status_code == 200) == (collection in SEEN[name])
    # The definitions of `matrix_…` mask the number.
    hidden = name in (SUPPORT, ANALYST)
    cards = [event for event in log["events"] if event["collection"] != "notes"]
    assert all((event["value"]["number"] == SECRET) != hidden for event in cards)

    async def socket() -> None:
        token = headers["authorization"].removeprefix("Bearer ")
        async with opened(server, user, token, headers.get("roost-purpose")) as device:
            await device.say("hello", token=token, after=0)
            await device.hear("welcome")
            before = await device.until_live()
            await asyncio.to_thread(write_all, http, user, own)
            after = await device.events(7)
        for events in (before, after):
            assert {event["collection"] for event in events} == SEEN[name]
            assert all(SECRET not in str(event) for event in events if hidden and event["collection"] != "notes")

    asyncio.run(socket())


@pytest.mark.parametrize("name", sorted(ASKERS))
def test_a_socket_is_closed_for_whoever_may_not_follow(server: Server, http: httpx.Client, name: str) -> None:
    user = fresh(server, http)
    headers = ASKERS[name].headers(server, user)
    token = headers["authorization"].removeprefix("Bearer ")

    async def go() -> int | None:
        for hello in ({"after": 0}, {}, {"device": "phone"}, {"presence": True}):
            async with opened(server, user, token, headers.get("roost-purpose")) as device:
                await device.say("hello", token=token, **hello)
                if name in SEEN:
                    await device.hear("welcome")
                else:
                    code, _ = await device.closed()
                    assert code == (4401 if name == EXPIRED else 4403)
        return None

    asyncio.run(go())


@pytest.mark.usefixtures("defined")
@pytest.mark.parametrize("name", sorted(SEEN))
def test_what_is_pushed_is_held_to_the_same_rules(server: Server, http: httpx.Client, name: str) -> None:
    user = fresh(server, http)
    headers = ASKERS[name].headers(server, user)
    token = headers["authorization"].removeprefix("Bearer ")

    async def go() -> list[str] | str:
        async with opened(server, user, token, headers.get("roost-purpose")) as device:
            await device.say("hello", token=token, device="phone")
            await device.hear("welcome")
            answer = await device.push(put(1, "notes", "a", 1), put(2, "matrix_cards", "a", 1), put(3, "notes", "b", 1))
            if answer["type"] == "refused":
                return str(answer["code"])
            return [result["status"] for result in answer["results"]]

    done = asyncio.run(go())
    if name in (OWN, ADMIN, SERVICE):
        assert done == ["applied"] * 3
    elif name == WRITER:
        assert done == ["applied", "refused", "applied"]
    else:
        assert done == "forbidden"


def opened(server: Server, user: str, token: str, purpose: str | None) -> Any:
    return websocket.opened(server.port, user, token, purpose=purpose)


@pytest.mark.usefixtures("defined")
def test_a_stream_shows_what_a_poll_shows(server: Server, http: httpx.Client) -> None:
    user = fresh(server, http)
    write_all(http, user, ASKERS[ADMIN].headers(server, user))
    headers = ASKERS[ANALYST].headers(server, user) | {"accept": "text/event-stream"}
    with http.stream("GET", f"/v1/users/{user}/events", headers=headers) as stream:
        told = ""
        for line in stream.iter_lines():
            told += line + "\n"
            if line == "event: live":
                break
    assert "matrix_badges" in told
    assert "notes" not in told
    assert "matrix_cards" not in told
    assert SECRET not in told
