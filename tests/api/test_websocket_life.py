"""How WebSockets begin, live and end: handshakes, tokens, heartbeats, silence, hostility, and readers that stop."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket as sockets
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.api import Account, problem, raw
from tests.support.server import Server, until
from tests.support.websocket import SUBPROTOCOL, Socket, opened, put, socket

BEAT_S = 1.0
"""After three of these without a sign of life a socket is closed: no process here stands still so long."""
SHORT_S = 5
"""How long a token is good that is to be taken, and to end soon after."""
Act = Callable[[Socket], Awaitable[None]]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Quick heartbeats, few sockets."""
    with Server(tmp_path_factory.mktemp("quick") / "data", heartbeat_s=str(BEAT_S), waiters_max="3") as server:
        yield server


@pytest.fixture
def bob(quick: Server) -> Iterator[Account]:
    """A user of the quick server, with one event."""
    account = Account(quick, f"bob-{time.monotonic_ns()}")
    account.put("notes", "k", 0)
    yield account
    account.close()


def ends(account: Account, act: Act, *, token: str | None = None, **hello: Any) -> int:
    """The code with which a socket is closed after `act`; with `hello`, that was said and welcomed before."""

    async def whole() -> int:
        async with opened(account.server.port, account.user) as device:
            if hello:
                await device.say("hello", token=account.token if token is None else token, **hello)
                await device.hear("welcome")
            await act(device)
            return (await device.closed())[0]

    return asyncio.run(whole())


async def nothing(_: Socket) -> None:
    """Just wait."""


def text(data: str | bytes) -> Act:
    async def act(device: Socket) -> None:
        await device.connection.send(data, text=True)

    return act


def handshake(account: Account, **changes: str) -> bytes:
    headers = {
        "host": "roost",
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": base64.b64encode(os.urandom(16)).decode(),
        "sec-websocket-protocol": SUBPROTOCOL,
    } | {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value]
    return "\r\n".join([f"GET {account.at('sync')} HTTP/1.1", *lines, "", ""]).encode()


def frame(data: bytes, opcode: int = 1, *, fin: bool = True, masked: bool = True) -> bytes:
    """A WebSocket frame of a client's, masked with zeros."""
    head = bytes([opcode | (0x80 if fin else 0)])
    bit = 0x80 if masked else 0
    size = bytes([bit | len(data)]) if len(data) < 126 else bytes([bit | 127]) + len(data).to_bytes(8, "big")
    return head + size + (b"\0\0\0\0" if masked else b"") + data


def dial(account: Account, *said: dict[str, Any]) -> sockets.socket:
    """A bare connection, upgraded, on which frames were said."""
    connection = sockets.create_connection(("127.0.0.1", account.server.port), timeout=30)
    connection.sendall(handshake(account))
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(1)
    assert got.startswith(b"HTTP/1.1 101 ")
    for one in said:
        connection.sendall(frame(json.dumps(one).encode()))
    return connection


# Handshakes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sec_websocket_protocol": ""}, 101),
        ({"sec_websocket_protocol": f"chat, {SUBPROTOCOL}"}, 101),
        ({"sec_websocket_protocol": "chat"}, 400),
        ({"sec_websocket_version": "8"}, 400),
        ({"sec_websocket_key": "short"}, 400),
        ({"upgrade": "h2c"}, 400),
        ({"connection": "close"}, 400),
        ({"authorization": "Basic YTpi"}, 401),
    ],
)
def test_a_handshake_is_taken_or_refused_politely(ada: Account, changes: dict[str, str], expected: int) -> None:
    answer = raw(ada.server, handshake(ada, **changes))
    assert answer.status == expected, answer
    if expected == 101:
        assert answer.headers.get("sec-websocket-protocol") == (
            SUBPROTOCOL if changes["sec_websocket_protocol"] else None
        )
    else:
        assert answer.code == {400: "invalid_request", 401: "unauthenticated"}[expected]


def test_it_is_no_page(ada: Account) -> None:
    problem(ada.http.get(ada.at("sync")), 400, "invalid_request")
    problem(ada.http.post(ada.at("sync")), 405, "method_not_allowed")
    problem(ada.http.get("/v1/users/%2F/sync"), 400, "invalid_name")


def test_a_connection_is_still_good_for_requests_after_a_refusal(ada: Account) -> None:
    with sockets.create_connection(("127.0.0.1", ada.server.port), timeout=30) as connection:
        connection.sendall(handshake(ada, sec_websocket_protocol="chat") + b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        got = b""
        while b'{"status":"ok"}' not in got:
            got += connection.recv(4096)
        assert got.startswith(b"HTTP/1.1 400 ")


# Who may


def test_a_token_comes_with_hello_or_with_the_handshake(ada: Account) -> None:
    async def whole() -> None:
        async with opened(ada.server.port, ada.user, ada.token) as device:
            await device.say("hello")
            assert (await device.hear())["type"] == "welcome"
        async with opened(ada.server.port, ada.user, "bad") as device:
            await device.say("hello", token=ada.token)
            assert (await device.hear())["type"] == "welcome"

    asyncio.run(whole())


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        ({}, 4401),
        ({"token": "bad"}, 4401),
        ({"token": "", "after": 0}, 4401),
        ({"token": "theirs", "after": 0}, 4403),
        ({"token": "theirs"}, 4403),
        ({"token": "own", "after": 9}, 4409),
        ({"token": "own", "after": -1}, 4400),
        ({"token": "own", "device": "a b"}, 4400),
        ({"token": "own", "after": 0, "collections": ["A"]}, 4400),
        ({"token": "own", "what": 1}, 4400),
    ],
)
def test_a_bad_hello_closes_with_a_code(ada: Account, server: Server, hello: dict[str, Any], code: int) -> None:
    ada.put("notes", "k", 1)
    tokens = {"own": ada.token, "theirs": server.token("somebody")}
    said = hello | ({"token": tokens.get(hello["token"], hello["token"])} if "token" in hello else {})
    assert ends(ada, text(json.dumps({"type": "hello", **said}))) == code


def test_a_user_that_is_not_there_can_be_pushed_to_but_not_followed(ada: Account) -> None:
    assert ends(ada, text(json.dumps({"type": "hello", "after": 0, "token": ada.token}))) == 4404

    async def whole() -> None:
        async with socket(ada.server.port, ada.user, ada.token, device="phone") as device:
            assert (await device.push(put(1, "notes", "k", 1)))["results"][0]["seq"] == 1

    asyncio.run(whole())


def test_a_token_that_ends_closes_the_socket(bob: Account) -> None:
    for hello in ({"after": 0}, {"device": "phone"}):
        assert ends(bob, nothing, token=bob.server.token(bob.user, ttl_s=SHORT_S), **hello) == 4401


def test_a_fresh_token_keeps_it_open(bob: Account) -> None:
    async def whole() -> None:
        short = bob.server.token(bob.user, ttl_s=SHORT_S)
        async with socket(bob.server.port, bob.user, short, after=0) as device:
            await device.until_live()
            before = asyncio.get_running_loop().time()
            await device.say("token", token=bob.token)
            assert (await device.hear("renewed"))["expires_at"] > time.time() + 1000
            while asyncio.get_running_loop().time() < before + SHORT_S + BEAT_S:
                await device.hear("events")  # heartbeats, beyond the end of the first token

    asyncio.run(whole())


@pytest.mark.parametrize(("whose", "code"), [("somebody", 4403), ("a namesake", 4403), ("nobody", 4401)])
def test_a_fresh_token_is_of_the_same_principal(bob: Account, whose: str, code: int) -> None:
    tokens = {"somebody": bob.server.token("somebody"), "a namesake": bob.server.service(bob.user), "nobody": "bad"}
    assert ends(bob, text(json.dumps({"type": "token", "token": tokens[whose]})), after=0) == code


def test_a_fresh_token_is_of_the_same_admin(bob: Account) -> None:
    one, other = (bob.server.issue("admin", name) for name in ("one", "other"))
    assert ends(bob, text(json.dumps({"type": "token", "token": other})), token=one, after=0) == 4403
    with bob.server.client() as admin:
        query = {"actor": "admin:other", "action": "login", "outcome": "denied"}
        until(lambda: bool(admin.get("/v1/audit", params=query).json()["records"]), what="it is on record")


# Signs of life


def test_an_idle_socket_has_heartbeats_with_the_cursor(bob: Account) -> None:
    async def whole() -> None:
        started = time.monotonic()
        async with socket(bob.server.port, bob.user, bob.token, after=0, collections=["none"]) as device:
            await device.until_live()
            beats = [await device.hear() for _ in range(4)]
            assert beats == [{"type": "events", "after": 1, "events": [], "seq": 1, "live": True}] * 4
            assert 3 * BEAT_S < time.monotonic() - started < 30  # by the usual setting it would be a minute

    asyncio.run(whole())


def test_who_says_nothing_is_closed(tmp_path: Path) -> None:
    with Server(tmp_path / "data", engine="memory:", hello_timeout_s="0.5") as server:
        ada = Account(server, "ada")
        assert ends(ada, nothing) == 4408
        ada.close()


@pytest.mark.parametrize("hello", [{"after": 0}, {}])
def test_who_gives_no_sign_of_life_is_found_out(bob: Account, hello: dict[str, Any]) -> None:
    started = time.monotonic()
    with dial(bob, {"type": "hello", "token": bob.token, **hello}) as connection:
        got = b""
        # The server's pings come, and are not answered. 4408 is 0x1138.
        while b"\x11\x38There was no sign of life: resume from your cursor." not in got:
            part = connection.recv(4096)
            assert part, got
            got += part
        assert time.monotonic() - started > 3 * BEAT_S


def test_pongs_are_signs_of_life(bob: Account) -> None:
    async def whole() -> None:
        async with socket(bob.server.port, bob.user, bob.token) as device:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(6 * BEAT_S):
                    await device.connection.recv()  # the library answers pings meanwhile
            await device.say("ping")
            assert await device.hear() == {"type": "pong"}

    asyncio.run(whole())


# Hostility


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 30_000,
        '{"type":"what"}',
        '{"type":"hello"}',
        '{"type":"ping","more":1}',
        '{"type":"ping","type":"ping"}',
        '{"type":"read"}',
        '{"type":"read","seq":1e400}',
        '{"type":"push","mutations":[]}',
        '{"type":"push","mutations":[{"number":0,"base":0,"clock":0,"ops":[]}]}',
        '{"type":"push","mutations":[{"number":1,"base":0,"clock":0,"ops":[{"op":"drop"}]}]}',
        b"\xff\xfe",
    ],
)
@pytest.mark.usefixtures("unharmed")
def test_garbage_closes_with_4400(ada: Account, data: str | bytes) -> None:
    assert ends(ada, text(data), device="phone") == 4400
    assert ends(ada, text(data)) == (4401 if data == '{"type":"hello"}' else 4400)


@pytest.mark.usefixtures("unharmed")
def test_binary_frames_and_pushes_without_a_device_close_with_4400(ada: Account) -> None:
    async def binary(device: Socket) -> None:
        await device.connection.send(b'{"type":"ping"}')

    async def push(device: Socket) -> None:
        await device.say("push", mutations=[put(1, "notes", "k", 1)])

    assert ends(ada, binary, device="phone") == 4400
    assert ends(ada, push, presence=True) == 4400
    assert ends(ada, text('{"type":"read","seq":1}'), presence=True) == 4400


@pytest.mark.usefixtures("unharmed")
def test_a_message_that_is_too_large_closes_with_1009(ada: Account) -> None:
    assert ends(ada, text(b" " * ((1 << 20) + 1)), device="phone") == 1009
    assert ends(ada, text(b" " * 40_000)) == 1009  # less is enough from somebody who has not said who that is

    async def fragments(device: Socket) -> None:
        with suppress(Exception):
            await device.connection.send(b"x" * 65_536 for _ in range(20))

    assert ends(ada, fragments, device="phone") == 1009


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    "data",
    [frame(b"{}", masked=False), frame(b"{}", 0x71), frame(b"", 3), frame(b"", 0)],
    ids=["bare", "bits", "3", "0"],
)
def test_what_is_no_websocket_frame_closes_with_1002(ada: Account, data: bytes) -> None:
    with dial(ada) as connection:
        connection.sendall(data)
        got = b""
        while part := connection.recv(4096):
            got += part
        assert (got[0], got[2:4]) == (0x88, (1002).to_bytes(2, "big"))


def test_a_push_larger_than_may_be_is_refused_and_the_socket_lives(ada: Account) -> None:
    async def whole() -> None:
        async with socket(ada.server.port, ada.user, ada.token, device="phone") as device:
            refused = await device.push(*(put(number, "notes", "k", 1) for number in range(1, 102)))
            assert (refused["type"], refused["code"]) == ("refused", "too_large")
            pushed = await device.push(*(put(number, "notes", "k", 1) for number in range(1, 101)))
            assert len(pushed["results"]) == 100

    asyncio.run(whole())


@pytest.mark.usefixtures("unharmed")
def test_floods_are_held_back_and_harm_nobody(ada: Account, account: Callable[[], Account]) -> None:
    """Somebody sends frames, pings and empty fragments as fast as can be, and reads nothing of what comes back."""
    carl = account()
    carl.put("notes", "k", 0)
    (worker,) = ada.server.listening()
    before = psutil.Process(worker).memory_info().rss
    stop = threading.Event()
    held_back: list[bool] = []

    def flood(first: bytes, piece: bytes) -> None:
        with dial(ada, {"type": "hello", "token": ada.token}) as connection:
            connection.sendall(first)
            connection.settimeout(1)
            with suppress(TimeoutError):
                while not stop.is_set():
                    connection.sendall(piece * 1000)
            held_back.append(not stop.is_set())
            stop.wait()

    floods = [
        (b"", frame(b'{"type":"ping"}')),
        (b"", frame(b"x" * 100, 9)),
        (frame(b"[", fin=False), frame(b"", 0, fin=False)),
    ]
    threads = [threading.Thread(target=flood, args=each) for each in floods]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(held_back) == len(floods))
        assert all(held_back)
        for number in range(100):
            assert carl.put("notes", "k", number).status_code == 200
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert psutil.Process(worker).memory_info().rss - before < 40 << 20


def test_there_is_a_most_of_sockets(bob: Account) -> None:
    async def whole() -> None:
        async with (
            socket(bob.server.port, bob.user, bob.token),
            socket(bob.server.port, bob.user, bob.token, after=0),
            socket(bob.server.port, bob.user, bob.token, after=0),
        ):
            refused = await asyncio.to_thread(raw, bob.server, handshake(bob))
            assert (refused.status, refused.code) == (503, "overloaded")

    asyncio.run(whole())
    until(lambda: raw(bob.server, handshake(bob)).status == 101, what="they have left their places")


# Readers that stop, servers that stop


@pytest.mark.parametrize("megabytes", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_a_reader_that_stops_costs_little_is_closed_and_harms_nobody(tmp_path: Path, megabytes: int) -> None:
    """Much goes by a device that does not read; others follow the same log meanwhile."""
    values = [base64.b64encode(os.urandom(180_000)).decode() for _ in range(8)]
    count = megabytes * 1_000_000 // len(values[0])
    with Server(tmp_path / "data", heartbeat_s="4") as server:
        ada = Account(server, "ada")
        ada.put("notes", "k", 0)
        (worker,) = server.listening()
        process = psutil.Process(worker)
        peak = [0]

        async def follow() -> int:
            async with socket(server.port, "ada", ada.token, after=0) as device:
                seen = 0
                while device.cursor < count + 51:
                    frame = await device.hear("events")
                    seen += len(frame["events"])
                    device._told.clear()
                return seen

        def write() -> None:
            for number in range(count):
                assert ada.put("notes", "k", values[number % len(values)]).status_code == 200
                peak[0] = max(peak[0], process.memory_info().rss)

        async def whole() -> list[int]:
            return [*(await asyncio.gather(asyncio.to_thread(write), follow(), follow()))[1:]]

        for number in range(50):
            ada.put("other", str(number), values[0])  # what a worker holds to write and to read such values
        base = process.memory_info().rss
        with dial(ada, {"type": "hello", "token": ada.token, "after": 51}) as stuck:
            assert asyncio.run(whole()) == [count + 51] * 2
            assert peak[0] - base < 40 << 20, f"{(peak[0] - base) >> 20} MB"
            port = stuck.getsockname()[1]
            until(lambda: all(port not in one.raddr[1:] for one in process.net_connections()))
        ada.close()


def test_stopping_the_server_closes_its_sockets(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        ada = Account(server, "ada")
        ada.put("notes", "k", 1)

        async def whole() -> None:
            async with (
                socket(server.port, "ada", ada.token, after=0) as follower,
                socket(server.port, "ada", ada.token, device="phone") as pusher,
                opened(server.port, "ada") as silent,
            ):
                await follower.until_live()
                stopping = asyncio.ensure_future(asyncio.to_thread(server.stop))
                assert (await follower.closed())[0] == 1001
                assert (await pusher.closed())[0] == 1001
                assert (await silent.closed())[0] in (1001, 1006)
                assert await stopping == 0

        asyncio.run(whole())
        ada.close()


def test_metrics_count_sockets_and_frames(ada: Account, admin: Account) -> None:
    # Those of other tests may take a moment to go.
    until(lambda: "\nroost_websockets 0.0" in admin.http.get("/metrics").text)

    async def whole() -> None:
        async with socket(ada.server.port, ada.user, ada.token) as device:
            await device.say("ping")
            await device.hear("pong")
            text = (await asyncio.to_thread(admin.http.get, "/metrics")).text
            assert "\nroost_websockets 1.0" in text
            assert 'roost_websocket_frames_total{direction="received",type="ping"}' in text

    asyncio.run(whole())
    until(lambda: "\nroost_websockets 0.0" in admin.http.get("/metrics").text)


def test_the_document_tells_of_the_frames(server: Server) -> None:
    document = httpx.get(f"{server.url}/openapi.json", verify=False, timeout=30).json()
    told = document["paths"]["/v1/users/{user}/sync"]["get"]["x-websocket"]
    assert told["client"]["discriminator"]["mapping"].keys() == {"hello", "push", "token", "read", "ping"}
    assert "events" in told["server"]["discriminator"]["mapping"]
