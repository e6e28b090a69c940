"""The OpenAPI document is true: whatever it allows and whatever it forbids is answered as it says.

Schemathesis makes the requests, from the document itself: all that it can tell apart (its coverage phase), then what
chance adds, from a fixed seed. Every answer is held to the statuses, headers, media types and schemas that the
document has for it; bad data must be refused, good data be taken.
"""

from __future__ import annotations

import json
from itertools import count
from typing import Any, TypeAlias

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, seed, settings
from schemathesis import CheckContext, GenerationMode
from schemathesis.config import SchemathesisConfig

from roost.core.limits import Limits
from roost.wire import openapi
from roost.wire.contract import OPERATIONS
from tests.support.api import Account
from tests.support.server import Server

SEED = 20_261_122
SHORT = 15
LONG = 400
WAIT_S = 0.01
"""How long a poll of these tests waits, where it asks for more."""

# What is refused though a schema has nothing against it. What depends on the state is refused with another status.
UNTOLD = (
    "If-Match and If-None-Match together can never hold",
    "`at` and `at_seq` name two moments",
    "`after` is not a cursor",
    "This server keeps users whose home is",
    "Expected `int`, got `float`",  # to JSON Schema, 1.0 is an integer
    "Expected `int | null`, got `float`",
    "A `delete` has the value null",
    "A key is 1 to 200 bytes",  # characters are what schemas count
    "Mutation ",  # that its number is missing
    "This is a WebSocket",  # no handshake is told in the document
    "A password is 8 to 1024",  # once it is normalized
    "Say whose password",
    "A parameter is given twice",  # of a form
    "A redirect URI is",
    "The policies '",  # Cedar is no JSON Schema
    "Where users are sent back to",
    "What a service may do",
    "A scope is as",
    "A service names its scopes",
    "This is no place in",  # the trail, or an export
    "No document has such a key",
    "After this you could not change",
    "A user is erased by DELETE",
    "`at` is a time as RFC 3339 writes it",  # some years are beyond those that a time here can have
)

Case: TypeAlias = schemathesis.Case[Any]
numbers = count()
document = json.loads(openapi.generate(OPERATIONS, Limits()))


def polled() -> dict[str, Any]:
    """The document without the header that only streams read, which have no end and tests of their own."""
    polled: dict[str, Any] = json.loads(json.dumps(document))
    events = polled["paths"]["/v1/users/{user}/events"]["get"]
    events["parameters"] = [told for told in events["parameters"] if told["name"] != "Last-Event-ID"]
    # Each operation takes a purpose, in the same place of the code: one of them shows how.
    for path, methods in polled["paths"].items():
        for operation in methods.values() if path != "/metrics" else ():
            operation["parameters"] = [told for told in operation["parameters"] if told["name"] != "Roost-Purpose"]
    return polled


CHECKS = {
    "positive_data_acceptance": {"enabled": False},  # ours knows more
    # What is bad in itself is refused for that, whatever the state: no 409, no 412.
    "negative_data_rejection": {"expected-statuses": ["400", "401", "404", "405", "413", "415"]},
}
schema = schemathesis.openapi.from_dict(polled(), config=SchemathesisConfig.from_dict({"checks": CHECKS}))


def long_or_short(examples: int) -> settings:
    """Hypothesis' settings for so many examples an operation; the coverage phase comes on top."""
    return settings(
        max_examples=examples,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@schemathesis.check
def good_data_is_taken(_: CheckContext, response: schemathesis.Response, case: Case) -> None:
    """No 400 for a request that the document allows, but for what no schema can say."""
    if response.headers.get("content-type") != ["application/problem+json"]:
        return  # OAuth refuses in shapes of its own
    if case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE and response.status_code == 400:
        told = response.json()
        assert told["code"] == "invalid_json" or told["detail"].startswith(UNTOLD), told


@pytest.fixture(scope="session")
def known(server: Server) -> dict[str, str]:
    """The names of a document that is there, in several versions."""
    names = {"user": "known", "collection": "notes", "key": "k"}
    account = Account(server, names["user"])
    for number in range(3):
        account.put(names["collection"], names["key"], {"a": number})
    names["conflict"] = conflicts(account)[0]
    with server.client() as admin:
        made = admin.post("/v1/auth/signup", json={"user": "known-to-log-in", "password": "a password"})
        client = {"kind": "public", "name": "known", "redirect_uris": ["https://app.example.com/"]}
        names["client"] = names["policy"] = "known"
        assert admin.put(f"/v1/policies/{names['policy']}", json={"text": "// nothing"}).status_code == 201
        assert admin.put(f"/v1/auth/clients/{names['client']}", json=client).status_code == 201
    names["session"] = made.json()["session"]
    account.close()
    return names


def conflicts(account: Account) -> list[str]:
    """Fill the inbox with one of each: a refused value, a refused edit, a refused deletion, a value that lost."""
    account.put("payments", "k", 1)
    account.put("preferences", "k", 1)
    edit = {"op": "inc", "path": "/n", "value": 1}
    ops: list[dict[str, Any]] = [
        {"op": "put", "collection": "payments", "key": "k", "value": 2},
        {"op": "edit", "collection": "payments", "key": "k", "edits": [edit]},
        {"op": "delete", "collection": "payments", "key": "k"},
        {"op": "put", "collection": "preferences", "key": "k", "value": 2},
    ]
    mutations = [{"number": number, "base": 0, "clock": 0, "ops": [op]} for number, op in enumerate(ops, 1)]
    pushed = account.http.post(account.at("push"), json={"device": "phone", "mutations": mutations})
    return [conflict for result in pushed.json()["results"] for conflict in result["conflicts"]]


def answer(server: Server, case: Case, known: dict[str, str]) -> None:
    """Send a request of an administrator, and hold the answer to the document."""
    number = next(numbers)
    if case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE:
        # A good request is about something that is there, half the time, and is not taken for one sent before.
        if number % 2:
            case.path_parameters.update({name: known[name] for name in case.path_parameters})
        if "Idempotency-Key" in case.headers:
            case.headers["Idempotency-Key"] = f"key-{number}"
    wait = case.query.get("wait")
    if isinstance(wait, int | float) and WAIT_S < wait <= Limits().wait_s_max:
        case.query["wait"] = WAIT_S
    case.call_and_validate(base_url=server.url, headers={"Authorization": f"Bearer {server.admin()}"}, timeout=60)


@pytest.mark.usefixtures("unharmed")
@schema.parametrize()
@seed(SEED)
@long_or_short(SHORT)
def test_the_document_is_true(server: Server, case: Case, known: dict[str, str]) -> None:
    answer(server, case, known)


@pytest.mark.slow
@pytest.mark.usefixtures("unharmed")
@schema.parametrize()
@long_or_short(LONG)
def test_the_document_is_true_at_length(server: Server, case: Case, known: dict[str, str]) -> None:
    answer(server, case, known)


def test_the_server_serves_this_document(server: Server) -> None:
    served = httpx.get(f"{server.url}/openapi.json", verify=False)
    assert served.headers["content-type"] == "application/json"
    assert served.json() == document
    assert document["openapi"].startswith("3.1.")


def test_every_route_of_the_contract_is_told() -> None:
    document_path = "/v1/users/{user}/docs/{collection}/{key}"
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert told >= {
        ("GET", document_path),
        ("PUT", document_path),
        ("PATCH", document_path),
        ("DELETE", document_path),
        ("GET", f"{document_path}/history"),
        ("POST", f"{document_path}/restore"),
        ("GET", "/v1/users/{user}/docs/{collection}"),
        ("GET", "/v1/users/{user}/docs"),
        ("POST", "/v1/users/{user}/batch"),
        ("PUT", "/v1/users/{user}"),
        ("GET", "/v1/users/{user}"),
        ("GET", "/v1/users"),
        ("GET", f"{document_path}/siblings"),
        ("GET", "/v1/users/{user}/conflicts"),
        ("DELETE", "/v1/users/{user}/conflicts/{conflict}"),
        ("GET", "/v1/collections"),
        ("GET", "/v1/collections/{collection}"),
        ("PUT", "/v1/collections/{collection}"),
        ("DELETE", "/v1/collections/{collection}"),
        ("GET", "/v1/users/{user}/events"),
        ("GET", "/v1/users/{user}/sync"),
        ("POST", "/v1/users/{user}/push"),
        ("GET", "/v1/users/{user}/devices"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
    }


def test_every_schema_is_a_schema() -> None:
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            assert told["summary"], (method, path)
            assert "500" in told["responses"], (method, path)
    for name, component in document["components"]["schemas"].items():
        assert component.get("description"), name


def test_the_page_that_shows_the_document_needs_nothing_from_elsewhere(server: Server) -> None:
    page = httpx.get(f"{server.url}/docs", verify=False)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "/openapi.json" in page.text
    for elsewhere in ('src="http', 'href="http', "src='http", "@import", "cdn"):
        assert elsewhere not in page.text
