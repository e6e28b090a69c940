"""The OpenAPI document tells what the route table and the shapes say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from roost.core.errors import Code
from roost.core.limits import Limits
from roost.settings import Settings
from roost.wire.contract import OPERATIONS
from roost.wire.problems import PROBLEMS
from tests.unit.wire.support import UI, Server


@pytest.fixture
def api(server: Server) -> Any:
    return server("GET", "/openapi.json", token=None).json


def resolve(api: Any, schema: Any) -> Any:
    """A validator of `schema` with the document's components at hand."""
    return jsonschema_rs.Draft202012Validator({**schema, "components": api["components"]})


def test_every_operation_is_told(api: Any) -> None:
    assert api["openapi"] == "3.1.0"
    told = {(method.upper(), path) for path, item in api["paths"].items() for method in item}
    assert told == {(operation.method, operation.path) for operation in OPERATIONS}
    ids = [item[method]["operationId"] for item in api["paths"].values() for method in item]
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere(api: Any) -> None:
    references = set(re.findall(r'"#/components/schemas/(\w+)"', str(api).replace("'", '"')))
    assert references <= set(api["components"]["schemas"])
    assert set(api["components"]["schemas"]) <= references | {"Problem"}


def test_every_problem_is_told(api: Any) -> None:
    assert {code.value: status for code, (status, _) in PROBLEMS.items()} == {
        code: problem["status"] for code, problem in api["x-problems"].items()
    }


def test_every_code_is_told_where_it_can_happen(api: Any) -> None:
    told = {
        (operation["operationId"], status, code)
        for item in api["paths"].values()
        for operation in item.values()
        for status, response in operation["responses"].items()
        for code in re.findall("`([a-z_]+)`:", response["description"])
    }
    assert told == {
        (operation.handler.__name__, str(PROBLEMS[code][0]), code.value)
        for operation in OPERATIONS
        for code in (*operation.errors, Code.INTERNAL, Code.INVALID_REQUEST, Code.RATE_LIMITED)
    } | {
        (operation.handler.__name__, str(PROBLEMS[code][0]), code.value)
        for operation in OPERATIONS
        if not operation.public
        for code in (Code.UNAUTHENTICATED, Code.FORBIDDEN, Code.INVALID_NAME, Code.UNAVAILABLE, Code.OVERLOADED)
    } | {
        (operation.handler.__name__, "500", Code.CORRUPT.value) for operation in OPERATIONS if not operation.public
    } | {
        (operation.handler.__name__, "410", Code.USER_ERASED.value)
        for operation in OPERATIONS
        if "/{user}" in operation.path
    }
    # There is one region, and what has no operation has no place in the document.
    assert set(Code) - {Code(code) for _, _, code in told} == {
        Code.HOME_CONFLICT,
        Code.METHOD_NOT_ALLOWED,
    }


def test_bounds_are_those_of_the_settings(keys: Path) -> None:
    server = Server(keys, Settings(limits=Limits(page_items_max=33, batch_ops_max=44, wait_s_max=5)))
    api = server("GET", "/openapi.json").json
    assert "x-at-most" not in str(api)
    log = {one["name"]: one["schema"] for one in api["paths"]["/v1/users/{user}/events"]["get"]["parameters"]}
    assert (log["limit"]["maximum"], log["wait"]["maximum"], log["wait"]["minimum"]) == (33, 5, 0)
    schemas = api["components"]["schemas"]
    assert schemas["Batch"]["properties"]["ops"]["maxItems"] == 44
    assert schemas["NewEvents"]["properties"]["events"]["maxItems"] == 33
    assert schemas["PatchOp"]["properties"]["patch"]["maxItems"] == 44


def test_only_public_operations_need_no_token(api: Any) -> None:
    public = {path for path, item in api["paths"].items() for one in item.values() if one.get("security") == []}
    # The token of a WebSocket may come in its first frame; the others are for those who have none yet.
    assert public == {
        "/healthz",
        "/readyz",
        "/v1/users/{user}/sync",
        "/v1/auth/signup",
        "/v1/auth/login",
        "/v1/auth/authorize",
        "/v1/auth/token",
        "/v1/auth/revoke",
        "/.well-known/oauth-authorization-server",
        "/.well-known/jwks.json",
    }
    assert api["security"] == [{"token": []}]


@pytest.mark.parametrize(
    ("method", "target", "path", "body"),
    [
        ("GET", UI, "/v1/users/{user}/docs/{collection}/{key}", b""),
        ("GET", f"{UI}/history", "/v1/users/{user}/docs/{collection}/{key}/history", b""),
        ("GET", "/v1/users/ada/docs", "/v1/users/{user}/docs", b""),
        ("GET", "/v1/users/ada/docs/preferences", "/v1/users/{user}/docs/{collection}", b""),
        ("GET", "/v1/users/ada/events", "/v1/users/{user}/events", b""),
        ("GET", "/v1/users/ada", "/v1/users/{user}", b""),
        ("GET", "/v1/users", "/v1/users", b""),
        ("GET", "/healthz", "/healthz", b""),
        (
            "POST",
            "/v1/users/ada/batch",
            "/v1/users/{user}/batch",
            b'{"ops":[{"op":"delete","collection":"a","key":"b"}]}',
        ),
        ("GET", "/v1/users/!", "/v1/users/{user}", b""),
        ("PUT", UI, "/v1/users/{user}/docs/{collection}/{key}", b"{"),
    ],
)
def test_answers_are_as_they_are_told(
    server: Server, api: Any, method: str, target: str, path: str, body: bytes
) -> None:
    response = server(method, target, body)
    told = api["paths"][path][method.lower()]["responses"][str(response.status)]
    media_type = response.headers["content-type"]
    resolve(api, told["content"][media_type]["schema"]).validate(response.json)
    for name, header in told.get("headers", {}).items():
        assert not header["required"] or name.lower() in response.headers


def test_pages_are_served_as_they_are(keys: Path) -> None:
    server = Server(keys, pages=[("/docs", b"text/html; charset=utf-8", b"<p>hello")])
    response = server("GET", "/docs", token=None)
    assert (response.status, response.body) == (200, b"<p>hello")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert server("HEAD", "/docs", token=None).headers["content-length"] == "8"
