"""Being logged in: what is kept of a session, where, and how its access token is renewed; without network I/O.

An access token is good for minutes. The next one is given for a refresh token, which is used up by that. So one at a
time renews, whether tasks, threads or processes share the login; what the server answers is kept before anybody uses
it; and a renewal goes on where the call that wanted it is cancelled. If the answer is lost all the same, the same
refresh token is sent again, which the server takes for some seconds (`ROOST_REFRESH_GRACE_S`). After that it has to
think that somebody else has a copy, and ends the session.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from roost.client.asking import decoded
from roost.client.errors import RoostError, SessionEnded, Unauthenticated, Unavailable
from roost.client.exchange import Apart, Ask, Call, Credential, Pause, Session, exchange

RENEW_S = 60.0
"""A token is renewed this long before it ends; a short one when a fifth of its time is left."""
RETRY_S = 5.0
"""How long to go on with a token that is still good, where it could not be renewed."""
TURN_S = 0.02
"""How often to look whether somebody else has done with renewing. A lock that waits would be another one for tasks, for
threads and for processes."""
ATTEMPT_S = 3.0
"""How long one attempt may take: an answer that is lost is asked for again well within the server's grace."""
FORM = {"content-type": "application/x-www-form-urlencoded"}


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a session. Whoever has it is logged in, so it is a secret. Times in seconds since 1970."""

    url: str
    """The server; the tokens are sent to no other."""
    user: str
    session: str
    access_token: str
    refresh_token: str
    renewed_at: float
    expires_at: float

    def __repr__(self) -> str:
        return f"<tokens of {self.user} at {self.url}>"  # which may be logged

    @property
    def renew_at(self) -> float:
        """When to renew."""
        return self.expires_at - min(RENEW_S, (self.expires_at - self.renewed_at) / 5)


class LoginStore:
    """Where a login is kept: in memory. `LoginFile` outlives the process; other classes may override `load` and `save`.

    A class that several processes share has to override `claim` and `release` as well.
    """

    def __init__(self) -> None:
        self._kept: Tokens | None = None
        self._lock = threading.Lock()

    def load(self) -> Tokens | None:
        """What was saved last; None where nobody is logged in."""
        return self._kept

    def save(self, tokens: Tokens | None) -> None:
        """Keep this from now on; None: nobody is logged in any more. It is kept when this returns."""
        self._kept = tokens

    def claim(self) -> bool:
        """Be the only one who may save, if nobody else is; returns at once."""
        return self._lock.acquire(blocking=False)

    def release(self) -> None:
        """Let others."""
        self._lock.release()


class LoginFile(LoginStore):
    """A file that only its owner can read, and that processes may share. There need not be one yet.

    Raises `RoostError` where it cannot be used, or others can read it.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path).expanduser()
        self._held: int | None = None

    def load(self) -> Tokens | None:
        """See `LoginStore`."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    raise RoostError(f"Others can read {self.path}: chmod 600 it, or log in again.", code="unavailable")
                return msgspec.json.decode(file.read(), type=Tokens)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RoostError(f"{self.path} holds no login: {error}.", code="unavailable") from error

    def save(self, tokens: Tokens | None) -> None:
        """See `LoginStore`."""
        try:
            if tokens is None:
                self.path.unlink(missing_ok=True)
            else:
                replace(self.path, msgspec.json.encode(tokens))
        except OSError as error:
            raise RoostError(f"The login cannot be kept in {self.path}: {error}.", code="unavailable") from error

    def claim(self) -> bool:
        """See `LoginStore`."""
        from fcntl import LOCK_EX, LOCK_NB, flock  # noqa: PLC0415  # not all systems have it

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RoostError(f"The login cannot be kept in {self.path}: {error}.", code="unavailable") from error
        try:
            flock(descriptor, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._held = descriptor
        return True

    def release(self) -> None:
        """See `LoginStore`."""
        if self._held is not None:
            held, self._held = self._held, None
            os.close(held)


class Login(Credential):
    """A user's session: `Client(url, Login(LoginFile("~/.config/shop/login")))` goes on with it, or may `log_in`.

    Clients and replicas may share one, and processes one file. When the session was ended, on this device or from
    another, calls raise `SessionEnded`; a new `log_in` with the same login lets all of them go on.
    """

    def __init__(self, store: LoginStore | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store or LoginStore()
        self._clock = clock
        self._tokens = self._store.load()
        self._refused: str | None = None
        self._patient_until = 0.0
        self._ended = False

    @property
    def user(self) -> str | None:
        """Who is logged in; None: nobody."""
        return self._tokens.user if self._tokens else None

    @property
    def session(self) -> str | None:
        """The id of the session."""
        return self._tokens.session if self._tokens else None

    @property
    def tokens(self) -> Tokens | None:
        """What is kept of the session: a secret."""
        return self._tokens

    def bearer(self, session: Session) -> Call[str | None]:
        """The access token, renewed if need be; None where nobody logged in. Raises `SessionEnded`, `Unavailable`."""
        if self._due:
            problem = yield Apart(self._renewed(session))
            if isinstance(problem, RoostError):
                raise problem
        if self._tokens is None:
            if self._ended:
                raise _ended()
            return None
        if self._tokens.url != session.url:
            raise Unauthenticated(f"This login is one at {self._tokens.url}.", code="unauthenticated")
        return self._tokens.access_token

    def refused(self, token: str) -> None:
        """An access token was not accepted: it is not sent again."""
        self._refused = token

    def begin(self, session: Session, ask: Ask) -> Call[None]:
        """Log in, by what `ask` asks: this is the session from then on. Raises what the server refuses."""
        asked_at = self._clock()
        answer = yield from exchange(session, ask)
        granted = decoded(answer, _Granted)
        yield from self._claimed(session)
        try:
            self._keep(_tokens(session.url, granted, asked_at))
        finally:
            self._store.release()

    def end(self, session: Session) -> Call[None]:
        """Log out: the session is ended, on every node within a second, and nothing of it is kept. May be repeated."""
        yield from self._claimed(session)
        try:
            tokens = self._store.load()
            if tokens is not None and tokens.url == session.url:
                content = urlencode({"token": tokens.refresh_token}).encode()
                yield from exchange(session, Ask("POST", "/v1/auth/revoke", FORM, content, public=True))
            self._keep(None)
        finally:
            self._store.release()

    @property
    def _due(self) -> bool:
        tokens, now = self._tokens, self._clock()
        if tokens is None:
            # Another process may have logged in by now.
            return True
        return tokens.access_token == self._refused or (tokens.renew_at <= now and self._patient_until <= now)

    def _renewed(self, session: Session) -> Call[None]:
        """Renew, unless somebody else has done so meanwhile."""
        if self._tokens is None and self._store.load() is None:
            return
        yield from self._claimed(session)
        try:
            self._tokens = self._store.load()
            if self._tokens is not None and self._tokens.url == session.url and self._due:
                yield from self._renew(session, self._tokens)
        finally:
            self._store.release()

    def _renew(self, session: Session, tokens: Tokens) -> Call[None]:
        asked_at = self._clock()
        content = urlencode({"grant_type": "refresh_token", "refresh_token": tokens.refresh_token}).encode()
        ask = Ask("POST", "/v1/auth/token", FORM, content, public=True, attempt_s=ATTEMPT_S)
        try:
            answer = yield from exchange(session, ask)
        except SessionEnded:
            self._keep(None)
            self._ended = True
            raise
        except Unavailable:
            self._patient_until = self._clock() + RETRY_S
            if tokens.access_token == self._refused or tokens.expires_at <= self._clock():
                raise
        else:
            self._keep(_tokens(session.url, decoded(answer, _Granted), asked_at))

    def _keep(self, tokens: Tokens | None) -> None:
        """Save first: a refresh token that was used, but of which nothing came that lasts, is worse than none."""
        self._store.save(tokens)
        self._tokens = tokens
        self._ended = False

    def _claimed(self, session: Session) -> Call[None]:
        """Wait for one's turn. Raises `Unavailable` where it does not come."""
        deadline = session.clock() + session.limits.deadline_s
        while not self._store.claim():
            if session.clock() >= deadline:
                raise Unavailable("Somebody else has been renewing this login, for too long.", code="unavailable")
            yield Pause(TURN_S)


class _Granted(msgspec.Struct):
    access_token: str
    expires_in: float
    refresh_token: str
    user: str
    session: str


def _tokens(url: str, granted: _Granted, asked_at: float) -> Tokens:
    return Tokens(
        url=url,
        user=granted.user,
        session=granted.session,
        access_token=granted.access_token,
        refresh_token=granted.refresh_token,
        renewed_at=asked_at,
        # A server counts in whole seconds, so it may be less than one of them.
        expires_at=asked_at + max(granted.expires_in - 1, granted.expires_in / 2),
    )


def _ended() -> SessionEnded:
    return SessionEnded("The session is over: log in again.", code="unauthenticated", status=401)


def replace(path: Path, content: bytes) -> None:
    """Replace a file, at once and for good, by one that nobody else could read at any moment. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
