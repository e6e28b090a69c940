"""One request until it has an answer, without doing any I/O.

A `Call` is a generator: it yields what is to be done (send this `Request`, `Pause` so long) and is sent back what
came of it (an `Answer`, or a `Lost` one); what it returns is the result of the call. Which failures are tried
again, how long to wait between, when to give up and what is remembered between calls is decided here, once; the
two shells in `carry` only do what is yielded. Time and chance are handed in, so tests need neither.

What makes trying again safe: every write carries an idempotency key, made for it unless one was given, and the
server answers a key that it has seen with the first answer instead of applying the write again.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from email.utils import parsedate_to_datetime
from typing import TypeAlias, TypeVar

import msgspec

from roost.client.errors import RoostError, Unauthenticated, Unavailable, Unreachable, error_of, refused_here

T = TypeVar("T")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long a call may take, and how hard it tries. Seconds where the name says so."""

    deadline_s: float = 30.0
    """A whole call, all attempts and pauses included; a long poll's `wait` comes on top."""
    attempt_s: float = 10.0
    """One attempt, from sending to the end of the answer."""
    attempts: int = 8
    backoff_s: float = 0.1
    """The longest first pause; it doubles each time. Each pause is a random part of it ("full jitter")."""
    backoff_s_max: float = 5.0
    outage_s: float = 600.0
    """How long `follow` goes on while the server cannot be reached."""
    conflicts: int = 64
    """How often `update` starts again because somebody else wrote in between."""
    conflict_s_max: float = 1.0
    """The longest it waits, at random, before it does."""
    connections: int = 32
    """Connections to the server at once; further calls wait their turn."""
    users_remembered: int = 10_000
    """Users whose last written `seq` is remembered, for read-your-writes; the longest unused is forgotten."""


class Request(msgspec.Struct, frozen=True):
    """Send this, and send back the `Answer`, or `Lost` after `timeout_s`."""

    method: str
    url: str
    headers: dict[str, str]
    content: bytes | None
    timeout_s: float


class Pause(msgspec.Struct, frozen=True):
    """Wait so long, and send back None."""

    seconds: float


class Apart(msgspec.Struct, frozen=True):
    """Carry this call out to its end, whatever becomes of the one that yields it. Send back what it raised."""

    call: Call[None]


class Answer(msgspec.Struct, frozen=True):
    """What the server said. Header names are looked up in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Lost(msgspec.Struct, frozen=True):
    """No answer came; whether the request arrived is unknown."""

    reason: str


Call: TypeAlias = Generator[Request | Pause | Apart, Answer | Lost | RoostError | None, T]


class Ask(msgspec.Struct, frozen=True):
    """A request before it has a server, a token and a time: `target` is path and query.

    One that is `public` carries no token. `attempt_s` is how long an attempt may take, where `Limits` allow for more.
    """

    method: str
    target: str
    headers: dict[str, str] = {}
    content: bytes | None = None
    user: str | None = None
    wait_s: float = 0.0
    public: bool = False
    attempt_s: float | None = None

    @property
    def reads(self) -> bool:
        """True if the request changes nothing."""
        return self.method in ("GET", "HEAD")


class Credential:
    """A token that is renewed when need be: see `roost.client.login`."""

    def bearer(self, session: Session) -> Call[str | None]:
        """The token to send now."""
        raise NotImplementedError

    def refused(self, token: str) -> None:
        """It was not accepted."""
        raise NotImplementedError


Token: TypeAlias = str | Callable[[], str] | Credential | None


class Session:
    """What a client knows between calls: where, who, what for, its limits, and how far each user's log was written.

    `token` is a string, a function that returns one and is asked for each attempt, or a `Login`.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        limits: Limits,
        *,
        purpose: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise refused_here("invalid_request", f"A Roost's URL starts with http:// or https://, not {url!r}.")
        self.url = url.rstrip("/")
        self.limits = limits
        self.purpose = purpose
        self.clock = clock
        self.chance = chance
        self.token = token
        self._seqs: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()  # a SyncClient may be shared by threads

    def bearer(self) -> Call[str | None]:
        """The token to send now. Raises `RoostError` where it has to be renewed, and cannot be."""
        if isinstance(self.token, Credential):
            return (yield from self.token.bearer(self))
        return self.token() if callable(self.token) else self.token

    def refused(self, token: str | None) -> None:
        """A token was not accepted: the next `bearer` is another one, if there can be one."""
        if token is not None and isinstance(self.token, Credential):
            self.token.refused(token)

    def wrote(self, user: str, seq: int) -> None:
        """Remember that `user`'s log was written up to `seq`, so that later reads see it."""
        with self._lock:
            self._seqs[user] = max(seq, self._seqs.pop(user, 0))
            while len(self._seqs) > self.limits.users_remembered:
                self._seqs.popitem(last=False)

    def at_least(self, user: str) -> int:
        """The `seq` that a read of `user` must see; 0 where nothing is known."""
        return self._seqs.get(user, 0)


def exchange(session: Session, ask: Ask) -> Call[Answer]:
    """Send, and send again while that is safe and useful, until there is an answer below 400. Raises `RoostError`."""
    limits = session.limits
    deadline = session.clock() + limits.deadline_s + ask.wait_s
    token = None if ask.public else (yield from session.bearer())
    attempt = 0
    renewed = ask.public
    while True:
        outcome = yield _request(session, ask, token, deadline)
        attempt += 1
        if isinstance(outcome, Answer) and outcome.status < 400:  # noqa: PLR2004  # as the docstring says
            _remember(session, ask, outcome)
            return outcome
        error = _error(outcome, session.url)
        error.idempotency_key = ask.headers.get("idempotency-key")
        if isinstance(error, Unauthenticated) and not renewed:
            # A token may have expired on the way, or been revoked; a fresh one is worth one attempt.
            renewed = True
            session.refused(token)
            token, old = (yield from session.bearer()), token
            if token != old:
                continue
        if not isinstance(error, Unavailable) or attempt >= limits.attempts:
            raise error
        # The random part comes on top of `Retry-After`: all who were sent away must not come back at once.
        pause = session.chance() * min(limits.backoff_s_max, limits.backoff_s * 2 ** (attempt - 1))
        pause += error.retry_after_s or 0.0
        if session.clock() + pause >= deadline:
            raise error
        yield Pause(pause)


def new_key() -> str:
    """A fresh idempotency key."""
    return uuid.uuid4().hex


def _request(session: Session, ask: Ask, token: str | None, deadline: float) -> Request:
    attempt_s = session.limits.attempt_s if ask.attempt_s is None else min(session.limits.attempt_s, ask.attempt_s)
    headers = {"accept": "application/json, application/problem+json", **ask.headers}
    if token:
        headers["authorization"] = f"Bearer {token}"
    if session.purpose is not None:
        headers["roost-purpose"] = session.purpose
    if ask.user is not None and ask.reads and (seq := session.at_least(ask.user)):
        headers["roost-at-least"] = str(seq)
    # Never zero: a request that is not given a moment cannot fail in a way that says why.
    left = max(deadline - session.clock(), 0.001)
    return Request(
        method=ask.method,
        url=session.url + ask.target,
        headers=headers,
        content=ask.content,
        timeout_s=min(attempt_s + ask.wait_s, left),
    )


def _remember(session: Session, ask: Ask, answer: Answer) -> None:
    if ask.user is not None and not ask.reads and (seq := answer.headers.get("roost-seq", "")).isdecimal():
        session.wrote(ask.user, int(seq))


def _error(outcome: Answer | Lost | RoostError | None, url: str) -> RoostError:
    if isinstance(outcome, Answer):
        return error_of(
            outcome.status,
            outcome.body,
            request_id=outcome.headers.get("roost-request-id"),
            retry_after_s=_retry_after_s(outcome.headers),
        )
    reason = outcome.reason if isinstance(outcome, Lost) else "nothing was sent back"
    return Unreachable(f"No answer from {url}: {reason.rstrip('.')}.", code="unavailable")


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The header in seconds; a date counts from the answer's own `Date`, so our clock does not matter."""
    text = headers.get("retry-after", "")
    if text.isdecimal():
        return float(text)
    try:
        until, now = parsedate_to_datetime(text), parsedate_to_datetime(headers.get("date", ""))
        return max((until - now).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None
