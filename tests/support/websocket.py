"""A device's end of the WebSocket `roost.v1`, for tests: frames in and out, and how it was closed."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

PATIENCE_S = 30.0
SUBPROTOCOL = "roost.v1"

Frame = dict[str, Any]


class Socket:
    """An open WebSocket. `cursor` is behind the last events that came."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.cursor = -1
        self.live = False
        self._told: list[dict[str, Any]] = []

    async def say(self, kind: str, **members: Any) -> None:
        """Send a frame."""
        await self.connection.send(json.dumps({"type": kind, **members}))

    async def hear(self, *kinds: str) -> Frame:
        """The next frame of one of these types, or of any."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                frame: Frame = json.loads(await self.connection.recv())
                if frame["type"] == "events":
                    self.cursor, self.live = frame["seq"], frame["live"]
                    self._told += frame["events"]
                if not kinds or frame["type"] in kinds:
                    return frame

    async def events(self, seq: int) -> list[dict[str, Any]]:
        """The events up to the cursor `seq` that were not asked for yet."""
        while self.cursor < seq:
            await self.hear("events")
        told, self._told = self._told, []
        return told

    async def until_live(self) -> list[dict[str, Any]]:
        """The events up to where the log was read to its end."""
        while not self.live:
            await self.hear("events")
        return await self.events(self.cursor)

    async def push(self, *mutations: Frame) -> Frame:
        """Push, and return the answer."""
        await self.say("push", mutations=mutations)
        return await self.hear("pushed", "refused")

    async def closed(self) -> tuple[int, str]:
        """The code and the reason with which it is closed, whatever comes before."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    await self.connection.recv()
        except ConnectionClosed as error:
            return (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")


@asynccontextmanager
async def opened(
    port: int,
    user: str,
    token: str | None = None,
    *,
    purpose: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Socket]:
    """A WebSocket on which nothing was said; `token` goes into the `Authorization` header."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    if purpose is not None:
        headers["Roost-Purpose"] = purpose
    path = f"/v1/users/{quote(user, safe='')}/sync"
    async with connect(
        f"{'ws' if tls is None else 'wss'}://127.0.0.1:{port}{path}",
        ssl=tls,
        subprotocols=[cast("Subprotocol", SUBPROTOCOL)],
        additional_headers=headers,
        max_size=None,
        ping_interval=None,
        proxy=None,
        close_timeout=1,
        open_timeout=PATIENCE_S,
    ) as connection:
        assert connection.subprotocol == SUBPROTOCOL
        yield Socket(connection)


@asynccontextmanager
async def socket(
    port: int, user: str, token: str, *, tls: ssl.SSLContext | None = None, **hello: Any
) -> AsyncIterator[Socket]:
    """A WebSocket that has said `hello` and was welcomed."""
    async with opened(port, user, tls=tls) as opening:
        await opening.say("hello", token=token, **hello)
        assert (await opening.hear())["type"] == "welcome"
        yield opening


def put(number: int, collection: str, key: str, value: Any, *, base: int = 0, clock: int | None = None) -> Frame:
    """A mutation that puts one document."""
    ops = [{"op": "put", "collection": collection, "key": key, "value": value}]
    return {"number": number, "base": base, "clock": number if clock is None else clock, "ops": ops}
