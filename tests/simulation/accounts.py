"""Whether every promise was kept: a look over the whole log, with the ledger beside it.

Nothing here knows how conflicts are decided. It adds up the log by itself, event by event, and asks of each atom that
comes or goes whether the person meant that, by what the screen showed; and if not, whether the inbox has it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import timedelta

from roost.core.events import DocumentId, Event
from roost.core.ids import INBOX
from tests.simulation.atoms import Atom, of_bytes
from tests.simulation.ledger import Intent, Ledger, Meaning, Name
from tests.simulation.people import TALLIES
from tests.simulation.world import START, Violation

EPOCH = int(START.timestamp()) * 1_000_000

Standing = dict[int, bytes]
"""The values of a document that stand side by side, by version, the document's own last; empty: it is not there."""

MERGED_BEFORE = "moody"
"""Where policies change from `merge` to another: a device may overwrite what was merged, unseen, into its own edit."""


class Audit:
    """One look over a log from its beginning. `documents` is what it adds up to."""

    def __init__(self, ledger: Ledger, policies: dict[str, str]) -> None:
        self._ledger = ledger
        self._policies = policies
        self.documents: dict[DocumentId, Standing] = defaultdict(dict)
        self._set_aside: dict[DocumentId, set[Atom]] = defaultdict(set)
        for (_, document), conflicts in ledger.inbox.items():
            self._set_aside[document].update(*(one.atoms for one in conflicts))
        self._after: dict[tuple[Name, DocumentId], set[Atom]] = {}
        self._last: dict[DocumentId, Event] = {}
        self._own: dict[tuple[Name, DocumentId], set[Atom]] = {}
        self._adders: dict[tuple[DocumentId, Atom], list[Event]] = defaultdict(list)
        self._replaced: dict[DocumentId, list[set[Atom]]] = defaultdict(list)
        self._erased: dict[tuple[DocumentId, Atom], Event] = {}
        self._deleted: dict[DocumentId, Event] = {}
        self._atoms: dict[DocumentId, list[tuple[int, set[Atom]]]] = defaultdict(list)

    def run(self) -> None:
        """Raise `Violation` for the first promise that was not kept."""
        self._check_answers()
        for event in self._ledger.events:
            if event.collection == INBOX:
                self._fold(event)
            else:
                self._take(event)
        for name, intent in self._ledger.intents.items():
            if name in self._ledger.answers:
                for document, meaning in intent.meanings.items():
                    self._check_meant(name, document, meaning, intent)
        self._check_tallies()

    # Event by event

    def _take(self, event: Event) -> None:
        document = event.collection, event.key
        before = _atoms(self.documents[document])
        was_there = bool(self.documents[document])
        self._fold(event)
        after = _atoms(self.documents[document])
        self._atoms[document].append((event.seq, after))
        if event.collection == TALLIES:
            return
        name = writer(event)
        if name is None:
            self._check_plain(event, before, after)
            self._replaced[document].append(before - after)
        else:
            if event.collection != MERGED_BEFORE:
                self._check_gone(event, name, document, before - after)
                self._check_come(event, name, document, after - before)
            self._check_later(event, name)
            self._after[name, document] = after
            self._own[name, document] = of_bytes(event.value)
        if event.collection != MERGED_BEFORE:
            self._check_deleted(event, was_there=was_there)
        self._last[document] = event
        for atom in before - after:
            self._erased[document, atom] = event
            self._adders.pop((document, atom), None)
        for atom in self._given(event) & after:
            adders = self._adders[document, atom]
            if not adders or name is None or writer(adders[-1]) != name:
                adders.append(event)

    def _fold(self, event: Event) -> None:
        standing = self.documents[event.collection, event.key]
        left = {version: value for version, value in standing.items() if version in event.beside}
        if set(left) != set(event.beside):
            self._fail(event, "stands beside what does not stand")
        if event.value is not None:
            left[event.seq] = event.value
        elif left:
            self._fail(event, "is a deletion that leaves siblings")
        self.documents[event.collection, event.key] = left

    def _check_plain(self, event: Event, before: set[Atom], after: set[Atom]) -> None:
        _, given = self._ledger.plain.get(event.seq, (None, after))
        if not given <= after:
            self._fail(event, f"lacks {_list(given - after)}, which was acknowledged")
        if event.beside and not before <= after:
            self._fail(event, f"lacks {_list(before - after)}, which it had not seen")

    def _check_gone(self, event: Event, name: Name, document: DocumentId, gone: set[Atom]) -> None:
        """What vanishes was on the writer's screen and meant to vanish, or is in the inbox."""
        meaning, lost = self._meaning(name, document), self._set_aside[document]
        for atom in sorted(gone, key=str):
            unseen = [other for other in self._adders[document, atom] if not self._knew(name, other)]
            added = [other.seq for other in unseen if other.edits is not None]
            if added and meaning.only_removes and self._policies.get(event.collection) == "merge":
                self._fail(event, f"removes {atom}, though {added[-1]} has added it unseen")
            seen = all(self._saw(name, other) for other in unseen)
            fine = (seen and self._gave_up(name, document, atom)) or atom in lost
            if not fine and not self._given_up(document, atom, unseen):
                self._fail(event, f"removes {atom} unseen, and it is not in the inbox")

    def _check_come(self, event: Event, name: Name, document: DocumentId, come: set[Atom]) -> None:
        """What comes is meant to; what comes back though others had taken it away is told in the inbox."""
        meaning = self._meaning(name, document)
        told = any(each == document for _, each in self._ledger.inbox) or bool(event.beside)
        known = meaning.adds | meaning.given | self._set_aside[document]
        for atom in sorted(come, key=str):
            if atom not in known and not told:
                self._fail(event, f"brings {atom}, which nobody meant")
            eraser = self._erased.get((document, atom))
            if eraser is not None and self._takes_out(eraser) and not self._saw(name, eraser) and not told:
                self._fail(event, f"brings {atom} back, which {eraser.seq} had taken away, and the inbox has nothing")

    def _check_later(self, event: Event, name: Name) -> None:
        """Where the latest wins, who overwrites what he has not seen was later."""
        last = self._last.get((event.collection, event.key))
        if self._policies.get(event.collection) != "lww" or last is None or self._knew(name, last):
            return
        if made(event) < made(last):
            self._fail(event, f"is older than {last.seq}, which it replaces unseen")

    def _check_deleted(self, event: Event, *, was_there: bool) -> None:
        """Who makes a document again that somebody has deleted has seen that, or the inbox has the deletion."""
        document = event.collection, event.key
        name = writer(event)
        if event.value is None:
            if was_there:
                self._deleted[document] = event
        elif not was_there and document in self._deleted and name is not None:
            deletion = self._deleted[document]
            told = [one for (_, each), filed in self._ledger.inbox.items() if each == document for one in filed]
            if not self._saw(name, deletion) and not any(one.value is None and one.edits is None for one in told):
                self._fail(event, f"makes a document again that {deletion.seq} deleted, and the inbox has nothing")

    # Mutation by mutation

    def _check_meant(self, name: Name, document: DocumentId, meaning: Meaning, intent: Intent) -> None:
        """What was meant to be there was, and what was meant to vanish did, or the inbox has it."""
        answer = self._ledger.answers[name]
        lost = self._lost(name, document)
        after = self._after.get((name, document))
        missing = meaning.adds - (after or set()) - lost
        if missing:
            raise Violation(f"{name} ({answer.status}) meant {_list(missing)} in {document}: it never was, nor is lost")
        kept = self._policies.get(document[0], "siblings") == "siblings" and answer.status == "merged"
        if answer.status == "refused" or (name, document) in self._ledger.inbox or kept:
            return
        now = [atoms for seq, atoms in self._atoms[document] if seq <= answer.seq]
        left = meaning.removes & self._own.get((name, document), now[-1] if now else set())
        for atom in sorted(left, key=str):
            others = [
                event
                for event in self._ledger.events[intent.base : answer.seq]
                if (event.collection, event.key) == document and (writer(event) or ("", 0))[0] != name[0]
            ]
            if not any(atom in of_bytes(event.value) and self._stands_for(event, atom) for event in others):
                raise Violation(f"{name} meant {atom} to vanish from {document}: it did not, and the inbox has nothing")

    def _stands_for(self, event: Event, atom: Atom) -> bool:
        """Whether an event puts an atom there, rather than to leave it as it was."""
        return event.edits is None or atom in self._given(event)

    def _check_answers(self) -> None:
        """One answer a mutation; events of one mutation at one place; answers tell of what there is."""
        events: dict[Name, list[Event]] = defaultdict(list)
        for event in self._ledger.events:
            name = writer(event)
            if name is not None:
                events[name].append(event)
        latest: dict[str, tuple[int, int]] = {}
        for name, written in events.items():
            answer = self._ledger.answers.get(name)
            if answer is None or (answer.status == "refused" and written):
                raise Violation(f"{name} has events, and the answer {answer}")
            seqs = [event.seq for event in written]
            if seqs[-1] - seqs[0] != len(seqs) - 1 or seqs[-1] > answer.seq:
                raise Violation(f"{name} has the events {seqs}, and the answer {answer}")
            if latest.get(name[0], (0, 0)) > (name[1], seqs[0]):
                raise Violation(f"{name} comes after {latest[name[0]]}")
            latest[name[0]] = name[1], seqs[0]
        filed: dict[Name, set[str]] = defaultdict(set)
        for (name, _), conflicts in self._ledger.inbox.items():
            filed[name] |= {f"{one.seq:016}" for one in conflicts}
        for name, answer in self._ledger.answers.items():
            if set(answer.conflicts) != filed[name]:
                raise Violation(f"{name} is answered {answer}, and the inbox has {sorted(filed[name])}")
            if answer.status == "applied" and filed[name]:
                raise Violation(f"{name} is answered {answer}, and the inbox has {sorted(filed[name])}")

    def _check_tallies(self) -> None:
        """Counters are the sum of what was counted, but for what is in the inbox."""
        wanted: dict[tuple[str, str], int] = defaultdict(int)
        for name, intent in self._ledger.intents.items():
            if name in self._ledger.answers:
                for place, by in intent.counts.items():
                    wanted[place] += by
        for (_, document), conflicts in self._ledger.inbox.items():
            for one in conflicts:
                if document[0] == TALLIES and one.version is None:
                    for edit in one.edits or ():
                        wanted[document[1], edit["path"]] -= edit["value"]
        for (key, path), sum_ in wanted.items():
            standing = self.documents[TALLIES, key]
            counted = _at(standing, path)
            if counted != sum_:
                raise Violation(f"{TALLIES}/{key} counts {counted} at {path}, and {sum_} were counted")

    # Parts

    def _given(self, event: Event) -> set[Atom]:
        """What an event's writer meant to be there."""
        name = writer(event)
        if name is None:
            return self._ledger.plain.get(event.seq, (None, set()))[1]
        return self._meaning(name, (event.collection, event.key)).adds

    def _meaning(self, name: Name, document: DocumentId) -> Meaning:
        intent = self._ledger.intents.get(name)
        if intent is None or document not in intent.meanings:
            raise Violation(f"{name} writes to {document}, and was never meant to")
        return intent.meanings[document]

    def _gave_up(self, name: Name, document: DocumentId, atom: Atom) -> bool:
        """Whether the person meant it to vanish, be it by an earlier mutation, or had made it and replaces it all."""
        device, number = name
        own = [self._ledger.intents[device, earlier].meanings.get(document) for earlier in range(1, number + 1)]
        whole = own[-1] is not None and own[-1].whole
        return any(each is not None and (atom in each.dropped or (whole and atom in each.adds)) for each in own)

    def _given_up(self, document: DocumentId, atom: Atom, added: list[Event]) -> bool:
        """Whether somebody else who has seen it meant it to vanish, and only a sibling has kept it."""
        return any(atom in gone for gone in self._replaced[document]) or any(
            document in intent.meanings
            and self._took_effect(name)
            and self._gave_up(name, document, atom)
            and all(self._saw(name, event) for event in added)
            for name, intent in self._ledger.intents.items()
        )

    def _took_effect(self, name: Name) -> bool:
        answer = self._ledger.answers.get(name)
        return answer is not None and answer.status != "refused"

    def _takes_out(self, event: Event) -> bool:
        """Whether an event takes elements out of sets, and nothing else."""
        name = writer(event)
        return name is not None and self._meaning(name, (event.collection, event.key)).only_removes

    def _saw(self, name: Name, event: Event) -> bool:
        """Whether the device had read an event when it made a mutation, or written it itself."""
        return event.seq <= self._ledger.intents[name].cursor or self._knew(name, event)

    def _lost(self, name: Name, document: DocumentId) -> set[Atom]:
        return {atom for one in self._ledger.inbox.get((name, document), ()) for atom in one.atoms}

    def _knew(self, name: Name, event: Event) -> bool:
        """Whether the device had seen an event when it made a mutation, or written it itself."""
        other = writer(event)
        return event.seq <= self._ledger.intents[name].base or (other is not None and other[0] == name[0])

    def _fail(self, event: Event, why: str) -> None:
        edits = None if event.edits is None else event.edits.decode()
        value = None if event.value is None else event.value.decode()
        where = f"{event.collection}/{event.key}"
        raise Violation(f"event {event.seq} of {writer(event)}, {where} = {value} by {edits}, {why}")


def writer(event: Event) -> Name | None:
    """The mutation that an event is of; None where it was a plain write."""
    return None if event.device is None or event.mutation is None else (event.device, event.mutation)


def made(event: Event) -> tuple[int, str, int]:
    """When an event was made: by its clock, then the device's name."""
    clock = (event.at - START) // timedelta(microseconds=1) + EPOCH if event.clock is None else event.clock
    return clock, event.device or "", event.mutation or 0


def _atoms(standing: Standing) -> set[Atom]:
    return {atom for value in standing.values() for atom in of_bytes(value)}


def _at(standing: Standing, path: str) -> int:
    value = json.loads(standing[max(standing)]) if standing else {}
    for member in path.split("/")[1:]:
        value = value.get(member, 0) if isinstance(value, dict) else 0
    assert isinstance(value, int)
    return value


def _list(found: set[Atom]) -> str:
    return ", ".join(sorted(map(str, found)))
