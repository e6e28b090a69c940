"""What processes cost: memory now, and processor time so far, from /proc (all zeros where there is none)."""

from __future__ import annotations

import contextlib
import os
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    """Of one process, in MB. `pss` counts a page shared by n processes as 1/n."""

    rss: float
    pss: float


def descendants(pid: int) -> list[int]:
    """Every process under `pid`."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(_fields(stat)[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for each in found:
        found.extend(children.get(each, []))
    return found


def command_of(pid: int) -> str:
    """The command line of a process; empty if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def memory_of(pid: int) -> Memory:
    """What a process holds now."""
    sizes = {"Rss": 0.0, "Pss": 0.0}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in sizes:
                sizes[name] = int(rest.split()[0]) / 1024
    return Memory(sizes["Rss"], sizes["Pss"])


def cpu_s(pids: list[int]) -> float:
    """Processor time of processes, and of those under them that have ended, in seconds."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            ticks += sum(int(each) for each in _fields(Path(f"/proc/{pid}/stat"))[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def peers_of(pid: int) -> set[tuple[str, int]]:
    """The other ends of a process's connections over IPv4."""
    sockets = set()
    for file in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            sockets.add(str(file.readlink()))
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {_address(row[2]) for row in rows if f"socket:[{row[9]}]" in sockets}


def _address(text: str) -> tuple[str, int]:
    """From `0100007F:1F90`, the address in the machine's own order of bytes."""
    host, port = text.split(":")
    return str(ip_address(int(host, 16).to_bytes(4, sys.byteorder))), int(port, 16)


def _fields(stat: Path) -> list[str]:
    """The fields after the name, which may hold anything; state and parent come first."""
    return stat.read_text().rsplit(")", 1)[1].split()
