"""Batches: all ops or none, and a refusal that names its op with the status the op alone would have had."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.api import Account, delete_op, merge_op, patch_op, problem, put_op


def test_a_batch_does_all_of_its_ops_in_order(ada: Account) -> None:
    ada.put("notes", "old", 1)
    ada.put("notes", "list", [1])
    done = ada.batch(
        put_op("notes", "new", {"a": 1}),
        merge_op("notes", "new", {"b": 2}),
        patch_op("notes", "list", [{"op": "add", "path": "/-", "value": 2}]),
        delete_op("notes", "old"),
        put_op("other", "é", None),
        merge_op("other", "made", {"c": 3}),
    )
    assert done.status_code == 200
    assert done.json() == {
        "seq": 8,
        "results": [
            {"collection": "notes", "key": "new", "version": 3},
            {"collection": "notes", "key": "new", "version": 4},
            {"collection": "notes", "key": "list", "version": 5},
            {"collection": "notes", "key": "old", "version": 6},
            {"collection": "other", "key": "é", "version": 7},
            {"collection": "other", "key": "made", "version": 8},
        ],
    }
    assert done.headers["roost-seq"] == "8"
    assert ada.snapshot().json()["docs"] == {
        "notes": {"new": {"version": 4, "value": {"a": 1, "b": 2}}, "list": {"version": 5, "value": [1, 2]}},
        "other": {"é": {"version": 7, "value": None}, "made": {"version": 8, "value": {"c": 3}}},
    }


def test_the_events_of_a_batch_happened_at_one_time(ada: Account) -> None:
    ada.batch(*(put_op("notes", f"k{n}", n) for n in range(5)))
    events = ada.events().json()["events"]
    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5]
    assert len({event["at"] for event in events}) == 1


def test_a_later_op_sees_an_earlier_one(ada: Account) -> None:
    done = ada.batch(
        put_op("notes", "k", 1, if_version=0),
        put_op("notes", "k", 2, if_version=1),
        delete_op("notes", "k", if_version=2),
        put_op("notes", "k", 3, if_version=0),
    )
    assert [result["version"] for result in done.json()["results"]] == [1, 2, 3, 4]
    assert ada.value("notes", "k") == 3


Case = tuple[dict[str, Any], Callable[[Account], httpx.Response], int, str]
DEEP: Any = 0
for _ in range(65):
    DEEP = [DEEP]
LARGE = "x" * (256 << 10)

# Each op, the same change alone, and what both are refused with. `k` is at version 1, `gone` was deleted.
REFUSED: dict[str, Case] = {
    "wrong version": (
        put_op("notes", "k", 1, if_version=9),
        lambda ada: ada.put("notes", "k", 1, if_match='"9"'),
        412,
        "version_conflict",
    ),
    "there already": (
        put_op("notes", "k", 1, if_version=0),
        lambda ada: ada.put("notes", "k", 1, if_none_match="*"),
        412,
        "version_conflict",
    ),
    "not there": (
        merge_op("notes", "gone", 1, if_version=2),
        lambda ada: ada.merge("notes", "gone", 1, if_match='"2"'),
        412,
        "version_conflict",
    ),
    "cas": (
        put_op("payments", "card", 1),
        lambda ada: ada.put("payments", "card", 1),
        428,
        "precondition_required",
    ),
    "delete nothing": (delete_op("notes", "none"), lambda ada: ada.delete("notes", "none"), 404, "not_found"),
    "delete twice": (delete_op("notes", "gone"), lambda ada: ada.delete("notes", "gone"), 404, "not_found"),
    "patch nothing": (patch_op("notes", "none", []), lambda ada: ada.patch("notes", "none", []), 404, "not_found"),
    "test fails": (
        patch_op("notes", "k", [{"op": "test", "path": "/a", "value": 2}]),
        lambda ada: ada.patch("notes", "k", [{"op": "test", "path": "/a", "value": 2}]),
        409,
        "patch_failed",
    ),
    "path leads nowhere": (
        patch_op("notes", "k", [{"op": "add", "path": "/b", "value": 1}, {"op": "remove", "path": "/x"}]),
        lambda ada: ada.patch("notes", "k", [{"op": "remove", "path": "/x"}]),
        409,
        "patch_failed",
    ),
    "key": (put_op("notes", "a/b", 1), lambda ada: ada.put("notes", "a/b", 1), 400, "invalid_name"),
    "collection": (put_op("Notes", "k", 1), lambda ada: ada.put("Notes", "k", 1), 400, "invalid_name"),
    "too large": (put_op("notes", "k", LARGE), lambda ada: ada.put("notes", "k", LARGE), 413, "too_large"),
    "too large merged": (
        merge_op("notes", "k", {"x": LARGE}),
        lambda ada: ada.merge("notes", "k", {"x": LARGE}),
        413,
        "too_large",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("index", [0, 3])
def test_a_refusal_names_the_op_with_the_status_that_it_would_have_alone(ada: Account, case: str, index: int) -> None:
    op, alone, status, code = REFUSED[case]
    ada.put("notes", "k", {"a": 1})
    ada.put("notes", "gone", 1)
    ada.delete("notes", "gone")
    ada.put("payments", "card", 1)
    before = ada.snapshot().content
    refusal = alone(ada)
    assert (refusal.status_code, refusal.json()["code"]) == (status, code)
    ops = [put_op("notes", f"good{n}", n) for n in range(5)]
    ops[index] = op
    told = problem(ada.batch(*ops), status, code, f"/ops/{index}")
    assert told.get("current") == refusal.json().get("current")
    assert ada.snapshot().content == before


def test_a_refusal_shows_the_document_as_it_stands_without_the_batch(ada: Account) -> None:
    """None of the batch has happened, so nothing of it is current; and so it stays when the refusal is replayed."""
    ops = [put_op("notes", "k", "draft"), put_op("notes", "k", 2, if_version=0)]
    told = problem(ada.batch(*ops, idempotency_key="one"), 412, "version_conflict", "/ops/1")
    assert told["current"] is None
    problem(ada.http.get(ada.at()), 404, "not_found")
    ada.put("notes", "k", "first")
    told = problem(ada.batch(*ops, idempotency_key="one"), 412, "version_conflict", "/ops/1")
    assert told["current"] is None
    told = problem(ada.batch(*ops, idempotency_key="two"), 412, "version_conflict", "/ops/1")
    assert told["current"] == {"version": 1, "value": "first"}


SHAPES: list[tuple[Any, str]] = [
    ([], ""),
    (1, ""),
    (None, ""),
    ({}, ""),
    ({"ops": []}, "/ops"),
    ({"ops": {}}, "/ops"),
    ({"ops": [put_op("notes", "k", 1)], "more": 1}, ""),
    ({"ops": [1]}, "/ops/0"),
    ({"ops": [{}]}, "/ops/0"),
    ({"ops": [{"op": "put", "collection": "notes", "key": "k"}]}, "/ops/0"),
    ({"ops": [{"op": "put", "key": "k", "value": 1}]}, "/ops/0"),
    ({"ops": [{"op": "merge", "collection": "notes", "key": "k", "value": 1}]}, "/ops/0"),
    ({"ops": [put_op("notes", "k", 1), put_op("notes", "k", 1, more=1)]}, "/ops/1"),
    ({"ops": [put_op("notes", "k", 1, op="restore")]}, "/ops/0/op"),
    ({"ops": [put_op("notes", "k", 1, op=1)]}, "/ops/0/op"),
    ({"ops": [put_op("notes", 7, 1)]}, "/ops/0/key"),  # type: ignore[arg-type]  # that is what is wrong
    ({"ops": [put_op("notes", "k", 1, if_version=-1)]}, "/ops/0/if_version"),
    ({"ops": [put_op("notes", "k", 1, if_version="1")]}, "/ops/0/if_version"),
    ({"ops": [put_op("notes", "k", 1, if_version=None)]}, "/ops/0/if_version"),
    ({"ops": [put_op("notes", "k", 1, if_version=1.5)]}, "/ops/0/if_version"),
    ({"ops": [patch_op("notes", "k", {})]}, "/ops/0/patch"),
    ({"ops": [put_op("notes", "k", 1), patch_op("notes", "k", [{"op": "x", "path": ""}])]}, "/ops/1/patch/0/op"),
    ({"ops": [patch_op("notes", "k", [{"op": "remove", "path": "a"}])]}, "/ops/0/patch/0/path"),
]


@pytest.mark.parametrize(("body", "pointer"), SHAPES, ids=range(len(SHAPES)))
def test_a_body_of_another_shape_is_told_where(ada: Account, body: Any, pointer: str) -> None:
    headers = {"content-type": "application/json"}
    refused = ada.http.post(ada.at("batch"), content=json.dumps(body), headers=headers)
    problem(refused, 400, "invalid_request", pointer)
    problem(ada.http.get(ada.at()), 404, "not_found")


@pytest.mark.parametrize("value", [DEEP, "\0", 2**53 + 1, {"a": [1, 2**60]}], ids=["depth", "NUL", "number", "inside"])
def test_a_value_that_is_no_json_of_ours_is_told_where(ada: Account, value: Any) -> None:
    refused = ada.batch(put_op("notes", "a", 1), put_op("notes", "k", value))
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_json")
    assert refused.json()["errors"][0]["pointer"].startswith("/ops/1/value")
    problem(ada.http.get(ada.at()), 404, "not_found")


def test_500_ops_and_not_one_more(ada: Account) -> None:
    ops = [put_op("notes", f"k{n}", n) for n in range(501)]
    problem(ada.batch(*ops), 413, "too_large", "/ops")
    problem(ada.http.get(ada.at()), 404, "not_found")
    done = ada.batch(*ops[:500]).json()
    assert done["seq"] == 500
    assert [result["version"] for result in done["results"]] == list(range(1, 501))
    assert ada.head()["collections"] == {"notes": 500}


def test_a_batch_may_be_as_large_as_a_body_and_its_values_no_larger_than_alone(ada: Account) -> None:
    value = "x" * ((256 << 10) - 2)
    assert ada.batch(*(put_op("notes", f"k{n}", value) for n in range(3))).status_code == 200
    problem(ada.batch(*(put_op("notes", f"k{n}", value) for n in range(5))), 413, "too_large")


def test_a_value_in_a_batch_may_be_as_deep_as_alone(ada: Account) -> None:
    deepest = DEEP[0]
    assert ada.batch(put_op("notes", "k", deepest)).status_code == 200
    assert ada.value("notes", "k") == deepest
