"""`roost demo` without a browser: what it prints leads to a page and a fresh user's state, and nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from base64 import urlsafe_b64decode
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from roost.cli import demo_page


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_serves_its_page_and_leaves_nothing(tmp_path: Path, stop: signal.Signals) -> None:
    tmp_path.chmod(0o755)
    # A server and a profile of somebody else's are of no concern to it.
    env = os.environ | {"TMPDIR": str(tmp_path), "ROOST_URL": "http://nowhere.invalid", "ROOST_ENGINE": "nonsense://"}
    command = [sys.executable, "-m", "roost", "demo", "--no-open"]
    demo = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    try:
        page = urlsplit(demo.stdout.readline().strip())
        token = page.fragment.removeprefix("token=")
        user = json.loads(urlsafe_b64decode(token.split(".")[1] + "=="))["sub"]
        with httpx.Client(base_url=f"http://{page.netloc}", headers={"authorization": f"Bearer {token}"}) as http:
            assert http.get(page.path).headers["content-type"].startswith("text/html")
            assert len(http.get(f"/v1/users/{user}/docs/wishes").json()["items"]) == 3
            assert http.get("/v1/users/another/docs/wishes").status_code == 403
    finally:
        demo.send_signal(stop)
        output, errors = demo.communicate(timeout=60)
    assert (demo.returncode, output) == (0, ""), errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("env", "appears"),
    [({"DISPLAY": ":0"}, True), ({}, False), ({"DISPLAY": ":10", "SSH_CONNECTION": "elsewhere"}, False)],
)
def test_a_browser_is_opened_only_where_one_appears(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], *, appears: bool
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert demo_page.has_browser() is appears
