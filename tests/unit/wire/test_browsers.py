"""What browsers are told: whose pages may call, what a page may run, and that nothing is guessed or framed."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import msgspec
import pytest

from roost.console import PAGES
from roost.settings import Settings
from roost.wire.browsers import Browsers, content_policy
from tests.unit.wire.support import UI, Response, Server

APP = "https://app.example"
EVIL = "https://evil.example"


@pytest.fixture(scope="module")
def crossing(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server that an application of another origin may call."""
    return Server(tmp_path_factory.mktemp("data"), Settings(cors_origins=(APP, "http://localhost:5173")), PAGES)


def test_a_page_of_an_allowed_origin_may_call_and_read(crossing: Server) -> None:
    answer = crossing.get(UI, Origin=APP)
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.headers["vary"] == "Origin"
    shown = answer.headers["access-control-expose-headers"].lower().split(", ")
    assert {"etag", "roost-seq", "retry-after"} <= set(shown)
    refused = crossing.get("/v1/users/ada/docs/preferences/%ff", Origin=APP)
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (400, APP)


@pytest.mark.parametrize(
    "origin",
    [EVIL, "null", "*", "", "http://app.example", f"{APP}:443", f"{APP}.evil.example", "https://x.example", APP + "/"],
)  # fmt: skip
def test_no_other_may(crossing: Server, origin: str) -> None:
    for answer in (crossing.get(UI, Origin=origin), preflight(crossing, origin)):
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["vary"] == "Origin"


def preflight(server: Server, origin: str, method: str = "PUT") -> Response:
    headers = {"Origin": origin, "Access-Control-Request-Method": method}
    return server("OPTIONS", UI, headers=headers, token=None)


def test_a_preflight_tells_what_may_be_sent(crossing: Server) -> None:
    answer = preflight(crossing, APP)
    assert answer.status == 204
    assert set(answer.headers["access-control-allow-methods"].split(", ")) >= {"GET", "PUT", "PATCH", "DELETE"}
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert {"authorization", "content-type", "if-match", "idempotency-key", "roost-purpose"} <= set(allowed)
    assert int(answer.headers["access-control-max-age"]) > 0


def test_credentials_are_never_allowed_and_no_cookie_is_set(crossing: Server) -> None:
    for answer in (crossing.get(UI, Origin=APP), preflight(crossing, APP), crossing.get("/docs")):
        assert "access-control-allow-credentials" not in answer.headers
        assert "set-cookie" not in answer.headers


def test_nobody_may_unless_they_are_named(server: Server) -> None:
    assert not [name for name in server.get(UI, Origin=APP).headers if name.startswith(("access-control", "vary"))]
    with pytest.raises(ValueError, match="no origin"):
        Settings(cors_origins=("*",))


def test_an_answer_is_no_page_and_is_not_guessed_to_be_one(server: Server) -> None:
    for answer in (server.get(UI), server.get("/nothing"), server.get("/healthz")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "strict-transport-security" not in answer.headers


def test_tls_is_insisted_on_where_it_is_spoken() -> None:
    def told(settings: Settings) -> dict[bytes, bytes]:
        headers: list[tuple[bytes, bytes]] = []
        Browsers(settings).complete(headers, None)
        return dict(headers)

    secure = Settings(tls_cert=Path("a"), tls_key=Path("b"))
    assert told(secure)[b"strict-transport-security"] == b"max-age=31536000"
    assert b"strict-transport-security" not in told(msgspec.structs.replace(secure, hsts_s=0))


def test_pages_run_what_they_came_with_and_nothing_else(crossing: Server) -> None:
    for path, media_type, body in PAGES:
        answer = crossing.get(path)
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        if media_type.startswith(b"text/html"):
            assert answer.headers["x-frame-options"] == "DENY"
            for script in re.findall(rb"<script>(.*?)</script>", body, re.DOTALL):
                assert base64.b64encode(hashlib.sha256(script).digest()).decode() in policy


def test_a_policy_of_a_page_s_own_is_left_alone() -> None:
    headers = [(b"content-security-policy", b"form-action 'self'")]
    Browsers(Settings()).complete(headers, None)
    assert [text for name, text in headers if name == b"content-security-policy"] == [b"form-action 'self'"]


def test_another_script_has_another_hash() -> None:
    assert content_policy(b"<script>a</script>") != content_policy(b"<script>b</script>")
