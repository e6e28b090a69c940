"""A time limit that nearly nothing reaches, for what every request waits for.

All that wait have the same time, so who began first is late first, and one timer that looks at the oldest is enough for
all of them: `asyncio.timeout` makes one for each, which costs a small write more than anything else of its body.
"""

from __future__ import annotations

import asyncio
from types import TracebackType


class Patience:
    """How long each of many may take, in seconds. They are tasks of one event loop at a time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._waiting: dict[Wait, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched = False

    def wait(self) -> Wait:
        """A context that raises `TimeoutError` where what is awaited in it takes longer."""
        return Wait(self)

    def begin(self, wait: Wait) -> asyncio.Task[None]:
        """Somebody begins to wait; returns the task that does."""
        loop = self._loop
        task = None if loop is None else asyncio.current_task(loop)
        if loop is None or task is None:
            # Not looked up each time, because that is a system call.
            loop, self._watched = asyncio.get_running_loop(), False
            self._loop, task = loop, asyncio.current_task(loop)
            if task is None:
                msg = "only a task can wait"
                raise RuntimeError(msg)
        self._waiting[wait] = deadline = loop.time() + self.seconds
        if not self._watched:
            self._watched = True
            loop.call_at(deadline, self._look, loop)
        return task

    def end(self, wait: Wait) -> None:
        """Somebody waits no more."""
        self._waiting.pop(wait, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        for wait, deadline in list(self._waiting.items()):
            if deadline > loop.time():
                loop.call_at(deadline, self._look, loop)
                return
            del self._waiting[wait]
            wait.cut()
        self._watched = False


class Wait:
    """One that waits, in its own task: see `Patience.wait`."""

    __slots__ = ("_cancelling", "_late", "_patience", "_task")

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._late = False

    def __enter__(self) -> None:
        self._task = self._patience.begin(self)
        self._cancelling = self._task.cancelling()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._patience.end(self)
        # Who was cancelled by somebody else too is to stay so.
        if self._late and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def cut(self) -> None:
        """Its time is over."""
        self._late = True
        self._task.cancel()
