"""Limits: what is just allowed and what is just too much, as the contract sets them and as settings change them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.api import JSON, Account, Raw, delete_op, problem, put_op, raw
from tests.support.server import Server

BODY = 1 << 20
VALUE = 256 << 10


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def test_a_value_of_256_kib_and_not_a_byte_more(ada: Account) -> None:
    assert ada.put("notes", "k", "x" * (VALUE - 2)).status_code == 201
    problem(ada.put("notes", "k", "x" * (VALUE - 1)), 413, "too_large")
    assert len(ada.value("notes", "k")) == VALUE - 2


def test_a_value_is_measured_as_it_is_stored(ada: Account) -> None:
    value = "é" * (VALUE // 2 - 1)
    # Spaces and escapes are not stored.
    assert ada.put_raw("notes", "k", b" " * 1000 + json.dumps(value[:1000]).encode()).status_code == 201
    assert ada.put_raw("notes", "k", json.dumps(value, ensure_ascii=False).encode()).status_code == 200
    problem(ada.put("notes", "k", value + "é"), 413, "too_large")


def test_a_patch_cannot_grow_a_value_beyond_the_limit(ada: Account) -> None:
    half = "x" * (VALUE // 2)
    ada.put("notes", "k", {"a": half})
    problem(ada.merge("notes", "k", {"b": half}), 413, "too_large")
    copies = [{"op": "copy", "from": "/a", "path": f"/{n}"} for n in range(500)]
    answer = ada.patch("notes", "k", copies)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert ada.head()["seq"] == 1


def test_a_patch_cannot_nest_a_value_beyond_the_limit(ada: Account) -> None:
    ada.put("notes", "k", {"a": nested(60)})
    inner = nested(60)
    refused = ada.patch("notes", "k", [{"op": "add", "path": "/a/0/0/0/0/0/0", "value": inner}])
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_json")
    merged: Any = 1
    for _ in range(65):
        merged = {"a": merged}
    assert ada.merge("notes", "k", merged).json()["code"] == "invalid_json"
    assert ada.head()["seq"] == 1


def test_64_levels_and_not_one_more(ada: Account) -> None:
    assert ada.put("notes", "k", nested(64)).status_code == 201
    told = problem_at(ada.put("notes", "k", nested(65)))
    assert told == "/0" * 64
    objects: Any = 1
    for _ in range(65):
        objects = {"a": objects}
    assert problem_at(ada.put("notes", "k", objects)) == "/a" * 64


def problem_at(response: httpx.Response) -> str:
    assert (response.status_code, response.json()["code"]) == (400, "invalid_json")
    pointer: str = response.json()["errors"][0]["pointer"]
    return pointer


def test_a_body_of_1_mib_and_not_a_byte_more(ada: Account) -> None:
    body = b"1".ljust(BODY)
    assert ada.put_raw("notes", "k", body).status_code == 201
    problem(ada.put_raw("notes", "k", body + b" "), 413, "too_large")

    def chunks(data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    assert ada.http.put(ada.doc("notes", "k"), content=chunks(body), headers={"content-type": JSON}).is_success


def test_a_body_without_end_is_cut_off(server: Server, ada: Account) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = raw(server, put_head(ada) + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 20)
    assert (answer.status, answer.code) == (413, "too_large")


def test_a_length_beyond_the_limit_is_refused_before_the_body_comes(server: Server, ada: Account) -> None:
    for length in (BODY + 1, 10**12, 2**63):
        answer = raw(server, put_head(ada) + f"Content-Length: {length}\r\n\r\n".encode())
        assert (answer.status, answer.code) == (413, "too_large"), length
    # One that the client asks about first is never sent at all.
    expecting = put_head(ada) + f"Expect: 100-continue\r\nContent-Length: {BODY + 1}\r\n\r\n".encode()
    assert raw(server, expecting).code == "too_large"


def test_10_000_documents_in_a_collection_and_not_one_more(ada: Account) -> None:
    for start in range(0, 10_000, 500):
        ops = [put_op("notes", f"k{n}", n) for n in range(start, start + 500)]
        assert ada.batch(*ops, prefer="return=minimal").status_code == 200
    assert ada.head()["collections"] == {"notes": 10_000}
    told = problem(ada.put("notes", "one more", 1), 422, "limit_reached")
    assert "10000" in told["detail"]
    problem(ada.batch(put_op("notes", "k1", 1), put_op("notes", "one more", 1)), 422, "limit_reached", "/ops/1")
    assert ada.put("notes", "k1", "replaced").status_code == 200
    assert ada.put("other", "k", 1).status_code == 201
    assert ada.batch(delete_op("notes", "k0"), put_op("notes", "one more", 1)).status_code == 200
    problem(ada.merge("notes", "two more", {}), 422, "limit_reached")
    problem(ada.restore("notes", "k0", 1), 422, "limit_reached")


def test_a_user_has_at_most_100_collections(ada: Account) -> None:
    assert ada.batch(*(put_op(f"c{n}", "k", n) for n in range(100))).status_code == 200
    problem(ada.put("one_more", "k", 1), 422, "limit_reached")
    ada.delete("c0", "k")
    assert ada.put("one_more", "k", 1).status_code == 201


# Settings change them


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = {
        "body_bytes_max": 500, "value_bytes_max": 100, "depth_max": 2, "batch_ops_max": 2, "documents_max": 3,
        "collections_max": 2, "page_items_max": 3, "page_items": 2, "page_bytes_max": 120, "snapshot_bytes_max": 270,
        "wait_s_max": 2, "idempotency_hours": 0,
    }  # fmt: skip
    data = tmp_path_factory.mktemp("tight") / "data"
    with Server(data, limits=json.dumps(limits), default_policy="cas", body_timeout_s="1") as server:
        yield server


@pytest.fixture
def eve(tight: Server, account: Callable[[], Account]) -> Iterator[Account]:
    """A user of the tight server."""
    eve = Account(tight, account().user)
    yield eve
    eve.close()


def test_settings_change_the_limits(eve: Account) -> None:
    problem(eve.put_raw("notes", "k", b"1".ljust(501)), 413, "too_large")
    problem(eve.put("notes", "k", "x" * 99), 413, "too_large")
    assert problem_at(eve.put("notes", "k", nested(3))) == "/0/0"
    problem(eve.batch(*(put_op("notes", f"k{n}", n) for n in range(3))), 413, "too_large", "/ops")
    for n in range(3):
        assert eve.put("notes", f"k{n}", n).status_code == 201
    problem(eve.put("notes", "k3", 1), 422, "limit_reached")
    eve.put("other", "k", 1)
    problem(eve.put("third", "k", 1), 422, "limit_reached")
    assert len(eve.page("notes").json()["items"]) == 2
    assert len(eve.page("notes", limit=3).json()["items"]) == 3
    for answer in (eve.page("notes", limit=4), eve.events(limit=4), eve.events(wait=2.1)):
        problem(answer, 400, "invalid_request")
    problem(eve.put("notes", "k0", 1), 428, "precondition_required")


def test_settings_show_in_the_document(tight: Server) -> None:
    told = httpx.get(f"{tight.url}/openapi.json", verify=False).json()
    parameters = told["paths"]["/v1/users/{user}/events"]["get"]["parameters"]
    schemas = {parameter["name"]: parameter["schema"] for parameter in parameters}
    assert schemas["limit"]["maximum"] == 3
    assert schemas["wait"]["maximum"] == 2
    assert told["components"]["schemas"]["Batch"]["properties"]["ops"]["maxItems"] == 2


def test_a_page_ends_early_rather_than_grow_too_large(eve: Account) -> None:
    for n in range(3):
        eve.put("notes", f"k{n}", "x" * 90)
    page = eve.page("notes", limit=3).json()
    assert 0 < len(page["items"]) < 3
    keys, cursor = [item["key"] for item in page["items"]], page["next"]
    while cursor is not None:
        page = eve.page("notes", limit=3, after=cursor).json()
        keys, cursor = keys + [item["key"] for item in page["items"]], page["next"]
    assert keys == ["k0", "k1", "k2"]
    log = eve.events(limit=3).json()
    assert 0 < len(log["events"]) < 3
    assert log["seq"] == log["events"][-1]["seq"]


def test_a_snapshot_that_would_be_too_large_is_refused(eve: Account) -> None:
    for n in range(3):
        eve.put("notes", f"k{n}", "x" * 90)
    problem(eve.snapshot(), 413, "too_large")
    assert len(eve.snapshot(at_seq=2).json()["docs"]["notes"]) == 2


def test_an_idempotency_key_is_forgotten_in_time(eve: Account) -> None:
    """After 24 hours, and here at once."""
    assert eve.put("notes", "k", 1, idempotency_key="one").status_code == 201
    again = eve.put("notes", "k", 1, idempotency_key="one", if_match="*")
    assert "idempotent-replayed" not in again.headers
    assert again.headers["etag"] == '"2"'
    assert eve.delete("notes", "k", idempotency_key="one", if_match="*").status_code == 204


def test_a_body_that_does_not_come_is_not_waited_for_without_end(tight: Server, eve: Account) -> None:
    for headers in (b"Content-Length: 10\r\n\r\n1", b"Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n"):
        answer = raw(tight, put_head(eve) + headers)
        assert (answer.status, answer.code) == (400, "invalid_request")
    assert eve.http.get(eve.at()).status_code == 404


def test_a_slow_body_that_comes_in_time_is_taken(tight: Server, eve: Account) -> None:
    def slowly() -> Iterator[bytes]:
        for byte in b'"slow"':
            yield bytes([byte])

    assert eve.http.put(eve.doc("notes", "k"), content=slowly(), headers={"content-type": JSON}).status_code == 201
    assert isinstance(raw(tight, b"GET /healthz HTTP/1.1\r\nHost: roost\r\nConnection: close\r\n\r\n"), Raw)


def put_head(account: Account) -> bytes:
    head = f"PUT {account.doc('notes', 'k')} HTTP/1.1\r\nHost: roost\r\nContent-Type: {JSON}\r\n"
    return f"{head}Authorization: Bearer {account.token}\r\n".encode()
