"""Which request each operation on collections, siblings, edits and the inbox is, and how its answer reads."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from roost.client.asking import Condition
from roost.client.definitions import Collections
from roost.client.errors import InvalidName, InvalidRequest, MutationGap, VersionConflict, error_of
from roost.client.exchange import Answer, Request
from roost.client.models import Collection, Event, Given, InboxConflict, Kept, Sibling
from roost.client.protocol import Docs, Ops, User
from roost.core.edits import Edit
from tests.unit.client.script import WRITTEN, Script, ok, problem

AT = datetime(2026, 11, 22, 10, tzinfo=UTC)
TEXT = "2026-11-22T10:00:00.000000Z"
SIBLINGS = [{"version": 4, "value": 1, "at": TEXT}, {"version": 7, "value": 2, "at": TEXT}]
BOTH = (Sibling(4, 1, AT), Sibling(7, 2, AT))


def line(request: Request) -> str:
    return f"{request.method} {request.url.removeprefix('http://h/base')}"


def test_collections_are_defined_read_and_forgotten() -> None:
    script = Script(ok({"conflict": "cas"}), ok({"conflict": "cas", "new": 1}), Answer(204, WRITTEN, b""))
    calls = Collections(script.session())
    assert script.play(calls.define("carts", {"conflict": "cas"}, Condition(absent=True), None)) == Collection(
        "carts", 7, "cas"
    )
    assert script.play(calls.get("carts")) == Collection("carts", 7, "cas")
    script.play(calls.undefine("carts", Condition(version=7), "k"))
    put, _, delete = script.sent
    assert [line(request) for request in script.sent] == [
        "PUT /v1/collections/carts", "GET /v1/collections/carts", "DELETE /v1/collections/carts",
    ]  # fmt: skip
    assert put.content == b'{"conflict":"cas"}'
    assert put.headers["if-none-match"] == "*"
    assert put.headers["idempotency-key"]
    assert (delete.headers["if-match"], delete.headers["idempotency-key"]) == ('"7"', "k")


def test_what_is_not_told_stays_as_it_is_defined() -> None:
    known = {"conflict": "cas", "ttl_s": 60, "masked": ["phone"], "of_a_newer_server": 1}
    script = Script(ok(known), problem(412, "version_conflict"), ok(known, etag='"9"'), ok(known, etag='"10"'))
    calls = Collections(script.session())
    script.play(calls.define("carts", {"privacy": "sensitive", "ttl_s": None}, Condition(), "k"))
    _, first, _, second = script.sent
    assert msgspec.json.decode(second.content or b"") == {**known, "privacy": "sensitive", "ttl_s": None}
    # Somebody else has defined it in between: what they said is not lost.
    assert [request.headers["if-match"] for request in (first, second)] == ['"7"', '"9"']


def test_nothing_is_written_where_all_is_so_already() -> None:
    script = Script(ok({"conflict": "cas", "masked": ["phone"]}))
    found = script.play(
        Collections(script.session()).define("carts", {"masked": ["phone"], "audit": "writes"}, Condition(), None)
    )
    assert found == Collection("carts", 7, "cas", masked=("phone",))
    assert len(script.sent) == 1


def test_a_condition_of_ones_own_is_not_given_up() -> None:
    script = Script(ok({"conflict": "cas"}), problem(412, "version_conflict"))
    with pytest.raises(VersionConflict):
        script.play(Collections(script.session()).define("carts", {"ttl_s": 5}, Condition(version=6), None))
    assert script.sent[1].headers["if-match"] == '"6"'


def test_a_first_definition_says_how_conflicts_are_decided() -> None:
    script = Script(problem(404, "not_found"))
    with pytest.raises(InvalidRequest, match="conflict policy"):
        script.play(Collections(script.session()).define("carts", {"ttl_s": 5}, Condition(), None))


def test_a_collection_that_is_not_defined_is_none() -> None:
    script = Script(problem(404, "not_found"))
    calls = Collections(script.session())
    assert script.play(calls.get("carts")) is None
    with pytest.raises(InvalidName):
        script.play(calls.get("../users"))


def test_collections_come_in_pages() -> None:
    script = Script(ok({"items": [{"name": "carts", "version": 3, "conflict": "merge"}], "next": "c"}))
    page = script.play(Collections(script.session()).page("b", 1))
    assert (page.items, page.next) == ((Collection("carts", 3, "merge"),), "c")
    assert line(script.sent[0]) == "GET /v1/collections?after=b&limit=1"


def test_edits_are_a_patch_of_their_own() -> None:
    script = Script(ok({"n": 2}))
    edits = [Edit("inc", "/n", 2), {"op": "unset", "path": "/x"}, Edit("unset", "/y")]
    document = script.play(Docs(script.session(), "ada", "carts").edit("main", edits, Condition(version=3), None))
    assert document.value == {"n": 2}
    (request,) = script.sent
    assert line(request) == "PATCH /v1/users/ada/docs/carts/main"
    assert request.headers["content-type"] == "application/vnd.roost.edits+json"
    assert request.headers["if-match"] == '"3"'
    assert msgspec.json.decode(request.content or b"") == [
        {"op": "inc", "path": "/n", "value": 2}, {"op": "unset", "path": "/x"}, {"op": "unset", "path": "/y"},
    ]  # fmt: skip


def test_a_batch_edits_too() -> None:
    batch = Ops(None).edit("carts", "main", [Edit("add", "/tags", "x")], if_version=3)
    script = Script(ok({"seq": 8, "results": []}))
    script.play(User(script.session(), "ada").commit(batch))
    assert msgspec.json.decode(script.sent[0].content or b"") == {
        "ops": [
            {
                "op": "edit", "collection": "carts", "key": "main",
                "edits": [{"op": "add", "path": "/tags", "value": "x"}], "if_version": 3,
            }
        ]
    }  # fmt: skip


def test_siblings_are_all_values() -> None:
    script = Script(ok({"version": 7, "siblings": SIBLINGS}), problem(404, "not_found"))
    docs = Docs(script.session(), "ada", "notes")
    assert script.play(docs.siblings("n")) == BOTH
    assert script.play(docs.siblings("n")) == ()
    assert line(script.sent[0]) == "GET /v1/users/ada/docs/notes/n/siblings"


def test_a_document_tells_how_many_values_stand() -> None:
    item = {"key": "n", "version": 7, "value": 2, "updated_at": TEXT}
    items = {"items": [{**item, "siblings": SIBLINGS}, item], "next": None}
    script = Script(ok(2, roost_siblings="2"), ok(2), Answer(204, {**WRITTEN, "roost-siblings": "3"}, b""), ok(items))
    docs = Docs(script.session(), "ada", "notes")
    torn, whole = script.play(docs.get("n", None, None)), script.play(docs.get("n", None, None))
    assert torn is not None
    assert whole is not None
    assert (torn.standing, whole.standing) == (2, 1)
    assert script.play(docs.put("n", 3, Condition(), None)).standing == 3
    assert [document.standing for document in script.play(docs.page("", None, None)).items] == [2, 1]


def test_snapshots_and_refusals_show_siblings() -> None:
    entry = {"version": 7, "value": 2, "siblings": SIBLINGS}
    script = Script(
        ok({"user": "ada", "seq": 9, "docs": {"notes": {"n": entry}}}), problem(412, "version_conflict", current=entry)
    )
    snapshot = script.play(User(script.session(), "ada").snapshot(None, None))
    assert snapshot.docs["notes"]["n"].siblings == BOTH
    with pytest.raises(VersionConflict) as conflict:
        script.play(Docs(script.session(), "ada", "notes").put("n", 1, Condition(version=6), None))
    assert conflict.value.current is not None
    assert conflict.value.current.siblings == BOTH


def test_the_inbox_is_read_in_pages_and_dismissed() -> None:
    refused = {
        "id": "0000000000000045", "at": TEXT, "policy": "cas", "outcome": "refused", "code": "version_conflict",
        "detail": "D.", "collection": "prefs", "key": "ui", "device": "phone", "mutation": 7, "base": 41,
        "kept": {"version": None, "value": None}, "lost": {"edits": [{"op": "inc", "path": "/n", "value": 1}]},
    }  # fmt: skip
    script = Script(ok({"items": [refused], "next": None}), Answer(204, WRITTEN, b""))
    user = User(script.session(), "ada")
    (conflict,) = script.play(user.conflicts_page("c", 5)).items
    assert conflict == InboxConflict(
        id="0000000000000045", at=AT, policy="cas", outcome="refused", code="version_conflict", detail="D.",
        collection="prefs", key="ui", device="phone", mutation=7, base=41, kept=Kept(None, None),
        lost=Given(edits=(Edit("inc", "/n", 1),)),
    )  # fmt: skip
    script.play(user.dismiss(conflict.id))
    assert [line(request) for request in script.sent] == [
        "GET /v1/users/ada/conflicts?limit=5&after=c", "DELETE /v1/users/ada/conflicts/0000000000000045",
    ]  # fmt: skip
    assert script.sent[1].headers["idempotency-key"]


def test_events_have_clock_siblings_and_edits_and_go_out_as_they_came_in() -> None:
    told = {
        "seq": 7, "kind": "put", "collection": "carts", "key": "c", "value": 1, "at": "2026-11-22T10:00:00Z",
        "actor": "a", "clock": 5, "beside": [4], "edits": [{"op": "set", "path": "/x", "value": None}],
    }  # fmt: skip
    script = Script(ok({"events": [told], "seq": 7, "floor": 0}), ok({"seq": 7}))
    user = User(script.session(), "ada")
    (event,) = script.play(user.events(6, None, 0, None)).events
    assert event == Event(
        7, "put", "carts", "c", 1, AT, "a", clock=5, beside=(4,), edits=(Edit("set", "/x", None),)
    )  # fmt: skip
    script.play(user.append_events([event]))
    assert msgspec.json.decode(script.sent[1].content or b"") == {"events": [told]}


def test_a_gap_in_a_push_tells_where_to_go_on() -> None:
    body = b'{"code":"mutation_gap","detail":"D.","expected":7}'
    error = error_of(409, body, request_id=None, retry_after_s=None)
    assert isinstance(error, MutationGap)
    assert error.expected == 7
