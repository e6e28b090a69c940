"""Carrying out what a `Call` yields: the only I/O of the client, once with asyncio and once without.

Nothing is decided here: what is tried again, and when, is `exchange`. Connections are httpx's, our own or those of
a client that the application hands in (for its certificates, its proxies, or a test).
"""

from __future__ import annotations

import asyncio
import ssl
import time

import httpx

from roost.client.errors import RoostError, refused_here
from roost.client.exchange import Answer, Apart, Call, Limits, Lost, Pause, Request, T

# Faults of what is to be sent, not of the network: trying again cannot help.
_HOPELESS = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError)


class AsyncCarrier:
    """Carries calls out on the running event loop.

    Without a client that was handed in, each connection is an httpx transport of its own, the one used last first:
    httpx's pool looks at every connection for every request, so that 32 of them in one pool carry a quarter of what
    32 pools of one do, and cookies, redirects and the like, which Roost has none of, cost another third (measured).
    """

    def __init__(self, url: str, limits: Limits, http: httpx.AsyncClient | None) -> None:
        self._given = http
        self._slots = asyncio.Semaphore(limits.connections)
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._tls = _tls(url)
        self._apart: set[asyncio.Task[RoostError | None]] = set()
        self._closed = False

    async def __call__(self, call: Call[T]) -> T:
        """The result of `call`."""
        back: Answer | Lost | RoostError | None = None
        try:
            while True:
                try:
                    todo = call.send(back)
                except StopIteration as end:
                    result: T = end.value
                    return result
                back = None
                if isinstance(todo, Pause):
                    await asyncio.sleep(todo.seconds)
                elif isinstance(todo, Apart):
                    back = await self._aside(todo.call)
                else:
                    back = await self._send(todo)
        finally:
            call.close()  # now, not when the garbage is collected: it may hold what others wait for

    async def _aside(self, call: Call[None]) -> RoostError | None:
        """Carry out a call in a task of its own; what it raised."""

        async def work() -> RoostError | None:
            try:
                await self(call)
            except RoostError as error:
                return error
            return None

        task = asyncio.create_task(work())
        self._apart.add(task)
        task.add_done_callback(self._apart.discard)
        return await asyncio.shield(task)

    async def _send(self, request: Request) -> Answer | Lost:
        try:
            async with asyncio.timeout(request.timeout_s), self._slots:
                made = httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
                response = await (self._given.send(made) if self._given else self._through_own(made))
        except _HOPELESS as error:
            raise refused_here("invalid_request", f"This cannot be sent: {error}.") from error
        except TimeoutError:
            return Lost(f"it took longer than {request.timeout_s:.3g} s")
        except httpx.RequestError as error:
            return Lost(_reason(error))
        return Answer(response.status_code, response.headers, response.content)

    async def _through_own(self, request: httpx.Request) -> httpx.Response:
        connection = self._idle.pop() if self._idle else self._connection()
        try:
            response = await connection.handle_async_request(request)
            try:
                await response.aread()
            finally:
                await response.aclose()
            return response
        finally:
            if self._closed:
                await connection.aclose()
            else:
                self._idle.append(connection)

    def _connection(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=self._tls, limits=httpx.Limits(max_connections=1))

    async def close(self) -> None:
        """Let go of every connection; of those in use, when they are done. What goes on apart ends first."""
        await asyncio.gather(*self._apart, return_exceptions=True)
        self._closed = True
        while self._idle:
            await self._idle.pop().aclose()


class SyncCarrier:
    """Carries calls out in the calling thread; may be shared by threads."""

    def __init__(self, url: str, limits: Limits, http: httpx.Client | None) -> None:
        self._given = http
        self._http = http or httpx.Client(verify=_tls(url), limits=httpx.Limits(max_connections=limits.connections))

    def __call__(self, call: Call[T]) -> T:
        """The result of `call`."""
        back: Answer | Lost | RoostError | None = None
        try:
            while True:
                try:
                    todo = call.send(back)
                except StopIteration as end:
                    result: T = end.value
                    return result
                back = None
                if isinstance(todo, Pause):
                    time.sleep(todo.seconds)
                elif isinstance(todo, Apart):
                    back = self._aside(todo.call)
                else:
                    back = self._send(todo)
        finally:
            call.close()

    def _aside(self, call: Call[None]) -> RoostError | None:
        try:
            self(call)
        except RoostError as error:
            return error
        return None

    def _send(self, request: Request) -> Answer | Lost:
        ends = time.monotonic() + request.timeout_s
        late = Lost(f"it took longer than {request.timeout_s:.3g} s")
        try:
            with self._http.stream(
                request.method, request.url, headers=request.headers, content=request.content, timeout=request.timeout_s
            ) as response:
                # httpx limits the time of each read, not of all: an answer that trickles in is cut off here.
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if time.monotonic() > ends:
                        return late
        except _HOPELESS as error:
            raise refused_here("invalid_request", f"This cannot be sent: {error}.") from error
        except httpx.TimeoutException:
            return late
        except httpx.RequestError as error:
            return Lost(_reason(error))
        return Answer(response.status_code, response.headers, bytes(body))

    def close(self) -> None:
        """Let go of every connection."""
        if self._http is not self._given:
            self._http.close()


def _tls(url: str) -> ssl.SSLContext:
    """How servers are verified. Where there is no TLS no certificates are loaded, which takes longer than a call."""
    return httpx.create_ssl_context(verify=not url.startswith("http:"))


def _reason(error: httpx.RequestError) -> str:
    return str(error) or type(error).__name__
