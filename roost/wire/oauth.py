"""OAuth 2.0 over HTTP: the login page, the token endpoint, revocation, and what says where they are.

Answers and refusals are those of RFC 6749, 7009, 8414 and 7517, so that any client of these can be used.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Literal
from urllib.parse import parse_qsl, unquote_plus

import msgspec

from roost.authz.oauth import Granted, OAuthRefusal, Redirected
from roost.core.errors import Code, RoostError
from roost.wire import login_page, shapes
from roost.wire.answer import JSON, NO_STORE, Answer, Header
from roost.wire.operations import Body, HeaderField, Operation, Reply
from roost.wire.request import Request

_encode = msgspec.json.Encoder().encode
_FORM = "application/x-www-form-urlencoded"
FIELDS_MAX = 32
_MALFORMED = frozenset({Code.INVALID_REQUEST, Code.UNSUPPORTED_MEDIA_TYPE, Code.INVALID_NAME})
_BASIC: Header = (b"www-authenticate", b'Basic realm="roost"')
_host = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}").fullmatch


class AuthorizeQuery(shapes.Shape, frozen=True, forbid_unknown_fields=False):
    """What an application asks for (RFC 6749, RFC 7636). Other parameters are passed over."""

    response_type: str = ""
    client_id: str = ""
    redirect_uri: str = ""
    code_challenge: str = ""
    code_challenge_method: str = ""
    state: str | None = None
    scope: str = ""


class LoginForm(AuthorizeQuery, frozen=True):
    """The login page's form."""

    csrf: str = ""
    user: str = ""
    password: str = ""


class TokenForm(msgspec.Struct, frozen=True):
    """What a token is asked for with (RFC 6749, RFC 7636)."""

    grant_type: Literal["authorization_code", "refresh_token", "client_credentials"]
    client_id: str | None = None
    client_secret: str | None = None
    code: str | None = None
    redirect_uri: str | None = None
    code_verifier: str | None = None
    refresh_token: str | None = None
    scope: str | None = None


class RevokeForm(msgspec.Struct, frozen=True):
    """A token to be revoked (RFC 7009): a refresh token, or an access token."""

    token: str
    token_type_hint: str | None = None
    client_id: str | None = None
    client_secret: str | None = None


class OAuthError(msgspec.Struct, frozen=True):
    """A refusal as RFC 6749 has it."""

    error: str
    error_description: str


class Metadata(msgspec.Struct, frozen=True):
    """Where this server's endpoints are, and what they do (RFC 8414)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    revocation_endpoint: str
    jwks_uri: str
    response_types_supported: tuple[str, ...] = ("code",)
    grant_types_supported: tuple[str, ...] = ("authorization_code", "refresh_token", "client_credentials")
    code_challenge_methods_supported: tuple[str, ...] = ("S256",)
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("none", "client_secret_basic", "client_secret_post")
    revocation_endpoint_auth_methods_supported: tuple[str, ...] = ("none", "client_secret_basic", "client_secret_post")
    authorization_response_iss_parameter_supported: bool = True


class KeySet(msgspec.Struct, frozen=True):
    """The public keys that Roost's tokens are signed with (RFC 7517), the one that signs first."""

    keys: list[dict[str, str]]


async def show_login(request: Request) -> Answer:
    """The login page, or the way back to an application that asked for what it cannot have."""
    given = _pairs(request.scope["query_string"].decode("latin-1"))
    try:
        ask, client = await request.context.logins.oauth.asked(given, _issuer(request))
    except Redirected as refusal:
        return _sent(refusal.location)
    except OAuthRefusal as refusal:
        return login_page.refused(refusal.detail)
    shown = {name: given[name] for name in AuthorizeQuery.__struct_fields__ if name in given}
    return login_page.form(request, client.name or ask.client_id, shown)


async def log_in_for_application(request: Request) -> Answer:
    """Back to the application with a code, or the login page again."""
    given = _pairs((await request.body()).decode("latin-1"))
    oauth = request.context.logins.oauth
    try:
        ask, client = await oauth.asked(given, _issuer(request))
    except Redirected as refusal:
        return _sent(refusal.location)
    except OAuthRefusal as refusal:
        return login_page.refused(refusal.detail)
    shown = {name: given[name] for name in (*AuthorizeQuery.__struct_fields__, "user") if name in given}
    if not login_page.is_own(request, given):
        return login_page.form(request, client.name, shown, status=403, refusal="The page was too old: try again.")
    try:
        return _sent(await oauth.authorize(ask, given.get("user", ""), given.get("password", ""), request.origin))
    except RoostError as refusal:
        if refusal.code is Code.RATE_LIMITED:
            page = login_page.form(request, client.name, shown, status=429, refusal=refusal.detail)
            page.headers.append((b"retry-after", b"%d" % (refusal.retry_after_s or 1)))
            return page
        if refusal.code in {Code.UNAUTHENTICATED, Code.INVALID_NAME}:
            detail = "The user or the password is wrong."
            return login_page.form(request, client.name, shown, status=403, refusal=detail)
        raise


async def get_token(request: Request) -> Answer:
    """Tokens for a code, for a refresh token, or for a service's secret."""

    async def work() -> Answer:
        given = _pairs((await request.body()).decode("latin-1"))
        granted: Granted = await request.context.logins.oauth.token(given, _basic(request), request.origin)
        return Answer(200, [JSON, NO_STORE, (b"pragma", b"no-cache")], _encode(granted))

    return await _in_oauth(work)


async def revoke_token(request: Request) -> Answer:
    """End what a token stands for."""

    async def work() -> Answer:
        given = _pairs((await request.body()).decode("latin-1"))
        await request.context.logins.oauth.revoke(given, _basic(request), request.origin)
        return Answer(200, [NO_STORE])

    return await _in_oauth(work)


async def get_metadata(request: Request) -> Answer:
    """Where what is."""
    base = _issuer(request)
    told = Metadata(
        base,
        f"{base}{login_page.PATH}",
        f"{base}/v1/auth/token",
        f"{base}/v1/auth/revoke",
        f"{base}/.well-known/jwks.json",
    )
    return Answer(200, [JSON, (b"cache-control", b"public, max-age=300")], _encode(told))


async def get_keys(request: Request) -> Answer:
    """The public keys."""
    # A key that is new signs at once: whoever meets one that is unknown should ask again.
    keys = request.context.logins.keys.public()
    return Answer(200, [JSON, (b"cache-control", b"public, max-age=60")], _encode(keys))


async def _in_oauth(work: Callable[[], Awaitable[Answer]]) -> Answer:
    """Do it, and refuse in the shape of RFC 6749."""
    try:
        return await work()
    except OAuthRefusal as refusal:
        headers = [JSON, NO_STORE]
        if refusal.status == 401:  # noqa: PLR2004  # a status
            headers.append(_BASIC)
        return Answer(refusal.status, headers, _encode(OAuthError(refusal.error, refusal.detail)))
    except RoostError as refusal:
        if refusal.code in _MALFORMED:
            return Answer(400, [JSON, NO_STORE], _encode(OAuthError("invalid_request", refusal.detail)))
        raise


def _pairs(text: str) -> dict[str, str]:
    """The parameters of a query or a form, each given once at most. Raises `INVALID_REQUEST`."""
    try:
        text.encode("ascii")
        pairs = parse_qsl(text, errors="strict", max_num_fields=FIELDS_MAX) if text else []
    except ValueError:
        detail = f"The parameters are not UTF-8, percent-encoded, at most {FIELDS_MAX} of them."
        raise RoostError(Code.INVALID_REQUEST, detail) from None
    given = dict(pairs)
    if len(given) < len(pairs):
        raise RoostError(Code.INVALID_REQUEST, "A parameter is given twice.")
    return given


def _basic(request: Request) -> tuple[str, str] | None:
    """The application and its secret, where they come by `client_secret_basic`. Raises `OAuthRefusal`."""
    scheme, _, told = (request.header(b"authorization") or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, secret = b64decode(told.strip(), validate=True).decode().partition(":")
        return unquote_plus(name, errors="strict"), unquote_plus(secret, errors="strict")
    except ValueError:
        raise OAuthRefusal("invalid_client", "The Authorization header is not as RFC 7617 has it.", 401) from None


def _issuer(request: Request) -> str:
    """This server, as OAuth names it. Raises `INVALID_REQUEST` for a Host header that is none."""
    host = request.header(b"host")
    if request.context.settings.public_url is None and host is not None and not _host(host):
        raise RoostError(Code.INVALID_REQUEST, "The Host header is no host.")
    return login_page.base_url(request)


def _sent(location: str) -> Answer:
    return Answer(303, [(b"location", location.encode("ascii")), NO_STORE])


_LOCATION = HeaderField("Location", "Back to the application, with a code or what was wrong.", {"type": "string"})
_PAGE = "text/html"
_WRONG = Reply(400, "It cannot be told to the application: nothing says that the address is its own.", str, (), _PAGE)
_REFUSED = Reply(400, "Refused, as RFC 6749 has it.", OAuthError)
_NOT_KNOWN = Reply(401, "The application has not proved who it is (`invalid_client`).", OAuthError)
_BUSY = (Code.UNAVAILABLE, Code.OVERLOADED)
_BODY_ERRORS = (Code.TOO_LARGE, *_BUSY)

OPERATIONS = (
    Operation(
        "GET",
        login_page.PATH,
        show_login,
        "Log in for an application.",
        (
            Reply(200, "The login page.", str, media_type=_PAGE),
            Reply(303, "The application is told what was wrong.", None, (_LOCATION,)),
            _WRONG,
        ),
        tag="OAuth 2.0",
        errors=_BUSY,
        query=AuthorizeQuery,
        public=True,
        description="The authorization endpoint of RFC 6749, for codes with PKCE (RFC 7636, `S256`).",
    ),
    Operation(
        "POST",
        login_page.PATH,
        log_in_for_application,
        "Send the login page's form.",
        (
            Reply(303, "Back to the application, with a code.", None, (_LOCATION,)),
            _WRONG,
            Reply(403, "The login page again.", str, media_type=_PAGE),
            Reply(429, "The login page again, after too many attempts.", str, media_type=_PAGE),
        ),
        tag="OAuth 2.0",
        errors=(*_BODY_ERRORS, Code.UNSUPPORTED_MEDIA_TYPE, Code.USER_ERASED),
        body=Body({_FORM: LoginForm}),
        public=True,
    ),
    Operation(
        "POST",
        "/v1/auth/token",
        get_token,
        "Get tokens.",
        (Reply(200, "Tokens.", Granted), _REFUSED, _NOT_KNOWN),
        tag="OAuth 2.0",
        errors=_BODY_ERRORS,
        body=Body({_FORM: TokenForm}),
        public=True,
        description="The token endpoint of RFC 6749. A refresh token is used up: the answer has the next.",
    ),
    Operation(
        "POST",
        "/v1/auth/revoke",
        revoke_token,
        "Revoke a token.",
        (Reply(200, "Whatever it stood for has ended."), _REFUSED, _NOT_KNOWN),
        tag="OAuth 2.0",
        errors=_BODY_ERRORS,
        body=Body({_FORM: RevokeForm}),
        public=True,
        description="RFC 7009. A session ends with its token, a token that `roost token` made alone.",
    ),
    Operation(
        "GET",
        "/.well-known/oauth-authorization-server",
        get_metadata,
        "See where OAuth's endpoints are.",
        (Reply(200, "The metadata of RFC 8414.", Metadata),),
        tag="OAuth 2.0",
        public=True,
    ),
    Operation(
        "GET",
        "/.well-known/jwks.json",
        get_keys,
        "Read the public keys.",
        (Reply(200, "The keys that tokens are signed with.", KeySet),),
        tag="OAuth 2.0",
        public=True,
    ),
)
