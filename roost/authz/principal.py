"""Who is asking."""

from __future__ import annotations

from typing import Literal

import msgspec


class Principal(msgspec.Struct, frozen=True):
    """An authenticated caller. `actor` is how events remember it: `user:ada`, `service:billing`, `admin`."""

    kind: Literal["user", "service", "admin"]
    id: str
    expires_at: float = float("inf")
    """When the token ends, in seconds since 1970."""

    @property
    def actor(self) -> str:
        """The name that events carry."""
        return self.kind if self.kind == "admin" else f"{self.kind}:{self.id}"
