"""The write side's entrance: commands queue here and leave in group commits.

Each of a node's writers owns a share of the lanes and has a queue of its own, so writers of one node never
wait for each other's locks, and the commands of one user are decided in the order in which they arrived.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog

from roost.batcher import Batcher
from roost.commands import pushes
from roost.commands.transaction import GroupCommit, Outcome
from roost.core.commands import Accepted, Command, Push
from roost.core.decide import Rules
from roost.core.errors import Code, RoostError
from roost.core.events import Event
from roost.core.ids import lane_of
from roost.core.keys import Corrupt
from roost.core.ports import Engine, EngineFull, EngineUnavailable, TransactionLost
from roost.settings import Settings

_PAUSE_S_MAX = 0.5

log = structlog.get_logger(__name__)


class Writer:
    """Runs commands. `committed(user, seq, events)` is called once growth is durable, with the events at hand.

    `policy_of` gives each collection's conflict policy, where it is not simply as the settings say; `queryable_of` the
    members of its documents that are kept in clear.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        clock: Callable[[], datetime],
        committed: Callable[[str, int, Sequence[Event]], None],
        policy_of: Callable[[str], str] | None = None,
        queryable_of: Callable[[str], Sequence[str]] = lambda _: (),
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._committed = committed
        self._rules = Rules(settings.limits, policy_of or settings.policy_of, queryable_of)
        self._batchers: list[Batcher[Command, Accepted]] = [
            Batcher(
                self._run,
                runners=1,
                batch_max=settings.batch_commands_max,
                queue_max=settings.queue_commands_max // settings.writers,
                timeout_s=settings.engine_timeout_s,
            )
            for _ in range(settings.writers)
        ]

    async def run(self, command: Command) -> Accepted:
        """Carry out a command, or the first mutations of a push; returns once it is durable.

        Raises the `RoostError` it is refused with; after `UNAVAILABLE` it was carried out once or not at all.
        """
        if isinstance(command, Push):
            command = pushes.beginning(command, self._rules.limits)
        return await self._batchers[lane_of(command.user) % len(self._batchers)].submit(command)

    async def close(self) -> None:
        """Finish what was accepted."""
        for batcher in self._batchers:
            await batcher.close()

    async def _run(self, commands: list[Command], deadline: float) -> Sequence[Outcome]:
        group = GroupCommit(self._engine, commands, self._rules)
        try:
            outcomes = await self._commit(group, deadline)
        except Corrupt as error:
            if group.unknown:
                raise _unavailable() from error
            # What cannot be opened must not take others along: each is tried alone.
            outcomes = [outcome for command in commands for outcome in await self._alone(command, deadline)]
        except RoostError:
            raise
        except Exception as error:
            log.exception("batch failed", commands=len(commands))
            if group.unknown:
                raise _unavailable() from error
            # One command that the engine chokes on must not take its batch along: each is tried alone.
            outcomes = [outcome for command in commands for outcome in await self._alone(command, deadline)]
        for command, outcome in zip(commands, outcomes, strict=True):
            if isinstance(outcome, Accepted) and not outcome.replayed:
                self._committed(command.user, outcome.seq, [written.event for written in outcome.written])
        return outcomes

    async def _alone(self, command: Command, deadline: float) -> Sequence[Outcome]:
        try:
            return await self._commit(GroupCommit(self._engine, [command], self._rules), deadline)
        except Corrupt as error:
            log.error("what is stored cannot be opened", user=error.user, detail=error.detail)  # noqa: TRY400
            return [error]
        except RoostError as error:
            return [error]
        except Exception:
            log.exception("command failed", user=command.user)
            return [RoostError(Code.INTERNAL, "The command could not be carried out.")]

    async def _commit(self, group: GroupCommit, deadline: float) -> Sequence[Outcome]:
        loop = asyncio.get_running_loop()
        pause_s = 0.01
        while True:
            try:
                return await group.run(self._clock())
            except EngineFull:
                raise
            except (EngineUnavailable, TransactionLost) as error:
                if loop.time() + pause_s >= deadline:
                    raise _unavailable() from error
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # keeps nodes that collided apart
            pause_s = min(pause_s * 2, _PAUSE_S_MAX)


def _unavailable() -> RoostError:
    detail = "The engine does not answer: the write was carried out once, or not at all."
    return RoostError(Code.UNAVAILABLE, detail, retry_after_s=1)
