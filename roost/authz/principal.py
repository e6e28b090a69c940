"""Who is asking."""

from __future__ import annotations

from typing import Literal

import msgspec


class Principal(msgspec.Struct, frozen=True):
    """An authenticated caller. `actor` is how events remember it: `user:ada`, `service:billing`, `admin`."""

    kind: Literal["user", "service", "admin"]
    id: str

    @property
    def actor(self) -> str:
        """The name that events carry."""
        return self.kind if self.kind == "admin" else f"{self.kind}:{self.id}"
