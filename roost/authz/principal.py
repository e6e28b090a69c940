"""Who is asking, and how."""

from __future__ import annotations

import msgspec

from roost.core import issuers

Kind = issuers.Kind


class Principal(msgspec.Struct, frozen=True):
    """An authenticated caller. `actor` is how events remember it: `user:ada`, `service:billing`, `admin`."""

    kind: Kind
    id: str
    expires_at: float = float("inf")
    """When the token ends, in seconds since 1970."""
    session: str | None = None
    """What the token can be revoked by: the session that it belongs to, or its own id (`jti`)."""
    scopes: frozenset[str] = frozenset()
    """What a service may do at most, as its token says; empty: whatever its role may."""

    @property
    def actor(self) -> str:
        """The name that events carry: `admin` alone for whoever has no other name, as by `roost token --admin`."""
        return self.id if self.id == self.kind == "admin" else f"{self.kind}:{self.id}"


class Origin(msgspec.Struct, frozen=True):
    """Where a request comes from, and why: what is known of it before its token is looked at."""

    address: str = ""
    """The network address of whoever asks; empty for what Roost does by itself."""
    purpose: str | None = None
    """What the caller says that it needs this for (`Roost-Purpose`)."""
    request_id: str = ""
    device: str | None = None
    """The device that the caller says to be, where it does."""


class Caller(msgspec.Struct, frozen=True):
    """A principal at work: all that policies and the audit trail know of a request besides what it asks for."""

    principal: Principal
    origin: Origin = Origin()

    @property
    def actor(self) -> str:
        """The name that events carry."""
        return self.principal.actor
