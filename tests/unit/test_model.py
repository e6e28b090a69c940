"""The store against a model of it: any sequence of commands and reads, through the gate and on the reference engine,
does what plain lists and dicts say.

The model knows nothing of the code that it checks: it holds each user's events as they were meant and reads
everything else off them.
"""

from __future__ import annotations

import asyncio
import json
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from roost.authz.door import Door
from roost.authz.gate import Gate
from roost.authz.policy.policies import Policies
from roost.authz.principal import Caller, Principal
from roost.commands.writer import Writer
from roost.core.commands import (
    ABSENT,
    ANYTHING,
    PRESENT,
    Accepted,
    AppendLog,
    Change,
    Condition,
    Idempotency,
    Op,
    Versions,
)
from roost.core.errors import Code, RoostError
from roost.core.events import Document, Event, microseconds
from roost.core.limits import Limits
from roost.core.moment import NOW, Moment
from roost.core.ports import DocumentRef, Point
from roost.engines.memory import Memory
from roost.feed.bulletin import Bulletin
from roost.feed.definitions import Definitions
from roost.feed.hub import Hub
from roost.feed.presence import Presence
from roost.queries.reader import Reader
from roost.queries.verify import verify
from roost.settings import Settings

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = Settings(policies={"payments": "cas"}, limits=Limits(documents_max=3, collections_max=2))
ADMIN = Caller(Principal("admin", "admin"))
USERS = st.sampled_from(["ada", "bob"])
COLLECTIONS = st.sampled_from(["notes", "carts", "payments"])
KEYS = st.sampled_from(["a", "b", "é", "ü"])
# Some more often than others: what is interesting happens where commands meet.
PLACES = st.sampled_from(
    [("notes", key) for key in "aaaabéü"] + [("payments", key) for key in "aaé"] + [("carts", key) for key in "ab"]
)
SEQS = st.integers(0, 8)

SCALARS = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from([1.0, "x"])
MEMBERS = st.sampled_from(["m", "n"])
VALUES = SCALARS | st.dictionaries(MEMBERS, SCALARS | st.dictionaries(MEMBERS, SCALARS, max_size=2), max_size=2)


class Asked(NamedTuple):
    """An op as the model understands it."""

    kind: Any
    collection: str
    key: str
    argument: Any
    condition: Any


PATCHES = st.lists(
    st.tuples(st.sampled_from(["add", "replace", "remove", "test"]), MEMBERS, SCALARS), min_size=1, max_size=2
)
CONDITIONS = st.sampled_from([None, None, "absent", "present"]) | st.frozensets(SEQS, min_size=1, max_size=3)
ARGUMENTS = {"put": VALUES, "merge": VALUES, "patch": PATCHES, "restore": SEQS, "delete": st.none()}
OPS = st.sampled_from(["put", *ARGUMENTS]).flatmap(
    lambda kind: st.tuples(PLACES, ARGUMENTS[kind], CONDITIONS).map(
        lambda drawn: Asked(kind, *drawn[0], drawn[1], drawn[2])
    )
)


class Wanted(NamedTuple):
    """A change as the model understands it; `name` is its idempotency key."""

    user: str
    ops: list[Asked]
    name: str | None
    batch: bool


NAMES = st.none() | st.sampled_from(["k1", "k2"])
CHANGES = st.builds(Wanted, USERS, st.lists(OPS, min_size=1, max_size=3), NAMES, st.booleans())


class Refused(Exception):
    """How the model says no."""

    def __init__(self, code: Code, pointer: str | None = None) -> None:
        super().__init__(code)
        self.answer = (code, pointer)


class Log(NamedTuple):
    """A user in the model: all events that there ever were."""

    created_at: datetime
    events: list[Event]

    def last(self, collection: str, key: str, seq: int | None = None) -> Event | None:
        """The event that made the document what it was at `seq`."""
        own = [event for event in self.events[:seq] if (event.collection, event.key) == (collection, key)]
        return own[-1] if own else None

    def documents(self, seq: int | None = None) -> dict[tuple[str, str], Event]:
        """The documents that there were at `seq`, by their last events."""
        last = {(event.collection, event.key): event for event in self.events[:seq]}
        return {name: event for name, event in sorted(last.items()) if event.value is not None}

    def counts(self) -> dict[str, int]:
        collections = [collection for collection, _ in self.documents()]
        return {collection: collections.count(collection) for collection in collections}


def text(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def merged(target: Any, change: Any) -> Any:
    if not isinstance(change, dict):
        return change
    result = deepcopy(target) if isinstance(target, dict) else {}
    for name, item in change.items():
        if item is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), item)
    return result


def patched(target: Any, change: list[tuple[str, str, Any]]) -> Any:
    result = deepcopy(target)
    for number, (kind, name, value) in enumerate(change):
        fits = isinstance(result, dict) and (kind == "add" or name in result)
        if not fits or (kind == "test" and not same(result[name], value)):
            raise Refused(Code.PATCH_FAILED, f"/{number}")
        if kind == "remove":
            del result[name]
        elif kind != "test":
            result[name] = value
    return result


def same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


class Model:
    """All users, and the answers that were given under a name."""

    def __init__(self) -> None:
        self.logs: dict[str, Log] = {}
        self.answers: dict[tuple[str, str], tuple[datetime, Wanted, Any]] = {}

    def change(self, wanted: Wanted, now: datetime) -> Any:
        """The answer: (seq, [(version, created)], the user is new) or a refusal's; then whether it is a replay."""
        if wanted.name is None:
            return self._decide(wanted, now), False
        given = self.answers.get((wanted.user, wanted.name))
        if given is not None and given[0] > now - timedelta(hours=24):
            if repr(given[1]) != repr(wanted):
                return (Code.IDEMPOTENCY_KEY_REUSED, None, None), False
            return given[2], True
        answer = self._decide(wanted, now)
        self.answers[wanted.user, wanted.name] = now, wanted, answer
        return answer, False

    def _decide(self, wanted: Wanted, now: datetime) -> Any:
        is_new = wanted.user not in self.logs
        log = Log(now, []) if is_new else deepcopy(self.logs[wanted.user])
        at = max(now, log.events[-1].at if log.events else log.created_at)
        # No write has the clock of one before it; that of the first write at a time is just the time.
        ticked = max([microseconds(at), *(event.stamp.clock + 1 for event in log.events)])
        clock = None if ticked == microseconds(at) else ticked
        written = []
        for number, op in enumerate(wanted.ops):
            try:
                value, created = self._value(log, op)
            except Refused as refused:
                code, pointer = refused.answer
                return code, (f"/ops/{number}" if wanted.batch else pointer), self._current(wanted.user, op, code)
            kind: Any = "delete" if value is None else "put"
            event = Event(len(log.events) + 1, kind, op.collection, op.key, value, at, "admin", clock=clock)
            log.events.append(event)
            written.append((len(log.events), created))
        self.logs[wanted.user] = log
        return len(log.events), written, is_new

    def _value(self, log: Log, op: Asked) -> tuple[bytes | None, bool]:
        """The document's value after an op, and whether the document is new."""
        event = log.last(op.collection, op.key)
        before = event if event is not None and event.value is not None else None
        if op.condition is None:
            if before is not None and op.collection == "payments":
                raise Refused(Code.PRECONDITION_REQUIRED)
        elif not (
            before is None if op.condition == "absent"
            else before is not None if op.condition == "present"
            else before is not None and before.seq in op.condition
        ):  # fmt: skip
            raise Refused(Code.VERSION_CONFLICT)
        held = None if before is None else json.loads(before.value or b"")
        value: bytes | None = None
        if op.kind == "put":
            value = text(op.argument)
        elif op.kind == "merge":
            value = text(merged(held, op.argument))
        elif op.kind == "restore":
            value = self._restored(log, op)
        elif before is None:
            raise Refused(Code.NOT_FOUND)
        elif op.kind == "patch":
            value = text(patched(held, op.argument))
        counts = log.counts()
        if before is None and (counts.get(op.collection, 0) == 3 or (op.collection not in counts and len(counts) == 2)):
            raise Refused(Code.LIMIT_REACHED)
        return value, before is None

    def _current(self, user: str, op: Asked, code: Code) -> int | None:
        """The version that a refusal shows: the document's as it stands, for nothing of a refused change stays."""
        log = self.logs.get(user)
        event = log.last(op.collection, op.key) if log and code is Code.VERSION_CONFLICT else None
        return event.seq if event is not None and event.value is not None else None

    def _restored(self, log: Log, op: Asked) -> bytes:
        events = {event.seq: event for event in log.events}
        event = events.get(op.argument)
        if event is None or (event.collection, event.key) != (op.collection, op.key) or event.value is None:
            raise Refused(Code.NOT_FOUND)
        return event.value

    def append(self, user: str, events: list[Event], now: datetime) -> Any:
        """The answer to events of another log."""
        is_new = user not in self.logs
        log = Log(now, []) if is_new else deepcopy(self.logs[user])
        for number, event in enumerate(events):
            if event.seq <= len(log.events):
                fits = log.events[event.seq - 1] == event
            else:
                fits = event.seq == len(log.events) + 1
                fits = fits and (not log.events or log.events[-1].at <= event.at)
                fits = fits and (event.kind == "put" or (event.collection, event.key) in log.documents())
                log.events.append(event)
            if not fits:
                return Code.LOG_CONFLICT, f"/events/{number}", None
        self.logs[user] = log
        return len(log.events), [], is_new


def command_of(wanted: Wanted) -> Change:
    """The change that a client would have asked for."""
    ops = []
    for op in wanted.ops:
        argument = op.argument
        if op.kind == "put":
            argument = text(op.argument)
        elif op.kind == "patch":
            argument = [{"op": kind, "path": f"/{name}", "value": value} for kind, name, value in op.argument]
        known: dict[str | None, Condition] = {None: ANYTHING, "absent": ABSENT, "present": PRESENT}
        condition = Versions(op.condition) if isinstance(op.condition, frozenset) else known[op.condition]
        ops.append(Op(op.kind, op.collection, op.key, argument, condition))
    named = Idempotency(wanted.name, repr(wanted).encode()) if wanted.name else None
    return Change(wanted.user, tuple(ops), ADMIN.actor, named, batch=wanted.batch)


def answer_of(outcome: Accepted | BaseException) -> Any:
    """What the store answered, as the model would say it."""
    if isinstance(outcome, Accepted):
        written = [(one.event.seq, one.created) for one in outcome.written]
        return (outcome.seq, written, outcome.created), outcome.replayed
    assert isinstance(outcome, RoostError), repr(outcome)
    current = outcome.current and outcome.current.version
    return (outcome.code, outcome.pointer, current), outcome.replayed


def document_of(event: Event) -> Document:
    return Document(event.collection, event.key, event.seq, event.value, event.at)


class StoreMachine(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.model, self.now = Model(), START
        self.runner = asyncio.Runner()
        self.engine = Memory(SETTINGS.limits)
        hub = Hub(10)
        writer = Writer(self.engine, SETTINGS, clock=lambda: self.now, committed=hub.publish)
        definitions = Definitions(bulletin := Bulletin(self.engine, hub, timeout_s=5), SETTINGS)
        presence = Presence(self.engine, clock=lambda: self.now, refresh_s=60, devices_max=10)
        door = Door(Policies("local", lambda: self.now), definitions)
        self.gate = Gate(writer, Reader(self.engine, SETTINGS), hub, definitions, presence, door)
        self.runner.run(self.engine.open())
        self.runner.run(bulletin.read())

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            differences: list[str] = []
            self.runner.run(verify(self.engine, differences.append))
            self.runner.close()
            assert differences == []

    def ask(self, call: Any) -> Any:
        """The result of a call, or the code it is refused with."""
        try:
            return self.runner.run(call)
        except RoostError as refusal:
            return refusal.code

    @rule(seconds=st.sampled_from([0, 1e-6, 1, -5, 3600, 25 * 3600]))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(wanted=CHANGES)
    def change(self, wanted: Wanted) -> None:
        self.change_together([wanted])

    @rule(wanted=st.lists(CHANGES, min_size=2, max_size=5))
    def change_together(self, wanted: list[Wanted]) -> None:
        async def run() -> list[Any]:
            calls = [self.gate.change(ADMIN, command_of(one)) for one in wanted]
            return await asyncio.gather(*calls, return_exceptions=True)

        expected = [self.model.change(one, self.now) for one in wanted]
        outcomes = self.runner.run(run())
        assert [answer_of(outcome) for outcome in outcomes] == expected
        for one, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, Accepted):
                events = self.model.logs[one.user].events
                assert [written.event for written in outcome.written] == [
                    events[written.event.seq - 1] for written in outcome.written
                ]

    @rule(nth=st.integers(0, 3))
    def change_again(self, nth: int) -> None:
        """A client that did not get an answer asks again."""
        named = [wanted for _, wanted, _ in self.model.answers.values()]
        if named:
            self.change_together([named[nth % len(named)]])

    @rule(user=USERS)
    def create(self, user: str) -> None:
        head, created = self.runner.run(self.gate.create_user(ADMIN, user))
        assert created == (user not in self.model.logs)
        log = self.model.logs.setdefault(user, Log(self.now, []))
        assert (head.seq, head.created_at) == (len(log.events), log.created_at)

    @rule(source=USERS, copy=USERS | st.just("cyd"), start=SEQS, end=SEQS)
    def copy_log(self, source: str, copy: str, start: int, end: int) -> None:
        events = self.model.logs[source].events[start:end] if source in self.model.logs else []
        expected = self.model.append(copy, events, self.now)

        async def run() -> Any:
            (outcome,) = await asyncio.gather(
                self.gate.append_log(ADMIN, AppendLog(copy, tuple(events), ADMIN.actor)), return_exceptions=True
            )
            return outcome

        assert answer_of(self.runner.run(run())) == (expected, False)

    @rule(age=st.sampled_from([0, 1, 24]), limit=st.integers(1, 3))
    def forget_answers(self, age: int, limit: int) -> None:
        before = self.now - timedelta(hours=age)
        old = sorted((at, name) for name, (at, _, _) in self.model.answers.items() if at < before)
        assert self.runner.run(self.engine.forget_answers(before, limit)) == len(old[:limit])
        for _, name in old[:limit]:
            del self.model.answers[name]

    @rule(user=USERS, collection=COLLECTIONS, key=KEYS, seq=st.none() | SEQS)
    def read_document(self, user: str, collection: str, key: str, seq: int | None) -> None:
        point = self.ask(self.gate.document(ADMIN, DocumentRef(user, collection, key), Moment(seq=seq)))
        log = self.model.logs.get(user)
        if log is None:
            assert point is Code.NOT_FOUND
        elif seq is not None and seq > len(log.events):
            assert point is Code.CURSOR_AHEAD
        else:
            event = log.last(collection, key, seq)
            assert point == Point(len(log.events), document_of(event) if event else None)

    @rule(user=USERS, seconds=st.integers(-2, 3), nth=SEQS)
    def read_snapshot_at_a_time(self, user: str, seconds: int, nth: int) -> None:
        log = self.model.logs.get(user)
        at = (log.events[nth % len(log.events)].at if log and log.events else self.now) + timedelta(seconds=seconds)
        snapshot = self.ask(self.gate.snapshot(ADMIN, user, Moment(at=at)))
        if log is None:
            assert snapshot is Code.NOT_FOUND
        else:
            seq = sum(event.at <= at for event in log.events)
            assert (snapshot.seq, snapshot.documents) == (seq, list(map(document_of, log.documents(seq).values())))

    @rule(user=USERS, seq=SEQS)
    def read_snapshot(self, user: str, seq: int) -> None:
        snapshot = self.ask(self.gate.snapshot(ADMIN, user, Moment(seq=seq)))
        log = self.model.logs.get(user)
        if log is None:
            assert snapshot is Code.NOT_FOUND
        elif seq > len(log.events):
            assert snapshot is Code.CURSOR_AHEAD
        else:
            assert (snapshot.seq, snapshot.documents) == (seq, list(map(document_of, log.documents(seq).values())))

    @rule(user=USERS, at_least=SEQS)
    def read_your_write(self, user: str, at_least: int) -> None:
        log = self.model.logs.get(user)
        expected = (
            Code.NOT_FOUND if log is None
            else Code.CURSOR_AHEAD if at_least > len(log.events)
            else None
        )  # fmt: skip
        moment = Moment(at_least=at_least)
        for call in (
            self.gate.document(ADMIN, DocumentRef(user, "notes", "a"), moment),
            self.gate.page(ADMIN, user, "notes", "", None, 10, moment),
            self.gate.snapshot(ADMIN, user, moment),
        ):
            result = self.ask(call)
            assert result is expected if expected else not isinstance(result, Code)

    @rule(
        user=USERS, collection=COLLECTIONS, prefix=st.just("") | KEYS, after=st.none() | KEYS, limit=st.integers(1, 3)
    )
    def read_page(self, user: str, collection: str, prefix: str, after: str | None, limit: int) -> None:
        page = self.ask(self.gate.page(ADMIN, user, collection, prefix, after, limit))
        log = self.model.logs.get(user)
        if log is None:
            assert page is Code.NOT_FOUND
            return
        following = [
            document_of(event)
            for (kind, key), event in log.documents().items()
            if kind == collection and key.startswith(prefix) and (after is None or key > after)
        ]
        assert (page.documents, page.more) == (following[:limit], len(following) > limit)

    @rule(user=USERS, collection=COLLECTIONS, key=KEYS, before=st.none() | SEQS, limit=st.integers(1, 4))
    def read_history(self, user: str, collection: str, key: str, before: int | None, limit: int) -> None:
        history = self.ask(self.gate.history(ADMIN, DocumentRef(user, collection, key), before, limit))
        log = self.model.logs.get(user)
        events = log.events if log else []
        own = [
            event
            for event in reversed(events)
            if (event.collection, event.key) == (collection, key) and (before is None or event.seq < before)
        ]
        if log is None or (before is None and not own):
            assert history is Code.NOT_FOUND
        else:
            assert (history.events, history.more) == (own[:limit], len(own) > limit)

    @rule(user=USERS, after=SEQS, limit=st.integers(1, 4), collections=st.none() | st.lists(COLLECTIONS, max_size=2))
    def read_log(self, user: str, after: int, limit: int, collections: list[str] | None) -> None:
        found = self.ask(self.gate.log(ADMIN, user, after, limit, collections))
        log = self.model.logs.get(user)
        if log is None:
            assert found is Code.NOT_FOUND
        elif after > len(log.events):
            assert found is Code.CURSOR_AHEAD
        else:
            following = [e for e in log.events[after:] if collections is None or e.collection in collections]
            assert found.events == following[:limit]
            skipped = [event.seq for event in following[limit:]]
            assert found.reached >= (found.events[-1].seq if found.events else after)
            assert found.reached < min(skipped, default=len(log.events) + 1)

    @invariant()
    def everything_is_as_in_the_model(self) -> None:
        for user, log in self.model.logs.items():
            head = self.runner.run(self.gate.head(ADMIN, user))
            assert (head.seq, head.counts) == (len(log.events), log.counts())
            assert (head.created_at, head.floor) == (log.created_at, 0)
            snapshot = self.runner.run(self.gate.snapshot(ADMIN, user, NOW))
            assert snapshot.documents == list(map(document_of, log.documents().values()))
        known = [head.user for head in self.runner.run(self.gate.users(ADMIN, None, 100))]
        assert sorted(known) == sorted(self.model.logs)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=200,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
    stateful_step_count=30,
)
