"""OAuth 2.0 over HTTP: the login page and its form, the token endpoint as RFC 6749 has it, and what tells of them."""

from __future__ import annotations

import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from hashlib import sha256
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.support.server import Server

PASSWORD = "correct horse battery staple"
CHEAP = '{"memory_kib":64,"iterations":1,"lanes":1}'
BACK = "https://app.example.com/done?from=roost"
VERIFIER = "v" * 64
ASKED = {
    "response_type": "code",
    "client_id": "app",
    "redirect_uri": BACK,
    "code_challenge": urlsafe_b64encode(sha256(VERIFIER.encode()).digest()).decode().rstrip("="),
    "code_challenge_method": "S256",
    "state": "\"><script>&'",
    "prompt": "login",  # of no meaning here, and passed over
}
EXCHANGE = {
    "grant_type": "authorization_code",
    "client_id": "app",
    "redirect_uri": BACK,
    "code_verifier": VERIFIER,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("oauth")
    with Server(folder / "data", password_hash=CHEAP, login_account_max="5") as server:
        with server.client() as admin:
            for user in ("ada", "grace"):
                made = admin.post("/v1/auth/signup", json={"user": user, "password": PASSWORD})
                assert made.status_code == 201, made.text
            client = {"kind": "public", "name": "The <b>app</b>", "redirect_uris": [BACK]}
            assert admin.put("/v1/auth/clients/app", json=client).status_code == 201
        yield server


@pytest.fixture
def browser(server: Server) -> Iterator[httpx.Client]:
    """What keeps cookies and follows nothing."""
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def page(browser: httpx.Client, **asked: str) -> httpx.Response:
    return browser.get("/v1/auth/authorize", params=ASKED | asked)


def fields(shown: httpx.Response) -> dict[str, str]:
    """What the page's form would send, but what is typed in."""
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', shown.text)
    return {name: unescape(value) for name, value in found}


def sent(
    browser: httpx.Client, shown: httpx.Response, user: str = "ada", password: str = PASSWORD, **headers: str
) -> Any:
    data = {**fields(shown), "user": user, "password": password}
    return browser.post("/v1/auth/authorize", data=data, headers={k.replace("_", "-"): v for k, v in headers.items()})


def told(answer: httpx.Response) -> dict[str, str]:
    """What an application is told by way of the browser."""
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith(BACK + "&")
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}


def test_a_login_on_the_page_gives_a_code_that_gives_tokens(server: Server, browser: httpx.Client) -> None:
    shown = page(browser)
    assert shown.status_code == 200
    answer = told(sent(browser, shown))
    assert (answer["state"], answer["iss"], answer["from"]) == (ASKED["state"], server.url, "roost")
    granted = browser.post("/v1/auth/token", data={**EXCHANGE, "code": answer["code"]})
    assert granted.status_code == 200, granted.text
    assert granted.headers["cache-control"] == "no-store"
    assert granted.json()["token_type"] == "Bearer"
    bearer = {"authorization": f"Bearer {granted.json()['access_token']}"}
    assert browser.put("/v1/users/ada/docs/notes/a", json=1, headers=bearer).status_code in {200, 201}
    (own,) = [each for each in browser.get("/v1/users/ada/sessions", headers=bearer).json()["items"] if each["current"]]
    assert own["client"] == "app"


def test_the_page_runs_nothing_and_is_shown_in_no_frame(browser: httpx.Client) -> None:
    shown = page(browser)
    policy = shown.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self' https://app.example.com;" in policy
    assert shown.headers["x-frame-options"] == "DENY"
    assert shown.headers["cache-control"] == "no-store"
    (cookie,) = shown.headers.get_list("set-cookie")
    assert {"HttpOnly", "SameSite=Strict", "Path=/v1/auth/authorize"} <= set(cookie.split("; "))
    # Whatever an application sends is text on the page.
    assert "<script" not in shown.text
    assert "&lt;b&gt;app" in shown.text


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "none"},
        {"origin": "https://evil.example"},
        {"origin": "http://["},
    ],
)
def test_a_form_of_elsewhere_is_not_taken(browser: httpx.Client, headers: dict[str, str]) -> None:
    shown = page(browser)
    again = sent(browser, shown, **headers)
    assert again.status_code == 403
    assert told(sent(browser, again, sec_fetch_site="same-origin"))["code"]


def test_a_form_without_the_pages_cookie_is_not_taken(server: Server, browser: httpx.Client) -> None:
    shown = page(browser)
    with httpx.Client(base_url=server.url) as other:
        assert sent(other, shown).status_code == 403
        page(other)  # which has a cookie of its own
        assert sent(other, shown).status_code == 403
    assert "code" in told(sent(browser, shown))


def test_a_wrong_password_is_told_on_the_page_until_there_were_too_many(browser: httpx.Client) -> None:
    shown = page(browser)
    statuses = []
    for _ in range(7):
        shown = sent(browser, shown, "grace", "not the password")
        statuses.append(shown.status_code)
        assert 'role="alert"' in shown.text
        assert 'value="grace"' in shown.text
        assert "not the password" not in shown.text
    assert statuses == [403] * 5 + [429] * 2
    assert int(shown.headers["retry-after"]) > 0
    shown = sent(browser, shown, "grace")
    assert shown.status_code == 429
    assert "code" in told(sent(browser, shown))  # others may go on


def test_nobody_is_sent_to_where_no_application_is(browser: httpx.Client) -> None:
    for wrong in ({"client_id": "nobody"}, {"redirect_uri": "https://evil.example/"}, {"redirect_uri": BACK + "/"}):
        for answer in (page(browser, **wrong), browser.post("/v1/auth/authorize", data=ASKED | wrong)):
            assert answer.status_code == 400
            assert answer.headers["content-type"].startswith("text/html")
            assert "location" not in answer.headers
            assert "form" not in answer.text


def test_the_application_is_told_what_it_asked_wrongly(browser: httpx.Client) -> None:
    assert told(page(browser, response_type="token"))["error"] == "unsupported_response_type"
    assert told(page(browser, code_challenge_method="plain"))["error"] == "invalid_request"


def test_a_service_gets_tokens_that_reach_what_its_scopes_say(server: Server, browser: httpx.Client) -> None:
    with server.client() as admin:
        made = admin.put("/v1/auth/clients/billing", json={"kind": "service", "name": "B", "scopes": ["notes:read"]})
        secret = made.json()["secret"]
        assert "secret" not in admin.get("/v1/auth/clients/billing").json()
        assert secret not in admin.get("/v1/auth/clients").text
        admin.put("/v1/users/ada/docs/notes/a", json=1)
    basic = {"authorization": "Basic " + b64encode(f"billing:{secret}".encode()).decode()}
    granted = browser.post("/v1/auth/token", data={"grant_type": "client_credentials"}, headers=basic)
    assert granted.status_code == 200, granted.text
    assert granted.json().keys() == {"access_token", "token_type", "expires_in", "scope"}
    bearer = {"authorization": f"Bearer {granted.json()['access_token']}"}
    assert browser.get("/v1/users/ada/docs/notes/a", headers=bearer).status_code == 200
    assert browser.get("/v1/users/ada/docs/wishes/a", headers=bearer).status_code == 403
    assert browser.put("/v1/users/ada/docs/notes/a", json=2, headers=bearer).status_code == 403


@pytest.mark.parametrize(
    ("data", "headers", "status", "error"),
    [
        ({"grant_type": "password"}, {}, 400, "unsupported_grant_type"),
        ({"grant_type": "refresh_token"}, {}, 400, "invalid_grant"),
        ({"grant_type": "client_credentials"}, {}, 401, "invalid_client"),
        ({"grant_type": "refresh_token"}, {"authorization": "Basic !"}, 401, "invalid_client"),
        ({"grant_type": "refresh_token"}, {"authorization": "Basic bm9ib2R5Ong="}, 401, "invalid_client"),
        ({"grant_type": ["refresh_token", "refresh_token"]}, {}, 400, "invalid_request"),
        (b"grant_type=%ff", {"content-type": "application/x-www-form-urlencoded"}, 400, "invalid_request"),
        (b"{}", {"content-type": "application/json"}, 400, "invalid_request"),
        (b"a=1&" * 40, {"content-type": "application/x-www-form-urlencoded"}, 400, "invalid_request"),
    ],
)
def test_refusals_are_those_of_rfc_6749(
    browser: httpx.Client, data: Any, headers: dict[str, str], status: int, error: str
) -> None:
    body: dict[str, Any] = {"content": data} if isinstance(data, bytes) else {"data": data}
    answer = browser.post("/v1/auth/token", headers=headers, **body)
    assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert ("www-authenticate" in answer.headers) == (status == 401)


def test_the_metadata_tells_where_everything_is(server: Server, browser: httpx.Client) -> None:
    metadata = browser.get("/.well-known/oauth-authorization-server").json()
    assert metadata["issuer"] == server.url
    assert metadata["code_challenge_methods_supported"] == ["S256"]
    assert page(browser).status_code == 200
    for name in ("authorization_endpoint", "token_endpoint", "revocation_endpoint", "jwks_uri"):
        assert metadata[name].startswith(server.url)
        assert browser.options(metadata[name]).status_code == 204
    assert browser.get(metadata["jwks_uri"]).json()["keys"][0].keys() == {"kty", "crv", "x", "kid", "use", "alg"}
    assert browser.get("/.well-known/oauth-authorization-server", headers={"host": 'a"b'}).status_code == 400


def test_clients_are_for_admins(server: Server, browser: httpx.Client) -> None:
    for token in (server.token("ada"), server.service("billing")):
        bearer = {"authorization": f"Bearer {token}"}
        for method, path in (("GET", ""), ("GET", "/app"), ("PUT", "/app"), ("DELETE", "/app")):
            body = {"kind": "public", "name": "x", "redirect_uris": [BACK]} if method == "PUT" else None
            refused = browser.request(method, f"/v1/auth/clients{path}", json=body, headers=bearer)
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), (method, path)
    with server.client() as admin:
        assert admin.get("/v1/auth/clients/app").json()["redirect_uris"] == [BACK]
        assert admin.delete("/v1/auth/clients/unheard-of").status_code == 404
        wrong = admin.put("/v1/auth/clients/x", json={"kind": "public", "name": "x", "redirect_uris": ["ftp://x/"]})
        assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (400, "/redirect_uris/0")
