"""Make `roost/client/sync.py` from `roost/client/aio.py`: `python tests/unit/client/twin.py`.

Two surfaces kept equal by hand drift apart. This derives one from the other by words, and `test_twin.py` fails
when the file that is checked in is not what comes out.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[3] / "roost" / "client"
MADE = "This file is made from `roost/client/aio.py` (`python tests/unit/client/twin.py`): change that one."
WORDS = [
    (
        r'The client for asyncio(.*?)an `AsyncCarrier`.\n\n.*?\n"""',
        rf'The client without asyncio\1a `SyncCarrier`.\n\n{MADE}\n"""',
    ),
    (r"\bawait ", ""),
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\bAsyncCarrier\b", "SyncCarrier"),
    (r"\bhttpx\.AsyncClient\b", "httpx.Client"),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"(?<![\w.])(Client|Docs|Batch)\b", r"Sync\1"),
    (r"(?<![\w.\"`])User\b(?!\w)", "SyncUser"),
    (r"`(Client|User)\.", r"`Sync\1."),
    (r"`Sync(Sync\w+)", r"`\1"),
]


def translate(source: str) -> str:
    """The text of `sync.py` for the text of `aio.py`."""
    for pattern, replacement in WORDS:
        source = re.sub(pattern, replacement, source, flags=re.DOTALL)
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["check", "--select=I,UP028", "--fix-only", "--unsafe-fixes"], ["format"]):
        source = subprocess.run(
            [ruff, *command, "--stdin-filename", CLIENT / "sync.py", "-"],
            input=source, capture_output=True, text=True, check=True, cwd=CLIENT.parents[1],
        ).stdout  # fmt: skip
    return source


if __name__ == "__main__":
    (CLIENT / "sync.py").write_text(translate((CLIENT / "aio.py").read_text()))
