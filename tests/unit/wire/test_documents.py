"""Documents over HTTP: reading, writing, preconditions, patches, idempotency."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from roost.core.commands import ABSENT, ANYTHING, PRESENT, Condition, Versions
from roost.core.errors import Code, RoostError
from roost.core.moment import NOW, Moment
from roost.core.ports import DocumentRef, Point
from tests.unit.wire.support import JSON, UI, VALUE, Server, accepted, document, event

REF = DocumentRef("ada", "preferences", "ui")
MERGE = {"content-type": "application/merge-patch+json"}
JSON_PATCH = {"content-type": "application/json-patch+json"}
PATCHES = "application/merge-patch+json, application/json-patch+json, application/vnd.roost.edits+json"


def test_get_gives_the_bare_value(server: Server) -> None:
    response = server.get(UI)
    assert (response.status, response.body) == (200, VALUE)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["etag"] == '"7"'
    assert response.headers["last-modified"] == "Sat, 31 Jan 2026 12:00:05 GMT"
    assert response.headers["roost-seq"] == "9"
    assert response.headers["cache-control"] == "private, no-cache"
    assert response.headers["content-length"] == str(len(VALUE))
    assert server.gate.asked == [("document", REF, NOW)]
    assert server.gate.principals[0].actor == "user:ada"


def test_head_gives_the_headers_alone(server: Server) -> None:
    response = server("HEAD", UI)
    assert (response.status, response.body) == (200, b"")
    assert response.headers["content-length"] == str(len(VALUE))
    assert response.headers["etag"] == '"7"'


@pytest.mark.parametrize("point", [Point(9, None), Point(9, document(None))])
def test_a_document_that_is_not_there_or_deleted_is_not_found(server: Server, point: Point) -> None:
    server.gate.outcomes["document"] = point
    assert server.get(UI).refusal == (404, "not_found")


def test_null_is_a_value(server: Server) -> None:
    server.gate.outcomes["document"] = Point(9, document(b"null"))
    assert server.get(UI).body == b"null"


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        ('"7"', 304),
        ('"3", "7"', 304),
        ('W/"7"', 304),
        ("*", 304),
        ('"6"', 200),
        ("7", 200),
        ('"07"', 200),
        ('"7', 200),
        ("", 200),
    ],
)
def test_if_none_match_spares_the_body(server: Server, tags: str, status: int) -> None:
    response = server("GET", UI, headers={"If-None-Match": tags})
    assert (response.status, response.body) == (status, b"" if status == 304 else VALUE)
    assert response.headers["etag"] == '"7"'
    assert response.headers["roost-seq"] == "9"
    assert ("content-length" in response.headers) == (status != 304)
    assert ("content-type" in response.headers) == (status != 304)


@pytest.mark.parametrize(
    ("query", "headers", "moment"),
    [
        ("", {}, NOW),
        ("?at_seq=0", {}, Moment(seq=0)),
        ("?at_seq=4", {"Roost-At-Least": "9"}, Moment(seq=4, at_least=9)),
        ("?at=2026-01-31T13:00:00%2B01:00", {}, Moment(at=datetime(2026, 1, 31, 12, tzinfo=UTC))),
        ("?at=2026-01-31T12:00:00.5Z", {}, Moment(at=datetime(2026, 1, 31, 12, 0, 0, 500_000, UTC))),
        ("", {"Roost-At-Least": "0"}, Moment(at_least=0)),
    ],
)
def test_a_read_names_its_moment(server: Server, query: str, headers: dict[str, str], moment: Moment) -> None:
    assert server("GET", UI + query, headers=headers).status == 200
    assert server("GET", "/v1/users/ada/docs" + query, headers=headers).status == 200
    assert server.gate.asked == [("document", REF, moment), ("snapshot", "ada", moment)]


@pytest.mark.parametrize(
    "query",
    [
        "at=2026-01-31T12:00:00",
        "at=2026-01-31T12:00:00+01:00",
        "at=1700000000",
        "at=yesterday",
        "at=0001-01-01T00:00:00%2B23:59",
        "at=9999-12-31T23:59:59-23:59",
        "at=",
        "at_seq=-1",
        "at_seq=x",
        "at_seq=",
        "at_seq=9007199254740993",
        "at_seq=99999999999999999999999999",
        "at_seq=1&at=2026-01-31T12:00:00Z",
    ],
)
def test_a_bad_moment_is_refused(server: Server, query: str) -> None:
    response = server.get(f"{UI}?{query}")
    assert response.refusal == (400, "invalid_request")
    assert "at" in response.json["detail"]


@pytest.mark.parametrize("value", ["", "-1", "+1", "1.0", "07", "x", "1, 2", "99999999999999999"])
def test_a_bad_roost_at_least_is_refused(server: Server, value: str) -> None:
    assert server("GET", UI, headers={"Roost-At-Least": value}).refusal == (400, "invalid_request")


def test_put_stores_compact_json_and_gives_it_back(server: Server) -> None:
    server.gate.outcomes["change"] = accepted(event(8), created=True)
    response = server("PUT", UI, b' { "theme" : "dark" } ', JSON)
    assert (response.status, response.body) == (201, VALUE)
    assert response.headers["etag"] == '"8"'
    assert response.headers["roost-seq"] == "9"
    assert response.headers["last-modified"] == "Sat, 31 Jan 2026 12:00:05 GMT"
    assert "idempotent-replayed" not in response.headers
    (op,) = server.change.ops
    assert (op.kind, op.collection, op.key, op.argument, op.condition) == ("put", "preferences", "ui", VALUE, ANYTHING)
    assert (server.change.user, server.change.actor, server.change.batch) == ("ada", "user:ada", False)


def test_put_that_replaces_is_200(server: Server) -> None:
    assert server("PUT", UI, b"1").status == 200


@pytest.mark.parametrize("prefer", ["return=minimal", "respond-async, Return = Minimal", "return=minimal; x=1"])
def test_prefer_minimal_gives_no_body(server: Server, prefer: str) -> None:
    response = server("PUT", UI, b"1", {**JSON, "Prefer": prefer})
    assert (response.status, response.body) == (204, b"")
    assert response.headers["preference-applied"] == "return=minimal"
    assert response.headers["etag"] == '"8"'
    assert "content-length" not in response.headers
    assert "content-type" not in response.headers


@pytest.mark.parametrize("prefer", ["return=representation", "minimal", "x-return=minimal"])
def test_other_preferences_change_nothing(server: Server, prefer: str) -> None:
    assert server("PUT", UI, b"1", {"Prefer": prefer}).status == 200


def test_a_replayed_answer_says_so(server: Server) -> None:
    server.gate.outcomes["change"] = accepted(event(8), created=True, replayed=True)
    response = server("PUT", UI, b"1", {**JSON, "Idempotency-Key": "k"})
    assert (response.status, response.headers["idempotent-replayed"]) == (201, "true")


def test_a_replayed_refusal_says_so(server: Server) -> None:
    refusal = RoostError(Code.VERSION_CONFLICT, "No.")
    refusal.replayed = True
    server.gate.outcomes["change"] = refusal
    response = server("PUT", UI, b"1", {**JSON, "Idempotency-Key": "k"})
    assert (response.status, response.headers["idempotent-replayed"]) == (412, "true")


@pytest.mark.parametrize(
    ("headers", "condition"),
    [
        ({}, ANYTHING),
        ({"If-None-Match": "*"}, ABSENT),
        ({"If-None-Match": " * "}, ABSENT),
        ({"If-Match": "*"}, PRESENT),
        ({"If-Match": '"7"'}, Versions(frozenset({7}))),
        ({"If-Match": '"7", "9" ,"11"'}, Versions(frozenset({7, 9, 11}))),
        ({"If-Match": 'W/"7"'}, Versions(frozenset())),
        ({"If-Match": 'W/"7", "9"'}, Versions(frozenset({9}))),
        ({"If-Match": "7"}, Versions(frozenset())),
        ({"If-Match": '"07"'}, Versions(frozenset())),
        ({"If-Match": '"0"'}, Versions(frozenset())),
        ({"If-Match": '"seven"'}, Versions(frozenset())),
        ({"If-Match": '"99999999999999999999"'}, Versions(frozenset())),
        ({"If-Match": ""}, Versions(frozenset())),
        ({"If-Match": '"1", *'}, Versions(frozenset({1}))),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_preconditions(server: Server, method: str, headers: dict[str, str], condition: Condition) -> None:
    assert server(method, UI, b"1" if method == "PUT" else b"", headers).status in (200, 204)
    assert server.change.ops[0].condition == condition


@pytest.mark.parametrize(
    "headers", [{"If-None-Match": '"7"'}, {"If-None-Match": ""}, {"If-None-Match": "*", "If-Match": "*"}]
)
def test_preconditions_that_make_no_sense_are_refused(server: Server, headers: dict[str, str]) -> None:
    assert server("PUT", UI, b"1", headers).refusal == (400, "invalid_request")
    assert not server.gate.asked


def test_two_if_match_headers_are_one_list(server: Server) -> None:
    server("PUT", UI, b"1", [("If-Match", '"7"'), ("If-Match", '"8"')])
    assert server.change.ops[0].condition == Versions(frozenset({7, 8}))


def test_a_conflict_shows_the_document_as_it_stands(server: Server) -> None:
    server.gate.outcomes["change"] = RoostError(Code.VERSION_CONFLICT, "No.", current=document())
    response = server("PUT", UI, b"1", {"If-Match": '"3"'})
    assert response.refusal == (412, "version_conflict")
    assert response.json["current"] == {"version": 7, "value": {"theme": "dark"}}
    assert "errors" not in response.json


@pytest.mark.parametrize("current", [None, document(None)])
def test_a_conflict_with_nothing_shows_null(server: Server, current: Any) -> None:
    server.gate.outcomes["change"] = RoostError(Code.VERSION_CONFLICT, "No.", current=current)
    assert server("PUT", UI, b"1", {"If-Match": '"3"'}).json["current"] is None


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", "", None])
def test_put_takes_json(server: Server, content_type: str | None) -> None:
    assert server("PUT", UI, b"1", {} if content_type is None else {"Content-Type": content_type}).status == 200


@pytest.mark.parametrize(
    ("method", "target", "headers", "offered"),
    [
        ("PUT", UI, {"Content-Type": "text/plain"}, {"accept": "application/json"}),
        ("PUT", UI, {"Content-Type": "application/x-www-form-urlencoded"}, {"accept": "application/json"}),
        ("PUT", UI, {"Content-Encoding": "gzip"}, {"accept": "application/json"}),
        ("PATCH", UI, JSON, {"accept-patch": PATCHES}),
        ("PATCH", UI, {}, {"accept-patch": PATCHES}),
        ("POST", f"{UI}/restore", MERGE, {"accept": "application/json"}),
        ("POST", "/v1/users/ada/batch", MERGE, {"accept": "application/json"}),
    ],
)
def test_other_media_types_are_refused(
    server: Server, method: str, target: str, headers: dict[str, str], offered: dict[str, str]
) -> None:
    response = server(method, target, b"{}", headers)
    assert response.refusal == (415, "unsupported_media_type")
    assert response.headers.items() >= offered.items()
    assert not server.gate.asked


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nope",
        b'{"a":1,"a":2}',
        b'"\\ud800"',
        b"NaN",
        b"9007199254740993",
        b"\xff",
        b"[" * 65 + b"]" * 65,
        b'"\\u0000"',
    ],
)
def test_bad_json_is_refused(server: Server, body: bytes) -> None:
    assert server("PUT", UI, body, JSON).refusal == (400, "invalid_json")
    assert server("PATCH", UI, body, MERGE).refusal == (400, "invalid_json")
    assert not server.gate.asked


def test_a_value_that_is_too_large_is_refused(server: Server) -> None:
    most = server.settings.limits.value_bytes_max
    assert server("PUT", UI, b'"' + b"a" * (most - 2) + b'"').status == 200
    assert server("PUT", UI, b'"' + b"a" * (most - 1) + b'"').refusal == (413, "too_large")


def test_patch_merges(server: Server) -> None:
    assert server("PATCH", UI, {"theme": None}, {**MERGE, "If-Match": '"7"'}).status == 200
    (op,) = server.change.ops
    assert (op.kind, op.argument, op.condition) == ("merge", {"theme": None}, Versions(frozenset({7})))


def test_a_merge_that_creates_is_201(server: Server) -> None:
    server.gate.outcomes["change"] = accepted(event(8), created=True)
    assert server("PATCH", UI, {}, MERGE).status == 201


def test_patch_carries_out_json_patches(server: Server) -> None:
    patch = [{"op": "add", "path": "/a", "value": None, "extra": 1}, {"op": "move", "from": "/b", "path": "/c"}]
    assert server("PATCH", UI, patch, JSON_PATCH).status == 200
    assert (server.change.ops[0].kind, server.change.ops[0].argument) == ("patch", patch)


@pytest.mark.parametrize(
    ("patch", "pointer"),
    [
        ({}, ""),
        ([1], "/0"),
        ([{"op": "add", "path": "/a", "value": 1}, {"op": "grow", "path": ""}], "/1/op"),
        ([{"op": "remove"}], "/0"),
        ([{"op": "remove", "path": 1}], "/0/path"),
    ],
)
def test_a_malformed_json_patch_is_refused(server: Server, patch: Any, pointer: str) -> None:
    response = server("PATCH", UI, patch, JSON_PATCH)
    assert response.refusal == (400, "invalid_request")
    assert response.json["errors"][0]["pointer"] == pointer


def test_delete_gives_the_tombstones_version(server: Server) -> None:
    response = server("DELETE", UI)
    assert (response.status, response.body) == (204, b"")
    assert (response.headers["etag"], response.headers["roost-seq"]) == ('"8"', "9")
    assert server.change.ops[0].kind == "delete"


def test_restore_names_a_version(server: Server) -> None:
    response = server("POST", f"{UI}/restore", {"version": 3}, {**JSON, "If-Match": "*"})
    assert (response.status, response.body) == (200, VALUE)
    op = server.change.ops[0]
    assert (op.kind, op.argument, op.condition) == ("restore", 3, PRESENT)


@pytest.mark.parametrize(
    "body", [{}, {"version": 0}, {"version": "3"}, {"version": 1.5}, {"version": 3, "more": 1}, [], 3]
)
def test_a_bad_restore_is_refused(server: Server, body: Any) -> None:
    assert server("POST", f"{UI}/restore", body, JSON).refusal == (400, "invalid_request")


def test_idempotency_keys_go_with_what_was_asked(server: Server) -> None:
    def fingerprint(method: str = "PUT", target: str = UI, body: bytes = b"1", **headers: str) -> bytes:
        given = {"Idempotency-Key": "k-1", **{name.replace("_", "-"): value for name, value in headers.items()}}
        assert server(method, target, body, given).status in (200, 204)
        assert server.change.idempotency is not None
        assert server.change.idempotency.key == "k-1"
        return server.change.idempotency.fingerprint

    usual = fingerprint()
    # The same request, however it is spelled, and whatever it hopes for.
    assert fingerprint() == usual
    assert fingerprint(target=UI.replace("ui", "%75i")) == usual
    assert fingerprint(Content_Type="application/json; charset=utf-8") == usual
    assert fingerprint(If_Match='"7"') == usual
    others = {
        fingerprint(body=b"2"),
        fingerprint(target=UI + "2"),
        fingerprint(target=UI.replace("preferences", "profile")),
        fingerprint("PATCH", Content_Type="application/merge-patch+json"),
        fingerprint("PATCH", Content_Type="application/merge-patch+json", body=b"[]"),
        fingerprint("PATCH", Content_Type="application/json-patch+json", body=b"[]"),
        fingerprint("DELETE"),
        fingerprint("POST", f"{UI}/restore", b'{"version":1}'),
    }
    assert len(others | {usual}) == 9


def test_without_an_idempotency_key_there_is_none(server: Server) -> None:
    server("PUT", UI, b"1")
    assert server.change.idempotency is None


@pytest.mark.parametrize("key", ["", "a b", "k" * 129, "é"])
def test_a_bad_idempotency_key_is_refused(server: Server, key: str) -> None:
    assert server("PUT", UI, b"1", {"Idempotency-Key": key}).refusal == (400, "invalid_request")


def test_two_idempotency_keys_are_refused(server: Server) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert server("PUT", UI, b"1", headers).refusal == (400, "invalid_request")
