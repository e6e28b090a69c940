"""One group commit: many commands of many users in one transaction of the engine.

Load → decide → append. Strangers share the transaction, so a command that is refused is refused alone, and a
commit whose outcome is not known (the connection broke) is settled before anything is tried again: under the
same locks, which wait for the old transaction to end, the log itself tells whether its events are there.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from roost.commands import answers, pushes
from roost.core.commands import Accepted, AppendLog, Change, Command, Erase, Op, Push
from roost.core.decide import OpenLog, Rules, decide, reads
from roost.core.erasure import erase
from roost.core.errors import RoostError, user_erased
from roost.core.events import Event, Head
from roost.core.fields import fields_of
from roost.core.ids import ERASURES, SYSTEM_USER, lane_of
from roost.core.ports import (
    AnswerRef,
    Appendix,
    DeviceRef,
    DocumentRef,
    Engine,
    EventRef,
    Loaded,
    StoredAnswer,
    Transaction,
)

Outcome = Accepted | RoostError


class GroupCommit:
    """The commands of one transaction; `run` may be repeated until it does not raise."""

    def __init__(self, engine: Engine, commands: list[Command], rules: Rules) -> None:
        self._engine = engine
        self._commands = commands
        self._rules = self._rules_now = rules
        users = {command.user for command in commands}
        if any(isinstance(command, Erase) for command in commands):
            users.add(SYSTEM_USER)
        self._users = sorted(users, key=lambda user: (lane_of(user), user))
        self._unknown: tuple[list[Outcome], dict[EventRef, Event]] | None = None

    @property
    def unknown(self) -> bool:
        """Whether an attempt was made that may have been committed. `run` finds out; a new group would not."""
        return self._unknown is not None

    async def run(self, at: datetime) -> list[Outcome]:
        """The outcome of each command, in order, once all is durable. Raises what the engine raises."""
        # What was not read by one policy is not decided by another.
        self._rules = self._rules_now.pinned()
        async with self._engine.transaction() as tx:
            heads, created = await tx.lock(self._users, at)
            settled = await self._settle(tx, heads)
            if settled is not None:
                # What is still missing is what nothing came of, then as now.
                await tx.append(Appendix([], [], [], [], []), sorted(created))
                return settled
            logs = {user: OpenLog(heads[user], fresh=user in created) for user in self._users}
            loaded = await self._load(tx, logs)
            stored: dict[AnswerRef, StoredAnswer] = {}
            outcomes = [self._decide(command, logs, loaded, stored, at) for command in self._commands]
            appendix = _appendix(logs, stored, self._rules)
            abandoned = [user for user, log in logs.items() if not log.wanted]
            if appendix.events or appendix.answers or abandoned:
                await tx.append(appendix, abandoned)
            if appendix.events:
                # From here on a broken connection leaves it open whether this was committed.
                # One event of each user tells: somebody else may have erased some of them meanwhile.
                firsts = dict(reversed(appendix.events))
                self._unknown = outcomes, {EventRef(user, event.seq): event for user, event in firsts.items()}
        return outcomes

    async def _settle(self, tx: Transaction, heads: dict[str, Head]) -> list[Outcome] | None:
        """The outcomes of an earlier attempt, if that one was committed after all.

        Where everybody whom it wrote to was erased since, nobody can tell, and nothing hangs on it.
        """
        if self._unknown is None:
            return None
        outcomes, events = self._unknown
        refs = [ref for ref, event in events.items() if event.kind == "erase" or heads[ref.user].erased_at is None]
        found = (await tx.load([], [], refs[:1], [])).events if refs else {}
        if refs and found.get(refs[0]) == events[refs[0]]:
            return outcomes
        self._unknown = None
        return None

    async def _load(self, tx: Transaction, logs: dict[str, OpenLog]) -> Loaded:
        needs = _Needs(self._rules)
        for command in self._commands:
            needs.add(command, logs[command.user].head.seq)
        unread = needs.documents - needs.read
        loaded = await tx.load(
            list(needs.documents), list(needs.answers), list(needs.events), list(needs.devices), unread
        )
        replayed = [
            ref
            for stored in loaded.answers.values()
            if not pushes.is_of_push(stored.ref)
            for ref in answers.decode(stored.answer).events(stored.ref.user)
        ]
        if replayed:
            loaded.events.update((await tx.load([], [], replayed, [])).events)
        for (user, collection, key), document in loaded.documents.items():
            logs[user].documents[collection, key] = document
        for (user, seq), event in loaded.events.items():
            logs[user].events[seq] = event
        for (user, _), device in loaded.devices.items():
            logs[user].devices[device.device] = device
        for user, count in loaded.device_counts.items():
            logs[user].device_count = count
        await self._load_unseen(tx, logs)
        return loaded

    async def _load_unseen(self, tx: Transaction, logs: dict[str, OpenLog]) -> None:
        """What happened to the documents of pushed mutations that their devices had not seen."""
        least: dict[DocumentRef, int] = {}
        for command in self._commands:
            if isinstance(command, Push):
                for ref, base in pushes.bases(command, logs[command.user]).items():
                    least[ref] = min(base, least.get(ref, base))
        if least:
            for (user, *name), unseen in (await tx.unseen(least, self._rules.limits.concurrent_events_max)).items():
                logs[user].unseen[name[0], name[1]] = unseen

    def _decide(
        self,
        command: Command,
        logs: dict[str, OpenLog],
        loaded: Loaded,
        stored: dict[AnswerRef, StoredAnswer],
        at: datetime,
    ) -> Outcome:
        log = logs[command.user]
        try:
            if isinstance(command, Erase):
                return erase(log, logs[SYSTEM_USER], command, at)
            if log.head.erased_at is not None:
                return user_erased(command.user)
            if isinstance(command, Push):
                return pushes.carry_out(command, log, loaded.answers, stored, at, self._rules)
            return self._decide_once(command, log, loaded, stored, at)
        except RoostError as refusal:
            return refusal

    def _decide_once(
        self,
        command: Command,
        log: OpenLog,
        loaded: Loaded,
        stored: dict[AnswerRef, StoredAnswer],
        at: datetime,
    ) -> Outcome:
        """Decide, unless the answer is known by the caller's name for the request."""
        named = command.idempotency if isinstance(command, Change) else None
        if named is None:
            return _outcome(log, command, at, self._rules)
        ref = AnswerRef(command.user, named.key)
        earlier = stored.get(ref) or loaded.answers.get(ref)
        if earlier is not None and earlier.at > at - timedelta(hours=self._rules.limits.idempotency_hours):
            if earlier.fingerprint != named.fingerprint:
                return answers.reused()
            answer = answers.decode(earlier.answer)
            events = {need: log.event(need.seq) for need in answer.events(command.user)}
            return answer.replay(command.user, {need: event for need, event in events.items() if event is not None})
        outcome = _outcome(log, command, at, self._rules)
        stored[ref] = StoredAnswer(ref, named.fingerprint, answers.encode(outcome), at)
        return outcome


def _outcome(log: OpenLog, command: Command, at: datetime, rules: Rules) -> Outcome:
    try:
        return decide(log, command, at, rules)
    except RoostError as refusal:
        return refusal


class _Needs:
    """What commands have to be decided with. Of the documents, those that are `read` are opened."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.documents: set[DocumentRef] = set()
        self.read: set[DocumentRef] = set()
        self.answers: set[AnswerRef] = set()
        self.events: set[EventRef] = set()
        self.devices: set[DeviceRef] = set()

    def add(self, command: Command, seq: int) -> None:
        """Add what a command needs, on a log that stands at `seq`."""
        user = command.user
        if isinstance(command, Change):
            for op in command.ops:
                self._add_op(user, op, read=reads(op, self._rules))
            if command.idempotency is not None:
                self.answers.add(AnswerRef(user, command.idempotency.key))
        elif isinstance(command, Push):
            self.devices.add(DeviceRef(user, command.device))
            for mutation in command.mutations:
                for op in mutation.ops:
                    self._add_op(user, op, read=True)
                self.answers.add(pushes.answer_ref(command, mutation))
        elif isinstance(command, AppendLog):
            for event in command.events:
                self._add_document(DocumentRef(user, event.collection, event.key), read=True)
                if event.seq <= seq:
                    self.events.add(EventRef(user, event.seq))
        elif isinstance(command, Erase):
            self._add_document(DocumentRef(SYSTEM_USER, ERASURES, user), read=True)

    def _add_op(self, user: str, op: Op, *, read: bool) -> None:
        self._add_document(DocumentRef(user, op.collection, op.key), read=read)
        if op.kind == "restore":
            self.events.add(EventRef(user, op.argument))

    def _add_document(self, ref: DocumentRef, *, read: bool) -> None:
        self.documents.add(ref)
        if read:
            self.read.add(ref)


def _appendix(logs: dict[str, OpenLog], stored: dict[AnswerRef, StoredAnswer], rules: Rules) -> Appendix:
    erased = tuple(user for user, log in logs.items() if log.appended and log.head.erased_at is not None)
    kept = [answer for answer in stored.values() if answer.ref.user not in erased]
    fields: dict[DocumentRef, bytes] = {}
    appendix = Appendix([], [], [], kept, [], erased, fields)
    for user, log in logs.items():
        appendix.devices.extend((user, log.devices[device]) for device in sorted(log.pushed))
        if log.appended:
            appendix.heads.append(log.head)
            appendix.documents.extend((user, log.documents[changed]) for changed in log.changed)
            appendix.events.extend((user, event) for event in log.appended)
            for collection, key in log.changed:
                value = log.documents[collection, key].value
                if in_clear := fields_of(value, rules.queryable_of(collection)):
                    fields[DocumentRef(user, collection, key)] = in_clear
    return appendix
