"""Acts on keys, which go on record before they are done: cut off anywhere, none of them is without its record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from roost.core.audit import Outcome
from roost.core.errors import RoostError

Result = TypeVar("Result")


class Recorder(Protocol):
    """Puts an act on record, and returns once it is: see `roost.commands.trail.Acts`."""

    async def __call__(self, detail: str, /, *, user: str | None = None, outcome: Outcome = "allowed") -> None:
        """`detail` says which act, without secrets. Where it raises, the act must not be done."""


async def unrecorded(_detail: str, /, *, user: str | None = None, outcome: Outcome = "allowed") -> None:
    """For whoever keeps no trail."""


async def on_record(
    record: Recorder, act: str, work: Callable[[], Awaitable[Result]], user: str | None = None
) -> Result:
    """Do something that takes a while: on record before it begins, and, with its result, when it has ended or failed.

    Raises what `work` and `record` raise.
    """
    await record(f"{act} begun", user=user)
    try:
        result = await work()
    except Exception:
        with suppress(RoostError):  # what failed is often the engine itself, and is what there is to be told
            await record(f"{act} failed", user=user, outcome="failed")
        raise
    await record(f"{act} ended: {result}", user=user)
    return result
