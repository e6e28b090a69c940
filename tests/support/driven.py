"""A Python replica in a process of its own, for tests beside a real server: one JSON object a line in, one out.

`python -m tests.support.driven <file> <url> <user> <token>` takes the lines that the TypeScript one takes
(`clients/js/tests/driven.ts`), but is online from the beginning. An edit is answered when it is on disk.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from roost.client.replica import Edit, Replica
from roost.core.ids import INBOX
from tests.support.node import NodeDevice


class PythonDevice(NodeDevice):
    """A device, on what `file` keeps."""

    def __init__(self, file: Path, url: str, user: str, token: str) -> None:
        command = [sys.executable, "-m", "tests.support.driven", str(file), url, user, token]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = self.heard()["device"]


def carried_out(replica: Replica, line: dict[str, Any]) -> Any:
    """Do what a line says; what is shown, where that was asked."""
    if line["do"] == "put":
        replica.put(line["collection"], line["key"], line["value"])
    elif line["do"] == "delete":
        replica.delete(line["collection"], line["key"])
    elif line["do"] == "edit":
        replica.edit(line["collection"], line["key"], *msgspec.convert(line["edits"], list[Edit]))
    elif line["do"] == "view":
        return {
            name: {view.key: view.value for view in replica.list(name)}
            for name in sorted({collection for collection, _ in replica.core.names()} | {INBOX})
            if replica.list(name)
        }
    return {}


async def main(path: str, url: str, user: str, token: str) -> None:
    loop = asyncio.get_running_loop()
    async with Replica(path, url, user, token) as replica:
        print(json.dumps({"device": replica.device}), flush=True)
        while text := await loop.run_in_executor(None, sys.stdin.readline):
            line = json.loads(text)
            if line["do"] == "synced":
                await replica.synced()
            print(json.dumps(carried_out(replica, line)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
