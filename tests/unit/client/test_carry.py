"""Carrying calls out, with asyncio and without, against sockets that misbehave."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from roost.client import Client, InvalidRequest, Limits, SyncClient, Unreachable

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\nETag: "1"\r\n\r\n{"status": "ok"}'
QUICK = Limits(attempts=2, backoff_s=0.0, attempt_s=0.3)
FAST = Limits(attempts=8, backoff_s=0.0)
Handler = Callable[[socket.socket, int], None]


@contextmanager
def server(handle: Handler) -> Iterator[tuple[str, list[int]]]:
    """A server that gives each connection to `handle`, with its number; yields its URL and the connections so far."""
    seen: list[int] = []
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                seen.append(len(seen) + 1)
                kept.append(connection)
                threading.Thread(target=guarded, args=(connection, len(seen)), daemon=True).start()

        def guarded(connection: socket.socket, number: int) -> None:
            with suppress(OSError):
                handle(connection, number)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield "http://127.0.0.1:%d" % listening.getsockname()[1], seen
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in kept:
        connection.close()


def ready_sync(url: str, limits: Limits) -> None:
    with SyncClient(url, limits=limits) as client:
        client.ready()


def ready_async(url: str, limits: Limits) -> None:
    async def main() -> None:
        async with Client(url, limits=limits) as client:
            await client.ready()

    asyncio.run(main())


both = pytest.mark.parametrize("ready", [ready_sync, ready_async])
Ready = Callable[[str, Limits], None]


@both
def test_it_speaks_http(ready: Ready) -> None:
    def handle(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        connection.sendall(ANSWER)

    with server(handle) as (url, seen):
        ready(url, FAST)
    assert seen == [1]


@both
def test_connections_that_break_are_tried_again(ready: Ready) -> None:
    def handle(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        if number == 1:
            connection.close()
        elif number == 2:
            connection.sendall(ANSWER[:-5])
            connection.close()
        else:
            connection.sendall(ANSWER)

    with server(handle) as (url, seen):
        ready(url, FAST)
    assert seen == [1, 2, 3]


@both
def test_nobody_there_is_unreachable(ready: Ready) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable):
        ready(f"http://127.0.0.1:{port}", QUICK)


@both
def test_a_server_that_says_nothing_is_given_up_on(ready: Ready) -> None:
    def handle(connection: socket.socket, number: int) -> None:
        connection.recv(65536)

    with server(handle) as (url, seen), pytest.raises(Unreachable, match=r"longer than 0\.3 s"):
        ready(url, QUICK)
    assert seen == [1, 2]


@both
def test_an_answer_that_trickles_in_is_cut_off(ready: Ready) -> None:
    def handle(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        pause = threading.Event()
        while True:
            connection.sendall(b" ")
            pause.wait(0.02)

    with server(handle) as (url, seen), pytest.raises(Unreachable, match="longer"):
        ready(url, QUICK)
    assert seen == [1, 2]


def test_a_token_that_cannot_be_a_header_is_not_tried_twice() -> None:
    with server(lambda connection, number: None) as (url, seen), pytest.raises(InvalidRequest, match="cannot be sent"):
        SyncClient(url, "a\nb").users_page()
    assert len(seen) <= 1


def test_calls_share_connections_up_to_the_limit() -> None:
    busy, most, lock = 0, 0, threading.Lock()

    def handle(connection: socket.socket, number: int) -> None:
        nonlocal busy, most
        while connection.recv(65536):
            with lock:
                busy += 1
                most = max(most, busy)
            with lock:
                busy -= 1
            connection.sendall(ANSWER)

    async def main(url: str) -> None:
        async with Client(url, limits=Limits(connections=3)) as client:
            await asyncio.gather(*[client.ready() for _ in range(30)])

    with server(handle) as (url, seen):
        asyncio.run(main(url))
    assert len(seen) == 3
    assert most <= 3


def test_closing_lets_go_of_connections_in_use_too() -> None:
    asked, closed, answer = threading.Event(), threading.Event(), threading.Event()

    def handle(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        asked.set()
        answer.wait(30)
        connection.sendall(ANSWER)
        if connection.recv(65536) == b"":
            closed.set()

    async def main(url: str) -> None:
        client = Client(url)
        call = asyncio.ensure_future(client.ready())
        await asyncio.to_thread(asked.wait, 30)
        await client.close()
        answer.set()
        await call
        assert await asyncio.to_thread(closed.wait, 30)

    with server(handle) as (url, _):
        asyncio.run(main(url))


def test_a_client_that_was_handed_in_is_used_and_left_open() -> None:
    asked = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, json={})

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as http:
            async with Client("http://a", http=http) as client:
                await client.ready()
            assert not http.is_closed

    asyncio.run(main())
    with httpx.Client(transport=httpx.MockTransport(handle)) as sync_http:
        with SyncClient("http://b", http=sync_http) as client:
            client.ready()
        assert not sync_http.is_closed
    assert asked == ["http://a/readyz", "http://b/readyz"]


def test_redirects_are_not_followed_with_the_token() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"location": "http://evil/"})

    with httpx.Client(transport=httpx.MockTransport(handle), follow_redirects=False) as http:
        document = SyncClient("http://a", "t", http=http).user("ada").docs("c")
        with pytest.raises(Exception, match="Roost server"):
            document.get("k")
