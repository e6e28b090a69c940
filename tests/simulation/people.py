"""What people do: with each verb, on few documents, so that they meet; what they mean by it goes into the ledger.

Whoever has no device writes over plain HTTP, and asks again until there is an answer.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from typing import Any, Literal

from roost.core import siblings
from roost.core.commands import ANYTHING, Accepted, Change, Condition, Idempotency, Op, Versions
from roost.core.edits import ABSENT, Edit
from roost.core.errors import RoostError
from roost.core.events import DocumentId
from roost.core.ids import INBOX
from roost.sync.draft import Draft
from tests.simulation.atoms import Atom, atoms
from tests.simulation.device import Device
from tests.simulation.ledger import Intent, Ledger, Meaning
from tests.simulation.network import Weather, request
from tests.simulation.node import ACTOR, USER, Node
from tests.simulation.world import Violation, World

TALLIES = "tallies"
"""Where there is nothing but counters that are never set: they must add up."""
POLICIES = {
    "cards": "cas", "carts": "merge", "fickle": "lww", "moody": "merge", "notes": "siblings", "settings": "lww",
    TALLIES: "merge",
}  # fmt: skip
KEYS = ["a", "b", "c"]
Verb = Literal["set", "unset", "inc", "add", "remove"]
VERBS: list[Verb] = ["set", "unset", "inc", "add", "remove"]
BITS = 48
REFUSALS = {"version_conflict", "precondition_required", "not_found", "patch_failed", "limit_reached"}


class People:
    """All who do something, and the words that they have used.

    Plain writes are `repeatable` where the log keeps the events that the answers to repeats refer to.
    """

    def __init__(self, world: World, ledger: Ledger, *, repeatable: bool) -> None:
        self._world = world
        self._ledger = ledger
        self._repeatable = repeatable
        self._words = 0
        self._bits: Counter[tuple[DocumentId, str]] = Counter()
        self._elements: dict[DocumentId, list[str]] = {}
        self.waiting = 0

    # With a device

    def act(self, device: Device) -> None:
        """Make a mutation."""
        random, replica = self._world.random, device.replica
        draft = replica.draft()
        meanings: dict[DocumentId, Meaning] = {}
        counts: Counter[tuple[str, str]] = Counter()
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            collection = random.choice(sorted(POLICIES))
            if device.collections is not None and collection not in device.collections:
                continue
            name = collection, random.choice(KEYS)
            if collection == TALLIES:
                self._count(draft, name, counts)
                continue
            if name not in meanings:
                meanings[name] = Meaning(seen(device, name), hidden(device, name))
            with suppress(RoostError):  # the draft says no: then nothing has happened
                self._do(draft, name, meanings[name])
            after = draft.value(*name)
            meanings[name].goes_on(set() if after is ABSENT else atoms(after))
        if random.random() < 0.05 and replica.names(INBOX):
            draft.delete(*random.choice(replica.names(INBOX)))
        outcome = replica.commit(draft, self._world.wall + device.skew)
        if outcome.then is None:
            return
        number = replica.saved.number
        base, cursor = replica.queue[number].mutation.base, replica.saved.cursor or 0
        done = {(op.collection, op.key) for op in draft.ops}
        meanings = {name: meaning for name, meaning in meanings.items() if name in done}
        self._world.say(f"{device.name} {number} base {base}: {told(draft)}")
        mutation = replica.saved.device, number
        if device.keep(outcome, lambda: self._ledger.meant(mutation, Intent(base, cursor, meanings, dict(counts)))):
            for each, meaning in meanings.items():
                if not meaning.adds <= seen(device, each):
                    raise Violation(f"{device.name} does not show what was done to {each}")

    def _count(self, draft: Draft, name: DocumentId, counts: Counter[tuple[str, str]]) -> None:
        random = self._world.random
        path, by = random.choice(["/x", "/y", "/z/w"]), random.randint(-5, 9)
        draft.edit(*name, [Edit("inc", path, by)])
        counts[name[1], path] += by

    def _do(self, draft: Draft, name: DocumentId, meaning: Meaning) -> None:
        random = self._world.random
        value = draft.value(*name)
        verb = random.choices(["edit", "put", "merge", "delete"], [6, 3, 1, 1])[0]
        if verb == "delete":
            draft.delete(*name)
            meaning.whole, meaning.only_removes = True, False
        elif verb == "put":
            new = self._value(None if value is ABSENT else value)
            draft.put(*name, new)
            meaning.given |= atoms(new) - ({*()} if value is ABSENT else atoms(value))
            meaning.whole, meaning.only_removes = True, False
        elif verb == "merge":
            word = self._word()
            draft.merge(*name, {"a": word, random.choice(["b", "o"]): None})
            meaning.given.add(word)
            meaning.whole, meaning.only_removes = True, False
        else:
            edits = [self._edit(name, value) for _ in range(random.choice([1, 1, 2, 3]))]
            draft.edit(*name, edits)
            for edit in edits:
                if edit.op in ("set", "inc", "add"):
                    meaning.given |= atoms(edit.value, edit.path)
                meaning.only_removes &= edit.op == "remove"

    def _edit(self, name: DocumentId, value: Any) -> Edit:
        random = self._world.random
        op: Verb = random.choices(VERBS, [5, 1, 3, 3, 2])[0]
        if op == "set":
            path = random.choice(["/a", "/b", "/o/x", "/o/y", "/o"])
            if path != "/o":
                return Edit(op, path, self._word())
            whole = {"x": self._word(), "y": self._word()} if random.random() < 0.9 else self._word()
            return Edit(op, path, whole)
        if op == "unset":
            return Edit(op, random.choice(["/a", "/b", "/o/x", "/o/y", "/o"]))
        if op == "inc":
            path = random.choice(["/n", "/o/n"])
            self._bits[name, path] += 1
            if self._bits[name, path] <= BITS:
                return Edit(op, path, 1 << self._bits[name, path] - 1)
            op = "add"
        known = self._elements.setdefault(name, [])
        if op == "add" and (not known or random.random() < 0.5):
            known.append(self._word())
            return Edit(op, "/s", known[-1])
        shown = value.get("s") if isinstance(value, dict) else None
        return Edit(op, "/s", random.choice(shown or known or ["nothing"]))

    def _word(self) -> str:
        self._words += 1
        return f"t{self._words}"

    def _value(self, shown: Any) -> Any:
        """A new value: another one, or what is shown with something changed."""
        random = self._world.random
        if not isinstance(shown, dict) or random.random() < 0.3:
            return {"a": self._word(), "o": {"x": self._word()}}
        value = json.loads(json.dumps(shown))
        member = random.choice(["a", "b", "o"])
        if random.random() < 0.2 and member in value:
            del value[member]
        else:
            value[member] = {"y": self._word()} if member == "o" else self._word()
        return value

    # Without one

    def write(self, nodes: list[Node], weather: Weather) -> None:
        """A plain write, which has seen everything up to the moment at which it is carried out."""
        random = self._world.random
        ops = tuple(self._op(nodes[0]) for _ in range(random.choice([1, 1, 2])))
        given: dict[DocumentId, set[Atom]] = {}
        for op in ops:
            words = atoms(json.loads(op.argument)) if op.kind == "put" else set()
            if op.kind == "merge":
                words = atoms(op.argument)
            given[op.collection, op.key] = words
        if len(given) < len(ops):
            return
        self._words += 1
        named = Idempotency(f"request{self._words}", b"the same") if self._repeatable else None
        self.waiting += 1
        self._world.say(f"the web writes {[(op.kind, op.collection, op.key) for op in ops]}")
        self._send(Change(USER, ops, ACTOR, named, batch=True), given, nodes, weather)

    def _op(self, node: Node) -> Op:
        random = self._world.random
        name = random.choice(sorted(set(POLICIES) - {TALLIES})), random.choice(KEYS)
        document = node.look(name)
        condition: Condition = ANYTHING
        if document is not None and document.value is not None and random.random() < 0.6:
            condition = Versions(frozenset({document.version}))
        kind = random.choice(["put", "put", "merge", "delete"])
        if kind == "put":
            value = {"a": self._word(), "o": {"y": self._word()}}
            return Op("put", *name, json.dumps(value).encode(), condition)
        if kind == "merge":
            return Op("merge", *name, {random.choice(["a", "b"]): self._word()}, condition)
        return Op("delete", *name, None, condition)

    def _send(self, change: Change, given: dict[DocumentId, set[Atom]], nodes: list[Node], weather: Weather) -> None:
        """Ask until there is an answer."""
        waiting = [True]

        def heard(outcome: Any) -> None:
            if not waiting:
                return
            waiting.clear()
            unknown = outcome is None or (isinstance(outcome, RoostError) and outcome.code not in REFUSALS)
            if unknown and self._repeatable:
                self._send(change, given, nodes, weather)
                return
            self.waiting -= 1
            if isinstance(outcome, Accepted):
                self._world.say(f"the web has written {outcome.seq}")
                self._ledger.wrote([written.event for written in outcome.written], given)

        node = self._world.random.choice(nodes)
        request(self._world, weather, lambda reply: node.submit(change, reply), heard)


def seen(device: Device, name: DocumentId) -> set[Atom]:
    """What the screen shows of a document."""
    view = device.replica.view(name)
    return set() if view is None else atoms(view.value).union(*map(atoms, view.siblings))


def hidden(device: Device, name: DocumentId) -> set[Atom]:
    """What stands beside a document, shown or not."""
    beside = siblings.beside(device.replica.documents.get(name))
    return {atom for sibling in beside for atom in atoms(json.loads(bytes(sibling.value)))}


def told(draft: Draft) -> str:
    """What a draft does, in short."""
    return "; ".join(
        f"{op.kind} {op.collection}/{op.key}"
        + (
            ""
            if op.edits is None
            else " " + ", ".join(f"{e.op} {e.path} {json.dumps(e.value) if e.op != 'unset' else ''}" for e in op.edits)
        )
        + (f" = {op.argument.decode()}" if op.kind == "put" else "")
        for op in draft.ops
    )
