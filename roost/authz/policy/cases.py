"""Trying policies out: a request as an operator writes it down, what is decided of it, and why, in words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from roost.authz.policy import words
from roost.authz.policy.check import Policy
from roost.authz.policy.compiled import Decision
from roost.authz.policy.model import ON_DOCUMENTS, ON_SYSTEM, Action
from roost.authz.policy.policies import Policies
from roost.authz.principal import Caller, Kind, Origin, Principal
from roost.core.definitions import Privacy
from roost.core.errors import RoostError
from roost.core.ids import check_collection, check_user

HERE = "roost"
"""The resource of what belongs to no user."""


class BadCase(Exception):
    """A case cannot be read; the message says which part of it, and what it should be."""


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request. `principal` is `<role>:<name>`, `resource` is `<user>/<collection>`, `<user>`, or nothing.

    `expect` and `by` say what should be decided, and by which policies. `at` is the time; now, where it is left out.
    """

    principal: str
    action: Action
    resource: str = HERE
    privacy: Privacy = "personal"
    purpose: str | None = None
    address: str = ""
    device: str | None = None
    scopes: tuple[str, ...] = ()
    at: Annotated[datetime, Meta(tz=True)] | None = None
    expect: Literal["allow", "deny"] = "allow"
    by: tuple[str, ...] | None = None


class Cases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of cases, and the files of policies that are tried beside those that ship, from the file's own place."""

    case: Annotated[tuple[Case, ...], Meta(min_length=1)]
    policies: tuple[str, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """What was decided. `steps` are the questions that it took, with their decisions; `told` is what a caller hears."""

    allowed: bool
    steps: tuple[tuple[Action, Decision], ...]
    told: str | None

    @property
    def by(self) -> tuple[str, ...]:
        """The policies that decided."""
        return self.steps[-1][1].because


def read(text: str) -> Cases:
    """Cases as they stand in a file (TOML). Raises `BadCase`."""
    try:
        return msgspec.toml.decode(text, type=Cases)
    except msgspec.DecodeError as error:
        raise BadCase(f"{error}.") from None


def ask(policies: Policies, case: Case) -> Answer:
    """Decide a case. `policies` have to go by `clock_of(case)`. Raises `BadCase`."""
    caller = Caller(_principal(case), Origin(case.address, case.purpose, device=case.device))
    user, collection = _resource(case)
    privacy = case.privacy if collection else None
    steps: list[tuple[Action, Decision]] = []
    # To write takes leave to read.
    for action in dict.fromkeys((case.action, *(("read",) if case.action == "write" else ()))):
        decision = policies.decide(caller, action, user, collection, privacy)
        steps.append((action, decision))
        if not decision.allowed:
            told = words.refusal(policies, caller, action, user, collection, privacy)
            return Answer(allowed=False, steps=tuple(steps), told=told)
    return Answer(allowed=True, steps=tuple(steps[:1]), told=None)


def clock_of(case: Case) -> datetime:
    """The time at which a case happens."""
    return case.at or datetime.now(UTC)


def wrong(case: Case, answer: Answer) -> str | None:
    """How an answer differs from what was expected; None where it does not."""
    decided = "allow" if answer.allowed else "deny"
    by = ", ".join(answer.by) or "nothing"
    if decided != case.expect:
        return f"expected {case.expect}, got {decided} by {by}"
    if case.by is not None and set(case.by) != set(answer.by):
        return f"expected to be decided by {', '.join(case.by) or 'nothing'}, was by {by}"
    return None


def explain(policies: Policies, case: Case, answer: Answer) -> list[str]:
    """Why it was decided so, line by line."""
    whose = "" if case.resource == HERE else f" {case.resource}"
    verb = "may" if answer.allowed else "may not"
    lines = [f"{'allow' if answer.allowed else 'deny'}: {case.principal} {verb} {case.action}{whose}"]
    for action, decision in answer.steps:
        if not decision.because:
            lines.append(f"No policy permits to {action}.")
        for name in decision.because:
            policy = policies.policies[name]
            lines += [f"{name} (line {policy.line}) {policy.json['effect']}s to {action}:", *_indented(policy)]
    if answer.told:
        lines.append(f"They are told: {answer.told}")
    return lines


def _indented(policy: Policy) -> list[str]:
    lines = [line for line in policy.text.splitlines() if not line.lstrip().startswith("//")]
    return [f"    {line}" for line in lines]


def _principal(case: Case) -> Principal:
    kind, _, name = case.principal.partition(":")
    if kind not in get_args(Kind):
        raise BadCase(f"A principal is <role>:<name>, with one of the roles {', '.join(get_args(Kind))}.")
    try:
        return Principal(kind, check_user(name or kind), scopes=frozenset(case.scopes))  # type: ignore[arg-type]
    except RoostError as error:
        raise BadCase(error.detail) from None


def _resource(case: Case) -> tuple[str | None, str | None]:
    """The user and the collection that a case is about."""
    if case.action in ON_SYSTEM:
        if case.resource != HERE:
            raise BadCase(f"To {case.action} is about no user: leave the resource out.")
        return None, None
    user, _, collection = case.resource.partition("/")
    try:
        check_user(user)
        if case.action in ON_DOCUMENTS:
            check_collection(collection)
        elif collection:
            raise BadCase(f"To {case.action} is about a whole user: give the name alone.")
    except RoostError:
        form = "<user>/<collection>" if case.action in ON_DOCUMENTS else "<user>"
        raise BadCase(f"To {case.action} is about {form}.") from None
    return user, collection or None
