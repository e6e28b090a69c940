"""Decisions in words: what somebody who is refused is missing.

It is found by asking again: would it be allowed with a wider scope, with a purpose, in another role? Only rules are
asked about, never state, so no sentence tells whether anything exists.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from roost.authz.policy.compiled import Decision
from roost.authz.policy.model import Action, in_scope, scopes_of
from roost.authz.policy.policies import Policies
from roost.authz.principal import Caller, Kind
from roost.core.definitions import Privacy

_COMPANY: dict[Kind, str] = {
    "service": "services",
    "support": "support staff",
    "analyst": "analysts",
    "admin": "admins",
}
_SOMEBODY = "somebody"
_SOME_PURPOSE = "something"
_UNLIMITED: frozenset[str] = frozenset()


def refusal(
    policies: Policies,
    caller: Caller,
    action: Action,
    user: str | None,
    collection: str | None,
    privacy: Privacy | None,
) -> str:
    """A sentence for somebody who is refused."""

    def decide(other: Caller) -> Decision:
        return policies.decide(other, action, user, collection, privacy)

    principal, origin = caller.principal, caller.origin
    told = [detail for policy in decide(caller).because if (detail := policies.policies[policy].detail)]
    if told:
        return " ".join(told)
    if not in_scope(principal.scopes, action, collection):
        unlimited = replace(caller, principal=replace(principal, scopes=_UNLIMITED))
        if decide(unlimited).allowed:
            needed = " or ".join(f"`{scope}`" for scope in scopes_of(action, collection))
            return f"The token's scopes do not reach this: it takes {needed}."
    if origin.purpose is None and decide(replace(caller, origin=replace(origin, purpose=_SOME_PURPOSE))).allowed:
        return "State a purpose: say what you need this for in the header `Roost-Purpose`."
    if principal.kind == "user" and user not in (None, principal.id):
        return "This token reaches the state of its own user only."
    return _for(_others(decide, caller))


def _others(decide: Callable[[Caller], Decision], caller: Caller) -> list[str]:
    """Who in the company could do it."""
    return [
        name
        for kind, name in _COMPANY.items()
        if decide(
            replace(caller, principal=replace(caller.principal, kind=kind, id=_SOMEBODY, scopes=_UNLIMITED))
        ).allowed
    ]


def _for(names: list[str]) -> str:
    if not names:
        return "The policies do not allow this here and now."
    *most, last = names
    return f"This is for {' and '.join([', '.join(most), last] if most else [last])}."
