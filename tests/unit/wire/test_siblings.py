"""Siblings and edits over HTTP: several values of a document, and changes field by field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from roost.core.commands import Op, Versions, Written
from roost.core.edits import Edit
from roost.core.errors import Code, RoostError
from roost.core.events import Document, Event
from roost.core.moment import Moment
from roost.core.ports import DocumentRef, Log, Page, Point, Snapshot
from roost.core.siblings import Sibling
from tests.unit.wire.support import AT, HEAD, JSON, UI, VALUE, Server, accepted, document

REF = DocumentRef("ada", "preferences", "ui")
EDITS = {"content-type": "application/vnd.roost.edits+json"}
ALL = [
    {"version": 4, "value": 1.0, "at": "2026-01-31T12:00:05.250000Z"},
    {"version": 7, "value": {"theme": "dark"}, "at": "2026-01-31T12:00:05.250000Z"},
]


def torn() -> Document:
    """A document with two values."""
    beside = msgspec.json.encode([Sibling(4, msgspec.Raw(b"1.0"), AT)])
    return Document("preferences", "ui", 7, VALUE, AT, beside)


def test_get_gives_the_newest_value_and_tells_how_many_stand(server: Server) -> None:
    assert "roost-siblings" not in server.get(UI).headers
    server.gate.outcomes["document"] = Point(9, torn())
    response = server.get(UI)
    assert (response.body, response.headers["roost-siblings"]) == (VALUE, "2")
    assert server.get(UI, if_none_match='"7"').headers["roost-siblings"] == "2"


def test_all_values_are_told_the_newest_last(server: Server) -> None:
    server.gate.outcomes["document"] = Point(9, torn())
    response = server.get(f"{UI}/siblings")
    assert response.json == {"version": 7, "siblings": ALL}
    assert (response.headers["etag"], response.headers["roost-seq"]) == ('"7"', "9")
    assert server.get(f"{UI}/siblings", if_none_match='"7"').status == 304
    server.get(f"{UI}/siblings", roost_at_least="9")
    assert server.gate.asked[-1] == ("document", REF, Moment(at_least=9))


def test_a_single_value_is_the_only_one(server: Server) -> None:
    assert server.get(f"{UI}/siblings").json == {"version": 7, "siblings": ALL[1:]}
    for nothing in (document(None), None):
        server.gate.outcomes["document"] = Point(9, nothing)
        assert server.get(f"{UI}/siblings").refusal == (404, "not_found")


def test_lists_and_snapshots_tell_siblings_where_there_are_any(server: Server) -> None:
    server.gate.outcomes["page"] = Page(HEAD, [torn(), document(key="x")], more=False)
    torn_item, whole_item = server.get("/v1/users/ada/docs/preferences").json["items"]
    assert torn_item["siblings"] == ALL
    assert "siblings" not in whole_item
    server.gate.outcomes["snapshot"] = Snapshot(HEAD, 9, [torn(), document(key="x")])
    docs = server.get("/v1/users/ada/docs").json["docs"]["preferences"]
    assert docs["ui"]["siblings"] == ALL
    assert "siblings" not in docs["x"]


def test_a_refusal_shows_the_siblings_that_stand(server: Server) -> None:
    refusal = RoostError(Code.VERSION_CONFLICT, "The document is at version 7.", current=torn())
    server.gate.outcomes["change"] = refusal
    response = server("PUT", UI, 1, {**JSON, "if-match": '"6"'})
    assert response.json["current"] == {"version": 7, "value": {"theme": "dark"}, "siblings": ALL}


def test_a_write_tells_that_it_became_a_sibling(server: Server) -> None:
    written = Event(8, "put", "preferences", "ui", VALUE, AT, "user:ada", beside=(4, 7))
    server.gate.outcomes["change"] = accepted(written)
    assert server("PUT", UI, 1, JSON).headers["roost-siblings"] == "3"


def test_events_tell_clock_siblings_and_edits_where_they_have_them(server: Server) -> None:
    edits = b'[{"op":"inc","path":"/n","value":2}]'
    told = Event(7, "put", "preferences", "ui", VALUE, AT, "user:ada", "phone", 3, 5, (4, 6), edits)
    plain = Event(8, "put", "preferences", "ui", VALUE, AT, "user:ada")
    server.gate.outcomes["log"] = Log(HEAD, [told, plain], 8)
    first, second = server.get("/v1/users/ada/events").json["events"]
    assert first | {"clock": 5, "beside": [4, 6], "edits": [{"op": "inc", "path": "/n", "value": 2}]} == first
    assert not {"mutation", "clock", "beside", "edits"} & second.keys()


def test_an_event_is_taken_in_as_it_was_told(server: Server) -> None:
    edits = b'[{"op":"set","path":"/n","value":{"b":1.0,"a":null}},{"op":"unset","path":"/o"}]'
    told = Event(7, "put", "preferences", "ui", VALUE, AT, "user:ada", "phone", 3, 5, (4, 6), edits)
    server.gate.outcomes["log"] = Log(HEAD, [told], 7)
    events = server.get("/v1/users/ada/events").json["events"]
    server("POST", "/v1/users/ada/events", {"events": events}, JSON, token=server.issue("admin", "a"))
    assert server.gate.asked[-1][1].events == (told,)


@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({"edits": [{"op": "set", "path": "x", "value": 1}]}, "/events/0/edits/0/path"),
        ({"edits": [{"op": "set", "path": "/" * 65, "value": 1}]}, "/events/0/edits/0"),
        ({"edits": {}}, "/events/0/edits"),
        ({"clock": -1}, "/events/0/clock"),
        ({"beside": [0]}, "/events/0/beside/0"),
    ],
)
def test_a_bad_event_is_refused(server: Server, more: dict[str, Any], pointer: str) -> None:
    event = {"seq": 1, "kind": "put", "collection": "notes", "key": "k", "value": 1, "at": "2026-01-31T12:00:00Z"}
    body = {"events": [{**event, "actor": "admin", **more}]}
    response = server("POST", "/v1/users/ada/events", body, JSON, token=server.issue("admin", "a"))
    assert response.refusal == (400, "invalid_request")
    assert response.json["errors"][0]["pointer"] == pointer


ONE_OF_EACH = [
    {"op": "set", "path": "/theme", "value": {"dark": True}},
    {"op": "unset", "path": "/a~1b"},
    {"op": "inc", "path": "/n", "value": -2},
    {"op": "add", "path": "/tags", "value": "x"},
    {"op": "remove", "path": "", "value": None},
]
AS_CORE = (
    Edit("set", "/theme", {"dark": True}),
    Edit("unset", "/a~1b"),
    Edit("inc", "/n", -2),
    Edit("add", "/tags", "x"),
    Edit("remove", "", None),
)


def test_a_document_is_edited(server: Server) -> None:
    response = server("PATCH", UI, ONE_OF_EACH, {**EDITS, "if-match": '"7"'})
    assert (response.status, response.body) == (200, VALUE)
    condition = Versions(frozenset({7}))
    assert server.change.ops == (Op("edit", "preferences", "ui", None, condition, AS_CORE),)


def test_a_batch_edits_too(server: Server) -> None:
    op = {"op": "edit", "collection": "preferences", "key": "ui", "edits": ONE_OF_EACH}
    assert server("POST", "/v1/users/ada/batch", {"ops": [op]}, JSON).status == 200
    assert server.change.ops == (Op("edit", "preferences", "ui", None, edits=AS_CORE),)


@pytest.mark.parametrize(
    ("edits", "refusal", "pointer"),
    [
        ([], (400, "invalid_request"), ""),
        ({"op": "set", "path": "", "value": 1}, (400, "invalid_request"), ""),
        ([ONE_OF_EACH[0], {"op": "double", "path": ""}], (400, "invalid_request"), "/1/op"),
        ([{"op": "set", "path": ""}], (400, "invalid_request"), "/0"),
        ([{"op": "unset", "path": "/x", "value": 1}], (400, "invalid_request"), "/0"),
        ([{"op": "unset", "path": ""}], (400, "invalid_request"), "/0/path"),
        ([{"op": "set", "path": "x", "value": 1}], (400, "invalid_request"), "/0/path"),
        ([{"op": "set", "path": "/~2", "value": 1}], (400, "invalid_request"), "/0/path"),
        ([{"op": "inc", "path": "/x", "value": 1.5}], (400, "invalid_request"), "/0/value"),
        ([{"op": "inc", "path": "/x", "value": True}], (400, "invalid_request"), "/0/value"),
        ([ONE_OF_EACH[0], {"op": "set", "path": "/" * 65, "value": 1}], (400, "invalid_request"), "/1"),
        ([ONE_OF_EACH[0]] * 501, (413, "too_large"), ""),
    ],
)
def test_bad_edits_are_refused_and_told_where(
    server: Server, edits: Any, refusal: tuple[int, str], pointer: str
) -> None:
    response = server("PATCH", UI, edits, EDITS)
    assert response.refusal == refusal
    assert response.json["errors"][0]["pointer"] == pointer
    op = {"op": "edit", "collection": "preferences", "key": "ui", "edits": edits}
    response = server("POST", "/v1/users/ada/batch", {"ops": [op]}, JSON)
    assert response.refusal == refusal
    assert response.json["errors"][0]["pointer"] == f"/ops/0/edits{pointer}"
    assert not server.gate.asked


def test_a_replayed_write_has_its_siblings_too(server: Server) -> None:
    written = Event(8, "put", "preferences", "ui", VALUE, AT, "user:ada", beside=(4,))
    outcome = msgspec.structs.replace(accepted(), written=(Written(written, created=False),), replayed=True)
    server.gate.outcomes["change"] = outcome
    headers = server("PUT", UI, 1, {**JSON, "idempotency-key": "k"}).headers
    assert (headers["roost-siblings"], headers["idempotent-replayed"]) == ("2", "true")
