"""The guides are true: their snippets run, in their order, against a real server."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import Server

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that nobody has used, so that what is printed is all there is."""
    with Server(tmp_path_factory.mktemp("guides") / "data", engine="memory:") as server:
        yield server


def snippets(guide: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (GUIDES / guide).read_text(), re.MULTILINE | re.DOTALL)


def test_the_python_client(fresh: Server, tmp_path: Path) -> None:
    names = {"url": fresh.url, "token": fresh.admin(), "folder": tmp_path}
    found = snippets("python-client.md", "python")
    assert len(found) > 8
    for snippet in found:
        made = compile(snippet, "python-client.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(made, names)
        if running is not None:
            asyncio.run(running)


def test_the_command_line(tmp_path: Path) -> None:
    with Server(tmp_path / "data", engine="memory:") as server:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**server.environment(), "PATH": path, "ROOST_URL": server.url, "ROOST_TOKEN": server.admin()}
        env["XDG_CONFIG_HOME"] = str(tmp_path)
        found = snippets("cli.md", "console")
        assert len(found) == 4
        for snippet in found:
            for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", snippet, re.MULTILINE):
                ran = subprocess.run(
                    ["bash", "-c", f"{command} 2>&1"],
                    env=env,
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                # In the guide, `…` stands for what is different each time.
                pattern = ".*".join(map(re.escape, expected.split("…")))
                assert re.fullmatch(pattern, ran.stdout), (
                    f"$ {command}\n{ran.stdout}\n-- but the guide says:\n{expected}"
                )
