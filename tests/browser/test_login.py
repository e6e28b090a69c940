"""The login page in a browser: an application sends somebody there, and gets them back with a code."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.server import Server

PASSWORD = "correct horse battery staple"
VERIFIER = "v" * 64
ASKED = {
    "response_type": "code",
    "client_id": "app",
    "code_challenge": urlsafe_b64encode(sha256(VERIFIER.encode()).digest()).decode().rstrip("="),
    "code_challenge_method": "S256",
    "state": "of the app",
}


class Elsewhere(BaseHTTPRequestHandler):
    """The application, and a stranger: pages of other origins."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><link rel=icon href=data:,><h1>Elsewhere</h1>")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as served:
        thread = Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, elsewhere: str) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("login") / "data") as server:
        with server.client() as admin:
            admin.post("/v1/auth/signup", json={"user": "ada", "password": PASSWORD}).raise_for_status()
            client = {"kind": "public", "name": "The app", "redirect_uris": [f"{elsewhere}/done"]}
            admin.put("/v1/auth/clients/app", json=client).raise_for_status()
        yield server


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda message: trouble.append(message.text) if "Content Security" in message.text else None)
    yield page
    context.close()
    assert trouble == []


def login_page(own: Server, elsewhere: str) -> str:
    """Where the application sends users to."""
    return f"{own.url}/v1/auth/authorize?{urlencode({**ASKED, 'redirect_uri': f'{elsewhere}/done'})}"


def test_a_login_takes_its_way_through_the_browser(own: Server, elsewhere: str, page: Page) -> None:
    page.goto(elsewhere)
    page.evaluate("url => location.assign(url)", login_page(own, elsewhere))
    expect(page.get_by_role("heading")).to_have_text("Log in")
    expect(page.get_by_text(f"The app, at {elsewhere.removeprefix('http://')}")).to_be_visible()
    page.get_by_label("User").fill("ada")
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button").click()
    expect(page.get_by_role("alert")).to_have_text("The user or the password is wrong.")
    expect(page.get_by_label("User")).to_have_value("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button").click()
    page.wait_for_url(f"{elsewhere}/done?**")
    told = {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}
    assert told["state"] == "of the app"
    exchange = {"grant_type": "authorization_code", "client_id": "app", "code_verifier": VERIFIER}
    fields = {**exchange, "redirect_uri": f"{elsewhere}/done", "code": told["code"]}
    granted = httpx.post(f"{own.url}/v1/auth/token", data=fields, timeout=30)
    assert granted.json()["user"] == "ada", granted.text


def test_another_sites_form_does_not_log_anybody_in(own: Server, elsewhere: str, page: Page) -> None:
    page.goto(login_page(own, elsewhere))  # so that there is a cookie
    page.goto(elsewhere)
    fields = {**ASKED, "redirect_uri": f"{elsewhere}/done", "user": "ada", "password": PASSWORD, "csrf": "x" * 43}
    page.evaluate(
        """([action, fields]) => {
            const form = Object.assign(document.createElement("form"), {method: "post", action});
            for (const [name, value] of Object.entries(fields))
                form.append(Object.assign(document.createElement("input"), {name, value}));
            document.body.append(form);
            form.submit();
        }""",
        [f"{own.url}/v1/auth/authorize", fields],
    )
    expect(page.get_by_role("alert")).to_have_text("The page was too old: try again.")
