"""An event that a signal handler may set, at any moment.

`threading.Event` takes a lock to be set, and a handler runs in the main thread wherever that happens to be: if it is
inside the same event, it waits for itself for ever. A second Ctrl-C, a moment after the first, is enough for that.
"""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, SimpleQueue


class Interrupt:
    """As `threading.Event`, for one thread that waits. `SimpleQueue.put` is made to be interrupted by itself."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()

    def is_set(self) -> bool:
        """Whether it was set since it was cleared."""
        return not self._queue.empty()

    def set(self) -> None:
        """Let `wait` return, until `clear`."""
        self._queue.put(None)

    def clear(self) -> None:
        """Let `wait` wait again."""
        with suppress(Empty):
            while True:
                self._queue.get_nowait()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it is set, waiting at most `timeout` seconds (None: for ever) for it."""
        with suppress(Empty):
            self._queue.get(timeout=timeout)
            self._queue.put(None)
        return self.is_set()
