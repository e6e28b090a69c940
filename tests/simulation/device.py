"""A device: the replica with a disk beside it, and a shell that may die before and after each thing it persists.

The shell does what `roost.client.replica.following` does, with less patience: it follows one node or the other, pushes
over its connection or by requests, over both at once and again before it has heard an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roost.core.commands import Result
from roost.core.errors import Code
from roost.core.events import Document, DocumentId
from roost.core.limits import Limits
from roost.sync import frames
from roost.sync.replica import Outcome, Pending, Replica, Saved, Then
from tests.simulation.network import Connection, Weather, request
from tests.simulation.node import Close, Node
from tests.simulation.world import MS, S, Violation, World

PATIENCE = 3 * S
"""How long a push waits for its answer, before the same is pushed again."""


class Disk:
    """What outlives the device's process; each outcome is one transaction."""

    def __init__(self, device: str) -> None:
        self.saved = Saved(device)
        self.documents: dict[DocumentId, Document] = {}
        self.queue: dict[int, Pending] = {}

    def keep(self, replica: Replica, outcome: Outcome) -> None:
        """Persist what came of a step."""
        self.saved = replica.saved
        _keep(self.documents, replica.documents, outcome.documents)
        _keep(self.queue, replica.queue, outcome.pending)

    def load(self, collections: frozenset[str] | None, limits: Limits) -> Replica:
        """The replica as it was persisted last."""
        queue = [self.queue[number] for number in sorted(self.queue)]
        return Replica(self.saved, self.documents.values(), queue, collections=collections, limits=limits)


class Fetch:
    """A snapshot that is being read: the log's end when it was begun, the pages so far, and those to come."""

    def __init__(self) -> None:
        self.seq = 0
        self.todo: list[str] = []
        self.after: str | None = None
        self.documents: list[Document] = []


class Device:
    """One device. `told` hears each answer that its person is told, `crashes` is the probability of that."""

    def __init__(
        self, world: World, name: str, nodes: list[Node], weather: Weather, limits: Limits, crashes: float
    ) -> None:
        self.world = world
        self.name = name
        self.collections: frozenset[str] | None = None
        self.skew = 0
        self.life = 0
        self.up = False
        self.online = True
        self.told: Callable[[Result], None] = lambda _: None
        self._nodes = nodes
        self._weather = weather
        self._limits = limits
        self._crashes = crashes
        self.disk = Disk(name)
        self.replica = self.disk.load(None, limits)

    def start(self) -> None:
        """Come to life, with what is on the disk."""
        self.replica = self.disk.load(self.collections, self._limits)
        self.life += 1
        self.up = True
        self._connection: Connection | None = None
        self._greeted = False
        self._answered_before = 0
        self._fetch: Fetch | None = None
        self._pushed_at: int | None = None
        self._soon(self._beat, 100 * MS)

    def crash(self, when: str) -> None:
        """Die; what was not persisted has not happened."""
        self.world.say(f"{self.name} dies {when}")
        self.up = False
        self.life += 1
        self._hang_up()
        self.world.after(self.world.about(3 * S), self.start)

    def keep(self, outcome: Outcome, kept: Callable[[], None] = lambda: None) -> bool:
        """Persist an outcome; `kept` is called once that is done. False: the device died before, or right after."""
        if self.world.chance(self._crashes):
            self.crash("before it persists")
            return False
        self.disk.keep(self.replica, outcome)
        kept()
        if self.world.chance(self._crashes):
            self._compare()
            self.crash("after it has persisted")
            return False
        for result in outcome.results:
            self.told(result)
        return True

    @property
    def in_step(self) -> bool:
        """Whether nothing is left to push."""
        return self.up and not self.replica.queue and self._greeted

    def go(self, *, online: bool) -> None:
        """Lose the network, or find it again."""
        self.world.say(f"{self.name} is {'online' if online else 'offline'}")
        self.online = online
        if not online:
            self._hang_up()

    # What it does by itself

    def _beat(self) -> None:
        """Look now and then what there is to do."""
        if self.online and self._fetch is None:
            if self.replica.saved.cursor is None:
                self._refetch()
            else:
                if self._connection is None:
                    self._connect()
                self._push()
        self._soon(self._beat, 500 * MS)

    def _soon(self, act: Callable[[], None], mean: int) -> None:
        life = self.life
        self.world.after(self.world.about(mean), lambda: act() if life == self.life else None)

    def _push(self) -> None:
        """Push what has no answer, unless an answer is about to come."""
        world, batch = self.world, self.replica.to_push()
        waits = self._pushed_at is not None and world.now - self._pushed_at < PATIENCE
        if not batch or (waits and not world.chance(0.1)):
            return
        self._pushed_at = world.now
        wire = tuple(map(frames.mutation_frame, batch))
        world.say(f"{self.name} pushes {batch[0].number} to {batch[-1].number}")
        if self._connection is None or not self._greeted or world.chance(0.2):
            body, device = frames.encode(frames.PushBody(self.replica.saved.device, wire)), self.replica.saved.device
            node = world.random.choice(self._nodes)
            heard = self._hearing(lambda answer: self._answered(answer, device))
            request(world, self._weather, lambda reply: node.push(body, reply), heard)
        else:
            self._connection.send("node", frames.encode(frames.Push(wire)))

    def _hearing(self, hear: Callable[[Any], None]) -> Callable[[Any], None]:
        """Hear nothing that was meant for an earlier life, nor while there is no network."""
        life = self.life
        return lambda message: hear(message) if life == self.life and self.online else None

    def _answered(self, message: bytes | None, device: str) -> None:
        if message is not None and device == self.replica.saved.device:
            self._take(frames.server_frame(message))

    # A connection

    def _connect(self) -> None:
        connection = Connection(self.world, self._weather)
        connection.ends["device"] = self._hearing(lambda message: self._receive(connection, message))
        node = self.world.random.choice(self._nodes)
        if not node.up:
            return
        self._connection, self._greeted, self._pushed_at = connection, False, None
        node.connect(connection)
        saved, self._answered_before = self.replica.saved, self.replica.last_answered
        names = None if self.replica.collections is None else tuple(sorted(self.replica.collections))
        self.world.say(f"{self.name} connects to {node.name} after {saved.cursor}")
        connection.send("node", frames.encode(frames.Hello(saved.device, saved.cursor or 0, names)))

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.cut()
        self._connection, self._greeted, self._fetch, self._pushed_at = None, False, None, None

    def _receive(self, connection: Connection, message: Any) -> None:
        if connection is not self._connection:
            return
        if message is None:
            self._hang_up()
        elif isinstance(message, Close):
            self._hang_up()
            self.world.say(f"{self.name} is closed: {message.code}")
            if message.code in (4409, 4410):
                self._refetch()
        else:
            frame = frames.server_frame(message)
            if isinstance(frame, frames.Welcome):
                self._greeted = True
            self._take(frame)

    def _take(self, frame: frames.ServerFrame) -> None:
        """Something that the server says."""
        replica = self.replica
        if isinstance(frame, frames.Welcome):
            number = frame.number
            if self._answered_before != replica.last_answered:  # by requests, which may have overtaken the welcome
                number = max(number, replica.last_answered)
            outcome = replica.welcome(frame.seq, number)
        elif isinstance(frame, frames.Events):
            outcome = replica.advance([frames.event_of(event) for event in frame.events], frame.seq)
            self.world.say(f"{self.name} reads up to {replica.saved.cursor}")
        elif isinstance(frame, frames.Pushed):
            self._pushed_at = None
            told = " ".join(f"{result.number}:{result.status}" for result in frame.results)
            outcome = replica.answered(frame.results)
            self.world.say(f"{self.name} is answered {told}")
        else:
            assert isinstance(frame, frames.Refused)
            self._pushed_at = None
            outcome = replica.refused(Code(frame.code), frame.expected)
            self.world.say(f"{self.name} is refused: {frame.code}")
        if self.keep(outcome):
            self._then(outcome.then)

    def _then(self, then: Then | None) -> None:
        if then == "push" and self._fetch is None:
            self._push()
        elif then == "resume":
            self._hang_up()
        elif then in ("refetch", "rename"):
            raise Violation(f"{self.name} is asked to {then}, with nothing lost on either side")

    # A snapshot

    def _refetch(self) -> None:
        """Read all documents again, once all that is pending is pushed, so that the snapshot has it."""
        self._fetch = Fetch()
        self._begin(self._fetch)

    def _begin(self, fetch: Fetch) -> None:
        if fetch is not self._fetch:
            return
        if self.replica.saved.cursor is not None and self.replica.to_push():
            self._push()
            self._soon(lambda: self._begin(fetch), S)
        else:
            self.world.say(f"{self.name} begins a snapshot")
            self._ask(fetch, lambda node, reply: node.where(reply), lambda answer: self._begun(fetch, *answer))

    def _begun(self, fetch: Fetch, seq: int, collections: list[str]) -> None:
        fetch.seq = seq
        fetch.todo = [name for name in collections if self.collections is None or name in self.replica_collections]
        self._next_page(fetch)

    @property
    def replica_collections(self) -> frozenset[str]:
        """The collections that it is narrowed to, the inbox among them."""
        return self.replica.collections or frozenset()

    def _next_page(self, fetch: Fetch) -> None:
        if fetch.todo:
            name, after = fetch.todo[0], fetch.after
            self._ask(fetch, lambda node, reply: node.page(name, after, reply), lambda page: self._paged(fetch, page))
            return
        self._fetch = None
        outcome = self.replica.replace(fetch.documents, fetch.seq)
        self.world.say(f"{self.name} has a snapshot of {fetch.seq}, {len(fetch.documents)} documents")
        if self.keep(outcome):
            self._then(outcome.then)

    def _paged(self, fetch: Fetch, page: Any) -> None:
        fetch.documents += page.documents if page else []
        if page and page.more:
            fetch.after = page.documents[-1].key
        else:
            fetch.todo, fetch.after = fetch.todo[1:], None
        self._next_page(fetch)

    def _ask(self, fetch: Fetch, ask: Callable[[Node, Any], None], hear: Callable[[Any], None]) -> None:
        """Ask a node; the first answer counts, and none at all ends the snapshot."""
        waiting = [True]

        def heard(answer: Any) -> None:
            if waiting.pop() if waiting else False:
                if fetch is not self._fetch:
                    return
                if answer is None:
                    self._fetch = None
                    self.world.say(f"{self.name} gives a snapshot up")
                else:
                    hear(answer)

        node = self.world.random.choice(self._nodes)
        request(self.world, self._weather, lambda reply: ask(node, reply), self._hearing(heard))

    def _compare(self) -> None:
        """See that what was persisted is all there is."""
        twin, mine = self.disk.load(self.collections, self._limits), self.replica
        if (twin.saved, twin.documents, twin.queue) != (mine.saved, mine.documents, mine.queue):
            raise Violation(f"{self.name} did not persist all that it knows")


def _keep(disk: dict[Any, Any], memory: dict[Any, Any], names: set[Any]) -> None:
    for name in names:
        if name in memory:
            disk[name] = memory[name]
        else:
            disk.pop(name, None)
