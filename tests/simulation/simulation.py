"""One run: three devices, two nodes, one user, and all that may go wrong; then peace, and the audit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from roost.core.fold import Fold, differences
from roost.core.limits import Limits
from tests.simulation.accounts import Audit
from tests.simulation.database import Database
from tests.simulation.device import Device
from tests.simulation.ledger import Ledger
from tests.simulation.network import Weather
from tests.simulation.node import USER, Node
from tests.simulation.people import POLICIES, TALLIES, People
from tests.simulation.world import HOUR, MS, S, Violation, World, finished, moment

PEACE_S = 600
LIMITS = Limits(siblings_max=4, concurrent_events_max=12, push_mutations_max=5)

CHANGING = {
    "fickle": ["cas", "lww", "siblings"],
    "moody": ["cas", "lww", "merge", "siblings"],
    TALLIES: ["lww", "merge"],
}
"""Collections whose policy changes in the middle of a run."""


class Trouble(NamedTuple):
    """What goes wrong in a run, and how often: drawn, so that some runs know one kind only."""

    weather: Weather
    crashes: float
    faults: float
    skew: int
    compaction: float
    leaps: float
    duration: int


class Run(NamedTuple):
    """What became of a run."""

    digest: str
    lines: list[str]
    events: int
    mutations: int
    conflicts: int
    refused: int


class Simulation:
    """Everything there is in one run."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.trouble = drawn(self.world)
        self.ledger = Ledger()
        trouble = self.trouble
        self.database = Database(self.world, LIMITS, trouble.faults)
        self.database.committed += [self.ledger.committed, lambda *_: self._news()]
        self.policies = dict(POLICIES)
        self.nodes = [Node(self.world, f"node{n}", self.database, LIMITS, POLICIES) for n in (1, 2)]
        self.devices = [
            Device(self.world, name, self.nodes, trouble.weather, LIMITS, trouble.crashes)
            for name in ("laptop", "phone", "web")
        ]
        self.people = People(self.world, self.ledger, repeatable=not trouble.compaction)
        random = self.world.random
        if random.random() < 0.3:
            self.devices[2].collections = frozenset(random.sample(sorted(POLICIES), 4))
        for device in self.devices:
            device.told = lambda result, device=device: self.ledger.told(device.name, result)  # type: ignore[misc]

    def run(self) -> Run:
        """Raise `Violation` if a promise was not kept."""
        try:
            return self._run()
        finally:
            for node in self.nodes:
                node.stop()

    def _run(self) -> Run:
        world, trouble = self.world, self.trouble
        world.say(f"{trouble}")
        for device in self.devices:
            world.after(world.about(S), device.start)
            self._now_and_then(partial(self._act, device), 900 * MS)
            self._now_and_then(partial(self._away, device), 20 * S)
            self._now_and_then(partial(self._skew, device), 10 * S)
        for node in self.nodes:
            self._now_and_then(partial(self._trip, node), 15 * S)
            self._now_and_then(partial(self._skew, node), 20 * S)
        self._now_and_then(lambda: self.people.write(self.nodes, trouble.weather), 4 * S)
        self._now_and_then(self._compact, 8 * S)
        self._now_and_then(self._leap, 15 * S)
        self._now_and_then(self._define, 15 * S)
        world.run(trouble.duration)
        self._make_peace()
        self._compare()
        Audit(self.ledger, {name: policy for name, policy in POLICIES.items() if name not in CHANGING}).run()
        conflicts = sum(map(len, self.ledger.inbox.values()))
        refused = sum(answer.status == "refused" for answer in self.ledger.answers.values())
        events, mutations = len(self.ledger.events), len(self.ledger.intents)
        return Run(world.digest, world.lines, events, mutations, conflicts, refused)

    # What goes wrong

    def _now_and_then(self, act: Callable[[], None], mean: int) -> None:
        def again() -> None:
            if not self.world.calm:
                act()
                self.world.after(self.world.about(mean), again)

        self.world.after(self.world.about(mean), again)

    def _news(self) -> None:
        for node in self.nodes:
            node.news()

    def _act(self, device: Device) -> None:
        if device.up:
            self.people.act(device)

    def _away(self, device: Device) -> None:
        if device.up:
            device.go(online=not device.online)

    def _skew(self, whose: Device | Node) -> None:
        """Somebody sets a clock."""
        whose.skew = self.world.random.randint(-self.trouble.skew, self.trouble.skew)

    def _trip(self, node: Node) -> None:
        if self.world.chance(self.trouble.crashes * 20):
            node.crash()

    def _compact(self) -> None:
        """Fold old events away, however many devices still need them, and forget what was answered."""
        head = finished(self.database.memory.head(USER))
        if head is None or self.database.holder is not None or not self.world.chance(self.trouble.compaction):
            return
        floor = self.world.random.randint(head.floor, head.seq)
        self.world.say(f"the log is folded up to {floor}")
        finished(self.database.memory.compact(USER, floor))
        finished(self.database.memory.forget_answers(moment(self.world.wall - 24 * HOUR), 1_000))

    def _leap(self) -> None:
        if self.world.chance(self.trouble.leaps):
            self.world.say("a day goes by")
            self.world.leapt += self.world.random.randint(HOUR, 30 * HOUR)

    def _define(self) -> None:
        """A collection gets another policy; each node learns of it in its own time."""
        random = self.world.random
        name = random.choice(sorted(CHANGING))
        policy = random.choice(CHANGING[name])
        self.world.say(f"{name} is {policy} now")
        self.policies[name] = policy
        for node in self.nodes:
            self.world.after(self.world.about(S), lambda node=node: node.policies.update({name: policy}))  # type: ignore[misc]

    # Peace

    def _make_peace(self) -> None:
        """Nothing goes wrong any more: then everything is pushed and read, and nothing is left to do."""
        self.world.calm = True
        self.world.say("peace")
        for device in self.devices:
            if not device.online:
                device.go(online=True)

        def done() -> bool:
            head = finished(self.database.memory.head(USER))
            seq = head.seq if head else 0
            return not self.people.waiting and all(
                device.in_step and device.replica.saved.cursor == seq for device in self.devices
            )

        if not self.world.run(self.world.now + PEACE_S * S, done):
            left = {
                device.name: (device.up, device.replica.saved, list(device.replica.queue)) for device in self.devices
            }
            raise Violation(f"no end in sight: {left}, {self.people.waiting} plain writes")

    def _compare(self) -> None:
        """See that all have the same, and that it is what the log adds up to."""
        stored = finished(self.database.memory.stored(USER))
        log = finished(self.database.memory.log(USER, 0, 1 << 30, None))
        if stored is None or log is None:
            return
        head, documents = stored
        folded = Fold(head.floor)
        for event in log.events:
            folded.add(event)
        if found := differences(head, documents, folded):
            raise Violation(f"the log does not add up to what is stored: {found}")
        server = {(each.collection, each.key): each for each in documents if each.value is not None}
        for device in self.devices:
            replica, mine = device.replica, server
            if replica.collections is not None:
                mine = {name: each for name, each in server.items() if name[0] in replica.collections}
            if replica.documents != mine:
                names = sorted(mine.keys() | replica.documents.keys())
                other = [name for name in names if mine.get(name) != replica.documents.get(name)]
                raise Violation(
                    f"{device.name} has {replica.documents.get(other[0])}, and the server {mine.get(other[0])}"
                )
            if set(replica.names()) != set(mine) or device.disk.documents != mine or device.disk.queue:
                raise Violation(f"{device.name} shows or keeps something else than it has read")
        everything = Fold()
        for event in self.ledger.events:
            everything.add(event)
        if {name: each for name, each in everything.documents.items() if each.value is not None} != server:
            raise Violation("the log as it was before it was folded adds up to something else")
        missing = self.ledger.intents.keys() - self.ledger.answers.keys()
        if missing:
            raise Violation(f"never answered: {sorted(missing)}")


def drawn(world: World) -> Trouble:
    """What goes wrong in this run."""
    random = world.random
    weather = Weather(
        loss=random.choice([0.0, 0.05, 0.3]),
        double=random.choice([0.0, 0.1, 0.4]),
        breaks=random.choice([0.0, 0.01, 0.05]),
        delay=random.choice([20 * MS, 100 * MS, 800 * MS]),
    )
    return Trouble(
        weather,
        crashes=random.choice([0.0, 0.01, 0.04]),
        faults=random.choice([0.0, 0.01, 0.05]),
        skew=random.choice([0, 5 * S, 2 * HOUR]),
        compaction=random.choice([0.0, 0.3, 1.0]),
        leaps=random.choice([0.0, 0.0, 0.5]),
        duration=random.choice([10 * S, 20 * S, 40 * S]),
    )


def simulate(seed: int) -> Run:
    """Run it from a seed."""
    return Simulation(seed).run()
