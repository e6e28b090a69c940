"""Users over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from roost.core.errors import Code, RoostError
from roost.core.events import Head
from tests.unit.wire.support import AT, HEAD, JSON, Server

ADA = {
    "user": "ada",
    "home": "local",
    "seq": 9,
    "floor": 2,
    "created_at": "2026-01-31T12:00:05.250000Z",
    "collections": {"preferences": 1},
}


@pytest.mark.parametrize("body", [b"", b"{}", b'{"home":"local"}'])
@pytest.mark.parametrize(("created", "status"), [(True, 201), (False, 200)])
def test_a_user_is_brought_into_being(server: Server, body: bytes, created: bool, status: int) -> None:
    server.gate.outcomes["create_user"] = (HEAD, created)
    response = server("PUT", "/v1/users/ada", body, JSON)
    assert (response.status, response.json) == (status, ADA)
    assert response.headers["roost-seq"] == "9"
    assert server.gate.asked == [("create_user", "ada")]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({"home": "us"}, "/home"), ({"home": 1}, "/home"), ({"home": None}, "/home"), ({"region": "local"}, ""), ([], "")],
)
def test_a_bad_user_is_refused(server: Server, body: Any, pointer: str) -> None:
    response = server("PUT", "/v1/users/ada", body, JSON)
    assert response.refusal == (400, "invalid_request")
    assert response.json["errors"][0]["pointer"] == pointer
    assert not server.gate.asked


def test_without_a_body_no_media_type_is_wrong(server: Server) -> None:
    headers = {"Content-Type": "text/plain", "Content-Length": "0"}
    assert server("PUT", "/v1/users/ada", b"", headers).status == 201
    headers["Content-Length"] = "2"
    assert server("PUT", "/v1/users/ada", b"{}", headers).refusal == (415, "unsupported_media_type")


def test_a_user_shows_where_its_log_stands(server: Server) -> None:
    response = server.get("/v1/users/ada")
    assert (response.status, response.json) == (200, ADA)
    assert response.headers["roost-seq"] == "9"
    server.gate.outcomes["head"] = RoostError(Code.NOT_FOUND, "There is no such user.")
    assert server.get("/v1/users/ada").refusal == (404, "not_found")


def test_users_are_listed_in_pages(server: Server) -> None:
    heads = [Head(user, 1, 0, AT, AT, {}) for user in ("bob", "ada", "x:y")]
    server.gate.outcomes["users"] = heads
    response = server.get("/v1/users?limit=2")
    assert [item["user"] for item in response.json["items"]] == ["bob", "ada"]
    server.gate.outcomes["users"] = heads[2:]
    response = server.get(f"/v1/users?limit=2&after={response.json['next']}")
    assert ([item["user"] for item in response.json["items"]], response.json["next"]) == (["x:y"], None)
    assert server.gate.asked == [("users", None, 3), ("users", "ada", 3)]


@pytest.mark.parametrize("query", ["after=ada", "after=", "limit=0", "limit=1001", "prefix=a"])
def test_a_bad_list_is_refused(server: Server, query: str) -> None:
    assert server.get(f"/v1/users?{query}").refusal == (400, "invalid_request")
