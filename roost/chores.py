"""Chores: what a worker does again and again in the background, with nobody waiting for it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import structlog

from roost.core.ports import EngineUnavailable, TransactionLost

log = structlog.get_logger(__name__)


async def now_and_then(pause_s: float, chores: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Do chores, one after the other, about every `pause_s` seconds, until cancelled; 0: never.

    At random, so that workers that share them stay apart without agreeing on anything. One that fails keeps no other
    from being done, and is done again the next time.
    """
    while pause_s:
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311  # keeps workers apart
        for chore in chores:
            try:
                await chore()
            except (EngineUnavailable, TransactionLost):
                log.warning("a chore waits for the engine", chore=chore.__name__)
            except Exception:
                log.exception("a chore failed", chore=chore.__name__)
