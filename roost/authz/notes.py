"""How what happens at the door is put on record."""

from __future__ import annotations

from typing import Literal, Protocol

from roost.authz.principal import Caller, Origin


class Note(Protocol):
    """Puts something on record: `roost.commands.trail.Trail.note`."""

    def __call__(
        self,
        who: Caller | Origin,
        action: str,
        *,
        outcome: Literal["allowed", "denied", "failed"] = "allowed",
        user: str | None = None,
        collection: str | None = None,
        key: str | None = None,
        detail: str | None = None,
    ) -> None:
        """`who` is a caller, or the origin of somebody who has not proved who that is. `detail` holds no secret."""
