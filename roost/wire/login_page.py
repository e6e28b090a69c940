"""The page on which users log in for an application: a form, and nothing that could run.

It is shown in no frame. Its form is sent by a browser alone that has just been shown it: the form and a cookie of this
page carry the same random number (the cookie authenticates nobody), and where the browser tells where a request comes
from, it has to come from here.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from html import escape
from secrets import token_urlsafe
from urllib.parse import urlsplit

from roost.wire.answer import NO_STORE, Answer, Header
from roost.wire.request import Request

PATH = "/v1/auth/authorize"
TOKEN = "csrf"  # noqa: S105  # a field's name
_COOKIE = "roost_login"
_AGE_S = 1_800
_token = re.compile(r"[A-Za-z0-9_-]{43}").fullmatch

_STYLE = """
:root { color-scheme: light dark; --soft: #5f6771; --line: #c6ccd3; --act: #0a5bd3; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --soft: #9aa3ad; --line: #3d444c; --act: #3f7fe0; --bad: #ff8a80; } }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; font: 16px/1.5 system-ui, sans-serif; }
main { width: min(22rem, calc(100vw - 3rem)); }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; }
p { margin: 0 0 1.25rem; color: var(--soft); }
p.refused { color: var(--bad); }
label { display: block; margin-bottom: 1rem; font-size: .9rem; }
input, button { box-sizing: border-box; width: 100%; padding: .55rem .7rem; font: inherit; border-radius: 8px; }
input { display: block; margin-top: .25rem; border: 1px solid var(--line); background: transparent; color: inherit; }
button { border: 0; background: var(--act); color: #fff; font-weight: 600; cursor: pointer; }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
<main>
<h1>{title}</h1>
{content}
</main>
</html>
"""
_FORM = """<p>to go on to {client}, at {place}</p>
{refusal}<form method="post" action="{action}">
{hidden}
<label>User <input name="user" value="{user}" autocomplete="username" autocapitalize="none" spellcheck="false"
 maxlength="128" required autofocus></label>
<label>Password <input name="password" type="password" autocomplete="current-password" maxlength="1024"
 required></label>
<button>Log in</button>
</form>"""


def form(request: Request, client: str, given: Mapping[str, str], *, status: int = 200, refusal: str = "") -> Answer:
    """The page with the form, for `given` parameters that were found to be good."""
    token = token_urlsafe(32)
    hidden = "\n".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in {**given, TOKEN: token}.items()
        if name not in {"user", "password"}
    )
    back = urlsplit(given["redirect_uri"])
    content = _FORM.format(
        client=escape(client),
        place=escape(back.netloc or f"{back.scheme}:"),
        refusal=f'<p class="refused" role="alert">{escape(refusal)}</p>\n' if refusal else "",
        action=PATH,
        hidden=hidden,
        user=escape(given.get("user", "")),
    )
    # The browser holds the way back to the application, which follows the form, to the same rule as the form.
    onward = f"{back.scheme}://{back.netloc}" if back.netloc else f"{back.scheme}:"
    answer = _page(status, "Log in", content, f"'self' {onward}")
    secure = "; Secure" if base_url(request).startswith("https:") else ""
    cookie = f"{_COOKIE}={token}; Path={PATH}; Max-Age={_AGE_S}; HttpOnly; SameSite=Strict{secure}"
    answer.headers.append((b"set-cookie", cookie.encode()))
    return answer


def refused(detail: str) -> Answer:
    """The page for whoever cannot be sent back anywhere."""
    content = f'<p class="refused" role="alert">{escape(detail)}</p>\n<p>The application has sent you here wrongly.</p>'
    return _page(400, "This does not work", content, "'none'")


def is_own(request: Request, given: Mapping[str, str]) -> bool:
    """Whether a form was sent from the page that this browser was shown."""
    site = request.header(b"sec-fetch-site")
    origin = request.header(b"origin")
    if site is not None:
        if site != "same-origin":
            return False
    elif origin not in (None, "null") and (origin or "").partition("://")[2] != request.header(b"host"):
        return False
    cookies = (part.strip().partition("=") for part in (request.header(b"cookie") or "").split(";"))
    held = next((value for name, _, value in cookies if name == _COOKIE), "")
    return _token(held) is not None and hmac.compare_digest(held.encode(), given.get(TOKEN, "").encode())


def base_url(request: Request) -> str:
    """Where callers reach this server, without a slash at its end."""
    told = request.context.settings.public_url
    if told is not None:
        return told.rstrip("/")
    scheme = request.scope.get("scheme", "http")
    return f"{scheme}://{request.header(b'host') or 'localhost'}"


def _page(status: int, title: str, content: str, onward: str) -> Answer:
    policy = (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action {onward}; base-uri 'none'; frame-ancestors 'none'"
    )
    headers: list[Header] = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        (b"x-frame-options", b"DENY"),
        NO_STORE,
    ]
    return Answer(status, headers, _PAGE.format(title=title, style=_STYLE, content=content).encode())
