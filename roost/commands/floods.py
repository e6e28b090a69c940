"""Floods of like records: the first few are told one by one, the rest of a stretch of time as a number.

Somebody who is refused a thousand times a second must not write a thousand records a second, nor push other records
out of their queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from roost.core.audit import Draft

SINGLE_MAX = 20
"""So many of a kind are told one by one in each window."""
WINDOWS_MAX = 10_000
"""Kinds that are told apart; beyond that, what differs only in who and from where is counted together."""

_Kind = tuple[str, str, str, str, str]


class _Window:
    """What came of one kind since `SINGLE_MAX` were told; `told` is how many were."""

    __slots__ = ("last", "more", "told")

    def __init__(self) -> None:
        self.told = 0
        self.more = 0
        self.last: Draft | None = None

    def add(self, draft: Draft) -> None:
        self.more += 1
        self.last = draft if self.last is None else _alike(self.last, draft)


class Floods:
    """Decides what is told one by one; `tell` gets one record for what was only counted, after `window_s` seconds."""

    def __init__(self, tell: Callable[[Draft], None], window_s: float) -> None:
        self._tell = tell
        self._window_s = window_s
        self._windows: dict[_Kind, _Window] = {}

    def admit(self, draft: Draft, single_max: int = SINGLE_MAX) -> bool:
        """Whether to tell of this one now; if not, it is counted."""
        # Of what was allowed, nobody may go unseen in the crowd: it is counted for each user alone.
        whose = draft.user or "" if draft.outcome == "allowed" else ""
        kind = (draft.actor, draft.address, draft.action, draft.outcome, whose)
        window = self._windows.get(kind)
        if window is None:
            if len(self._windows) >= WINDOWS_MAX:
                if draft.outcome == "allowed":
                    return True
                kind = ("", "", draft.action, draft.outcome, "")
                draft = replace(draft, actor="", kind="", address="")
            window = self._windows.get(kind) or self._open(kind)
        if window.told < single_max:
            window.told += 1
            return True
        window.add(draft)
        return False

    def close(self) -> None:
        """Tell of everything that was counted."""
        windows, self._windows = self._windows, {}
        for window in windows.values():
            self._end(window)

    def _open(self, kind: _Kind) -> _Window:
        window = self._windows[kind] = _Window()
        asyncio.get_running_loop().call_later(self._window_s, self._over, kind, window)
        return window

    def _over(self, kind: _Kind, window: _Window) -> None:
        if self._windows.get(kind) is not window:
            return
        if window.more:
            # It goes on: until a window without any, each tells nothing but a number.
            self._end(window)
            asyncio.get_running_loop().call_later(self._window_s, self._over, kind, window)
        else:
            del self._windows[kind]

    def _end(self, window: _Window) -> None:
        if window.last is not None:
            self._tell(replace(window.last, count=window.more))
        window.more, window.last = 0, None


def _alike(one: Draft, other: Draft) -> Draft:
    """The later of two records, with what they do not have in common left out."""
    differing = {
        name: None
        for name in ("user", "collection", "key", "detail", "purpose")
        if getattr(one, name) != getattr(other, name)
    }
    if one.request_id != other.request_id:
        return replace(other, request_id="", **differing)
    return replace(other, **differing)
