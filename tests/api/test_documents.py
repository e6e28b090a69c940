"""Documents: reading, writing, patching and deleting one, with what each answer carries."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

import pytest

from tests.support.api import EDITS, JSON, JSON_PATCH, MERGE_PATCH, Account, problem, version_of

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    0.1,
    2**53,
    -(2**53),
    5e-324,
    "",
    "text",
    "é😀\u2028\u2029\ufeff\u007f",
    [],
    [None, [], {}],
    {},
    {"": 0},
    {"a": {"b": [1, 2.5, "c", None, True]}, 'é/~ \\"': "x"},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:30])
def test_a_value_comes_back_as_it_was_sent(ada: Account, value: Any) -> None:
    written = ada.put("notes", "k", value)
    assert written.status_code == 201
    read = ada.get("notes", "k")
    assert read.status_code == 200
    for answer in (written, read):
        assert answer.headers["content-type"] == JSON
        assert answer.json() == value
        assert type(answer.json()) is type(value)
    assert written.content == read.content
    assert ada.events().json()["events"][0]["value"] == value
    assert ada.snapshot().json()["docs"]["notes"]["k"]["value"] == value
    assert ada.page("notes").json()["items"][0]["value"] == value


def test_the_members_of_an_object_keep_their_order(ada: Account) -> None:
    ada.put_raw("notes", "k", b' { "b" : 1 , "a" : [ 1 , 2 ] , "c" : { "z" : 0 , "y" : 0 } } ')
    assert ada.get("notes", "k").content == b'{"b":1,"a":[1,2],"c":{"z":0,"y":0}}'


def test_put_creates_then_replaces(ada: Account) -> None:
    created = ada.put("notes", "k", {"n": 1})
    assert created.status_code == 201
    assert (created.headers["etag"], created.headers["roost-seq"]) == ('"1"', "1")
    ada.put("notes", "other", 0)
    replaced = ada.put("notes", "k", {"n": 2})
    assert replaced.status_code == 200
    assert (replaced.headers["etag"], replaced.headers["roost-seq"]) == ('"3"', "3")
    assert replaced.json() == {"n": 2}
    assert ada.value("notes", "k") == {"n": 2}


def test_the_same_value_again_is_a_new_version(ada: Account) -> None:
    assert [version_of(ada.put("notes", "k", 1)) for _ in range(3)] == [1, 2, 3]


def test_get_tells_version_time_and_seq(ada: Account) -> None:
    ada.put("notes", "k", 1)
    ada.put("notes", "other", 1)
    read = ada.get("notes", "k")
    assert (read.headers["etag"], read.headers["roost-seq"]) == ('"1"', "2")
    at = datetime.fromisoformat(ada.events().json()["events"][0]["at"])
    assert read.headers["last-modified"] == format_datetime(at.astimezone(UTC), usegmt=True)
    assert parsedate_to_datetime(read.headers["last-modified"]) == at.replace(microsecond=0)


def test_a_write_tells_when(ada: Account) -> None:
    written = ada.put("notes", "k", 1)
    assert written.headers["last-modified"] == ada.get("notes", "k").headers["last-modified"]


def test_what_is_not_there_is_not_found(ada: Account) -> None:
    problem(ada.get("notes", "k"), 404, "not_found")  # nor is the user
    ada.put("notes", "other", 1)
    problem(ada.get("notes", "k"), 404, "not_found")
    problem(ada.get("other", "other"), 404, "not_found")
    ada.delete("notes", "other")
    problem(ada.get("notes", "other"), 404, "not_found")


def test_head_is_get_without_the_body(ada: Account) -> None:
    ada.put("notes", "k", {"a": 1})
    for path in (ada.doc("notes", "k"), ada.doc("notes", "missing"), ada.at("docs"), ada.at("docs", "notes")):
        got, head = ada.http.get(path), ada.http.head(path)
        assert head.status_code == got.status_code
        assert head.content == b""
        vary = {"roost-request-id", "date"}
        assert {k: v for k, v in head.headers.items() if k not in vary} == {
            k: v for k, v in got.headers.items() if k not in vary
        }
    assert ada.http.head(ada.doc("notes", "k"), params={"at_seq": 0}).status_code == 404
    assert ada.http.head(ada.doc("notes", "k"), headers={"if-none-match": '"1"'}).status_code == 304


@pytest.mark.parametrize("tags", ['"2"', "*", '"1", "2"', '"x","2"', 'W/"2"', '"1" ,\t"2"'])
def test_a_version_that_the_reader_has_is_not_sent_again(ada: Account, tags: str) -> None:
    ada.put("notes", "k", 1)
    ada.put("notes", "k", 2)
    known = ada.get("notes", "k", if_none_match=tags)
    assert known.status_code == 304
    assert known.content == b""
    read = ada.get("notes", "k")
    for header in ("etag", "last-modified", "roost-seq", "cache-control"):
        assert known.headers[header] == read.headers[header]


@pytest.mark.parametrize("tags", ['"1"', "2", '"02"', '"2', "", '"x"', 'w/"2"', '"99999999999999999999"'])
def test_another_version_is_sent(ada: Account, tags: str) -> None:
    ada.put("notes", "k", 1)
    ada.put("notes", "k", 2)
    assert ada.get("notes", "k", if_none_match=tags).json() == 2


def test_what_is_not_there_is_never_known(ada: Account) -> None:
    problem(ada.get("notes", "k", if_none_match="*"), 404, "not_found")
    ada.put("notes", "k", 1)
    ada.delete("notes", "k")
    problem(ada.get("notes", "k", if_none_match='"2"'), 404, "not_found")


def test_a_writer_may_prefer_no_body(ada: Account) -> None:
    prefer = "respond-async, return = MINIMAL; x=1"
    writes = [
        ada.put("notes", "k", {"a": 1}, prefer="return=minimal"),
        ada.put("notes", "k", {"a": 2}, prefer=prefer),
        ada.merge("notes", "k", {"b": 3}, prefer="return=minimal"),
        ada.patch("notes", "k", [{"op": "remove", "path": "/a"}], prefer="return=minimal"),
        ada.restore("notes", "k", 1, prefer="return=minimal"),
    ]
    for version, answer in enumerate(writes, 1):
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["etag"] == f'"{version}"'
        assert answer.headers["roost-seq"] == str(version)
        assert answer.headers["preference-applied"] == "return=minimal"
        assert "last-modified" in answer.headers
        assert "content-type" not in answer.headers
    assert ada.value("notes", "k") == {"a": 1}
    for other in ("return=representation", "minimal", "return=minimalist"):
        assert ada.put("notes", "k", 4, prefer=other).json() == 4


def test_delete_leaves_a_tombstone(ada: Account) -> None:
    ada.put("notes", "k", 1)
    deleted = ada.delete("notes", "k")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (deleted.headers["etag"], deleted.headers["roost-seq"]) == ('"2"', "2")
    problem(ada.delete("notes", "k"), 404, "not_found")
    again = ada.put("notes", "k", 2)
    assert (again.status_code, again.headers["etag"]) == (201, '"3"')


def test_there_is_nothing_to_delete_where_nothing_is(ada: Account) -> None:
    problem(ada.delete("notes", "k"), 404, "not_found")
    problem(ada.http.get(ada.at()), 404, "not_found")  # a refused first write brings no user into being
    ada.put("notes", "other", 1)
    problem(ada.delete("notes", "k"), 404, "not_found")
    assert ada.head()["seq"] == 1


# RFC 7396, appendix A, where the target is a document.
MERGES: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "patch", "result"), MERGES)
def test_a_merge_patch_changes_members(ada: Account, target: Any, patch: Any, result: Any) -> None:
    ada.put("notes", "k", target)
    merged = ada.merge("notes", "k", patch)
    assert (merged.status_code, merged.headers["etag"], merged.headers["roost-seq"]) == (200, '"2"', "2")
    assert merged.json() == result
    assert ada.value("notes", "k") == result


def test_a_merge_patch_of_nothing_creates(ada: Account) -> None:
    created = ada.merge("notes", "k", {"a": 1, "b": None})
    assert (created.status_code, created.headers["etag"], created.json()) == (201, '"1"', {"a": 1})
    ada.delete("notes", "k")
    assert ada.merge("notes", "k", {"b": 2}).json() == {"b": 2}  # not on top of what was deleted


PATCHES: list[tuple[Any, list[dict[str, Any]], Any]] = [
    ({"a": 1}, [], {"a": 1}),
    ({"a": 1}, [{"op": "add", "path": "/b", "value": None}], {"a": 1, "b": None}),
    ({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2, 3]}),
    ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}], {"a": [1, 2]}),
    ({"a": 1}, [{"op": "remove", "path": "/a"}], {}),
    ({"a": 1}, [{"op": "replace", "path": "/a", "value": 2}], {"a": 2}),
    ({"a": 1}, [{"op": "replace", "path": "", "value": [7]}], [7]),
    ({"a": 1}, [{"op": "move", "from": "/a", "path": "/b"}], {"b": 1}),
    ({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": [1], "b": [1]}),
    ({"a": 1}, [{"op": "test", "path": "/a", "value": 1.0}, {"op": "remove", "path": "/a"}], {}),
    ({"a/b": 1, "m~n": 2}, [{"op": "remove", "path": "/a~1b"}, {"op": "remove", "path": "/m~0n"}], {}),
    ({"": {"": 1}}, [{"op": "replace", "path": "//", "value": 2}], {"": {"": 2}}),
    ({"a": 1}, [{"op": "add", "path": "/b", "value": 1, "extra": "is ignored"}], {"a": 1, "b": 1}),
]


@pytest.mark.parametrize(("target", "operations", "result"), PATCHES)
def test_a_json_patch_is_carried_out(ada: Account, target: Any, operations: Any, result: Any) -> None:
    ada.put("notes", "k", target)
    patched = ada.patch("notes", "k", operations)
    assert (patched.status_code, patched.headers["etag"], patched.headers["roost-seq"]) == (200, '"2"', "2")
    assert patched.json() == result
    assert ada.value("notes", "k") == result


FAILING: list[tuple[list[dict[str, Any]], str]] = [
    ([{"op": "test", "path": "/a", "value": 2}], "/0"),
    ([{"op": "test", "path": "/a", "value": True}], "/0"),
    ([{"op": "remove", "path": "/b"}], "/0"),
    ([{"op": "replace", "path": "/b", "value": 1}], "/0"),
    ([{"op": "add", "path": "/b", "value": 1}, {"op": "add", "path": "/c/d", "value": 1}], "/1"),
    ([{"op": "add", "path": "/list/9", "value": 1}], "/0"),
    ([{"op": "add", "path": "/list/01", "value": 1}], "/0"),
    ([{"op": "remove", "path": "/list/-"}], "/0"),
    ([{"op": "move", "from": "/b", "path": "/c"}], "/0"),
    ([{"op": "copy", "from": "/b", "path": "/c"}], "/0"),
    ([{"op": "remove", "path": ""}], "/0"),
]


@pytest.mark.parametrize(("operations", "pointer"), FAILING)
def test_a_json_patch_that_fails_changes_nothing(ada: Account, operations: Any, pointer: str) -> None:
    ada.put("notes", "k", {"a": 1, "list": [1, 2]})
    problem(ada.patch("notes", "k", operations), 409, "patch_failed", pointer)
    assert ada.value("notes", "k") == {"a": 1, "list": [1, 2]}
    assert ada.head()["seq"] == 1


MALFORMED: list[tuple[Any, str]] = [
    ({}, ""),
    ("text", ""),
    ([1], "/0"),
    ([{}], "/0"),
    ([{"op": "add", "value": 1}], "/0"),
    ([{"op": "none", "path": ""}], "/0/op"),
    ([{"op": "add", "path": 1, "value": 1}], "/0/path"),
    ([{"op": "add", "path": "/a"}], "/0"),
    ([{"op": "test", "path": "", "value": {"a": 1}}, {"op": "add", "path": "a", "value": 1}], "/1/path"),
    ([{"op": "remove", "path": "/~2"}], "/0/path"),
    ([{"op": "move", "path": "/b"}], "/0"),
]


@pytest.mark.parametrize(("operations", "pointer"), MALFORMED)
def test_a_malformed_json_patch_is_told_where(ada: Account, operations: Any, pointer: str) -> None:
    ada.put("notes", "k", {"a": 1})
    problem(ada.patch("notes", "k", operations), 400, "invalid_request", pointer)


def test_a_json_patch_needs_a_document(ada: Account) -> None:
    problem(ada.patch("notes", "k", []), 404, "not_found")
    problem(ada.patch("notes", "k", [{"op": "add", "path": "", "value": 1}]), 404, "not_found")


@pytest.mark.parametrize("media_type", [JSON, "text/plain", "application/merge-patch", "application/xml", "nonsense"])
def test_a_patch_of_another_media_type_is_told_which_there_are(ada: Account, media_type: str) -> None:
    ada.put("notes", "k", {})
    refused = ada.http.patch(ada.doc("notes", "k"), content=b"{}", headers={"content-type": media_type})
    problem(refused, 415, "unsupported_media_type")
    assert refused.headers["accept-patch"] == f"{MERGE_PATCH}, {JSON_PATCH}, {EDITS}"


def test_a_patch_must_name_its_media_type(ada: Account) -> None:
    ada.put("notes", "k", {})
    refused = ada.http.patch(ada.doc("notes", "k"), content=b"{}")
    problem(refused, 415, "unsupported_media_type")
    assert refused.headers["accept-patch"] == f"{MERGE_PATCH}, {JSON_PATCH}, {EDITS}"


@pytest.mark.parametrize("media_type", [JSON, "Application/JSON", "application/json; charset=utf-8"])
def test_a_body_may_name_json_in_every_way(ada: Account, media_type: str) -> None:
    assert ada.put_raw("notes", "k", b"1", content_type=media_type).status_code == 201


@pytest.mark.parametrize("media_type", ["text/plain", "text/json", "application/xml", MERGE_PATCH, "application/jsonx"])
def test_a_body_of_another_media_type_is_refused(ada: Account, media_type: str) -> None:
    refused = ada.put_raw("notes", "k", b"1", content_type=media_type)
    problem(refused, 415, "unsupported_media_type")
    assert refused.headers["accept"] == JSON
    problem(ada.http.get(ada.at()), 404, "not_found")


def test_a_body_without_a_media_type_is_json(ada: Account) -> None:
    assert ada.http.put(ada.doc("notes", "k"), content=b"1").status_code == 201


def test_a_read_can_ask_for_a_write(ada: Account) -> None:
    seq = ada.put("notes", "k", 1).headers["roost-seq"]
    ahead = str(int(seq) + 1)
    for path in (ada.doc("notes", "k"), ada.at("docs", "notes"), ada.at("docs")):
        assert ada.http.get(path, headers={"roost-at-least": seq}).status_code == 200
        problem(ada.http.get(path, headers={"roost-at-least": ahead}), 409, "cursor_ahead")
        problem(ada.http.get(path, headers={"roost-at-least": "x"}), 400, "invalid_request")


def test_every_write_is_one_event(ada: Account) -> None:
    ada.put("notes", "k", {})
    ada.merge("notes", "k", {"a": 1})
    ada.patch("notes", "k", [{"op": "add", "path": "/b", "value": 2}])
    ada.delete("notes", "k")
    ada.restore("notes", "k", 3)
    events = ada.events().json()["events"]
    assert [(event["seq"], event["kind"], event["value"]) for event in events] == [
        (1, "put", {}),
        (2, "put", {"a": 1}),
        (3, "put", {"a": 1, "b": 2}),
        (4, "delete", None),
        (5, "put", {"a": 1, "b": 2}),
    ]
    assert {event["actor"] for event in events} == {f"user:{ada.user}"}
    assert json.dumps(events)  # they are plain JSON
