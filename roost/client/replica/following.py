"""Keeping a replica and its server in step, for as long as the replica is open.

One task connects, follows the log and pushes, and begins again whatever happens: with growing, random pauses, never
sooner than the server asks for. All it knows is in the replica, so it may be cut off anywhere.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import aclosing, suppress
from typing import Literal, Protocol

from msgspec import UNSET

from roost.client.carry import AsyncCarrier
from roost.client.errors import (
    Forbidden,
    RoostError,
    SessionEnded,
    Unauthenticated,
    Unavailable,
    Unreachable,
    UserErased,
)
from roost.client.exchange import Credential, Session
from roost.client.replica.calls import Calls
from roost.client.replica.lines import HandshakeLost, Line, NoUser, NoWebSocket, PollLine, Refetch, SocketLine
from roost.client.replica.store import ReplicaUnusable, Store
from roost.sync.frames import Events, Hello, Pushed, Refused, Renewed, Welcome, event_of
from roost.sync.replica import Outcome, Replica

EVENTS_AT_ONCE = 200
"""Events that are persisted in one transaction; between two of these, others have their turn."""
PAUSE_S_MAX = 30.0
DOUBLINGS_MAX = 16
READ_S = 5.0
"""How often the server is told, at most, how far the log was read."""
POLLING_S = 300.0
"""How long to go without a WebSocket before trying again."""
NO_USER_S = 2.0
RENEW_S = 1.0
"""How often, at most, a fresh token is asked for; more often where tokens are short."""
UNKNOWN_S = 60.0
"""For how long a token is taken to be good that has ended by a clock which cannot be right."""
DOUBTS_MAX = 2


Status = Literal["offline", "connecting", "live", "erased"]
"""`erased`: the user was, and with the user all that this device had; it is over."""


_REFUSALS: dict[str, type[RoostError]] = {"unauthenticated": Unauthenticated, "forbidden": Forbidden}


class Resume(Exception):
    """The line is not to be trusted: connect again."""


class Host(Protocol):
    """The open replica that is kept in step."""

    core: Replica
    store: Store
    work: asyncio.Event
    """Set when there is something to push."""

    @property
    def status(self) -> Status:
        """What was told last."""

    def settle(self, outcome: Outcome) -> None:
        """Persist an outcome, and tell the application."""

    def turn(self, outcome: Outcome) -> None:
        """The same for a snapshot."""

    def erased(self, problem: RoostError) -> None:
        """The user was erased: forget everything, and tell the application."""

    def tell(self, status: Status, problem: RoostError | None) -> None:
        """How it goes."""

    def new_name(self) -> str:
        """A name for the device that nobody has."""


class Following:
    """The task of one open replica: `run` it."""

    def __init__(self, host: Host, session: Session, carry: AsyncCarrier, calls: Calls) -> None:
        self._host = host
        self._session = session
        self._carry = carry
        self._calls = calls
        self._failures = 0
        self._polling_until = 0.0
        self._read = 0
        self._read_at = 0.0
        self._doubts = 0
        self._refusal: RoostError | None = None
        self._token: str | None = None

    async def run(self) -> None:
        """Follow and push, until cancelled, or until there is nobody to follow any more."""
        self._host.tell("connecting", None)
        while True:
            problem: RoostError | None = None
            try:
                await self._attempt()
            except NoWebSocket:
                self._polling_until = time.monotonic() + POLLING_S
                continue
            except Refetch:
                self._host.store.stale = True
            except Resume:
                pass
            except UserErased as erased:
                self._host.erased(erased)
                return
            except RoostError as failed:
                problem = failed
                self._doubt(failed)
                if isinstance(failed, Unauthenticated):
                    self._session.refused(self._token)
            except sqlite3.Error as error:
                problem = ReplicaUnusable(f"The replica could not be written: {error}.", code="unavailable")
            self._host.tell("offline", problem)
            await asyncio.sleep(self._pause(problem, self._failures))
            self._failures += 1
            self._host.tell("connecting", problem)

    async def _attempt(self) -> None:
        """Be in step, until something ends it; without such a user, see whether there is one now."""
        while True:
            if self._host.store.stale or self._host.core.saved.cursor is None:
                await self._fetch()
            try:
                await self._follow()
            except NoUser:
                await self._await_user()

    def _doubt(self, failed: RoostError) -> None:
        """What breaks off one handshake after the other may be no outage, but something that knows no WebSockets."""
        self._doubts = self._doubts + 1 if isinstance(failed, HandshakeLost) else 0
        if self._doubts >= DOUBTS_MAX:
            self._doubts = 0
            self._polling_until = time.monotonic() + POLLING_S

    def _pause(self, problem: RoostError | None, failures: int) -> float:
        """How long to wait after a failure, in seconds: "full jitter", on top of what the server asks for."""
        most = min(PAUSE_S_MAX, self._session.limits.backoff_s * 2.0 ** min(failures, DOUBLINGS_MAX))
        if problem is not None and not isinstance(problem, Unavailable):
            # Trying again soon will not help against what a person has to see to. A login renews its token, though.
            renews = isinstance(self._session.token, Credential) and isinstance(problem, Unauthenticated)
            most = most if renews and not isinstance(problem, SessionEnded) else PAUSE_S_MAX
        asked = problem.retry_after_s if problem is not None else None
        return self._session.chance() * most + (asked or 0.0)

    # A snapshot

    async def _fetch(self) -> None:
        """Push what is pending, so that the snapshot has it; then read all documents."""
        host = self._host
        if host.core.saved.cursor is not None:
            # What the server does not want now is no reason not to read; what it has not seen shows on top.
            with suppress(Unavailable, Forbidden):
                await self._push_before()
        seq, collections = await self._head()
        host.store.begin_edition()
        documents = []
        for name in collections:
            after: str | None = None
            while True:
                page, after = await self._carry(self._calls.page(name, after))
                host.store.add(page)
                documents += page
                if after is None:
                    break
        host.turn(host.core.replace(documents, seq))
        await self._sweep()

    async def _sweep(self) -> None:
        """Delete what the snapshot has replaced, in parts, so that others have their turn."""
        done = False
        while not done:
            done = self._host.store.sweep()
            await asyncio.sleep(0)

    async def _head(self) -> tuple[int, list[str]]:
        head = await self._carry(self._calls.head())
        wanted = self._host.core.collections
        return head.seq, [name for name in sorted(head.collections) if wanted is None or name in wanted]

    async def _push_before(self) -> None:
        host = self._host
        while batch := host.core.to_push():
            answer = await self._carry(self._calls.push(host.core.saved.device, batch))
            if self._answered(answer) == "refetch":
                return

    async def _await_user(self) -> None:
        """Nobody has written to this user: what is pending makes it, else there is nothing to read yet."""
        host = self._host
        host.tell("live", None)
        host.work.clear()
        if not host.core.unanswered:
            try:
                async with asyncio.timeout(NO_USER_S * (0.5 + self._session.chance())):
                    await host.work.wait()
            except TimeoutError:
                return
        await self._push_before()

    # A line

    async def _follow(self) -> None:
        host = self._host
        core = host.core
        collections = None if core.collections is None else tuple(sorted(core.collections))
        hello = Hello(core.saved.device, core.saved.cursor or 0, collections)
        line: Line
        if time.monotonic() < self._polling_until:
            line = PollLine(self._carry, self._calls, hello)
        else:
            self._token = await self._carry(self._session.bearer())
            line = await SocketLine.open(self._session, self._calls, hello, self._token)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._push(line))
                await self._listen(line, tasks)
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            await line.close()

    async def _listen(self, line: Line, tasks: asyncio.TaskGroup) -> None:
        host = self._host
        renewing: asyncio.Task[None] | None = None
        async with aclosing(line.frames()) as frames:
            async for frame in frames:
                if isinstance(frame, Welcome):
                    self._then(host.core.welcome(frame.seq, frame.number))
                if isinstance(frame, Welcome | Renewed) and frame.expires_at is not None:
                    if renewing is not None:
                        renewing.cancel()
                    renewing = tasks.create_task(self._renew(line, frame.expires_at))
                if isinstance(frame, Events):
                    await self._take(frame)
                    if frame.live:
                        self._failures = 0
                        host.tell("live", self._refusal)
                        await self._tell_read(line)
                    if isinstance(line, PollLine) and time.monotonic() > self._polling_until:
                        raise Resume

    async def _take(self, frame: Events) -> None:
        events = [event_of(event) for event in frame.events]
        after = None if frame.after is UNSET else frame.after
        for start in range(0, max(len(events), 1), EVENTS_AT_ONCE):
            some = events[start : start + EVENTS_AT_ONCE]
            last = start + EVENTS_AT_ONCE >= len(events)
            seq = frame.seq if last else some[-1].seq
            self._then(self._host.core.advance(some, seq, after))
            after = seq if after is not None else None
            if not last:
                await asyncio.sleep(0)

    async def _tell_read(self, line: Line) -> None:
        cursor = self._host.core.saved.cursor or 0
        now = time.monotonic()
        if cursor > self._read and now - self._read_at >= READ_S:
            self._read, self._read_at = cursor, now
            await line.read(cursor)

    async def _push(self, line: Line) -> None:
        """Push what there is, whenever there is something. Where the server wants none now, the line stays."""
        host = self._host
        while True:
            host.work.clear()
            failures = 0
            while batch := host.core.to_push():
                try:
                    self._answered(await line.push(batch))
                    failures, self._refusal = 0, None
                except Unreachable:
                    raise
                except (Unavailable, Forbidden) as refusal:
                    self._refusal = refusal
                    host.tell(host.status, refusal)
                    await asyncio.sleep(self._pause(refusal, failures))
                    failures += 1
            await host.work.wait()

    async def _renew(self, line: Line, expires_at: int) -> None:
        """Hand in a fresh token before the old one ends, if the application has one."""
        left = _left(expires_at)
        pause = left - min(60.0, left / 5)
        fresh = line.token
        while fresh is None or fresh == line.token:
            await asyncio.sleep(max(pause, min(RENEW_S, left / 10)))
            with suppress(Unavailable):  # the line is open as long as its token is good
                fresh = await self._carry(self._session.bearer())
            pause = _left(expires_at) / 4
        await line.renew(fresh)
        self._token = fresh

    # Outcomes

    def _answered(self, answer: Pushed | Refused) -> str | None:
        core = self._host.core
        if isinstance(answer, Pushed):
            return self._then(core.answered(answer.results))
        outcome = core.refused(answer.code, answer.expected)
        if outcome.then == "wait":
            refusal = _REFUSALS.get(answer.code, Unavailable)(answer.detail, code=answer.code)
            refusal.retry_after_s = answer.retry_after
            raise refusal
        return self._then(outcome)

    def _then(self, outcome: Outcome) -> str | None:
        """Persist an outcome, and do what it asks for."""
        host = self._host
        if outcome.then == "forget":
            raise UserErased("The user was erased, for good.", code="user_erased")
        host.settle(outcome)
        if outcome.then == "rename":
            host.settle(host.core.rename(host.new_name()))
            # The server knows this line under the old name.
            raise Resume
        if outcome.then == "resume":
            raise Resume
        if outcome.then == "refetch" and not host.store.stale:
            raise Refetch
        return outcome.then


def _left(expires_at: int) -> float:
    """How long a token that was just taken is good, in seconds; if it has ended by this device's clock, that is off."""
    left = expires_at - time.time()
    return left if left > 0 else UNKNOWN_S


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What ended a line: the first of what its tasks say about it."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
