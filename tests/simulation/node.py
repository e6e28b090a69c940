"""A node: it decides commands in group commits, as `roost.commands.writer` does, and sends devices what they follow.

It may crash at any await. Then whatever was queued is gone, and nobody is told whether what was under way took place.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import UNSET, Raw

from roost.commands.pushes import MutationGap
from roost.commands.transaction import GroupCommit, Outcome
from roost.core.commands import Accepted, Command, Push
from roost.core.decide import Rules
from roost.core.errors import Code, RoostError
from roost.core.events import Document, DocumentId, Event
from roost.core.limits import Limits
from roost.core.ports import DocumentRef, Engine, EngineUnavailable, TransactionLost
from roost.sync import frames
from roost.sync.frames import WireEvent
from tests.simulation.database import Database
from tests.simulation.network import Connection
from tests.simulation.world import MS, S, World, finished, moment

USER = "ada"
ACTOR = "user:ada"
BATCH_MAX = 8
TRIES = 4
UNAVAILABLE = RoostError(Code.UNAVAILABLE, "It was carried out once, or not at all.", retry_after_s=1)

Reply = Callable[[Outcome], None]


class Close(NamedTuple):
    """The last message of a connection that the node closes."""

    code: int


class Session:
    """A device that is connected. `after` is how far it has been sent the log; None: it does not follow."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.device = ""
        self.after: int | None = None
        self.collections: list[str] | None = None


class Node:
    """One of the server's processes. `policies` are the conflict policies that it knows of."""

    def __init__(self, world: World, name: str, database: Database, limits: Limits, policies: dict[str, str]) -> None:
        self.world = world
        self.name = name
        self.policies = dict(policies)
        self.skew = 0
        self.up = True
        self._database = database
        self._limits = limits
        self._queue: list[tuple[Command, Reply]] = []
        self._batch: list[tuple[Command, Reply]] = []
        self._work: Coroutine[Any, Any, list[Outcome]] | None = None
        self._group: GroupCommit | None = None
        self._tries = 0
        self._sessions: list[Session] = []

    # Writing

    def submit(self, command: Command, reply: Reply) -> None:
        """Carry out a command, together with those that wait."""
        if self.up:
            self._queue.append((command, reply))
            self._begin()

    def crash(self) -> None:
        """Die, here and now; somebody will start it again."""
        if not self.up:
            return
        self.world.say(f"{self.name} dies")
        self.up = False
        self.stop()
        for session in self._sessions:
            session.connection.cut()
        self._sessions = []
        self.world.after(self.world.about(2 * S), self._start)

    def stop(self) -> None:
        """Do nothing more of what was asked."""
        if self._work is not None:
            self._work.close()
        self._work, self._queue, self._batch = None, [], []

    def _start(self) -> None:
        self.world.say(f"{self.name} starts")
        self.up = True

    def _begin(self) -> None:
        if self._work is not None or not self._queue:
            return
        size = self.world.random.randint(1, BATCH_MAX)
        self._batch, self._queue = self._queue[:size], self._queue[size:]
        rules = Rules(self._limits, self.policies.__getitem__)
        engine = cast("Engine", self._database)  # a transaction is all that it is asked for
        self._group = GroupCommit(engine, [command for command, _ in self._batch], rules)
        self._tries = TRIES
        self._try()

    def _try(self) -> None:
        assert self._group is not None
        self._work = self._group.run(moment(self.world.wall + self.skew))
        self._step(self._work)

    def _step(self, work: Coroutine[Any, Any, list[Outcome]]) -> None:
        """Go on until the next await."""
        if work is not self._work:
            return
        try:
            work.send(None)
        except StopIteration as end:
            self._answer(end.value)
        except (EngineUnavailable, TransactionLost):
            self._tries -= 1
            if self._tries:
                self.world.after(self.world.about(50 * MS), lambda: self._again(work))
            else:
                self._answer([UNAVAILABLE] * len(self._batch))
        else:
            self.world.after(self.world.about(2 * MS), lambda: self._step(work))

    def _again(self, work: Coroutine[Any, Any, list[Outcome]]) -> None:
        if work is self._work:
            self._try()

    def _answer(self, outcomes: list[Outcome]) -> None:
        batch, self._batch, self._work = self._batch, [], None
        for (_, reply), outcome in zip(batch, outcomes, strict=True):
            reply(outcome)
        self._begin()

    # Requests

    def push(self, body: bytes, answer: Callable[[Any], None]) -> None:
        """`POST /v1/users/{user}/push`."""
        asked = msgspec.json.decode(body, type=frames.PushBody)
        mutations = tuple(map(frames.mutation_of, asked.mutations))
        self.submit(Push(USER, asked.device, mutations, ACTOR), lambda outcome: answer(pushed(outcome)))

    def where(self, answer: Callable[[Any], None]) -> None:
        """`GET /v1/users/{user}`: the log's end, and the collections that have documents."""
        if self.up:
            head = finished(self._database.memory.head(USER))
            answer((head.seq, sorted(head.counts)) if head else (0, []))

    def page(self, collection: str, after: str | None, answer: Callable[[Any], None]) -> None:
        """A page of a collection, as it is now."""
        if self.up:
            size = self.world.random.randint(1, 10)
            answer(finished(self._database.memory.page(USER, collection, "", after, size)))

    def look(self, name: DocumentId) -> Document | None:
        """A document as it is now, at once."""
        (point,) = finished(self._database.memory.points([DocumentRef(USER, *name)]))
        return point.document

    # Following

    def connect(self, connection: Connection) -> None:
        """A device is there."""
        session = Session(connection)
        connection.ends["node"] = lambda message: self._receive(session, message)
        self._sessions.append(session)

    def news(self) -> None:
        """Something was committed, by this node or another."""
        for session in self._sessions:
            self.world.after(self.world.about(30 * MS), lambda session=session: self._pump(session))  # type: ignore[misc]

    def _receive(self, session: Session, message: bytes | None) -> None:
        if session not in self._sessions:
            return
        if message is None:
            self._sessions.remove(session)
            return
        frame = frames.client_frame(message)
        if isinstance(frame, frames.Hello):
            self._greet(session, frame)
        elif isinstance(frame, frames.Push):
            mutations = tuple(map(frames.mutation_of, frame.mutations))
            push = Push(USER, session.device, mutations, ACTOR)
            self.submit(push, lambda outcome: session.connection.send("device", pushed(outcome)))

    def _greet(self, session: Session, hello: frames.Hello) -> None:
        assert hello.device is not None
        memory = self._database.memory
        head = finished(memory.head(USER))
        session.device = hello.device
        session.collections = None if hello.collections is None else list(hello.collections)
        if hello.after is UNSET:
            return
        if head is None:
            self._close(session, 4404)
        elif hello.after > head.seq:
            self._close(session, 4409)
        else:
            known = {each.device: each.number for each in finished(memory.devices(USER)) or ()}
            welcome = frames.Welcome(head.seq, head.floor, known.get(hello.device, 0), None, 15)
            session.connection.send("device", frames.encode(welcome))
            session.after = hello.after
            self._pump(session)

    def _pump(self, session: Session) -> None:
        """Send the next stretch, if there is one."""
        if session not in self._sessions or session.after is None:
            return
        limit = self.world.random.randint(1, 12)
        log = finished(self._database.memory.log(USER, session.after, limit, session.collections))
        assert log is not None
        if session.after < log.head.floor:
            self._close(session, 4410)
            return
        live = log.reached == log.head.seq
        if log.reached > session.after:
            frame = frames.Events(tuple(map(wire_event, log.events)), log.reached, live)
            session.connection.send("device", frames.encode(frame))
            session.after = log.reached
        if not live:
            self.world.after(self.world.about(5 * MS), lambda: self._pump(session))

    def _close(self, session: Session, code: int) -> None:
        self._sessions.remove(session)
        session.connection.send("device", Close(code))


def pushed(outcome: Outcome) -> bytes:
    """The answer to a push, as a frame."""
    if isinstance(outcome, Accepted):
        return frames.encode(frames.Pushed(outcome.results))
    expected = outcome.expected if isinstance(outcome, MutationGap) else None
    return frames.encode(frames.Refused(outcome.code.value, outcome.detail, expected))


def wire_event(event: Event) -> WireEvent:
    """An event as it is sent."""
    return WireEvent(
        seq=event.seq,
        kind=event.kind,
        collection=event.collection,
        key=event.key,
        value=Raw(event.value or b"null"),
        at=event.at,
        actor=event.actor,
        device=event.device,
        mutation=UNSET if event.mutation is None else event.mutation,
        clock=UNSET if event.clock is None else event.clock,
        beside=event.beside or UNSET,
        edits=UNSET if event.edits is None else Raw(event.edits),
    )
