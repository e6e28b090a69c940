"""Bad input inside requests that HTTP has nothing against: each is told what is wrong, and the server lives on."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest

from tests.support.api import JSON, JSON_PATCH, MERGE_PATCH, Account, patch_op, problem

pytestmark = pytest.mark.usefixtures("unharmed")

# Bodies that are no JSON, or that two readers would understand differently; with a pointer where there is a place.
BODIES: dict[str, tuple[bytes, str | None]] = {
    "nothing": (b"", None),
    "white space": (b" \r\n\t ", None),
    "half an object": (b'{"a":', None),
    "half a text": (b'"abc', None),
    "half an escape": (b'"\\u12', None),
    "half a number": (b"-", None),
    "half a word": (b"tru", None),
    "two values": (b"1 2", None),
    "a trailing comma": (b"[1,]", None),
    "a comment": (b"1 // one", None),
    "single quotes": (b"{'a':1}", None),
    "no quotes": (b"{a:1}", None),
    "a leading zero": (b"01", None),
    "a plus": (b"+1", None),
    "hexadecimal": (b"0x10", None),
    "NUL": (b"\0", None),
    "a control character": (b'"a\nb"', None),
    "a bad escape": (b'"\\x41"', None),
    "form": (b"a=1&b=2", None),
    "XML": (b"<a/>", None),
    "a byte order mark": (b"\xef\xbb\xbf{}", None),
    "UTF-16": ('{"a":1}'.encode("utf-16"), None),
    "Latin-1": (b'"\xe9"', None),
    "half a character": (b'"\xc3"', None),
    "an overlong character": (b'"\xc0\xaf"', None),
    "a surrogate in UTF-8": (b'"\xed\xa0\x80"', None),
    "MessagePack": (b"\x81\xa1a\x01", None),
    "a key twice": (b'{"a":1,"a":2}', ""),
    "a key twice inside": (b'{"x":[{"a":1},{"a":1,"b":2,"a":1}]}', "/x/1"),
    "a key twice by an escape": (b'{"ab":1,"a\\u0062":2}', ""),
    "half a surrogate pair": (b'"\\ud800"', ""),
    "the other half": (b'["\\udc00"]', "/0"),
    "halves in the wrong order": (b'{"a":"\\udc00\\ud800"}', "/a"),
    "half a pair in a key": (b'{"\\ud800":1}', ""),
    "half a pair in a key inside": (b'{"x":[{"\\ud800":1}]}', "/x/0"),
    "NUL in a text": (b'{"a":"x\\u0000y"}', "/a"),
    "NUL in a key": (b'{"a\\u0000":1}', ""),
    "beyond 2^53": (b"9007199254740993", ""),
    "beyond -2^53": (b"[-9007199254740993]", "/0"),
    "just beyond, as a fraction": (b"[9007199254740992.5]", "/0"),
    "beyond 2^64": (b'{"a":18446744073709551616}', "/a"),
    "beyond every float": (b'{"a":1e400}', "/a"),
    "beyond in an exponent": (b"[1E16]", "/0"),
    "many digits": (b"[" + b"9" * 5000 + b"]", "/0"),
    "not a number": (b"[NaN]", "/0"),
    "infinity": (b"-Infinity", ""),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_body_that_is_no_json_of_ours_is_refused(ada: Account, case: str) -> None:
    body, pointer = BODIES[case]
    refused = ada.put_raw("notes", "k", body)
    problem(refused, 400, "invalid_json", pointer)
    ada.http.put(ada.at())
    for method, path, media_type in (
        ("PATCH", ada.doc("notes", "k"), MERGE_PATCH),
        ("PATCH", ada.doc("notes", "k"), JSON_PATCH),
        ("POST", ada.at("batch"), JSON),
        ("POST", ada.at("docs", "notes", "k", "restore"), JSON),
    ):
        refused = ada.http.request(method, path, content=body, headers={"content-type": media_type})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_json"), (method, path)
    assert ada.head()["seq"] == 0


DEEP = {
    "arrays": b"[" * 500_000,
    "closed arrays": b"[" * 500_000 + b"]" * 500_000,
    "objects": b'{"a":' * 150_000,
    "closed objects": b'{"a":' * 150_000 + b"1" + b"}" * 150_000,
    "mixed": b'[{"a":' * 100_000,
    "just too deep for a parser": b"[" * 1100 + b"]" * 1100,
}


@pytest.mark.parametrize("case", DEEP)
def test_deep_nesting_is_refused(ada: Account, case: str) -> None:
    for path, method, media_type in (
        (ada.doc("notes", "k"), "PUT", JSON),
        (ada.doc("notes", "k"), "PATCH", MERGE_PATCH),
        (ada.at("batch"), "POST", JSON),
        (ada.at(), "PUT", JSON),
    ):
        refused = ada.http.request(method, path, content=DEEP[case], headers={"content-type": media_type})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_json")
        assert len(refused.content) < 4_000


def test_many_small_things_are_no_trouble(ada: Account) -> None:
    """As many members and elements as a value may hold; a patch with as many operations as it may have."""
    members = {f"{number:x}": 0 for number in range(25_000)}
    assert ada.put("notes", "members", members).status_code == 201
    assert ada.put("notes", "elements", [0] * 120_000).status_code == 201
    assert ada.merge("notes", "members", dict.fromkeys(members)).json() == {}
    operations: list[dict[str, Any]] = [{"op": "add", "path": "/0", "value": number} for number in range(500)]
    assert ada.patch("notes", "elements", operations).status_code == 200
    too_many = [*operations, operations[0]]
    problem(ada.patch("notes", "elements", too_many, if_match='"1"'), 413, "too_large", "")
    problem(ada.batch(patch_op("notes", "elements", too_many, if_version=1)), 413, "too_large", "/ops/0/patch")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP", "gzip, identity", "x", "identity, gzip"])
def test_a_compressed_body_is_refused(ada: Account, encoding: str) -> None:
    bomb = zlib.compress(b"0" * 50_000_000) if encoding == "deflate" else gzip.compress(b'{"a":1}')
    problem(ada.put_raw("notes", "k", bomb, content_encoding=encoding), 415, "unsupported_media_type")
    assert ada.put_raw("notes", "k", b"1", content_encoding="identity").status_code == 201


@pytest.mark.parametrize("media_type", ["", ";", "/", "application/", "json", "a" * 5000, "é", "application/json\t;"])
def test_odd_media_types_are_taken_or_refused(ada: Account, media_type: str) -> None:
    headers = [(b"content-type", media_type.strip().encode())]
    answer = ada.http.put(ada.doc("notes", "k"), content=b"1", headers=headers)
    if not answer.is_success:
        problem(answer, 415, "unsupported_media_type")


def test_two_media_types_are_refused(ada: Account) -> None:
    headers = [("content-type", JSON), ("content-type", "text/plain")]
    problem(ada.http.put(ada.doc("notes", "k"), content=b"1", headers=headers), 400, "invalid_request")


QUERIES = [
    "&".join(f"a{number}=1" for number in range(5_000)),
    "&" * 5_000,
    "=" * 5_000,
    "limit=1&" * 20,
    "limit=1&limit=2",
    "limit=1&LIMIT=1",
    "limit[]=1",
    "limit",
    "limit=",
    "limit=1;after=x",
    "limit=%",
    "limit=%zz",
    "limit=%ff",
    "limit=%00",
    "%ff=1",
    "%00=1",
    "prefix=%ff",
    "prefix=%ed%a0%80",
    "prefix=%00",
    "after=%ff",
    "after=" + "A" * 20_000,
    "limit=" + "9" * 20_000,
    "limit=1e400",
    "limit=NaN",
    "__proto__=1",
    "x=" + "%" * 1_000,
]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query[:20])
def test_a_bad_query_is_refused(ada: Account, query: str) -> None:
    ada.put("notes", "k", 1)
    answer = ada.http.get(ada.at("docs", "notes") + "?" + query)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] in {"invalid_request", "invalid_name"}
    assert len(answer.content) < 4_000 + len(query)


def test_an_empty_query_is_none(ada: Account) -> None:
    ada.put("notes", "k", 1)
    assert ada.http.get(ada.at("docs", "notes") + "?").status_code == 200


def test_what_looks_like_sql_or_a_template_is_text(ada: Account) -> None:
    nasty = ["'; DROP TABLE roost.users; --", '" OR 1=1', "$1", "%s", "%(x)s", "{0}", "{{7*7}}", "${jndi:x}", "\\"]
    for text in nasty:
        assert ada.put("notes", text, {text: text}).status_code == 201
        assert ada.value("notes", text) == {text: text}
        assert [item["key"] for item in ada.page("notes", prefix=text).json()["items"]] == [text]
    assert len(ada.page("notes").json()["items"]) == len(nasty)


def test_a_refusal_does_not_repeat_a_value(ada: Account) -> None:
    secret = "4111111111111111"
    for body in (
        b'{"card":"%s","card":1}' % secret.encode(),
        b'{"card":"%s","x":1e400}' % secret.encode(),
        b'{"card":"%s"' % secret.encode(),
        b"%s%s" % (secret.encode(), secret.encode()),
    ):
        refused = ada.put_raw("notes", "k", body)
        assert refused.status_code == 400
        assert secret not in refused.text
    ada.put("notes", "k", {"card": secret})
    for operations in ([{"op": "test", "path": "/card", "value": "0"}], [{"op": "remove", "path": "/card/x"}]):
        refused = ada.patch("notes", "k", operations)
        assert refused.status_code == 409
        assert secret not in refused.text


def test_random_bytes_are_refused(ada: Account) -> None:
    seed = 1
    for length in (1, 2, 3, 10, 100, 1_000, 10_000):
        octets = bytearray()
        for _ in range(length):
            seed = seed * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
            octets.append(seed >> 56)
        answer = ada.put_raw("notes", "k", bytes(octets))
        try:
            json.loads(octets)
        except ValueError:
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")
