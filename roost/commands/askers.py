"""Who does what goes on record: a caller over the network, Roost itself, or somebody at a node's command line."""

from __future__ import annotations

from typing import NamedTuple, Protocol, cast

ROOST = "roost"
"""The actor of what Roost does by itself."""


class Place(Protocol):
    """Where a request comes from: `authz.principal.Origin`."""

    @property
    def address(self) -> str:
        """Its network address."""

    @property
    def purpose(self) -> str | None:
        """What it says that it is for."""

    @property
    def request_id(self) -> str:
        """Its id."""


class Role(Protocol):
    """What is told of a principal: `authz.principal.Principal`."""

    @property
    def kind(self) -> str:
        """Its role."""


class Asker(Protocol):
    """Who asks: `authz.principal.Caller`."""

    @property
    def principal(self) -> Role:
        """Who a token says that they are."""

    @property
    def origin(self) -> Place:
        """From where."""

    @property
    def actor(self) -> str:
        """As events name them."""


class _Nowhere(NamedTuple):
    """Where Roost itself is."""

    address: str = ""
    purpose: str | None = None
    request_id: str = ""


class _Kind(NamedTuple):
    """Roost's own role."""

    kind: str = ROOST


class _Itself(NamedTuple):
    """Roost, as who does something."""

    principal: Role = _Kind()
    origin: Place = _Nowhere()
    actor: str = ROOST


ITSELF: Asker = _Itself()
"""Who does what nobody asked for: jobs in the background."""


def operator(account: str, machine: str) -> Asker:
    """Somebody who works on a node itself: the account there, and the machine in place of a network address."""
    return _Itself(_Kind("operator"), _Nowhere(machine), f"operator:{account}")


def names_of(who: Asker | Place) -> tuple[str, str, Place]:
    """Actor, kind and place of who does something; the first two are empty for somebody who has not proved them."""
    # An `isinstance` that looks for all members would take twice as long as all the rest.
    if not hasattr(who, "principal"):
        return "", "", who
    asker = cast("Asker", who)
    return asker.actor, asker.principal.kind, asker.origin
