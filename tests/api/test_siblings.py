"""Values that stand side by side, and edits field by field, over HTTP: shown, told in the log, and resolved."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.support.api import EDITS, Account, problem, version_of


@pytest.fixture
def notes(admin: Account) -> str:
    """A collection whose documents may have siblings."""
    admin.http.put("/v1/collections/torn_notes", json={"conflict": "siblings"})
    return "torn_notes"


@pytest.fixture
def carts(admin: Account) -> str:
    """A collection whose documents are merged."""
    admin.http.put("/v1/collections/merged_carts", json={"conflict": "merge"})
    return "merged_carts"


def siblings(account: Account, collection: str, key: str) -> httpx.Response:
    return account.http.get(account.at("docs", collection, key, "siblings"))


def edit(account: Account, collection: str, key: str, *edits: dict[str, Any], **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()} | {"content-type": EDITS}
    return account.http.patch(account.doc(collection, key), content=json.dumps(edits), headers=named)


def values(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    return [one["value"] for one in response.json()["siblings"]]


def test_a_write_that_has_seen_nothing_stands_beside_what_is_there(ada: Account, notes: str) -> None:
    problem(siblings(ada, notes, "n"), 404, "not_found")
    first = ada.put(notes, "n", {"text": "one"})
    assert "roost-siblings" not in first.headers
    assert values(siblings(ada, notes, "n")) == [{"text": "one"}]
    second = ada.put(notes, "n", {"text": "two"})
    assert (second.status_code, second.headers["roost-siblings"]) == (200, "2")
    read = ada.get(notes, "n")
    assert (read.json(), read.headers["roost-siblings"]) == ({"text": "two"}, "2")
    told = siblings(ada, notes, "n")
    assert (told.json()["version"], told.headers["etag"]) == (version_of(second), read.headers["etag"])
    assert [one["version"] for one in told.json()["siblings"]] == [version_of(first), version_of(second)]
    assert values(told) == [{"text": "one"}, {"text": "two"}]
    assert all(one.keys() == {"version", "value", "at"} for one in told.json()["siblings"])
    assert ada.http.get(told.url, headers={"if-none-match": told.headers["etag"]}).status_code == 304


def test_a_write_that_has_seen_them_replaces_them(ada: Account, notes: str) -> None:
    for text in ("one", "two"):
        ada.put(notes, "n", text)
    last = ada.put(notes, "n", "three")
    assert values(siblings(ada, notes, "n")) == ["one", "two", "three"]
    told = problem(ada.put(notes, "n", "all", if_match='"1"'), 412, "version_conflict")
    assert [one["value"] for one in told["current"]["siblings"]] == ["one", "two", "three"]
    for blind in (
        ada.merge(notes, "n", {}),
        ada.delete(notes, "n"),
        edit(ada, notes, "n", {"op": "set", "path": "", "value": 1}),
    ):
        problem(blind, 428, "precondition_required")
    whole = ada.put(notes, "n", "all", if_match=last.headers["etag"])
    assert whole.status_code == 200
    assert "roost-siblings" not in whole.headers
    assert "roost-siblings" not in ada.get(notes, "n").headers
    assert values(siblings(ada, notes, "n")) == ["all"]
    assert ada.delete(notes, "n").status_code == 204


def test_what_lists_and_the_log_tell_of_siblings(ada: Account, notes: str) -> None:
    first = version_of(ada.put(notes, "n", 1))
    ada.put(notes, "whole", 1)
    second = version_of(ada.put(notes, "n", 2))
    torn, whole = ada.page(notes).json()["items"]
    assert [one["version"] for one in torn["siblings"]] == [first, second]
    assert "siblings" not in whole
    docs = ada.snapshot().json()["docs"][notes]
    assert docs["n"]["siblings"] == torn["siblings"]
    assert "siblings" not in docs["whole"]
    *others, last = ada.events().json()["events"]
    assert last["beside"] == [first]
    assert not any("beside" in event for event in others)


def test_a_repeated_write_is_told_its_siblings_again(ada: Account, notes: str) -> None:
    ada.put(notes, "n", 1)
    first = ada.put(notes, "n", 2, idempotency_key="k")
    again = ada.put(notes, "n", 2, idempotency_key="k")
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["roost-siblings"] == first.headers["roost-siblings"] == "2"
    assert values(siblings(ada, notes, "n")) == [1, 2]


def test_a_log_with_siblings_and_edits_is_taken_in_elsewhere(ada: Account, admin: Account, carts: str) -> None:
    admin.http.put("/v1/collections/torn_notes", json={"conflict": "siblings"})
    ada.put("torn_notes", "n", 1)
    ada.put("torn_notes", "n", 2)
    edit(ada, carts, "c", INC, {"op": "set", "path": "/t", "value": {"b": 1.0, "a": [None]}})
    ada.merge(carts, "c", {"t": None, "u": 1})
    events = ada.events().json()["events"]
    assert "edits" in events[-1]
    copy = Account(ada.server, f"copy-of-{ada.user}", admin.token)
    for _ in range(2):  # events that are there already are compared
        taken = copy.http.post(copy.at("events"), json={"events": events})
        assert (taken.status_code, taken.json()) == (200, {"seq": len(events)}), taken.text
    assert copy.events().json()["events"] == events
    assert copy.snapshot().json()["docs"] == ada.snapshot().json()["docs"]
    copy.close()


INC = {"op": "inc", "path": "/n", "value": 2}


def test_a_document_is_edited_whatever_it_is_by_now(ada: Account, carts: str) -> None:
    made = edit(ada, carts, "c", INC)
    assert (made.status_code, made.json()) == (201, {"n": 2})
    ada.merge(carts, "c", {"other": True})
    edits: list[dict[str, Any]] = [INC, {"op": "add", "path": "/tags", "value": "x"}, {"op": "unset", "path": "/other"}]
    assert edit(ada, carts, "c", *edits).json() == {"n": 4, "tags": ["x"]}
    removed = edit(ada, carts, "c", {"op": "remove", "path": "/tags", "value": "x"}, prefer="return=minimal")
    assert (removed.status_code, ada.value(carts, "c")) == (204, {"n": 4, "tags": []})
    assert ada.events().json()["events"][2]["edits"] == edits
    problem(edit(ada, carts, "c", INC, if_match='"1"'), 412, "version_conflict")
    problem(edit(ada, carts, "c", INC, if_none_match="*"), 412, "version_conflict")


def test_edits_that_do_not_fit_change_nothing(ada: Account, carts: str) -> None:
    ada.put(carts, "c", {"n": 1, "name": "x"})
    wrong = {"op": "inc", "path": "/name", "value": 1}
    problem(edit(ada, carts, "c", INC, wrong), 409, "patch_failed", "/1")
    op = {"op": "edit", "collection": carts, "key": "c", "edits": [INC, wrong]}
    problem(ada.batch({**op, "edits": [INC]}, op), 409, "patch_failed", "/ops/1")
    assert ada.value(carts, "c") == {"n": 1, "name": "x"}
    assert ada.batch({**op, "edits": [INC]}, {**op, "edits": [INC]}).status_code == 200
    assert ada.value(carts, "c")["n"] == 5
    problem(edit(ada, carts, "none", {"op": "unset", "path": "/x"}), 404, "not_found")


def test_what_is_no_edit_is_told_where(ada: Account, carts: str) -> None:
    problem(edit(ada, carts, "c"), 400, "invalid_request", "")
    problem(edit(ada, carts, "c", INC, {"op": "double", "path": ""}), 400, "invalid_request", "/1/op")
    problem(edit(ada, carts, "c", INC, {"op": "inc", "path": "/n", "value": 0.5}), 400, "invalid_request", "/1/value")
    op = {"op": "edit", "collection": carts, "key": "c", "edits": [{"op": "unset", "path": ""}]}
    problem(ada.batch(op), 400, "invalid_request", "/ops/0/edits/0/path")
    problem(edit(ada, carts, "c", *[INC] * 501), 413, "too_large", "")
    problem(ada.http.get(ada.at()), 404, "not_found")


def test_edits_are_offered_where_a_patch_is_refused(ada: Account) -> None:
    refused = ada.http.patch(ada.doc("carts", "c"), content="[]", headers={"content-type": "application/json"})
    problem(refused, 415, "unsupported_media_type")
    assert EDITS in refused.headers["accept-patch"].split(", ")
