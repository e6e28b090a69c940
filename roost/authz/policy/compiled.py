"""A set of policies, ready to be asked; and the one form in which they are asked, which can be remembered.

A decision may be remembered only if whatever it depends on is part of what it is remembered by. So the request that
Cedar gets is made of a `Question` and of nothing else, and the question holds no more than the policies of the set can
tell apart:

- An attribute that no policy mentions is left out.
- An id that no policy names stands in the question as a blank. Policies can hold ids against each other and against
  those that they name, and can do nothing else with them: no attribute shows them as text. So all that can matter of
  an id that is not named is whether it is the asker's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, NamedTuple, TypeAlias

import msgspec
from cedarpy import Decision as Verdict
from cedarpy import Entities, PolicySet, is_authorized

from roost.authz.policy.check import PRINCIPALS, Policy, entities, nodes
from roost.authz.policy.model import ON_DOCUMENTS, Action, in_scope
from roost.authz.principal import Caller
from roost.core.definitions import Privacy

# Neither can be anybody's name.
_SOMEBODY, _ANOTHER = "·", "··"
_encode = msgspec.json.Encoder().encode


class Question(NamedTuple):
    """What is asked, as far as the policies can tell.

    `who` and `whose` are blank for ids that no policy names; `whose` is None for what is no user's, and `own` says that
    it is the asker's. What no policy mentions is None. `address` and the like are as they came. `minute` is the time in
    minutes since 1970.
    """

    kind: str
    who: str
    action: Action
    own: bool
    whose: str | None
    collection: str | None
    privacy: Privacy | None
    in_scope: bool
    purpose: str | None
    address: str | None
    device: str | None
    hour: int | None
    weekday: int | None
    minute: int | None


Key: TypeAlias = tuple[Any, ...]
"""A question without the names of its members."""


class Decision(NamedTuple):
    """`because` are the ids of the policies that decided: those that permit it, or those that forbid it, or none."""

    allowed: bool
    because: tuple[str, ...]
    errors: tuple[str, ...] = ()


class Compiled:
    """Policies, ready to be asked. `home` is the region of every user here."""

    def __init__(self, policies: Iterable[Policy], home: str) -> None:
        self.policies = {policy.id: policy for policy in policies}
        self._home = home
        static = {policy.id: policy.json for policy in self.policies.values()}
        self._set = PolicySet.from_json_str(
            _encode({"staticPolicies": static, "templates": {}, "templateLinks": []}).decode()
        )
        mentioned = _mentioned(static)
        self._named = frozenset(id_ for type_, id_ in entities(static) if type_ in PRINCIPALS)
        self._collection, self._privacy, self._purpose, self._address, self._device, self._hour, self._weekday, now = (
            mentioned is None or name in mentioned
            for name in ("collection", "privacy", "purpose", "address", "device", "hour", "weekday", "now")
        )
        self._now = now
        self.timed = self._hour or self._weekday or now

    def question(
        self,
        caller: Caller,
        action: Action,
        user: str | None,
        collection: str | None,
        privacy: Privacy | None,
        at: float,
    ) -> Key:
        """What is asked of these policies when `caller` wants to do `action`, at a time in seconds since 1970.

        It is asked for each access, so it is a plain tuple, which takes half the time of a named one.
        """
        principal, origin = caller.principal, caller.origin
        kind, who, named = principal.kind, principal.id, self._named
        own = kind == "user" and who == user
        hour = weekday = minute = None
        if self.timed:
            minute = int(at // 60)
            hour = minute // 60 % 24 if self._hour else None
            weekday = (minute // 1_440 + 3) % 7 + 1 if self._weekday else None
            minute = minute if self._now else None
        return (
            kind,
            who if who in named else "",
            action,
            own,
            None if user is None else user if user in named else "",
            collection if self._collection else None,
            privacy if self._privacy else None,
            not principal.scopes or in_scope(principal.scopes, action, collection),
            origin.purpose if self._purpose else None,
            origin.address if self._address else None,
            origin.device if self._device else None,
            hour,
            weekday,
            minute,
        )

    def ask(self, key: Key) -> Decision:
        """What the policies say. Whatever cannot be decided is refused."""
        request, known = self.request(Question._make(key))
        result = is_authorized(request, self._set, Entities.from_json_str(_encode(known).decode()))
        errors = tuple(result.diagnostics.errors)
        return Decision(
            result.decision is Verdict.Allow and not errors, tuple(sorted(result.diagnostics.reasons)), errors
        )

    def request(self, question: Question) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The question in Cedar's form: the request, and the entities that it names."""
        asker = _entity(question.kind.capitalize(), question.who or _SOMEBODY)
        home = {"home": self._home}
        known = [_known(asker, home if question.kind == "user" else {})]
        if question.whose is None:
            resource = _entity("System", "roost")
        else:
            owner = asker if question.own else _entity("User", question.whose or _ANOTHER)
            if owner != asker:
                known.append(_known(owner, home))
            resource = owner
            if question.action in ON_DOCUMENTS:
                resource = _entity("Documents", _SOMEBODY)
                attributes: dict[str, Any] = dict(home)
                if question.collection is not None:
                    attributes["collection"] = question.collection
                if question.privacy is not None:
                    attributes["privacy"] = {"__entity": _entity("Privacy", question.privacy)}
                known.append(_known(resource, attributes, owner))
        request = {
            "principal": asker,
            "action": _entity("Action", question.action),
            "resource": resource,
            "context": _context(question),
        }
        return request, known


def _context(question: Question) -> dict[str, Any]:
    plain = {
        "in_scope": question.in_scope,
        "purpose": question.purpose,
        "device": question.device,
        "hour": question.hour,
        "weekday": question.weekday,
    }
    context: dict[str, Any] = {name: value for name, value in plain.items() if value is not None}
    if question.address:
        with suppress(ValueError):  # a socket's path is no address
            context["address"] = _extension("ip", str(ip_address(question.address.partition("%")[0])))
    if question.minute is not None:
        now = datetime.fromtimestamp(question.minute * 60, UTC)
        context["now"] = _extension("datetime", f"{now:%Y-%m-%dT%H:%M:%SZ}")
    return context


def _mentioned(policies: dict[str, dict[str, Any]]) -> frozenset[str] | None:
    """The attributes that policies look at, whosever they are; None where one looks at all that a request has."""
    names = set()
    for node in nodes(policies):
        for access in ("has", "."):
            if isinstance(inner := node.get(access), dict) and "attr" in inner:
                names.add(inner["attr"])
    uses = sum(node == {"Var": "context"} for node in nodes(policies))
    looks = sum(
        isinstance(inner := node.get(access), dict) and inner.get("left") == {"Var": "context"}
        for node in nodes(policies)
        for access in ("has", ".")
    )
    return frozenset(names) if uses == looks else None


def _entity(type_: str, id_: str) -> dict[str, str]:
    return {"type": type_, "id": id_}


def _known(entity: dict[str, str], attributes: dict[str, Any], *parents: dict[str, str]) -> dict[str, Any]:
    return {"uid": entity, "attrs": attributes, "parents": list(parents)}


def _extension(function: str, argument: str) -> dict[str, Any]:
    return {"__extn": {"fn": function, "arg": argument}}
