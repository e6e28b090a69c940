"""An event that signals set, whichever of the process's threads they come to, at any moment.

`threading.Event` fails twice there. It takes a lock to be set, and a handler runs in the main thread wherever that
happens to be: if it is inside the same event, it waits for itself for ever. And where two signals come at once, the
kernel may give both to another thread than the one that it wakes; then the main thread goes on waiting, with handlers
that are due and never run. So this is a pipe, to which Python's own signal handler writes too (`signal.set_wakeup_fd`).
"""

from __future__ import annotations

import os
import select
import signal
import weakref
from contextlib import suppress
from typing import Self


class Interrupt:
    """As `threading.Event`, for the main thread alone to wait. As a context, a signal that has a handler wakes it too.

    So `wait` may return for a signal whose handler set nothing: look at what it is about.
    """

    def __init__(self) -> None:
        self._woken, self._waking = os.pipe()
        for end in (self._woken, self._waking):
            os.set_blocking(end, False)
        weakref.finalize(self, _close, self._woken, self._waking)
        self._before = -1

    def __enter__(self) -> Self:
        self._before = signal.set_wakeup_fd(self._waking, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._before)

    def is_set(self) -> bool:
        """Whether it was set since it was cleared."""
        return self._readable(0)

    def set(self) -> None:
        """Let `wait` return, until `clear`."""
        with suppress(BlockingIOError):  # it is full of others
            os.write(self._waking, b"\0")

    def clear(self) -> None:
        """Let `wait` wait again."""
        with suppress(BlockingIOError):
            while True:
                os.read(self._woken, 4096)

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it is set, waiting at most `timeout` seconds (None: for ever) for it."""
        return self._readable(None if timeout is None else timeout * 1000)

    def _readable(self, timeout_ms: float | None) -> bool:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        return bool(poll.poll(timeout_ms))


def _close(*files: int) -> None:
    for file in files:
        os.close(file)
