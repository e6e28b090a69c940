"""What is true of every request, whatever its route."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import structlog

from roost.core.errors import Code, RoostError
from roost.core.limits import Limits
from roost.core.ports import DocumentRef, EngineUnavailable
from roost.settings import Settings
from roost.wire.problems import PROBLEMS
from tests.unit.wire.support import JSON, UI, Server


def test_every_answer_has_an_id_of_its_own(server: Server) -> None:
    responses = [
        server.get(UI),
        server.get("/nowhere"),
        server("PUT", UI, b"{"),
        server("OPTIONS", UI),
        server("FOO", UI),
    ]
    ids = {response.headers["roost-request-id"] for response in responses}
    assert len(ids) == len(responses)
    # The process first, then the number of the request there.
    assert len({each[:16] for each in ids}) == 1
    assert all(re.fullmatch(r"[0-9a-f]{26}", each) for each in ids)


def test_ids_are_made_here(server: Server) -> None:
    assert server("GET", UI, headers={"Roost-Request-Id": "mine"}).headers["roost-request-id"] != "mine"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nowhere",
        "/v1",
        "/v1/users/",
        "/v1/users/ada/",
        f"{UI}/",
        f"{UI}/more",
        "/v1/users/ada/docs//ui",
        "*",
        "//",
        "/v1/users/ada%2Fdocs",
    ],
)
def test_what_is_not_served_is_not_found(server: Server, path: str) -> None:
    response = server("GET", path, token=None)
    if path == "/v1/users/ada%2Fdocs":
        assert response.refusal == (401, "unauthenticated")
    else:
        assert response.refusal == (404, "not_found")
        assert server("OPTIONS", path, token=None).refusal == (404, "not_found")


def test_another_method_is_told_which_there_are(server: Server) -> None:
    response = server("POST", UI, token=None)
    assert response.refusal == (405, "method_not_allowed")
    assert response.headers["allow"] == "GET, PUT, PATCH, DELETE, HEAD, OPTIONS"
    assert server("TRACE", "/healthz").headers["allow"] == "GET, HEAD, OPTIONS"
    options = server("OPTIONS", "/v1/users/ada/batch", token=None)
    assert (options.status, options.headers["allow"]) == (204, "POST, OPTIONS")
    assert server("HEAD", "/v1/users/ada/batch").status == 405


@pytest.mark.parametrize(
    ("segment", "key"),
    [
        ("ui", "ui"),
        ("a%20b", "a b"),
        ("%C3%A9", "é"),
        ("Ã©", "é"),  # raw UTF-8
        ("%25", "%"),
        ("a+b", "a+b"),
        ("%2e%2E", ".."),
        ("..", ".."),
        ("a;b=c", "a;b=c"),
        ("%F0%9F%A6%89", "🦉"),
        ("a" * 200, "a" * 200),
    ],
)
def test_keys_are_decoded_once(server: Server, segment: str, key: str) -> None:
    assert server.get(f"/v1/users/ada/docs/preferences/{segment}").status == 200
    assert server.gate.asked[0][1] == DocumentRef("ada", "preferences", key)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/users/ada/docs/preferences/a%2Fb",
        "/v1/users/ada/docs/preferences/%ff",
        "/v1/users/ada/docs/preferences/\xff",
        "/v1/users/ada/docs/preferences/%C3",
        "/v1/users/ada/docs/preferences/%ED%A0%80",
        "/v1/users/ada/docs/preferences/%00",
        "/v1/users/ada/docs/preferences/%7F",
        "/v1/users/ada/docs/preferences/%0a",
        "/v1/users/ada/docs/preferences/%zz",
        "/v1/users/ada/docs/preferences/50%",
        "/v1/users/ada/docs/preferences/" + "a" * 201,
        "/v1/users/ada/docs/preferences/" + "%C3%A9" * 101,
        "/v1/users/ada/docs/Preferences/ui",
        "/v1/users/ada/docs/" + "a" * 49 + "/ui",
        "/v1/users/-ada/docs/preferences/ui",
        "/v1/users/a%2Fb/docs/preferences/ui",
        "/v1/users/" + "a" * 129 + "/docs/preferences/ui",
        "/v1/users/%ff",
    ],
)
def test_bad_names_are_refused(server: Server, path: str) -> None:
    assert server.get(path).refusal == (400, "invalid_name")
    assert not server.gate.asked


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("nope=1", "nope"),
        ("at_seq=1&at_seq=1", "at_seq"),
        ("AT_SEQ=1", "AT_SEQ"),
        ("%61t_seq=1&at_seq=1", "at_seq"),
        ("=1", "''"),
        ("x", "x"),
    ],
)
def test_unknown_and_repeated_query_parameters_are_named(server: Server, query: str, name: str) -> None:
    response = server.get(f"{UI}?{query}")
    assert response.refusal == (400, "invalid_request")
    assert name in response.json["detail"]


@pytest.mark.parametrize("query", ["prefix=%ff", "prefix=\xff", "&".join(f"p{n}=1" for n in range(2000))])
def test_a_query_that_cannot_be_read_is_refused(server: Server, query: str) -> None:
    assert server.get(f"/v1/users/ada/docs/preferences?{query}").refusal == (400, "invalid_request")


def test_operations_without_parameters_take_none(server: Server) -> None:
    assert server("PUT", f"{UI}?at_seq=1", b"1").refusal == (400, "invalid_request")
    assert server.get("/healthz?x=1").refusal == (400, "invalid_request")


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer x", "Bearer a.b.c", "Bearer é", "Bearer " + "a" * 9000],
)
def test_without_a_good_token_nothing_is_told(server: Server, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, target in (
        ("GET", UI),
        ("PUT", UI),
        ("GET", "/metrics"),
        ("GET", f"{UI}?nope=1"),
        ("GET", "/v1/users/!"),
    ):
        response = server(method, target, headers=headers, token=None)
        assert response.refusal == (401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer"
    assert not server.gate.asked


def test_the_scheme_has_any_case(server: Server) -> None:
    assert server("GET", UI, headers={"Authorization": f"bEARER {server.token}"}, token=None).status == 200


def test_two_tokens_are_refused(server: Server) -> None:
    assert server("GET", UI, headers={"Authorization": "Bearer other"}).refusal == (400, "invalid_request")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
def test_some_things_are_told_to_anybody(server: Server, path: str) -> None:
    assert server("GET", path, token=None).status == 200
    head = server("HEAD", path, token=None)
    assert (head.status, head.body) == (200, b"")


def test_ready_means_that_the_gate_says_so(server: Server) -> None:
    server.gate.outcomes["ready"] = EngineUnavailable("The engine does not answer.")
    response = server.get("/readyz")
    assert response.refusal == (503, "unavailable")
    assert response.headers["retry-after"] == "1"
    assert server.get("/healthz").status == 200


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_its_answer(server: Server, code: Code) -> None:
    server.gate.outcomes["document"] = RoostError(code, "Because.", pointer="/a", retry_after_s=3)
    response = server.get(UI)
    assert response.refusal == (PROBLEMS[code][0], code.value)
    assert response.json["detail"] == "Because."
    assert response.json["title"] == PROBLEMS[code][1]
    assert response.json["type"] == f"/docs#{code.value}"
    assert response.json["errors"] == [{"pointer": "/a", "message": "Because."}]
    assert response.headers["cache-control"] == "no-store"
    assert (response.headers.get("retry-after") == "3") == (response.status in (429, 503))
    assert ("www-authenticate" in response.headers) == (response.status == 401)


def test_an_error_that_nobody_foresaw_tells_nothing(server: Server) -> None:
    server.gate.outcomes["document"] = ValueError("select secret from users")
    with structlog.testing.capture_logs() as logs:
        response = server.get(UI)
    assert response.refusal == (500, "internal")
    assert b"secret" not in response.body
    assert b"ValueError" not in response.body
    (entry,) = logs
    assert (entry["log_level"], entry["exc_info"]) == ("error", True)
    assert entry["request_id"] == response.headers["roost-request-id"]
    assert "ada" not in str(entry)


LIMITED = Settings(limits=Limits(body_bytes_max=10), body_timeout_s=0.01)


def part(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize(
    ("messages", "length", "status"),
    [
        ([part(b"1234567890", more=False)], None, 200),
        ([part(b"12345", more=True), part(b"", more=True), part(b"67890", more=False)], None, 200),
        ([part(b"12345678901", more=False)], None, 413),
        ([part(b"1234567890", more=True), part(b"1", more=True)], None, 413),
        ([], "11", 413),
        ([], "99999999999999999999999", 413),
        ([part(b"123", more=False)], "5", 400),
        ([part(b"123", more=True), {"type": "http.disconnect"}], "5", 400),
        ([part(b"123", more=True), {"type": "http.disconnect"}], None, 400),
        ([part(b"123", more=True)], None, 400),  # and nothing more, ever
    ],
)
def test_bodies_are_whole_and_bounded(keys: Path, messages: list[Any], length: str | None, status: int) -> None:
    server = Server(keys, LIMITED)
    headers = {**JSON, **({"Content-Length": length} if length else {})}
    response = server("PUT", UI, headers=headers, messages=messages)
    assert response.status == status
    assert bool(server.gate.asked) == (status == 200)


def test_limits_come_from_settings(keys: Path) -> None:
    server = Server(keys, Settings(limits=Limits(page_items_max=3, page_items=2, batch_ops_max=1, wait_s_max=5)))
    assert server.get("/v1/users/ada/docs/a?limit=3").status == 200
    assert server.get("/v1/users/ada/docs/a?limit=4").refusal == (400, "invalid_request")
    assert server.get("/v1/users/ada/docs/a").status == 200
    assert server.gate.asked[-1][5] == 2
    assert server.get("/v1/users/ada/events?wait=6").refusal == (400, "invalid_request")
    op = {"op": "delete", "collection": "a", "key": "b"}
    assert server("POST", "/v1/users/ada/batch", {"ops": [op] * 2}).refusal == (413, "too_large")


def test_websockets_are_turned_away(server: Server) -> None:
    sent: list[Any] = []

    async def connect() -> None:
        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await server.app({"type": "websocket", "path": "/v1/users/ada/sync"}, receive, send)

    asyncio.run(connect())
    assert sent == ["websocket.close"]


def test_metrics_count_routes_and_name_nobody(server: Server) -> None:
    server.get(UI.replace("ada", "somebody"))
    server.get("/nowhere/somebody")
    server.gate.outcomes["enter"] = RoostError(Code.FORBIDDEN, "This is for services and admins.")
    assert server.get("/metrics").refusal == (403, "forbidden")
    del server.gate.outcomes["enter"]
    response = server("GET", "/metrics", token=server.issue("service", "prometheus"))
    assert (response.status, response.headers["content-type"].partition(";")[0]) == (200, "text/plain")
    text = response.body.decode()
    route = 'method="GET",route="/v1/users/{user}/docs/{collection}/{key}"'
    assert re.search(rf"^roost_http_requests_total{{{re.escape(route)},status=\"200\"}} [1-9]", text, re.MULTILINE)
    assert re.search(rf"^roost_http_request_seconds_count{{{re.escape(route)}}} [1-9]", text, re.MULTILINE)
    assert re.search(r'^roost_http_requests_total{method="other",route="unknown",status="404"} ', text, re.MULTILINE)
    assert "somebody" not in text


def test_requests_are_logged_for_debugging_only(keys: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        Server(keys).get(UI)
        assert not logs
        response = Server(keys, Settings(log_level="debug")).get(UI)
    (entry,) = logs
    assert entry["request_id"] == response.headers["roost-request-id"]
    assert (entry["method"], entry["status"]) == ("GET", 200)
    assert "ada" not in str(entry)
