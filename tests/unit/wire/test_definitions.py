"""Definitions of collections over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from roost.core.commands import ABSENT, ANYTHING, Op, Versions
from roost.core.errors import Code, RoostError
from roost.core.events import Document
from roost.core.ids import DEFINITIONS
from roost.core.ports import Page, Point
from tests.unit.wire.support import AT, DEFINED, HEAD, JSON, Server, accepted, event

CARTS = "/v1/collections/carts"


def test_a_definition_is_read_like_a_document(server: Server) -> None:
    response = server.get(CARTS)
    assert (response.status, response.json) == (200, {"conflict": "merge"})
    assert response.headers["etag"] == '"3"'
    assert response.headers["last-modified"] == "Sat, 31 Jan 2026 12:00:05 GMT"
    assert server.gate.asked == [("definition", "carts")]
    known = server.get(CARTS, if_none_match='"3"')
    assert (known.status, known.body, known.headers["etag"]) == (304, b"", '"3"')


@pytest.mark.parametrize(
    "nothing",
    [Point(9, None), Point(9, Document(DEFINITIONS, "carts", 4, None, AT)), RoostError(Code.NOT_FOUND, "No.")],
)
def test_what_is_not_defined_is_not_found(server: Server, nothing: Any) -> None:
    server.gate.outcomes["definition"] = nothing
    response = server.get(CARTS)
    assert response.refusal == (404, "not_found")
    assert "'carts' is not defined" in response.json["detail"]


@pytest.mark.parametrize("method", ["definition", "definitions"])
def test_an_engine_that_is_away_is_another_matter(server: Server, method: str) -> None:
    server.gate.outcomes[method] = RoostError(Code.UNAVAILABLE, "Away.")
    assert server.get(CARTS if method == "definition" else "/v1/collections").refusal == (503, "unavailable")


@pytest.mark.parametrize(("created", "status"), [(True, 201), (False, 200)])
def test_a_collection_is_defined(server: Server, created: bool, status: int) -> None:
    server.gate.outcomes["define"] = accepted(event(4, b'{"conflict":"cas"}'), created=created)
    response = server("PUT", CARTS, {"conflict": "cas"}, JSON)
    assert (response.status, response.json, response.headers["etag"]) == (status, {"conflict": "cas"}, '"4"')
    assert "idempotent-replayed" not in response.headers
    op = Op("put", DEFINITIONS, "carts", b'{"conflict":"cas"}', ANYTHING)
    assert server.gate.asked == [("define", op, None)]


def test_a_definition_has_preconditions_and_idempotency(server: Server) -> None:
    server.gate.outcomes["define"] = accepted(event(4, b'{"conflict":"cas"}'), replayed=True)
    headers = {**JSON, "if-match": '"3"', "idempotency-key": "k"}
    response = server("PUT", CARTS, {"conflict": "cas"}, headers)
    assert response.headers["idempotent-replayed"] == "true"
    _, op, idempotency = server.gate.asked[-1]
    assert (op.condition, idempotency.key) == (Versions(frozenset({3})), "k")
    server("PUT", CARTS, {"conflict": "cas"}, {**JSON, "if-none-match": "*"})
    assert server.gate.asked[-1][1].condition == ABSENT


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({}, ""), ({"conflict": "first"}, "/conflict"), ({"conflict": "cas", "schema": {}}, ""), ([], ""), ("cas", "")],
)
def test_a_bad_definition_is_refused(server: Server, body: Any, pointer: str) -> None:
    response = server("PUT", CARTS, body, JSON)
    assert response.refusal == (400, "invalid_request")
    assert response.json["errors"][0]["pointer"] == pointer
    assert not server.gate.asked


def test_a_bad_name_is_refused(server: Server) -> None:
    for method in ("GET", "PUT", "DELETE"):
        assert server(method, "/v1/collections/Carts", {"conflict": "cas"}, JSON).refusal == (400, "invalid_name")
    assert not server.gate.asked


def test_a_definition_is_taken_away(server: Server) -> None:
    server.gate.outcomes["define"] = accepted(event(5, None))
    response = server("DELETE", CARTS, headers={"if-match": "*"})
    assert (response.status, response.body, response.headers["etag"]) == (204, b"", '"5"')
    assert server.gate.asked[-1][1].kind == "delete"


def test_collections_are_listed_in_pages(server: Server) -> None:
    response = server.get("/v1/collections")
    assert response.json == {"items": [{"name": "carts", "version": 3, "conflict": "merge"}], "next": None}
    server.gate.outcomes["definitions"] = Page(HEAD, [DEFINED], more=True)
    cursor = server.get("/v1/collections?limit=1").json["next"]
    server.get(f"/v1/collections?after={cursor}")
    assert server.gate.asked[1:] == [("definitions", None, 1), ("definitions", "carts", 100)]
    assert server.get("/v1/users?after=" + cursor).refusal == (400, "invalid_request")


def test_before_anything_is_defined_the_list_is_empty(server: Server) -> None:
    server.gate.outcomes["definitions"] = RoostError(Code.NOT_FOUND, "There is no user.")
    assert server.get("/v1/collections").json == {"items": [], "next": None}
