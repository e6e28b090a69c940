"""What a client asks about logging in and about sessions, as calls without I/O: see `roost.client.exchange`."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec

from roost.client.asking import JSON_BODY, checked, decoded, encode, segment
from roost.client.errors import refused_here
from roost.client.exchange import Ask, Call, Credential, Session, exchange
from roost.client.login import FORM, Login
from roost.client.models import LoginSession
from roost.core import ids


class About(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a list of sessions shows of one."""

    device: str | None = None
    name: str | None = None


class _List(msgspec.Struct):
    items: tuple[LoginSession, ...]


class Logins:
    """Calls on the sessions of one user."""

    def __init__(self, session: Session, user: str) -> None:
        self._session = session
        self._base = f"/v1/users/{segment(checked(ids.check_user, user))}/sessions"

    def list(self) -> Call[tuple[LoginSession, ...]]:
        """The sessions, the one that was used last first."""
        return decoded((yield from exchange(self._session, Ask("GET", self._base))), _List).items

    def rename(self, session: str, name: str | None) -> Call[LoginSession]:
        """Give one another name, or none."""
        ask = Ask("PATCH", self._path(session), JSON_BODY, encode({"name": name}))
        return decoded((yield from exchange(self._session, ask)), LoginSession)

    def end(self, session: str) -> Call[None]:
        """End one."""
        yield from exchange(self._session, Ask("DELETE", self._path(session)))

    def end_all(self, *, but_current: bool) -> Call[None]:
        """End all, or all but the one of the token."""
        yield from exchange(self._session, Ask("DELETE", self._base + ("?except=current" if but_current else "")))

    def _path(self, session: str) -> str:
        return f"{self._base}/{checked(ids.check_session, session)}"


def sign_up(session: Session, user: str, password: str, about: About) -> Call[Login]:
    """Bring a user with a password into being; the session that was begun by it."""
    # A user's own token is of no use for that; that of an admin is, where not everybody may sign up.
    public = session.token is None or isinstance(session.token, Credential)
    return (yield from _begin(session, _ask("signup", {"user": user, "password": password}, about, public=public)))


def log_in(session: Session, user: str, password: str, about: About) -> Call[Login]:
    """Begin a session."""
    return (yield from _begin(session, _ask("login", {"user": user, "password": password}, about, public=True)))


def log_out(session: Session) -> Call[None]:
    """End the session of the client's login, or the token that it has."""
    if isinstance(session.token, Login):
        yield from session.token.end(session)
    else:
        yield from exchange(session, Ask("POST", "/v1/auth/logout"))


def change_password(session: Session, password: str, current: str | None, user: str | None) -> Call[None]:
    """Replace a password."""
    given = {"password": password, "current": current, "user": user}
    content = encode({name: value for name, value in given.items() if value is not None})
    yield from exchange(session, Ask("POST", "/v1/auth/password", JSON_BODY, content))


def revoke(session: Session, token: str) -> Call[None]:
    """End what a token stands for."""
    content = urlencode({"token": token}).encode()
    yield from exchange(session, Ask("POST", "/v1/auth/revoke", FORM, content, public=True))


def _begin(session: Session, ask: Ask) -> Call[Login]:
    """Log in: with the client's own login, and for a client that has no token, it is its own from then on."""
    login = session.token if isinstance(session.token, Login) else Login()
    yield from login.begin(session, ask)
    if session.token is None:
        session.token = login
    return login


def _ask(to: str, given: dict[str, Any], about: About, *, public: bool) -> Ask:
    if "" in given.values():
        raise refused_here("invalid_request", "Both a user and a password are needed.")
    checked(ids.check_user, given["user"])
    return Ask("POST", f"/v1/auth/{to}", JSON_BODY, encode({**given, **msgspec.to_builtins(about)}), public=public)
