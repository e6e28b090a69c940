"""A real OpenID provider (`tests/support/oidc`) on loopback, in a process of its own.

It takes Node and what `npm ci` installs; a test that needs it is skipped where they are missing, and says so.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest
from joserfc.jwk import Key

from tests.support.node import NODE

FOLDER = Path(__file__).parent / "oidc"
AUDIENCE = "https://roost.example/"
CLIENT = "web"
SCOPE = "documents:read"


class Provider:
    """As a context, it is up inside. It signs with the first of its keys; `kill` takes it away, `start` brings it back.

    Its client `web` is an application in browsers, at `redirect_uri`; `billing` is a service, and so is `fleeting`,
    whose tokens last a second.
    """

    def __init__(self, redirect_uri: str, *keys: Key) -> None:
        if NODE is None or not (FOLDER / "node_modules").is_dir():
            pytest.skip(f"no Node here, or {FOLDER.name} is not set up (make oidc)")
        self._redirect_uri = redirect_uri
        self._keys = keys
        self._process: subprocess.Popen[str] | None = None
        self.url = "http://127.0.0.1:0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, at the address that it had before, and wait until it serves."""
        assert NODE is not None
        port = self.url.rpartition(":")[2]
        self._process = subprocess.Popen(
            [NODE, FOLDER / "provider.js", port, self._redirect_uri, AUDIENCE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.rotate(*self._keys)

    def rotate(self, *keys: Key) -> None:
        """Have these keys from now on."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._keys = keys
        self._process.stdin.write(json.dumps({"keys": [key.as_dict(private=True) for key in keys]}) + "\n")
        self._process.stdin.flush()
        self.url = json.loads(self._process.stdout.readline())["issuer"]

    def kill(self) -> None:
        """Take it away, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def token(self, client: str = "billing", audience: str = AUDIENCE) -> str:
        """An access token for a service, by client credentials."""
        form = {"grant_type": "client_credentials", "scope": SCOPE, "resource": audience}
        answer = httpx.post(f"{self.url}/token", data=form, auth=(client, f"secret%20of%20{client}"))
        answer.raise_for_status()
        token: Any = answer.json()["access_token"]
        assert isinstance(token, str)
        return token
