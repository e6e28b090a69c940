"""The edge of a real server: rates, addresses behind a proxy, browsers' pages of other origins, and slow senders."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_network

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.support.api import Account, raw
from tests.support.server import Server
from tests.support.websocket import socket as websocket

APP = "https://app.example"
HEAD_S = 1.0
BODY_S = 0.5
MANY = 51
ASKED_MAX = 3_000
addresses = map(str, ip_network("198.18.0.0/15").hosts())


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Little of everything, behind a proxy on this machine."""
    with Server(
        tmp_path_factory.mktemp("edge") / "data",
        trusted_proxies="127.0.0.1",
        rate_address="40",
        rate_principal="30",
        rate_burst_s="1",
        held_address="3",
        cors_origins=APP,
        head_timeout_s=str(HEAD_S),
        body_timeout_s=str(BODY_S),
        heartbeat_s="1",
    ) as server:
        yield server


@pytest.fixture
def ada(edge: Server) -> Iterator[Account]:
    account = Account(edge, f"ada-{time.monotonic_ns()}")
    account.put("notes", "k", 0)
    yield account
    account.close()


def get(server: Server, address: str, path: str, token: str | None = None) -> httpx.Response:
    headers = {"x-forwarded-for": address} | ({"authorization": f"Bearer {token}"} if token else {})
    with httpx.Client(base_url=server.url, timeout=30) as client:
        return client.get(path, headers=headers)


def flood(ask: Callable[[], httpx.Response]) -> list[httpx.Response]:
    """The answers until many were refused. How many it takes is a matter of how fast they come."""
    answers: list[httpx.Response] = []
    limited = 0
    while limited < MANY:
        assert len(answers) < ASKED_MAX, f"only {limited} were refused"
        answers.append(ask())
        limited += answers[-1].status_code == 429
    return answers


# Rates


@pytest.mark.parametrize(("path", "token"), [("/v1/users/ada", None), ("/v1/users/ada", "bad"), ("/nothing", None)])
def test_an_address_is_answered_so_often_whatever_it_asks(edge: Server, path: str, token: str | None) -> None:
    headers = {"x-forwarded-for": next(addresses)} | ({"authorization": f"Bearer {token}"} if token else {})
    with httpx.Client(base_url=edge.url, timeout=30, headers=headers) as client:
        answers = flood(lambda: client.get(path))
    limited = [answer for answer in answers if answer.status_code == 429]
    assert [answer.status_code for answer in answers[:40]].count(429) == 0
    assert limited[0].json()["code"] == "rate_limited"
    assert int(limited[0].headers["retry-after"]) >= 1
    assert get(edge, next(addresses), "/nothing").status_code == 404, "others are not held up by it"


def test_what_is_refused_for_its_headers_counts_too(edge: Server) -> None:
    headers = [("x-forwarded-for", next(addresses)), ("authorization", "a"), ("authorization", "b")]
    with httpx.Client(base_url=edge.url, timeout=30, headers=headers) as client:
        answers = flood(lambda: client.get("/v1/users/ada"))
    assert {answer.status_code for answer in answers[:40]} == {400}


def test_a_principal_is_answered_so_often_from_wherever(edge: Server, ada: Account) -> None:
    with edge.client(ada.token) as client:
        mine = flood(lambda: client.get(ada.at(), headers={"x-forwarded-for": next(addresses)}))
    assert mine[0].status_code == 200
    with edge.client(edge.service("billing")) as service:
        assert {service.get(ada.at()).status_code for _ in range(60)} == {200}


def test_health_is_told_in_any_case(edge: Server) -> None:
    with httpx.Client(base_url=edge.url, timeout=30, headers={"x-forwarded-for": next(addresses)}) as client:
        assert {client.get("/healthz").status_code for _ in range(200)} == {200}


def test_frames_count_and_are_held_back(edge: Server, ada: Account) -> None:
    async def whole() -> None:
        async with websocket(edge.port, ada.user, ada.token) as device:
            started = asyncio.get_running_loop().time()
            for _ in range(75):
                await device.say("ping")
            for _ in range(75):
                assert await device.hear("pong")
            assert asyncio.get_running_loop().time() - started > 1

    asyncio.run(whole())


def test_one_address_holds_so_many_requests(edge: Server, ada: Account) -> None:
    headers = {"authorization": f"Bearer {ada.token}", "x-forwarded-for": next(addresses)}

    async def whole() -> None:
        async with httpx.AsyncClient(base_url=edge.url, headers=headers, timeout=30) as client:

            async def ask(wait_s: int) -> httpx.Response:
                return await client.get(f"{ada.at('events')}?after=1&wait={wait_s}")

            waiting = [asyncio.ensure_future(ask(20)) for _ in range(4)]
            (first,), others = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert (first.result().status_code, first.result().json()["code"]) == (429, "rate_limited")
            assert "under way" in first.result().json()["detail"]
            with edge.client(edge.service("writer")) as writer:
                writer.put(ada.doc("notes", "k"), json=1)
            assert {answer.status_code for answer in await asyncio.gather(*others)} == {200}
            assert (await ask(0)).status_code == 200

    asyncio.run(whole())


async def status_of(edge: Server, ada: Account, **headers: str) -> int:
    """What a handshake for a WebSocket is answered."""
    uri = f"ws://127.0.0.1:{edge.port}{ada.at('sync')}"
    try:
        async with connect(uri, additional_headers={k.replace("_", "-"): v for k, v in headers.items()}, proxy=None):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_sockets_are_held_until_they_are_closed(edge: Server, ada: Account) -> None:
    uri = f"ws://127.0.0.1:{edge.port}{ada.at('sync')}"
    address = next(addresses)

    async def whole() -> None:
        held = [await connect(uri, additional_headers={"x-forwarded-for": address}, proxy=None) for _ in range(3)]
        assert await status_of(edge, ada, x_forwarded_for=address) == 429
        await held[0].close()
        while await status_of(edge, ada, x_forwarded_for=address) == 429:  # noqa: ASYNC110  # until it has noticed
            await asyncio.sleep(0.1)
        assert await status_of(edge, ada, x_forwarded_for=next(addresses)) == 101
        for each in held:
            await each.close()

    asyncio.run(whole())


# Browsers


@pytest.mark.parametrize(
    ("origin", "opens"),
    [(None, True), (APP, True), ("own", True), ("https://evil.example", False), ("null", False)],
)
def test_pages_of_other_origins_open_no_sockets(edge: Server, ada: Account, origin: str | None, opens: bool) -> None:
    origin = edge.url if origin == "own" else origin
    headers = {"origin": origin} if origin else {}
    assert asyncio.run(status_of(edge, ada, **headers)) == (101 if opens else 403)


def test_no_release_is_told(edge: Server) -> None:
    headers = httpx.get(f"{edge.url}/healthz", timeout=30).headers
    assert not any(character.isdigit() for character in headers.get("server", ""))
    assert "x-powered-by" not in headers


# Slow senders


def closed_after(connection: socket.socket) -> float:
    started = time.monotonic()
    connection.settimeout(20)
    with suppress(ConnectionError):
        while connection.recv(1000):
            pass
    return time.monotonic() - started


@pytest.mark.parametrize("said", [b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: roost\r\nX: "])
def test_a_head_that_does_not_end_is_given_up(edge: Server, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", edge.port)) as slow:
        slow.sendall(said)
        assert closed_after(slow) < 5 * HEAD_S


def test_a_head_that_comes_in_drops_is_given_up_too(edge: Server) -> None:
    """Each byte is a sign of life, and still the whole has its time."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", edge.port)) as slow:
        slow.settimeout(0.1)
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: roost\r\n")
        while True:
            assert time.monotonic() - started < 5 * HEAD_S
            try:
                slow.sendall(b"x")
                if not slow.recv(100):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break


def test_a_body_that_comes_in_drops_is_given_up(edge: Server, ada: Account) -> None:
    with socket.create_connection(("127.0.0.1", edge.port)) as slow:
        head = f"PUT {ada.doc('notes', 'slow')} HTTP/1.1\r\nHost: roost\r\nAuthorization: Bearer {ada.token}\r\n"
        slow.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n1".encode())
        slow.settimeout(0.05)
        started = time.monotonic()
        answer = b""
        while not answer:
            assert time.monotonic() - started < 10 * BODY_S
            slow.sendall(b"1")
            with suppress(TimeoutError):
                answer = slow.recv(4000)
        assert b"400" in answer.split(b"\r\n")[0]
        assert b"did not arrive within" in answer
    # On a connection of its own: the account's has been idle for about as long as one is kept.
    assert get(edge, next(addresses), ada.doc("notes", "slow"), ada.token).status_code == 404


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_nothing_is_decompressed(edge: Server, ada: Account, coding: str) -> None:
    """A bomb of a few bytes costs a few bytes."""
    head = f"PUT {ada.doc('notes', 'k')} HTTP/1.1\r\nHost: roost\r\nAuthorization: Bearer {ada.token}\r\n"
    told = f"{head}Content-Type: application/json\r\nContent-Encoding: {coding}\r\nContent-Length: 4\r\n\r\n1234"
    answer = raw(edge, told.encode())
    assert (answer.status, answer.code) == (415, "unsupported_media_type")
