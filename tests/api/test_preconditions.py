"""Preconditions: a write that names what it expects is refused if that is not what stands there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.api import Account, delete_op, merge_op, patch_op, problem, put_op

Write = Callable[..., httpx.Response]
KEY = ("notes", "k")
VERSION = 3


def writes(account: Account, collection: str, key: str) -> dict[str, Callable[..., httpx.Response]]:
    """Each way to write over `{"n": 0}`, by name."""
    return {
        "put": lambda **headers: account.put(collection, key, {"n": 9}, **headers),
        "merge": lambda **headers: account.merge(collection, key, {"n": 9}, **headers),
        "patch": lambda **h: account.patch(collection, key, [{"op": "replace", "path": "/n", "value": 9}], **h),
        "delete": lambda **headers: account.delete(collection, key, **headers),
        "restore": lambda **headers: account.restore(collection, key, 1, **headers),
    }


WAYS = ["put", "merge", "patch", "delete", "restore"]


@pytest.fixture
def third(ada: Account) -> Account:
    """A user whose document stands at version 3, and has had a value at version 1."""
    ada.put(*KEY, {"n": -1})
    ada.put("notes", "other", 0)
    assert ada.put(*KEY, {"n": 0}).headers["etag"] == f'"{VERSION}"'
    return ada


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("if_match", ['"3"', "*", '"1", "3"', '"9" ,\t"3"'])
def test_a_precondition_that_holds(third: Account, way: str, if_match: str) -> None:
    assert writes(third, *KEY)[way](if_match=if_match).status_code in {200, 204}
    assert third.head()["seq"] == VERSION + 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "headers",
    [{"if_match": '"2"'}, {"if_match": '"4", "1"'}, {"if_none_match": "*"}, {"if_match": 'W/"3"'}, {"if_match": "3"},
     {"if_match": '"03"'}, {"if_match": ""}, {"if_match": '"99999999999999999999"'}],
)  # fmt: skip
def test_a_precondition_that_does_not_hold(third: Account, way: str, headers: dict[str, str]) -> None:
    told = problem(writes(third, *KEY)[way](**headers), 412, "version_conflict")
    assert told["current"] == {"version": VERSION, "value": {"n": 0}}
    assert third.value(*KEY) == {"n": 0}
    assert third.head()["seq"] == VERSION


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("if_match", ['"1"', '"2"', "*"])
@pytest.mark.parametrize("deleted", [False, True])
def test_nothing_there_is_no_version(ada: Account, way: str, if_match: str, deleted: bool) -> None:
    ada.put("notes", "k" if deleted else "other", {"n": 0})
    if deleted:
        ada.delete("notes", "k")
    told = problem(writes(ada, *KEY)[way](if_match=if_match), 412, "version_conflict")
    assert told["current"] is None
    assert ada.head()["seq"] == 1 + deleted


def test_only_if_there_is_nothing(ada: Account) -> None:
    assert ada.put(*KEY, 1, if_none_match="*").status_code == 201
    problem(ada.put(*KEY, 2, if_none_match="*"), 412, "version_conflict")
    ada.delete(*KEY)
    assert ada.merge(*KEY, {"a": 1}, if_none_match="*").status_code == 201
    ada.delete(*KEY)
    assert ada.restore(*KEY, 1, if_none_match="*").status_code == 201


def test_only_if_there_is_nothing_makes_a_delete_futile(ada: Account) -> None:
    problem(ada.delete(*KEY, if_none_match="*"), 404, "not_found")
    ada.put(*KEY, 1)
    problem(ada.delete(*KEY, if_none_match="*"), 412, "version_conflict")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "headers", [{"if_none_match": '"3"'}, {"if_none_match": ""}, {"if_none_match": "*", "if_match": "*"}]
)
def test_a_precondition_that_makes_no_sense(third: Account, way: str, headers: dict[str, str]) -> None:
    problem(writes(third, *KEY)[way](**headers), 400, "invalid_request")
    assert third.head()["seq"] == VERSION


def test_a_precondition_in_two_headers_is_one_list(third: Account) -> None:
    headers = [("if-match", '"1"'), ("if-match", '"3"')]
    assert third.http.put(third.doc(*KEY), json=1, headers=headers).status_code == 200


def test_the_current_value_is_shown_whatever_it_is(ada: Account) -> None:
    for value in (None, 0, "text", [1, {"a": "é"}]):
        version = int(ada.put(*KEY, value).headers["etag"].strip('"'))
        told = problem(ada.put(*KEY, 1, if_match='"9999"'), 412, "version_conflict")
        assert told["current"] == {"version": version, "value": value}


def test_a_chain_of_writes_by_their_etags(ada: Account) -> None:
    tag = ada.put(*KEY, 0).headers["etag"]
    for n in range(1, 5):
        answer = ada.put(*KEY, n, if_match=tag)
        problem(ada.put(*KEY, "late", if_match=tag), 412, "version_conflict")
        tag = answer.headers["etag"]
    assert ada.value(*KEY) == 4


# A collection whose policy is `cas`.


@pytest.mark.parametrize("way", WAYS)
def test_in_a_cas_collection_a_write_that_replaces_names_the_version(ada: Account, way: str) -> None:
    ada.put("payments", "card", {"n": 0})
    write = writes(ada, "payments", "card")[way]
    problem(write(), 428, "precondition_required")
    assert ada.value("payments", "card") == {"n": 0}
    problem(write(if_match='"9"'), 412, "version_conflict")
    assert ada.head()["seq"] == 1
    assert write(if_match='"1"').status_code in {200, 204}


def test_in_a_cas_collection_what_replaces_nothing_needs_no_version(ada: Account) -> None:
    assert ada.put("payments", "card", 1).status_code == 201
    assert ada.merge("payments", "other", {"a": 1}).status_code == 201
    ada.delete("payments", "card", if_match="*")
    assert ada.put("payments", "card", 2).status_code == 201
    problem(ada.delete("payments", "none"), 404, "not_found")


BATCHED: list[Callable[..., dict[str, Any]]] = [
    lambda **more: put_op("payments", "card", 1, **more),
    lambda **more: merge_op("payments", "card", {"n": 1}, **more),
    lambda **more: patch_op("payments", "card", [], **more),
    lambda **more: delete_op("payments", "card", **more),
]


@pytest.mark.parametrize("op", BATCHED)
def test_in_a_cas_collection_a_batch_names_the_version(ada: Account, op: Callable[..., dict[str, Any]]) -> None:
    ada.put("payments", "card", {"n": 0})
    problem(ada.batch(put_op("notes", "k", 1), op()), 428, "precondition_required", "/ops/1")
    problem(ada.batch(put_op("notes", "k", 1), op(if_version=7)), 412, "version_conflict", "/ops/1")
    problem(ada.batch(put_op("notes", "k", 1), op(if_version=0)), 412, "version_conflict", "/ops/1")
    assert ada.head()["seq"] == 1
    assert ada.batch(put_op("notes", "k", 1), op(if_version=1)).status_code == 200
