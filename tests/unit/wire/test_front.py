"""TLS on one side, plain on the other: nothing is lost or altered between them, and neither side floods the other."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from starlette.types import Receive, Scope, Send

from roost.node.port import reserve
from roost.wire import front as fronts
from roost.wire.front import Front, Outside
from roost.wire.tls import BadCertificates, Certificates, names_of
from tests.support.listener import Handler, Listener
from tests.support.tls import Authority

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def standing(authority: Authority, handler: Handler, **limits: int) -> AsyncIterator[tuple[Front, int]]:
    """A front before a server that treats each connection by `handler`, and the front's port."""
    async with Listener(handler) as inside:
        front = Front(
            Certificates(*authority.issue("127.0.0.1"), authority.file),
            inside.port,
            connections_max=limits.get("connections_max", 100),
            connections_address=limits.get("connections_address", 100),
        )
        port = reserve("127.0.0.1", 0)
        try:
            await front.listen(port.host, port.number)
            yield front, port.number
        finally:
            await inside.end()
            await front.close()
            port.reservation.close()
            await emptied(front)


async def emptied(front: Front) -> None:
    """Every connection is gone, and so is what was kept of it."""
    while front.peers or front.files or front._open:  # noqa: ASYNC110  # there is nothing that would say so
        await asyncio.sleep(0.001)


def run(authority: Authority, handler: Handler, play: Callable[[Front, int], Awaitable[None]], **limits: int) -> None:
    async def whole() -> None:
        async with asyncio.timeout(30), standing(authority, handler, **limits) as (front, port):
            await play(front, port)

    asyncio.run(whole())


async def dial(authority: Authority, port: int, shown: tuple[Path, Path] | None = None) -> Streams:
    return await asyncio.open_connection("127.0.0.1", port, ssl=authority.trusting(shown))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(10_000):
        writer.write(data)
        await writer.drain()


def test_what_is_sent_arrives_as_it_was_sent(authority: Authority) -> None:
    chance = random.Random(4)
    sent = [chance.randbytes(chance.choice((1, 100, 16_383, 16_384, 16_385, 100_000))) for _ in range(60)]

    async def play(front: Front, port: int) -> None:
        reader, writer = await dial(authority, port)

        async def send() -> None:
            for part in sent:
                writer.write(part)
                await writer.drain()

        sending = asyncio.ensure_future(send())
        everything = b"".join(sent)
        assert await reader.readexactly(len(everything)) == everything
        await sending
        assert len(front.peers) == 1
        writer.close()
        await emptied(front)

    run(authority, echo, play)


def test_whoever_did_not_come_through_here_is_refused(authority: Authority) -> None:
    """Another program of this machine may have the port of an open connection, at another address of its own."""
    taken: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        taken.append(scope["client"][0])

    async def play(front: Front, port: int) -> None:
        _, writer = await dial(authority, port, authority.issue("billing"))
        writer.write(b"x")
        while not front.peers:  # noqa: ASYNC110  # there is nothing that would say so
            await asyncio.sleep(0.001)
        (known,) = front.peers
        said: list[Any] = []

        async def send(message: Any) -> None:
            said.append(message)

        for client in (("127.0.0.2", known), ("127.0.0.1", known + 1), ("127.0.0.1", known)):
            scope = {"type": "http", "client": client, "server": ("127.0.0.1", front.inside)}
            await front.wrap(app)(scope, cast("Receive", None), send)
        assert [message["status"] for message in said if "status" in message] == [403, 403]
        assert taken == ["127.0.0.1"]
        writer.close()

    run(authority, echo, play)


@pytest.mark.parametrize(("other", "may"), [("2001:db8::2", False), ("2001:db8:0:1::1", True)])
def test_a_subscriber_s_addresses_share_their_connections(authority: Authority, other: str, may: bool) -> None:
    async def play(front: Front, _: int) -> None:
        loop = asyncio.get_running_loop()
        one, two = Outside(front, loop), Outside(front, loop)
        assert front.enter(one, "2001:db8::1")
        assert front.enter(two, other) is may
        front.leave(two, other)
        front.leave(one, "2001:db8::1")
        assert not front._by_address

    run(authority, echo, play, connections_address=1)


def test_what_the_server_says_last_arrives_and_ends_in_order(authority: Authority) -> None:
    """An end that is not the server's own word would be an answer cut short, by whoever."""

    async def say_and_go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"x" * 200_000)

    async def play(_: Front, port: int) -> None:
        loop = asyncio.get_running_loop()
        connection = socket.create_connection(("127.0.0.1", port))

        def read() -> int:
            strict = authority.trusting().wrap_socket(
                connection, server_hostname="127.0.0.1", suppress_ragged_eofs=False
            )
            with strict:
                strict.sendall(b"?")
                size = 0
                while part := strict.recv(65_536):
                    size += len(part)
                return size

        assert await loop.run_in_executor(None, read) == 200_000

    run(authority, say_and_go, play)


def test_a_worker_s_last_words_are_heard(authority: Authority) -> None:
    told = asyncio.Event()

    async def wait_and_say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(1))
        await told.wait()
        writer.write(b"bye" * 50_000)

    async def play(front: Front, port: int) -> None:
        reader, writer = await dial(authority, port)
        writer.write(b"?")
        assert await reader.readexactly(1) == b"?"
        stopping = asyncio.ensure_future(front.close())
        told.set()
        assert await reader.read() == b"bye" * 50_000
        writer.close()
        await stopping

    run(authority, wait_and_say, play)


def test_a_client_that_does_not_read_holds_the_server_back(authority: Authority) -> None:
    taken = 0

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        while True:
            writer.write(bytes(65_536))
            await writer.drain()
            taken += 65_536

    async def play(_: Front, port: int) -> None:
        plain = socket.create_connection(("127.0.0.1", port))
        before = psutil.Process().memory_info().rss
        context = authority.trusting()
        held = await asyncio.to_thread(context.wrap_socket, plain, server_hostname="127.0.0.1")
        with held:
            while not taken:  # noqa: ASYNC110  # there is nothing that would say so
                await asyncio.sleep(0.001)
            last = -1
            while taken != last:  # until nothing moves for a while
                last = taken
                await asyncio.sleep(0.3)
            assert 0 < taken < 20 << 20  # what the kernel holds for both connections
            assert psutil.Process().memory_info().rss - before < 20 << 20

    run(authority, pour, play)


def test_a_server_that_does_not_read_holds_the_client_back(authority: Authority) -> None:
    async def ignore(_: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def play(_front: Front, port: int) -> None:
        _, writer = await dial(authority, port)
        sent = 0
        with suppress(TimeoutError):
            while sent < 40 << 20:
                writer.write(bytes(65_536))
                async with asyncio.timeout(0.5):
                    await writer.drain()
                sent += 65_536
        assert 0 < sent < 20 << 20
        writer.transport.abort()

    run(authority, ignore, play)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"], ids=["nothing", "little", "else"])
def test_who_does_not_shake_hands_is_let_go(authority: Authority, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(fronts, "HANDSHAKE_S", 0.2)
    monkeypatch.setattr(fronts, "CLOSE_S", 0.2)

    async def play(front: Front, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        with suppress(ConnectionError):
            assert b"HTTP" not in await reader.read()
        writer.close()
        await emptied(front)

    run(authority, echo, play)


def test_garbage_in_a_connection_ends_it_alone(authority: Authority) -> None:
    async def play(front: Front, port: int) -> None:
        reader, writer = await dial(authority, port)
        bad_reader, bad_writer = await dial(authority, port)
        bad_writer.write(b"ping")
        assert await bad_reader.readexactly(4) == b"ping"
        raw = bad_writer.get_extra_info("socket").dup()
        await asyncio.to_thread(raw.sendall, b"\x17\x03\x03\x00\x20" + bytes(32))
        raw.close()
        with suppress(ssl.SSLError, ConnectionError):
            assert await bad_reader.read() == b""
        writer.write(b"pong")
        assert await reader.readexactly(4) == b"pong"
        assert len(front.peers) <= 2
        bad_writer.transport.abort()
        writer.transport.abort()

    run(authority, echo, play)


def test_places_are_bounded_and_given_back(authority: Authority) -> None:
    async def play(front: Front, port: int) -> None:
        for _ in range(3):
            first, second = [await dial(authority, port) for _ in range(2)]
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await dial(authority, port)
            for _, writer in (first, second):
                writer.transport.abort()
            await emptied(front)
        assert not front._by_address

    run(authority, echo, play, connections_address=2)
    run(authority, echo, play, connections_max=2)


def test_who_is_behind_a_connection_is_known_before_its_first_byte(authority: Authority) -> None:
    seen: list[tuple[str, int, frozenset[str]]] = []
    fronts_here: list[Front] = []

    async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        peer = fronts_here[0].peers[writer.get_extra_info("peername")[1]]
        seen.append((*peer.client, peer.extensions["tls"]["client_cert_names"]))

    async def play(front: Front, port: int) -> None:
        fronts_here.append(front)
        for shown in (None, authority.issue("billing.example", common_name="billing")):
            reader, writer = await dial(authority, port, shown)
            writer.write(b"?")
            assert await reader.read() == b""
            host, own_port = writer.get_extra_info("sockname")[:2]
            names = frozenset() if shown is None else {"billing.example", "billing"}
            assert seen.pop() == (host, own_port, names)
            writer.close()

    run(authority, look, play)


def test_names_are_those_that_a_certificate_says_of_its_subject() -> None:
    certificate = {
        "subject": ((("organizationName", "evil"),), (("commonName", "billing"),)),
        "issuer": ((("commonName", "authority"),),),
        "subjectAltName": (
            ("DNS", "billing.example"),
            ("URI", "spiffe://x/billing"),
            ("email", "a@b"),
            ("DirName", "x"),
        ),
    }
    assert names_of(certificate) == {"billing", "billing.example", "spiffe://x/billing"}
    assert names_of({}) == names_of(None) == frozenset()


def test_files_that_are_no_certificates_are_refused_in_words(authority: Authority, tmp_path: Path) -> None:
    chain, key = authority.issue("127.0.0.1")
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for files in ((empty, key), (chain, empty), (tmp_path / "none", key), (chain, key, empty)):
        with pytest.raises(BadCertificates, match=r"empty|none"):
            Certificates(*files)
