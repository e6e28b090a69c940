"""An export: in order, however the fetches overlap; over at the first failure; in pieces where a user is large."""

from __future__ import annotations

import asyncio
import json
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import httpx
import pytest

from roost.cli import exporter
from roost.cli.exporter import ExportState, export_users
from roost.client import Client, Forbidden, Limits

AT = "2026-11-22T10:00:00.000000Z"
HEADERS = {"roost-seq": "9"}


class FakeServer:
    """Users u00, u01, …, with five documents and nine events each; later users answer sooner."""

    def __init__(self, users: int) -> None:
        self.users = [f"u{number:02}" for number in range(users)]
        self.forbidden = ""
        self.large = ""
        self.hidden: set[int] = set()
        self.defined: list[str] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        path, params = request.url.path, request.url.params
        if path in ("/v1/collections", "/v1/users"):
            return self._collections() if path == "/v1/collections" else self._users(params)
        user = path.split("/")[3]
        for _ in range(len(self.users) - self.users.index(user)):
            await asyncio.sleep(0)
        if user == self.forbidden:
            return httpx.Response(403, json={"code": "forbidden"})
        if path.endswith("/events"):
            return self._events(int(params["after"]))
        if path.endswith("/docs"):
            if user == self.large:
                return httpx.Response(413, json={"code": "too_large"})
            docs = {"a": {f"k{key}": {"version": key + 1, "value": key} for key in range(5)}}
            return httpx.Response(200, headers=HEADERS, json={"user": user, "seq": 9, "docs": docs})
        return self._page(int(params.get("after", 0)))

    def _collections(self) -> httpx.Response:
        items = [{"name": name, "version": 1, "conflict": "merge"} for name in self.defined]
        return httpx.Response(200, json={"items": items, "next": None})

    def _users(self, params: httpx.QueryParams) -> httpx.Response:
        after, limit = int(params.get("after", 0)), int(params["limit"])
        items = [
            {"user": user, "home": "x", "seq": 9, "floor": 0, "created_at": AT, "collections": {"a": 5}}
            for user in self.users[after : after + limit]
        ]
        following = str(after + limit) if after + limit < len(self.users) else None
        return httpx.Response(200, json={"items": items, "next": following})

    def _events(self, after: int) -> httpx.Response:
        events = [
            {"seq": seq, "kind": "put", "collection": "a", "key": "k", "value": seq, "at": AT, "actor": "admin"}
            for seq in range(after + 1, min(after + 3, 9) + 1)
        ]
        seq = events[-1]["seq"]
        events = [event for event in events if event["seq"] not in self.hidden]
        return httpx.Response(200, json={"events": events, "seq": seq, "floor": 0})

    def _page(self, after: int) -> httpx.Response:
        items = [{"key": f"k{key}", "version": key + 1, "value": key, "updated_at": AT} for key in (after, after + 1)]
        items = items[: 5 - after]
        return httpx.Response(
            200, headers=HEADERS, json={"items": items, "next": str(after + 2) if after < 3 else None}
        )


def export(server: FakeServer, state: ExportState) -> tuple[list[Any], list[ExportState]]:
    """The lines of an export with pages of ten users, and what it saved."""
    saved: list[ExportState] = []

    async def main(out: BinaryIO) -> ExportState:
        async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as http:
            client = Client("http://h", limits=Limits(attempts=1), http=http)
            return await export_users(client, out, state, concurrency=4, saved=saved.append)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "USERS_A_PAGE", 10)
        with TemporaryFile() as out:
            saved.append(asyncio.run(main(out)))
            out.seek(0)
            return [json.loads(line) for line in out], saved


def test_documents_come_user_by_user_in_the_servers_order() -> None:
    lines, saved = export(FakeServer(25), ExportState(logs=False))
    assert [(line["user"], line["key"]) for line in lines] == [
        (f"u{user:02}", f"k{key}") for user in range(25) for key in range(5)
    ]
    assert lines[0] == {"user": "u00", "collection": "a", "key": "k0", "value": 0, "version": 1}
    assert (saved[-1].users, saved[-1].lines) == (25, 125)
    assert [state.after for state in saved] == ["10", "20", None]


def test_logs_come_whole() -> None:
    lines, _ = export(FakeServer(12), ExportState(logs=True))
    assert [(line["user"], line["seq"]) for line in lines] == [
        (f"u{user:02}", seq) for user in range(12) for seq in range(1, 10)
    ]


@pytest.mark.parametrize("hidden", [set(), {1}, {5}, {7, 8, 9}, set(range(1, 10))])
def test_logs_that_lack_events_are_counted(hidden: set[int]) -> None:
    server = FakeServer(12)
    server.hidden = hidden
    lines, saved = export(server, ExportState(logs=True))
    assert len(lines) == 12 * (9 - len(hidden))
    assert saved[-1].holed == (12 if hidden else 0)


def test_a_user_too_large_for_a_snapshot_comes_page_by_page() -> None:
    server = FakeServer(3)
    whole, _ = export(server, ExportState(logs=False))
    server.large = "u01"
    assert export(server, ExportState(logs=False))[0] == whole


def test_the_first_failure_ends_it_though_others_wait_to_be_written() -> None:
    server = FakeServer(30)
    server.forbidden = "u05"
    with pytest.raises(Forbidden):
        export(server, ExportState(logs=True))


def test_it_goes_on_at_a_page_of_users() -> None:
    server = FakeServer(25)
    whole, saved = export(server, ExportState(logs=False))
    rest, _ = export(server, saved[0])
    assert rest == whole[50:]


def test_definitions_come_first_and_once() -> None:
    server = FakeServer(25)
    server.defined = ["a", "b"]
    lines, saved = export(server, ExportState(logs=False))
    assert lines[:2] == [{"collection": name, "definition": {"conflict": "merge"}} for name in ("a", "b")]
    assert all("user" in line for line in lines[2:])
    rest, _ = export(server, saved[0])
    assert all("user" in line for line in rest)
