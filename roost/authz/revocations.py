"""Which sessions were ended before their tokens: what every node asks at each use of a token.

A revocation is a document of the system user, by the session's id (`Principal.session`), with the time by which the
last token of it has ended by itself. Of an id such as `client:billing:7:2f9c` it may also name what stands before the
last colon: that ends all tokens of an application, which can be ended one by one too. Nodes follow them
(`feed.bulletin`), so a token is refused everywhere within a moment, and whoever talks for long (a WebSocket, a stream)
is told at once. They are deleted once they say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Protocol

import msgspec
import structlog

from roost.authz.principal import Principal
from roost.chores import now_and_then
from roost.core.commands import Accepted, Change, Command, Op
from roost.core.errors import RoostError
from roost.core.ids import REVOCATIONS, SYSTEM_USER
from roost.feed.bulletin import Bulletin

ACTOR = "roost"
"""The actor of what Roost writes by itself."""
TIDY_S = 60.0
TIDY_MAX = 500
MARGIN_S = 60
"""How much longer than its tokens a revocation is kept: clocks of nodes differ."""

Ended = Callable[[], None]
log = structlog.get_logger(__name__)


class Runs(Protocol):
    """What carries out commands: `Writer`."""

    async def run(self, command: Command) -> Accepted:
        """See `Writer.run`."""


class _Revocation(msgspec.Struct, frozen=True):
    until: int


_decode = msgspec.json.Decoder(_Revocation).decode


class Watch:
    """A context in which somebody hears of sessions that are ended. Each socket that is open is in one: it is small."""

    __slots__ = ("_ended", "_names", "_until", "_watched")

    def __init__(
        self, watched: dict[str, set[Ended]], until: Mapping[str, int], names: tuple[str, ...], ended: Ended
    ) -> None:
        self._watched = watched
        self._until = until
        self._names = names
        self._ended = ended

    def __enter__(self) -> None:
        for name in self._names:
            self._watched.setdefault(name, set()).add(self._ended)
        if any(name in self._until for name in self._names):
            self._ended()

    def __exit__(self, *_: object) -> None:
        for name in self._names:
            watching = self._watched[name]
            watching.discard(self._ended)
            if not watching:
                del self._watched[name]


class Revocations:
    """The sessions that were ended, as the bulletin has them."""

    def __init__(self, bulletin: Bulletin, writer: Runs, clock: Callable[[], datetime]) -> None:
        self._bulletin = bulletin
        self._writer = writer
        self._clock = clock
        self._until: dict[str, int] = {}
        self._watched: dict[str, set[Ended]] = {}
        bulletin.subscribe(REVOCATIONS, self._learn)

    def revoked(self, principal: Principal) -> bool:
        """Whether this principal's tokens are good no longer. Raises `UNAVAILABLE` while that is not known."""
        self._bulletin.check()
        session = principal.session
        until = self._until
        return bool(until) and session is not None and (session in until or _whole(session) in until)

    def ended(self, session: str) -> bool:
        """Whether this node knows that the session was ended."""
        return session in self._until

    def watch(self, principal: Principal, ended: Ended) -> Watch:
        """Inside, `ended` is called once the principal's session is ended; at once, if it was."""
        session = principal.session
        names = () if session is None else tuple(name for name in (session, _whole(session)) if name)
        return Watch(self._watched, self._until, names, ended)

    async def revoke(self, sessions: Mapping[str, int], actor: str, ops: Iterable[Op] = ()) -> Accepted | None:
        """End sessions; each is given with the time (seconds since 1970) by which its last token ends by itself.

        Together with `ops` on the system user's documents, all or none; None where there is nothing to do. In force
        here once this returns. Raises what the writer raises.
        """
        ends = (
            Op("put", REVOCATIONS, session, msgspec.json.encode(_Revocation(until)))
            for session, until in sorted(sessions.items())
        )
        every = (*ops, *ends)
        if not every:
            return None
        accepted = await self._writer.run(Change(SYSTEM_USER, every, actor))
        await self._bulletin.until(accepted.seq)
        return accepted

    async def tidy(self) -> int:
        """Delete revocations that say nothing any more; returns how many."""
        now = self._clock().timestamp()
        over = [session for session, until in self._until.items() if until + MARGIN_S < now][:TIDY_MAX]
        if over:
            ops = tuple(Op("delete", REVOCATIONS, session) for session in over)
            await self._writer.run(Change(SYSTEM_USER, ops, ACTOR))
        return len(over)

    async def keep_tidy(self) -> None:
        """Delete them as they grow old, until cancelled."""

        async def tidying() -> None:
            # Of several workers whoever comes second is refused, because nothing is there any more.
            with suppress(RoostError):
                while await self.tidy() == TIDY_MAX:
                    pass

        await now_and_then(TIDY_S, [tidying])

    def _learn(self, changed: Mapping[str, bytes | None], *, anew: bool) -> None:
        if anew:
            self._until.clear()
        for session, value in changed.items():
            if value is None:
                self._until.pop(session, None)
            else:
                self._until[session] = _until(value)
        self._tell(session for session, value in changed.items() if value is not None)

    def _tell(self, sessions: Iterable[str]) -> None:
        for session in sessions:
            for ended in list(self._watched.get(session, ())):
                try:
                    ended()
                except Exception:
                    log.exception("the end of a session was not understood")


def _whole(session: str) -> str:
    """What this is a part of, and ends with; empty, which no session is called, where it is all."""
    return session.rpartition(":")[0]


def _until(value: bytes) -> int:
    try:
        return _decode(value).until
    except msgspec.DecodeError:
        return 1 << 62  # a newer node's: refused for as long as it stands
