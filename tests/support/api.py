"""A user of the HTTP contract, for tests of it: the calls that the contract has, and what every refusal looks like.

Each answer that passes through here is held to what is true of all answers, so no test has to think of it.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import quote

import asyncpg
import httpx

from tests.support.server import Server

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
EDITS = "application/vnd.roost.edits+json"
PROBLEM = "application/problem+json"
ALWAYS = {"type", "title", "status", "code", "detail", "request_id"}
SOMETIMES = {"errors", "current"}
RETRIABLE = {429, 503}
HELD_S = 0.3
"""A poll that has not been answered for so long is being held: one that is not takes a few milliseconds."""


class Account:
    """A user, and a client with a token. Keyword arguments of writes are headers: `if_match='"7"'`."""

    def __init__(self, server: Server, user: str, token: str | None = None) -> None:
        self.server = server
        self.user = user
        self.token = server.token(user) if token is None else token
        self.http = httpx.Client(
            base_url=server.url,
            headers={"authorization": f"Bearer {self.token}"},
            timeout=60,
            verify=False,  # there is no TLS, and loading certificates for each user would take longer than the test
            event_hooks={"response": [true_of_every_answer]},
        )

    def at(self, *segments: str) -> str:
        """The path of something of the user's, percent-encoded."""
        return "/".join(["/v1/users", *map(_segment, (self.user, *segments))])

    def doc(self, collection: str, key: str) -> str:
        return self.at("docs", collection, key)

    def get(self, collection: str, key: str, params: Mapping[str, Any] | None = None, **headers: str) -> httpx.Response:
        return self.http.get(self.doc(collection, key), params=params, headers=named(headers))

    def value(self, collection: str, key: str) -> Any:
        response = self.get(collection, key)
        assert response.status_code == 200, response.text
        return response.json()

    def put(self, collection: str, key: str, value: Any, **headers: str) -> httpx.Response:
        return self.put_raw(collection, key, json.dumps(value).encode(), **headers)

    def put_raw(self, collection: str, key: str, body: bytes, **headers: str) -> httpx.Response:
        return self.http.put(self.doc(collection, key), content=body, headers=named({"content_type": JSON} | headers))

    def merge(self, collection: str, key: str, patch: Any, **headers: str) -> httpx.Response:
        return self._patch(collection, key, patch, MERGE_PATCH, headers)

    def patch(self, collection: str, key: str, operations: Any, **headers: str) -> httpx.Response:
        return self._patch(collection, key, operations, JSON_PATCH, headers)

    def delete(self, collection: str, key: str, **headers: str) -> httpx.Response:
        return self.http.delete(self.doc(collection, key), headers=named(headers))

    def restore(self, collection: str, key: str, version: Any, **headers: str) -> httpx.Response:
        path = self.at("docs", collection, key, "restore")
        return self.http.post(path, json={"version": version}, headers=named(headers))

    def history(self, collection: str, key: str, **params: Any) -> httpx.Response:
        return self.http.get(self.at("docs", collection, key, "history"), params=params)

    def page(self, collection: str, **params: Any) -> httpx.Response:
        return self.http.get(self.at("docs", collection), params=params)

    def snapshot(self, **params: Any) -> httpx.Response:
        return self.http.get(self.at("docs"), params=params)

    def batch(self, *ops: Mapping[str, Any], **headers: str) -> httpx.Response:
        return self.http.post(self.at("batch"), json={"ops": ops}, headers=named(headers))

    def events(self, **params: Any) -> httpx.Response:
        return self.http.get(self.at("events"), params=params)

    def head(self) -> dict[str, Any]:
        """The user, as the contract shows one."""
        response = self.http.get(self.at())
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def close(self) -> None:
        self.http.close()

    def _patch(self, collection: str, key: str, patch: Any, media_type: str, headers: dict[str, str]) -> httpx.Response:
        headers = {"content_type": media_type} | headers
        return self.http.patch(self.doc(collection, key), content=json.dumps(patch), headers=named(headers))


def _segment(text: str) -> str:
    # A bare dot would be taken for the current folder, and left out by the client.
    return quote(text, safe="").replace(".", "%2E")


def named(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers from keyword arguments."""
    return {name.replace("_", "-"): value for name, value in headers.items()}


def put_op(collection: str, key: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"op": "put", "collection": collection, "key": key, "value": value, **more}


def merge_op(collection: str, key: str, patch: Any, **more: Any) -> dict[str, Any]:
    return {"op": "merge", "collection": collection, "key": key, "patch": patch, **more}


def patch_op(collection: str, key: str, patch: Any, **more: Any) -> dict[str, Any]:
    return {"op": "patch", "collection": collection, "key": key, "patch": patch, **more}


def delete_op(collection: str, key: str, **more: Any) -> dict[str, Any]:
    return {"op": "delete", "collection": collection, "key": key, **more}


def version_of(response: httpx.Response) -> int:
    """The version in an ETag, which is a strong one."""
    found = re.fullmatch(r'"([0-9]+)"', response.headers["etag"])
    assert found, response.headers
    return int(found[1])


def true_of_every_answer(response: httpx.Response) -> None:
    assert re.fullmatch(r"[0-9a-f]{20,40}", response.headers["roost-request-id"])
    assert response.status_code < 500 or response.status_code == 503, response.read()
    assert response.headers["x-content-type-options"] == "nosniff"


def problem(response: httpx.Response, status: int, code: str, pointer: str | None = None) -> dict[str, Any]:
    """The problem document of a refusal, after a look at all that is true of each; `pointer` is its first error's."""
    assert response.status_code == status, f"{response.status_code} {response.text}"
    assert response.headers["content-type"] == PROBLEM
    assert response.headers["cache-control"] == "no-store"
    assert ("retry-after" in response.headers) == (status in RETRIABLE)
    told: dict[str, Any] = response.json()
    assert told.keys() >= ALWAYS
    assert told.keys() <= ALWAYS | SOMETIMES
    assert (told["status"], told["code"]) == (status, code), told
    assert told["type"] == f"/docs#{code}"
    assert told["request_id"] == response.headers["roost-request-id"]
    assert told["title"]
    assert told["detail"].endswith((".", "?"))
    assert ("current" in told) == (code == "version_conflict")
    assert (told["errors"][0]["pointer"] if "errors" in told else None) == pointer, told
    return told


class Raw(NamedTuple):
    """An answer as it came over the socket; `status` is 0 if there was none."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """The code of its problem document, if it is one."""
        if self.headers.get("content-type") != PROBLEM:
            return None
        code: str = json.loads(self.body)["code"]
        return code


def raw(server: Server, request: bytes, *, half_close: bool = False, patience_s: float = 20.0) -> Raw:
    """Send bytes as they are, and read the first final answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=patience_s) as connection:
        with suppress(OSError):  # it may have heard enough, and its answer is still there
            connection.sendall(request)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        return receive(connection)


def receive(connection: socket.socket) -> Raw:
    """Read one final answer, with its body."""
    got = b""
    try:
        while True:
            answer = _parse(got)
            if answer is not None:
                return answer
            part = connection.recv(65_536)
            if not part:
                return Raw(0, {}, got)
            got += part
    except ConnectionError:
        return Raw(0, {}, got)


def _parse(got: bytes) -> Raw | None:
    head, blank, body = got.partition(b"\r\n\r\n")
    if not blank:
        return None
    status_line, *lines = head.decode("latin-1").split("\r\n")
    status = int(status_line.split(" ")[1])
    if status == 100:
        return _parse(body)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    return Raw(status, headers, body) if len(body) >= length else None


def carry_out(server: Server, statement: str) -> None:
    """Let the server's engine carry out a statement, behind the server's back."""

    async def work() -> None:
        connection = await asyncpg.connect(server.engine_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(work())


@contextmanager
def polling(account: Account, query: str) -> Iterator[socket.socket]:
    """The connection of a poll that has just been sent."""
    with socket.create_connection(("127.0.0.1", account.server.port), timeout=30) as connection:
        head = f"GET {account.at('events')}?{query} HTTP/1.1\r\nHost: roost\r\nConnection: close\r\n"
        connection.sendall(f"{head}Authorization: Bearer {account.token}\r\n\r\n".encode())
        yield connection


def is_held(connection: socket.socket) -> bool:
    """Whether it is not answered for a while."""
    connection.settimeout(HELD_S)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(30)


def answered(connection: socket.socket) -> tuple[Raw, float]:
    """The answer, and the seconds until it came."""
    started = time.monotonic()
    return receive(connection), time.monotonic() - started
