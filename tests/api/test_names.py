"""Names: which users, collections and keys there can be, and how they travel in a path."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.api import Account, Raw, delete_op, problem, put_op, raw
from tests.support.server import Server


def shown(text: str) -> str:
    return ascii(text)[:30]


LONGEST_USER = "u" + "-" * 127
KEYS = [
    "k",
    "k" * 200,
    "é" * 100,
    "😀" * 50,
    " ",
    ".",
    "..",
    "a b",
    "100%",
    "%41",
    "?x=1&y=2",
    "#fragment",
    "a+b",
    "a;b=c,d",
    'quote"d',
    "back\\slash",
    "~tilde",
    "history",
    "restore",
    "\u00a0",
    "e\u0301",
    "\u202e",
    "\ufeff",
    "\uffff",
    "\U0010ffff",
    "日本語",
]
BAD_KEYS = ["k" * 201, "é" * 101, "😀" * 50 + "k", "a/b", "/", "\0", "a\nb", "\x1f", "\x7f", "\x80", "\x9f"]
BAD_COLLECTIONS = ["A", "Notes", "1st", "_x", "a-b", "a.b", "a b", "é", "c" * 49, "a\n", "\0"]
BAD_USERS = ["-ada", ".ada", "_ada", "ada/x", "a b", "a+b", "é", "u" * 129, "ada\n", "\0", "a%41", "a,b", "a;b"]


@pytest.mark.parametrize("key", KEYS, ids=shown)
def test_a_key_comes_back_as_it_was_sent(ada: Account, key: str) -> None:
    assert ada.put("notes", key, "value").status_code == 201
    assert ada.value("notes", key) == "value"
    assert [item["key"] for item in ada.page("notes").json()["items"]] == [key]
    assert ada.snapshot().json()["docs"] == {"notes": {key: {"version": 1, "value": "value"}}}
    assert ada.events().json()["events"][0]["key"] == key
    assert ada.history("notes", key).json()["items"][0]["version"] == 1
    assert ada.restore("notes", key, 1).status_code == 200
    assert ada.batch(delete_op("notes", key)).json()["results"] == [{"collection": "notes", "key": key, "version": 3}]


def test_names_are_compared_by_their_bytes(ada: Account) -> None:
    ada.put("notes", "é", "composed")
    assert problem(ada.get("notes", "e\u0301"), 404, "not_found")
    assert problem(ada.get("notes", "É"), 404, "not_found")


@pytest.mark.parametrize("key", BAD_KEYS, ids=shown)
def test_a_bad_key_is_refused_everywhere(ada: Account, key: str) -> None:
    path = ada.doc("notes", key)
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        headers = {"content-type": "application/merge-patch+json" if method == "PATCH" else "application/json"}
        content = b"{}" if method in {"PUT", "PATCH"} else None
        problem(ada.http.request(method, path, content=content, headers=headers), 400, "invalid_name")
    problem(ada.history("notes", key), 400, "invalid_name")
    problem(ada.restore("notes", key, 1), 400, "invalid_name")
    if key != "\0":  # which no JSON may hold
        problem(ada.batch(put_op("notes", "good", 1), put_op("notes", key, 1)), 400, "invalid_name", "/ops/1")


def test_an_empty_key_is_refused_where_a_body_names_it(ada: Account) -> None:
    problem(ada.batch(put_op("notes", "", 1)), 400, "invalid_name", "/ops/0")
    # In a path there is no such segment, so there is no such resource.
    problem(ada.http.get(ada.at("docs", "notes", "")), 404, "not_found")


@pytest.mark.parametrize("collection", BAD_COLLECTIONS, ids=shown)
def test_a_bad_collection_is_refused_everywhere(ada: Account, collection: str) -> None:
    problem(ada.get(collection, "k"), 400, "invalid_name")
    problem(ada.put(collection, "k", 1), 400, "invalid_name")
    problem(ada.page(collection), 400, "invalid_name")
    problem(ada.events(collections=f"notes,{collection}"), 400, "invalid_name")
    if collection != "\0":  # which no JSON may hold
        problem(ada.batch(put_op(collection, "k", 1)), 400, "invalid_name", "/ops/0")


@pytest.mark.parametrize("collection", ["a", "a1_", "c" * 48])
def test_a_good_collection_is_taken(ada: Account, collection: str) -> None:
    assert ada.put(collection, "k", 1).status_code == 201
    assert ada.head()["collections"] == {collection: 1}


@pytest.mark.parametrize("user", BAD_USERS, ids=shown)
def test_a_bad_user_is_refused_everywhere(server: Server, admin: Account, user: str) -> None:
    bad = Account(server, user, admin.token)
    problem(bad.http.get(bad.at()), 400, "invalid_name")
    problem(bad.http.put(bad.at()), 400, "invalid_name")
    problem(bad.put("notes", "k", 1), 400, "invalid_name")
    problem(bad.events(), 400, "invalid_name")
    problem(bad.snapshot(), 400, "invalid_name")
    problem(bad.batch(put_op("notes", "k", 1)), 400, "invalid_name")
    bad.close()


@pytest.mark.parametrize("user", ["0", "a.b_c:d@e|f~g-h", LONGEST_USER])
def test_a_good_user_is_taken(server: Server, user: str) -> None:
    good = Account(server, user)
    assert good.put("notes", "k", 1).status_code == 201
    assert good.head()["user"] == user
    good.close()


def test_an_encoded_slash_does_not_split_a_segment(ada: Account) -> None:
    ada.put("notes", "history", "a document")
    problem(ada.http.get(ada.at() + "/docs/notes/history%2Fhistory"), 400, "invalid_name")
    problem(ada.http.get(ada.at() + "/docs%2Fnotes/history"), 404, "not_found")
    problem(ada.http.get(f"/v1/users%2F{ada.user}"), 404, "not_found")


def test_a_path_is_decoded_once(ada: Account) -> None:
    ada.put("notes", "%2F", "kept")
    assert ada.http.get(ada.at() + "/docs/notes/%252F").json() == "kept"
    problem(ada.http.get(ada.at() + "/docs/notes/%2F"), 400, "invalid_name")


def test_an_escape_may_be_in_small_letters_and_of_anything(ada: Account) -> None:
    ada.put("notes", "é", 1)
    for encoded in ("%c3%a9", "%C3%A9"):
        assert ada.http.get(f"{ada.at()}/docs/notes/{encoded}").json() == 1
    assert ada.http.get(f"{ada.at()}/docs/n%6Ftes/%c3%a9").json() == 1


@pytest.mark.parametrize("target", ["docs/notes/%", "docs/notes/%4", "docs/notes/%zz", "docs/notes/%+1"])
def test_a_broken_escape_is_refused(server: Server, ada: Account, target: str) -> None:
    assert _get(server, ada, target.encode()).code == "invalid_name"


@pytest.mark.parametrize(
    "octets",
    [b"%ff", b"%c3", b"%c3%28", b"%c0%af", b"%ed%a0%80", b"%ed%a0%bd%ed%b8%80", b"%f4%90%80%80", b"%f8%88%80%80%80"],
)
def test_what_is_not_utf_8_is_refused(server: Server, ada: Account, octets: bytes) -> None:
    for target in (b"docs/notes/" + octets, b"docs/" + octets, b"docs/notes/" + octets + b"/history"):
        answer = _get(server, ada, target)
        assert (answer.status, answer.code) == (400, "invalid_name")


def test_raw_octets_in_a_path_are_read_as_utf_8_or_refused(server: Server, ada: Account) -> None:
    ada.put("notes", "é", 1)
    assert _get(server, ada, "docs/notes/é".encode()).body == b"1"
    for octets in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\x7f"):
        assert _get(server, ada, b"docs/notes/" + octets).status == 400


def test_users_whose_names_are_alike_are_different_users(server: Server, account: Callable[[], Account]) -> None:
    base = account().user
    names = [f"{base}-x", f"{base}-X", f"{base}-x.", f"{base}-x:1"]
    for name in names:
        each = Account(server, name)
        assert each.put("notes", "mine", name).status_code == 201
        assert each.snapshot().json()["docs"]["notes"]["mine"]["value"] == name
        each.close()


def _get(server: Server, account: Account, target: bytes) -> Raw:
    path = b"/v1/users/" + account.user.encode() + b"/" + target
    return raw(
        server,
        b"GET " + path + b" HTTP/1.1\r\nHost: roost\r\nConnection: close\r\n"
        b"Authorization: Bearer " + account.token.encode() + b"\r\n\r\n",
    )
