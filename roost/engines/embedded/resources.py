"""How much memory the embedded PostgreSQL may keep pages in.

It shares a machine with the server and with whatever else runs on a laptop, so it takes a small part: enough that
the cost of a write stays the same when there are a million documents.
"""

from __future__ import annotations

from contextlib import suppress
from os import sysconf
from pathlib import Path

SHARE = 16
"""One part in so many."""
MB_MIN, MB_MAX = 128, 1024
# What a container may use, where that is less than what the machine has (cgroup v2, then v1).
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def shared_buffers() -> str:
    """PostgreSQL's `shared_buffers` for this machine."""
    available = sysconf("SC_PHYS_PAGES") * sysconf("SC_PAGE_SIZE")
    for limit in _LIMITS:
        # It may be absent, or say "max".
        with suppress(OSError, ValueError):
            available = min(available, int(limit.read_text()))
    return f"{max(MB_MIN, min(MB_MAX, available // SHARE >> 20))}MB"
