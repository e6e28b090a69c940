"""What only a real server shows: bytes that are no request, bodies that end early, clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from granian.constants import Interfaces
from granian.server.embed import Server as Granian

from roost.node.port import reserve
from tests.unit.wire.support import UI, VALUE, Server

PATIENCE_S = 60


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[int]:
    """The port on which `server` is served in this process."""
    kept = reserve("127.0.0.1", 0)
    port = kept.number
    granian = Granian(server.app, port=port, interface=Interfaces.ASGINL, log_enabled=False)
    running = asyncio.create_task(granian.serve())
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                assert not running.done()
                await asyncio.sleep(0)
        yield port
    finally:
        granian.stop()  # type: ignore[no-untyped-call]  # Granian has no types here
        await asyncio.wait_for(running, PATIENCE_S)
        kept.reservation.close()


def run(server: Server, play: Callable[[int], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with serving(server) as port:
            await play(port)

    asyncio.run(whole())


def head(server: Server, line: str, *headers: str) -> bytes:
    lines = [f"{line} HTTP/1.1", "Host: roost", f"Authorization: Bearer {server.token}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def answer_to(port: int, *parts: bytes, closing: bool = False) -> tuple[int, bytes, bytes]:
    """Status, headers and body of the first answer to the bytes of `parts`; and nothing of what follows."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in parts:
            writer.write(part)
            with suppress(ConnectionError):
                await writer.drain()
        if closing:
            writer.write_eof()
        headers = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (
                int(line.partition(b":")[2])
                for line in headers.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            ),
            0,
        )
        body = await reader.readexactly(length)
        writer.close()
    return int(headers.split(b" ")[1]), headers.lower(), body


async def closed_without_more(port: int, data: bytes) -> bytes:
    """Everything that is answered until the server closes the connection."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        everything = await reader.read()
        writer.close()
    return everything


def test_paths_arrive_as_they_were_sent(server: Server) -> None:
    async def play(port: int) -> None:
        base = "GET /v1/users/ada/docs/preferences"
        segments = {"ui": 200, "%75i?": 200, "..": 200, "a%2Fb": 400, "%ff": 400, "%00": 400, "": 404}
        for segment, status in segments.items():
            assert (await answer_to(port, head(server, f"{base}/{segment}")))[0] == status, segment
        assert (await answer_to(port, head(server, f"{base}?prefix=%ff")))[0] == 400
        # What the server itself refuses has no problem document, and never reaches us.
        assert (await answer_to(port, head(server, f"{base}/\xff")))[0] == 400

    run(server, play)
    assert [asked[1].key for asked in server.gate.asked] == ["ui", "ui", ".."]


def test_head_has_no_body_between_its_answer_and_the_next(server: Server) -> None:
    async def play(port: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head(server, f"HEAD {UI}") + head(server, f"GET {UI}"))
            assert b"content-length: %d" % len(VALUE) in await reader.readuntil(b"\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(len(VALUE)) == VALUE
            writer.close()

    run(server, play)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (["Content-Length: 5"], b"123"),
        (["Transfer-Encoding: chunked"], b"3\r\n123\r\n"),
        (["Transfer-Encoding: chunked"], b"3\r\n123\r\nZZ\r\n"),
    ],
)
def test_a_body_that_ends_early_is_never_stored(server: Server, headers: list[str], body: bytes) -> None:
    async def play(port: int) -> None:
        request = head(server, f"PUT {UI}", "Content-Type: application/json", *headers)
        status, _, answer = await answer_to(port, request, body, closing=b"ZZ" not in body)
        assert status == 400
        assert b'"code":"invalid_request"' in answer

    run(server, play)
    assert not server.gate.asked


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (["Content-Length: 5000000"], b"1" * 200_000),
        (["Transfer-Encoding: chunked"], (b"10000\r\n" + b"1" * 65536 + b"\r\n") * 20),
    ],
)
def test_a_huge_body_is_refused_before_its_end(server: Server, headers: list[str], body: bytes) -> None:
    async def play(port: int) -> None:
        request = head(server, f"PUT {UI}", "Content-Type: application/json", *headers)
        status, _, answer = await answer_to(port, request, body)
        assert status == 413
        assert b'"code":"too_large"' in answer
        assert (await answer_to(port, head(server, f"GET {UI}")))[0] == 200

    run(server, play)


SMUGGLED = "GET /v1/users/ada/docs/secret/one HTTP/1.1\r\nHost: roost\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: 70", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 70"],
        ["Content-Length: 1", "Content-Length: 2"],
        ["Content-Length: +1"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding : chunked"],
        ["Content-Length: 0", "X: a\r\n folded"],
    ],
)
def test_no_second_request_is_smuggled_in_a_body(server: Server, headers: list[str]) -> None:
    async def play(port: int) -> None:
        request = head(server, f"PUT {UI}", "Content-Type: application/json", *headers)
        answers = await closed_without_more(port, request + b"1\r\n1\r\n0\r\n\r\n" + SMUGGLED.encode())
        assert answers.count(b"HTTP/1.1 ") == 1
        assert (await answer_to(port, head(server, f"GET {UI}")))[0] == 200

    run(server, play)
    assert not any(asked[0] == "document" and asked[1].collection == "secret" for asked in server.gate.asked)


def test_a_long_poll_ends_when_its_client_goes(server: Server) -> None:
    server.gate.outcomes["log"] = "never"

    async def play(port: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head(server, "GET /v1/users/ada/events?wait=30"))
            await server.gate.waiting.wait()
            assert not server.gate.cancelled.is_set()
            writer.close()
            await server.gate.cancelled.wait()

    run(server, play)


def test_a_long_poll_answers_on_a_connection_that_goes_on(server: Server) -> None:
    async def play(port: int) -> None:
        request = head(server, "GET /v1/users/ada/events?wait=30")
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(3):
                writer.write(request)
                headers = await reader.readuntil(b"\r\n\r\n")
                assert headers.startswith(b"HTTP/1.1 200")
                await reader.readexactly(int(headers.lower().partition(b"content-length:")[2].split()[0]))
            writer.close()

    run(server, play)
    assert len(server.gate.asked) == 3


def test_many_at_once_each_get_their_own_answer(server: Server) -> None:
    async def play(port: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            answers = await asyncio.gather(*(answer_to(port, head(server, f"GET {UI}")) for _ in range(50)))
        assert {status for status, _, _ in answers} == {200}
        ids = {headers.partition(b"roost-request-id:")[2].split()[0] for _, headers, _ in answers}
        assert len(ids) == 50

    run(server, play)
