"""`roost` commands as a person runs them: processes with a home of their own, against a server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.server import Server

Ran = subprocess.CompletedProcess[str]


class Shell:
    """Runs `roost` commands with a home of their own; `env` holds no server and no token unless given."""

    def __init__(self, server: Server, home: Path) -> None:
        self.server = server
        self.home = home
        self.env = {**server.environment(), "XDG_CONFIG_HOME": str(home), "COLUMNS": "100"}
        self.known = {"ROOST_URL": server.url, "ROOST_TOKEN": server.admin()}

    def run(self, *arguments: str, stdin: str = "", known: bool = True, **env: str) -> Ran:
        return subprocess.run(
            self.server.command(*arguments),
            input=stdin,
            env=self.env | (self.known if known else {}) | env,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, *arguments: str, known: bool = True) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.server.command(*arguments),
            env=self.env | (self.known if known else {}),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def json(self, *arguments: str, stdin: str = "") -> Any:
        """What a command that must succeed prints: one JSON value."""
        ran = self.run(*arguments, stdin=stdin)
        assert (ran.returncode, ran.stderr) == (0, "")
        return json.loads(ran.stdout)

    def lines(self, *arguments: str) -> list[Any]:
        """What a command that must succeed prints: a JSON value a line."""
        ran = self.run(*arguments)
        assert (ran.returncode, ran.stderr) == (0, "")
        return [json.loads(line) for line in ran.stdout.splitlines()]


def failed(ran: Ran, said: str, code: int = 1) -> None:
    """A failure is one line, on standard error, that says what to do."""
    assert (ran.returncode, ran.stdout) == (code, "")
    assert ran.stderr.startswith("roost: ")
    assert ran.stderr.count("\n") == 1
    assert said in ran.stderr
