"""The policies in force on this node: those that ship, those of the operator's directory, and those put over HTTP.

The last are documents of the system user (`roost_policies`), which the bulletin brings. Decisions are remembered until
any of this changes. A stored text that this release cannot read is not passed over, because it may forbid something:
until it is gone, admins alone are let in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from roost.authz.policy import check
from roost.authz.policy.check import Fault, Policy, PolicyFaults
from roost.authz.policy.compiled import Compiled, Decision, Key
from roost.authz.policy.model import Action
from roost.authz.principal import Caller
from roost.core.definitions import Privacy

SHIPPED = "roost"
"""The name under which what ships is told of."""
SUFFIX = ".cedar"
REMEMBERED_MAX = 10_000
STORED_MAX = 500
"""Policies put over HTTP, in all texts together: each node reads them when it starts."""

_LOCKED = """
@detail("A policy is stored that this release cannot read: until that is put right, admins alone are let in.")
forbid(principal, action, resource) unless { principal is Admin };
"""

log = structlog.get_logger(__name__)


class StoredPolicy(msgspec.Struct, frozen=True):
    """Policies as they are stored, under a name."""

    text: str


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(StoredPolicy).decode


class Policies:
    """What decides. `changed` is called whenever other policies are in force.

    `own` are an operator's policies (see `from_directory`); `clock` tells the time.
    """

    def __init__(
        self,
        home: str,
        clock: Callable[[], datetime],
        own: Iterable[Policy] = (),
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._home = home
        self._clock = clock
        self._fixed = [*check.read(SHIPPED, check.shipped("builtin.cedar")), *own]
        self._changed = changed
        self._texts: dict[str, Sequence[Policy]] = {}
        self._compiled = Compiled(self._fixed, home)
        self._known: dict[Key, Decision] = {}

    @property
    def policies(self) -> Mapping[str, Policy]:
        """The policies in force, by id."""
        return self._compiled.policies

    def decide(
        self, caller: Caller, action: Action, user: str | None, collection: str | None, privacy: Privacy | None
    ) -> Decision:
        """Whether `caller` may do `action`."""
        at = self._clock().timestamp() if self._compiled.timed else 0.0
        question = self._compiled.question(caller, action, user, collection, privacy, at)
        known = self._known.get(question)
        return self._ask(question) if known is None else known

    def _ask(self, question: Key) -> Decision:
        if len(self._known) >= REMEMBERED_MAX:
            del self._known[next(iter(self._known))]
        decision = self._known[question] = self._compiled.ask(question)
        if decision.errors:
            log.error("policies could not be evaluated, and the request is refused", errors=decision.errors)
        return decision

    def trial(self, name: str, text: str | None) -> Policies:
        """What would be in force with `text` under `name` (None: without it). Raises `PolicyFaults`."""
        others = {other: policies for other, policies in self._texts.items() if other != name}
        if text is not None:
            if name == SHIPPED:
                raise PolicyFaults(name, [Fault(1, "the policies of this name ship with the server")])
            others[name] = check.read(name, text)
            if sum(map(len, others.values())) > STORED_MAX:
                raise PolicyFaults(name, [Fault(1, f"with these there would be more than {STORED_MAX} policies")])
        trial = Policies(self._home, self._clock)
        trial._fixed = self._fixed
        trial._force(others)
        return trial

    def learn(self, changed: Mapping[str, bytes | None], *, anew: bool) -> None:
        """Take in what changed among the stored texts; see `roost.feed.bulletin`."""
        texts = {} if anew else dict(self._texts)
        for name, value in changed.items():
            texts.pop(name, None)
            if value is not None:
                try:
                    texts[name] = check.read(name, decode(value).text)
                except (msgspec.DecodeError, PolicyFaults):
                    log.exception("a policy that this release cannot read: admins alone are let in", name=name)
                    texts[name] = check.read(name, _LOCKED)
        self._force(texts)
        self._changed()

    def _force(self, texts: dict[str, Sequence[Policy]]) -> None:
        self._texts = texts
        own = [policy for name in sorted(texts) for policy in texts[name]]
        self._compiled = Compiled([*self._fixed, *own], self._home)
        self._known = {}


def from_directory(directory: Path | None) -> list[Policy]:
    """The policies of every `.cedar` file of a directory, by name. Raises `PolicyFaults`."""
    if directory is None:
        return []
    try:
        texts = {path.stem: path.read_text() for path in sorted(directory.iterdir()) if path.suffix == SUFFIX}
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyFaults(str(directory), [Fault(1, str(error))]) from error
    return [policy for name, text in texts.items() for policy in check.read(f"{directory.name}/{name}", text)]
