"""Pages of a collection: in which order, how many at a time, and from where on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.api import Account, problem, put_op

# In the order of their bytes. UTF-16 would put the last before the one ahead of it; other collations mix the cases.
KEYS = ["!", "-", "0", "10", "9", "A", "Z", "_", "a", "aa", "a b", "ab", "b", "~", "é", "ﬀ", "\uffff", "😀"]
KEYS.sort(key=str.encode)


def fill(account: Account, keys: list[str], collection: str = "notes") -> None:
    for start in range(0, len(keys), 500):
        ops = [put_op(collection, key, key) for key in keys[start : start + 500]]
        assert account.batch(*ops).status_code == 200


def walk(account: Account, **params: Any) -> list[list[str]]:
    """The keys of all pages."""
    pages = []
    while True:
        page = account.page("notes", **params).json()
        assert page.keys() == {"items", "next"}
        pages.append([item["key"] for item in page["items"]])
        if page["next"] is None:
            return pages
        params["after"] = page["next"]


def test_an_item_tells_key_version_value_and_time(ada: Account) -> None:
    ada.put("notes", "k", {"a": 1})
    ada.put("other", "k", 2)
    page = ada.page("notes")
    at = ada.events().json()["events"][0]["at"]
    assert page.json() == {"items": [{"key": "k", "version": 1, "value": {"a": 1}, "updated_at": at}], "next": None}
    assert page.headers["roost-seq"] == "2"


def test_keys_are_in_the_order_of_their_bytes(ada: Account) -> None:
    fill(ada, KEYS[::-1])
    assert walk(ada) == [KEYS]


@pytest.mark.parametrize("limit", [1, 2, 5, len(KEYS) - 1, len(KEYS), len(KEYS) + 1, 1000])
def test_pages_together_are_the_collection(ada: Account, limit: int) -> None:
    fill(ada, KEYS)
    fill(ada, ["not", "these"], "other")
    pages = walk(ada, limit=limit)
    assert [key for page in pages for key in page] == KEYS
    assert all(len(page) == limit for page in pages[:-1])
    assert 0 < len(pages[-1]) <= limit


def test_a_page_has_100_items_unless_asked_and_1000_at_most(ada: Account) -> None:
    keys = [f"{number:04}" for number in range(1001)]
    fill(ada, keys)
    assert len(ada.page("notes").json()["items"]) == 100
    assert [len(page) for page in walk(ada, limit=1000)] == [1000, 1]


PREFIXES = ["a", "a_", "a%", "a\\", "é", "x", "A", "a b", "a" * 200, "😀", "\uffff", "\U0010ffff"]


@pytest.mark.parametrize("prefix", PREFIXES, ids=lambda prefix: ascii(prefix)[:20])
def test_a_prefix_is_taken_literally(ada: Account, prefix: str) -> None:
    tails = ["", "_", "%", "x", "é", "\U0010ffff"] if len(prefix) < 200 else [""]
    others = ["a", "ab", "aab", "A", "b", "é", "e\u0301", "a\\", "a%b", "a_b", "B", "~", "\uffff"]
    keys = sorted({prefix + tail for tail in tails} | set(others), key=str.encode)
    fill(ada, keys)
    expected = [key for key in keys if key.startswith(prefix)]
    assert [key for page in walk(ada, prefix=prefix, limit=2) for key in page] == expected


def test_no_prefix_is_every_key(ada: Account) -> None:
    fill(ada, ["a", "b"])
    assert walk(ada, prefix="") == [["a", "b"]]


@pytest.mark.parametrize("prefix", ["a/b", "\n", "a" * 201])
def test_a_prefix_that_no_key_can_have_is_refused(ada: Account, prefix: str) -> None:
    fill(ada, ["a"])
    problem(ada.page("notes", prefix=prefix), 400, "invalid_name")


def test_deleted_documents_are_not_shown(ada: Account) -> None:
    fill(ada, ["a", "b", "c"])
    ada.delete("notes", "b")
    assert walk(ada) == [["a", "c"]]
    assert walk(ada, limit=1) == [["a"], ["c"]]


def test_a_collection_without_documents_is_empty(ada: Account) -> None:
    problem(ada.page("notes"), 404, "not_found")  # there is no such user
    ada.put("other", "k", 1)
    assert ada.page("notes").json() == {"items": [], "next": None}


def test_a_cursor_holds_whatever_happens_between_two_pages(ada: Account) -> None:
    fill(ada, ["b", "d", "f"])
    page = ada.page("notes", limit=2).json()
    ada.delete("notes", "d")  # the document that the cursor stands at
    fill(ada, ["a", "c", "e"])
    assert walk(ada, after=page["next"]) == [["e", "f"]]


def test_a_cursor_is_good_for_its_own_list_only(ada: Account, account: Callable[[], Account]) -> None:
    bob = account()
    for each in (ada, bob):
        fill(each, ["a1", "a2", "a3"])
        fill(each, ["a1"], "other")
    cursor = ada.page("notes", prefix="a", limit=1).json()["next"]
    assert walk(ada, prefix="a", after=cursor) == [["a2", "a3"]]
    problem(ada.page("notes", after=cursor), 400, "invalid_request")
    problem(ada.page("notes", prefix="a1", after=cursor), 400, "invalid_request")
    problem(ada.page("other", prefix="a", after=cursor), 400, "invalid_request")
    problem(bob.page("notes", prefix="a", after=cursor), 400, "invalid_request")


def test_a_cursor_may_go_with_another_limit(ada: Account) -> None:
    fill(ada, KEYS)
    cursor = ada.page("notes", limit=3).json()["next"]
    assert [key for page in walk(ada, after=cursor, limit=4) for key in page] == KEYS[3:]


@pytest.mark.parametrize("cursor", ["", "a", "a1", "=", "AAAA", "AQ", "%00", "é", "😀", "a" * 5000, "../..", "null"])
def test_what_is_no_cursor_is_refused(ada: Account, cursor: str) -> None:
    fill(ada, ["a", "b"])
    problem(ada.page("notes", after=cursor), 400, "invalid_request")


def test_a_cursor_that_was_changed_is_refused(ada: Account) -> None:
    fill(ada, ["aaa", "bbb"])
    cursor = ada.page("notes", limit=1).json()["next"]
    changed = [cursor[:-1], cursor + "A", cursor + "=", "B" + cursor[1:], cursor[1:], cursor.swapcase(), f" {cursor}"]
    for each in changed:
        problem(ada.page("notes", after=each), 400, "invalid_request")


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "", "1.5", "١", "99999999999999999999", "null", "+1"])
def test_a_limit_out_of_range_is_refused(ada: Account, limit: str) -> None:
    fill(ada, ["a"])
    problem(ada.page("notes", limit=limit), 400, "invalid_request")
    problem(ada.history("notes", "a", limit=limit), 400, "invalid_request")
    problem(ada.events(limit=limit), 400, "invalid_request")


@pytest.mark.parametrize("params", [{"limt": 1}, {"at_seq": 1}, {"limit": ["1", "1"]}, {"limit": ["1", "2"]}, {"": 1}])
def test_a_parameter_that_is_unknown_or_given_twice_is_refused(ada: Account, params: dict[str, Any]) -> None:
    fill(ada, ["a"])
    problem(ada.page("notes", **params), 400, "invalid_request")


# The whole of a user


def test_a_snapshot_is_every_document_at_one_seq(ada: Account) -> None:
    problem(ada.snapshot(), 404, "not_found")
    ada.put("notes", "a", {"n": 1})
    ada.put("notes", "b", None)
    ada.put("other", "é", [1])
    ada.put("gone", "k", 1)
    ada.delete("gone", "k")
    ada.put("notes", "a", {"n": 2})
    snapshot = ada.snapshot()
    assert snapshot.json() == {
        "user": ada.user,
        "seq": 6,
        "docs": {
            "notes": {"a": {"version": 6, "value": {"n": 2}}, "b": {"version": 2, "value": None}},
            "other": {"é": {"version": 3, "value": [1]}},
        },
    }
    assert (snapshot.headers["etag"], snapshot.headers["roost-seq"]) == ('"6"', "6")


def test_a_snapshot_that_the_reader_has_is_not_sent_again(ada: Account) -> None:
    ada.put("notes", "a", 1)
    tag = ada.snapshot().headers["etag"]
    known = ada.http.get(ada.at("docs"), headers={"if-none-match": tag})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)
    ada.put("notes", "a", 2)
    assert ada.http.get(ada.at("docs"), headers={"if-none-match": tag}).json()["seq"] == 2


def test_a_user_without_documents_has_an_empty_snapshot(ada: Account) -> None:
    ada.http.put(ada.at())
    snapshot = ada.snapshot()
    assert snapshot.json() == {"user": ada.user, "seq": 0, "docs": {}}
    assert snapshot.headers["etag"] == '"0"'
    assert ada.http.get(ada.at("docs"), headers={"if-none-match": '"0"'}).status_code == 304
