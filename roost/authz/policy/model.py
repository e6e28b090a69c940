"""What can be asked of the policies: a closed list of actions, what each is done to, and which scopes reach it.

The same words stand in `roost.cedarschema`, which every policy is held to; a test keeps the two together.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

from roost.core.ids import INBOX

Action = Literal[
    "read",
    "unmask",
    "write",
    "see",
    "create",
    "import",
    "export",
    "erase",
    "sessions",
    "list",
    "define",
    "definitions",
    "policies",
    "clients",
    "revoke",
    "audit",
    "metrics",
]
"""`read` and `write` documents, and `unmask` what a definition masks in them. `see` where a user's log stands, `create`
one, `import` a log, `export` all of it, `erase` the user, look after a user's `sessions`. `list` all users, `define`
collections, read `definitions`, change `policies`, register `clients`, `revoke` tokens, read the `audit` trail and the
`metrics`."""

ACTIONS: tuple[Action, ...] = get_args(Action)
ON_DOCUMENTS: frozenset[Action] = frozenset(("read", "unmask", "write"))
ON_USER: frozenset[Action] = frozenset(("see", "create", "import", "export", "erase", "sessions"))
ON_SYSTEM: frozenset[Action] = frozenset(ACTIONS) - ON_DOCUMENTS - ON_USER

_EVERYTHING = "documents"
_ROOST = "roost"
_READING, _WRITING = "read", "write"
ALL = f"{_ROOST}:all"
"""The scope that reaches every action: for a service that is not to be limited, and says so."""


def scopes_of(action: Action, collection: str | None) -> tuple[str, ...]:
    """The scopes of which any one reaches an action.

    `<collection>:read`, `<collection>:write` (which also reads) for documents of a collection, `documents:…` for those
    of all; `roost:<action>` for everything else.
    """
    if action in ON_DOCUMENTS:
        verbs = (_WRITING,) if action == "write" else (_READING, _WRITING)
        names = (_EVERYTHING,) if collection in (None, _EVERYTHING) else (collection, _EVERYTHING)
        return tuple(f"{name}:{verb}" for name in names for verb in verbs)
    return (f"{_ROOST}:{action}",)


def is_scope(scope: str) -> bool:
    """Whether a scope means anything here, whatever collections there are."""
    of, _, what = scope.rpartition(":")
    return what in (_READING, _WRITING) or scope == ALL or (of == _ROOST and what in ON_USER | ON_SYSTEM)


@lru_cache(maxsize=4_096)
def in_scope(scopes: frozenset[str], action: Action, collection: str | None) -> bool:
    """Whether a token with these scopes reaches an action at all. One without scopes is not limited by them."""
    if not scopes or ALL in scopes or not scopes.isdisjoint(scopes_of(action, collection)):
        return True
    verbs = {scope.rpartition(":")[2] for scope in scopes}
    # Whoever reads documents of a user has to find out where the log stands, and a first write creates the user. What
    # is in the inbox is shown and hidden by the collection that it tells of.
    if action == "see" or (action in ("read", "unmask") and collection == INBOX):
        return not verbs.isdisjoint((_READING, _WRITING))
    if action == "create" or (action == "write" and collection == INBOX):
        return _WRITING in verbs
    return action == "definitions"
