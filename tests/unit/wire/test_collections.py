"""Many documents at once over HTTP: lists, snapshots, history, batches."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from roost.core.commands import ABSENT, ANYTHING, Versions
from roost.core.errors import Code, RoostError
from roost.core.moment import NOW
from roost.core.ports import DocumentRef, History, Page, Snapshot
from tests.unit.wire.support import AT, HEAD, JSON, UI, Server, document, event

REF = DocumentRef("ada", "preferences", "ui")
MERGE = {"content-type": "application/merge-patch+json"}
JSON_PATCH = {"content-type": "application/json-patch+json"}


def test_a_list_shows_documents_with_their_versions(server: Server) -> None:
    response = server.get("/v1/users/ada/docs/preferences?prefix=u&limit=5")
    assert response.json == {
        "items": [{"key": "ui", "version": 7, "value": {"theme": "dark"}, "updated_at": "2026-01-31T12:00:05.250000Z"}],
        "next": None,
    }
    assert response.headers["roost-seq"] == "9"
    assert server.gate.asked == [("page", "ada", "preferences", "u", None, 5, NOW)]


def test_a_lists_cursor_goes_on_after_its_last_key(server: Server) -> None:
    server.gate.outcomes["page"] = Page(HEAD, [document(key="a"), document(key="bé")], more=True)
    cursor = server.get("/v1/users/ada/docs/preferences").json["next"]
    assert server.get(f"/v1/users/ada/docs/preferences?after={cursor}").status == 200
    assert server.gate.asked[-1] == ("page", "ada", "preferences", "", "bé", 100, NOW)
    # What only decodes to it is no cursor, and it is none of any other list.
    for spelled in (cursor + "=", cursor + "!", cursor[:-1], "!" + cursor):
        assert server.get(f"/v1/users/ada/docs/preferences?after={spelled}").refusal == (400, "invalid_request")
    for target in (
        f"/v1/users/ada/docs/profile?after={cursor}",
        f"/v1/users/ada/docs/preferences?prefix=b&after={cursor}",
        f"/v1/users?after={cursor}",
    ):
        assert server.get(target).refusal == (400, "invalid_request")


@pytest.mark.parametrize("cursor", ["", "x", "!!!!", "AQ", "%ff", "é", "A" * 1000, "AQAAAAAAAGE="])
def test_a_bad_cursor_is_refused(server: Server, cursor: str) -> None:
    assert server.get(f"/v1/users/ada/docs/preferences?after={cursor}").refusal == (400, "invalid_request")
    assert not server.gate.asked


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=", "limit=1.5", "sort=key", "limit=1&limit=1"]
)
def test_a_bad_page_is_refused(server: Server, query: str) -> None:
    response = server.get(f"/v1/users/ada/docs/preferences?{query}")
    assert response.refusal == (400, "invalid_request")
    assert query.partition("=")[0] in response.json["detail"]


def test_a_prefix_is_a_beginning_of_a_key(server: Server) -> None:
    assert server.get("/v1/users/ada/docs/preferences?prefix=a%2Fb").refusal == (400, "invalid_name")
    assert server.get("/v1/users/ada/docs/preferences?prefix=%00").refusal == (400, "invalid_name")


def test_a_snapshot_has_all_documents(server: Server) -> None:
    server.gate.outcomes["snapshot"] = Snapshot(HEAD, 8, [document(b"1", 3, "a"), document(b"null", 8, "b")])
    response = server.get("/v1/users/ada/docs?at_seq=8")
    assert response.json == {
        "user": "ada",
        "seq": 8,
        "docs": {"preferences": {"a": {"version": 3, "value": 1}, "b": {"version": 8, "value": None}}},
    }
    assert (response.headers["etag"], response.headers["roost-seq"]) == ('"8"', "9")
    assert server("GET", "/v1/users/ada/docs", headers={"If-None-Match": '"8"'}).status == 304


def test_history_is_newest_first_in_pages(server: Server) -> None:
    server.gate.outcomes["history"] = History(HEAD, [event(8, None), event(7)], more=True)
    response = server.get(f"{UI}/history?limit=2&before=9")
    assert response.json == {
        "items": [
            {
                "version": version,
                "kind": kind,
                "value": value,
                "at": "2026-01-31T12:00:05.250000Z",
                "actor": "user:ada",
                "device": None,
            }
            for version, kind, value in [(8, "delete", None), (7, "put", {"theme": "dark"})]
        ],
        "next": "7",
    }
    assert server.gate.asked == [("history", REF, 9, 2)]
    server.gate.outcomes["history"] = History(HEAD, [event(7)], more=False)
    assert server.get(f"{UI}/history").json["next"] is None
    assert server.gate.asked[-1] == ("history", REF, None, 100)


def test_a_batch_is_one_change(server: Server) -> None:
    ops = [
        {"op": "put", "collection": "preferences", "key": "a", "value": {"x": [1, 2.5, None]}, "if_version": 0},
        {"op": "merge", "collection": "preferences", "key": "b", "patch": {"y": None}, "if_version": 4},
        {"op": "patch", "collection": "profile", "key": "c", "patch": [{"op": "move", "from": "/a", "path": "/b"}]},
        {"op": "delete", "collection": "profile", "key": "d"},
    ]
    response = server("POST", "/v1/users/ada/batch", {"ops": ops}, JSON)
    assert response.status == 200
    assert response.json["seq"] == 9
    assert [result["version"] for result in response.json["results"]] == [8, 9, 10, 11]
    assert response.json["results"][0] == {"collection": "preferences", "key": "ui", "version": 8}
    assert response.headers["roost-seq"] == "9"
    change = server.change
    assert change.batch
    assert [(op.kind, op.collection, op.key, op.condition) for op in change.ops] == [
        ("put", "preferences", "a", ABSENT),
        ("merge", "preferences", "b", Versions(frozenset({4}))),
        ("patch", "profile", "c", ANYTHING),
        ("delete", "profile", "d", ANYTHING),
    ]
    assert [op.argument for op in change.ops] == [
        b'{"x":[1,2.5,null]}',
        {"y": None},
        [{"op": "move", "path": "/b", "from": "/a"}],
        None,
    ]


def test_a_refused_op_is_named(server: Server) -> None:
    server.gate.outcomes["change"] = RoostError(Code.VERSION_CONFLICT, "No.", pointer="/ops/3", current=document())
    response = server("POST", "/v1/users/ada/batch", {"ops": [{"op": "delete", "collection": "a", "key": "b"}]})
    assert response.refusal == (412, "version_conflict")
    assert response.json["errors"] == [{"pointer": "/ops/3", "message": "No."}]
    assert response.json["current"]["version"] == 7


OP = {"op": "put", "collection": "a", "key": "b", "value": 1}


@pytest.mark.parametrize(
    ("op", "refusal", "pointer"),
    [
        ({**OP, "collection": "A"}, (400, "invalid_name"), "/ops/1"),
        ({**OP, "key": "a/b"}, (400, "invalid_name"), "/ops/1"),
        ({**OP, "value": "a" * 300_000}, (413, "too_large"), "/ops/1"),
        ({**OP, "op": "upsert"}, (400, "invalid_request"), "/ops/1/op"),
        ({**OP, "if_version": -1}, (400, "invalid_request"), "/ops/1/if_version"),
        ({**OP, "if_verison": 1}, (400, "invalid_request"), "/ops/1"),
        ({**OP, "key": 1}, (400, "invalid_request"), "/ops/1/key"),
        ({"op": "put", "collection": "a", "key": "b"}, (400, "invalid_request"), "/ops/1"),
        ({"op": "merge", "collection": "a", "key": "b", "value": 1}, (400, "invalid_request"), "/ops/1"),
        ({"op": "delete", "collection": "a", "key": "b", "value": 1}, (400, "invalid_request"), "/ops/1"),
        (1, (400, "invalid_request"), "/ops/1"),
    ],
)
def test_a_bad_op_is_named(server: Server, op: Any, refusal: tuple[int, str], pointer: str) -> None:
    response = server("POST", "/v1/users/ada/batch", {"ops": [OP, op]}, JSON)
    assert response.refusal == refusal
    assert response.json["errors"][0]["pointer"] == pointer
    assert not server.gate.asked


def nested(depth: int) -> Any:
    return json.loads("[" * depth + "]" * depth)


@pytest.mark.parametrize("op", [{"op": "put", "value": None}, {"op": "merge", "patch": None}])
def test_a_value_in_a_batch_may_be_as_deep_as_alone(server: Server, op: dict[str, Any]) -> None:
    def batch(depth: int) -> tuple[int, Any]:
        whole = {"collection": "a", "key": "b", **op, ("value" if "value" in op else "patch"): nested(depth)}
        response = server("POST", "/v1/users/ada/batch", {"ops": [whole]}, JSON)
        return response.status, response.json.get("code")

    assert batch(64) == (200, None)
    assert batch(65) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"ops": []}, (400, "invalid_request")),
        ({}, (400, "invalid_request")),
        ([], (400, "invalid_request")),
        ({"ops": [OP], "more": 1}, (400, "invalid_request")),
        ({"ops": [OP] * 501}, (413, "too_large")),
        (b'{"ops":[],"ops":[]}', (400, "invalid_json")),
    ],
)
def test_a_bad_batch_is_refused(server: Server, body: Any, refusal: tuple[int, str]) -> None:
    assert server("POST", "/v1/users/ada/batch", body, JSON).refusal == refusal
    assert not server.gate.asked


def test_a_full_batch_is_taken(server: Server) -> None:
    assert server("POST", "/v1/users/ada/batch", {"ops": [OP] * 500}, JSON).status == 200


def test_times_always_have_microseconds(server: Server) -> None:
    whole = msgspec.structs.replace(document(), updated_at=AT.replace(microsecond=0))
    server.gate.outcomes["page"] = Page(HEAD, [whole], more=False)
    response = server.get("/v1/users/ada/docs/preferences")
    assert response.json["items"][0]["updated_at"] == "2026-01-31T12:00:05.000000Z"
