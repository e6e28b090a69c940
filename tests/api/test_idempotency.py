"""Idempotency keys: a write that is sent again is answered again, and not carried out again."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from tests.support.api import JSON, MERGE_PATCH, Account, delete_op, put_op

KEEPS = ("etag", "roost-seq", "last-modified", "content-type", "preference-applied")


def same(first: httpx.Response, again: httpx.Response) -> None:
    """`again` is the first answer, and says so."""
    assert again.status_code == first.status_code, again.text
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    for header in KEEPS:
        assert again.headers.get(header) == first.headers.get(header), header
    if first.is_success:
        assert again.content == first.content
    else:
        ids = (first.headers["roost-request-id"], again.headers["roost-request-id"])
        assert again.json() | {"request_id": ids[0]} == first.json()
        assert again.json()["request_id"] == ids[1]


def reused(response: httpx.Response) -> None:
    assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")
    assert "idempotent-replayed" not in response.headers


WRITES: dict[str, Callable[[Account], httpx.Response]] = {
    "create": lambda ada: ada.put("notes", "new", {"a": 1}, idempotency_key="one"),
    "replace": lambda ada: ada.put("notes", "k", {"a": 1}, idempotency_key="one"),
    "minimal": lambda ada: ada.put("notes", "k", {"a": 1}, idempotency_key="one", prefer="return=minimal"),
    "merge": lambda ada: ada.merge("notes", "k", {"a": 1}, idempotency_key="one"),
    "patch": lambda ada: ada.patch("notes", "k", [{"op": "add", "path": "/-", "value": 1}], idempotency_key="one"),
    "delete": lambda ada: ada.delete("notes", "k", idempotency_key="one"),
    "restore": lambda ada: ada.restore("notes", "k", 1, idempotency_key="one"),
    "batch": lambda ada: ada.batch(put_op("notes", "k", 1), delete_op("notes", "other"), idempotency_key="one"),
}


@pytest.mark.parametrize("way", WRITES)
def test_a_write_is_answered_again(ada: Account, way: str) -> None:
    ada.put("notes", "k", ["first"])
    ada.put("notes", "other", 2)
    first = WRITES[way](ada)
    assert first.is_success
    seq = ada.head()["seq"]
    same(first, WRITES[way](ada))
    assert ada.head()["seq"] == seq


@pytest.mark.parametrize("way", WRITES)
def test_the_first_answer_is_given_whatever_happened_since(ada: Account, way: str) -> None:
    ada.put("notes", "k", ["first"])
    ada.put("notes", "other", 2)
    first = WRITES[way](ada)
    for key in ("k", "new", "other"):
        ada.put("notes", key, "later")
        ada.delete("notes", key)
    seq = ada.head()["seq"]
    same(first, WRITES[way](ada))
    assert ada.head()["seq"] == seq


REFUSED: dict[str, tuple[int, Callable[[Account], httpx.Response]]] = {
    "412": (412, lambda ada: ada.put("notes", "k", 1, idempotency_key="one", if_match='"9"')),
    "412 none": (412, lambda ada: ada.put("notes", "new", 1, idempotency_key="one", if_match="*")),
    "404": (404, lambda ada: ada.delete("notes", "new", idempotency_key="one")),
    "404 restore": (404, lambda ada: ada.restore("notes", "new", 9, idempotency_key="one")),
    "409": (409, lambda ada: ada.patch("notes", "k", [{"op": "remove", "path": "/x"}], idempotency_key="one")),
    "428": (428, lambda ada: ada.put("payments", "card", 1, idempotency_key="one")),
    "batch": (404, lambda ada: ada.batch(put_op("notes", "k", 1), delete_op("notes", "new"), idempotency_key="one")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_given_again_even_if_it_would_be_carried_out_now(ada: Account, case: str) -> None:
    status, write = REFUSED[case]
    ada.put("notes", "k", {"n": 0})
    ada.put("payments", "card", 0)
    first = write(ada)
    assert first.status_code == status
    ada.put("notes", "new", 1)
    ada.merge("notes", "k", {"x": 1})
    ada.delete("payments", "card", if_match="*")
    passed = [ada.put("notes", "k", {"x": 1}).headers["etag"] for _ in range(4)]
    assert '"9"' in passed
    seq = ada.head()["seq"]
    same(first, write(ada))
    assert ada.head()["seq"] == seq


def test_a_refused_first_write_is_remembered_too(ada: Account) -> None:
    first = ada.delete("notes", "k", idempotency_key="one")
    assert first.status_code == 404
    ada.put("notes", "k", 1)
    same(first, ada.delete("notes", "k", idempotency_key="one"))
    assert ada.value("notes", "k") == 1


def test_a_key_belongs_to_one_request(ada: Account) -> None:
    ada.put("notes", "k", {"a": 1}, idempotency_key="one")
    seq = ada.head()["seq"]
    reused(ada.put("notes", "k", {"a": 2}, idempotency_key="one"))
    reused(ada.put("notes", "other", {"a": 1}, idempotency_key="one"))
    reused(ada.put("other", "k", {"a": 1}, idempotency_key="one"))
    reused(ada.merge("notes", "k", {"a": 1}, idempotency_key="one"))
    reused(ada.delete("notes", "k", idempotency_key="one"))
    reused(ada.batch(put_op("notes", "k", {"a": 1}), idempotency_key="one"))
    assert ada.head()["seq"] == seq
    assert ada.put("notes", "k", {"a": 1}, idempotency_key="one").headers["idempotent-replayed"] == "true"


def test_the_two_patches_are_different_requests(ada: Account) -> None:
    ada.put("notes", "k", {})
    body = b"[]"
    headers = {"idempotency-key": "one", "content-type": MERGE_PATCH}
    assert ada.http.patch(ada.doc("notes", "k"), content=body, headers=headers).json() == []
    headers["content-type"] = "application/json-patch+json"
    reused(ada.http.patch(ada.doc("notes", "k"), content=body, headers=headers))


def test_a_refusal_keeps_its_key(ada: Account) -> None:
    ada.delete("notes", "k", idempotency_key="one")
    reused(ada.delete("notes", "other", idempotency_key="one"))


def test_keys_of_two_users_have_nothing_to_do_with_each_other(account: Callable[[], Account]) -> None:
    ada, bob = account(), account()
    assert ada.put("notes", "k", 1, idempotency_key="one").status_code == 201
    assert bob.put("notes", "k", 2, idempotency_key="one").json() == 2


def test_two_keys_are_two_writes(ada: Account) -> None:
    assert ada.put("notes", "k", 1, idempotency_key="one").headers["etag"] == '"1"'
    assert ada.put("notes", "k", 1, idempotency_key="One").headers["etag"] == '"2"'


@pytest.mark.parametrize("key", ["k" * 128, "!", "~", "a=b;c,d\"e'f\\g/h"])
def test_a_good_key_is_taken(ada: Account, key: str) -> None:
    same(*(ada.put("notes", "k", 1, idempotency_key=key) for _ in range(2)))


@pytest.mark.parametrize("key", ["k" * 129, "", "a b", "é", "a\tb"])
def test_a_bad_key_is_refused(ada: Account, key: str) -> None:
    headers = [(b"idempotency-key", key.encode()), (b"content-type", JSON.encode())]
    refused = ada.http.put(ada.doc("notes", "k"), content=b"1", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")
    assert ada.http.get(ada.at()).status_code == 404


def test_two_keys_in_one_request_are_refused(ada: Account) -> None:
    headers = [("idempotency-key", "one"), ("idempotency-key", "two")]
    refused = ada.http.put(ada.doc("notes", "k"), json=1, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")


def test_a_request_that_was_never_understood_does_not_use_its_key_up(ada: Account) -> None:
    assert ada.put_raw("notes", "k", b"{", idempotency_key="one").status_code == 400
    assert ada.put_raw("notes", "k", b"{}", idempotency_key="one").status_code == 201


def test_how_the_body_is_written_matters(ada: Account) -> None:
    ada.put_raw("notes", "k", b'{"a":1}', idempotency_key="one")
    reused(ada.put_raw("notes", "k", b'{"a": 1}', idempotency_key="one"))
