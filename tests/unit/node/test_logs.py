"""Logs: whoever reads them, on a terminal or from a file, learns where something failed, and nobody's state."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

PROGRAM = """
import structlog
from roost.node import logs

logs.configure("info")

def answer(value):
    raise ZeroDivisionError("what failed")

try:
    answer("swordfish" + "-in-a-variable")
except ZeroDivisionError:
    structlog.get_logger("roost").exception("request failed", request_id="the-id")
"""


@pytest.mark.parametrize("watched", [True, False])
def test_a_traceback_shows_no_values(watched: bool) -> None:
    end, other = pty.openpty() if watched else os.pipe()
    program = [sys.executable, "-c", PROGRAM]
    subprocess.run(program, stderr=other, check=True, timeout=60)
    os.close(other)
    said = b""
    while True:
        try:
            part = os.read(end, 65_536)
        except OSError:  # how a terminal says that nobody is left on its other side
            break
        if not part:
            break
        said += part
    os.close(end)
    assert b"what failed" in said
    assert b"the-id" in said
    assert b"in answer" in said
    assert b"swordfish-in-a-variable" not in said
