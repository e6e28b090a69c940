"""The simulation finds what it is for: each of these breaks one promise of the product, and some early seed says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from roost.commands import pushes
from roost.core import edits, fold, merge, mutate
from roost.core.commands import Result
from roost.core.errors import RoostError
from roost.core.events import Stamp
from roost.engines.memory import MemoryTransaction
from roost.sync.replica import Outcome, Replica
from tests.simulation.device import Disk
from tests.simulation.simulation import simulate
from tests.simulation.world import Violation

SEEDS = 120
Patch = pytest.MonkeyPatch


def numbers_are_not_checked(patch: Patch) -> None:
    """A repeat is carried out again."""
    load = MemoryTransaction.load

    async def forgetful(self: MemoryTransaction, *what: Any) -> Any:
        loaded = await load(self, *what)
        devices = {ref: msgspec.structs.replace(device, number=0) for ref, device in loaded.devices.items()}
        return loaded._replace(devices=devices)

    patch.setattr(MemoryTransaction, "load", forgetful)
    patch.setattr(pushes, "_check", lambda *_: None)


def bases_are_ignored(patch: Patch) -> None:
    """Nothing is a conflict."""
    patch.setattr(mutate._Mutating, "_after_base", lambda *_: [])


def bases_hide_what_is_beneath(patch: Patch) -> None:
    """What was read beneath a pending mutation counts as seen."""
    patch.setattr(Replica, "_base", lambda self, _: self.saved.cursor or 0)


def answers_are_not_waited_for(patch: Patch) -> None:
    """What was pushed is forgotten, answered or not."""
    to_push = Replica.to_push

    def once(self: Replica) -> Any:
        batch = to_push(self)
        for mutation in batch[:1]:
            del self.queue[mutation.number]
            self._index()
        return batch

    patch.setattr(Replica, "to_push", once)


def the_cursor_is_persisted_first(patch: Patch) -> None:
    """A device that dies just then has read what it does not have."""
    keep, load = Disk.keep, Disk.load
    late: dict[int, tuple[Replica, Outcome]] = {}

    def half(self: Disk, replica: Replica, outcome: Outcome) -> None:
        if id(self) in late:
            keep(self, *late.pop(id(self)))
        late[id(self)] = replica, outcome
        self.saved = replica.saved

    def died(self: Disk, *what: Any) -> Replica:
        late.pop(id(self), None)
        return load(self, *what)

    patch.setattr(Disk, "keep", half)
    patch.setattr(Disk, "load", died)


def additions_do_not_win(patch: Patch) -> None:
    """A removal takes away what was added unseen."""
    run = merge._Merging.run

    def without(self: Any, value: Any) -> Any:
        self._added = []
        return run(self, value)

    patch.setattr(merge._Merging, "run", without)


def the_inbox_gets_nothing_of_merges(patch: Patch) -> None:
    run = mutate._Mutating._set_aside

    def some(self: Any, op: Any, outcome: dict[str, str], lost: Any) -> None:
        if outcome["outcome"] == "refused":
            run(self, op, outcome, lost)

    patch.setattr(mutate._Mutating, "_set_aside", some)


def refusals_are_not_told(patch: Patch) -> None:
    run = mutate._Mutating._set_aside

    def some(self: Any, op: Any, outcome: dict[str, str], lost: Any) -> None:
        if outcome["outcome"] != "refused":
            run(self, op, outcome, lost)

    patch.setattr(mutate._Mutating, "_set_aside", some)


def whatever_is_overwritten_was_ones_own(patch: Patch) -> None:
    """Nothing that others wrote is set aside."""
    patch.setattr(merge.Conflict, "own", property(lambda self: True))


def counters_forget(patch: Patch) -> None:
    """A counter takes the last value instead of the sum."""
    apply = edits._changed
    patch.setattr(
        edits, "_changed", lambda value, edit: edit.value if edit.op == "inc" and value != 0 else apply(value, edit)
    )


def a_mutation_is_half_done(patch: Patch) -> None:
    """What a refused mutation did before it was refused stays."""

    def half(self: Any, refusal: Any) -> Any:
        return mutate._Mutating.refuse(self, refusal)

    def mutated(log: Any, origin: Any, mutation: Any, at: Any, rules: Any) -> Any:
        at = max(at, log.head.updated_at)
        mutating = mutate._Mutating(log, origin, mutation, at, rules)
        try:
            return mutating.run()
        except RoostError as refusal:
            return half(mutating, refusal)

    patch.setattr(pushes, "mutate", mutated)


def siblings_replace_each_other(patch: Patch) -> None:
    policy = merge.POLICIES["siblings"]
    patch.setitem(merge.POLICIES, "siblings", lambda conflict: policy(conflict)._replace(beside=()))


def edits_fall_through(patch: Patch) -> None:
    """Edits of fields that others have replaced are dropped without a word."""
    run = merge._Merging.run

    def silent(self: Any, value: Any) -> Any:
        value = run(self, value)
        self.masked = []
        return value

    patch.setattr(merge._Merging, "run", silent)


def replicas_apply_what_is_old(patch: Patch) -> None:
    """A page that is newer than the cursor is overwritten by the events that led to it."""
    read = Replica._read

    def again(self: Replica, event: Any, outcome: Outcome) -> None:
        if event.value is not None and (event.collection, event.key) in self.documents:
            self.documents[event.collection, event.key] = fold.document_of(event)
            outcome.documents.add((event.collection, event.key))
        read(self, event, outcome)

    patch.setattr(Replica, "_read", again)


def a_commit_is_not_settled(patch: Patch) -> None:
    """A transaction whose outcome was not heard is run again as if it had not been."""

    async def never(*_: Any) -> None:
        return None

    patch.setattr("roost.commands.transaction.GroupCommit._settle", never)
    patch.setattr(pushes, "_again", lambda mutation, *_: Result(mutation.number, "applied", 1))


def clocks_do_not_count(patch: Patch) -> None:
    """What arrives last wins, whenever it was made."""
    patch.setattr(Stamp, "__lt__", lambda *_: False)
    patch.setattr(Stamp, "__gt__", lambda *_: False)


BREAKAGES: list[Callable[[Patch], None]] = [
    numbers_are_not_checked,
    bases_are_ignored,
    bases_hide_what_is_beneath,
    answers_are_not_waited_for,
    the_cursor_is_persisted_first,
    additions_do_not_win,
    the_inbox_gets_nothing_of_merges,
    refusals_are_not_told,
    whatever_is_overwritten_was_ones_own,
    counters_forget,
    a_mutation_is_half_done,
    siblings_replace_each_other,
    edits_fall_through,
    replicas_apply_what_is_old,
    a_commit_is_not_settled,
    clocks_do_not_count,
]


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.__name__)
def test_the_simulation_finds_it(breakage: Callable[[Patch], None], monkeypatch: Patch) -> None:
    breakage(monkeypatch)
    for seed in range(SEEDS):
        try:
            simulate(seed)
        except (Violation, AssertionError, KeyError, RoostError) as found:
            print(f"seed {seed}: {found}")
            return
    pytest.fail(f"{SEEDS} runs did not notice: {breakage.__doc__ or breakage.__name__}")
