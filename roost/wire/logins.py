"""Sessions of Roost's own over HTTP: sign up, log in and out, and look after the sessions that there are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from roost.authz.oauth import Granted, granted
from roost.authz.principal import Caller
from roost.authz.records import Record
from roost.authz.sessions import NAME_CHARS_MAX, About
from roost.authz.sessions import Session as Stored
from roost.core.errors import Code, RoostError
from roost.core.ids import DEVICE_PATTERN, check_device, check_user
from roost.crypto import passwords
from roost.wire import decoding, shapes
from roost.wire.answer import JSON, NO_STORE, PRIVATE, Answer, stamp
from roost.wire.operations import Body, Operation, Reply
from roost.wire.request import Request

_encode = msgspec.json.Encoder().encode

SessionName = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
NewPassword = Annotated[str, Meta(min_length=passwords.CHARS_MIN, max_length=passwords.CHARS_MAX)]
DeviceName = Annotated[str, Meta(extra_json_schema={"pattern": f"^{DEVICE_PATTERN}$"})]


class SignUp(shapes.Shape, frozen=True):
    """A user to be. `device` and `name` tell the session in lists of them."""

    user: shapes.UserName
    password: NewPassword
    device: DeviceName | UnsetType = UNSET
    name: SessionName | UnsetType = UNSET


class LogIn(shapes.Shape, frozen=True):
    """A user, and what proves it. `device` and `name` tell the session in lists of them."""

    user: shapes.UserName
    password: Annotated[str, Meta(max_length=passwords.CHARS_MAX)]
    device: DeviceName | UnsetType = UNSET
    name: SessionName | UnsetType = UNSET


class NewPasswords(shapes.Shape, frozen=True):
    """A password, and for users the one that it replaces. `user`: whose, where that is not the token's own user."""

    password: NewPassword
    current: Annotated[str, Meta(max_length=passwords.CHARS_MAX)] | UnsetType = UNSET
    user: shapes.UserName | UnsetType = UNSET


class Rename(shapes.Shape, frozen=True):
    """What a session is called from now on; null: nothing."""

    name: SessionName | None


class Session(msgspec.Struct, frozen=True):
    """A session. `client` is the application that it was begun for; `current` marks the one of the token."""

    id: str
    name: str | None
    device: str | None
    client: str | None
    address: str
    created_at: shapes.Instant
    used_at: shapes.Instant
    expires_at: shapes.Instant
    current: bool


class SessionList(msgspec.Struct, frozen=True):
    """A user's sessions, the one that was used last first."""

    items: list[Session]


class SessionsQuery(shapes.Shape, frozen=True):
    """Which sessions are to end."""

    except_: Annotated[Literal["current"], Meta(description="All but the one of the token.")] | UnsetType = (
        msgspec.field(default=UNSET, name="except")
    )


async def sign_up(request: Request) -> Answer:
    """Bring a user with a password into being, and log in."""
    given = decoding.body(await request.body(), SignUp, request.context.limits)
    user = check_user(given.user)
    who = request.origin if request.header(b"authorization") is None else await _caller(request)
    tokens = await request.context.logins.sign_up(who, user, given.password, _about(given))
    return _granted(201, granted(tokens))


async def log_in(request: Request) -> Answer:
    """Begin a session."""
    given = decoding.body(await request.body(), LogIn, request.context.limits)
    user = check_user(given.user)
    tokens = await request.context.logins.log_in(request.origin, user, given.password, _about(given))
    return _granted(200, granted(tokens))


async def change_password(request: Request) -> Answer:
    """Replace a password."""
    given = decoding.body(await request.body(), NewPasswords, request.context.limits)
    principal = request.principal
    if given.user is not UNSET:
        user = check_user(given.user)
    elif principal.kind == "user":
        user = principal.id
    else:
        raise RoostError(Code.INVALID_REQUEST, "Say whose password: `user`.", pointer="/user")
    current = None if given.current is UNSET else given.current
    await request.context.logins.change_password(request.caller, user, given.password, current)
    return Answer(204, [NO_STORE])


async def log_out(request: Request) -> Answer:
    """End the session that the token belongs to."""
    await request.context.logins.log_out(request.caller)
    return Answer(204, [NO_STORE])


async def list_sessions(request: Request) -> Answer:
    """A user's sessions."""
    found = await request.context.logins.sessions(request.caller, request.user)
    own = request.principal.session
    return Answer(200, [JSON, PRIVATE], _encode(SessionList([_shape(each, own) for each in found])))


async def rename_session(request: Request) -> Answer:
    """Give a session another name."""
    name = decoding.body(await request.body(), Rename, request.context.limits).name
    renamed = await request.context.logins.rename(request.caller, request.user, request.session, name)
    return Answer(200, [JSON, PRIVATE], _encode(_shape(renamed, request.principal.session)))


async def end_session(request: Request) -> Answer:
    """End a session."""
    await request.context.logins.end(request.caller, request.user, request.session)
    return Answer(204, [NO_STORE])


async def end_sessions(request: Request) -> Answer:
    """End all sessions."""
    query: SessionsQuery = request.query
    but_current = query.except_ is not UNSET
    await request.context.logins.end_all(request.caller, request.user, but_current=but_current)
    return Answer(204, [NO_STORE])


async def _caller(request: Request) -> Caller:
    """Whoever asks with a token for what takes none. Raises `UNAUTHENTICATED`, `FORBIDDEN`."""
    context = request.context
    request.principal = await context.recognise(request.token, request.certificate, request.whence)
    return request.caller


def _about(given: SignUp | LogIn) -> About:
    device = None if given.device is UNSET else check_device(given.device)
    return About(None if given.name is UNSET else given.name, device)


def _granted(status: int, body: Granted) -> Answer:
    return Answer(status, [JSON, NO_STORE], _encode(body))


def _time(second: int) -> str:
    return stamp(datetime.fromtimestamp(second, UTC))


def _shape(record: Record[Stored], own: str | None) -> Session:
    session = record.value
    return Session(
        record.key,
        session.name,
        session.device,
        session.client,
        session.address,
        _time(session.created_at),
        _time(session.used_at),
        _time(session.expires_at),
        record.key == own,
    )


_SESSIONS = "/v1/users/{user}/sessions"
_SESSION = f"{_SESSIONS}/{{session}}"
_BODY_ERRORS = (Code.INVALID_JSON, Code.INVALID_NAME, Code.TOO_LARGE, Code.UNSUPPORTED_MEDIA_TYPE)
_BUSY = (Code.UNAVAILABLE, Code.OVERLOADED)

OPERATIONS = (
    Operation(
        "POST",
        "/v1/auth/signup",
        sign_up,
        "Sign up.",
        (Reply(201, "The user is there, and logged in.", Granted),),
        tag="Sessions",
        errors=(*_BODY_ERRORS, *_BUSY, Code.UNAUTHENTICATED, Code.FORBIDDEN, Code.USER_EXISTS, Code.USER_ERASED),
        body=Body({"application/json": SignUp}),
        public=True,
        description="For everybody where sign-up is open (`ROOST_SIGNUP=open`), else for admins and services.",
    ),
    Operation(
        "POST",
        "/v1/auth/login",
        log_in,
        "Log in.",
        (Reply(200, "A session was begun.", Granted),),
        tag="Sessions",
        errors=(*_BODY_ERRORS, *_BUSY, Code.UNAUTHENTICATED, Code.USER_ERASED),
        body=Body({"application/json": LogIn}),
        public=True,
        description="The access token is good for minutes; `POST /v1/auth/token` has the next for the refresh token.",
    ),
    Operation(
        "POST",
        "/v1/auth/password",
        change_password,
        "Replace a password.",
        (Reply(204, "Replaced. Every other session of the user is ended."),),
        tag="Sessions",
        errors=(*_BODY_ERRORS, Code.NOT_FOUND, Code.USER_ERASED, Code.VERSION_CONFLICT),
        body=Body({"application/json": NewPasswords}),
        description="Users send `current` too. For others it is for admins and services.",
    ),
    Operation(
        "POST",
        "/v1/auth/logout",
        log_out,
        "Log out.",
        (Reply(204, "The session of the token is ended, on every node within a second."),),
        tag="Sessions",
        errors=(Code.USER_ERASED,),
    ),
    Operation(
        "GET",
        _SESSIONS,
        list_sessions,
        "List a user's sessions.",
        (Reply(200, "The sessions.", SessionList),),
        tag="Sessions",
        errors=(Code.USER_ERASED,),
    ),
    Operation(
        "DELETE",
        _SESSIONS,
        end_sessions,
        "End a user's sessions.",
        (Reply(204, "Ended, on every node within a second."),),
        tag="Sessions",
        errors=(Code.USER_ERASED,),
        query=SessionsQuery,
    ),
    Operation(
        "PATCH",
        _SESSION,
        rename_session,
        "Name a session.",
        (Reply(200, "The session.", Session),),
        tag="Sessions",
        errors=(Code.INVALID_JSON, Code.TOO_LARGE, Code.UNSUPPORTED_MEDIA_TYPE, Code.NOT_FOUND, Code.USER_ERASED),
        body=Body({"application/json": Rename}),
    ),
    Operation(
        "DELETE",
        _SESSION,
        end_session,
        "End a session.",
        (Reply(204, "Ended, on every node within a second."),),
        tag="Sessions",
        errors=(Code.NOT_FOUND, Code.USER_ERASED),
    ),
)
